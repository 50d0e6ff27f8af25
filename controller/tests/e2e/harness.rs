//! A namespace with a KvCluster in it, and what tests do with it.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource, ResourceExt};
use kvcluster_api::resource::{KvCluster, Phase};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

/// How long anything may take before a test fails. Not a judgement of speed.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub async fn client() -> Client {
    Client::try_default().await.expect("KUBECONFIG points at a cluster")
}

/// A namespace of its own, with a KvCluster `demo` in it.
pub struct Demo {
    pub client: Client,
    pub namespace: String,
}

impl Demo {
    /// Makes the namespace alone.
    pub async fn empty() -> Self {
        let client = client().await;
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let body = json!({"metadata": {"generateName": "kv-e2e-",
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
        let namespace =
            namespaces.create(&PostParams::default(), &serde_json::from_value(body).unwrap()).await.unwrap();
        Self { client, namespace: namespace.name_any() }
    }

    /// Makes the namespace and the KvCluster, and waits until it is ready.
    pub async fn ready(spec: Value) -> Self {
        let demo = Self::empty().await;
        demo.create(spec).await.expect("the spec is accepted");
        demo.until("is ready with every follower", |cluster| phase(cluster) == Phase::Ready).await;
        demo
    }

    pub async fn create(&self, spec: Value) -> Result<KvCluster, kube::Error> {
        let body = json!({"apiVersion": "kvcluster.io/v1alpha1", "kind": "KvCluster", "metadata": {"name": "demo"}, "spec": spec});
        // As `kubectl apply` does: what is not said is left to the API server's defaults.
        let api: Api<KvCluster> = self.api();
        api.patch("demo", &PatchParams::apply("e2e"), &Patch::Apply(&body)).await
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub async fn patch(&self, spec: Value) -> Result<KvCluster, kube::Error> {
        let api: Api<KvCluster> = self.api();
        api.patch("demo", &PatchParams::default(), &Patch::Merge(&json!({"spec": spec}))).await
    }

    /// Waits until the KvCluster is as described, and returns how long that took.
    pub async fn until(&self, what: &str, holds: impl Fn(&KvCluster) -> bool) -> Duration {
        let started = Instant::now();
        let condition = |cluster: Option<&KvCluster>| cluster.is_some_and(&holds);
        let api: Api<KvCluster> = self.api();
        if !comes_true(&api, "demo", PATIENCE, condition).await {
            let status = api.get("demo").await.map(|cluster| cluster.status);
            panic!("demo in {} does not become: {what}; its status: {status:#?}", self.namespace);
        }
        started.elapsed()
    }

    /// Waits until an object is as described.
    pub async fn until_object<K>(&self, name: &str, what: &str, holds: impl Fn(Option<&K>) -> bool)
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let came = comes_true(&self.api::<K>(), name, PATIENCE, holds).await;
        assert!(came, "{} {name} in {} does not become: {what}", K::kind(&()), self.namespace);
    }

    /// The pods of a component, or of both, by name. Those that end are among them: a leader answers until its successor has
    /// been open for a moment.
    pub async fn pods(&self, component: Option<&str>) -> Vec<Pod> {
        let component =
            component.map_or(String::new(), |component| format!(",app.kubernetes.io/component={component}"));
        let selector = format!("app.kubernetes.io/name=kvcluster{component}");
        let mut pods = self.api::<Pod>().list(&ListParams::default().labels(&selector)).await.unwrap().items;
        pods.sort_by_key(ResourceExt::name_any);
        pods
    }

    /// The same without those that end.
    pub async fn staying_pods(&self, component: Option<&str>) -> Vec<Pod> {
        let mut pods = self.pods(component).await;
        pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
        pods
    }

    /// Name, uid and restarts of every pod that does not end.
    pub async fn identities(&self) -> BTreeMap<String, (String, i32)> {
        let restarts = |pod: &Pod| {
            pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten()).map(|c| c.restart_count).sum::<i32>()
        };
        self.staying_pods(None).await.iter().map(|pod| (pod.name_any(), (pod.uid().unwrap(), restarts(pod)))).collect()
    }

    /// The pod that leads, by the status.
    pub async fn leader(&self) -> Pod {
        self.until("has a leader", |cluster| cluster.status.as_ref().is_some_and(|status| status.leader.is_some()))
            .await;
        let cluster = self.api::<KvCluster>().get("demo").await.unwrap();
        self.api::<Pod>().get(&cluster.status.unwrap().leader.unwrap()).await.unwrap()
    }

    /// Removes the namespace with everything in it.
    pub async fn remove(self) {
        let namespaces: Api<Namespace> = Api::all(self.client);
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    /// A URL at which a ready pod of this component answers, as a client of the Service would see it.
    pub async fn url(&self, component: &'static str) -> String {
        let labels = format!("app.kubernetes.io/name=kvcluster,app.kubernetes.io/component={component}");
        forward(self.client.clone(), self.namespace.clone(), Selection::Labels(labels), 8000).await
    }

    /// The URL of the Service of the leader: its own address where this machine reaches it, otherwise one at which a pod
    /// that the Service selects answers.
    pub async fn service(&self) -> String {
        let service = self.api::<Service>().get("demo").await.unwrap();
        let address = format!("{}:8000", service.spec.unwrap().cluster_ip.unwrap());
        let reached = tokio::time::timeout(Duration::from_secs(2), TcpStream::connect(&address)).await;
        if reached.is_ok_and(|connected| connected.is_ok()) {
            return format!("http://{address}");
        }
        forward(self.client.clone(), self.namespace.clone(), Selection::Service("demo"), 8000).await
    }
}

/// Waits until an object is as described, also across a restart of the API server; false when the time is up.
pub async fn comes_true<K>(api: &Api<K>, name: &str, patience: Duration, holds: impl Fn(Option<&K>) -> bool) -> bool
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let watched = async {
        // A watch that fails says nothing about the object.
        while await_condition(api.clone(), name, &holds).await.is_err() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(patience, watched).await.is_ok()
}

/// Which pods connections go to.
#[derive(Clone)]
pub enum Selection {
    /// Those with these labels.
    Labels(String),
    /// Those that this Service selects when a connection begins.
    Service(&'static str),
}

/// Listens on this machine, and hands each connection to a ready pod of the selection. Works from wherever the API server
/// can be reached, as `kubectl port-forward` does, and finds the new pod after the old one went, as a Service does.
pub async fn forward(client: Client, namespace: String, selection: Selection, port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            tokio::spawn(carry(client.clone(), namespace.clone(), selection.clone(), port, connection));
        }
    });
    url
}

/// Listens on this machine, and hands each connection to this pod.
pub async fn forward_to(client: Client, pod: Pod, port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let pods: Api<Pod> = Api::namespaced(client, &pod.namespace().unwrap());
        while let Ok((mut connection, _)) = listener.accept().await {
            let Ok(mut forwarder) = pods.portforward(&pod.name_any(), &[port]).await else { return };
            let mut stream = forwarder.take_stream(port).unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut connection, &mut stream).await });
        }
    });
    url
}

