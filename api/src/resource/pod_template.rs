//! `spec.leader.podTemplate` and `spec.followers.podTemplate`: what users add to the pods, and which names are the
//! operator's own.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext,
    ProjectedVolumeSource, SecretVolumeSource, TopologySpreadConstraint,
};
use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The name of the container of a node.
pub const NODE_CONTAINER: &str = "kv-node";

/// The name of the volume of a follower.
pub const DATA_VOLUME: &str = "data";

/// The variables of a node that the operator decides, as CEL. A variable in the pod would win over the ConfigMap, so
/// these include the variables of the ConfigMap.
const ENV_OF_THE_OPERATOR: &str = "['ROLE', 'PORT', 'RESP_PORT', 'REPLICATION_PORT', 'ADMIN_PORT', 'BIND_ADDRESS', \
     'NODE_NAME', 'POD_IP', 'AUTH_TOKEN', 'AUTH_TOKEN_FILE', 'CLIENT_TOKEN_FILE', 'TLS_CERT_FILE', 'TLS_KEY_FILE', \
     'TLS_CA_FILE', 'DRAIN_TIMEOUT_MS', 'LOG_FORMAT', 'LOG_LEVEL', 'FOLLOWERS', 'FOLLOWER_COUNT', 'WRITE_QUORUM', \
     'MIN_DELAY_MS', 'MAX_DELAY_MS', 'DELAY', 'REPLICATION_TIMEOUT_MS', 'CLUSTER_OPENED', 'CLUSTER_NAME', 'KVCLUSTER', \
     'TAKEOVER_AFTER_MS', 'ADVERTISE_URL', 'DURABILITY', 'DATA_DIR', 'AWAIT_RESTORE']";

/// The labels of pods that the operator and Kubernetes set, as CEL of a key `k`.
const LABEL_OF_THE_OPERATOR: &str = "(k.startsWith('kvcluster.io/') || k.startsWith('statefulset.kubernetes.io/') || \
     k.startsWith('apps.kubernetes.io/') || k in ['app.kubernetes.io/name', 'app.kubernetes.io/instance', \
     'app.kubernetes.io/component', 'app.kubernetes.io/managed-by', 'controller-revision-hash', 'pod-template-hash'])";

/// The annotations of pods and Services that the operator sets, as CEL of a key `k`.
const ANNOTATION_OF_THE_OPERATOR: &str = "(k.startsWith('kvcluster.io/') || \
     k in ['kubectl.kubernetes.io/default-container', 'controller.kubernetes.io/pod-deletion-cost'])";

/// What Kubernetes accepts as the key of a label or an annotation, as CEL of a key `k`.
const KEY: &str =
    "k.matches('^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$')";

// A rule on each key of a map, or on each item of a list: the first one that breaks it is named.
macro_rules! none {
    ($of:literal, $item:literal, $wrong:expr, $name:literal, $message:literal) => {
        rule!(
            format!("!{}.exists({}, {})", $of, $item, $wrong),
            format!(concat!("'", $message, "'.format([{}.filter({}, {})[0]{}])"), $of, $item, $wrong, $name)
        )
    };
}

/// What a pod has beyond what the operator gives it. A change replaces the pods one by one. Names that the operator sets
/// itself are refused.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// More labels of the pods, such as `{"team": "shop"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "labels")]
    #[x_kube(
        validation = none!("self", "k", LABEL_OF_THE_OPERATOR, "", "the label %s is set by the operator or by Kubernetes"),
        validation = none!("self", "k", format!("!{KEY}"), "", "%s cannot be the key of a label")
    )]
    pub labels: BTreeMap<String, String>,

    /// More annotations of the pods.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(
        validation = none!("self", "k", ANNOTATION_OF_THE_OPERATOR, "", "the annotation %s is set by the operator"),
        validation = none!("self", "k", format!("!{KEY}"), "", "%s cannot be the key of an annotation")
    )]
    pub annotations: BTreeMap<String, String>,

    /// Which machines the pods prefer or need, and which pods they stay near or away from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "affinity")]
    pub affinity: Option<Affinity>,

    /// How the pods are spread, in addition to `spread`. One without a labelSelector counts the pods of the same
    /// component. One with the topologyKey of `spread` takes its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "constraints")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,

    /// More variables of the container kv-node: settings of a node such as CONNECTIONS_MAX, or those of a program that is
    /// injected into the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "env")]
    #[x_kube(validation = none!(
        "self",
        "e",
        format!("e.name in {ENV_OF_THE_OPERATOR}"),
        ".name",
        "the variable %s is set by the operator: it follows from other fields of the spec"
    ))]
    pub env: Vec<EnvVar>,

    /// The security context of the pods. A field that is given replaces the operator's value of it; the other values
    /// remain: runAsNonRoot, user, group and fsGroup 65532, seccompProfile RuntimeDefault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "security_context")]
    pub security_context: Option<PodSecurityContext>,

    /// More containers, beside kv-node. One without a securityContext gets no privileges and no capabilities. A pod is ready
    /// once all of its containers are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "sidecars")]
    #[x_kube(
        validation = none!("self", "c", "c.name == 'kv-node'", ".name", "the container %s belongs to the operator"),
        validation = none!("self", "c", "!has(c.image) || c.image == ''", ".name", "the sidecar %s has no image")
    )]
    pub sidecars: Vec<Container>,

    /// More volumes, for sidecars.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = none!(
        "self",
        "v",
        "v.name == 'data' || v.name.startsWith('kv-')",
        ".name",
        "the volume %s belongs to the operator, as data and names that begin with kv- do"
    ))]
    pub volumes: Vec<PodVolume>,
}

