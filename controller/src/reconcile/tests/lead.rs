//! Goal: the Service's label follows what leader pods report by their streams, at every replica of the operator.
//! Method: leader pods that have nothing but a stream, and answer no GET /status.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::channel::mpsc::unbounded;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use tokio::sync::mpsc;

use super::tls::{certificates_of, node_over_tls};
use super::*;
use crate::reconcile::lead::waiting::Waiting;

/// A leader pod that has nothing but a stream, with the text that the test sends.
struct Streaming {
    sender: mpsc::Sender<String>,
    port: u16,
    opened: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    /// How often the operator asked for the status.
    asked: Arc<AtomicUsize>,
}

/// Counts a stream while it is open.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Streaming {
    async fn start(address: SocketAddr) -> Self {
        let (sender, receiver) = mpsc::channel::<String>(1);
        let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
        let (opened, open, asked): (Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>) = Default::default();
        let counts = (opened.clone(), open.clone());
        let events = move || {
            counts.0.fetch_add(1, Ordering::SeqCst);
            counts.1.fetch_add(1, Ordering::SeqCst);
            let state = (receiver.clone(), Counted(counts.1.clone()));
            let parts = stream::unfold(state, |(receiver, counted)| async move {
                // Comments, as nodes send them.
                let next = async { receiver.lock().await.recv().await };
                let part = tokio::time::timeout(Duration::from_secs(1), next).await;
                let part = part.unwrap_or_else(|_| Some(": alive\n\n".to_owned()))?;
                Some((Ok::<_, Infallible>(part), (receiver, counted)))
            });
            std::future::ready(axum::body::Body::from_stream(parts))
        };
        let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let count = asked.clone();
        let status = move || {
            count.fetch_add(1, Ordering::SeqCst);
            std::future::ready(axum::http::StatusCode::NOT_FOUND)
        };
        let router = Router::new().route("/leadership", get(events)).route("/status", get(status));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { sender, port, opened, open, asked }
    }

    async fn first() -> Self {
        Self::start(([127, 0, 0, 1], 0).into()).await
    }

    async fn send(&self, text: &str) {
        self.sender.send(text.to_owned()).await.expect("it is read");
    }
}

