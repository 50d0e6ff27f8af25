#!/usr/bin/env python3
"""A real Prometheus scrapes the operator and KvClusters by the chart's PodMonitors, and loads its alerts.

  tests/scrape.py RELEASE CRDS

In a cluster where RELEASE of charts/kvcluster is installed in kvcluster-system, and whose pods this machine reaches. CRDS
is a directory with the CRDs of the Prometheus operator, against which the API server checks the chart's objects. What that
operator does with them is done here: the configuration of `prometheus` (in the PATH) is made from the PodMonitors and pods as the
API server returns them. One KvCluster has neither token nor TLS, another one has both. Exit code 1 with the reason.
"""

import json
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts/kvcluster"
SYSTEM, SPACE = "kvcluster-system", "kv-scrape"
CLUSTERS = """
apiVersion: v1
kind: Namespace
metadata: {name: kv-scrape}
---
apiVersion: v1
kind: Secret
metadata: {name: clients, namespace: kv-scrape}
stringData: {tokens: of-a-client}
---
apiVersion: kvcluster.io/v1alpha1
kind: KvCluster
metadata: {name: open, namespace: kv-scrape}
spec: {replicas: 2, writeQuorum: 1, durability: Memory}
---
apiVersion: kvcluster.io/v1alpha1
kind: KvCluster
metadata: {name: closed, namespace: kv-scrape}
spec: {replicas: 3, writeQuorum: 2, durability: Memory, tls: {}, auth: {secretName: clients}}
"""


def run(*words, text=None):
    return subprocess.run(words, input=text, capture_output=True, text=True, check=True).stdout


def kubectl(*words, text=None):
    return run("kubectl", *words, text=text)


def objects(kind, namespace):
    return json.loads(kubectl("-n", namespace, "get", kind, "-o", "json"))["items"]


def until(what, probe, seconds=180):
    """Waits until the probe returns something; its last reason is in the failure."""
    end = time.monotonic() + seconds
    while True:
        found, reason = probe()
        if found:
            return found
        if time.monotonic() > end:
            sys.exit(f"scrape: no {what} after {seconds} s: {reason}")
        time.sleep(0.5)


def until_equal(what, expected, probe):
    def compared():
        found = probe()
        return found == expected, found

    until(what, compared)


def snake(name):
    return re.sub("([A-Z])", r"_\1", name).lower()


def discovered(namespaces):
    """The pods of these namespaces, or of all, as service discovery describes them. Debian's Prometheus has none for Kubernetes."""
    for pod in json.loads(kubectl("get", "pods", "-A", "-o", "json"))["items"]:
        meta, status = pod["metadata"], pod["status"]
        if namespaces is not None and meta["namespace"] not in namespaces or "podIP" not in status:
            continue
        labels = {"namespace": meta["namespace"], "pod_name": meta["name"], "pod_phase": status["phase"]}
        for kind in ("label", "annotation"):
            labels.update({f"pod_{kind}_{plain(key)}": value for key, value in meta.get(f"{kind}s", {}).items()})
        for container in pod["spec"]["containers"]:
            for port in container.get("ports", []):
                of_port = {"pod_container_name": container["name"], "pod_container_port_name": port.get("name", "")}
                described = {f"__meta_kubernetes_{key}": value for key, value in {**labels, **of_port}.items()}
                yield {"targets": [f"{status['podIP']}:{port['containerPort']}"], "labels": described}


def plain(key):
    return re.sub(r"[^a-zA-Z0-9]", "_", key)


