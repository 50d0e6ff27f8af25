//! Goal: a thousand KvClusters in which nothing happens cost next to nothing, and one that changes is noticed at once.
//! Method: their objects as the API server would have them, real leaders' answers over HTTP, and looks at their time.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::*;
use crate::context::Calm;

/// How many KvClusters there are. A thousand take a while without optimization.
fn count() -> usize {
    std::env::var("KVCLUSTERS").map_or(200, |count| count.parse().expect("a number"))
}

/// What the API server has, by path.
type Stored = Arc<Mutex<BTreeMap<String, Value>>>;

/// Keeps every object but a status as it was written.
fn keeps(stored: &Stored) -> impl Fn(&Asked) -> Option<Answer> + Send + 'static {
    let stored = stored.clone();
    move |asked| {
        if asked.method == Method::GET {
            return stored.lock().get(&asked.path).map(|object| (200, object.clone()));
        }
        let (code, mut made) = usual(asked);
        if asked.path.ends_with("/status") || asked.path.ends_with("/events") {
            return None;
        }
        made["metadata"]["generation"] = json!(1);
        made["metadata"]["resourceVersion"] = json!(asked.body.to_string().len().to_string());
        let workload = json!({"observedGeneration": 1, "replicas": 5, "updatedReplicas": 5, "updateRevision": "new"});
        if asked.path.contains("/statefulsets/") {
            made["status"] = workload;
        } else if asked.path.contains("/deployments/") {
            made["status"] = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1});
        }
        stored.lock().insert(asked.path.clone(), made.clone());
        Some((code, made))
    }
}

/// The watches after they have delivered everything.
fn watching(stored: &Stored, client: Client, port: u16) -> Arc<Context> {
    fn of<K: serde::de::DeserializeOwned>(stored: &Stored, plural: &str) -> Vec<K> {
        let stored = stored.lock();
        let found = stored.iter().filter(|(path, _)| path.contains(&format!("/{plural}/")));
        found.map(|(_, object)| serde_json::from_value(object.clone()).expect("an object")).collect()
    }
    let mut context = context(client, port, (0..count()).flat_map(pods_of).collect());
    let stores = &mut Arc::get_mut(&mut context).expect("the only reference").stores;
    stores.accounts = store::<ServiceAccount>(of(stored, "serviceaccounts"));
    stores.configs = store::<ConfigMap>(of(stored, "configmaps"));
    stores.services = store::<Service>(of(stored, "services"));
    stores.stateful_sets = store::<StatefulSet>(of(stored, "statefulsets"));
    stores.deployments = store::<Deployment>(of(stored, "deployments"));
    stores.budgets = store::<PodDisruptionBudget>(of(stored, "poddisruptionbudgets"));
    stores.policies = store::<NetworkPolicy>(of(stored, "networkpolicies"));
    context
}

fn numbered(number: usize) -> KvCluster {
    let mut cluster = opened("{}", 5);
    cluster.metadata.namespace = Some(format!("shop-{number}"));
    cluster
}

fn pods_of(number: usize) -> Vec<Pod> {
    let in_namespace = |mut pod: Pod| {
        pod.metadata.namespace = Some(format!("shop-{number}"));
        pod
    };
    let follower = |ordinal: usize| {
        let mut pod = leader_pod_at(&format!("demo-follower-{ordinal}"), "127.0.0.1");
        let mut of_revision = labels("demo", Some(Component::Follower));
        of_revision.insert("controller-revision-hash".to_owned(), "new".to_owned());
        pod.metadata.labels = Some(of_revision);
        pod
    };
    (0..5).map(follower).chain([leader_pod()]).map(in_namespace).collect()
}

