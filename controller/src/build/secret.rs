//! The Secrets of the token that guards replication and administration: the one that users see and may change, and the
//! file of the nodes, which has every token that they accept ([`crate::reconcile::tokens`]).

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use rand::RngExt;

use crate::build::{metadata, names};
use crate::reconcile::tokens::Tokens;
use crate::reconcile::validate::Validated;

/// The key of the token in the Secret that users see.
pub const TOKEN_KEY: &str = "token";
/// The key of the nodes' file.
pub const ACCEPTED_KEY: &str = "tokens";
/// The key of the tokens that a node may still accept. Pods do not mount it.
pub const DROPPED_KEY: &str = "dropped";

/// A new token: 256 random bits in hexadecimal.
#[must_use]
pub fn new_token() -> String {
    let bits: [u64; 4] = rand::rng().random();
    bits.iter().map(|word| format!("{word:016x}")).collect()
}

pub(super) fn wanted(cluster: &Validated, tokens: &Tokens) -> Secret {
    secret(cluster, names::secret(&cluster.name), [(TOKEN_KEY, tokens.wanted.clone())])
}

pub(super) fn accepted(cluster: &Validated, tokens: &Tokens) -> Secret {
    let lines = |tokens: &[String]| tokens.iter().flat_map(|token| [token.as_bytes(), b"\n"].concat()).collect();
    // Always both keys, so that the one that becomes empty is written too.
    let data = [(ACCEPTED_KEY, lines(&tokens.accepted)), (DROPPED_KEY, lines(&tokens.dropped))];
    secret(cluster, names::accepted_tokens(&cluster.name), data)
}

fn secret<const N: usize>(cluster: &Validated, name: String, data: [(&str, Vec<u8>); N]) -> Secret {
    let data: BTreeMap<String, ByteString> =
        data.into_iter().map(|(key, value)| (key.to_owned(), ByteString(value))).collect();
    Secret {
        metadata: metadata(cluster, name, None),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    }
}
