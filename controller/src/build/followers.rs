//! The followers. Each has a stable name and a volume of its own.

use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimSpec, TopologySpreadConstraint, VolumeMount, VolumeResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::api::ObjectMeta;
use kvcluster_api::resource::{DATA_VOLUME, Durability, SpreadMode, VolumePolicy};

use crate::build::{
    AWAKE_FOLLOWERS, Component, Inputs, additions, names, pod, selector, selector_labels, workload_metadata,
};
use crate::reconcile::validate::Validated;

/// The name of the volume of each follower.
pub(super) const DATA: &str = DATA_VOLUME;
/// The update strategy with which a pod gets a new template only once it was deleted.
pub(crate) const ON_DELETE: &str = "OnDelete";
const DATA_DIR: &str = "/data";

pub(super) fn stateful_set(cluster: &Validated, inputs: &Inputs) -> StatefulSet {
    let mut env = vec![
        pod::env("DURABILITY", &format!("{:?}", cluster.durability).to_lowercase()),
        // Retained volumes are for the next KvCluster with this name and namespace, and for no other.
        pod::env("CLUSTER_NAME", &format!("{}/{}", cluster.namespace, cluster.name)),
    ];
    if cluster.durability == Durability::Disk {
        env.push(pod::env("DATA_DIR", DATA_DIR));
    }
    let mut template = pod::template(cluster, Component::Follower, env);
    if let Some(spec) = template.spec.as_mut() {
        spec.topology_spread_constraints = Some(vec![spread(cluster)]);
        if cluster.durability == Durability::Disk {
            for container in &mut spec.containers {
                container.volume_mounts.get_or_insert_default().push(VolumeMount {
                    name: DATA.to_owned(),
                    mount_path: DATA_DIR.to_owned(),
                    ..VolumeMount::default()
                });
            }
        }
    }
    additions::add(&mut template, cluster, Component::Follower);
    let mut metadata = workload_metadata(cluster, names::followers(&cluster.name), Component::Follower, &template);
    if inputs.asleep {
        let followers = inputs.follower_pods.to_string();
        metadata.annotations.get_or_insert_default().insert(AWAKE_FOLLOWERS.to_owned(), followers);
    }
    StatefulSet {
        metadata,
        spec: Some(StatefulSetSpec {
            replicas: Some(if inputs.asleep { 0 } else { inputs.follower_pods }),
            service_name: Some(names::peers(&cluster.name)),
            selector: selector(cluster, Some(Component::Follower)),
            // In parallel: in order, one follower that cannot start would keep the rest from starting.
            pod_management_policy: Some("Parallel".to_owned()),
            // The operator decides which pod gets a new template, and when.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some(ON_DELETE.to_owned()),
                rolling_update: None,
            }),
            revision_history_limit: Some(2),
            volume_claim_templates: (cluster.durability == Durability::Disk).then(|| vec![claim(cluster)]),
            persistent_volume_claim_retention_policy: Some(StatefulSetPersistentVolumeClaimRetentionPolicy {
                // The cluster outlives a StatefulSet that is deleted by hand. The KvCluster owns volumes that go with it.
                when_deleted: Some(policy(VolumePolicy::Retain)),
                // In a hibernation no follower leaves for good.
                when_scaled: Some(policy(match cluster.hibernated {
                    true => VolumePolicy::Retain,
                    false => cluster.storage.on_scale_down,
                })),
            }),
            template,
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn claim(cluster: &Validated) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(DATA.to_owned()),
            labels: Some(selector_labels(&cluster.name, Some(Component::Follower))),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            storage_class_name: cluster.storage.storage_class_name.clone(),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity(cluster.storage.size.clone()))].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    }
}

fn spread(cluster: &Validated) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: cluster.spread.topology_key.clone(),
        when_unsatisfiable: match cluster.spread.mode {
            SpreadMode::Preferred => "ScheduleAnyway",
            SpreadMode::Required => "DoNotSchedule",
        }
        .to_owned(),
        label_selector: Some(selector(cluster, Some(Component::Follower))),
        ..TopologySpreadConstraint::default()
    }
}

fn policy(policy: VolumePolicy) -> String {
    match policy {
        VolumePolicy::Retain => "Retain",
        VolumePolicy::Delete => "Delete",
    }
    .to_owned()
}
