//! Applies objects by server-side apply, and only those that differ from the existing ones.
//!
//! An object differs when it is missing, when it was applied from another desired object, or when a field that the
//! operator sets has another value. An annotation has the hash of the desired object, which reveals a field that is no
//! longer desired. Fields of others stay as they are.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource, ResourceExt};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

use crate::build::{INSTANCE, MANAGER};
use crate::hash::fnv1a;

/// The annotation with the hash of what was applied.
const APPLIED: &str = "kvcluster.io/applied";

/// Why an object could not be applied or deleted.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// An object that the KvCluster does not own has this name.
    #[error("{kind} {name} exists already and belongs to {owner}: rename the KvCluster, or remove that object")]
    NameTaken {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Its owner.
        owner: String,
    },
    /// The API server refused or did not answer.
    #[error("failed to {action} {kind} {name}: {source}")]
    Api {
        /// What the operator tried: `apply`, `patch` or `delete`.
        action: &'static str,
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// The answer of the API server.
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// One word, for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NameTaken { .. } => "NameTaken",
            Self::Api { .. } => "ApplyFailed",
        }
    }
}

/// Applies objects.
#[derive(Clone)]
pub struct Applier {
    client: Client,
    /// The hash that was applied last, and the version of the object that resulted. Where the API server stores a value in
    /// another form, the comparison of fields never succeeds, and repeating the apply would not help.
    settled: Arc<Mutex<HashMap<String, (String, String)>>>,
}

/// A kind that a KvCluster can own.
pub trait Owned:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}
impl<K> Owned for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl Applier {
    /// Applies through this client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, settled: Arc::default() }
    }

    /// Brings `desired` into the cluster, where `cached` is what the watch knows of it. Returns what is there then.
    ///
    /// # Errors
    /// [`ApplyError`] when the name is taken, or the API server refuses.
    pub async fn apply<K: Owned>(&self, mut desired: K, cached: Option<Arc<K>>) -> Result<Arc<K>, ApplyError> {
        let kind = K::kind(&()).into_owned();
        let name = desired.name_any();
        let namespace = desired.namespace().unwrap_or_default();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let failed = |source: kube::Error| ApplyError::Api {
            action: "apply",
            kind: kind.clone(),
            name: name.clone(),
            source: Box::new(source),
        };
        // What the watch does not know may still exist, without our label: it must not be taken over unseen.
        let live = match cached {
            Some(live) => Some(live),
            None => api.get_opt(&name).await.map_err(failed)?.map(Arc::new),
        };
        let wanted = serde_json::to_value(&desired).map_err(kube::Error::SerdeError).map_err(failed)?;
        let hash = fingerprint(&wanted);
        // In memory, where no other can read it, with the secrets: they may change alone.
        let complete = fnv1a(wanted.to_string().as_bytes());
        let key = format!("{kind}/{namespace}/{name}");
        if let Some(live) = live {
            refuse_foreign(&desired, live.as_ref())?;
            let found = serde_json::to_value(live.as_ref()).map_err(kube::Error::SerdeError).map_err(failed)?;
            let same_desired = live.annotations().get(APPLIED) == Some(&hash);
            let repeated = self.settled.lock().get(&key) == Some(&(complete.clone(), version(live.as_ref())));
            if same_desired && (repeated || covers(&found, &wanted)) {
                return Ok(live);
            }
        }
        desired.annotations_mut().insert(APPLIED.to_owned(), hash);
        let parameters = PatchParams::apply(MANAGER).force();
        let applied = api.patch(&name, &parameters, &Patch::Apply(&desired)).await.map_err(failed)?;
        tracing::info!(kind, namespace, name, "applied");
        self.settled.lock().insert(key, (complete, version(&applied)));
        Ok(Arc::new(applied))
    }

    /// Drops the records of a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        self.settled.lock().retain(|key, _| {
            let mut parts = key.split('/').skip(1);
            parts.next() != Some(namespace)
                || !parts.next().is_some_and(|name| name == cluster || name.starts_with(&format!("{cluster}-")))
        });
    }
}

/// The hash of a desired object, without its secrets: from a hash of a weak token it could be guessed.
fn fingerprint(wanted: &Value) -> String {
    let mut shown = wanted.clone();
    if shown["kind"] == "Secret"
        && let Some(data) = shown["data"].as_object_mut()
    {
        data.values_mut().for_each(|value| *value = Value::Null);
    }
    fnv1a(shown.to_string().as_bytes())
}

