"""A small cluster of processes on free ports, to which things happen: a leader, its standby and three followers, W = 2."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 60


def free_ports(count):
    """Ports that are free now. The listeners close together, so that no port is found twice."""
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


def eventually(what, condition):
    """What the condition returns once that is true."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {PATIENCE_S} s")
        time.sleep(0.05)
    return found


class Node:
    """A process of kv-node. It has the same ports, and begins with nothing, whenever it is started."""

    def __init__(self, program, logs, name, settings):
        self.name, self.program, self.process = name, program, None
        self.port, self.redis_port = free_ports(2)
        self.http, self.redis = f"127.0.0.1:{self.port}", f"127.0.0.1:{self.redis_port}"
        self.log = open(Path(logs) / f"{name}.log", "w")
        own = {"NODE_NAME": name, "PORT": self.port, "RESP_PORT": self.redis_port, "BIND_ADDRESS": "127.0.0.1"}
        self.settings = {key: str(value) for key, value in {**own, **settings, "ADVERTISE_URL": f"http://{self.http}"}.items()}

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_TOKEN")}
        self.process = subprocess.Popen([self.program], env={**environment, **self.settings}, stdout=self.log, stderr=self.log)

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def status(self):
        """`GET /status`, or None where it does not answer."""
        try:
            with urllib.request.urlopen(f"http://{self.http}/status", timeout=2) as answer:
                return json.load(answer)
        except (OSError, urllib.error.URLError):
            return None

    def is_in(self, state):
        status = self.status()
        return status is not None and status.get("state") == state

    def is_ready(self):
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False


class Cluster:
    """The nodes. Ends them with the `with` block, and shows their logs if that fails."""

    def __init__(self, program):
        self.directory = tempfile.TemporaryDirectory()
        logs = self.directory.name
        self.followers = [Node(program, logs, f"follower{n}", {"ROLE": "follower"}) for n in (1, 2, 3)]
        leading = {
            "ROLE": "leader",
            "FOLLOWERS": ",".join(f"http://{node.http}" for node in self.followers),
            "WRITE_QUORUM": 2,
            "MAX_DELAY_MS": 0,
            "REPLICATION_TIMEOUT_MS": 1000,
            "ANSWER_GRACE_MS": 3000,
            "TAKEOVER_AFTER_MS": 500,
        }
        self.leaders = [Node(program, logs, name, leading) for name in ("leader", "standby")]

    def __enter__(self):
        try:
            for node in self.followers:
                node.start()
            self.leaders[0].start()
            eventually("the leader opens", lambda: self.leaders[0].is_in("open"))
            self.start_other()
        except BaseException:
            self.__exit__(True)
            raise
        return self

    def __exit__(self, failed, *_):
        for node in [*self.followers, *self.leaders]:
            if node.process is not None:
                node.kill()
            node.log.close()
            if failed:
                print(f"--- {node.name}, {node.http}, Redis {node.redis}", Path(node.log.name).read_text()[-3000:], sep="\n", flush=True)
        self.directory.cleanup()

    def leader(self):
        """The node that leads."""
        return eventually("a leader", lambda: next((node for node in self.leaders if node.is_in("open")), None))

    def start_other(self):
        """Starts the leader process that does not run; it becomes the standby."""
        for node in self.leaders:
            if node.process is None or node.process.poll() is not None:
                node.start()
                eventually("the standby is ready", lambda: node.is_in("standby") and node.is_ready())

    # What a program of the tests may ask for.

    def stop_followers(self):
        """Two of three followers stop: no write has its quorum."""
        for node in self.followers[:2]:
            node.send(signal.SIGSTOP)

    def continue_followers(self):
        for node in self.followers[:2]:
            node.send(signal.SIGCONT)
        # The leader answers 503 until it has heard them.
        eventually("the leader is ready", lambda: self.leader().is_ready())

    def kill_leader(self):
        """The standby will take over."""
        self.leader().kill()

    def restart_leader(self):
        """The only leader process is lost and starts again on its ports."""
        node = self.leader()
        other = next(other for other in self.leaders if other is not node)
        if other.process.poll() is None:
            other.kill()
        node.kill()
        node.start()
