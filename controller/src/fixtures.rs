//! What unit tests start from: a KvCluster from a few lines of YAML. The values differ from each other and from the
//! defaults, so that swapped ones show.

use crate::reconcile::validate::{Defaults, Platform, Validated, validate};
use kvcluster_api::resource::{ImagePullPolicy, KvCluster, KvClusterSpec};

/// The uid of every fixture.
pub(crate) const UID: &str = "6a1f0b52-0000-4000-8000-00000000demo";

/// A KvCluster `shop/demo` of generation 4 with this spec.
pub(crate) fn cluster(spec: &str) -> KvCluster {
    let spec: KvClusterSpec = serde_saphyr::from_str(spec).expect("the fixture is a spec");
    let mut cluster = KvCluster::new("demo", spec);
    cluster.metadata.namespace = Some("shop".to_owned());
    cluster.metadata.uid = Some(UID.to_owned());
    cluster.metadata.generation = Some(4);
    cluster
}

/// An operator in the namespace `operators`.
pub(crate) fn defaults() -> Defaults {
    Defaults {
        image: "registry.example/kvcluster:7".to_owned(),
        image_pull_policy: ImagePullPolicy::IfNotPresent,
        domain: Some("cluster.example".to_owned()),
        operator_namespace: "operators".to_owned(),
        platform: Platform { fixed_user: true, ipv6: false },
    }
}

/// The KvCluster with this spec, validated.
pub(crate) fn validated(spec: &str) -> Validated {
    validate(&cluster(spec), &defaults()).expect("the fixture is valid")
}
