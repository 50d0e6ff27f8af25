//! Objects of a watch, found by their cluster without a look at those of all others.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::runtime::reflector::{ObjectRef, Store};
use kube::{Resource, ResourceExt};
use parking_lot::Mutex;

use crate::build::{COMPONENT, Component, INSTANCE, selector_labels};

/// After how long the name of an object that is gone is dropped. During a new list of all objects the store does not have
/// yet what the index has.
const DROP_AFTER: Duration = Duration::from_secs(600);

/// The names of a cluster's objects, and when each was noticed.
type Names = BTreeMap<String, Instant>;

/// A store with an index by cluster. The index has names alone: what an object is, the store says.
pub struct Indexed<K: Resource<DynamicType = ()> + Clone + 'static> {
    store: Store<K>,
    names: Arc<Mutex<HashMap<(String, String), Names>>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Clone for Indexed<K> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), names: self.names.clone() }
    }
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Indexed<K> {
    /// An index of what is in the store. What comes later has to be [noticed](Self::notice).
    #[must_use]
    pub fn new(store: Store<K>) -> Self {
        let indexed = Self { store, names: Arc::default() };
        indexed.store.state().iter().for_each(|object| indexed.notice(object.as_ref()));
        indexed
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store<K> {
        &self.store
    }

    /// Takes an object of the watch into the index.
    pub fn notice(&self, object: &K) {
        let Some(cluster) = object.labels().get(INSTANCE) else { return };
        let key = (object.namespace().unwrap_or_default(), cluster.clone());
        self.names.lock().entry(key).or_default().insert(object.name_any(), Instant::now());
    }

    /// The objects of one component of a cluster, by name.
    #[must_use]
    pub fn of(&self, namespace: &str, cluster: &str, component: Component) -> Vec<Arc<K>> {
        self.labelled(namespace, cluster, component.as_str())
    }

    /// The objects with this value of the label of components, by name.
    #[must_use]
    pub fn labelled(&self, namespace: &str, cluster: &str, component: &str) -> Vec<Arc<K>> {
        let mut labels = selector_labels(cluster, None);
        labels.insert(COMPONENT.to_owned(), component.to_owned());
        let mut index = self.names.lock();
        let Some(names) = index.get_mut(&(namespace.to_owned(), cluster.to_owned())) else { return Vec::new() };
        let mut found = Vec::with_capacity(names.len());
        names.retain(|name, noticed| match self.store.get(&ObjectRef::new(name).within(namespace)) {
            Some(object) => {
                if labels.iter().all(|(key, value)| object.labels().get(key) == Some(value)) {
                    found.push(object);
                }
                true
            }
            None => noticed.elapsed() < DROP_AFTER,
        });
        found
    }

    /// Drops a cluster that no longer exists. Objects that it left are noticed when they change.
    pub fn forget(&self, namespace: &str, cluster: &str) {
        let key = (namespace.to_owned(), cluster.to_owned());
        let mut index = self.names.lock();
        let stays = |name: &String| self.store.get(&ObjectRef::new(name).within(namespace)).is_some();
        if index.get(&key).is_some_and(|names| !names.keys().any(stays)) {
            index.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    #[test]
    fn the_objects_of_a_cluster_are_those_of_the_store_with_its_labels() {
        let pod = |name: &str, cluster: &str, component: Component| -> Pod {
            let labels = selector_labels(cluster, Some(component));
            serde_json::from_value(json!({"metadata": {"name": name, "namespace": "shop", "labels": labels}}))
                .expect("a pod")
        };
        let (store, mut writer) = reflector::store();
        let pods = Indexed::new(store);
        let mut touch = |event: watcher::Event<Pod>| {
            writer.apply_watcher_event(&event);
            if let watcher::Event::Apply(pod) | watcher::Event::Delete(pod) | watcher::Event::InitApply(pod) = &event {
                pods.notice(pod);
            }
        };
        touch(watcher::Event::Init);
        touch(watcher::Event::InitApply(pod("b", "demo", Component::Follower)));
        assert!(pods.of("shop", "demo", Component::Follower).is_empty(), "the list is not complete");
        touch(watcher::Event::InitDone);
        touch(watcher::Event::Apply(pod("a", "demo", Component::Follower)));
        touch(watcher::Event::Apply(pod("c", "demo", Component::Leader)));
        touch(watcher::Event::Apply(pod("d", "other", Component::Follower)));
        let names = || -> Vec<String> {
            pods.of("shop", "demo", Component::Follower).iter().map(|pod| pod.name_any()).collect()
        };
        assert_eq!(names(), ["a", "b"]);
        touch(watcher::Event::Delete(pod("a", "demo", Component::Follower)));
        touch(watcher::Event::Apply(pod("b", "stolen", Component::Follower)));
        assert!(names().is_empty());
        assert_eq!(pods.of("shop", "other", Component::Follower).len(), 1);
        assert!(pods.of("elsewhere", "demo", Component::Follower).is_empty());
    }
}
