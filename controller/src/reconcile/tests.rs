//! Goal: what reconciling does when the API server or the leader does not do as it should.
//! Method: a scripted API server and a scripted leader; what they were asked is compared.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::routing::{get, patch};
use axum::{Json, Router};
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Client;
use kube::client::Body;
use kube::runtime::{reflector, watcher};
use kvcluster_api::resource::KvClusterStatus;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tower_test::mock;

use super::*;
use crate::build::{Component, labels};
use crate::context::{Indexed, Stores};
use crate::fixtures::{UID, cluster, defaults, validated};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::reconcile::applier::Applier;
use crate::reconcile::events::Recorder;
use crate::reconcile::lead::LeadLabels;
use crate::reconcile::leader_client::{LeaderClients, LeaderSeen};
use crate::reconcile::roll::Rollouts;
use crate::reconcile::tokens::{Stage, Tokens};
use crate::rights;

/// One request, as the API server saw it.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    path: String,
    query: String,
    body: Value,
}

/// Answers every request by a function, and keeps what was asked.
struct ApiServer {
    asked: Arc<Mutex<Vec<Asked>>>,
}

type Answer = (u16, Value);

impl ApiServer {
    fn start(answer: impl Fn(&Asked) -> Option<Answer> + Send + 'static) -> (Self, Client) {
        let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        tokio::spawn(async move {
            while let Some((request, reply)) = handle.next_request().await {
                let (head, body) = request.into_parts();
                let bytes = body.collect_bytes().await.expect("a body");
                let request = Asked {
                    method: head.method,
                    path: head.uri.path().to_owned(),
                    query: head.uri.query().unwrap_or_default().to_owned(),
                    body: serde_json::from_slice(&bytes).unwrap_or_default(),
                };
                rights::record(&request.method, &request.path, &request.query, &request.body);
                let (code, body) = answer(&request).unwrap_or_else(|| usual(&request));
                log.lock().push(request);
                let body = Body::from(serde_json::to_vec(&body).expect("JSON"));
                reply.send_response(Response::builder().status(code).body(body).expect("a response"));
            }
        });
        (Self { asked }, Client::new(service, "shop"))
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    fn writes(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.method != Method::GET).collect()
    }

    /// The newest body that was applied to this object.
    fn applied(&self, path_end: &str) -> Value {
        let writes = self.writes();
        let found = writes.iter().rev().find(|asked| asked.path.ends_with(path_end));
        found.unwrap_or_else(|| panic!("{path_end} is not among {writes:?}")).body.clone()
    }
}

/// Tests whose requests together need every right of the operator.
pub(crate) fn scenarios() {
    a_new_cluster_gets_every_object_by_server_side_apply();
    a_policy_that_is_switched_off_is_deleted_unless_it_has_another_owner();
    a_budget_that_is_switched_off_is_deleted();
    a_schedule_of_backups_comes_and_goes_with_the_spec();
    the_job_of_a_bootstrap_comes_when_the_leader_waits_and_goes_when_the_restore_is_recorded();
    the_claims_of_the_followers_are_owned_by_the_cluster_where_they_go_with_it();
    growth::volumes_grow_and_the_stateful_set_is_replaced_without_its_pods();
    a_malformed_resource_does_not_stay_ready();
    a_refused_object_is_reported_with_the_words_of_the_api_server();
    the_label_is_on_the_open_leader_with_the_highest_epoch();
    a_new_template_evicts_one_follower_and_pauses_the_leader();
    what_the_budget_refuses_is_reported_and_where_it_allows_nothing_the_pod_is_deleted();
}

// An empty cluster that takes everything.
fn usual(request: &Asked) -> Answer {
    if request.method == Method::GET {
        return failure(404, "NotFound", "not found");
    }
    let mut body = request.body.clone();
    body["metadata"]["uid"] = json!("made");
    body["metadata"]["resourceVersion"] = json!("1000");
    if request.path.ends_with("/status") {
        body["spec"] = json!({});
    }
    (200, body)
}

fn failure(code: u16, reason: &str, message: &str) -> Answer {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

/// A leader that answers with one status, and with one answer to a change of its configuration.
struct ScriptedLeader {
    port: u16,
    patched: Arc<Mutex<Vec<(String, Value)>>>,
}

impl ScriptedLeader {
    async fn start(config: Value, answer: (u16, Value)) -> Self {
        Self::start_with(7, config, answer).await
    }

    /// One that lists so many followers.
    async fn start_with(listed: u32, config: Value, answer: (u16, Value)) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), 1, listed, config, answer).await
    }

    /// One at this address, with an epoch of this term.
    async fn start_at(address: SocketAddr, term: u64, listed: u32, config: Value, answer: (u16, Value)) -> Self {
        let followers: Vec<Value> = (0..listed)
            .map(|n| json!({"name": format!("demo-follower-{n}"), "state": "streaming", "member": true}))
            .collect();
        let status = json!({"role": "leader", "state": "open", "epoch": {"term": term, "leader": "a"}, "config": config, "followers": followers});
        Self::answering(address, status, answer).await
    }

    /// One with this status.
    async fn answering(address: SocketAddr, status: Value, answer: (u16, Value)) -> Self {
        let patched: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let log = patched.clone();
        let change = move |headers: axum::http::HeaderMap, Json(body): Json<Value>| async move {
            let token =
                headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
            log.lock().push((token, body));
            (axum::http::StatusCode::from_u16(answer.0).expect("a code"), Json(answer.1))
        };
        let router =
            Router::new().route("/status", get(move || async move { Json(status) })).route("/config", patch(change));
        let listener = tokio::net::TcpListener::bind(address).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { port, patched }
    }

    fn patched(&self) -> Vec<(String, Value)> {
        self.patched.lock().clone()
    }
}

fn config(generation: u64, write_quorum: u32, followers: u32) -> Value {
    json!({"generation": generation, "write_quorum": write_quorum, "followers": followers, "min_delay_ms": 0,
        "max_delay_ms": 200, "replication_timeout_ms": 5000, "pending": null})
}

fn store<K>(objects: Vec<K>) -> kube::runtime::reflector::Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let (store, mut writer) = reflector::store();
    writer.apply_watcher_event(&watcher::Event::Init);
    for object in objects {
        writer.apply_watcher_event(&watcher::Event::InitApply(object));
    }
    writer.apply_watcher_event(&watcher::Event::InitDone);
    // A store whose writer is gone counts as failed; the test's writers live as long as the test.
    std::mem::forget(writer);
    store
}

#[tokio::test]
async fn everybody_who_waits_for_the_watches_is_woken() {
    let (_api, client) = ApiServer::start(|_| None);
    let mut context = context(client, 1, vec![]);
    let (pods, mut writer) = reflector::store();
    Arc::get_mut(&mut context).expect("the only reference").stores.pods = Indexed::new(pods);
    let waiters: Vec<_> = (0..20)
        .map(|_| {
            let context = context.clone();
            tokio::spawn(async move { context.stores.ready().await })
        })
        .collect();
    tokio::task::yield_now().await; // all of them have begun to wait
    writer.apply_watcher_event(&watcher::Event::Init);
    writer.apply_watcher_event(&watcher::Event::InitDone);
    for waiter in waiters {
        tokio::time::timeout(Duration::from_secs(10), waiter).await.expect("it is woken").expect("it does not panic");
    }
}

