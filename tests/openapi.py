#!/usr/bin/env python3
"""The description of the routes (node/src/http/openapi.yaml) against nodes: schemathesis makes requests of it, valid and
invalid ones, and compares each answer with it.

    tests/openapi.py              a leader and a follower of a local cluster

KV_NODE names the program (target/debug/kv-node). EXAMPLES is the number of requests per route (20), SEED their seed (1).
Exit code 1: an answer differs from the description.
"""

import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "clients"))
from cluster import ROOT, Cluster  # noqa: E402
from packages import virtual_environment  # noqa: E402

SOURCES, BUILT = ROOT / "tests/openapi", ROOT / "target/openapi"
NODE = ROOT / os.environ.get("KV_NODE", "target/debug/kv-node")
EXAMPLES, SEED = os.environ.get("EXAMPLES", "20"), os.environ.get("SEED", "1")

CHECKS = [
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]
# These streams do not end, and a hand-over ends the leader.
LEFT_OUT = ["/watch", "/live", "/leadership", "/hand-over"]
# A valid request may set a timeout of 1 ms, or begin a restore, during which a leader serves nothing else.
LAST = ["/config", "/restore"]


def passes(schemathesis, node, which):
    """Whether every answer of this node is as described."""
    # A node answers any method of a route that it does not have with 404.
    leads = "FOLLOWERS" in node.settings
    checks = [*CHECKS, "unsupported_method"] if leads else CHECKS
    which = [*which, "--exclude-path", "/replicate"] if leads and "--include-path" not in which else which
    command = [schemathesis, "run", f"http://{node.http}/openapi.yaml", "--checks", ",".join(checks), *which]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, "--seed", SEED]
    command += ["--request-timeout", "30", "--no-color"]
    print(f"--- {node.name}: {' '.join(which)}", flush=True)
    return subprocess.run(command, env={**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": SOURCES}, cwd=BUILT).returncode == 0


def main():
    schemathesis = virtual_environment(BUILT, SOURCES / "requirements.txt", "schemathesis") / "schemathesis"
    without = [word for path in [*LEFT_OUT, *LAST] for word in ("--exclude-path", path)]
    rounds = [without, *(["--include-path", path] for path in LAST)]
    with Cluster(NODE) as cluster:
        nodes = [cluster.leaders[0], cluster.followers[0]]
        results = [passes(schemathesis, node, which) for which in rounds for node in nodes]
    sys.exit(0 if all(results) else 1)


main()
