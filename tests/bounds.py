#!/usr/bin/env python3
"""What a leader uses when its followers do not answer and when clients do nothing, with real processes.

  1. Three of five followers stop (SIGSTOP), W = 3. 256 clients write values of 1 MiB, and then 256
     clients read. The peak of the leader's resident memory is reported for each.
  2. The followers continue. 5,000 connections send nothing. The leader's descriptors and threads and
     the time of a write beside them are reported.

  tests/bounds.py [SECONDS]     of each load of 1 (default 15)

KV_NODE names the program (target/release/kv-node). Exit code 1: the leader used more than
MEMORY_MAX_MIB (1024), a write failed beside the idle connections, or the cluster did not serve again.
"""

import asyncio
import collections
import json
import os
import pathlib
import resource
import signal
import sys
import time

ADDRESS = ("127.0.0.1", 8000)
CLIENTS, VALUE_BYTES, IDLE = 256, 1 << 20, 5000
ROOT = pathlib.Path(__file__).resolve().parent.parent


def put(value):
    body = json.dumps({"key": "bounds", "value": value})
    return f"POST /put HTTP/1.1\r\nhost: leader\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


GET = b"GET /get?key=bounds HTTP/1.1\r\nhost: leader\r\n\r\n"


async def answer(reader):
    """Reads one answer and returns its status."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
    length = int(head.split("content-length:")[1].split("\r\n")[0])
    await reader.readexactly(length)
    return int(head.split()[1])


async def ask(request):
    """Sends one request on a connection of its own."""
    reader, writer = await asyncio.open_connection(*ADDRESS)
    try:
        writer.write(request)
        return await asyncio.wait_for(answer(reader), 20)
    finally:
        writer.close()


async def client(request, until, counts):
    """Sends the request again and again, on a new connection where the leader closed the last one, and waits
    for 0.1 s after a refusal."""
    while time.monotonic() < until:
        try:
            reader, writer = await asyncio.open_connection(*ADDRESS)
            while time.monotonic() < until:
                writer.write(request)
                status = await answer(reader)
                counts[status] += 1
                if status == 503:
                    await asyncio.sleep(0.1)
        except (ConnectionError, asyncio.IncompleteReadError):
            counts["closed"] += 1


async def load(request, seconds):
    counts = collections.Counter()
    until = time.monotonic() + seconds
    await asyncio.gather(*(client(request, until, counts) for _ in range(CLIENTS)))
    return ", ".join(f"{count} × {status}" for status, count in sorted(counts.items(), key=str))


class Process:
    """What /proc says about the leader."""

    def __init__(self, pid):
        self.directory = pathlib.Path("/proc") / pid

    def memory_mib(self, field):
        for line in (self.directory / "status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) // 1024
        raise KeyError(field)

    def reset_peak(self):
        (self.directory / "clear_refs").write_text("5")

    def descriptors(self):
        return len(list((self.directory / "fd").iterdir()))

    def threads(self):
        return len(list((self.directory / "task").iterdir()))


async def until_it_writes():
    deadline = time.monotonic() + 60
    while await ask(put("v")) != 200:
        if time.monotonic() > deadline:
            sys.exit("bounds: the cluster does not write again within 60 s")
        await asyncio.sleep(0.1)


async def measure(seconds):
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    leader = Process(os.environ["LEADER_PID"])
    stopped = [int(pid) for pid in os.environ["FOLLOWER_PIDS"].split()[:3]]
    limit_mib = int(os.environ.get("MEMORY_MAX_MIB", "1024"))
    exceeded = False
    await until_it_writes()
    print(f"leader at rest: {leader.memory_mib('VmRSS')} MiB, {leader.descriptors()} descriptors, {leader.threads()} threads", flush=True)
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        for what, request in [("write 1 MiB", put("v" * VALUE_BYTES)), ("read", GET)]:
            leader.reset_peak()
            counts = await load(request, seconds)
            peak_mib = leader.memory_mib("VmHWM")
            exceeded |= peak_mib > limit_mib
            print(f"quorum lost for {seconds} s, {CLIENTS} clients {what}: {peak_mib} MiB at most; answers: {counts}", flush=True)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    await until_it_writes()
    print(f"the followers continue: the leader writes again, {leader.memory_mib('VmRSS')} MiB", flush=True)
    if exceeded:
        sys.exit(f"bounds: the leader used more than {limit_mib} MiB")

    # The script and the leader have the same hard limit of descriptors.
    count = min(IDLE, hard // 2)
    before = leader.descriptors()
    idle = []
    for _ in range(count):
        idle.append(await asyncio.open_connection(*ADDRESS))
    start = time.monotonic()
    status = await ask(put("v"))
    took_ms = (time.monotonic() - start) * 1000
    print(f"{count} idle connections: {leader.descriptors() - before} descriptors more, {leader.threads()} threads; a write: {status} after {took_ms:.1f} ms")
    if status != 200:
        sys.exit("bounds: a write failed beside idle connections")


if __name__ == "__main__":
    if "LEADER_PID" in os.environ:
        asyncio.run(measure(int(sys.argv[1])))
    else:
        os.environ.update(MAX_DELAY_MS="0", LOG_LEVEL="error")
        script = str(ROOT / "tests/local-cluster.sh")
        os.execv(script, [script, __file__, sys.argv[1] if len(sys.argv) > 1 else "15"])
