//! What the pods of leader and followers have in common: security, probes, resources, settings.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath, LocalObjectReference,
    ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretVolumeSource, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use kvcluster_api::resource::{NODE_CONTAINER, PodSettings, Resources};

use crate::build::{ACCEPTED_KEY, ADMIN_PORT, Component, PORT, REPLICATION_PORT, RESP_PORT, labels, names, ports};
use crate::reconcile::certificates::{CA_KEY, CERTIFICATE_KEY, PRIVATE_KEY};
use crate::reconcile::validate::Validated;

/// How long a pod may take to shut down, in seconds. The node drains in less.
const GRACE_PERIOD_S: i64 = 30;
/// How long a node waits for writes in flight when it shuts down, in milliseconds.
const DRAIN_TIMEOUT_MS: u32 = 20_000;
/// The volumes with the tokens of nodes and of clients, and the file in each.
const AUTH: &str = "kv-auth";
const CLIENTS: &str = "kv-clients";
const TOKENS: &str = "tokens";
/// The volume with the certificate.
const TLS: &str = "kv-tls";
/// The setting of nodes that speak TLS.
pub(super) const TLS_SETTING: &str = "TLS_CERT_FILE";
/// The setting of each file in it.
const TLS_FILES: [(&str, &str); 3] =
    [(TLS_SETTING, CERTIFICATE_KEY), ("TLS_KEY_FILE", PRIVATE_KEY), ("TLS_CA_FILE", CA_KEY)];
/// The annotation of the pods of a cluster with TLS, which the chart's PodMonitor reads.
const SCHEME: &str = "kvcluster.io/scheme";
/// The user of the image.
const USER: i64 = 65_532;

/// The part of the pod template that both components share.
///
/// A change of the template restarts pods, so it contains nothing that changes on a running node: neither what the leader
/// gets by `PATCH /config`, nor tokens
/// and certificates, which are files.
pub(super) fn template(cluster: &Validated, component: Component, env: Vec<EnvVar>) -> PodTemplateSpec {
    let settings = match component {
        Component::Leader => &cluster.leader,
        Component::Follower => &cluster.followers,
    };
    let PodSettings { resources, node_selector, tolerations, priority_class_name, pod_template: _ } = settings.clone();
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels(&cluster.name, Some(component))),
            annotations: Some(annotations(cluster)),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            image_pull_secrets: Some(
                cluster.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect(),
            )
            .filter(|secrets: &Vec<_>| !secrets.is_empty()),
            node_selector: Some(node_selector).filter(|labels| !labels.is_empty()),
            tolerations: Some(tolerations).filter(|tolerations| !tolerations.is_empty()),
            priority_class_name,
            termination_grace_period_seconds: Some(GRACE_PERIOD_S),
            security_context: Some(security(cluster)),
            containers: vec![container(cluster, component, resources, env)],
            volumes: Some(volumes(cluster)),
            ..PodSpec::default()
        }),
    }
}

