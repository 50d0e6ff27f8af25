#!/usr/bin/env python3
"""The recipes of docs/recipes.md, which are the marked parts of this file, against a local cluster that loses its leaders.

    tests/recipes.py

Needs nothing but Python. KV_NODE names the program (target/debug/kv-node). Ports are free ones. Exit code 1: one failed.
"""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

# snippet: store
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import namedtuple

Answer = namedtuple("Answer", "status value seq etag")


class Store:
    """Reads and writes by HTTP, at whichever node leads. Each write has a token of its own, so that it is
    applied once, however often it is sent."""

    def __init__(self, urls, patience_s=30):
        self.urls, self.patience_s = urls, patience_s

    def get(self, key):
        return self._ask("/get?" + urllib.parse.urlencode({"key": key}))

    def put(self, key, value, **condition):
        """The condition is if_match=ETAG or if_absent=True; the status is 412 where it does not hold."""
        return self._ask("/put", {"key": key, "value": value, **condition})

    def delete(self, key, **condition):
        return self._ask("/delete", {"key": key, **condition})

    def incr(self, key, by=1):
        return self._ask("/incr", {"key": key, "by": by})

    def _ask(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json", "Idempotency-Key": uuid.uuid4().hex}
        deadline = time.monotonic() + self.patience_s
        while True:
            for url in self.urls:
                try:
                    with urllib.request.urlopen(urllib.request.Request(url + path, data, headers), timeout=15) as answer:
                        return self._read(answer)
                except urllib.error.HTTPError as error:
                    with error:
                        if error.code in (404, 412):
                            return self._read(error)
                        # 307: a standby. 500: unknown. 503: not applied. With its token, sent again.
                        if error.code not in (307, 500, 503):
                            raise
                except OSError:
                    pass  # The node is gone, or answers late.
            if time.monotonic() > deadline:
                raise TimeoutError(f"{path}: no node leads; it is not known whether the last attempt was applied")
            time.sleep(0.05)

    @staticmethod
    def _read(answer):
        found = json.load(answer)
        return Answer(answer.status, found.get("value"), found.get("seq"), answer.headers["ETag"])
# end


# snippet: lock
class Lost(Exception):
    """Another process has the lock."""


class Lock:
    """A lock that others take over once its holder has not renewed it for `lease_s`. Holders are ordered by
    `fence`, which grows from one to the next."""

    def __init__(self, store, name, owner, lease_s):
        self.store, self.name, self.owner, self.lease_s = store, name, owner, lease_s

    def acquire(self):
        """Waits until this process has the lock. Returns the fencing number."""
        seen, since = None, 0
        while True:
            found = self.store.get(self.name)
            if found.status == 404:
                taken = self.store.put(self.name, self.owner, if_absent=True)
            elif found.etag != seen:
                # The holder has renewed it. This process measures the lease by its own clock.
                seen, since = found.etag, time.monotonic()
                continue
            elif time.monotonic() - since > self.lease_s:
                taken = self.store.put(self.name, self.owner, if_match=seen)
            else:
                time.sleep(self.lease_s / 10)
                continue
            if taken.status == 200:
                self.etag, self.fence = taken.etag, taken.seq
                return self.fence

    def renew(self):
        """Several times in each lease."""
        renewed = self.store.put(self.name, self.owner, if_match=self.etag)
        if renewed.status != 200:
            raise Lost(self.name)
        self.etag = renewed.etag

    def release(self):
        """Deletes the lock unless another process has it."""
        self.store.delete(self.name, if_match=self.etag)
# end


# snippet: fence
class Stale(Exception):
    """A holder of the lock writes that another one has followed."""


def fenced_put(store, key, value, fence):
    """Writes a value together with the fencing number of its writer. A lower number never replaces a higher."""
    while True:
        found = store.get(key)
        if found.value is None:
            condition = {"if_absent": True}
        elif json.loads(found.value)["fence"] > fence:
            raise Stale(f"{fence} is below {json.loads(found.value)['fence']}")
        else:
            condition = {"if_match": found.etag}
        if store.put(key, json.dumps({"fence": fence, "value": value}), **condition).status == 200:
            return
# end


# snippet: counter
class Counter:
    """Counts exactly, also through the loss of a leader. Each process adds to a key of its own: a key
    remembers 16 tokens, and another process's increments would push this one's out."""

    def __init__(self, store, name, process):
        self.store, self.key = store, f"{name}/{process}"

    def add(self, by=1):
        self.store.incr(self.key, by)


def total(store, name, processes):
    return sum(int(store.get(f"{name}/{process}").value or 0) for process in processes)
# end


# snippet: change
def change(store, key, edit):
    """Replaces the JSON value of a key by what `edit` makes of it. No other process's change is lost: if there
    was one, `edit` is applied to that."""
    found = store.get(key)
    while True:
        new = json.dumps(edit(json.loads(found.value or "{}")))
        condition = {"if_absent": True} if found.value is None else {"if_match": found.etag}
        found = store.put(key, new, **condition)
        if found.status == 200:
            return
# end


# snippet: sweep
def sweep(store, keys, now):
    """Deletes the values whose time is over. One that was written meanwhile stays."""
    for key in keys:
        found = store.get(key)
        if found.value is not None and json.loads(found.value)["until"] <= now:
            store.delete(key, if_match=found.etag)
# end


def hold(urls, name):
    """A holder of the lock that writes until it is refused. A second thread renews the lock as long as it can."""
    store = Store(urls)
    lock = Lock(store, name, "holder", 1)
    print(lock.acquire(), flush=True)

    def renew():
        try:
            while True:
                lock.renew()
                time.sleep(0.1)
        except Lost:
            pass

    threading.Thread(target=renew, daemon=True).start()
    try:
        while True:
            fenced_put(store, f"{name}-data", "of the holder", lock.fence)
    except Stale:
        print("stale", flush=True)


def a_paused_holder_is_refused(cluster, urls):
    """The holder is paused for longer than its lease, another process takes over and writes, and the holder continues
    with the write that it was about to do."""
    store = Store(urls)
    with subprocess.Popen([sys.executable, __file__, "hold", ",".join(urls), "lock"], stdout=subprocess.PIPE, text=True) as holder:
        watchdog = threading.Timer(30, holder.kill)
        watchdog.start()
        try:
            first = int(holder.stdout.readline())
            lock = Lock(store, "lock", "another", 1)
            while store.get("lock-data").status == 404:
                time.sleep(0.01)
            os.kill(holder.pid, signal.SIGSTOP)
            second = lock.acquire()
            assert second > first, (first, second)
            fenced_put(store, "lock-data", "of the other", second)
            os.kill(holder.pid, signal.SIGCONT)
            assert holder.stdout.readline() == "stale\n"
            assert json.loads(store.get("lock-data").value) == {"fence": second, "value": "of the other"}
        finally:
            watchdog.cancel()
            holder.kill()
    lock.renew()
    lock.release()
    assert store.get("lock").status == 404
    third = Lock(store, "lock", "a third", 1).acquire()
    assert third > second, "the number goes on after a deletion"


def together(cluster, jobs, faults):
    """Runs the jobs in threads of their own while leaders are lost."""
    failed = []

    def guarded(job):
        try:
            job()
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for fault in faults:
        fault()
    for thread in threads:
        thread.join()
    assert not failed, failed


def only_one_has_the_lock(cluster, urls):
    """Four processes take the lock in turn while leaders are lost: their numbers grow in the order in which they hold it, and
    no two hold it together."""
    fences, inside = [], threading.Lock()

    def work(number):
        for _ in range(5):
            lock = Lock(Store(urls), "turns", f"process {number}", 30)
            fence = lock.acquire()
            assert inside.acquire(blocking=False), "two hold it"
            fences.append(fence)
            inside.release()
            lock.release()

    together(cluster, [lambda number=number: work(number) for number in range(4)], [cluster.kill_leader, cluster.start_other])
    assert len(fences) == 20 and fences == sorted(set(fences)), fences


def a_counter_is_exact(cluster, urls):
    names = [f"process {number}" for number in range(4)]
    store, enough = Store(urls), threading.Event()
    counts = dict.fromkeys(names, 0)

    def work(name):
        counter = Counter(Store(urls), "visits", name)
        while not enough.is_set():
            counter.add()
            counts[name] += 1

    def counted_more():
        before = sum(counts.values())
        while sum(counts.values()) < before + 100:
            time.sleep(0.01)

    faults = [counted_more, cluster.kill_leader, counted_more, cluster.start_other, cluster.kill_leader, counted_more, enough.set]
    together(cluster, [lambda name=name: work(name) for name in names], faults)
    assert total(store, "visits", names) == sum(counts.values()) >= 300
    cluster.start_other()


def no_change_is_lost(cluster, urls):
    def work(number):
        for step in range(10):
            change(Store(urls), "settings", lambda found: {**found, f"{number}.{step}": number * step})

    together(cluster, [lambda number=number: work(number) for number in range(4)], [cluster.kill_leader])
    found = json.loads(Store(urls).get("settings").value)
    assert found == {f"{number}.{step}": number * step for number in range(4) for step in range(10)}, found
    cluster.start_other()


def a_renewed_session_stays(cluster, urls):
    class Late(Store):
        """Others write between its read and its deletion."""

        def delete(self, key, **condition):
            Store(urls).put("session 1", json.dumps({"user": "a", "until": 300}))
            return super().delete(key, **condition)

    store = Store(urls)
    for number in (1, 2, 3):
        store.put(f"session {number}", json.dumps({"user": "a", "until": 100 * number}))
    sweep(Late(urls), ["session 1", "session 3", "none"], 250)
    kept = store.get("session 1")
    assert kept.status == 200 and json.loads(kept.value)["until"] == 300, kept
    sweep(store, ["session 1", "session 2", "session 3"], 250)
    assert [store.get(f"session {number}").status for number in (1, 2, 3)] == [200, 404, 200]


def main():
    sys.path.insert(0, str(Path(__file__).resolve().parent / "clients"))
    from cluster import ROOT, Cluster

    recipes = [a_paused_holder_is_refused, only_one_has_the_lock, a_counter_is_exact, no_change_is_lost, a_renewed_session_stays]
    node = ROOT / os.environ.get("KV_NODE", "target/debug/kv-node")
    with Cluster(node) as cluster:
        urls = [f"http://{leader.http}" for leader in cluster.leaders]
        for recipe in recipes:
            start = time.monotonic()
            recipe(cluster, urls)
            print(f"ok       {recipe.__name__}: {time.monotonic() - start:.1f} s", flush=True)
    print(f"recipes: {len(recipes)} passed, 0 failed")


if __name__ == "__main__":
    if sys.argv[1:2] == ["hold"]:
        hold(sys.argv[2].split(","), sys.argv[3])
    else:
        main()
