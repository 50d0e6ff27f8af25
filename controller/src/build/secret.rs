//! The token that guards replication and administration. It is created once and then kept.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rand::RngExt;

use crate::build::{metadata, names};
use crate::reconcile::validate::Validated;

/// The key of the token in the Secret.
pub const TOKEN_KEY: &str = "token";

/// A new token: 256 random bits in hexadecimal.
#[must_use]
pub fn new_token() -> String {
    let bits: [u64; 4] = rand::rng().random();
    bits.iter().map(|word| format!("{word:016x}")).collect()
}

pub(super) fn secret(cluster: &Validated, token: &str) -> Secret {
    Secret {
        metadata: metadata(cluster, names::secret(&cluster.name), None),
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from([(TOKEN_KEY.to_owned(), ByteString(token.as_bytes().to_vec()))])),
        ..Secret::default()
    }
}