fn context(client: Client, leader_port: u16, pods: Vec<Pod>) -> Arc<Context> {
    let metrics = Arc::new(Metrics::default());
    Arc::new(Context {
        applier: Applier::new(client.clone()),
        leaders: Arc::new(LeaderClients::on_port(leader_port).expect("a client")),
        lead_labels: LeadLabels::default(),
        rollouts: Rollouts::default(),
        rollouts_max: 3,
        recorder: Recorder::new(client.clone(), "operator-0".to_owned()),
        stores: Stores {
            accounts: store(vec![]),
            configs: store(vec![]),
            services: store(vec![]),
            stateful_sets: store(vec![]),
            deployments: store(vec![]),
            budgets: store(vec![]),
            policies: store(vec![]),
            cron_jobs: store(vec![]),
            jobs: store(vec![]),
            pods: Indexed::new(store(pods)),
            claims: Indexed::new(store(vec![])),
            listed: Arc::default(),
            unlisted: crate::context::Unlisted::default(),
        },
        defaults: defaults(),
        poll_interval: Duration::from_secs(3),
        calm_looks: Semaphore::new(4),
        memory: Arc::default(),
        health: Arc::new(Health::new(Duration::from_secs(120), metrics.clone())),
        metrics,
        without_retries: client.clone(),
        client,
    })
}

fn leader_pod() -> Pod {
    leader_pod_at("demo-leader-x", "127.0.0.1")
}

fn leader_pod_at(name: &str, address: &str) -> Pod {
    let pod = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": labels("demo", Some(Component::Leader))},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}});
    serde_json::from_value(pod).expect("a pod")
}

fn guarded(cluster: KvCluster) -> Arc<DeserializeGuard<KvCluster>> {
    Arc::new(DeserializeGuard(Ok(cluster)))
}

fn opened(spec: &str, replicas: i32) -> KvCluster {
    let mut cluster = cluster(spec);
    cluster.status =
        Some(KvClusterStatus { opened: true, applied_replicas: Some(replicas), ..KvClusterStatus::default() });
    cluster
}

// Goal: a pod with a port for administration is asked there, whatever the usual port is.
#[tokio::test]
async fn a_node_is_asked_at_its_port_for_administration() {
    let leader = ScriptedLeader::start(config(4, 3, 5), (200, json!({}))).await;
    let mut pod = serde_json::to_value(leader_pod()).expect("JSON");
    let port = json!({"name": "admin", "containerPort": leader.port});
    pod["spec"] = json!({"containers": [{"name": "sidecar", "ports": [{"name": "admin", "containerPort": 2}]},
        {"name": "kv-node", "ports": [{"name": "http", "containerPort": 1}, port]}]});
    let pods = [Arc::new(serde_json::from_value(pod).expect("a pod"))];
    let leaders = LeaderClients::on_port(1).expect("a client");
    let seen = leaders.of("shop", "demo").observe(&pods, false).await;
    assert!(seen.answered().is_some(), "{seen:?}");
}

#[tokio::test]
async fn a_new_cluster_gets_every_object_by_server_side_apply() {
    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster("{}")), context(client, 1, vec![])).await.expect("it succeeds");
    let writes = api.writes();
    let paths: Vec<&str> = writes.iter().filter_map(|asked| asked.path.rsplit('/').next()).collect();
    let expected = [
        "demo-config",
        "demo",
        "demo-auth",
        "demo-auth-accepted",
        "demo",
        "demo-followers",
        "demo",
        "demo-read",
        "demo-follower",
        "demo-leader",
        "demo-follower",
        "status",
    ];
    assert_eq!(paths, expected);
    for write in &writes {
        assert_eq!(write.method, Method::PATCH, "{write:?}");
        assert!(write.query.contains("fieldManager=kv-controller") && write.query.contains("force=true"), "{write:?}");
    }
    assert_eq!(api.applied("/status")["status"]["phase"], json!("Creating"));
}

#[tokio::test]
async fn a_refused_object_is_reported_with_the_words_of_the_api_server() {
    let (api, client) = ApiServer::start(|asked| {
        asked.path.ends_with("statefulsets/demo-follower").then(|| failure(403, "Forbidden", "exceeded quota: small"))
    });
    let error = reconcile(guarded(cluster("{}")), context(client, 1, vec![])).await.expect_err("it fails");
    assert_eq!(error.reason(), "ApplyFailed");
    let status = api.applied("/status")["status"].clone();
    let progressing =
        status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "Progressing")).cloned();
    let progressing = progressing.expect("the condition is there");
    assert_eq!((&progressing["status"], &progressing["reason"]), (&json!("False"), &json!("ApplyFailed")));
    assert!(progressing["message"].to_string().contains("exceeded quota: small"), "{progressing}");
    let events: Vec<Asked> = api.writes().into_iter().filter(|asked| asked.path.ends_with("/events")).collect();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0].body["reason"], &events[0].body["type"]), (&json!("ApplyFailed"), &json!("Warning")));
}

#[tokio::test]
async fn an_object_of_someone_else_is_not_taken_over() {
    let (api, client) = ApiServer::start(|asked| {
        let theirs = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "demo-read", "namespace": "shop",
            "ownerReferences": [{"apiVersion": "v1", "kind": "Shop", "name": "main", "uid": "other", "controller": true}]}});
        (asked.method == Method::GET && asked.path.ends_with("services/demo-read")).then_some((200, theirs))
    });
    let error = reconcile(guarded(cluster("{}")), context(client, 1, vec![])).await.expect_err("it fails");
    assert_eq!(
        error.to_string(),
        "Service demo-read exists already and belongs to Shop main: rename the KvCluster, or remove that object"
    );
    assert!(!api.writes().iter().any(|asked| asked.path.ends_with("services/demo-read")));
}

#[tokio::test]
async fn a_policy_that_is_switched_off_is_deleted_unless_it_has_another_owner() {
    let off = "{networkPolicy: {enabled: false}}";
    let with_policy = |client: Client, owner: &str| {
        let policy = json!({"metadata": {"name": "demo", "namespace": "shop", "uid": "policy", "ownerReferences": [
            {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": owner, "controller": true}]}});
        let mut context = context(client, 1, vec![]);
        let policies = &mut Arc::get_mut(&mut context).expect("the only reference").stores.policies;
        *policies = store(vec![serde_json::from_value(policy).expect("a policy")]);
        context
    };
    let (api, client) = ApiServer::start(|asked| {
        (asked.method == Method::DELETE).then(|| failure(403, "Forbidden", "the webhook refuses"))
    });
    let error = reconcile(guarded(cluster(off)), with_policy(client, UID)).await.expect_err("it fails").to_string();
    assert!(error.starts_with("failed to delete NetworkPolicy demo: "), "{error}");
    let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE).expect("it is deleted");
    assert_eq!(deleted.body["preconditions"]["uid"], json!("policy"));

    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster(off)), with_policy(client, "other")).await.expect("it succeeds");
    assert!(!api.asked().iter().any(|asked| asked.method == Method::DELETE));
}

#[tokio::test]
async fn a_budget_that_is_switched_off_is_deleted() {
    let (api, client) = ApiServer::start(|_| None);
    let budget = json!({"metadata": {"name": "demo-follower", "namespace": "shop", "uid": "budget", "ownerReferences": [
        {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID, "controller": true}]}});
    let mut context = context(client, 1, vec![]);
    let budgets = &mut Arc::get_mut(&mut context).expect("the only reference").stores.budgets;
    *budgets = store(vec![serde_json::from_value(budget).expect("a budget")]);
    reconcile(guarded(cluster("{disruptionBudget: {enabled: false}}")), context).await.expect("it succeeds");
    let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE).expect("it is deleted");
    assert!(deleted.path.ends_with("poddisruptionbudgets/demo-follower"), "{}", deleted.path);
    assert_eq!(deleted.body["preconditions"]["uid"], json!("budget"));
    assert!(!api.writes().iter().any(|asked| asked.method == Method::PATCH && asked.path.contains("disruption")));
}

#[tokio::test]
async fn a_schedule_of_backups_comes_and_goes_with_the_spec() {
    let (api, client) = ApiServer::start(|_| None);
    let with = "{backup: {schedule: '@daily', destination: 'pvc://backups/shop'}}";
    reconcile(guarded(cluster(with)), context(client, 1, vec![])).await.expect("it succeeds");
    let applied = api.applied("cronjobs/demo-backup");
    assert_eq!(applied["spec"]["schedule"], json!("@daily"));
    let owner = applied["metadata"]["ownerReferences"].clone();

    let (api, client) = ApiServer::start(|_| None);
    let job = json!({"metadata": {"name": "demo-backup", "namespace": "shop", "uid": "job", "ownerReferences": owner}});
    let mut context = context(client, 1, vec![]);
    let jobs = &mut Arc::get_mut(&mut context).expect("the only reference").stores.cron_jobs;
    *jobs = store(vec![serde_json::from_value(job).expect("a CronJob")]);
    reconcile(guarded(cluster("{}")), context).await.expect("it succeeds");
    let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE).expect("it is deleted");
    assert!(deleted.path.ends_with("cronjobs/demo-backup"), "{}", deleted.path);
    assert_eq!(deleted.body["preconditions"]["uid"], json!("job"));
}

