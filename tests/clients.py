#!/usr/bin/env python3
"""Client libraries of Redis in several languages, unmodified, against a local cluster that loses its quorum and its
leaders.

    tests/clients.py              every language whose tools are installed; the others are named
    tests/clients.py LANGUAGE...  python, go, java, javascript

KV_NODE names the program (target/debug/kv-node). Libraries come from the package registries, in the versions and with the
checksums of tests/clients, into target/clients, and stay there. Ports are free ones. Exit code 1: a program failed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "clients"))
from cluster import ROOT, Cluster  # noqa: E402

SOURCES, BUILT = ROOT / "tests/clients", ROOT / "target/clients"
NODE = ROOT / os.environ.get("KV_NODE", "target/debug/kv-node")
PROGRAM_TIMEOUT_S = 120


def run(*command, **more):
    subprocess.run([str(word) for word in command], check=True, **more)


def python(directory):
    """What a virtual environment needs, and the program in it."""
    environment = directory / "venv"
    run(sys.executable, "-m", "venv", environment)
    run(environment / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", directory / "requirements.txt")
    return [environment / "bin/python", directory / "client.py"]


def go(directory):
    run("go", "build", "-o", "client", ".", cwd=directory)
    return [directory / "client"]


def java(directory):
    """Maven checks what it downloads only against checksums from the same place: jars.sha256 has ours."""
    if not (directory / "jars").exists():
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
        run("mvn", "--quiet", "--batch-mode", "--strict-checksums", plugin, "-DincludeScope=runtime", "-DoutputDirectory=jars", cwd=directory)
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in (directory / "jars").iterdir()}
    expected = dict(reversed(line.split()) for line in (directory / "jars.sha256").read_text().splitlines())
    if found != expected:
        raise RuntimeError(f"the jars are others than those of jars.sha256: {found}")
    return ["java", "-cp", "jars/*", "Client.java"]


def javascript(directory):
    run("npm", "ci", "--silent", cwd=directory)
    return ["node", directory / "client.js"]


# The tools that each language needs.
LANGUAGES = {python: [], go: ["go"], java: ["java", "mvn"], javascript: ["node", "npm"]}


def prepare(install):
    """Installs the libraries and returns the command of the program; again only where a file of it has changed."""
    name = install.__name__
    directory = BUILT / name
    directory.mkdir(parents=True, exist_ok=True)
    sources = sorted(path for path in (SOURCES / name).iterdir() if path.is_file())
    digest = hashlib.sha256(b"\0".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()
    mark = directory / "installed"
    if mark.exists() and mark.read_text().startswith(digest):
        return mark.read_text().split("\n")[1:]
    shutil.rmtree(directory)
    directory.mkdir()
    for path in sources:
        shutil.copy(path, directory)
    command = [str(word) for word in install(directory)]
    mark.write_text("\n".join([digest, *command]))
    return command


def grant(cluster, wish):
    name = wish.replace(" ", "_")
    if name.startswith("_") or not hasattr(Cluster, name):
        raise ValueError(f"a program asks for {wish!r}, which is no method of Cluster")
    getattr(cluster, name)()


def serve(name, command):
    """Runs a program beside a cluster of its own, and grants its wishes."""
    environment = {key: value for key, value in os.environ.items() if key not in ("REDIS", "HTTP")}
    with Cluster(NODE) as cluster, open(BUILT / name / "errors", "w+") as errors:
        environment |= {
            "REDIS": ",".join(node.redis for node in cluster.leaders),
            "REDIS_FOLLOWER": cluster.followers[2].redis,
            "HTTP": ",".join(f"http://{node.http}" for node in cluster.leaders),
        }
        with subprocess.Popen(command, cwd=BUILT / name, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True) as program:
            watchdog = threading.Timer(PROGRAM_TIMEOUT_S, program.kill)
            watchdog.start()
            try:
                for line in program.stdout:
                    if not line.startswith("do: "):
                        print(f"{name}: {line}", end="", flush=True)
                        continue
                    grant(cluster, line[4:].strip())
                    program.stdin.write("done\n")
                    program.stdin.flush()
                if program.wait() != 0:
                    errors.seek(0)
                    print(errors.read()[-5000:], flush=True)
                    raise RuntimeError(f"the program ended with {program.returncode} (it may take {PROGRAM_TIMEOUT_S} s)")
            finally:
                watchdog.cancel()
                program.kill()


def main():
    names = sys.argv[1:] or [language.__name__ for language in LANGUAGES]
    known = {language.__name__: language for language in LANGUAGES}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"clients: no language {unknown[0]}; there are {', '.join(known)}")
    if not NODE.exists():
        sys.exit(f"clients: {NODE} is missing: cargo build --workspace")
    passed = failed = skipped = 0
    for name in names:
        missing = [tool for tool in LANGUAGES[known[name]] if shutil.which(tool) is None]
        if missing:
            print(f"skipped  {name}: no {' and no '.join(missing)} here", flush=True)
            skipped += 1
            continue
        start = time.monotonic()
        try:
            command = prepare(known[name])
            installed = time.monotonic()
            serve(name, command)
            print(f"ok       {name}: {time.monotonic() - installed:.0f} s, and {installed - start:.0f} s to install", flush=True)
            passed += 1
        except (OSError, RuntimeError, ValueError, subprocess.CalledProcessError) as error:
            print(f"FAILED   {name}: {error}", flush=True)
            failed += 1
    print(f"clients: {passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