/// Changes when a user changes the object, and not when its status changes. It is made of the generation and of the
/// metadata that the operator sets, which the generation does not count. An object without generation has no status
/// either, so its resource version serves.
fn version<K: Owned>(object: &K) -> String {
    let metadata = object.meta();
    let Some(generation) = metadata.generation else { return metadata.resource_version.clone().unwrap_or_default() };
    let marks = format!("{:?}{:?}{:?}", metadata.labels, metadata.annotations, metadata.owner_references);
    format!("{generation}/{}", fnv1a(marks.as_bytes()))
}

/// Refuses an object that belongs to another owner. An object without owner whose labels are ours lost its owner by hand.
fn refuse_foreign<K: Owned>(desired: &K, live: &K) -> Result<(), ApplyError> {
    let ours = desired.owner_references().first().map(|owner| owner.uid.as_str());
    let controller = live.owner_references().iter().find(|owner| owner.controller == Some(true));
    let owner = match controller {
        Some(owner) if Some(owner.uid.as_str()) == ours => return Ok(()),
        Some(owner) => format!("{} {}", owner.kind, owner.name),
        None => {
            let same = |key: &str| live.labels().get(key) == desired.labels().get(key);
            if same("app.kubernetes.io/managed-by") || (same(INSTANCE) && live.annotations().contains_key(APPLIED)) {
                return Ok(());
            }
            "no owner".to_owned()
        }
    };
    Err(ApplyError::NameTaken { kind: K::kind(&()).into_owned(), name: live.name_any(), owner })
}

/// Whether `found` has every value of `wanted`. It may have more, except in a list whose items have no names: such a list
/// has to be equal.
fn covers(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (_, Value::Null) => true,
        (Value::Object(found), Value::Object(wanted)) => wanted.iter().all(|(key, value)| match found.get(key) {
            Some(there) => covers(there, value),
            None => is_empty(value),
        }),
        (Value::Array(found), Value::Array(wanted)) => match wanted.iter().map(identity).collect::<Option<Vec<_>>>() {
            Some(names) => wanted
                .iter()
                .zip(names)
                .all(|(item, name)| found.iter().any(|there| identity(there) == Some(name) && covers(there, item))),
            None => found.len() == wanted.len() && found.iter().zip(wanted).all(|(there, item)| covers(there, item)),
        },
        (found, wanted) => found == wanted,
    }
}

fn identity(item: &Value) -> Option<&str> {
    item.get("uid").or_else(|| item.get("name")).and_then(Value::as_str)
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.values().all(is_empty),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_added_is_left_alone() {
        let wanted = json!({"spec": {"replicas": 1, "containers": [{"name": "kv-node", "image": "a"}]}, "data": {}});
        let found = json!({"spec": {"replicas": 1, "paused": false, "containers": [
            {"name": "sidecar"}, {"name": "kv-node", "image": "a", "tty": false}]}});
        assert!(covers(&found, &wanted));
    }

    #[test]
    fn an_edit_of_labels_or_owners_is_another_version_and_a_status_is_not() {
        let policy = |part: Value| -> k8s_openapi::api::policy::v1::PodDisruptionBudget {
            let mut object = json!({"metadata": {"generation": 3, "resourceVersion": "10", "labels": {"a": "b"}}});
            for (key, value) in part.as_object().expect("an object") {
                object["metadata"][key] = value.clone();
            }
            serde_json::from_value(object).expect("a budget")
        };
        let before = version(&policy(json!({})));
        assert_eq!(version(&policy(json!({"resourceVersion": "11"}))), before, "its status changed");
        let owner = json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": "y"}]});
        for edited in [json!({"labels": {"a": "c"}}), json!({"generation": 4}), owner] {
            assert_ne!(version(&policy(edited.clone())), before, "{edited}");
        }
    }

    #[test]
    fn what_we_set_is_compared() {
        let wanted = json!({"spec": {"replicas": 1, "tolerations": [{"key": "a"}, {"key": "b"}], "env": [{"name": "W", "value": "3"}]}});
        for edited in [
            json!({"spec": {"replicas": 2, "tolerations": [{"key": "a"}, {"key": "b"}], "env": [{"name": "W", "value": "3"}]}}),
            json!({"spec": {"replicas": 1, "tolerations": [{"key": "a"}], "env": [{"name": "W", "value": "3"}]}}),
            json!({"spec": {"replicas": 1, "tolerations": [{"key": "a"}, {"key": "b"}, {"key": "c"}], "env": [{"name": "W", "value": "3"}]}}),
            json!({"spec": {"replicas": 1, "tolerations": [{"key": "a"}, {"key": "b"}], "env": [{"name": "W", "value": "4"}]}}),
            json!({"spec": {"replicas": 1, "tolerations": [{"key": "a"}, {"key": "b"}], "env": []}}),
            json!({"spec": {"replicas": 1, "env": [{"name": "W", "value": "3"}]}}),
        ] {
            assert!(!covers(&edited, &wanted), "{edited}");
        }
    }
}