fn event(state: &str, term: u64) -> String {
    let data = json!({"state": state, "epoch": {"term": term, "leader": "a"}});
    format!(": alive\n\ndata: {data}\n\n")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// The label and the annotation that a pod got last.
fn label(api: &ApiServer, pod: &str) -> Option<(Value, Value)> {
    let asked = api.writes().into_iter().rfind(|asked| asked.path.ends_with(pod))?;
    let of = |kind: &str, key: &str| asked.body["metadata"][kind][key].clone();
    Some((of("labels", build::LEADS), of("annotations", "kvcluster.io/leads-epoch")))
}

fn leads(api: &ApiServer, pod: &str) -> bool {
    label(api, pod).is_some_and(|(label, _)| label == json!("true"))
}

#[tokio::test]
async fn a_pod_is_labelled_when_its_stream_reports_that_it_leads() {
    let (api, client) = ApiServer::start(|_| None);
    let first = Streaming::first().await;
    let second = Streaming::start(([127, 0, 0, 2], first.port).into()).await;
    let pods = vec![leader_pod(), leader_pod_at("demo-leader-y", "127.0.0.2")];
    let context = context(client, first.port, pods.clone());
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    context.lead_labels.keep(&validated("{leader: {standbys: 1}}"), &pods, &context);
    second.send(&event("standby", 7)).await;
    first.send(&event("open", 8)).await;
    until("the first leads", || leads(&api, "demo-leader-x")).await;
    assert_eq!(label(&api, "demo-leader-x").expect("a label").1, json!(r#"{"term":8,"leader":"a"}"#));
    assert_eq!(label(&api, "demo-leader-y"), None);
    // Half of an event is none.
    let later = event("open", 9);
    second.send(&later[..30]).await;
    second.send(&later[30..]).await;
    until("the second leads", || leads(&api, "demo-leader-y")).await;
}

// Goal: of two replicas that keep the labels, one that does not reach the leader does not give the label back. Method: a pod
// that another replica labelled by a later epoch, and that does not answer.
#[tokio::test]
async fn the_label_stays_on_a_pod_of_a_later_epoch_that_this_replica_does_not_reach() {
    let (api, client) = ApiServer::start(|_| None);
    let reached = Streaming::first().await;
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Apply(standby_pod("demo-leader-x", "demo", false)));
    let mut led = standby_pod("demo-leader-y", "demo", false);
    led.status.as_mut().expect("a status").pod_ip = Some("127.0.0.2".to_owned());
    led.labels_mut().insert(build::LEADS.to_owned(), "true".to_owned());
    led.annotations_mut().insert("kvcluster.io/leads-epoch".to_owned(), r#"{"term":9,"leader":"a"}"#.to_owned());
    writer.apply_watcher_event(&watcher::Event::Apply(led));
    let waiting = waiting(&client, reached.port, store, reflector::store().0);
    waiting.look("shop", "demo");
    reached.send(&event("open", 8)).await;
    reached.send(": alive\n\n").await;
    let asked = reached.asked.load(Ordering::SeqCst);
    until("it looks again and again", || reached.asked.load(Ordering::SeqCst) > asked + 2).await;
    assert_eq!(api.writes().len(), 0, "{:?}", api.writes());
    reached.send(&event("open", 10)).await;
    until("the pod leads", || leads(&api, "demo-leader-x")).await;
}

// Goal: no pod keeps the label beside the one that leads, also where this replica does not know yet that another one gave it.
// Method: the API server lists a pod with the label that the watch has not reported.
#[tokio::test]
async fn a_label_that_this_replica_has_not_seen_is_taken_too() {
    let unseen = json!({"metadata": {"name": "demo-leader-z", "labels": {build::LEADS: "true"}}});
    let (api, client) = ApiServer::start(move |asked| {
        let lists = asked.path.ends_with("/pods") && asked.query.contains("leads%3Dtrue");
        lists.then(|| (200, json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": [unseen]})))
    });
    let leader = Streaming::first().await;
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Apply(standby_pod("demo-leader-x", "demo", false)));
    let waiting = waiting(&client, leader.port, store, reflector::store().0);
    waiting.look("shop", "demo");
    leader.send(&event("open", 3)).await;
    until("the pod leads", || leads(&api, "demo-leader-x")).await;
    until("the other does not", || label(&api, "demo-leader-z").is_some_and(|(label, _)| label.is_null())).await;
}

// Goal: a connection that is lost, and so silent, does not pass for a leader that has nothing new to say.
#[tokio::test]
async fn a_silent_stream_is_opened_again() {
    let (_api, client) = ApiServer::start(|_| None);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let opened: Arc<AtomicUsize> = Arc::default();
    let count = opened.clone();
    let silent = move || {
        count.fetch_add(1, Ordering::SeqCst);
        std::future::ready(axum::body::Body::from_stream(stream::pending::<Result<String, Infallible>>()))
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/leadership", get(silent))).await });
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Apply(standby_pod("demo-leader-x", "demo", false)));
    let waiting = waiting(&client, port, store, reflector::store().0);
    waiting.look("shop", "demo");
    until("it is opened again", || opened.load(Ordering::SeqCst) > 1).await;
}

// Goal: a stream costs a bounded amount of memory, is opened again, and ends with its pod.
#[tokio::test]
async fn a_stream_that_is_no_stream_of_events_is_closed_and_opened_again_and_none_stays_without_its_pod() {
    let (api, client) = ApiServer::start(|_| None);
    let leader = Streaming::first().await;
    let (store, mut writer) = reflector::store();
    let pod = standby_pod("demo-leader-x", "demo", false);
    writer.apply_watcher_event(&watcher::Event::Apply(pod.clone()));
    let waiting = waiting(&client, leader.port, store, reflector::store().0);
    waiting.look("shop", "demo");
    until("a stream is open", || leader.open.load(Ordering::SeqCst) == 1).await;
    let opened = leader.opened.load(Ordering::SeqCst);
    // No line ends.
    for _ in 0..8 {
        leader.send(&"x".repeat(4 << 10)).await;
    }
    until("it is opened again", || leader.opened.load(Ordering::SeqCst) > opened).await;
    until("the long one is closed", || leader.open.load(Ordering::SeqCst) == 1).await;
    leader.send(&event("open", 1)).await;
    until("the pod leads", || leads(&api, "demo-leader-x")).await;
    writer.apply_watcher_event(&watcher::Event::Delete(pod));
    // As of a hibernated cluster, whose task goes on.
    until("no stream is open", || leader.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(waiting.labels.running(), 1);
    waiting.look("shop", "demo");
    assert_eq!(waiting.labels.running(), 0);
}

// Goal: a replica that does not reconcile keeps the labels too, of pods that may be standbys, also over TLS, and believes no
// pod before it knows the CA. Method: what the watches report, without a KvCluster.
#[tokio::test]
async fn the_label_is_kept_without_a_reconciliation_and_by_the_ca_that_clients_get() {
    let (api, client) = ApiServer::start(|_| None);
    let certificates = certificates_of("demo");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{}", event("open", 1));
    let (port, read) = node_over_tls(&certificates, answer, true).await;
    let (pods, mut pod_writer) = reflector::store();
    let (authorities, mut authority_writer) = reflector::store();
    let waiting = Arc::new(waiting(&client, port, pods, authorities));
    let ((pod_changes, of_pods), (authority_changes, of_authorities)) = (unbounded(), unbounded());
    let (runs, labels) = (waiting.clone(), waiting.clone());
    tokio::spawn(async move {
        runs.run(of_pods.map(Ok::<Pod, Infallible>), of_authorities.map(Ok::<ConfigMap, Infallible>)).await;
    });
    let mut touch = |event: watcher::Event<Pod>| {
        pod_writer.apply_watcher_event(&event);
        let (watcher::Event::Apply(pod) | watcher::Event::Delete(pod)) = event else { return };
        pod_changes.unbounded_send(pod).expect("it is read");
    };
    let mut alone = leader_pod();
    alone.labels_mut().insert("app.kubernetes.io/instance".to_owned(), "alone".to_owned());
    touch(watcher::Event::Apply(alone));
    let pod = standby_pod("demo-leader-x", "demo", true);
    touch(watcher::Event::Apply(pod.clone()));
    until("the task runs", || labels.labels.running() == 1).await;
    let certificate = BTreeMap::from([("ca.crt".to_owned(), certificates.trusted.clone().expect("a CA"))]);
    let mut authority = ConfigMap { data: Some(certificate), ..ConfigMap::default() };
    (authority.metadata.name, authority.metadata.namespace) = (Some("demo-ca".to_owned()), Some("shop".to_owned()));
    authority.metadata.labels = Some(build::labels("demo", None));
    assert_eq!((read.load(Ordering::SeqCst), api.writes().len()), (0, 0), "no CA is known");
    authority_writer.apply_watcher_event(&watcher::Event::Apply(authority.clone()));
    authority_changes.unbounded_send(authority).expect("it is read");
    until("the pod leads", || leads(&api, "demo-leader-x")).await;
    touch(watcher::Event::Delete(pod));
    until("the task ends", || labels.labels.running() == 0).await;
}

/// A leader pod of a cluster with standbys.
fn standby_pod(name: &str, cluster: &str, over_tls: bool) -> Pod {
    let mut pod = leader_pod_at(name, "127.0.0.1");
    pod.metadata.labels = Some(build::labels(cluster, Some(Component::Leader)));
    let tls = over_tls.then(|| json!({"name": "TLS_CERT_FILE", "value": "/tls/tls.crt"}));
    let env: Vec<Value> = tls.into_iter().chain([json!({"name": "TAKEOVER_AFTER_MS", "value": "500"})]).collect();
    pod.spec = serde_json::from_value(json!({"containers": [{"name": "kv-node", "env": env}]})).expect("a spec");
    pod
}

fn waiting(
    client: &Client,
    port: u16,
    pods: reflector::Store<Pod>,
    authorities: reflector::Store<ConfigMap>,
) -> Waiting {
    Waiting {
        pods: Indexed::new(pods),
        authorities,
        leaders: Arc::new(LeaderClients::on_port(port).expect("a client")),
        labels: LeadLabels::default(),
        client: client.clone(),
    }
}
