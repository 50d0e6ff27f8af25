//! The Secrets and the ConfigMap of a cluster with TLS.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::build::{Inputs, metadata, names};
use crate::reconcile::certificates::{CA_KEY, CERTIFICATE_KEY, PRIVATE_KEY, Pair};
use crate::reconcile::validate::Validated;

/// The CA. Pods do not mount it.
pub(super) fn authority(cluster: &Validated, inputs: &Inputs) -> Option<Secret> {
    let issued = inputs.certificates.issued.as_ref()?;
    Some(secret(cluster, names::authority(&cluster.name), &issued.authority, None))
}

/// The certificate of all nodes, with the CAs that they trust.
pub(super) fn certificate(cluster: &Validated, inputs: &Inputs) -> Option<Secret> {
    let issued = inputs.certificates.issued.as_ref()?;
    let trusted = inputs.certificates.trusted.as_deref();
    Some(secret(cluster, names::certificate(&cluster.name), &issued.node, trusted))
}

/// The same CAs for clients, without any key.
pub(super) fn trusted(cluster: &Validated, inputs: &Inputs) -> Option<ConfigMap> {
    let trusted = inputs.certificates.trusted.clone()?;
    Some(ConfigMap {
        metadata: metadata(cluster, names::authority(&cluster.name), None),
        data: Some(BTreeMap::from([(CA_KEY.to_owned(), trusted)])),
        ..ConfigMap::default()
    })
}

fn secret(cluster: &Validated, name: String, pair: &Pair, ca: Option<&str>) -> Secret {
    let parts = [(CERTIFICATE_KEY, Some(pair.certificate.as_str())), (PRIVATE_KEY, Some(&pair.key)), (CA_KEY, ca)];
    let data =
        parts.into_iter().filter_map(|(key, part)| Some((key.to_owned(), ByteString(part?.as_bytes().to_vec()))));
    Secret {
        metadata: metadata(cluster, name, None),
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.collect()),
        ..Secret::default()
    }
}
