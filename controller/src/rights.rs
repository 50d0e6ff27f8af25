//! Goal: the operator has every right that it uses, and uses every right that it has. Method: simulated API servers record what
//! they are asked; what installs the operator says what it may.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use clap::Parser;
use http::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower_test::mock;

use crate::controller;
use crate::election::Election;
use crate::health::Health;
use crate::manifests::{self, ManifestSettings};
use crate::metrics::Metrics;
use crate::reconcile::scenarios;
use crate::settings::Settings;

/// Group, resource with its subresource, verb.
type Right = (String, String, String);

static USED: LazyLock<Mutex<BTreeSet<Right>>> = LazyLock::new(Mutex::default);

/// Records what a request needs. Every simulated API server calls it.
pub(crate) fn record(method: &Method, path: &str, query: &str, body: &Value) {
    let mut used = USED.lock();
    let of_request = right_of(method, path, query);
    // Server-side apply makes what is not there, unless it names a uid.
    if let Some((group, resource, verb)) = &of_request
        && verb == "patch"
        && !resource.contains('/')
        && query.contains("force=true")
        && body["metadata"]["uid"].is_null()
    {
        used.insert(right(group, resource, "create"));
    }
    used.extend(of_request);
    // With blockOwnerDeletion the API server asks for the right to change the owner's finalizers.
    let owners = body["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    if owners.into_iter().any(|owner| owner["kind"] == "KvCluster" && owner["blockOwnerDeletion"] == true) {
        used.insert(right("kvcluster.io", "kvclusters/finalizers", "update"));
    }
}

fn right(group: &str, resource: &str, verb: &str) -> Right {
    (group.to_owned(), resource.to_owned(), verb.to_owned())
}

fn right_of(method: &Method, path: &str, query: &str) -> Option<Right> {
    let mut parts = path.trim_matches('/').split('/').peekable();
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    parts.next()?;
    if parts.peek() == Some(&"namespaces") {
        parts.next();
        parts.next()?;
    }
    let resource = parts.next()?;
    let (name, subresource) = (parts.next(), parts.next());
    let verb = match (method.as_str(), name) {
        ("GET", Some(_)) => "get",
        ("GET", None) if query.split('&').any(|one| one.starts_with("watch=")) => "watch",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PATCH", _) => "patch",
        ("PUT", _) => "update",
        ("DELETE", Some(_)) => "delete",
        ("DELETE", None) => "deletecollection",
        _ => return None,
    };
    let resource = subresource.map_or_else(|| resource.to_owned(), |sub| format!("{resource}/{sub}"));
    Some(right(group, &resource, verb))
}

/// What the operator's roles grant: the one of all namespaces, and the one of the Lease.
fn granted() -> BTreeSet<Right> {
    let printed = manifests::print(&ManifestSettings::default());
    let objects: Vec<Value> = serde_saphyr::from_multiple(&printed).expect("YAML");
    let bound: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")))
        .map(|binding| &binding["roleRef"]["name"])
        .collect();
    let roles = objects.iter().filter(|object| matches!(object["kind"].as_str(), Some("Role" | "ClusterRole")));
    let rules = roles.filter(|role| bound.contains(&&role["metadata"]["name"])).flat_map(|role| texts(role, "rules"));
    let mut granted = BTreeSet::new();
    for rule in rules {
        for group in texts(rule, "apiGroups") {
            for resource in texts(rule, "resources") {
                for verb in texts(rule, "verbs") {
                    let text = |value: &Value| value.as_str().expect("text").to_owned();
                    granted.insert((text(group), text(resource), text(verb)));
                }
            }
        }
    }
    granted
}