// Goal: a cluster that waits for its backup is not Ready and gets the Job, one that has it loses the Job for good, and a Job
// with another template is replaced. Method: what the leader says, the Jobs that there are, and the status.
#[tokio::test]
async fn the_job_of_a_bootstrap_comes_when_the_leader_waits_and_goes_when_the_restore_is_recorded() {
    let spec =
        "{replicas: 3, writeQuorum: 2, bootstrap: {fromBackup: {source: 's3://store/of/old', secretName: keys}}}";
    let start = async |start_pending: bool| {
        let followers: Vec<Value> = (0..3)
            .map(|n| json!({"name": format!("demo-follower-{n}"), "state": "streaming", "member": true}))
            .collect();
        let status = json!({"role": "leader", "state": "open", "epoch": {"term": 1, "leader": "a"},
            "config": config(4, 2, 3), "followers": followers, "start_pending": start_pending});
        ScriptedLeader::answering(([127, 0, 0, 1], 0).into(), status, (200, config(4, 2, 3))).await
    };
    let (api, client) = ApiServer::start(|_| None);
    let leader = start(true).await;
    reconcile(guarded(cluster(spec)), context(client, leader.port, vec![leader_pod()])).await.expect("it succeeds");
    let job = api.applied("jobs/demo-bootstrap");
    assert!(api.writes().iter().any(|asked| asked.path.ends_with("networkpolicies/demo-bootstrap")));
    let status = api.applied("/status")["status"].clone();
    assert_eq!((&status["phase"], &status["opened"]), (&json!("Creating"), &json!(false)));
    let condition = |type_: &str| {
        let found = status["conditions"].as_array().and_then(|all| all.iter().find(|one| one["type"] == type_));
        found.map(|one| (one["status"].clone(), one["reason"].clone())).expect("the condition is there")
    };
    assert_eq!(condition("Ready"), (json!("False"), json!("Restoring")));
    assert_eq!(condition("Bootstrapped"), (json!("False"), json!("Restoring")));
    assert_eq!(api.applied("configmaps/demo-config")["data"]["CLUSTER_OPENED"], json!("false"));

    let with_job = |client: Client, port: u16, template: &str| {
        let mut job = job.clone();
        job["metadata"]["uid"] = json!("job");
        job["metadata"]["annotations"]["kvcluster.io/template"] = json!(template);
        let mut context = context(client, port, vec![leader_pod()]);
        let jobs = &mut Arc::get_mut(&mut context).expect("the only reference").stores.jobs;
        *jobs = store(vec![serde_json::from_value(job).expect("a Job")]);
        context
    };
    let template = job["metadata"]["annotations"]["kvcluster.io/template"].as_str().expect("a hash").to_owned();
    let deletions = |api: &ApiServer| -> Vec<Asked> {
        let deleted = |asked: &Asked| asked.method == Method::DELETE && asked.path.ends_with("jobs/demo-bootstrap");
        api.asked().into_iter().filter(deleted).collect()
    };
    // The leader has it, and the status does not say so yet.
    let (api, client) = ApiServer::start(|_| None);
    let done = start(false).await;
    reconcile(guarded(cluster(spec)), with_job(client, done.port, &template)).await.expect("it succeeds");
    assert_eq!(deletions(&api).len(), 0);
    let recorded = api.applied("/status")["status"].clone();
    assert!(recorded["bootstrap"]["completed"].is_string() && recorded["opened"] == json!(true), "{recorded}");
    // Whatever a leader says after that.
    for leader in [&done, &leader] {
        let (api, client) = ApiServer::start(|_| None);
        let mut completed = cluster(spec);
        completed.status = Some(serde_json::from_value(recorded.clone()).expect("a status"));
        reconcile(guarded(completed), with_job(client, leader.port, &template)).await.expect("it succeeds");
        let deleted = deletions(&api);
        assert_eq!(deleted.len(), 1);
        assert_eq!(
            (&deleted[0].body["propagationPolicy"], &deleted[0].body["preconditions"]["uid"]),
            (&json!("Background"), &json!("job"))
        );
        assert!(!api.writes().iter().any(|asked| asked.method == Method::PATCH && asked.path.contains("/jobs/")));
    }
    // The spec has another image, for example.
    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster(spec)), with_job(client, leader.port, "another")).await.expect("it succeeds");
    assert_eq!(deletions(&api).len(), 1);
}

// Goal: a drain is safe by each rule that may count. Method: the stricter rule is in turn the one of the spec, the one
// in force, the one that waits at the leader, and the one of the status while no leader answers.
#[tokio::test]
async fn the_budget_follows_the_strictest_of_the_rules_that_may_count() {
    let waits = |write_quorum, followers| {
        let mut waits = config(2, 3, 5);
        waits["pending"] =
            json!({"generation": 4, "write_quorum": write_quorum, "followers": followers, "message": "waits"});
        waits
    };
    for (name, spec, in_force, kept) in [
        ("all agree", "{}", config(4, 3, 5), 3),
        ("the spec asks for more", "{writeQuorum: 4}", config(2, 3, 5), 4),
        ("more is in force", "{}", config(2, 5, 5), 5),
        ("more waits", "{}", waits(4, 5), 4),
        ("a larger size waits", "{replicas: 7}", waits(3, 7), 5),
    ] {
        let (api, client) = ApiServer::start(|_| None);
        let leader = ScriptedLeader::start_with(5, in_force.clone(), (202, in_force)).await;
        reconcile(guarded(opened(spec, 5)), context(client, leader.port, vec![leader_pod()])).await.expect(name);
        let spec = api.applied("poddisruptionbudgets/demo-follower")["spec"].clone();
        assert_eq!(spec["minAvailable"], json!(kept), "{name}");
    }
    let (api, client) = ApiServer::start(|_| None);
    let mut closed = opened("{}", 5);
    closed.status.as_mut().expect("a status").applied_write_quorum = Some(4);
    reconcile(guarded(closed), context(client, 1, vec![])).await.expect("it succeeds");
    let spec = api.applied("poddisruptionbudgets/demo-follower")["spec"].clone();
    assert_eq!(spec["minAvailable"], json!(4), "no leader answers");
}