// A connection that finds no ready pod is closed, which the client sees as an error.
async fn carry(
    client: Client,
    namespace: String,
    selection: Selection,
    port: u16,
    mut connection: TcpStream,
) -> Option<()> {
    let labels = match selection {
        Selection::Labels(labels) => labels,
        Selection::Service(name) => {
            let services: Api<Service> = Api::namespaced(client.clone(), &namespace);
            let selector = services.get(name).await.ok()?.spec?.selector?;
            let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
            labels.join(",")
        }
    };
    let pods: Api<Pod> = Api::namespaced(client, &namespace);
    let ready = pods.list(&ListParams::default().labels(&labels)).await.ok()?.items.into_iter().filter(is_ready);
    // A pod on its way out may still count as ready: the youngest is the one that stays.
    let pod = ready.max_by_key(|pod| pod.metadata.creation_timestamp.clone())?;
    let mut forwarder = pods.portforward(&pod.name_any(), &[port]).await.ok()?;
    let mut stream = forwarder.take_stream(port)?;
    tokio::io::copy_bidirectional(&mut connection, &mut stream).await.ok()?;
    Some(())
}

pub fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

pub fn phase(cluster: &KvCluster) -> Phase {
    let fresh =
        |status: &&kvcluster_api::resource::KvClusterStatus| status.observed_generation == cluster.metadata.generation;
    cluster.status.as_ref().filter(fresh).map_or(Phase::Creating, |status| status.phase)
}

/// Status and reason of a condition.
pub fn condition(cluster: &KvCluster, type_: &str) -> (String, String) {
    let conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.into_iter().find(|condition| condition.type_ == type_);
    found.map_or_else(Default::default, |condition| (condition.status.clone(), condition.reason.clone()))
}

pub fn is_true(cluster: &KvCluster, type_: &str) -> bool {
    condition(cluster, type_).0 == "True"
}

pub fn http() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(8)).no_proxy().build().unwrap()
}

/// One request; the code and the JSON of the answer.
pub async fn ask(method: reqwest::Method, url: &str, body: Option<Value>) -> (u16, Value) {
    let request = http().request(method, url);
    let request = if let Some(body) = body { request.json(&body) } else { request };
    let response = request.send().await.unwrap_or_else(|error| panic!("{url}: {error}"));
    (response.status().as_u16(), response.json().await.unwrap_or_default())
}
