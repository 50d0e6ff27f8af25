//! An API server and a leader that are scripted, and a context of them.

use super::*;

/// One request, as the API server saw it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Value,
}

/// Answers every request by a function, and keeps what was asked.
pub(super) struct ApiServer {
    pub(super) asked: Arc<Mutex<Vec<Asked>>>,
}

pub(super) type Answer = (u16, Value);

impl ApiServer {
    pub(super) fn start(answer: impl Fn(&Asked) -> Option<Answer> + Send + 'static) -> (Self, Client) {
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

    pub(super) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().clone()
    }

    pub(super) fn writes(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.method != Method::GET).collect()
    }

    /// The newest body that was applied to this object.
    pub(super) fn applied(&self, path_end: &str) -> Value {
        let writes = self.writes();
        let found = writes.iter().rev().find(|asked| asked.path.ends_with(path_end));
        found.unwrap_or_else(|| panic!("{path_end} is not among {writes:?}")).body.clone()
    }
}

// An empty cluster that takes everything.
pub(super) fn usual(request: &Asked) -> Answer {
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

pub(super) fn failure(code: u16, reason: &str, message: &str) -> Answer {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": message}),
    )
}

/// A leader that answers with one status, and with one answer to a change of its configuration.
pub(super) struct ScriptedLeader {
    pub(super) port: u16,
    pub(super) patched: Arc<Mutex<Vec<(String, Value)>>>,
}

impl ScriptedLeader {
    pub(super) async fn start(config: Value, answer: (u16, Value)) -> Self {
        Self::start_with(7, config, answer).await
    }

    /// One that lists so many followers.
    pub(super) async fn start_with(listed: u32, config: Value, answer: (u16, Value)) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), 1, listed, config, answer).await
    }

    /// One at this address, with an epoch of this term.
    pub(super) async fn start_at(
        address: SocketAddr,
        term: u64,
        listed: u32,
        config: Value,
        answer: (u16, Value),
    ) -> Self {
        let followers: Vec<Value> = (0..listed)
            .map(|n| json!({"name": format!("demo-follower-{n}"), "state": "streaming", "member": true}))
            .collect();
        let status = json!({"role": "leader", "state": "open", "epoch": {"term": term, "leader": "a"}, "config": config, "followers": followers});
        Self::answering(address, status, answer).await
    }

    /// One with this status.
    pub(super) async fn answering(address: SocketAddr, status: Value, answer: (u16, Value)) -> Self {
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

    pub(super) fn patched(&self) -> Vec<(String, Value)> {
        self.patched.lock().clone()
    }
}

pub(super) fn config(generation: u64, write_quorum: u32, followers: u32) -> Value {
    json!({"generation": generation, "write_quorum": write_quorum, "followers": followers, "min_delay_ms": 0,
        "max_delay_ms": 200, "replication_timeout_ms": 5000, "pending": null})
}

pub(super) fn store<K>(objects: Vec<K>) -> kube::runtime::reflector::Store<K>
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

pub(super) fn context(client: Client, leader_port: u16, pods: Vec<Pod>) -> Arc<Context> {
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

pub(super) fn leader_pod() -> Pod {
    leader_pod_at("demo-leader-x", "127.0.0.1")
}

pub(super) fn leader_pod_at(name: &str, address: &str) -> Pod {
    let pod = json!({
        "metadata": {"name": name, "namespace": "shop", "labels": labels("demo", Some(Component::Leader))},
        "status": {"phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}]}});
    serde_json::from_value(pod).expect("a pod")
}

pub(super) fn guarded(cluster: KvCluster) -> Arc<DeserializeGuard<KvCluster>> {
    Arc::new(DeserializeGuard(Ok(cluster)))
}

pub(super) fn opened(spec: &str, replicas: i32) -> KvCluster {
    let mut cluster = cluster(spec);
    cluster.status =
        Some(KvClusterStatus { opened: true, applied_replicas: Some(replicas), ..KvClusterStatus::default() });
    cluster
}

/// An API server that keeps Secrets as they are written.
pub(super) fn with_secrets(
    secrets: &Arc<Mutex<BTreeMap<String, Value>>>,
) -> impl Fn(&Asked) -> Option<Answer> + Send + 'static {
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

pub(super) fn lines_of(secrets: &Arc<Mutex<BTreeMap<String, Value>>>, name: &str, key: &str) -> Vec<String> {
    let secret: Secret = serde_json::from_value(secrets.lock()[name].clone()).expect("a Secret");
    let text = String::from_utf8(secret.data.expect("data")[key].0.clone()).expect("text");
    text.lines().map(str::to_owned).collect()
}

pub(super) fn rolled_out_token() -> Tokens {
    Tokens { wanted: b"t".to_vec(), accepted: vec!["t".to_owned()], dropped: vec![], stage: Stage::Applied }
}

/// The objects of a cluster of five that an earlier template made, and a context in which the watches have them.
pub(super) fn rolling(client: Client, leader_port: u16, down: &[usize], spec: &str) -> Arc<Context> {
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

pub(super) fn generation_3(asked: &Asked) -> Option<Answer> {
    let (_, mut body) = usual(asked);
    body["metadata"]["generation"] = json!(3);
    (asked.method == Method::PATCH && asked.path.contains("/statefulsets/")).then_some((200, body))
}

pub(super) fn condition_of(status: &Value, type_: &str) -> Value {
    let all = status["status"]["conditions"].as_array().expect("conditions");
    all.iter().find(|condition| condition["type"] == type_).expect("the condition is there").clone()
}
