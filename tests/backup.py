#!/usr/bin/env python3
"""kvctl against a server that speaks S3: moto, which checks signatures and rights as Amazon's does.

    tests/backup.py

KV_NODE and KVCTL name the programs (target/debug/kv-node, target/debug/kvctl). Exit code 1: a backup that should count does
not, or one that should not does.

Between kvctl and the server is a proxy that cuts connections where a test says so.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "clients"))
from cluster import ROOT, Cluster, eventually, free_ports  # noqa: E402
from packages import virtual_environment  # noqa: E402

SOURCES, BUILT = ROOT / "tests/s3", ROOT / "target/s3"
NODE = ROOT / os.environ.get("KV_NODE", "target/debug/kv-node")
KVCTL = ROOT / os.environ.get("KVCTL", "target/debug/kvctl")
BUCKET = "kvcluster-backups"
# So that a backup is more than one part, and more than the buffers between the processes.
VALUE, KEYS = "x" * 20_000, 4_000


class Proxy:
    """Passes bytes on. It ends every connection after `cut_after` bytes towards the server, and changes the byte at `flip_at`
    of those that come from the server, where these are set."""

    def __init__(self, port):
        self.to, self.cut_after, self.sent, self.flip_at = port, None, 0, None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            near, _ = self.listener.accept()
            try:
                far = socket.create_connection(("127.0.0.1", self.to))
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.copy, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self.copy, args=(far, near, False), daemon=True).start()

    def copy(self, source, sink, towards_server):
        try:
            while data := source.recv(65536):
                if not towards_server and self.flip_at is not None:
                    if self.flip_at < len(data):
                        data = bytearray(data)
                        data[self.flip_at] ^= 1
                        self.flip_at = None
                    else:
                        self.flip_at -= len(data)
                if towards_server:
                    self.sent += len(data)
                    if self.cut_after is not None and self.sent > self.cut_after:
                        break
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self, after):
        self.cut_after, self.sent = after, 0


class Store:
    """moto with a bucket and a user who may use it."""

    def __init__(self, programs):
        self.programs, self.port = programs, free_ports(1)[0]
        # The requests of `prepare` need no rights; all others do.
        environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "4"}
        command = [programs / "moto_server", "-H", "127.0.0.1", "-p", str(self.port)]
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually("the store answers", self.answers)
        self.key, self.secret = json.loads(self.run("prepare", "root", "root"))
        self.proxy = Proxy(self.port)

    def answers(self):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/moto-api/", timeout=5):
                return True
        except OSError:
            return False

    def run(self, *words):
        """What a script of Amazon's own client prints."""
        command = [self.programs / "python", SOURCES / "store.py", f"http://127.0.0.1:{self.port}", BUCKET, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def client(self, *words):
        return self.run(words[0], self.key, self.secret, *words[1:])

    def objects(self):
        return json.loads(self.client("list"))

    def variables(self, **other):
        return {
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.port}",
            **other,
        }