fn texts<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object[field].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// An API server with no object but this Lease, whose watches report nothing.
pub(crate) fn empty_api_server(lease: Arc<Mutex<Option<Value>>>) -> Client {
    let (service, mut handle) = mock::pair::<Request<Body>, Response<Body>>();
    tokio::spawn(async move {
        while let Some((request, reply)) = handle.next_request().await {
            let (head, body) = request.into_parts();
            let bytes = body.collect_bytes().await.expect("a body");
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let query = head.uri.query().unwrap_or_default();
            record(&head.method, head.uri.path(), query, &body);
            let used = right_of(&head.method, head.uri.path(), query);
            let answer = match used.as_ref().map(|(_, _, verb)| verb.as_str()) {
                Some("list") => {
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": []})
                }
                Some("get") if lease.lock().is_some() => lease.lock().clone().unwrap_or_default(),
                Some("get") => {
                    json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": ""})
                }
                Some("create" | "update") => {
                    *lease.lock() = Some(body.clone());
                    body
                }
                _ => Value::Null,
            };
            let code = if answer["code"] == 404 { 404 } else { 200 };
            let text = if answer.is_null() { Vec::new() } else { serde_json::to_vec(&answer).expect("JSON") };
            reply.send_response(Response::builder().status(code).body(Body::from(text)).expect("a response"));
        }
    });
    Client::new(service, "shop")
}

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
}

/// The watches, and the Lease from the first to the last request.
async fn watches_and_lease() {
    let client = empty_api_server(Arc::default());
    let settings = Cli::try_parse_from(["kv-controller"]).expect("settings").settings;
    let metrics = Arc::new(Metrics::default());
    let health = Arc::new(Health::new(Duration::from_secs(120), metrics.clone()));
    let (stop, stopped) = watch::channel(());
    let clients = (client.clone(), client.clone());
    let waits = client.clone();
    let waiting = tokio::spawn(async move { controller::keep_labels(&waits, None).await });
    let work = controller::work(clients, &settings, metrics, health, stopped).expect("it starts");
    let watched: BTreeSet<Right> =
        granted().into_iter().filter(|(_, _, verb)| matches!(verb.as_str(), "list" | "watch")).collect();
    let drive = async move {
        let mut election = Election::new(client, "operators", "kv-controller", "a");
        election.acquire(|| {}).await;
        election.acquire(|| {}).await;
        election.release().await;
        // What the operator has no watch for is named by the test.
        let started = Instant::now();
        while !watched.is_subset(&USED.lock()) && started.elapsed() < Duration::from_secs(20) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = stop.send(());
    };
    let both = async { tokio::join!(work, drive) };
    tokio::time::timeout(Duration::from_secs(60), both).await.expect("it ends");
    waiting.abort();
}

fn shown(rights: &BTreeSet<Right>) -> Vec<String> {
    rights.iter().map(|(group, resource, verb)| format!("{verb} {resource}.{group}")).collect()
}

// Each right that is taken away is missing here, and each that is added without a use is listed. A new right needs a test
// with a simulated API server that uses it, in `scenarios`.
#[test]
fn the_operator_has_the_rights_that_it_uses_and_no_others() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(watches_and_lease());
    scenarios();
    let (used, granted) = (USED.lock().clone(), granted());
    let missing: BTreeSet<Right> = used.difference(&granted).cloned().collect();
    assert_eq!(shown(&missing), Vec::<String>::new(), "the code uses rights that no role grants");
    let unused: BTreeSet<Right> = granted.difference(&used).cloned().collect();
    assert_eq!(shown(&unused), Vec::<String>::new(), "roles grant rights that the code never uses");
}

#[test]
fn a_request_needs_the_right_of_its_verb_and_subresource() {
    for (method, path, query, expected) in [
        (Method::GET, "/api/v1/namespaces/shop/secrets/demo-auth", "", right("", "secrets", "get")),
        (Method::GET, "/api/v1/pods", "labelSelector=a&watch=true", right("", "pods", "watch")),
        (Method::GET, "/api/v1/pods", "limit=500", right("", "pods", "list")),
        (Method::POST, "/api/v1/namespaces/shop/pods/demo-0/eviction", "", right("", "pods/eviction", "create")),
        (
            Method::PATCH,
            "/apis/kvcluster.io/v1alpha1/namespaces/shop/kvclusters/demo/status",
            "fieldManager=x",
            right("kvcluster.io", "kvclusters/status", "patch"),
        ),
        (
            Method::DELETE,
            "/apis/policy/v1/namespaces/shop/poddisruptionbudgets/demo",
            "",
            right("policy", "poddisruptionbudgets", "delete"),
        ),
        (
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/operators/leases/kv-controller",
            "",
            right("coordination.k8s.io", "leases", "update"),
        ),
    ] {
        assert_eq!(right_of(&method, path, query), Some(expected), "{method} {path}?{query}");
    }
}
