"""redis-py against a cluster. See ../README.md for what the surroundings do for this program."""

import json
import os
import sys
import threading
import urllib.error
import urllib.request

# snippet: connect
import time

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry


def connect(address):
    """A client of one node. It never sends a command twice by itself: INCR could apply twice."""
    host, port = address.rsplit(":", 1)
    once = Retry(NoBackoff(), 0)
    return redis.Redis(host, int(port), decode_responses=True, socket_timeout=15, retry=once)


def find_leader(addresses, patience_s=30):
    """A client of the node that leads. The other leader processes answer READONLY or LOADING."""
    deadline = time.monotonic() + patience_s
    while True:
        for address in addresses:
            client = connect(address)
            try:
                client.exists("any key")
                return client
            except redis.RedisError:
                client.close()
                if time.monotonic() > deadline:
                    raise
        time.sleep(0.1)
# end


# snippet: use
def use(client):
    client.set("color", "blue")
    assert client.get("color") == "blue"
    assert client.get("no such key") is None
    assert client.incrby("visits", 2) == 2
    assert client.set("color", "red", nx=True) is None  # refused: it has a value
    assert client.set("color", "green", ifeq="blue") is True
    assert client.mget("color", "visits") == ["green", "2"]
    assert client.delete("color", "visits") == 2

    pipeline = client.pipeline(transaction=False)
    for number in range(100):
        pipeline.set(f"p{number}", number)
    assert pipeline.execute() == [True] * 100
# end


# snippet: errors
class Unknown(Exception):
    """The write was applied, or will be, or never."""


class Leader:
    """Runs commands at the node that leads."""

    def __init__(self, addresses):
        self.addresses, self.client = addresses, find_leader(addresses)

    def run(self, command, repeatable=False):
        """Repeats the command where nothing was applied. Where that is not known, only if it is
        repeatable: it reads, or applying it twice does no harm."""
        while True:
            try:
                return command(self.client)
            except (redis.exceptions.BusyLoadingError, redis.exceptions.ReadOnlyError):
                pass  # LOADING, READONLY: nothing was applied
            except redis.RedisError as error:
                lost = isinstance(error, (redis.ConnectionError, redis.TimeoutError))
                if not lost and not str(error).startswith("INDETERMINATE"):
                    raise
                if not repeatable:
                    raise Unknown from error
            self.client.close()
            self.client = find_leader(self.addresses)
# end


# snippet: http
def incr_once(urls, key, token):
    """Adds 1 exactly once, however often it is sent: the nodes know the token."""
    body = json.dumps({"key": key, "by": 1}).encode()
    headers = {"Content-Type": "application/json", "Idempotency-Key": token}
    while True:
        for url in urls:
            try:
                with urllib.request.urlopen(urllib.request.Request(f"{url}/incr", body, headers), timeout=15) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # 307: a standby. 500: unknown. 503: not applied.
                if error.code not in (307, 500, 503):
                    raise
            except OSError:
                pass  # the node is gone
        time.sleep(0.1)
# end


def ask(wish):
    """Waits until the surroundings have done something to the cluster."""
    print(f"do: {wish}", flush=True)
    sys.stdin.readline()


def calls_work(leader, follower):
    use(leader.client)
    host, port = leader.addresses[0].split(":")
    raw = redis.Redis(host, int(port), protocol=2)
    raw.set("bytes", b"\x00\xff\r\n")
    assert raw.get("bytes") == b"\x00\xff\r\n"
    assert sorted(leader.client.scan_iter("p*")) == sorted(f"p{number}" for number in range(100))
    assert leader.client.wait(3, 10_000) == 3
    try:
        leader.client.expire("p1", 5)
        raise AssertionError("there is no expiry")
    except redis.ResponseError as error:
        assert "expiry" in str(error), error
    replica = connect(follower)
    assert replica.get("p1") == "1"
    try:
        replica.set("p1", "2")
        raise AssertionError("a follower does not write")
    except redis.exceptions.ReadOnlyError:
        pass


def lost_quorum(leader):
    """First the outcome of a write is unknown. Once the leader has missed its followers, it accepts none."""
    leader.client.set("n", 0)
    ask("stop followers")
    try:
        leader.run(lambda client: client.incr("n"))
        raise AssertionError("no quorum")
    except Unknown:
        pass
    while True:
        try:
            leader.client.set("k", "v")
            raise AssertionError("no quorum")
        except redis.exceptions.BusyLoadingError:
            break
        except redis.ResponseError as error:
            assert str(error).startswith("INDETERMINATE"), error
    ask("continue followers")
    assert leader.run(lambda client: client.get("n"), repeatable=True) in ("0", "1")


def survives(leader, prefix, *wishes):
    """Writes while the wishes are granted, and 50 times more. Every acknowledged value stays."""
    granting = threading.Thread(target=lambda: [ask(wish) for wish in wishes])
    granting.start()
    keys, more = [], 50
    while more > 0:
        more -= not granting.is_alive()
        key = f"{prefix}{len(keys)}"
        leader.run(lambda client: client.set(key, key), repeatable=True)
        keys.append(key)
    assert leader.run(lambda client: client.mget(keys), repeatable=True) == keys


def main():
    addresses, follower = os.environ["REDIS"].split(","), os.environ["REDIS_FOLLOWER"]
    urls = os.environ["HTTP"].split(",")
    leader = Leader(addresses)
    calls_work(leader, follower)
    lost_quorum(leader)
    assert incr_once(urls, "once", "token 1")["value"] == "1"
    survives(leader, "killed", "kill leader")
    incr_once(urls, "once", "token 1")
    assert incr_once(urls, "once", "token 2")["value"] == "2"
    survives(leader, "back", "start other", "kill leader")
    survives(leader, "restarted", "restart leader")


main()