// Goal: volumes go with the KvCluster as its spec says, and never because a StatefulSet is deleted or a claim is left
// from an earlier cluster. Method: claims with and without the owner, inside and outside the followers in use.
#[tokio::test]
async fn the_claims_of_the_followers_are_owned_by_the_cluster_where_they_go_with_it() {
    let claim = |ordinal: i32, owner: Option<&str>| {
        let owners: Vec<Value> = owner
            .map(|uid| json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": uid}))
            .into_iter()
            .collect();
        json!({"metadata": {"name": format!("data-demo-follower-{ordinal}"), "namespace": "shop", "uid": format!("claim-{ordinal}"),
            "labels": build::selector_labels("demo", Some(Component::Follower)), "ownerReferences": owners}})
    };
    let (delete, both) = ("{storage: {onDelete: Delete}}", "{storage: {onDelete: Delete, onScaleDown: Delete}}");
    for (name, spec, ordinal, owner, expected) in [
        ("goes with the cluster", delete, 4, None, Some(true)),
        ("is owned already", delete, 4, Some(UID), None),
        ("is left from an earlier cluster", delete, 5, None, None),
        ("stays after a scale-down and goes with the cluster", delete, 5, Some(UID), None),
        ("goes with its pod", both, 5, Some(UID), Some(false)),
        ("stays when the cluster goes", "{}", 4, Some(UID), Some(false)),
        ("has another owner", "{}", 4, Some("other"), None),
    ] {
        let (api, client) = ApiServer::start(|_| None);
        let mut context = context(client, 1, vec![]);
        let claims = &mut Arc::get_mut(&mut context).expect("the only reference").stores.claims;
        *claims = Indexed::new(store(vec![serde_json::from_value(claim(ordinal, owner)).expect("a claim")]));
        reconcile(guarded(cluster(spec)), context).await.expect(name);
        let writes = api.writes();
        let patched = writes.iter().position(|asked| asked.path.contains("persistentvolumeclaims/"));
        let owns = patched.map(|index| {
            let metadata = &writes[index].body["metadata"];
            assert_eq!(metadata["uid"], json!(format!("claim-{ordinal}")), "{name}");
            let owners = metadata["ownerReferences"].as_array().expect("owners").clone();
            assert!(owners.iter().all(|owner| owner["uid"] == UID && owner.get("controller").is_none()), "{name}");
            !owners.is_empty()
        });
        assert_eq!(owns, expected, "{name}");
        let set =
            writes.iter().position(|asked| asked.path.ends_with("statefulsets/demo-follower")).expect("followers");
        assert!(patched.is_none_or(|patched| patched < set), "{name}: before the StatefulSet shrinks");
        let policy = &writes[set].body["spec"]["persistentVolumeClaimRetentionPolicy"];
        assert_eq!(policy["whenDeleted"], json!("Retain"), "{name}");
    }
}

#[tokio::test]
async fn a_contradiction_changes_nothing_but_the_status() {
    let (api, client) = ApiServer::start(|_| None);
    reconcile(guarded(cluster("{replicas: 2, writeQuorum: 3}")), context(client, 1, vec![]))
        .await
        .expect("it succeeds");
    let paths: Vec<String> = api.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths.len(), 2, "the status and one event: {paths:?}");
    assert_eq!(api.applied("/status")["status"]["message"], json!("writeQuorum 3 is greater than replicas 2"));
}

// Goal: a resource that this operator cannot read says so, once, and keeps what it knew. Method: one that was open.
#[tokio::test]
async fn a_malformed_resource_does_not_stay_ready() {
    let ready = json!({"type": "Ready", "status": "True", "reason": "Open", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let malformed = json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster",
        "metadata": {"name": "odd", "namespace": "shop", "generation": 2}, "spec": {"replicas": "many"},
        "status": {"opened": true, "appliedWriteQuorum": 3, "conditions": [ready]}});
    let stored = Arc::new(Mutex::new(malformed.clone()));
    let server = stored.clone();
    let (api, client) = ApiServer::start(move |asked| {
        let mut stored = server.lock();
        if asked.path.ends_with("/status") {
            for (field, value) in asked.body["status"].as_object().expect("a status") {
                stored["status"][field] = value.clone();
            }
        }
        asked.path.contains("kvclusters/odd").then(|| (200, stored.clone()))
    });
    let context = context(client, 1, vec![]);
    let guard = || serde_json::from_value::<DeserializeGuard<KvCluster>>(malformed.clone()).expect("a guard");
    assert!(guard().0.is_err());
    for _ in 0..2 {
        reconcile(Arc::new(guard()), context.clone()).await.expect("it is reported");
    }
    assert_eq!(api.writes().len(), 1, "{:?}", api.writes());
    assert!(api.writes()[0].query.contains("fieldManager=kv-controller"));
    let status = stored.lock().clone();
    assert_eq!(condition_of(&status, "Ready")["status"], json!("Unknown"));
    assert!(status["status"]["message"].to_string().contains("cannot read the resource: "), "{status}");
    assert_eq!((&status["status"]["opened"], &status["status"]["appliedWriteQuorum"]), (&json!(true), &json!(3)));
}

#[tokio::test]
async fn a_deleted_resource_asks_for_nothing() {
    let (api, client) = ApiServer::start(|_| None);
    let context = context(client, 1, vec![]);
    let mut going = cluster("{}");
    going.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    reconcile(guarded(going), context).await.expect("it is left to the garbage collector");
    assert!(api.asked().is_empty(), "{:?}", api.asked());
}

#[tokio::test]
async fn a_status_that_cannot_be_written_makes_no_event() {
    let (api, client) = ApiServer::start(|asked| {
        asked.path.ends_with("/status").then(|| failure(500, "InternalError", "etcd is away"))
    });
    let error = reconcile(guarded(cluster("{replicas: 2, writeQuorum: 3}")), context(client, 1, vec![])).await;
    assert_eq!(error.expect_err("it fails").reason(), "ApiFailed");
    assert!(!api.asked().iter().any(|asked| asked.path.ends_with("/events")));
}

/// An API server that keeps Secrets as they are written.
fn with_secrets(secrets: &Arc<Mutex<BTreeMap<String, Value>>>) -> impl Fn(&Asked) -> Option<Answer> + Send + 'static {
    let secrets = secrets.clone();
    let versions = std::sync::atomic::AtomicU32::new(1000);
    move |asked| {
        let name = asked.path.split_once("/secrets/")?.1.to_owned();
        let mut secrets = secrets.lock();
        if asked.method == Method::GET {
            return secrets.get(&name).map(|secret| (200, secret.clone()));
        }
        let (code, mut made) = usual(asked);
        let version = versions.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        made["metadata"]["resourceVersion"] = json!(version.to_string());
        secrets.insert(name, made.clone());
        Some((code, made))
    }
}

fn lines_of(secrets: &Arc<Mutex<BTreeMap<String, Value>>>, name: &str, key: &str) -> Vec<String> {
    let secret: Secret = serde_json::from_value(secrets.lock()[name].clone()).expect("a Secret");
    let text = String::from_utf8(secret.data.expect("data")[key].0.clone()).expect("text");
    text.lines().map(str::to_owned).collect()
}