#[tokio::test]
async fn a_thousand_clusters_in_which_nothing_happens_cost_next_to_nothing() {
    let stored: Stored = Arc::default();
    let (api, client) = ApiServer::start(keeps(&stored));
    let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
    let clusters: Vec<KvCluster> = (0..count()).map(numbered).collect();
    // The objects are made; with an open leader some change; then all is as it should be.
    let mut context = watching(&stored, client.clone(), leader.port);
    for _ in 0..3 {
        context = watching(&stored, client.clone(), leader.port);
        for cluster in &clusters {
            reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds");
            api.asked.lock().clear(); // bodies of so many objects fill the memory
        }
    }
    let before = 0;
    let asked_since = |before: usize| -> Vec<Asked> { api.asked().split_off(before) };
    let look = async |cluster: &KvCluster| {
        context.memory.due(cluster, Some(Instant::now()));
        reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds")
    };
    for _ in 0..5 {
        for cluster in &clusters {
            look(cluster).await;
        }
    }
    assert_eq!(asked_since(before).len(), 0, "{:?}", asked_since(before).first());
    assert!(clusters.iter().all(|cluster| context.memory.calm(cluster).is_some_and(|calm| calm.times == 5)));

    for cluster in &clusters {
        let mut read = context.memory.secrets(cluster).expect("read");
        read.read_at -= Duration::from_secs(60);
        context.memory.secrets_seen(cluster, Some(read));
        look(cluster).await;
    }
    let asked = asked_since(before);
    assert_eq!(asked.len(), 2 * count(), "two Secrets each");
    assert!(asked.iter().all(|asked| asked.method == Method::GET && asked.path.contains("/secrets/demo-auth")));
    println!(
        "{} KvClusters at rest: {:.1} requests a second to the API server, 0 of them write; {:.0} questions to leaders",
        count(),
        asked.len() as f64 / secrets::READ_EVERY.as_secs_f64(),
        count() as f64 / next_calm_look(u32::MAX, Duration::from_secs(3)).as_secs_f64(),
    );

    // Each of these is a complete reconciliation, which reads both Secrets.
    let complete = async |cluster: &KvCluster| {
        let before = api.asked().len();
        look(cluster).await;
        asked_since(before).iter().filter(|asked| asked.path.contains("/secrets/")).count() == 2
    };
    context.memory.changed("shop-7", "demo");
    assert!(complete(&clusters[7]).await, "a watch has reported something");
    assert!(!complete(&clusters[8]).await);
    for (number, secret, expected) in [(9, "demo-auth", 3), (11, "demo-auth-accepted", 4)] {
        let path = format!("/api/v1/namespaces/shop-{number}/secrets/{secret}");
        stored.lock().get_mut(&path).expect("a Secret")["metadata"]["resourceVersion"] = json!("edited");
        let mut read = context.memory.secrets(&clusters[number]).expect("read");
        read.read_at -= Duration::from_secs(60);
        context.memory.secrets_seen(&clusters[number], Some(read));
        let before = api.asked().len();
        look(&clusters[number]).await;
        let of_secrets = asked_since(before).iter().filter(|asked| asked.path.contains("/secrets/")).count();
        assert_eq!(of_secrets, expected, "the edit of {secret} is seen, and both are read");
    }
    let Calm { mut leader, .. } = context.memory.calm(&clusters[10]).expect("calm");
    leader.status.followers[3].state = kvcluster_api::status::FollowerState::Lagging;
    context.memory.calm_seen(&clusters[10], Some(Calm { leader, times: 3 }));
    assert!(complete(&clusters[10]).await, "the leader answers otherwise");
    assert_eq!(context.memory.calm(&clusters[10]).expect("calm").times, 0, "it is asked soon again");
    assert!(!complete(&clusters[10]).await);
}

// Goal: those that change never wait for those that are calm. Method: as many calm looks as may be are under way.
#[tokio::test]
async fn a_calm_look_gives_way_where_there_are_many() {
    let stored: Stored = Arc::default();
    let (api, client) = ApiServer::start(keeps(&stored));
    let leader = ScriptedLeader::start_with(5, config(4, 3, 5), (500, json!({}))).await;
    let mut context = watching(&stored, client.clone(), leader.port);
    for _ in 0..3 {
        context = watching(&stored, client.clone(), leader.port);
        reconcile(guarded(numbered(1)), context.clone()).await.expect("it succeeds");
    }
    let cluster = numbered(1);
    let due = Instant::now();
    context.memory.due(&cluster, Some(due));
    let places = context.calm_looks.acquire_many(4).await.expect("all places");
    let before = api.asked().len();
    reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds");
    assert_eq!((api.asked().len(), context.memory.calm(&cluster).expect("calm").times), (before, 0), "it was put off");
    drop(places);
    reconcile(guarded(cluster.clone()), context.clone()).await.expect("it succeeds");
    assert_eq!(context.memory.calm(&cluster).expect("calm").times, 1, "it is still due");
}
