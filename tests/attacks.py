#!/usr/bin/env python3
"""What a client that behaves well notices of others that do not, with real processes.

  tests/attacks.py [ROUNDS] [SECONDS]     default 5 and 2

Four clients write to a leader with five followers (W = 3), one write at a time each. In every round they write alone, and
then beside each attack, whose clients are a process of their own. The figures are medians of the rounds' ratios: writes per
second and the 99th percentile of their latency, beside the attack over alone. The processor time that the attackers
themselves take is part of them.

KV_NODE names the program (target/release/kv-node). Exit code 1: a write beside an attack failed.
"""

import asyncio
import collections
import os
import pathlib
import resource
import statistics
import struct
import sys
import time

ADDRESS = ("127.0.0.1", 8000)
CLIENTS = 4
SCRIPT = pathlib.Path(__file__).resolve()
LONG = "v" * (1 << 20)


def put(key, value):
    body = f'{{"key":"{key}","value":"{value}"}}'
    return f"POST /put HTTP/1.1\r\nhost: leader\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()


# --- attacks: each is what one of its clients does on an open connection, again on a new one when the leader closes it


async def slow_head(_, writer):
    for byte in b"GET /status HTTP/1.1\r\nhost: leader\r\nx: " + b"x" * 1000:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


async def slow_body(_, writer):
    writer.write(b"POST /put HTTP/1.1\r\nhost: leader\r\ncontent-length: 1000\r\n\r\n")
    for byte in put("slow", "v" * 1000):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.2)


async def never_reads(_, writer):
    writer.transport.pause_reading()
    writer.write(b"GET /get?key=long HTTP/1.1\r\nhost: leader\r\n\r\n" * 100)
    await asyncio.sleep(3600)


async def flood(_, writer):
    writer.transport.abort()
    await asyncio.sleep(0.02)


async def oversized(_, writer):
    writer.write(b"POST /put HTTP/1.1\r\nhost: leader\r\ncontent-length: 20971520\r\n\r\n")
    for _ in range(320):
        writer.write(b"x" * 65536)
        await writer.drain()
        await asyncio.sleep(0.01)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def begin_http2(writer, window):
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, struct.pack(">HI", 4, window)))


def get(stream, path):
    """Fields of HPACK's static table, and two that are spelled out."""
    literal = lambda index, text: bytes([index, len(text)]) + text.encode()  # noqa: E731
    return frame(1, 5, stream, b"\x82\x86" + literal(0x44, path) + literal(0x41, "leader"))


async def rapid_reset(_, writer):
    """Requests that are given up at once, 2,000 a second at most."""
    begin_http2(writer, 65535)
    for stream in range(1, 1 << 30, 2):
        if writer.is_closing():
            return
        writer.write(get(stream, "/get?key=long") + frame(3, 0, stream, struct.pack(">I", 8)))
        if stream % 80 == 1:
            await writer.drain()
            await asyncio.sleep(0.02)


async def no_window(_, writer):
    begin_http2(writer, 0)
    writer.write(b"".join(get(1 + 2 * number, "/get?key=long") for number in range(100)))
    await writer.drain()
    await asyncio.sleep(3600)


ATTACKS = {
    "500 clients send a head, 5 bytes a second": (500, slow_head),
    "500 clients send a body, 5 bytes a second": (500, slow_body),
    "32 clients ask for 100 MiB and never read": (32, never_reads),
    "16 clients connect and go, 50 times a second": (16, flood),
    "4 clients send 20 MiB bodies, 6 MiB a second": (4, oversized),
    "4 clients of HTTP/2 give up 2,000 requests a second": (4, rapid_reset),
    "16 clients of HTTP/2 leave no room for 100 answers": (16, no_window),
}


async def attack(name):
    """Attacks until it is killed. Prints a line once every client has a connection."""
    count, act = ATTACKS[name]
    connected = asyncio.Semaphore(0)

    async def client():
        first = True
        while True:
            try:
                reader, writer = await asyncio.open_connection(*ADDRESS, limit=1024)
                if first:
                    connected.release()
                first = False
                await act(reader, writer)
                writer.transport.abort()
            except OSError:
                await asyncio.sleep(0.05)

    clients = [asyncio.create_task(client()) for _ in range(count)]
    for _ in range(count):
        await connected.acquire()
    print("attacks", flush=True)
    await asyncio.gather(*clients)


# --- clients that behave well


async def writes(seconds):
    """Writes per second, and the 99th percentile of their latency in ms."""
    latencies, failures, until = [], collections.Counter(), time.monotonic() + seconds

    async def client(number):
        reader, writer = await asyncio.open_connection(*ADDRESS)
        request = put(f"good{number}", "v" * 64)
        while time.monotonic() < until:
            begun = time.monotonic()
            writer.write(request)
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            if not head.startswith(b"HTTP/1.1 200"):
                failures[head.split(b"\r\n")[0].decode()] += 1
            latencies.append(time.monotonic() - begun)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(CLIENTS)))
    if failures:
        sys.exit(f"attacks: writes failed: {dict(failures)}")
    return len(latencies) / seconds, sorted(latencies)[len(latencies) * 99 // 100] * 1000


async def ask(request):
    reader, writer = await asyncio.open_connection(*ADDRESS)
    writer.write(request)
    line = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return line


async def measure(rounds, seconds):
    deadline = time.monotonic() + 60
    while b"200" not in await ask(put("long", LONG)):
        if time.monotonic() > deadline:
            sys.exit("attacks: the cluster does not write within 60 s")
        await asyncio.sleep(0.1)
    ratios = collections.defaultdict(list)
    for number in range(rounds):
        for name in ATTACKS:
            # In turns, since a busy machine changes from minute to minute.
            for first in (True, False):
                if first == (number % 2 == 0):
                    alone = await writes(seconds)
                    continue
                attackers = await asyncio.create_subprocess_exec(sys.executable, SCRIPT, name, stdout=asyncio.subprocess.PIPE)
                await asyncio.wait_for(attackers.stdout.readline(), 60)
                beside = await writes(seconds)
                attackers.kill()
                await attackers.wait()
            ratios[name].append((beside[0] / alone[0], beside[1] / alone[1]))
    width = max(map(len, ATTACKS))
    print(f"{'beside':{width}}  writes/s      p99")
    for name, found in ratios.items():
        rate, p99 = (statistics.median(column) for column in zip(*found))
        print(f"{name:{width}}  {'× ' + format(rate, '.2f'):>8} {'× ' + format(p99, '.2f'):>8}")


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if len(sys.argv) == 2 and sys.argv[1] in ATTACKS:
        asyncio.run(attack(sys.argv[1]))
    elif "LEADER_PID" in os.environ:
        asyncio.run(measure(int(sys.argv[1]), float(sys.argv[2])))
    else:
        os.environ.update(MAX_DELAY_MS="0", LOG_LEVEL="error", RESP_PORT="")
        script = str(SCRIPT.parent / "local-cluster.sh")
        given = sys.argv[1:] + ["5", "2"][len(sys.argv[1:]) :]
        os.execv(script, [script, str(SCRIPT), *given])