def scrape_jobs(monitor):
    """The jobs that the Prometheus operator makes of a PodMonitor."""
    meta, spec = monitor["metadata"], monitor["spec"]
    label = lambda key: "__meta_kubernetes_pod_label_" + plain(key)
    keep = [{"source_labels": [label(key)], "regex": re.escape(value), "action": "keep"} for key, value in spec["selector"].get("matchLabels", {}).items()]
    for one in spec["selector"].get("matchExpressions", []):
        assert one["operator"] == "In", one
        keep.append({"source_labels": [label(one["key"])], "regex": "|".join(map(re.escape, one["values"])), "action": "keep"})
    namespaces = None if spec["namespaceSelector"].get("any") else spec["namespaceSelector"]["matchNames"]
    for number, endpoint in enumerate(spec["podMetricsEndpoints"]):
        name = f"{meta['namespace']}/{meta['name']}"
        copied = [(source, target) for source, target in (("namespace", "namespace"), ("pod_container_name", "container"), ("pod_name", "pod"))]
        yield {
            "job_name": f"podMonitor/{name}/{number}",
            "honor_labels": endpoint.get("honorLabels", False),
            "scrape_interval": endpoint["interval"],
            "static_configs": list(discovered(namespaces)),
            "tls_config": {snake(key): value for key, value in endpoint.get("tlsConfig", {}).items()},
            "relabel_configs": [
                {"source_labels": ["__meta_kubernetes_pod_phase"], "regex": "(Failed|Succeeded)", "action": "drop"},
                *keep,
                {"source_labels": ["__meta_kubernetes_pod_container_port_name"], "regex": endpoint["port"], "action": "keep"},
                *({"source_labels": [f"__meta_kubernetes_{source}"], "target_label": target} for source, target in copied),
                {"target_label": "job", "replacement": name},
                *({snake(key): value for key, value in one.items()} for one in endpoint.get("relabelings", [])),
            ],
        }