// Goal: a deleted and an edited Secret lead to a new token that the nodes accept beside the old one, until each of them
// says that it has it; then the old one goes. Nothing waits for what the operator remembers. Method: a node whose file is
// in the test's hands, and an operator that restarts before each look.
#[tokio::test]
async fn a_token_is_rotated_step_by_step_by_what_the_nodes_say() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (api, client) = ApiServer::start(with_secrets(&secrets));
    let file: Arc<Mutex<Vec<String>>> = Arc::default();
    let accepted = file.clone();
    let auth = move |headers: axum::http::HeaderMap| async move {
        let given = headers.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let known = given.is_some_and(|given| accepted.lock().iter().any(|token| token == given));
        if known { axum::http::StatusCode::OK } else { axum::http::StatusCode::UNAUTHORIZED }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/auth", get(auth))).await });
    let mut pod = leader_pod_at("demo-follower-0", "127.0.0.1");
    pod.metadata.labels = Some(labels("demo", Some(Component::Follower)));
    pod.spec = Some(serde_json::from_value(json!({"nodeName": "machine", "containers": []})).expect("a spec"));
    let look = async || {
        reconcile(guarded(opened("{}", 5)), context(client.clone(), port, vec![pod.clone()]))
            .await
            .expect("it succeeds");
        let condition = condition_of(&api.applied("/status"), "TokenApplied");
        (condition["status"].clone(), condition["reason"].clone(), condition["message"].to_string())
    };
    let nodes_accept = || lines_of(&secrets, "demo-auth-accepted", "tokens");
    assert_eq!(look().await.1, json!("Applied"));
    let first = nodes_accept();
    assert_eq!((first.len(), lines_of(&secrets, "demo-auth", "token")), (1, first.clone()));
    file.lock().clone_from(&first);

    secrets.lock().remove("demo-auth");
    look().await;
    let second = lines_of(&secrets, "demo-auth", "token");
    assert_ne!(second, first, "a new one");
    assert_eq!(nodes_accept(), [second.clone(), first.clone()].concat());
    let (status, reason, message) = look().await;
    assert_eq!((status, reason), (json!("False"), json!("AddingToken")));
    assert!(message.contains("accepted by 0 of 1 nodes: demo-follower-0: has not read the new token yet"), "{message}");
    assert_eq!(nodes_accept().len(), 2, "the node has the first one alone");
    let version = secrets.lock()["demo-auth-accepted"]["metadata"]["resourceVersion"].clone();
    let hurried = api.applied("pods/demo-follower-0")["metadata"]["annotations"]["kvcluster.io/auth-version"].clone();
    assert_eq!(hurried, version, "its kubelet writes the file at once");

    file.lock().clone_from(&nodes_accept());
    assert_eq!(look().await.1, json!("DroppingToken"));
    assert_eq!((nodes_accept(), lines_of(&secrets, "demo-auth-accepted", "dropped")), (second.clone(), first.clone()));
    let (_, reason, message) = look().await;
    assert_eq!(reason, json!("DroppingToken"));
    assert!(message.contains("demo-follower-0: still accepts an earlier token"), "{message}");
    file.lock().clone_from(&second);
    assert_eq!(look().await.1, json!("Applied"));

    secrets.lock().get_mut("demo-auth").expect("a Secret")["data"]["token"] = json!("dHdvIHdvcmRz");
    let (status, reason, message) = look().await;
    assert_eq!((status, reason), (json!("False"), json!("MalformedToken")));
    assert!(message.contains("Secret demo-auth: the key token has no token"), "{message}");
    assert_eq!((nodes_accept(), lines_of(&secrets, "demo-auth", "token")), (second, vec!["two words".to_owned()]));
    assert!(!api.writes().iter().any(|asked| asked.path.ends_with("/eviction")));
}

// Goal: the nodes' Secret comes back with the tokens that the nodes have, and no annotation shows what a token could be
// guessed from.
#[tokio::test]
async fn the_secret_of_the_nodes_comes_back_and_its_fingerprint_has_no_token() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (_api, client) = ApiServer::start(with_secrets(&secrets));
    let context = context(client, 1, vec![]);
    let look = async || reconcile(guarded(cluster("{}")), context.clone()).await.expect("it succeeds");
    look().await;
    let first = secrets.lock().clone();
    let edited = |token: &str| {
        let mut secrets = secrets.lock();
        secrets.get_mut("demo-auth").expect("a Secret")["data"]["token"] = json!(token);
        secrets.get_mut("demo-auth").expect("a Secret")["metadata"]["resourceVersion"] = json!("7");
    };
    edited("bmV3");
    look().await;
    let both = lines_of(&secrets, "demo-auth-accepted", "tokens");
    assert_eq!((both.len(), both[0].as_str()), (2, "new"));
    secrets.lock().remove("demo-auth-accepted");
    look().await;
    // Without pods every node has the new one.
    assert_eq!(lines_of(&secrets, "demo-auth-accepted", "tokens"), ["new"]);
    assert_eq!(lines_of(&secrets, "demo-auth-accepted", "dropped"), both[1..]);
    let mark = |secrets: &BTreeMap<String, Value>| {
        ["demo-auth", "demo-auth-accepted"]
            .map(|name| secrets[name]["metadata"]["annotations"]["kvcluster.io/applied"].clone())
    };
    assert_eq!(mark(&first), mark(&secrets.lock()));
}

// Goal: a Secret of clients that is missing is reported in words, and one that changes reaches the pods at once. Method: the
// Secret comes, and changes, while the operator works.
#[tokio::test]
async fn the_tokens_of_clients_are_checked_and_hurried_to_the_pods() {
    let secrets: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
    let (api, client) = ApiServer::start(with_secrets(&secrets));
    let context = context(client, 1, vec![leader_pod_at("demo-follower-0", "127.0.0.1")]);
    let mut pod = leader_pod_at("demo-follower-0", "127.0.0.1");
    pod.metadata.labels = Some(labels("demo", Some(Component::Follower)));
    let mut context = context;
    Arc::get_mut(&mut context).expect("the only reference").stores.pods = Indexed::new(store(vec![pod]));
    let cluster = opened("{auth: {secretName: shops}}", 5);
    let look = async || {
        reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds");
        let condition = condition_of(&api.applied("/status"), "ClientTokensValid");
        (condition["reason"].clone(), condition["message"].to_string())
    };
    let hurried = || api.writes().iter().filter(|asked| asked.path.ends_with("pods/demo-follower-0")).count();
    let (reason, message) = look().await;
    assert_eq!(reason, json!("SecretMissing"));
    assert!(message.contains("the Secret shops does not exist"), "{message}");
    let put = |token: &str, version: &str| {
        let secret = json!({"metadata": {"name": "shops", "resourceVersion": version},
            "data": {"tokens": k8s_openapi::ByteString(token.as_bytes().to_vec())}});
        secrets.lock().insert("shops".to_owned(), secret);
    };
    put("first", "1");
    assert_eq!(look().await.0, json!("Valid"));
    assert_eq!(hurried(), 0, "a pod that starts has it");
    put("second\nfirst", "2");
    assert!(look().await.1.contains("has 2 tokens"));
    assert_eq!(hurried(), 1);
    look().await;
    assert_eq!(hurried(), 1, "nothing has changed");
    assert!(!api.writes().iter().any(|asked| asked.path.ends_with("secrets/shops")));
}

