//! Goal: with separate ports a client reaches neither replication nor administration, while the cluster works and is
//! administered. Method: a pod of a client, and one with the labels of a backup, try every port of every node. The policy is
//! then taken away, to see that it was what kept them off.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{LogParams, PostParams};
use kvcluster_api::resource::KvCluster;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{Demo, PATIENCE, ask, is_true};
use crate::plugin::kv;

/// Whether a node answered, by component and port.
type Reached = BTreeMap<(String, u16), bool>;

#[tokio::test]
async fn a_client_reaches_neither_replication_nor_administration() {
    let demo = Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "durability": "Memory", "delay": {"maxMs": 5},
        "separatePorts": true, "leader": {"standbys": 1}}))
    .await;
    let put = async |value: &str| {
        let url = format!("{}/put", demo.service().await);
        ask(Method::POST, &url, Some(json!({"key": "fruit", "value": value}))).await
    };
    assert_eq!(put("quince").await.0, 200);
    demo.patch(json!({"writeQuorum": 3})).await.unwrap();
    demo.until("the operator changed the quorum", |cluster| {
        is_true(cluster, "ConfigApplied")
            && cluster.status.as_ref().is_some_and(|status| status.applied_write_quorum == Some(3))
    })
    .await;
    let file = std::env::temp_dir().join(format!("{}.backup", demo.namespace));
    kv(&demo, &["backup", "demo", "--to", file.to_str().unwrap()]).await;
    assert!(std::fs::read_to_string(&file).unwrap().contains("quince"));
    std::fs::remove_file(&file).unwrap();
    kv(&demo, &["promote", "demo"]).await;
    let (code, answer) = ask(Method::GET, &format!("{}/backup", demo.service().await), None).await;
    assert_eq!((code, answer["message"].to_string().contains("ADMIN_PORT (8002)")), (404, true), "{answer}");
    assert_eq!(put("medlar").await.0, 200);

    let expected = |clients: bool, replication: bool, administration: bool| -> Reached {
        let of = |component: &str, port, reached| ((component.to_owned(), port), reached);
        [
            of("leader", 8000, clients),
            of("leader", 8002, administration),
            of("follower", 8000, clients),
            of("follower", 8001, replication),
            of("follower", 8002, administration),
        ]
        .into()
    };
    let client = Asker::start(&demo, json!({"app": "shop"})).await;
    let of_backup = json!({"app.kubernetes.io/name": "kvcluster", "app.kubernetes.io/instance": "demo",
        "app.kubernetes.io/component": "backup"});
    let backup = Asker::start(&demo, of_backup).await;
    client.until_it_reaches(&demo, &expected(true, false, false)).await;
    backup.until_it_reaches(&demo, &expected(false, false, true)).await;
    demo.patch(json!({"networkPolicy": {"enabled": false}})).await.unwrap();
    client.until_it_reaches(&demo, &expected(true, true, true)).await;

    for change in [json!({"separatePorts": false}), json!({"separatePorts": null})] {
        let refused = demo.patch(change).await.unwrap_err().to_string();
        assert!(refused.contains("separatePorts cannot change"), "{refused}");
    }
    let left = demo.api::<KvCluster>().get("demo").await.unwrap();
    assert!(left.spec.separate_ports);
    demo.remove().await;
}

/// A pod with these labels and a container for each node and port, each of which asks again and again: a policy follows a pod
/// some moments later. Its image has no shell, and a program that asks one URL.
struct Asker {
    pod: String,
    asked: Vec<(String, u16)>,
}

impl Asker {
    async fn start(demo: &Demo, labels: Value) -> Self {
        let mut asked = Vec::new();
        let mut containers = Vec::new();
        let image = demo.leader().await.spec.unwrap().containers[0].image.clone();
        for (component, ports) in [("leader", &[8000, 8002][..]), ("follower", &[8000, 8001, 8002])] {
            let pod = demo.staying_pods(Some(component)).await.remove(0);
            let address = pod.status.unwrap().pod_ip.unwrap();
            for port in ports {
                asked.push((component.to_owned(), *port));
                let url = format!("http://{address}:{port}/healthz");
                containers.push(json!({"name": format!("ask-{component}-{port}"), "image": image,
                    "imagePullPolicy": "IfNotPresent", "command": ["kv-node", "healthcheck", "--url", url],
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}));
            }
        }
        let security = json!({"runAsNonRoot": true, "runAsUser": 65_532, "seccompProfile": {"type": "RuntimeDefault"}});
        let pod = json!({"metadata": {"generateName": "asks-", "labels": labels},
            "spec": {"restartPolicy": "Always", "securityContext": security, "containers": containers}});
        let pod =
            demo.api::<Pod>().create(&PostParams::default(), &serde_json::from_value(pod).unwrap()).await.unwrap();
        Self { pod: pod.name_any(), asked }
    }

    async fn until_it_reaches(&self, demo: &Demo, expected: &Reached) {
        let started = Instant::now();
        loop {
            let found = self.reached(demo).await;
            if found == *expected {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{} reaches {found:?}, not {expected:?}", self.pod);
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// By the last answer of each container; nothing of those that have none yet.
    async fn reached(&self, demo: &Demo) -> Reached {
        let mut reached = Reached::new();
        for (component, port) in &self.asked {
            let container = Some(format!("ask-{component}-{port}"));
            let log = demo.api::<Pod>().logs(&self.pod, &LogParams { container, ..LogParams::default() }).await;
            let Some(answer) = log.ok().filter(|log| !log.trim().is_empty()) else { continue };
            let failed = answer.contains("did not answer") || answer.contains("failed to reach");
            reached.insert((component.clone(), *port), !failed);
        }
        reached
    }
}
