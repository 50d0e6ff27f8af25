//! The CronJob of scheduled backups, and the NetworkPolicy of its pods.
//!
//! Its pods have the labels of the cluster, so that the cluster's NetworkPolicy lets them reach the leader, and a component of
//! their own. What a pod came to is in its termination message: the record of the backup, or the last words of the log.

use std::collections::BTreeMap;

use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, JobSpec, JobTemplateSpec};
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSpec, PodTemplateSpec,
    SecretEnvSource, Volume, VolumeMount,
};
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicySpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::ObjectMeta;
use kvcluster_api::resource::BackupSettings;

use crate::build::{COMPONENT, admin_port, labels, metadata, names, pod, selector_labels};
use crate::reconcile::validate::Validated;

/// The value of `app.kubernetes.io/component` on the pods of backups.
pub const BACKUP: &str = "backup";

/// The container of such a pod.
pub const CONTAINER: &str = "kvctl";

/// How often a Job tries, beyond once.
const RETRIES: i32 = 2;

/// How long a Job may take, in seconds: the next one waits for it.
const DEADLINE_S: i64 = 4 * 3600;

/// How late a Job may start, in seconds: after an outage of Kubernetes the missed backup is made, and not all of a day.
const LATE_S: i64 = 3600;

/// How many Jobs of each end stay to be looked at.
const HISTORY: i32 = 3;

/// Where the volume of the destination is.
const MOUNT: &str = "/backups";

const VOLUME: &str = "backups";

pub(super) fn cron_job(cluster: &Validated) -> Option<CronJob> {
    let backup = cluster.backup.as_ref()?;
    Some(CronJob {
        metadata: ObjectMeta {
            labels: Some(labels_of(cluster, BACKUP)),
            ..metadata(cluster, names::backup(&cluster.name), None)
        },
        spec: Some(CronJobSpec {
            schedule: backup.schedule.clone(),
            time_zone: backup.time_zone.clone(),
            // No leader runs that could give one.
            suspend: Some(cluster.hibernated),
            concurrency_policy: Some("Forbid".to_owned()),
            starting_deadline_seconds: Some(LATE_S),
            successful_jobs_history_limit: Some(HISTORY),
            failed_jobs_history_limit: Some(HISTORY),
            job_template: JobTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels_of(cluster, BACKUP)), ..ObjectMeta::default() }),
                spec: Some(JobSpec {
                    backoff_limit: Some(RETRIES),
                    active_deadline_seconds: Some(DEADLINE_S),
                    template: template(cluster, backup),
                    ..JobSpec::default()
                }),
            },
        }),
        status: None,
    })
}

/// Lets the pods of backups reach the store, wherever that is. The cluster's own policy admits them to the leader.
pub(super) fn policy(cluster: &Validated) -> Option<NetworkPolicy> {
    let to_a_store = cluster.backup.as_ref().is_some_and(|backup| backup.claim().is_none());
    to_a_store.then(|| policy_of(cluster, names::backup(&cluster.name), BACKUP))?
}

/// Lets the pods of a component connect to anything.
pub(super) fn policy_of(cluster: &Validated, name: String, component: &str) -> Option<NetworkPolicy> {
    let mut pods = selector_labels(&cluster.name, None);
    pods.insert(COMPONENT.to_owned(), component.to_owned());
    cluster.network.enabled.then(|| NetworkPolicy {
        metadata: metadata(cluster, name, None),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(pods), match_expressions: None }),
            policy_types: Some(vec!["Egress".to_owned()]),
            egress: Some(vec![NetworkPolicyEgressRule { to: None, ports: None }]),
            ingress: None,
        }),
    })
}

/// The labels of the objects and pods of a component of kvctl.
pub(super) fn labels_of(cluster: &Validated, component: &str) -> BTreeMap<String, String> {
    let mut labels = labels(&cluster.name, None);
    labels.insert(COMPONENT.to_owned(), component.to_owned());
    labels
}

fn template(cluster: &Validated, backup: &BackupSettings) -> PodTemplateSpec {
    let claim = backup.claim();
    let mut args = words(["--to", &place(&backup.destination, claim), "--keep", &backup.keep.to_string()]);
    if let Some(days) = backup.keep_days {
        args.extend(words(["--keep-days", &days.to_string()]));
    }
    let secret = backup.secret_name.as_deref();
    // A new pod for each attempt: the end of each stays to be read.
    pod_of(
        cluster,
        &Run { component: BACKUP, command: "backup", args, claim, read_only: false, secret, restart: "Never" },
    )
}

/// A run of kvctl between the leader and a place for backups.
pub(super) struct Run<'a> {
    /// The component of its pods.
    pub component: &'static str,
    /// The command of kvctl.
    pub command: &'static str,
    /// What it gets beside the leader and the file of its report.
    pub args: Vec<String>,
    /// The claim of the place, where that is a volume.
    pub claim: Option<(&'a str, &'a str)>,
    /// Whether it only reads there.
    pub read_only: bool,
    /// The Secret with the variables for S3.
    pub secret: Option<&'a str>,
    /// What happens after a failure.
    pub restart: &'static str,
}

pub(super) fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// The place as the pod sees it.
pub(super) fn place(named: &str, claim: Option<(&str, &str)>) -> String {
    claim.map_or_else(|| named.to_owned(), |(_, directory)| format!("{MOUNT}/{directory}/"))
}

/// The pod of such a run.
pub(super) fn pod_of(cluster: &Validated, run: &Run<'_>) -> PodTemplateSpec {
    let volume = run.claim.map(|(claim, _)| Volume {
        name: VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    });
    let secrets = &cluster.image_pull_secrets;
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels_of(cluster, run.component)), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            image_pull_secrets: Some(secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
                .filter(|secrets: &Vec<_>| !secrets.is_empty()),
            restart_policy: Some(run.restart.to_owned()),
            security_context: Some(pod::security(cluster)),
            containers: vec![container(cluster, run)],
            volumes: Some(pod::administrator_volumes(cluster).into_iter().chain(volume).collect()),
            ..PodSpec::default()
        }),
    }
}

fn container(cluster: &Validated, run: &Run<'_>) -> Container {
    let scheme = if cluster.tls.is_some() { "https" } else { "http" };
    let leader =
        format!("{scheme}://{}.{}.svc:{}", names::write(&cluster.name), cluster.namespace, admin_port(cluster));
    let secrets = pod::administrator_volumes(cluster);
    let mut args = words([run.command, "--leader", &leader]);
    args.extend(run.args.iter().cloned());
    args.extend(words(["--report", "/dev/termination-log"]));
    let mount = run.claim.map(|_| VolumeMount {
        name: VOLUME.to_owned(),
        mount_path: MOUNT.to_owned(),
        read_only: run.read_only.then_some(true),
        ..VolumeMount::default()
    });
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(format!("{:?}", cluster.image_pull_policy)),
        command: Some(vec![CONTAINER.to_owned()]),
        args: Some(args),
        env: Some(pod::administrator_env(cluster)),
        env_from: run.secret.map(|name| {
            let secret = SecretEnvSource { name: name.to_owned(), optional: None };
            vec![EnvFromSource { secret_ref: Some(secret), ..EnvFromSource::default() }]
        }),
        // Without an error the record, otherwise the end of the log.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        resources: Some(pod::requirements(None)),
        volume_mounts: Some(secrets.iter().map(|volume| pod::mount(&volume.name)).chain(mount).collect()),
        security_context: Some(pod::restricted()),
        ..Container::default()
    }
}