def kvctl(variables, *words, fails=None):
    """Runs it; its output. With `fails` it has to fail with these words."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "AUTH_TOKEN"))}
    done = subprocess.run([KVCTL, *map(str, words)], env={**kept, **variables}, capture_output=True, text=True)
    if fails is None:
        assert done.returncode == 0, f"kvctl {words}: {done.stderr}"
        return done.stdout
    assert done.returncode == 1 and fails in done.stderr, f"kvctl {words}: expected '{fails}': {done.returncode} {done.stderr}"
    return done.stderr


def dump(node):
    with urllib.request.urlopen(f"http://{node.http}/dump", timeout=60) as answer:
        return json.load(answer)["entries"]


def named(cluster, name):
    for node in cluster.leaders:
        node.settings["CLUSTER_NAME"] = name
    return cluster


class Checks:
    def __init__(self, store, cluster, other):
        self.store, self.cluster, self.other = store, cluster, other
        self.place = f"s3://{BUCKET}/clusters/all"
        self.leader = f"http://{cluster.leader().http}"

    def save(self, *more, fails=None, variables=None):
        words = ["backup", "--leader", self.leader, "--to", self.place, *more]
        return kvctl(variables or self.store.variables(), *words, fails=fails)

    def listed(self, *more):
        lines = kvctl(self.store.variables(), "list", "--from", self.place, *more).splitlines()[1:]
        return [line.split() for line in lines]

    def restore(self, *more, fails=None):
        words = ["restore", "--leader", f"http://{self.other.leader().http}", "--from", self.place, *more]
        return kvctl(self.store.variables(), *words, fails=fails)

    def a_backup_comes_back(self):
        with tempfile.NamedTemporaryFile() as report:
            said = self.save("--report", report.name)
            record = json.loads(Path(report.name).read_text())
        assert record["cluster"] == "shop/demo" and record["keys"] == KEYS and record["name"] in said, (record, said)
        assert [row[:2] for row in self.listed()] == [[record["name"], "shop/demo"]]
        sizes = {Path(name).name: size for name, size in self.store.objects().items()}
        assert sizes[f"{record['name']}.jsonl"] == record["bytes"], (sizes, record)
        assert f" is whole: {KEYS} keys of shop/demo" in kvctl(self.store.variables(), "verify", "--from", self.place)
        return record

    def nothing_of_it_counts(self, before):
        assert self.listed() == before, self.listed()
        uploads = [name for name in self.store.objects() if name.endswith(".jsonl")]
        assert len(uploads) == len(before), uploads

    def a_backup_that_is_cut_off_does_not_count(self):
        before = self.listed()
        self.store.proxy.cut(after=9_000_000)
        self.save("--keep", "1", fails="failed to write shop.demo-")
        self.store.proxy.cut(after=None)
        self.nothing_of_it_counts(before)
        # The program itself is killed in the middle.
        words = [KVCTL, "backup", "--leader", self.leader, "--to", self.place, "--keep", "1"]
        self.store.proxy.cut(after=None)
        process = subprocess.Popen(words, env={**os.environ, **self.store.variables()})
        eventually("the upload has begun", lambda: self.store.proxy.sent > 9_000_000)
        process.kill()
        process.wait()
        self.nothing_of_it_counts(before)
        # And the leader, whose backup breaks off.
        self.store.proxy.cut(after=None)
        process = subprocess.Popen(words, env={**os.environ, **self.store.variables()}, stderr=subprocess.PIPE, text=True)
        eventually("the upload has begun", lambda: self.store.proxy.sent > 9_000_000)
        self.cluster.kill_leader()
        error = process.communicate()[1]
        if process.returncode == 0:
            raise AssertionError("the leader was killed after it had sent everything: KEYS is too small")
        assert "the backup broke off" in error, error
        self.leader = f"http://{self.cluster.leader().http}"
        self.nothing_of_it_counts(before)

    def a_backup_that_comes_back_differently_does_not_count(self):
        before = self.listed()
        self.store.proxy.flip_at = 10_000_000
        self.save("--keep", "1", fails="failed to verify the backup")
        assert self.store.proxy.flip_at is None
        self.nothing_of_it_counts(before)

    def what_is_wrong_is_said(self):
        variables = self.store.variables
        self.save(fails="SignatureDoesNotMatch", variables=variables(AWS_SECRET_ACCESS_KEY="wrong"))
        self.save(fails="InvalidAccessKeyId", variables=variables(AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE"))
        place, self.place = self.place, "s3://a-bucket-that-is-gone/x"
        self.save(fails="NoSuchBucket")
        kvctl(variables(), "list", "--from", self.place, fails="NoSuchBucket")
        self.restore(fails="NoSuchBucket")
        self.place = place
        gone = free_ports(1)[0]
        self.save(fails="onnect", variables=variables(AWS_ENDPOINT_URL=f"http://127.0.0.1:{gone}"))

    def a_backup_that_was_changed_is_refused(self, record):
        data = f"clusters/all/{record['name']}.jsonl"
        self.store.client("flip", data, "123456")
        error = self.restore(fails="was changed after it was made")
        kvctl(self.store.variables(), "verify", "--from", self.place, fails="was changed after it was made")
        assert "keys are restored" not in error, error
        self.store.client("flip", data, "123456")
        self.store.client("cut", data)
        self.restore(fails="has no verified backup")
        self.nothing_was_restored()

    def nothing_was_restored(self):
        status = self.other.leader().status()
        assert status["keys"] == 0 and status["restore"] is None, status

    def others_are_refused(self):
        self.restore("--cluster", "shop/other", fails="has no backup of shop/other, only of shop/demo")
        name = self.listed()[0][0]
        self.restore("--cluster", "shop/other", "--backup", name, fails="it is a backup of the cluster shop/demo, not of shop/other")
        self.store.client("put", f"clusters/all/{name}.jsonl", '{"kvcluster_backup":7,"epoch":"1","keys":0}\n')
        self.restore("--backup", name, fails=f"has no verified backup {name}")
        self.nothing_was_restored()

    def only_so_many_are_kept(self):
        for _ in range(3):
            self.save()
        said = self.save("--keep", "2")
        assert said.count("removed ") == 2, said
        # Beside the two, what is left of the one that lost its end.
        assert len(self.listed()) == 2 and len(self.store.objects()) == 6, self.store.objects()

    def it_comes_back(self):
        said = self.restore("--cluster", "shop/demo")
        assert said.startswith(f"{KEYS} keys of "), said
        mine, theirs = (dump(cluster.leader()) for cluster in (self.cluster, self.other))
        assert mine == theirs and len(mine) == KEYS


def main():
    store = Store(virtual_environment(BUILT, SOURCES / "requirements.txt", "moto_server"))
    try:
        with named(Cluster(NODE), "shop/demo") as cluster, named(Cluster(NODE), "shop/new") as other:
            leader = cluster.leader()
            for part in range(0, KEYS, 40):
                puts = [{"put": {"key": f"key {n}", "value": f"{n} {VALUE}"}} for n in range(part, part + 40)]
                body = "".join(json.dumps(put) + "\n" for put in puts).encode()
                with urllib.request.urlopen(f"http://{leader.http}/batch", data=body, timeout=60) as answer:
                    answer.read()
            checks = Checks(store, cluster, other)
            print("--- a backup is stored, verified and listed", flush=True)
            record = checks.a_backup_comes_back()
            print("--- one that is cut off does not count", flush=True)
            checks.a_backup_that_is_cut_off_does_not_count()
            print("--- one that comes back differently does not count", flush=True)
            checks.a_backup_that_comes_back_differently_does_not_count()
            print("--- a bucket that is gone, a store that is gone, wrong credentials", flush=True)
            checks.what_is_wrong_is_said()
            print("--- a changed byte, a lost end", flush=True)
            checks.a_backup_that_was_changed_is_refused(record)
            print("--- so many are kept", flush=True)
            checks.only_so_many_are_kept()
            print("--- another cluster, another format", flush=True)
            checks.others_are_refused()
            print("--- it comes back, key by key", flush=True)
            checks.it_comes_back()
    finally:
        store.process.kill()


if __name__ == "__main__":
    main()
