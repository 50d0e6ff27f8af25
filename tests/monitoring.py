#!/usr/bin/env python3
"""Checks charts/kvcluster/monitoring against the metrics that the programs have.

  tests/monitoring.py           beside a cluster that tests/local-cluster.sh starts, with followers on disk
  tests/monitoring.py --scrape  beside the cluster that runs already, as the above calls itself

Every metric and label of the alerts and of the dashboard must be one that a leader or a follower shows at /metrics,
or that the operator registers; labels of the scrape configuration (job, instance) are known to every metric. Panels of
the dashboard must not overlap. Where promtool is in the PATH, it checks the expressions, and the alerts on the clusters of
tests/alerts.yaml. KV_NODE names the program
(target/release/kv-node). Exit code 1 with one line for each fault.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "charts/kvcluster/monitoring"
ALERTS, DASHBOARD = MONITORING / "alerts.yaml", MONITORING / "dashboard.json"
OF_SCRAPE = {"job", "instance", "le"}

faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


def scraped(port):
    """The metrics of a node, each with its labels and their values."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().split("\n")
    metrics = {}
    for line in lines:
        series = re.match(r"(\w+)(?:\{(.*)\})? ", line)
        if series and not line.startswith("#"):
            labels = metrics.setdefault(series[1], {})
            for name, value in re.findall(r'(\w+)="([^"]*)"', series[2] or ""):
                labels.setdefault(name, set()).add(value)
    return metrics


def of_operator():
    """The metrics that the operator registers, from its source: without an API server it shows none."""
    source = (ROOT / "controller/src/metrics.rs").read_text()
    registered = re.findall(r'ours\.register(_with_unit)?\(\s*"(\w+)"(?:,\s*"[^"]*",\s*Unit::(\w+))?.*?(\w+)\.clone\(\)', source, re.S)
    labels = {"reconciliations": {"result"}, "api_requests": {"method", "resource"}}
    metrics = {}
    for _, name, unit, field in registered:
        full = f"kvcluster_operator_{name}" + (f"_{unit.lower()}" if unit else "")
        if re.search(rf"{field}: Histogram", source):
            suffixes = ("_bucket", "_sum", "_count")
        else:
            suffixes = ("_total",) if re.search(rf"{field}: Family<\w+, Counter>", source) else ("",)
        for suffix in suffixes:
            metrics[full + suffix] = {label: set() for label in labels.get(name, ())}
    return metrics


def expressions():
    """Each expression with where it is."""
    text = ALERTS.read_text()
    for alert in re.split(r"\n\s+- alert: ", text)[1:]:
        name = alert.split("\n", 1)[0]
        block = re.search(r"\n( +)expr: \|\n((?:\1 +.*\n)+)|\n +expr: (.+)\n", alert)
        if block is None:
            fault(name, "has no expression")
            continue
        yield f"alert {name}", block[2] or block[3]
        for field in ("severity", "summary", "description"):
            if f"{field}: " not in alert:
                fault(f"alert {name}", f"has no {field}")
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']!r}", target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield f"variable {variable['name']}", variable["query"]["query"]


def check_expression(where, text, metrics):
    names = re.findall(r"\b(kvcluster_\w+)", text)
    if not names:
        fault(where, "names no metric")
    known = set(OF_SCRAPE)
    for name in names:
        if name not in metrics:
            fault(where, f"no program has the metric {name}")
        known |= set(metrics.get(name, ()))
    for name, selector in re.findall(r"\b(kvcluster_\w+)\{([^}]*)\}", text):
        for label, comparison, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
            labels = metrics.get(name, {})
            if label not in labels and label not in OF_SCRAPE:
                fault(where, f"{name} has no label {label}")
            elif labels.get(label) and comparison in ("=", "!=") and value not in labels[label] | OUTCOMES:
                fault(where, f"{name} never has {label}={value!r}")
    for grouped in re.findall(r"\b(?:by|on|without|ignoring) \(([^)]*)\)", text):
        for label in re.findall(r"\w+", grouped):
            if label not in known:
                fault(where, f"groups by {label}, which none of its metrics has")
    if text.count("(") != text.count(")") or text.count("{") != text.count("}"):
        fault(where, "its parentheses do not match")


# Outcomes that a sound cluster never shows, by the source.
OUTCOMES = set(re.findall(r'=> "(\w+)",', (ROOT / "node/src/metrics.rs").read_text()))


def check_dashboard():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    if len({panel["id"] for panel in panels}) != len(panels):
        fault("dashboard", "two panels have one id")
    for number, panel in enumerate(panels):
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            fault(f"panel {panel['title']!r}", "is wider than the dashboard")
        if panel["type"] != "row" and not panel.get("description"):
            fault(f"panel {panel['title']!r}", "has no description")
        for other in panels[number + 1 :]:
            beside = other["gridPos"]
            across = place["x"] < beside["x"] + beside["w"] and beside["x"] < place["x"] + place["w"]
            along = place["y"] < beside["y"] + beside["h"] and beside["y"] < place["y"] + place["h"]
            if across and along:
                fault(f"panel {panel['title']!r}", f"overlaps {other['title']!r}")


def check_with_promtool():
    """The alerts, what they say of the clusters in tests/alerts.yaml, and the dashboard's expressions as rules."""
    rules = []
    for where, text in expressions():
        if where.startswith("panel"):
            text = text.replace("$__rate_interval", "5m").replace("$job", "demo")
            rules.append({"record": f"kvcluster:panel_{len(rules)}", "expr": text})
    with tempfile.TemporaryDirectory() as scratch:
        panels = Path(scratch) / "panels.yaml"
        panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
        for words in (["check", "rules", ALERTS], ["check", "rules", panels], ["test", "rules", ROOT / "tests/alerts.yaml"]):
            check = subprocess.run(["promtool", *words], capture_output=True, text=True)
            if check.returncode != 0:
                fault(f"promtool {words[0]} {words[1]}", (check.stdout + check.stderr).strip())


def main():
    if "--scrape" not in sys.argv:
        environment = {"KV_NODE": str(ROOT / "target/release/kv-node"), **os.environ, "DURABILITY": "disk"}
        os.execvpe(str(ROOT / "tests/local-cluster.sh"), ["local-cluster.sh", sys.executable, __file__, "--scrape"], environment)
    put = urllib.request.Request("http://127.0.0.1:8000/put", json.dumps({"key": "color", "value": "blue"}).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(put, timeout=20).read()
    metrics = of_operator()
    for port in (8000, 8001):
        for name, labels in scraped(port).items():
            for label, values in labels.items():
                metrics.setdefault(name, {}).setdefault(label, set()).update(values)
            metrics.setdefault(name, {})
    count = 0
    for where, text in expressions():
        check_expression(where, text, metrics)
        count += 1
    check_dashboard()
    if shutil.which("promtool"):
        check_with_promtool()
    else:
        print("monitoring: no promtool here, so expressions are checked for their metrics alone")
    for line in faults:
        print(line, file=sys.stderr)
    print(f"monitoring: {count} expressions, {len(metrics)} metrics, {len(faults)} faults")
    sys.exit(1 if faults else 0)


main()
