//! Goal: the operator writes the certificates before the pods, brings new ones to them, and believes no node that does not show
//! one of the cluster. Method: an API server that keeps Secrets, and nodes that speak TLS with the certificates of Secrets.

use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::jiff::Timestamp;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::reconcile::certificates::{self, Certificates};
use crate::reconcile::leader_client::LeaderClients;
use crate::reconcile::secrets::Secrets;

fn text(secrets: &Arc<Mutex<BTreeMap<String, Value>>>, name: &str, key: &str) -> String {
    lines_of(secrets, name, key).join("\n")
}

#[tokio::test]
async fn certificates_come_before_the_pods_and_new_ones_are_hurried_to_them() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (api, client) = ApiServer::start(with_secrets(&secrets));
    let mut pod = leader_pod_at("demo-follower-0", "127.0.0.1");
    pod.metadata.labels = Some(labels("demo", Some(Component::Follower)));
    let context = context(client, 1, vec![pod]);
    let cluster = opened("{tls: {}}", 5);
    let look = async || {
        reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds");
        condition_of(&api.applied("/status"), "CertificateValid")["reason"].clone()
    };
    assert_eq!(look().await, json!("Valid"));
    let order: Vec<String> = api.writes().iter().map(|asked| asked.path.clone()).collect();
    let at =
        |end: &str| order.iter().position(|path| path.ends_with(end)).unwrap_or_else(|| panic!("{end}: {order:?}"));
    assert!(at("secrets/demo-ca") < at("secrets/demo-tls"));
    assert!(at("secrets/demo-tls") < at("statefulsets/demo-follower"));
    assert!(at("secrets/demo-tls") < at("deployments/demo-leader"));
    assert_eq!(api.applied("configmaps/demo-ca")["data"]["ca.crt"], json!(text(&secrets, "demo-ca", "tls.crt") + "\n"));
    let first = secrets.lock().clone();
    let hurried = || api.writes().iter().filter(|asked| asked.path.ends_with("pods/demo-follower-0")).count();
    look().await;
    assert_eq!((hurried(), *secrets.lock() == first), (0, true), "nothing has changed");
    secrets.lock().remove("demo-tls");
    look().await;
    assert_eq!(secrets.lock()["demo-ca"], first["demo-ca"]);
    assert_ne!(secrets.lock()["demo-tls"]["data"]["tls.crt"], first["demo-tls"]["data"]["tls.crt"]);
    assert_eq!(secrets.lock()["demo-tls"]["data"]["ca.crt"], first["demo-tls"]["data"]["ca.crt"]);
    assert_eq!(hurried(), 1, "its kubelet writes the file at once");
    let mark = |secret: &Value| secret["metadata"]["annotations"]["kvcluster.io/applied"].clone();
    assert_eq!(mark(&secrets.lock()["demo-tls"]), mark(&first["demo-tls"]), "no annotation depends on the key");
}

#[tokio::test]
async fn a_secret_of_others_is_read_and_never_written() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (api, client) = ApiServer::start(with_secrets(&secrets));
    let context = context(client, 1, vec![]);
    reconcile(guarded(opened("{tls: {secretName: shops}}", 5)), context).await.expect("it succeeds");
    let condition = condition_of(&api.applied("/status"), "CertificateValid");
    assert_eq!((&condition["status"], &condition["reason"]), (&json!("False"), &json!("SecretMissing")));
    let events: Vec<Asked> = api.writes().into_iter().filter(|asked| asked.path.ends_with("/events")).collect();
    assert!(events.iter().any(|event| event.body["reason"] == "CertificateSecretMissing"), "{events:?}");
    let written: Vec<String> = api.writes().into_iter().map(|asked| asked.path).collect();
    for name in ["secrets/shops", "secrets/demo-tls", "secrets/demo-ca", "configmaps/demo-ca"] {
        assert!(!written.iter().any(|path| path.ends_with(name)), "{name}");
    }
}

/// The certificates of another cluster or of another CA each time.
pub(super) fn certificates_of(name: &str) -> Certificates {
    let mut cluster = validated("{tls: {}}");
    cluster.name = name.to_owned();
    certificates::decide(&cluster, &Secrets::none(), Timestamp::now())
}