/// A volume for sidecars: one of configMap, secret, emptyDir and projected.
#[derive(Clone, Debug, Default, PartialEq, KubeSchema, Serialize, Deserialize)]
#[x_kube(validation = rule!(
    "[has(self.configMap), has(self.secret), has(self.emptyDir), has(self.projected)].filter(given, given).size() == 1",
    "'the volume %s needs one of configMap, secret, emptyDir and projected'.format([self.name])"
))]
#[serde(rename_all = "camelCase")]
pub struct PodVolume {
    /// Its name, which the volumeMounts of sidecars use.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// The entries of a ConfigMap as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "config_map")]
    pub config_map: Option<ConfigMapVolumeSource>,
    /// The entries of a Secret as files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "secret")]
    pub secret: Option<SecretVolumeSource>,
    /// An empty directory that goes with the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "empty_dir")]
    pub empty_dir: Option<EmptyDirVolumeSource>,
    /// Several sources in one directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "projected")]
    pub projected: Option<ProjectedVolumeSource>,
}

impl PodTemplate {
    /// Whether it adds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn labels(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": {
            "type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"
        }
    })
}

fn affinity(generator: &mut SchemaGenerator) -> Schema {
    concise::<Affinity>(generator)
}

fn security_context(generator: &mut SchemaGenerator) -> Schema {
    concise::<PodSecurityContext>(generator)
}

fn config_map(generator: &mut SchemaGenerator) -> Schema {
    concise::<ConfigMapVolumeSource>(generator)
}

fn secret(generator: &mut SchemaGenerator) -> Schema {
    concise::<SecretVolumeSource>(generator)
}

fn empty_dir(generator: &mut SchemaGenerator) -> Schema {
    concise::<EmptyDirVolumeSource>(generator)
}

fn projected(generator: &mut SchemaGenerator) -> Schema {
    concise::<ProjectedVolumeSource>(generator)
}

fn constraints(generator: &mut SchemaGenerator) -> Schema {
    let items = concise::<TopologySpreadConstraint>(generator);
    schemars::json_schema!({"type": "array", "maxItems": 16, "items": items})
}

fn env(generator: &mut SchemaGenerator) -> Schema {
    named_list(concise::<EnvVar>(generator), 128)
}

fn sidecars(generator: &mut SchemaGenerator) -> Schema {
    named_list(concise::<Container>(generator), 8)
}

/// A list whose items have names of their own, which the API server enforces.
fn named_list(items: Schema, most: u32) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": most,
        "items": items,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["name"]
    })
}

/// The schema of a type of Kubernetes, with the first sentence of each description. `kubectl explain pod.spec` has the
/// rest, and the whole CRD has to fit into an annotation of `kubectl apply`.
fn concise<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = T::json_schema(generator).to_value();
    shorten(&mut schema);
    bound_names(&mut schema);
    Schema::try_from(schema).unwrap_or_default()
}

fn shorten(schema: &mut Value) {
    let Value::Object(object) = schema else { return };
    if let Some(Value::String(description)) = object.get_mut("description") {
        let end = description.find(". ").or_else(|| description.find(".\n")).map_or(description.len(), |dot| dot + 1);
        description.truncate(end);
    }
    for part in ["items", "additionalProperties"] {
        object.get_mut(part).into_iter().for_each(shorten);
    }
    if let Some(Value::Object(properties)) = object.get_mut("properties") {
        properties.values_mut().for_each(shorten);
    }
}

/// Bounds the names that rules compare: without bounds the API server estimates that a rule takes too long.
fn bound_names(schema: &mut Value) {
    for (name, most) in [("name", 253), ("image", 512)] {
        if let Some(Value::Object(property)) = schema.pointer_mut(&format!("/properties/{name}")) {
            property.insert("maxLength".to_owned(), json!(most));
        }
    }
}
