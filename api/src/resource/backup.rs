//! `spec.backup`: scheduled backups, and what the status says of them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::defaults;

/// What a destination on a volume begins with.
const CLAIM: &str = "pvc://";

/// One part of one field of a schedule, by what a number or name of that field can be.
macro_rules! field {
    ($value:literal) => {
        concat!(
            "(\\\\*|(",
            $value,
            ")(-(",
            $value,
            "))?)(/[1-9][0-9]?)?(,(\\\\*|(",
            $value,
            ")(-(",
            $value,
            "))?)(/[1-9][0-9]?)?)*"
        )
    };
}

/// A place for backups, as CEL.
pub(super) const PLACE: &str = "(self.matches('^s3://[a-z0-9][-.a-z0-9]{1,61}[a-z0-9](/[-!_.*()a-zA-Z0-9]+)*/?$') || \
          self.matches('^pvc://[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?(/[-_.a-zA-Z0-9]+)*/?$')) && \
          !self.matches('/[.][.]?(/|$)')";

/// A schedule, as CEL.
const SCHEDULE: &str = concat!(
    "self.matches('^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|",
    field!("[0-5]?[0-9]"),
    " +",
    field!("[01]?[0-9]|2[0-3]"),
    " +",
    field!("0?[1-9]|[12][0-9]|3[01]"),
    " +",
    field!("0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"),
    " +",
    field!("[0-7]|(?i:sun|mon|tue|wed|thu|fri|sat)"),
    ")$')"
);

/// Backups by a schedule, each by a Job of the CronJob NAME-backup, which runs `kvctl backup` in the image of the nodes. A
/// backup counts once it was read back and is as it was sent. `kubectl create job --from=cronjob/NAME-backup NOW` makes one
/// at once. While the cluster is hibernated none is made.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = rule!(
        "!has(self.secretName) || self.destination.startsWith('s3://')",
        "'backup.secretName %s has no use: %s is a volume'.format([self.secretName, self.destination])"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSettings {
    /// When: minute, hour, day of the month, month and day of the week, such as `30 2 * * *` for half past two each night, or
    /// @hourly, @daily, @weekly, @monthly.
    #[schemars(length(min = 1, max = 100))]
    #[x_kube(validation = rule!(
        SCHEDULE,
        "'backup.schedule %s is not a schedule: minute (0-59), hour (0-23), day (1-31), month (1-12) and day of the week (0-7) such as 30 2 * * *, or @daily'.format([self])"
    ))]
    pub schedule: String,

    /// The time zone of the schedule, such as Europe/Berlin. Default: that of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(validation = rule!(
        "self.matches('^[A-Za-z][-+_/A-Za-z0-9]*$') && self != 'Local'",
        "'backup.timeZone %s is not the name of a time zone such as Europe/Berlin or Etc/UTC'.format([self])"
    ))]
    pub time_zone: Option<String>,

    /// Where: `s3://BUCKET/PREFIX` of a store that speaks S3, or `pvc://CLAIM/DIRECTORY` on the volume of a
    /// PersistentVolumeClaim in the namespace. Several KvClusters may share one: each keeps its own backups.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rule!(
        PLACE,
        "'backup.destination %s is neither s3://BUCKET/PREFIX nor pvc://CLAIM/DIRECTORY'.format([self])"
    ))]
    pub destination: String,

    /// The name of a Secret in the namespace whose keys are variables for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and
    /// where needed AWS_REGION, AWS_SESSION_TOKEN, or AWS_ENDPOINT_URL of a store other than Amazon's. Default: the rights
    /// that the machine or the ServiceAccount NAME has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "'backup.secretName %s is not the name of a Secret: use a-z, 0-9, - and .'.format([self])"
    ))]
    pub secret_name: Option<String>,

    /// How many backups of this cluster are kept, 1 to 1000. Older ones are removed once a new one is verified.
    #[serde(default = "defaults::backups_kept")]
    #[x_kube(validation = rule!(
        "self >= 1 && self <= 1000",
        "'backup.keep is %d: it must be 1 to 1000'.format([self])"
    ))]
    pub keep: i32,

    /// For how many days backups are kept, 1 to 3650, within `keep`. The newest one always is. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rule!(
        "self >= 1 && self <= 3650",
        "'backup.keepDays is %d: it must be 1 to 3650'.format([self])"
    ))]
    pub keep_days: Option<i32>,
}

impl BackupSettings {
    /// The claim and the directory in it, where the destination is a volume.
    #[must_use]
    pub fn claim(&self) -> Option<(&str, &str)> {
        claim_of(&self.destination)
    }
}

/// The claim and the directory of a place that is a volume.
pub(super) fn claim_of(place: &str) -> Option<(&str, &str)> {
    let rest = place.strip_prefix(CLAIM)?.trim_end_matches('/');
    Some(rest.split_once('/').unwrap_or((rest, "")))
}

/// How the backups of a cluster go.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupStatus {
    /// The last backup that was verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_success: Option<BackupSuccess>,
    /// The last attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<BackupFailure>,
}

/// A verified backup.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupSuccess {
    /// When it was verified.
    pub time: Time,
    /// Its name, for `kvctl restore --backup`.
    pub name: String,
    /// How many keys it has, deleted ones included.
    pub keys: i64,
    /// How many bytes it has.
    pub bytes: i64,
}

/// A backup that failed.
#[derive(Clone, Debug, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupFailure {
    /// When it failed.
    pub time: Time,
    /// The pod that tried, whose log may have more.
    pub pod: String,
    /// Why, in the words of kvctl.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(destination: &str) -> BackupSettings {
        BackupSettings {
            schedule: "@daily".to_owned(),
            time_zone: None,
            destination: destination.to_owned(),
            secret_name: None,
            keep: 3,
            keep_days: None,
        }
    }

    #[test]
    fn a_volume_has_a_claim_and_perhaps_a_directory() {
        assert_eq!(settings("pvc://backups/of/demo/").claim(), Some(("backups", "of/demo")));
        assert_eq!(settings("pvc://backups").claim(), Some(("backups", "")));
        assert_eq!(settings("s3://backups/of/demo").claim(), None);
    }
}
