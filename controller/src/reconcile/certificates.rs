//! Step 2 (no client): the certificates of a cluster with TLS, from what its Secrets have and the time. Pure.
//!
//! - With `tls: {}` the operator has a CA for each cluster. [`issue`] makes the CA and the certificate that all nodes share.
//! - With `tls.secretName` somebody else writes them, and the operator only [`inspect`]s them.
//!
//! Every step follows from the Secrets alone, so an operator that restarts goes on with it. A new CA is trusted beside the one
//! before it for [`SPREAD`] before it signs, because each node reads the new file at another moment. The one before it stays
//! trusted until it expires.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kvcluster_api::resource::Tls;

use super::secrets::Secrets;
use super::validate::Validated;
use crate::build::names;

mod inspect;
mod issue;

use self::inspect::{Problem, Validity, inspect, validity};

/// The key of the certificate, of its private key, and of the certificates of the CA, in a Secret as cert-manager writes it.
pub const CERTIFICATE_KEY: &str = "tls.crt";
/// See [`CERTIFICATE_KEY`].
pub const PRIVATE_KEY: &str = "tls.key";
/// See [`CERTIFICATE_KEY`].
pub const CA_KEY: &str = "ca.crt";

const DAY: SignedDuration = SignedDuration::from_hours(24);
/// How long a CA of the operator is valid, and how long before its end another one replaces it.
const AUTHORITY: Term = Term { valid: DAY.saturating_mul(3650), renewed_before: DAY.saturating_mul(365) };
/// The same of the nodes' certificate.
const NODE: Term = Term { valid: DAY.saturating_mul(90), renewed_before: DAY.saturating_mul(30) };
/// How long nodes have to trust a new CA before it signs. Their kubelets write a changed Secret within two minutes.
const SPREAD: SignedDuration = SignedDuration::from_hours(1);
/// How far in the past a certificate begins, for nodes whose clocks are behind.
const BACKDATED: SignedDuration = SignedDuration::from_hours(1);
/// How many CAs are trusted at once.
const TRUSTED_MAX: usize = 4;
/// A certificate expires soon once this part of its time is left. The operator and cert-manager renew at a third.
const SOON: i32 = 5;

#[derive(Clone, Copy)]
struct Term {
    valid: SignedDuration,
    renewed_before: SignedDuration,
}

/// A certificate and its private key, as PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

// Without the key.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What the operator issues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The CA. Only the operator reads its key.
    pub authority: Pair,
    /// What every node shows.
    pub node: Pair,
}

/// The certificates that there have to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// Those of the operator's own CA.
    pub issued: Option<Issued>,
    /// The certificates of the CA, as PEM, where they are known.
    pub trusted: Option<String>,
    /// Whether nodes and clients accept them.
    pub state: State,
    /// When something changes by itself.
    pub due: Option<Timestamp>,
}

/// Whether nodes and clients accept the certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The cluster speaks without TLS.
    NotNeeded,
    /// They do. A sentence.
    Valid(String),
    /// They do, and the certificate should have been renewed. A sentence.
    ExpiresSoon(String),
    /// They do not.
    Invalid {
        /// One word.
        reason: &'static str,
        /// A sentence with the consequences.
        message: String,
    },
}

impl Certificates {
    /// Those of a cluster without TLS.
    #[must_use]
    pub fn none() -> Self {
        Self { issued: None, trusted: None, state: State::NotNeeded, due: None }
    }
}

/// Decides which certificates there have to be.
#[must_use]
pub fn decide(cluster: &Validated, secrets: &Secrets, now: Timestamp) -> Certificates {
    match &cluster.tls {
        None => Certificates::none(),
        Some(Tls { secret_name: Some(name) }) => given(cluster, name, secrets.certificate.as_deref(), now),
        Some(Tls { secret_name: None }) => issued(cluster, secrets, now),
    }
}

