#!/usr/bin/env python3
"""What a leader uses when its followers do not answer and when clients do nothing, with real processes.

  1. Three of five followers stop (SIGSTOP), W = 3. 256 clients write values of 1 MiB, and then 256
     clients read. The peak of the leader's resident memory is reported for each.
  2. The followers continue. 5,000 connections send nothing. The leader's descriptors and threads and
     the time of a write beside them are reported.
  3. The same with 10,000 connections for Redis' protocol, with the leader's memory.
  4. Each in turn for Redis' protocol, with the peak of memory and the time of a write beside them: 256 clients that
     send half a command, which announces 1 MiB, and nothing more; 256 clients that send lines of 1 MiB without an
     end; 64 clients that ask for a value of 1 MiB in pipelines and never read.

  tests/bounds.py [SECONDS]     of each load of 1 and 4 (default 15)

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

ADDRESS, REDIS = ("127.0.0.1", 8000), ("127.0.0.1", 8010)
CLIENTS, VALUE_BYTES, IDLE = 256, 1 << 20, 5000
IDLE_REDIS, NEVER_READING = 10_000, 64
ROOT = pathlib.Path(__file__).resolve().parent.parent


def put(value, key="bounds"):
    body = json.dumps({"key": key, "value": value})
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


def command(*words):
    """A command of Redis' protocol."""
    return f"*{len(words)}\r\n".encode() + b"".join(f"${len(word)}\r\n{word}\r\n".encode() for word in words)


async def ask_redis(*words):
    """The first line of a reply, on a connection of its own."""
    reader, writer = await asyncio.open_connection(*REDIS)
    try:
        writer.write(command(*words))
        return (await asyncio.wait_for(reader.readline(), 20)).decode().strip()
    finally:
        writer.close()


HALF = command("SET", "bounds", "v" * VALUE_BYTES)[: VALUE_BYTES // 2]
LINE = b"x" * (1 << 20)
READS = command("GET", "bounds") * 1000


async def send_only(request, again, until, counts):
    """Sends the request, again and again or once, and reads nothing; anew where the leader closed the connection."""
    while time.monotonic() < until:
        # The limit of the reader is small, so that the system's buffers fill up.
        reader, writer = await asyncio.open_connection(*REDIS, limit=1024)
        writer.transport.pause_reading()
        counts["connections"] += 1
        try:
            while time.monotonic() < until:
                writer.write(request)
                await asyncio.wait_for(writer.drain(), max(0.1, until - time.monotonic()))
                if not again:
                    writer.transport.resume_reading()
                    await asyncio.wait_for(reader.read(1), max(0.1, until - time.monotonic()))
                    break
        except (ConnectionError, TimeoutError):
            pass
        finally:
            writer.transport.abort()


LOADS = {
    "send half a command of 1 MiB": (CLIENTS, HALF, False),
    "send lines of 1 MiB": (CLIENTS, LINE, False),
    "ask for 1 MiB and never read": (NEVER_READING, READS, True),
}


async def be_hostile(what, seconds):
    """The clients of a load, in a process of their own. Prints how many connections they made."""
    count, request, again = LOADS[what]
    counts, until = collections.Counter(), time.monotonic() + seconds
    await asyncio.gather(*(send_only(request, again, until, counts) for _ in range(count)))
    print(counts["connections"])


async def beside(what, seconds, leader):
    """Writes beside a load. Returns the peak of the leader's memory in MiB."""
    leader.reset_peak()
    clients = await asyncio.create_subprocess_exec(sys.executable, __file__, str(seconds), what, stdout=asyncio.subprocess.PIPE)
    made = asyncio.create_task(clients.communicate())
    longest_ms = written = 0
    while not made.done():
        start = time.monotonic()
        if await ask(put("v", "other")) != 200 or await ask_redis("SET", "beside", "v") != "+OK":
            sys.exit(f"bounds: a write failed beside clients that {what}")
        longest_ms, written = max(longest_ms, (time.monotonic() - start) * 1000), written + 2
        await asyncio.sleep(0.05)
    peak_mib, connections = leader.memory_mib("VmHWM"), (await made)[0].decode().strip()
    if clients.returncode != 0:
        sys.exit(f"bounds: the clients that {what} ended with {clients.returncode}")
    print(f"{LOADS[what][0]} clients {what} for {seconds} s, {connections} connections: {peak_mib} MiB at most")
    print(f"  beside them {written} writes; two of these took {longest_ms:.0f} ms at most", flush=True)
    return peak_mib


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
    for _, writer in idle:
        writer.transport.abort()

    count, before, idle = min(IDLE_REDIS, hard // 2), leader.memory_mib("VmRSS"), []
    for _ in range(count):
        idle.append(await asyncio.open_connection(*REDIS))
    start = time.monotonic()
    reply = await ask_redis("SET", "beside", "v")
    took_ms = (time.monotonic() - start) * 1000
    print(f"{count} idle connections of Redis' protocol: {leader.memory_mib('VmRSS') - before} MiB more; SET: {reply} after {took_ms:.1f} ms", flush=True)
    if reply != "+OK":
        sys.exit("bounds: SET failed beside idle connections")
    for _, writer in idle:
        writer.transport.abort()

    await ask(put("v" * VALUE_BYTES))
    for what in LOADS:
        peak_mib = await beside(what, seconds, leader)
        if peak_mib > limit_mib:
            sys.exit(f"bounds: the leader used more than {limit_mib} MiB")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        asyncio.run(be_hostile(sys.argv[2], int(sys.argv[1])))
    elif "LEADER_PID" in os.environ:
        asyncio.run(measure(int(sys.argv[1])))
    else:
        os.environ.update(MAX_DELAY_MS="0", LOG_LEVEL="error", RESP_PORT=str(REDIS[1]))
        script = str(ROOT / "tests/local-cluster.sh")
        os.execv(script, [script, __file__, sys.argv[1] if len(sys.argv) > 1 else "15"])
