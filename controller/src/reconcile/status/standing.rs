//! Reconciling and Stalled: the conditions by which kstatus, and with it Flux and others, judges any resource. Both are false
//! where the cluster is as the spec asks for. At most one is true.

use super::rest::{PAUSED, Rest};
use super::{Finding, Seen, Verdict, bootstrap, finding};
use crate::reconcile::leader_client::{Configured, LeaderError};
use crate::reconcile::validate::Validated;

/// By the other conditions. `changes` is whether a change is under way that a pause holds up.
pub(super) fn standing(
    cluster: &Validated,
    seen: &Seen<'_>,
    rest: Rest,
    changes: bool,
    findings: &[&Finding],
) -> [Finding; 2] {
    if let Some((reason, message)) = stuck(cluster, seen, changes, findings) {
        return [
            finding("Reconciling", Verdict::False, reason, message.clone()),
            finding("Stalled", Verdict::True, reason, message),
        ];
    }
    let stalled = finding("Stalled", Verdict::False, "NotStalled", "nothing waits for a person to change something");
    // What the operator is doing explains the others.
    let progressing = findings.iter().filter(|found| found.type_ == "Progressing");
    let unsettled = progressing.chain(findings).filter(|_| rest != Rest::Hibernated).find(|found| is_unsettled(found));
    let reconciling = match unsettled {
        Some(found) => finding("Reconciling", Verdict::True, found.reason, found.message.clone()),
        None => finding("Reconciling", Verdict::False, "Settled", "the cluster is as the spec asks for"),
    };
    [reconciling, stalled]
}

/// Why the cluster stays other than the spec asks for, until a person changes something. What may heal by itself, such as a
/// follower that is lost or an API server that refuses, is not among it: programs give up on what is stalled.
fn stuck(cluster: &Validated, seen: &Seen<'_>, changes: bool, findings: &[&Finding]) -> Option<(&'static str, String)> {
    let of = |type_: &str| findings.iter().find(|found| found.type_ == type_);
    if let Some(taken) = of("Progressing").filter(|found| found.reason == "NameTaken") {
        return Some((taken.reason, taken.message.clone()));
    }
    if let Some(old) = of("Bootstrapped").filter(|found| found.reason == bootstrap::IMAGE_TOO_OLD) {
        return Some((old.reason, old.message.clone()));
    }
    if let Configured::Failed(error @ LeaderError::Refused { status: 400, .. }) = seen.configured {
        return Some(("ConfigRefused", error.to_string()));
    }
    let outdated =
        ["RolledOut", "VolumesGrown"].into_iter().filter_map(of).any(|found| found.verdict == Verdict::False);
    (cluster.paused && (changes || outdated)).then(|| ("Paused", PAUSED.to_owned()))
}

fn is_unsettled(found: &Finding) -> bool {
    match found.type_ {
        "Progressing" => found.verdict == Verdict::True || found.reason == "ApplyFailed",
        "Degraded" => found.verdict != Verdict::False,
        // Others do not say whether the cluster is as the spec asks for: a drain and a rotation of tokens are no part of it.
        "Ready" | "RolledOut" | "ConfigApplied" | "VolumesGrown" | "ClientTokensValid" | "CertificateValid" => {
            found.verdict != Verdict::True
        }
        _ => false,
    }
}
