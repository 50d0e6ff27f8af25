"""What tests/backup.py does to the store behind kvctl's back, by Amazon's own client.

    store.py URL BUCKET prepare|list|flip|cut|put KEY SECRET [WORDS…]
"""

import json
import sys

import boto3

url, bucket, command, key, secret, *words = sys.argv[1:]


def client(service):
    return boto3.client(service, endpoint_url=url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret)


def prepare():
    """Four requests: a user with rights and a key, and the bucket."""
    rights = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam = client("iam")
    iam.create_user(UserName="backup")
    iam.put_user_policy(UserName="backup", PolicyName="backup", PolicyDocument=json.dumps(rights))
    made = iam.create_access_key(UserName="backup")["AccessKey"]
    client("s3").create_bucket(Bucket=bucket)
    print(json.dumps([made["AccessKeyId"], made["SecretAccessKey"]]))


def change(name, how):
    store = client("s3")
    data = bytearray(store.get_object(Bucket=bucket, Key=name)["Body"].read())
    store.put_object(Bucket=bucket, Key=name, Body=bytes(how(data)))


def flip(name, position):
    """Another bit of one byte; done twice, it is as before."""

    def flipped(data):
        data[int(position)] ^= 1
        return data

    change(name, flipped)


match command:
    case "prepare":
        prepare()
    case "list":
        found = client("s3").list_objects_v2(Bucket=bucket).get("Contents", [])
        print(json.dumps({one["Key"]: one["Size"] for one in found}))
    case "flip":
        flip(*words)
    case "cut":
        change(words[0], lambda data: data[:-10])
    case "put":
        client("s3").put_object(Bucket=bucket, Key=words[0], Body=words[1].encode())
