//! The identity of the pods. They never call Kubernetes, so they get no token.

use k8s_openapi::api::core::v1::ServiceAccount;

use crate::build::metadata;
use crate::reconcile::validate::Validated;

pub(super) fn service_account(cluster: &Validated) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(cluster, cluster.name.clone(), None),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}
