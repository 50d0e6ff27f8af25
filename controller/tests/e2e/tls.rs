//! Goal: a KvCluster with TLS works without a setting of clients but its CA, and its certificate is replaced under load with
//! no failed write and no restart of a pod.

use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, LogParams};
use kv_bench::client::Credentials;
use kv_bench::cluster::control::{Access, KvClusterResource};
use kv_bench::cluster::{RunningCluster, kube};
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Demo, PATIENCE, ask, condition, is_true};
use crate::writer::Writer;

/// By port-forward and sessions of TLS, whose certificates are checked.
async fn open(demo: &Demo) -> RunningCluster {
    let access = Access { client: demo.client.clone(), inside: false };
    let resource = KvClusterResource::new(demo.client.clone(), "demo", Some(&demo.namespace));
    kube(&access, resource, Credentials::default()).await.unwrap()
}

#[tokio::test]
async fn a_cluster_with_tls_renews_its_certificate_under_load_and_no_write_fails() {
    let demo = Demo::ready(json!({"replicas": 3, "writeQuorum": 2, "delay": {"maxMs": 10}, "durability": "Memory",
        "tls": {}, "leader": {"standbys": 1}}))
    .await;
    let cluster = demo.api::<kvcluster_api::resource::KvCluster>().get("demo").await.unwrap();
    assert_eq!(condition(&cluster, "CertificateValid"), ("True".to_owned(), "Valid".to_owned()));
    let ca = demo.api::<ConfigMap>().get("demo-ca").await.unwrap().data.unwrap().remove("ca.crt").unwrap();
    assert!(ca.starts_with("-----BEGIN CERTIFICATE-----") && !ca.contains("PRIVATE KEY"), "{ca}");

    let (code, body) = ask(Method::GET, &format!("{}/get?key=k", demo.url("leader").await), None).await;
    assert_eq!((code, body["error"].to_string().contains("speaks TLS")), (400, true), "{body}");
    let running = open(&demo).await;
    let (code, body) =
        ask(Method::POST, &format!("{}/put", running.leader_url), Some(json!({"key": "k", "value": "v"}))).await;
    assert_eq!((code, &body["ok"]), (200, &json!(true)), "{body}");
    assert_eq!(redis(&running.leader_redis, "*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", 7).await, "$1\r\nv\r\n");

    let before = demo.identities().await;
    let writer = Writer::start_at(vec![running.leader_url.clone()], std::time::Duration::from_secs(6)).await;
    for round in 1..=3 {
        let started = Instant::now();
        let old = certificate(&demo).await;
        demo.api::<Secret>().delete("demo-tls", &DeleteParams::default()).await.unwrap();
        demo.until_object::<Secret>("demo-tls", "another certificate", |secret| {
            secret.and_then(|secret| part(secret, "tls.crt")).is_some_and(|new| new != old)
        })
        .await;
        until_taken_over(&demo, round).await;
        println!("round {round}: every node shows the new certificate after {:?}", started.elapsed());
        writer.progress().await;
        // New sessions, with the CA that clients had before.
        let fresh = open(&demo).await;
        for url in std::iter::once(&fresh.leader_url).chain(&fresh.follower_urls) {
            let (code, body) = ask(Method::GET, &format!("{url}/get?key=k"), None).await;
            assert_eq!((code, &body["value"]), (200, &json!("v")), "{url}: {body}");
        }
    }
    let report = writer.finish_at(&running.leader_url).await;
    println!("three certificates: {report}");
    assert_eq!(report.failed, 0);
    assert_eq!(demo.identities().await, before, "a pod restarted");
    demo.until("is calm", |cluster| is_true(cluster, "CertificateValid") && is_true(cluster, "Ready")).await;
    demo.remove().await;
}

#[tokio::test]
async fn a_secret_that_is_missing_is_reported_and_tls_cannot_be_taken_away() {
    let demo = Demo::empty().await;
    demo.create(json!({"replicas": 1, "writeQuorum": 1, "durability": "Memory", "tls": {"secretName": "shops"}}))
        .await
        .unwrap();
    demo.until("says that the Secret is missing", |cluster| {
        condition(cluster, "CertificateValid") == ("False".to_owned(), "SecretMissing".to_owned())
    })
    .await;
    for change in [json!({"tls": null}), json!({"tls": {"secretName": "others"}}), json!({"tls": {"secretName": null}})]
    {
        let refused = demo.patch(change.clone()).await.unwrap_err().to_string();
        assert!(refused.contains("tls cannot change"), "{change}: {refused}");
    }
    demo.remove().await;
}

/// Waits until each pod has logged that it took over so many certificates.
async fn until_taken_over(demo: &Demo, count: usize) {
    let started = Instant::now();
    let pods: Api<Pod> = demo.api();
    for pod in demo.pods(None).await {
        let name = pod.metadata.name.unwrap();
        let parameters = LogParams { container: Some("kv-node".to_owned()), ..LogParams::default() };
        while pods.logs(&name, &parameters).await.unwrap().matches("the certificate changed").count() < count {
            assert!(started.elapsed() < PATIENCE, "{name} has not taken over certificate {count}");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
}

async fn redis(address: &str, command: &str, length: usize) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(command.as_bytes()).await.unwrap();
    let mut answer = vec![0; length];
    connection.read_exact(&mut answer).await.unwrap();
    String::from_utf8(answer).unwrap()
}

async fn certificate(demo: &Demo) -> String {
    part(&demo.api::<Secret>().get("demo-tls").await.unwrap(), "tls.crt").unwrap()
}

fn part(secret: &Secret, key: &str) -> Option<String> {
    Some(String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).unwrap())
}