class Prometheus:
    def __init__(self, scratch):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.at = f"127.0.0.1:{free.getsockname()[1]}"
        rules = [rule["spec"] for rule in objects("prometheusrules", SYSTEM)]
        names = [f"rules-{number}.yaml" for number, _ in enumerate(rules)]
        for name, rule in zip(names, rules):
            (scratch / name).write_text(json.dumps(rule))
        jobs = [job for monitor in objects("podmonitors", SYSTEM) for job in scrape_jobs(monitor)]
        config = {"global": {"evaluation_interval": "1s"}, "rule_files": names, "scrape_configs": jobs}
        (scratch / "prometheus.yaml").write_text(json.dumps(config))
        words = ["prometheus", f"--config.file={scratch}/prometheus.yaml", f"--storage.tsdb.path={scratch}/data", f"--web.listen-address={self.at}"]
        self.log = open(scratch / "log", "w+")
        self.process = subprocess.Popen(words, stdout=self.log, stderr=self.log)

    def ask(self, path, **query):
        """The data of an answer. None while there is none."""
        if self.process.poll() is not None:
            self.log.seek(0)
            sys.exit(f"scrape: Prometheus ended:\n{self.log.read()}")
        try:
            with urllib.request.urlopen(f"http://{self.at}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.URLError:
            return None

    def values(self, expression, label):
        """The value of each series, by a label."""
        found = (self.ask("query", query=expression) or {}).get("result", [])
        return {one["metric"].get(label): float(one["value"][1]) for one in found}


def pods():
    """The pods that there should be a target of: who they are, and how they are reached."""
    expected = {}
    for pod in objects("pods", SPACE):
        cluster = pod["metadata"]["labels"]["app.kubernetes.io/instance"]
        expected[pod["metadata"]["name"]] = (f"{SPACE}/{cluster}", "https" if cluster == "closed" else "http")
    for pod in objects("pods", SYSTEM):
        if pod["metadata"]["labels"].get("app.kubernetes.io/name") == "kv-controller":
            expected[pod["metadata"]["name"]] = (f"{SYSTEM}/{RELEASE}-kv-controller", "http")
    return expected


def check(prometheus):
    def all_up():
        targets = (prometheus.ask("targets", state="active") or {"activeTargets": []})["activeTargets"]
        found = {one["labels"]["instance"]: (one["labels"]["job"], one["scrapeUrl"].split(":")[0]) for one in targets}
        down = [f"{one['scrapeUrl']}: {one['lastError']}" for one in targets if one["health"] != "up"]
        expected = pods()
        return found == expected and len(targets) == len(expected) and not down, f"targets {found}, expected {expected}, down {down}"

    until("targets that are all up", all_up)
    quorums = {f"{SPACE}/open": 1.0, f"{SPACE}/closed": 2.0}
    until_equal("write quorum of each KvCluster", quorums, lambda: prometheus.values("kvcluster_write_quorum", "job"))
    # The operator's metrics of a KvCluster have its namespace, not that of the operator.
    ready = f'max by (name) (kvcluster_operator_cluster_ready{{namespace="{SPACE}"}})'
    until_equal("KvClusters that the operator reports", {"open": 1.0, "closed": 1.0}, lambda: prometheus.values(ready, "name"))

    written = set(re.findall(r"- alert: (\w+)", (CHART / "monitoring/alerts.yaml").read_text()))

    def all_evaluated():
        rules = [rule for group in (prometheus.ask("rules") or {"groups": []})["groups"] for rule in group["rules"]]
        sound = {rule["name"] for rule in rules if rule["health"] == "ok"}
        return sound == written, f"sound {sorted(sound)}, of {[(rule['name'], rule['health'], rule.get('lastError')) for rule in rules]}"

    until("alerts that are all evaluated", all_evaluated)
    dashboards = json.loads(kubectl("-n", SYSTEM, "get", "configmap", "-l", "grafana_dashboard=1", "-o", "json"))["items"]
    texts = [text for one in dashboards for text in one["data"].values()]
    if [json.loads(text) for text in texts] != [json.loads((CHART / "monitoring/dashboard.json").read_text())]:
        sys.exit("scrape: the ConfigMap with the sidecar's label has another dashboard")
    # What alerts compare are the nodes of one job: a follower that is lost is one of its own cluster.
    kubectl("-n", SPACE, "patch", "kvc", "open", "--type=merge", "-p", '{"spec":{"paused":true}}')
    kubectl("-n", SPACE, "wait", "--for=condition=Paused", "kvc/open", "--timeout=1m")
    kubectl("-n", SPACE, "scale", "statefulset/open-follower", "--replicas=1")
    down = 'ALERTS{alertname="KvclusterFollowerDown"}'
    until_equal("alert of the cluster that lost a follower", {f"{SPACE}/open": 1.0}, lambda: prometheus.values(down, "job"))
    print(f"scrape: {len(pods())} targets up, {len(written)} alerts evaluated, 1 alert of a follower that was lost")


def main():
    crds = Path(sys.argv[2])
    for name in ("podmonitors", "prometheusrules"):
        kubectl("apply", "--server-side", "-f", str(crds / f"monitoring.coreos.com_{name}.yaml"))
        kubectl("wait", "--for=condition=Established", f"crd/{name}.monitoring.coreos.com", "--timeout=1m")
    on = [f"--set=monitoring.{name}.enabled=true" for name in ("podMonitor", "prometheusRule", "dashboard")]
    run("helm", "upgrade", RELEASE, str(CHART), "-n", SYSTEM, "--reuse-values", *on, "--set=monitoring.podMonitor.interval=1s", "--set=monitoring.podMonitor.labels.release=prometheus", "--wait")
    selected = [one["metadata"]["name"] for one in json.loads(kubectl("-n", SYSTEM, "get", "podmonitors", "-l", "release=prometheus", "-o", "json"))["items"]]
    if len(selected) != 2:
        sys.exit(f"scrape: the label of the values selects the PodMonitors {selected}, and not both")
    kubectl("apply", "-f", "-", text=CLUSTERS)
    kubectl("-n", SPACE, "wait", "--for=condition=Ready", "kvc", "--all", "--timeout=3m")
    with tempfile.TemporaryDirectory() as scratch:
        prometheus = Prometheus(Path(scratch))
        try:
            check(prometheus)
        finally:
            prometheus.process.kill()
            prometheus.process.wait()
    kubectl("delete", "namespace", SPACE)


RELEASE = sys.argv[1]
try:
    main()
except subprocess.CalledProcessError as error:
    sys.exit(f"scrape: {' '.join(error.cmd)}: {error.stderr}")
