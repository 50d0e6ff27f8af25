//! `spec.bootstrap`: where a new cluster has its first data from, and what the status says of that.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup::{BackupFailure, PLACE, claim_of};

/// Where a new cluster has its first data from. It cannot change later.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// A verified backup. The cluster serves no client before all of it is restored, and restores it once.
    pub from_backup: BackupSource,
}

/// A backup, as `spec.backup` and `kvctl backup` make them.
#[derive(Clone, Debug, PartialEq, Eq, KubeSchema, Serialize, Deserialize)]
#[x_kube(
    validation = rule!(
        "!has(self.secretName) || self.source.startsWith('s3://')",
        "'bootstrap.fromBackup.secretName %s has no use: %s is a volume'.format([self.secretName, self.source])"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct BackupSource {
    /// Where: the `destination` of the backups, `s3://BUCKET/PREFIX` or `pvc://CLAIM/DIRECTORY`. The claim is in this
    /// namespace.
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = rule!(
        PLACE,
        "'bootstrap.fromBackup.source %s is neither s3://BUCKET/PREFIX nor pvc://CLAIM/DIRECTORY'.format([self])"
    ))]
    pub source: String,

    /// The name of a Secret in the namespace whose keys are variables for S3, as for `spec.backup`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')",
        "'bootstrap.fromBackup.secretName %s is not the name of a Secret: use a-z, 0-9, - and .'.format([self])"
    ))]
    pub secret_name: Option<String>,

    /// The name of the backup, as `kvctl list` and `status.backup` report it. Default: the newest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[a-zA-Z0-9][-_.a-zA-Z0-9]*$')",
        "'bootstrap.fromBackup.backup %s is not the name of a backup such as shop.demo-20261127T083012Z-04f2'.format([self])"
    ))]
    pub backup: Option<String>,

    /// The cluster that it has to be a backup of, as NAMESPACE/NAME. It chooses where the source has backups of several
    /// clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = rule!(
        "self.matches('^[a-zA-Z0-9][-_./a-zA-Z0-9]*$')",
        "'bootstrap.fromBackup.cluster %s is not a cluster such as shop/demo'.format([self])"
    ))]
    pub cluster: Option<String>,
}

impl BackupSource {
    /// The claim and the directory in it, where the source is a volume.
    #[must_use]
    pub fn claim(&self) -> Option<(&str, &str)> {
        claim_of(&self.source)
    }
}

/// How the restore of a new cluster goes.
#[derive(Clone, Debug, Default, PartialEq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapStatus {
    /// When the operator saw that the restore was complete. It is never repeated after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed: Option<Time>,
    /// The name of the backup that was restored, as far as it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// How many keys it has, deleted ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<i64>,
    /// The last attempt that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<BackupFailure>,
}