#[tokio::test]
async fn a_new_quorum_goes_to_the_leader_with_the_token_and_the_generation() {
    let (api, client) = ApiServer::start(|_| None);
    let leader = ScriptedLeader::start(config(2, 3, 5), (200, config(4, 5, 5))).await;
    reconcile(guarded(opened("{writeQuorum: 5}", 5)), context(client, leader.port, vec![leader_pod()]))
        .await
        .expect("it succeeds");
    let patched = leader.patched();
    assert_eq!(patched.len(), 1);
    let token: Secret = serde_json::from_value(api.applied("secrets/demo-auth")).expect("a Secret");
    let token = String::from_utf8(token.data.expect("data")["token"].0.clone()).expect("text");
    assert_eq!(patched[0].0, format!("Bearer {token}"));
    assert_eq!(patched[0].1["write_quorum"], json!(5));
    assert_eq!(patched[0].1["generation"], json!(4), "the generation of the resource");
    let status = api.applied("/status")["status"].clone();
    assert_eq!(status["appliedWriteQuorum"], json!(5));
}

#[tokio::test]
async fn a_leader_that_has_the_values_is_not_asked_again() {
    let (_api, client) = ApiServer::start(|_| None);
    let leader = ScriptedLeader::start(config(9, 3, 5), (500, json!({}))).await;
    reconcile(guarded(opened("{}", 5)), context(client, leader.port, vec![leader_pod()])).await.expect("it succeeds");
    assert!(leader.patched().is_empty());
}

#[tokio::test]
async fn a_refusal_of_the_leader_is_reported_in_its_words() {
    let (api, client) = ApiServer::start(|_| None);
    let refusal = json!({"ok": false, "message": "a newer generation is known"});
    let leader = ScriptedLeader::start(config(7, 3, 5), (409, refusal)).await;
    reconcile(guarded(opened("{writeQuorum: 2}", 5)), context(client, leader.port, vec![leader_pod()]))
        .await
        .expect("it succeeds");
    assert_eq!(leader.patched()[0].1["generation"], json!(8), "one more than the leader knows");
    let status = api.applied("/status")["status"].to_string();
    assert!(status.contains("the leader answered 409: a newer generation is known"), "{status}");
}

#[tokio::test]
async fn a_scale_down_shrinks_the_stateful_set_only_once_the_leader_has_let_go_of_those_that_leave() {
    let with_pending = |followers| {
        let mut config = config(2, 3, followers);
        config["pending"] = json!({"generation": 4, "write_quorum": 3, "followers": 3, "message": "waits"});
        config
    };
    for (before, after, listed, pods) in [
        (config(2, 3, 7), with_pending(7), 7, 7),
        (with_pending(7), with_pending(7), 7, 7),
        // The smaller number is in force, but not on so many followers that no leader would go by the larger one.
        (with_pending(3), with_pending(3), 7, 7),
        (config(4, 3, 3), json!({}), 7, 7),
        (config(4, 3, 3), json!({}), 3, 3),
    ] {
        let (api, client) = ApiServer::start(|_| None);
        let leader = ScriptedLeader::start_with(listed, before.clone(), (202, after)).await;
        reconcile(guarded(opened("{replicas: 3}", 7)), context(client, leader.port, vec![leader_pod()]))
            .await
            .expect("it succeeds");
        let applied = api.applied("statefulsets/demo-follower")["spec"]["replicas"].clone();
        assert_eq!(applied, json!(pods), "{before} with {listed} followers listed");
    }
}