/// The names that the certificate has, where the operator issues it.
#[must_use]
pub fn names(cluster: &Validated) -> Vec<String> {
    let Validated { name, namespace, domain, .. } = cluster;
    let followers = names::peers(name);
    let mut all = Vec::from([name.clone(), names::read(name), followers.clone()]);
    for host in [name.clone(), names::read(name), followers.clone(), format!("*.{followers}")] {
        all.extend([format!("{host}.{namespace}"), format!("{host}.{namespace}.svc")]);
        all.extend(domain.iter().map(|domain| format!("{host}.{namespace}.svc.{domain}")));
    }
    // Through a port-forward, and in the pod.
    all.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    all
}

/// The name of the leader's Service, which the operator wants in the certificate of every node.
#[must_use]
pub fn server_name(namespace: &str, cluster: &str) -> String {
    format!("{}.{namespace}.svc", names::write(cluster))
}

/// The names by which the operator, clients and the leader connect.
fn needed_names(cluster: &Validated) -> Vec<String> {
    let Validated { name, namespace, domain, .. } = cluster;
    let followers = format!("{}.{namespace}.svc", names::peers(name));
    let followers = domain.as_ref().map_or(followers.clone(), |domain| format!("{followers}.{domain}"));
    vec![server_name(namespace, name), followers]
}

/// What somebody else wrote into a Secret.
fn given(cluster: &Validated, name: &str, secret: Option<&Secret>, now: Timestamp) -> Certificates {
    const TAIL: &str = "nodes that run keep the certificate that they had, and no pod can start";
    let invalid = |reason, message: String| {
        let state = State::Invalid { reason, message: format!("{message}: {TAIL}") };
        Certificates { issued: None, trusted: None, state, due: None }
    };
    let Some(secret) = secret else {
        return invalid("SecretMissing", format!("the Secret {name} does not exist"));
    };
    let part = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|part| part.0.as_slice());
    let parts = [CERTIFICATE_KEY, PRIVATE_KEY, CA_KEY];
    if let Some(missing) = parts.iter().find(|key| part(key).is_none_or(<[u8]>::is_empty)) {
        return invalid("KeyMissing", format!("the Secret {name} has no key {missing}"));
    }
    let [certificate, key, ca] = parts.map(|key| part(key).unwrap_or_default());
    let found = inspect(certificate, key, ca, &needed_names(cluster), now);
    // Nodes that run may still have a CA of this file.
    let trusted = inspect::authorities(ca).is_ok().then(|| String::from_utf8_lossy(ca).into_owned());
    match found {
        Ok(validity) => {
            let whose = format!("the certificate of the Secret {name}");
            Certificates { issued: None, trusted, state: validity.state(&whose, now), due: validity.next(now) }
        }
        Err(Problem { reason, message }) => {
            Certificates { trusted, ..invalid(reason, format!("the Secret {name}: {message}")) }
        }
    }
}

/// What the operator issues: as it is in the Secrets, or the next step.
fn issued(cluster: &Validated, secrets: &Secrets, now: Timestamp) -> Certificates {
    match next(cluster, secrets, now) {
        Ok(certificates) => certificates,
        Err(error) => {
            let message = format!("failed to issue a certificate: {error}");
            let state = State::Invalid { reason: "IssueFailed", message };
            Certificates { issued: None, trusted: None, state, due: None }
        }
    }
}

