//! The supplied Jobs, as their manifests have them.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::ResourceExt;
use kube::api::{DeleteParams, ListParams, LogParams, PostParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::harness::{Demo, comes_true};

/// A Job that is supplied.
pub struct Supplied {
    pub manifest: &'static str,
    pub name: &'static str,
}

impl Supplied {
    /// As `kubectl apply -f` of the manifest, with more arguments, and the image that the nodes have.
    pub async fn start(&self, demo: &Demo, arguments: &[&str]) {
        let image = demo.leader().await.spec.unwrap().containers[0].image.clone();
        let documents: Vec<Value> = serde_saphyr::from_multiple(self.manifest).unwrap();
        for mut document in documents {
            match document["kind"].as_str().unwrap() {
                "ServiceAccount" => create::<ServiceAccount>(demo, document).await,
                "Role" => create::<Role>(demo, document).await,
                "RoleBinding" => create::<RoleBinding>(demo, document).await,
                "Job" => {
                    let container = &mut document["spec"]["template"]["spec"]["containers"][0];
                    container["image"] = json!(image);
                    container["args"].as_array_mut().unwrap().extend(arguments.iter().map(|argument| json!(argument)));
                    create::<Job>(demo, document).await;
                }
                other => panic!("what is a {other} for?"),
            }
        }
    }

    /// Waits until it has ended: `Complete` or `Failed`, and its log.
    pub async fn end(&self, demo: &Demo) -> (String, String) {
        let has_ended = |job: Option<&Job>| job.is_some_and(|job| ended(job).is_some());
        let came = comes_true(&demo.api::<Job>(), self.name, std::time::Duration::from_secs(600), has_ended).await;
        let log = self.log(demo).await;
        assert!(came, "{} in {} does not end: {log}", self.name, demo.namespace);
        (ended(&demo.api::<Job>().get(self.name).await.unwrap()).unwrap(), log)
    }

    /// Deletes it while it runs, as `kubectl delete` does; returns the name of its pod.
    pub async fn delete(&self, demo: &Demo) -> String {
        let pod = self.pod(demo).await;
        demo.api::<Job>().delete(self.name, &DeleteParams::background()).await.unwrap();
        pod
    }

    async fn pod(&self, demo: &Demo) -> String {
        let labels = ListParams::default().labels(&format!("job-name={}", self.name));
        demo.api::<Pod>().list(&labels).await.unwrap().items[0].name_any()
    }

    async fn log(&self, demo: &Demo) -> String {
        demo.api::<Pod>().logs(&self.pod(demo).await, &LogParams::default()).await.unwrap()
    }
}

async fn create<K>(demo: &Demo, document: Value)
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::Serialize
        + DeserializeOwned,
{
    demo.api::<K>().create(&PostParams::default(), &serde_json::from_value(document).unwrap()).await.unwrap();
}

/// `Complete` or `Failed`, once it is one of them.
fn ended(job: &Job) -> Option<String> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ends = |type_: &str| ["Complete", "Failed"].contains(&type_);
    conditions.iter().find(|c| ends(&c.type_) && c.status == "True").map(|c| c.type_.clone())
}

/// As the documented `sed -n '/^FIRST/,/^LAST/p'`.
pub fn cut(log: &str, first: &str, last: &str) -> String {
    let from = log.lines().skip_while(|line| !line.starts_with(first));
    let mut lines: Vec<&str> = Vec::new();
    for line in from {
        lines.push(line);
        if line.starts_with(last) {
            break;
        }
    }
    lines.join("\n")
}