// Goal: of two pods that claim to lead, the one with the higher epoch gets the label, by which the Service selects, and
// the task ends with the last pod that may be a standby. Method: the old leader has the label, and both answer.
#[tokio::test]
async fn the_label_is_on_the_open_leader_with_the_highest_epoch() {
    let (api, client) = ApiServer::start(|_| None);
    let old = ScriptedLeader::start(config(4, 3, 5), (500, json!({}))).await;
    let address = SocketAddr::from(([127, 0, 0, 2], old.port));
    let _new = ScriptedLeader::start_at(address, 2, 5, config(4, 3, 5), (500, json!({}))).await;
    let mut labelled = leader_pod();
    labelled.labels_mut().insert(build::LEADS.to_owned(), "true".to_owned());
    let pods = vec![labelled, leader_pod_at("demo-leader-y", "127.0.0.2")];
    let context = context(client, old.port, pods);
    reconcile(guarded(opened("{leader: {standbys: 1}}", 5)), context.clone()).await.expect("it succeeds");
    assert_eq!(api.applied("services/demo")["spec"]["selector"][build::LEADS], json!("true"));
    let patched = || -> Vec<Asked> { api.writes().into_iter().filter(|asked| asked.path.contains("/pods/")).collect() };
    tokio::time::timeout(Duration::from_secs(10), async {
        while patched().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("both pods are labelled");
    for (pod, leads) in [("demo-leader-y", json!("true")), ("demo-leader-x", Value::Null)] {
        assert_eq!(api.applied(pod)["metadata"]["labels"][build::LEADS], leads, "{pod}");
    }
}

#[tokio::test]
async fn without_standbys_no_pod_is_labelled_and_the_service_selects_by_readiness_alone() {
    let (api, client) = ApiServer::start(|_| None);
    let leader = ScriptedLeader::start(config(4, 3, 5), (500, json!({}))).await;
    let context = context(client, leader.port, vec![leader_pod()]);
    let pods = [Arc::new(leader_pod())];
    reconcile(guarded(opened("{}", 5)), context.clone()).await.expect("it succeeds");
    assert_eq!(api.applied("services/demo")["spec"]["selector"].get(build::LEADS), None);
    assert!(!context.lead_labels.keep(&validated("{}"), &pods, &context));
    assert_eq!(context.lead_labels.running(), 0);
    assert!(context.lead_labels.keep(&validated("{leader: {standbys: 1}}"), &pods, &context));
    assert_eq!(context.lead_labels.running(), 1);
    assert!(!context.lead_labels.keep(&validated("{}"), &pods, &context));
    assert_eq!(context.lead_labels.running(), 0, "the last pod that may be a standby is gone");
}

fn rolled_out_token() -> Tokens {
    Tokens { wanted: b"t".to_vec(), accepted: vec!["t".to_owned()], dropped: vec![], stage: Stage::Applied }
}

/// The objects of a cluster of five that an earlier template made, and a context in which the watches have them.
fn rolling(client: Client, leader_port: u16, down: &[usize], spec: &str) -> Arc<Context> {
    let cluster = validated(spec);
    let inputs = build::Inputs {
        tokens: rolled_out_token(),
        follower_pods: 5,
        asleep: false,
        spare_followers: 2,
        leader_pods: 1,
        opened: true,
        bootstraps: false,
        leader_by_label: false,
        certificates: certificates::Certificates::none(),
    };
    let desired = build::build(&cluster, &inputs);
    let made = |object: Value, status: Value| {
        let mut object = object;
        object["metadata"]["uid"] = json!("made");
        object["metadata"]["generation"] = json!(3);
        object["status"] = status;
        object
    };
    let set = made(
        serde_json::to_value(&desired.followers).expect("JSON"),
        json!({"observedGeneration": 3, "replicas": 5, "updateRevision": "new"}),
    );
    let mut leader = made(
        serde_json::to_value(&desired.leader).expect("JSON"),
        json!({"observedGeneration": 3, "replicas": 1, "updatedReplicas": 1}),
    );
    leader["metadata"]["annotations"][build::TEMPLATE] = json!("earlier");
    let follower = |ordinal: usize| {
        let mut labels = json!(labels("demo", Some(Component::Follower)));
        labels["controller-revision-hash"] = json!("old");
        let ready = if down.contains(&ordinal) { "False" } else { "True" };
        let pod = json!({"metadata": {"name": format!("demo-follower-{ordinal}"), "namespace": "shop", "uid": format!("pod-{ordinal}"),
            "labels": labels}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}});
        serde_json::from_value::<Pod>(pod).expect("a pod")
    };
    let mut context = context(client, leader_port, (0..5).map(follower).chain([leader_pod()]).collect());
    let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
    stores.stateful_sets = store(vec![serde_json::from_value(set).expect("a set")]);
    stores.deployments = store(vec![serde_json::from_value(leader).expect("a deployment")]);
    context
}

fn generation_3(asked: &Asked) -> Option<Answer> {
    let (_, mut body) = usual(asked);
    body["metadata"]["generation"] = json!(3);
    (asked.method == Method::PATCH && asked.path.contains("/statefulsets/")).then_some((200, body))
}

fn condition_of(status: &Value, type_: &str) -> Value {
    let all = status["status"]["conditions"].as_array().expect("conditions");
    all.iter().find(|condition| condition["type"] == type_).expect("the condition is there").clone()
}

// Goal: a new template moves one follower, within the budget, and the leader keeps its pods until its turn; a follower that
// is down keeps what is not to spare. Method: a cluster whose pods are all of an earlier template.
#[tokio::test]
async fn a_new_template_evicts_one_follower_and_pauses_the_leader() {
    for (down, quorum, evicted) in [(vec![], 2, true), (vec![1], 2, false), (vec![1], 3, true)] {
        let (api, client) = ApiServer::start(generation_3);
        let leader = ScriptedLeader::start_with(5, config(4, quorum, 5), (500, json!({}))).await;
        let spec = format!("{{writeQuorum: {quorum}}}");
        let context = rolling(client, leader.port, &down, &spec);
        reconcile(guarded(opened(&spec, 5)), context.clone()).await.expect("it succeeds");
        assert_eq!(api.applied("deployments/demo-leader")["spec"]["paused"], json!(true));
        let evictions: Vec<Asked> = api.asked().into_iter().filter(|asked| asked.path.ends_with("/eviction")).collect();
        let rolled_out = condition_of(&api.applied("/status"), "RolledOut");
        if evicted {
            assert_eq!(evictions.len(), 1, "{evictions:?}");
            assert!(evictions[0].path.ends_with("pods/demo-follower-4/eviction"), "{}", evictions[0].path);
            assert_eq!(evictions[0].body["deleteOptions"]["preconditions"]["uid"], json!("pod-4"));
            assert_eq!(rolled_out["reason"], json!("RollingOut"));
        } else {
            assert!(evictions.is_empty(), "{evictions:?}");
            assert_eq!(rolled_out["reason"], json!("RolloutBlocked"));
            assert!(rolled_out["message"].to_string().contains("demo-follower-1"), "{rolled_out}");
        }
        assert_eq!(context.rollouts.count(), usize::from(evicted));
    }
}

#[tokio::test]
async fn what_the_budget_refuses_is_reported_and_where_it_allows_nothing_the_pod_is_deleted() {
    let refuses = |asked: &Asked| {
        let words = "Cannot evict pod as it would violate the pod's disruption budget.";
        let refusal = || failure(429, "TooManyRequests", words);
        asked.path.ends_with("/eviction").then(refusal).or_else(|| generation_3(asked))
    };
    for (quorum, refused) in [(3, true), (5, false)] {
        let (api, client) = ApiServer::start(refuses);
        let leader = ScriptedLeader::start_with(5, config(4, quorum, 5), (500, json!({}))).await;
        let spec = format!("{{writeQuorum: {quorum}}}");
        let context = rolling(client, leader.port, &[], &spec);
        reconcile(guarded(opened(&spec, 5)), context.clone()).await.expect("it succeeds");
        let rolled_out = condition_of(&api.applied("/status"), "RolledOut");
        let deleted = api.asked().into_iter().find(|asked| asked.method == Method::DELETE);
        if refused {
            assert_eq!(rolled_out["reason"], json!("RolloutBlocked"));
            assert!(rolled_out["message"].to_string().contains("violate the pod's disruption budget"), "{rolled_out}");
            assert!(deleted.is_none());
        } else {
            let deleted = deleted.expect("it is deleted");
            assert!(deleted.path.ends_with("pods/demo-follower-4"), "{}", deleted.path);
            assert_eq!(deleted.body["preconditions"]["uid"], json!("pod-4"));
        }
    }
}

// Goal: the operator leaves a paused cluster alone, and reports what it sees. Method: a cluster that has an earlier template,
// an earlier quorum and a leader that was left behind, and every request that changes something.
#[tokio::test]
async fn a_paused_cluster_is_left_alone_and_its_status_is_reported() {
    let changes = |spec: &'static str| async move {
        let (api, client) = ApiServer::start(generation_3);
        let leader = ScriptedLeader::start_with(5, config(3, 2, 5), (200, config(4, 3, 5))).await;
        let context = rolling(client, leader.port, &[], spec);
        reconcile(guarded(opened(spec, 5)), context.clone()).await.expect("it succeeds");
        let writes: Vec<String> = api.writes().into_iter().map(|asked| asked.path).collect();
        let others = writes.iter().filter(|path| !path.ends_with("/status") && !path.ends_with("/events")).count();
        (others, leader.patched().len(), api, context.rollouts.count())
    };
    let (objects, configured, api, rolls) = changes("{writeQuorum: 3, paused: true}").await;
    assert_eq!((objects, configured, rolls), (0, 0, 0));
    let status = api.applied("/status");
    for (type_, expected) in [
        ("Paused", "True"),
        ("Ready", "True"),
        ("Progressing", "False"),
        ("RolledOut", "False"),
        ("ConfigApplied", "False"),
    ] {
        assert_eq!(condition_of(&status, type_)["status"], json!(expected), "{type_}: {status}");
    }
    assert_eq!(status["status"]["phase"], json!("Ready"));
    assert!(status["status"]["message"].to_string().contains("until spec.paused is false"), "{status}");

    let (objects, configured, api, rolls) = changes("{writeQuorum: 3}").await;
    assert!(objects > 0 && configured == 1 && rolls == 1, "{objects} objects, {configured} changes, {rolls} rolling");
    assert_eq!(condition_of(&api.applied("/status"), "Paused")["status"], json!("False"));
}

// Goal: a hibernation ends the leader before the followers, and a Deployment that was paused for a rollout does not stay so.
#[tokio::test]
async fn a_hibernation_ends_the_leader_before_the_followers() {
    for (leader_runs, replicas) in [(true, 5), (false, 0)] {
        let (api, client) = ApiServer::start(generation_3);
        let spec = "{hibernated: true}";
        let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
        let mut context = rolling(client, leader.port, &[], spec);
        let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
        if !leader_runs {
            stores.pods = Indexed::new(store(vec![]));
        }
        let mut deployment = (*stores.deployments.state()[0]).clone();
        deployment.spec.get_or_insert_default().paused = Some(true);
        stores.deployments = store(vec![deployment]);
        reconcile(guarded(opened(spec, 5)), context.clone()).await.expect("it succeeds");
        let deployment = api.applied("deployments/demo-leader");
        assert_eq!(deployment["spec"]["replicas"], json!(0));
        assert_eq!(deployment["spec"]["paused"], json!(false));
        // A StatefulSet that is as it should be is not applied.
        let writes = api.writes();
        let set = writes.iter().rev().find(|asked| asked.path.ends_with("statefulsets/demo-follower"));
        assert_eq!(set.map_or(json!(5), |set| set.body["spec"]["replicas"].clone()), json!(replicas));
        let status = api.applied("/status");
        let (verdict, reason) = if leader_runs { ("False", "Hibernating") } else { ("True", "Hibernated") };
        let hibernated = condition_of(&status, "Hibernated");
        assert_eq!((&hibernated["status"], &hibernated["reason"]), (&json!(verdict), &json!(reason)), "{hibernated}");
        assert_eq!(status["status"]["phase"], json!(reason));
        assert_eq!(condition_of(&status, "Degraded")["status"], json!("False"));
        assert_eq!(condition_of(&status, "Ready")["reason"], json!(reason));
    }
}