fn next(cluster: &Validated, secrets: &Secrets, now: Timestamp) -> Result<Certificates, rcgen::Error> {
    let wanted_names = names(cluster);
    let stored = secrets.authority.as_deref().and_then(pair).filter(|stored| {
        issue::is_authority(stored) && validity(&stored.certificate).is_some_and(|of| !AUTHORITY.is_due(&of, now))
    });
    let authority = match stored {
        Some(stored) => stored,
        None => issue::authority(cluster, AUTHORITY.valid, now)?,
    };
    // As in the file of the CAs, also where somebody edited the Secret.
    let authority = Pair { certificate: inspect::blocks(&authority.certificate).collect(), ..authority };
    let (before, trusted) = trusted(secrets, &authority, now);
    let node = secrets.certificate.as_deref().and_then(pair);
    let accepted = |node: &Pair, ca: &str, names: &[String]| {
        inspect(node.certificate.as_bytes(), node.key.as_bytes(), ca.as_bytes(), names, now)
    };
    let usable = node.as_ref().and_then(|node| accepted(node, &trusted, &[]).ok());
    let is_due = usable.as_ref().zip(node.as_ref()).is_none_or(|(validity, node)| {
        let differs = !inspect::has_names(&node.certificate, &wanted_names);
        differs || NODE.is_due(validity, now) || accepted(node, &authority.certificate, &[]).is_err()
    });
    let known_at = validity(&authority.certificate).map(|of| of.not_before + BACKDATED + SPREAD);
    let is_known = before.contains(&authority.certificate) && known_at.is_some_and(|at| at <= now);
    let node = match node {
        Some(node) if usable.is_some() && !(is_due && is_known) => node,
        _ => issue::node(&authority, &wanted_names, NODE.valid, now)?,
    };
    // A paused cluster has what is in its Secret, whatever would be next.
    let shown = if cluster.paused { secrets.certificate.as_deref().and_then(pair) } else { Some(node.clone()) };
    let secret = names::certificate(&cluster.name);
    let (state, due) = match shown.as_ref().map(|shown| accepted(shown, &trusted, &needed_names(cluster))) {
        Some(Ok(validity)) => {
            let renewed = validity.not_after - NODE.renewed_before;
            let steps = [Some(renewed), known_at.filter(|_| is_due), validity.next(now)];
            let due = steps.into_iter().flatten().filter(|at| *at > now).min();
            (validity.state("the certificate of the operator's CA for this cluster", now), due)
        }
        Some(Err(Problem { reason, message })) => {
            (State::Invalid { reason, message: format!("the Secret {secret}: {message}") }, None)
        }
        None => {
            let message = format!("the Secret {secret} does not exist, and the cluster is paused: no pod can start");
            (State::Invalid { reason: "SecretMissing", message }, None)
        }
    };
    Ok(Certificates { issued: Some(Issued { authority, node }), trusted: Some(trusted), state, due })
}

/// The CAs that nodes trust so far, and those that they have to trust: the newest first, and those before it until they
/// expire.
fn trusted(secrets: &Secrets, authority: &Pair, now: Timestamp) -> (Vec<String>, String) {
    let text = secrets.certificate.as_deref().and_then(|secret| text(secret, CA_KEY)).unwrap_or_default();
    let before: Vec<String> = inspect::blocks(&text).collect();
    let earlier = before.iter().filter(|one| **one != authority.certificate);
    let valid = earlier.filter(|one| validity(one).is_some_and(|of| of.not_after > now)).cloned();
    let all: Vec<String> = std::iter::once(authority.certificate.clone()).chain(valid).take(TRUSTED_MAX).collect();
    (before, all.concat())
}

impl Term {
    fn is_due(self, validity: &Validity, now: Timestamp) -> bool {
        validity.not_after - self.renewed_before <= now
    }
}

impl Validity {
    fn expires_soon_at(&self) -> Timestamp {
        self.not_after - self.not_after.duration_since(self.not_before) / SOON
    }

    /// The next moment at which [`Self::state`] changes.
    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        [self.expires_soon_at(), self.not_after].into_iter().find(|at| *at > now)
    }

    fn state(&self, whose: &str, now: Timestamp) -> State {
        let Self { not_after, .. } = self;
        if now < self.expires_soon_at() {
            return State::Valid(format!("{whose} is valid until {not_after}"));
        }
        State::ExpiresSoon(format!("{whose} expires at {not_after}, and should have been renewed by now"))
    }
}

fn pair(secret: &Secret) -> Option<Pair> {
    Some(Pair { certificate: text(secret, CERTIFICATE_KEY)?, key: text(secret, PRIVATE_KEY)? })
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

#[cfg(test)]
mod tests;
