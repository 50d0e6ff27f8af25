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

use crate::build::{COMPONENT, PORT, labels, metadata, names, pod, selector_labels};
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
            labels: Some(labels_of(cluster)),
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
                metadata: Some(ObjectMeta { labels: Some(labels_of(cluster)), ..ObjectMeta::default() }),
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
    let backup = cluster.backup.as_ref()?;
    if !cluster.network.enabled || backup.claim().is_some() {
        return None;
    }
    let mut pods = selector_labels(&cluster.name, None);
    pods.insert(COMPONENT.to_owned(), BACKUP.to_owned());
    Some(NetworkPolicy {
        metadata: metadata(cluster, names::backup(&cluster.name), None),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(pods), match_expressions: None }),
            policy_types: Some(vec!["Egress".to_owned()]),
            egress: Some(vec![NetworkPolicyEgressRule { to: None, ports: None }]),
            ingress: None,
        }),
    })
}

fn labels_of(cluster: &Validated) -> BTreeMap<String, String> {
    let mut labels = labels(&cluster.name, None);
    labels.insert(COMPONENT.to_owned(), BACKUP.to_owned());
    labels
}

fn template(cluster: &Validated, backup: &BackupSettings) -> PodTemplateSpec {
    let volume = backup.claim().map(|(claim, _)| Volume {
        name: VOLUME.to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim.to_owned(),
            read_only: None,
        }),
        ..Volume::default()
    });
    let secrets = &cluster.image_pull_secrets;
    PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels_of(cluster)), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(cluster.name.clone()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            image_pull_secrets: Some(secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect())
                .filter(|secrets: &Vec<_>| !secrets.is_empty()),
            // A new pod for each attempt: the end of each stays to be read.
            restart_policy: Some("Never".to_owned()),
            security_context: Some(pod::security(cluster)),
            containers: vec![container(cluster, backup)],
            volumes: Some(pod::administrator_volumes(cluster).into_iter().chain(volume).collect()),
            ..PodSpec::default()
        }),
    }
}

fn container(cluster: &Validated, backup: &BackupSettings) -> Container {
    let scheme = if cluster.tls.is_some() { "https" } else { "http" };
    let leader = format!("{scheme}://{}.{}.svc:{PORT}", names::write(&cluster.name), cluster.namespace);
    let secrets = pod::administrator_volumes(cluster);
    let claim = backup.claim();
    let destination = match claim {
        Some((_, directory)) => format!("{MOUNT}/{directory}/"),
        None => backup.destination.clone(),
    };
    let keep = backup.keep.to_string();
    let mut args = ["backup", "--leader", &leader, "--to", &destination, "--keep", &keep].map(str::to_owned).to_vec();
    if let Some(days) = backup.keep_days {
        args.extend(["--keep-days".to_owned(), days.to_string()]);
    }
    args.extend(["--report", "/dev/termination-log"].map(str::to_owned));
    let mount =
        claim.map(|_| VolumeMount { name: VOLUME.to_owned(), mount_path: MOUNT.to_owned(), ..VolumeMount::default() });
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.clone()),
        image_pull_policy: Some(format!("{:?}", cluster.image_pull_policy)),
        command: Some(vec![CONTAINER.to_owned()]),
        args: Some(args),
        env: Some(pod::administrator_env(cluster)),
        env_from: backup.secret_name.as_ref().map(|name| {
            let secret = SecretEnvSource { name: name.clone(), optional: None };
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