// Goal: the volumes of a hibernated cluster still go with the KvCluster. Method: a claim that it owns, of a follower that a
// scale-down would take the claim of.
#[tokio::test]
async fn a_hibernated_cluster_goes_on_owning_its_volumes() {
    let spec = "{hibernated: true, storage: {onDelete: Delete, onScaleDown: Delete}}";
    let (api, client) = ApiServer::start(generation_3);
    let mut context = rolling(client, 1, &[], spec);
    let claim = json!({"metadata": {"name": "data-demo-follower-4", "namespace": "shop", "uid": "claim",
        "labels": labels("demo", Some(Component::Follower)), "ownerReferences": [
            {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID}]}});
    let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
    stores.pods = Indexed::new(store(vec![]));
    stores.claims = Indexed::new(store(vec![serde_json::from_value(claim).expect("a claim")]));
    reconcile(guarded(opened(spec, 5)), context).await.expect("it succeeds");
    assert_eq!(api.applied("statefulsets/demo-follower")["spec"]["replicas"], json!(0));
    let changed: Vec<Asked> =
        api.writes().into_iter().filter(|asked| asked.path.contains("persistentvolume")).collect();
    assert!(changed.is_empty(), "{changed:?}");
}

// Goal: a pod is judged by the template that is applied, not by one that someone is about to see undone, nor by one that
// the StatefulSet does not have yet. Method: an apply that makes another generation, and another setting in the template.
#[tokio::test]
async fn no_pod_moves_in_the_step_that_changes_the_stateful_set() {
    for (generation, spec, moves) in [(3, "{}", true), (4, "{}", false), (3, "{logLevel: debug}", false)] {
        let (api, client) = ApiServer::start(move |asked| {
            let (code, mut body) = generation_3(asked)?;
            body["metadata"]["generation"] = json!(generation);
            Some((code, body))
        });
        let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
        let context = rolling(client, leader.port, &[], "{}");
        reconcile(guarded(opened(spec, 5)), context).await.expect("it succeeds");
        let moved = api.asked().iter().any(|asked| asked.path.ends_with("/eviction"));
        assert_eq!(moved, moves, "generation {generation}, spec {spec}");
    }
}

// Goal: a StatefulSet of an earlier operator gets the new strategy, which the API server refuses beside the old settings.
#[tokio::test]
async fn rolling_updates_of_a_stateful_set_are_stopped_before_it_is_applied() {
    let (api, client) = ApiServer::start(generation_3);
    let mut context = context(client, 1, vec![]);
    let set = json!({"metadata": {"name": "demo-follower", "namespace": "shop", "uid": "made", "ownerReferences": [
            {"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "name": "demo", "uid": UID, "controller": true}]},
        "spec": {"replicas": 5, "selector": {}, "template": {},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    let sets = &mut Arc::get_mut(&mut context).expect("the only reference").stores.stateful_sets;
    *sets = store(vec![serde_json::from_value(set).expect("a set")]);
    reconcile(guarded(opened("{}", 5)), context).await.expect("it succeeds");
    let patches: Vec<Asked> = api.writes().into_iter().filter(|asked| asked.path.contains("statefulsets/")).collect();
    assert_eq!(patches.len(), 2, "{patches:?}");
    let strategy = &patches[0].body["spec"]["updateStrategy"];
    assert_eq!(*strategy, json!({"type": "OnDelete", "rollingUpdate": null}));
    assert_eq!(patches[1].body["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
}

// Goal: leaders out of reach do not hold up the others. Method: a leader that never gives a usable answer, and what it was
// asked in the first reconciliation and in the next.
#[tokio::test]
async fn a_leader_that_did_not_answer_is_asked_once_and_later_each_time() {
    let asked: Arc<Mutex<u32>> = Arc::default();
    let count = asked.clone();
    let refuse = move || async move {
        *count.lock() += 1;
        axum::http::StatusCode::INTERNAL_SERVER_ERROR
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/status", get(refuse))).await });
    let (_api, client) = ApiServer::start(|_| None);
    let context = context(client, port, vec![leader_pod()]);
    reconcile(guarded(opened("{}", 5)), context.clone()).await.expect("it succeeds");
    let first = *asked.lock();
    assert!(first > 1, "at first it may be a NetworkPolicy that does not know the operator yet");
    reconcile(guarded(opened("{}", 5)), context).await.expect("it succeeds");
    assert_eq!(*asked.lock() - first, 1);

    let looks = [0, 1, 2, 3, 4, 5, 40].map(|times| next_look(false, times, Duration::from_secs(3)).as_secs());
    assert_eq!(looks, [1, 1, 2, 4, 8, 15, 15]);
    assert_eq!(next_look(true, 0, Duration::from_secs(3)).as_secs(), 3);
}

// Goal: a leader that was replaced, and whose successor is gone, starts again; one with a successor is left alone.
#[test]
fn a_leader_left_behind_is_the_only_one_and_fenced() {
    let leader = |state: &str| {
        let status = json!({"role": "leader", "state": state, "config": config(4, 3, 5)});
        LeaderSeen::Answered(Box::new(leader_client::Leader {
            pod: "demo-leader-x".to_owned(),
            url: String::new(),
            reached: false,
            status: serde_json::from_value(status).expect("a status"),
        }))
    };
    let (one, other) = (Arc::new(leader_pod()), Arc::new(leader_pod_at("demo-leader-y", "127.0.0.2")));
    let found = |state: &str, pods: &[Arc<Pod>]| roll::left_behind(&leader(state), pods).map(ResourceExt::name_any);
    assert_eq!(found("fenced", std::slice::from_ref(&one)).as_deref(), Some("demo-leader-x"));
    assert_eq!(found("fenced", &[one.clone(), other.clone()]), None);
    assert_eq!(found("fenced", &[other]), None, "a pod that is not the one that answered");
    assert_eq!(found("recovering", &[one]), None);
}

#[test]
fn a_leader_that_answers_the_same_is_asked_later_each_time() {
    let looks = [0, 1, 2, 3, 4, 8, 9, 400].map(|times| next_calm_look(times, Duration::from_secs(3)).as_secs());
    assert_eq!(looks, [3, 3, 6, 6, 9, 15, 15, 15]);
}

#[test]
fn failures_in_a_row_wait_longer_up_to_a_minute() {
    let waits: Vec<u128> = [1, 2, 3, 7, 8, 40].map(|failures| backoff(failures).as_millis()).to_vec();
    assert_eq!(waits, [500, 1000, 2000, 32_000, 60_000, 60_000]);
}

mod growth;
mod lead;
mod many;
mod tls;