/// A leader that speaks TLS with this certificate. Returns its port, and how many requests it has read.
async fn leader_over_tls(certificates: &Certificates) -> (u16, Arc<AtomicUsize>) {
    let status = json!({"role": "leader", "state": "open", "epoch": {"term": 1, "leader": "a"},
        "config": config(4, 3, 5), "followers": []});
    let body = status.to_string();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    node_over_tls(certificates, answer, false).await
}

/// The same of a node with one answer, after which it closes the connection, unless the answer is a stream that stays open.
pub(super) async fn node_over_tls(
    certificates: &Certificates,
    answer: String,
    stays_open: bool,
) -> (u16, Arc<AtomicUsize>) {
    let node = &certificates.issued.as_ref().expect("certificates").node;
    let chain = vec![CertificateDer::from_pem_slice(node.certificate.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(node.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let server = server.expect("versions").with_no_client_auth().with_single_cert(chain, key).expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let read = Arc::new(AtomicUsize::new(0));
    let count = read.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                head.push(byte);
            }
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(answer.as_bytes()).await.expect("sent");
            if stays_open {
                tokio::spawn(async move { stream.read_u8().await });
            } else {
                stream.shutdown().await.expect("sent");
            }
        }
    });
    (port, read)
}

#[tokio::test]
async fn a_node_with_another_certificate_or_none_is_not_believed_and_reads_nothing() {
    let ours = certificates_of("demo");
    let pods = [Arc::new(leader_pod())];
    let ask = async |port: u16, trusted: Option<&str>| {
        let leaders = LeaderClients::on_port(port).expect("a client");
        leaders.trust("shop", "demo", trusted).expect("CAs");
        leaders.of("shop", "demo").observe(&pods, false).await
    };
    let (port, read) = leader_over_tls(&ours).await;
    let seen = ask(port, ours.trusted.as_deref()).await;
    assert!(matches!(&seen, LeaderSeen::Answered(leader) if leader.url.starts_with("https://127.0.0.1:")), "{seen:?}");
    assert_eq!(read.load(Ordering::SeqCst), 1);
    let refused = async |port: u16, trusted: Option<&str>| match ask(port, trusted).await {
        LeaderSeen::Unreachable { error, .. } => error.to_string(),
        seen => panic!("{seen:?}"),
    };
    assert!(
        refused(port, None).await.contains("invalid peer certificate"),
        "no CA is known, so no certificate is trusted"
    );
    let other = certificates_of("demo");
    assert!(refused(port, other.trusted.as_deref()).await.contains("invalid peer certificate"), "another CA");
    assert_eq!(read.load(Ordering::SeqCst), 1, "no request was sent");
    let shop = certificates_of("shop");
    let (port, read) = leader_over_tls(&shop).await;
    assert!(refused(port, shop.trusted.as_deref()).await.contains("not valid for name"), "another cluster's");
    assert_eq!(read.load(Ordering::SeqCst), 0, "no request was sent");
    let plain = ScriptedLeader::start(config(4, 3, 5), (200, json!({}))).await;
    let error = refused(plain.port, ours.trusted.as_deref()).await;
    assert!(!error.is_empty(), "a node without TLS");
}

#[tokio::test]
async fn what_was_trusted_stays_while_no_ca_is_known_and_goes_with_the_cluster() {
    let (ours, other) = (certificates_of("demo"), certificates_of("demo"));
    let (port, _) = leader_over_tls(&ours).await;
    let pods = [Arc::new(leader_pod())];
    let leaders = LeaderClients::on_port(port).expect("a client");
    let answers = async || {
        let seen = leaders.of("shop", "demo").observe(&pods, false).await;
        seen.answered().is_some()
    };
    leaders.trust("shop", "demo", ours.trusted.as_deref()).expect("CAs");
    leaders.trust("shop", "demo", None).expect("what it was");
    assert!(answers().await);
    leaders.trust("shop", "demo", other.trusted.as_deref()).expect("CAs");
    assert!(!answers().await);
    let both: String = [&ours, &other].into_iter().filter_map(|of| of.trusted.clone()).collect();
    leaders.trust("shop", "demo", Some(&both)).expect("CAs");
    assert!(answers().await, "one of two CAs");
    leaders.forget("shop", "demo");
    assert!(!answers().await, "without TLS it is asked by http://");
}