/// A monitor of all KvClusters sees no more of a pod than labels and annotations: those say which ones to scrape by TLS.
fn annotations(cluster: &Validated) -> BTreeMap<String, String> {
    let container = Some(("kubectl.kubernetes.io/default-container", NODE_CONTAINER));
    let scheme = cluster.tls.as_ref().map(|_| (SCHEME, "https"));
    container.into_iter().chain(scheme).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn container(cluster: &Validated, component: Component, resources: Option<Resources>, env: Vec<EnvVar>) -> Container {
    Container {
        name: NODE_CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(format!("{:?}", cluster.image_pull_policy)),
        command: Some(vec!["kv-node".to_owned()]),
        env: Some(common_env(cluster, component).into_iter().chain(env).collect()),
        ports: Some(ports(cluster, component).into_iter().map(|(name, number)| port(name, number)).collect()),
        resources: Some(requirements(resources)),
        volume_mounts: Some(volumes(cluster).iter().map(|volume| mount(&volume.name)).collect()),
        // Reading a large data directory may take long, and would begin anew after a restart.
        startup_probe: Some(probe(cluster, "/healthz", 1, 3600)),
        readiness_probe: Some(probe(cluster, "/readyz", 2, 2)),
        // Not /healthz: a leader that a newer one replaced reports itself unhealthy, and a restart would take the lead back
        // while the newer one recovers. The Deployment or the operator ends it.
        liveness_probe: Some(probe(cluster, "/status", 10, 4)),
        security_context: Some(restricted()),
        ..Container::default()
    }
}

/// The security context of a pod: the user of the image, where the platform assigns none.
pub(super) fn security(cluster: &Validated) -> PodSecurityContext {
    let user = cluster.platform.fixed_user.then_some(USER);
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: user,
        run_as_group: user,
        fs_group: user,
        // Otherwise every start walks a large volume to set owners that are correct already.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// That of a container: no rights, and no file system but its volumes.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

/// The volume with the tokens of administration.
fn administration(cluster: &Validated) -> Volume {
    of_secret(AUTH, &names::accepted_tokens(&cluster.name), vec![item(ACCEPTED_KEY, TOKENS)])
}

/// What a pod that is no node needs to speak with the leader: the tokens of administration, and the certificates of the CA.
pub(super) fn administrator_volumes(cluster: &Validated) -> Vec<Volume> {
    let authority = cluster.tls.as_ref().map(|_| of_secret(TLS, &certificate(cluster), vec![item(CA_KEY, CA_KEY)]));
    std::iter::once(administration(cluster)).chain(authority).collect()
}

/// The variables that name their files.
pub(super) fn administrator_env(cluster: &Validated) -> Vec<EnvVar> {
    let authority = cluster.tls.as_ref().map(|_| env("TLS_CA_FILE", &format!("{}/{CA_KEY}", mount(TLS).mount_path)));
    std::iter::once(token_file("AUTH_TOKEN_FILE", AUTH)).chain(authority).collect()
}

fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn common_env(cluster: &Validated, component: Component) -> Vec<EnvVar> {
    let bind = cluster.platform.ipv6.then(|| env("BIND_ADDRESS", "::"));
    let clients = cluster.auth.as_ref().map(|_| token_file("CLIENT_TOKEN_FILE", CLIENTS));
    // Also after the restore: what that leaves on the followers ends the waiting, and no pod restarts for it.
    let waits = cluster.bootstrap.as_ref().map(|_| env("AWAIT_RESTORE", "true"));
    let replicates = cluster.separate_ports && component == Component::Follower;
    let replication = replicates.then(|| env("REPLICATION_PORT", &REPLICATION_PORT.to_string()));
    let administration = cluster.separate_ports.then(|| env("ADMIN_PORT", &ADMIN_PORT.to_string()));
    let separate = replication.into_iter().chain(administration);
    let common = [
        env("ROLE", component.as_str()),
        env("PORT", &PORT.to_string()),
        env("RESP_PORT", &RESP_PORT.to_string()),
        env_of_field("NODE_NAME", "metadata.name"),
        token_file("AUTH_TOKEN_FILE", AUTH),
        env("DRAIN_TIMEOUT_MS", &DRAIN_TIMEOUT_MS.to_string()),
        env("LOG_FORMAT", "json"),
        env("LOG_LEVEL", &format!("{:?}", cluster.log_level).to_lowercase()),
    ];
    let file = |(setting, key): &(&str, &str)| env(setting, &format!("{}/{key}", mount(TLS).mount_path));
    let tls = cluster.tls.iter().flat_map(|_| TLS_FILES.iter().map(file));
    common.into_iter().chain(separate).chain(bind).chain(clients).chain(waits).chain(tls).collect()
}

/// The files of the tokens that the node accepts from other nodes and from clients, and of its certificate. The kubelet
/// writes them again when their Secrets change. A Secret that is missing keeps a pod from starting: without the file it
/// would be open to everyone.
fn volumes(cluster: &Validated) -> Vec<Volume> {
    let tokens = |key: &str| vec![item(key, TOKENS)];
    let clients = cluster.auth.as_ref().map(|auth| of_secret(CLIENTS, &auth.secret_name, tokens(&auth.key)));
    let tls = cluster
        .tls
        .as_ref()
        .map(|_| of_secret(TLS, &certificate(cluster), TLS_FILES.iter().map(|(_, key)| item(key, key)).collect()));
    std::iter::once(administration(cluster)).chain(clients).chain(tls).collect()
}

/// The Secret with the certificate of the nodes.
fn certificate(cluster: &Validated) -> String {
    let given = cluster.tls.as_ref().and_then(|tls| tls.secret_name.clone());
    given.unwrap_or_else(|| names::certificate(&cluster.name))
}

fn item(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.to_owned(), path: path.to_owned(), mode: None }
}

fn of_secret(name: &str, secret: &str, items: Vec<KeyToPath>) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.to_owned()),
            items: Some(items),
            // For the group of the pod.
            default_mode: Some(0o440),
            optional: None,
        }),
        ..Volume::default()
    }
}

/// Not by `subPath`, with which the file would never change.
pub(super) fn mount(volume: &str) -> VolumeMount {
    VolumeMount {
        name: volume.to_owned(),
        mount_path: format!("/etc/kvcluster/{volume}"),
        read_only: Some(true),
        ..VolumeMount::default()
    }
}

/// The setting that names the file of tokens in this volume.
fn token_file(setting: &str, volume: &str) -> EnvVar {
    env(setting, &format!("{}/{TOKENS}", mount(volume).mount_path))
}

pub(super) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// A variable with the value of a field of the pod.
pub(super) fn env_of_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() };
    let source = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.to_owned(), value_from: Some(source), value: None }
}

pub(super) fn requirements(resources: Option<Resources>) -> ResourceRequirements {
    let Resources { requests, limits } = resources.unwrap_or_else(|| Resources {
        requests: [("cpu", "20m"), ("memory", "32Mi")]
            .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned())))
            .into(),
        limits: BTreeMap::new(),
    });
    ResourceRequirements {
        requests: Some(requests).filter(|amounts| !amounts.is_empty()),
        limits: Some(limits).filter(|amounts| !amounts.is_empty()),
        claims: None,
    }
}

fn probe(cluster: &Validated, path: &str, period_s: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            // The kubelet does not check the certificate.
            scheme: Some(if cluster.tls.is_some() { "HTTPS" } else { "HTTP" }.to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        failure_threshold: Some(failures),
        success_threshold: Some(1),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
