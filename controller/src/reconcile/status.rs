//! The status of a cluster. Pure: from what the operator observed to conditions and numbers.
//!
//! Only the time of a transition depends on the clock. A cluster in which nothing changes has the same status each time,
//! so nothing is written.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kvcluster_api::config::LiveConfig;
use kvcluster_api::resource::{BackupStatus, BackupSuccess, Durability, KvClusterStatus, Phase};
use kvcluster_api::status::{FollowerState, FollowerView, LeaderState};

use crate::build::{Component, names, selector_text};
use crate::pods;
use crate::reconcile::backups;
use crate::reconcile::bootstrap as start;
use crate::reconcile::certificates;
use crate::reconcile::client_tokens::ClientTokens;
use crate::reconcile::disruption;
use crate::reconcile::growth;
use crate::reconcile::leader_client::{Configured, Leader, LeaderSeen};
use crate::reconcile::plan::Plan;
use crate::reconcile::status::rest::{PAUSED, Rest};
use crate::reconcile::tokens::{Stage, Tokens};
use crate::reconcile::validate::Validated;

mod bootstrap;
mod progress;
mod rest;
mod standing;

/// What the operator observed of a cluster in one reconciliation.
pub struct Seen<'a> {
    /// The leader, with the configuration that it answered last.
    pub leader: &'a LeaderSeen,
    /// The result of sending it its configuration.
    pub configured: &'a Configured,
    /// The leader's Deployment.
    pub deployment: Option<&'a Deployment>,
    /// The followers' StatefulSet.
    pub stateful_set: Option<&'a StatefulSet>,
    /// The follower pods.
    pub follower_pods: &'a [Arc<Pod>],
    /// The leader pods.
    pub leader_pods: &'a [Arc<Pod>],
    /// The pods of backups.
    pub backup_pods: &'a [Arc<Pod>],
    /// The pods that restore the backup with which the cluster starts.
    pub bootstrap_pods: &'a [Arc<Pod>],
    /// The volume claims of followers.
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    /// Why one of them cannot grow.
    pub claim_refused: Option<&'a str>,
    /// Which pods may get a new template.
    pub plan: &'a Plan,
    /// How far a rotation of the token is.
    pub tokens: &'a Tokens,
    /// What the Secret with the tokens of clients has.
    pub clients: &'a ClientTokens,
    /// Whether nodes and clients accept the certificate.
    pub certificates: &'a certificates::State,
    /// Why an object could not be applied: the reason in one word, and a sentence.
    pub problem: Option<(&'a str, String)>,
}

/// The status of a condition, as Kubernetes defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    True,
    False,
    Unknown,
}

struct Finding {
    type_: &'static str,
    verdict: Verdict,
    reason: &'static str,
    message: String,
}

fn finding(type_: &'static str, verdict: Verdict, reason: &'static str, message: impl Into<String>) -> Finding {
    Finding { type_, verdict, reason, message: message.into() }
}

/// The status of a cluster with a valid spec.
#[must_use]
pub fn compute(cluster: &Validated, seen: &Seen<'_>, previous: &KvClusterStatus, now: Timestamp) -> KvClusterStatus {
    let opened = start::opened(previous, seen.leader);
    let wanted = cluster.live.followers;
    let missing = missing_followers(cluster, seen);
    let ready = wanted - u16::try_from(missing.len()).unwrap_or(wanted).min(wanted);
    let progressing = progress::progressing(cluster, seen, opened, &missing);
    let changes = progressing.verdict == Verdict::True;
    let findings = [
        ready_condition(seen),
        progressing,
        progress::rolled_out(seen),
        quorum_available(seen),
        config_applied(cluster, seen),
        degraded(cluster, seen, opened, &missing),
        drainable(cluster, seen, previous),
        token_applied(cluster, seen.tokens),
        client_tokens(seen.clients),
        certificate_valid(seen.certificates),
    ];
    let rest = Rest::of(cluster, seen, previous);
    let findings = findings.map(|found| rest::overrule(found, cluster, rest, seen));
    let is = |type_: &str, verdict: Verdict| findings.iter().any(|f| f.type_ == type_ && f.verdict == verdict);
    let updates = is("Progressing", Verdict::True) || (is("RolledOut", Verdict::False) && !cluster.paused);
    let phase = match seen.leader.answered().map(|leader| leader.status.state) {
        _ if rest == Rest::Hibernated => Phase::Hibernated,
        _ if rest == Rest::Hibernating => Phase::Hibernating,
        _ if !opened => Phase::Creating,
        _ if rest == Rest::Waking => Phase::Recovering,
        Some(LeaderState::Recovering) => Phase::Recovering,
        // Only the operator may be cut off: what is not known has not changed.
        _ if is("Ready", Verdict::Unknown) => previous.phase,
        _ if !is("Ready", Verdict::True) => Phase::Unavailable,
        _ if is("Degraded", Verdict::True) => Phase::Degraded,
        _ if updates => Phase::Updating,
        _ => Phase::Ready,
    };
    let restore = start::status(cluster, seen.bootstrap_pods, seen.leader, previous.bootstrap.as_ref(), now);
    let bootstrapped = bootstrap::bootstrapped(cluster, seen, restore.as_ref());
    let message = match bootstrapped.as_ref().filter(|found| found.reason == bootstrap::FAILED) {
        Some(failed) => failed.message.clone(),
        None if phase == Phase::Ready => String::new(),
        None => headline(&findings),
    };
    let message = match (cluster.paused, message.as_str()) {
        (false, _) => message,
        (true, "" | PAUSED) => PAUSED.to_owned(),
        (true, other) => format!("{PAUSED}; {other}"),
    };
    let backup = backup_status(cluster, seen, previous);
    let grown = volumes_grown(cluster, seen);
    let all: Vec<&Finding> = findings.iter().chain(&bootstrapped).chain([&grown]).collect();
    let standing = standing::standing(cluster, seen, rest, changes, &all);
    let others =
        [rest::paused(cluster), rest::hibernated(rest, seen), backup_succeeded(cluster, backup.as_ref()), grown];
    let findings = findings.into_iter().chain(others).chain(bootstrapped).chain(standing);
    let mut status = KvClusterStatus {
        observed_generation: Some(cluster.generation),
        phase,
        message,
        leader: seen.leader.open().map(|leader| leader.pod.clone()),
        opened,
        followers: format!("{ready}/{wanted}"),
        replicas: seen.stateful_set.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas),
        ready_replicas: ready.into(),
        selector: selector_text(&cluster.name, Component::Follower),
        conditions: conditions(findings, cluster.generation, previous, now),
        backup,
        bootstrap: restore,
        // The values that were last in force stay reported while no leader answers: the followers still have them.
        ..previous.clone()
    };
    if let Some(leader) = seen.leader.open() {
        status.report_in_force(&leader.status.config.in_force);
    }
    status
}

/// The status of a cluster with an invalid spec. The cluster runs on unchanged.
#[must_use]
pub fn invalid(generation: Option<i64>, message: &str, previous: &KvClusterStatus, now: Timestamp) -> KvClusterStatus {
    let findings = [
        finding("Ready", Verdict::Unknown, "InvalidSpec", message),
        finding("Progressing", Verdict::False, "InvalidSpec", message),
        finding("RolledOut", Verdict::Unknown, "InvalidSpec", message),
        finding("QuorumAvailable", Verdict::Unknown, "InvalidSpec", message),
        finding("ConfigApplied", Verdict::False, "InvalidSpec", message),
        finding("Degraded", Verdict::Unknown, "InvalidSpec", message),
        finding("Drainable", Verdict::Unknown, "InvalidSpec", message),
        finding("Paused", Verdict::Unknown, "InvalidSpec", message),
        finding("Hibernated", Verdict::Unknown, "InvalidSpec", message),
        finding("TokenApplied", Verdict::Unknown, "InvalidSpec", message),
        finding("ClientTokensValid", Verdict::Unknown, "InvalidSpec", message),
        finding("CertificateValid", Verdict::Unknown, "InvalidSpec", message),
        finding("BackupSucceeded", Verdict::Unknown, "InvalidSpec", message),
        finding("Reconciling", Verdict::False, "InvalidSpec", message),
        finding("Stalled", Verdict::True, "InvalidSpec", message),
    ];
    KvClusterStatus {
        observed_generation: generation,
        phase: Phase::Invalid,
        message: message.to_owned(),
        conditions: conditions(findings, generation.unwrap_or_default(), previous, now),
        ..previous.clone()
    }
}

fn ready_condition(seen: &Seen<'_>) -> Finding {
    let not = |reason, message: String| finding("Ready", Verdict::False, reason, message);
    match seen.leader {
        LeaderSeen::NotRunning(why) => not("LeaderNotRunning", refused_pods(seen).unwrap_or_else(|| why.clone())),
        LeaderSeen::Unreachable { pod, error } => {
            let message = format!("{pod} does not answer the operator: {error}");
            // Its kubelet may reach it where the operator is cut off.
            if seen.leader_pods.iter().any(|leader| leader.name_any() == *pod && pods::is_ready(leader)) {
                return finding("Ready", Verdict::Unknown, "LeaderUnreachable", format!("{message}; its pod is ready"));
            }
            not("LeaderUnreachable", message)
        }
        LeaderSeen::Answered(leader) => match leader.status.state {
            LeaderState::Open if confirming(leader) < leader.status.config.in_force.write_quorum => {
                not("QuorumLost", quorum_lost(leader))
            }
            LeaderState::Open if leader.status.restore.is_some() || leader.status.start_pending == Some(true) => {
                not("Restoring", leader_message(leader, "an unfinished restore keeps the leader from serving clients"))
            }
            LeaderState::Open if !leader.reached => {
                not("LeaderNotReady", format!("{} is open, and the Service does not send it clients yet", leader.pod))
            }
            LeaderState::Open => finding("Ready", Verdict::True, "Open", format!("{} takes writes", leader.pod)),
            LeaderState::Recovering => not("Recovering", leader_message(leader, "collects the followers' data")),
            LeaderState::Standby => {
                not("LeaderWaits", leader_message(leader, "waits until no other leader is at work"))
            }
            LeaderState::Draining => not("LeaderEnding", format!("{} is shutting down", leader.pod)),
            LeaderState::Fenced => not("LeaderFenced", format!("{} was replaced by a newer leader", leader.pod)),
        },
    }
}

/// Why the API server refuses new leader pods, a quota for example.
fn refused_pods(seen: &Seen<'_>) -> Option<String> {
    let conditions = seen.deployment?.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|one| one.type_ == "ReplicaFailure" && one.status == "True")?;
    Some(format!("no leader pod can be made: {}", failure.message.as_deref().unwrap_or_default()))
}

fn quorum_available(seen: &Seen<'_>) -> Finding {
    let with = |verdict, reason, message: String| finding("QuorumAvailable", verdict, reason, message);
    match seen.leader {
        LeaderSeen::NotRunning(why) => with(Verdict::False, "LeaderNotRunning", why.clone()),
        LeaderSeen::Unreachable { pod, error } => {
            with(Verdict::Unknown, "LeaderUnreachable", format!("{pod} does not answer the operator: {error}"))
        }
        LeaderSeen::Answered(leader) if leader.status.state != LeaderState::Open => {
            with(Verdict::False, "LeaderNotOpen", leader_message(leader, "is not open for writes"))
        }
        LeaderSeen::Answered(leader) if confirming(leader) < leader.status.config.in_force.write_quorum => {
            with(Verdict::False, "QuorumLost", quorum_lost(leader))
        }
        LeaderSeen::Answered(leader) => {
            let quorum = leader.status.config.in_force.write_quorum;
            with(Verdict::True, "QuorumReached", format!("at least {quorum} followers confirm writes"))
        }
    }
}

fn config_applied(cluster: &Validated, seen: &Seen<'_>) -> Finding {
    let with = |verdict, reason, message: String| finding("ConfigApplied", verdict, reason, message);
    let Some(leader) = seen.leader.answered().filter(|leader| leader.status.state >= LeaderState::Recovering) else {
        return with(Verdict::Unknown, "LeaderUnavailable", "no leader reports which values are in force".to_owned());
    };
    let config = &leader.status.config;
    if let Configured::Failed(error) = seen.configured {
        return with(Verdict::False, "Refused", format!("{}: {error}", leader.pod));
    }
    if leader.status.state == LeaderState::Open && config.has_in_force(&cluster.live) {
        let LiveConfig { write_quorum, followers, .. } = config.in_force;
        let message = format!("write quorum {write_quorum} of {followers} followers is in force");
        return with(Verdict::True, "Applied", message);
    }
    let waits = config.pending.as_ref().map(|pending| pending.message.as_str()).filter(|message| !message.is_empty());
    with(
        Verdict::False,
        "Pending",
        waits.map_or_else(|| format!("the values of the spec are not in force at {} yet", leader.pod), str::to_owned),
    )
}

fn degraded(cluster: &Validated, seen: &Seen<'_>, opened: bool, missing: &[String]) -> Finding {
    let with = |verdict, reason, message: String| finding("Degraded", verdict, reason, message);
    if !opened {
        return with(Verdict::False, "Creating", "the cluster has not taken writes yet".to_owned());
    }
    let ready = ready_condition(seen);
    // Kubernetes checks every two seconds whether a leader is ready. Until then nothing is missing.
    if ready.verdict != Verdict::True && ready.reason != "LeaderNotReady" {
        let verdict = if ready.verdict == Verdict::Unknown { Verdict::Unknown } else { Verdict::True };
        return with(verdict, ready.reason, ready.message);
    }
    let Some(leader) = seen.leader.open() else {
        return with(Verdict::True, "LeaderNotOpen", "no leader is open".to_owned());
    };
    let members: Vec<&FollowerView> = leader.status.followers.iter().filter(|follower| follower.member).collect();
    let down: Vec<String> =
        members.iter().filter(|follower| !follower.confirms()).map(|follower| describe(follower, seen)).collect();
    let unknown = usize::from(leader.status.config.in_force.followers).saturating_sub(members.len());
    if down.is_empty() && unknown == 0 {
        if let Some(message) = missing_standbys(cluster, seen, leader) {
            return with(Verdict::True, "StandbysMissing", message);
        }
        return with(Verdict::False, "AllPresent", "every follower has the data and receives new writes".to_owned());
    }
    let listed = if down.is_empty() { missing.join("; ") } else { down.join("; ") };
    with(
        Verdict::True,
        "FollowersMissing",
        format!("{} of {} followers: {listed}", down.len() + unknown, leader.status.config.in_force.followers),
    )
}

/// Whether the nodes accept the token of the Secret, and no earlier one.
fn token_applied(cluster: &Validated, tokens: &Tokens) -> Finding {
    let with = |verdict, reason, message: String| finding("TokenApplied", verdict, reason, message);
    let secret = names::secret(&cluster.name);
    match &tokens.stage {
        Stage::Applied => {
            with(Verdict::True, "Applied", format!("the nodes accept the token of the Secret {secret} alone"))
        }
        Stage::Adding(waits) => with(Verdict::False, "AddingToken", waits.clone()),
        Stage::Dropping(waits) => with(Verdict::False, "DroppingToken", waits.clone()),
        Stage::Queued(waits) => with(
            Verdict::False,
            "RotationQueued",
            format!("the token of the Secret {secret} waits until the rotation before it is over: {waits}"),
        ),
        Stage::Malformed(why) => {
            with(Verdict::False, "MalformedToken", format!("Secret {secret}: {why}. The tokens before stay in force"))
        }
    }
}

/// Whether clients can have a token that the nodes accept, where they need one.
fn client_tokens(tokens: &ClientTokens) -> Finding {
    let with = |verdict, reason, message: String| finding("ClientTokensValid", verdict, reason, message);
    match tokens {
        ClientTokens::NotNeeded => with(Verdict::True, "NotNeeded", "clients need no token".to_owned()),
        ClientTokens::Valid { secret, count } => {
            with(Verdict::True, "Valid", format!("the Secret {secret} has {count} tokens of clients"))
        }
        ClientTokens::Invalid { reason, message } => with(Verdict::False, reason, message.clone()),
    }
}

/// Whether the nodes have a certificate that clients and other nodes accept.
fn certificate_valid(state: &certificates::State) -> Finding {
    let with = |verdict, reason, message: &str| finding("CertificateValid", verdict, reason, message);
    match state {
        certificates::State::NotNeeded => with(Verdict::True, "NotNeeded", "the nodes speak without TLS"),
        certificates::State::Valid(message) => with(Verdict::True, "Valid", message),
        certificates::State::ExpiresSoon(message) => with(Verdict::True, "ExpiresSoon", message),
        certificates::State::Invalid { reason, message } => with(Verdict::False, reason, message),
    }
}

/// What is known of the backups. Without a schedule, what was known stays: the backups do, too.
fn backup_status(cluster: &Validated, seen: &Seen<'_>, previous: &KvClusterStatus) -> Option<BackupStatus> {
    if cluster.backup.is_none() {
        return previous.backup.clone();
    }
    let latest = backups::latest(seen.backup_pods, previous.backup.as_ref());
    Some(latest).filter(|latest| *latest != BackupStatus::default())
}

/// Whether the last backup was verified.
fn backup_succeeded(cluster: &Validated, status: Option<&BackupStatus>) -> Finding {
    let with = |verdict, reason, message: String| finding("BackupSucceeded", verdict, reason, message);
    let Some(backup) = &cluster.backup else {
        return with(Verdict::Unknown, "NotScheduled", "the spec has no schedule of backups".to_owned());
    };
    let verified = |success: &BackupSuccess| {
        let BackupSuccess { time, name, keys, bytes } = success;
        format!("{name} has {keys} keys in {bytes} bytes, and was verified at {}", time.0)
    };
    let success = status.and_then(|status| status.last_success.as_ref());
    let failure = status.and_then(|status| status.last_failure.as_ref());
    match (status.and_then(backups::last_attempt), success, failure) {
        (Some((true, _)), Some(success), _) => with(Verdict::True, "Verified", verified(success)),
        (Some((false, _)), success, Some(failure)) => {
            let before = success.map_or_else(|| "no backup before it succeeded".to_owned(), verified);
            with(Verdict::False, "Failed", format!("{}: {}; {before}", failure.pod, failure.reason))
        }
        _ => {
            let message = format!("no backup has ended yet: the schedule is {}", backup.schedule);
            with(Verdict::Unknown, "NoneYet", message)
        }
    }
}

/// Whether the volumes of the followers have the size of the spec.
fn volumes_grown(cluster: &Validated, seen: &Seen<'_>) -> Finding {
    let with = |verdict, reason, message: String| finding("VolumesGrown", verdict, reason, message);
    if cluster.durability == Durability::Memory {
        return with(Verdict::True, "NotNeeded", "the followers keep their data in memory".to_owned());
    }
    let size = &cluster.storage.size;
    match (seen.claim_refused, growth::growing(cluster, seen.claims)) {
        (Some(refused), _) => with(Verdict::False, "Refused", refused.to_owned()),
        (None, growing) if growing.is_empty() => with(Verdict::True, "AsAsked", format!("the volumes have {size}")),
        (None, growing) => with(Verdict::False, "Growing", growing.join("; ")),
    }
}

/// Whether the PodDisruptionBudget allows a drain to evict followers.
fn drainable(cluster: &Validated, seen: &Seen<'_>, previous: &KvClusterStatus) -> Finding {
    let with = |verdict, reason, message: String| finding("Drainable", verdict, reason, message);
    if !cluster.disruption_budget.enabled {
        let message = "no PodDisruptionBudget: a drain may evict any number of followers, and may stop writes";
        return with(Verdict::True, "BudgetDisabled", message.to_owned());
    }
    if let Some(message) = disruption::needed_for_a_drain(cluster) {
        return with(Verdict::False, "NoSpareFollower", message);
    }
    match disruption::spare_followers(cluster, seen.leader, previous) {
        0 => {
            let message = "no follower may be evicted until quorum and number of followers of the spec are in force";
            with(Verdict::False, "ConfigPending", message.to_owned())
        }
        spare => with(
            Verdict::True,
            "SpareFollowers",
            format!("while all followers are ready, a drain may evict {spare} of them"),
        ),
    }
}

/// Which standbys that the spec asks for are not ready, and why. A rollout starts new ones before it ends old ones.
fn missing_standbys(cluster: &Validated, seen: &Seen<'_>, leader: &Leader) -> Option<String> {
    let others = seen.leader_pods.iter().filter(|pod| pod.name_any() != leader.pod);
    let (ready, other): (Vec<_>, Vec<_>) = others.partition(|pod| pods::is_ready(pod));
    if ready.len() >= usize::from(cluster.standbys) || progress::rolling_out(seen).is_some() {
        return None;
    }
    let reason = |pod: &&Arc<Pod>| pods::problem(pod).unwrap_or_else(|| format!("{}: is not ready", pod.name_any()));
    let mut message = format!("{} of {} standbys are ready", ready.len(), cluster.standbys);
    for reason in other.iter().map(reason) {
        message.push_str("; ");
        message.push_str(&reason);
    }
    Some(message)
}

/// The followers that the spec asks for and that do not receive new writes, each with the reason.
fn missing_followers(cluster: &Validated, seen: &Seen<'_>) -> Vec<String> {
    let set = names::followers(&cluster.name);
    // Without an open leader their own readiness counts: they have everything, and heard a leader a moment ago.
    let by_readiness = seen.leader.open().is_none();
    let is_ready = |name: &str| seen.follower_pods.iter().any(|pod| pod.name_any() == name && pods::is_ready(pod));
    let views = seen.leader.answered().map(|leader| leader.status.followers.as_slice()).unwrap_or_default();
    (0..cluster.live.followers)
        .map(|ordinal| format!("{set}-{ordinal}"))
        .filter_map(|name| match views.iter().find(|view| view.name == name) {
            _ if by_readiness && is_ready(&name) => None,
            Some(view) if view.confirms() => None,
            Some(view) => Some(describe(view, seen)),
            None => {
                Some(pod_problem(&name, seen).unwrap_or_else(|| format!("{name}: the leader has not found it yet")))
            }
        })
        .collect()
}

fn describe(follower: &FollowerView, seen: &Seen<'_>) -> String {
    pod_problem(&follower.name, seen).unwrap_or_else(|| {
        let state = match follower.state {
            FollowerState::Installing => "receives the data that it lacks",
            FollowerState::Connecting => "connecting",
            FollowerState::Unreachable => "unreachable from the leader",
            FollowerState::Lagging => "unreachable from the leader, and further behind than the leader keeps writes",
            FollowerState::Streaming => "streams",
            FollowerState::Unknown => "in a state that this operator does not know",
        };
        format!("{}: {state}", follower.name)
    })
}

fn pod_problem(name: &str, seen: &Seen<'_>) -> Option<String> {
    match seen.follower_pods.iter().find(|pod| pod.name_any() == name) {
        Some(pod) => pods::problem(pod),
        None => Some(format!("{name}: the pod does not exist yet")),
    }
}

fn confirming(leader: &Leader) -> u16 {
    let count = leader.status.followers.iter().filter(|follower| follower.member && follower.confirms()).count();
    u16::try_from(count).unwrap_or(u16::MAX)
}

fn quorum_lost(leader: &Leader) -> String {
    let LiveConfig { followers, write_quorum, .. } = leader.status.config.in_force;
    format!("{} of {followers} followers confirm writes, and the write quorum is {write_quorum}", confirming(leader))
}

/// The leader's own message, or `otherwise` where it has none.
fn leader_message(leader: &Leader, otherwise: &str) -> String {
    let message = leader.status.message.as_str();
    format!("{}: {}", leader.pod, if message.is_empty() { otherwise } else { message })
}

/// The message that explains the phase best: of a failure before that of a change under way.
fn headline(findings: &[Finding]) -> String {
    let bad = |finding: &&Finding| match finding.type_ {
        "Degraded" => finding.verdict == Verdict::True,
        "Progressing" => finding.verdict == Verdict::True || matches!(finding.reason, "NameTaken" | "ApplyFailed"),
        _ => finding.verdict != Verdict::True,
    };
    let order = ["Progressing", "Ready", "Degraded", "RolledOut", "ConfigApplied", "QuorumAvailable"];
    let failed = findings.iter().find(|f| matches!(f.reason, "NameTaken" | "ApplyFailed"));
    let ready_first =
        findings.iter().find(|f| f.type_ == "Ready" && f.verdict != Verdict::True && f.reason != "LeaderNotRunning");
    failed
        .or(ready_first)
        .or_else(|| order.iter().find_map(|type_| findings.iter().filter(bad).find(|f| f.type_ == *type_)))
        .map(|finding| finding.message.clone())
        .unwrap_or_default()
}

fn conditions(
    findings: impl IntoIterator<Item = Finding>,
    generation: i64,
    previous: &KvClusterStatus,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|Finding { type_, verdict, reason, message }| {
            let status = format!("{verdict:?}");
            let before = previous.conditions.iter().find(|condition| condition.type_ == type_);
            let since = before
                .filter(|condition| condition.status == status)
                .map(|condition| condition.last_transition_time.clone());
            Condition {
                type_: type_.to_owned(),
                status,
                reason: reason.to_owned(),
                message,
                observed_generation: Some(generation),
                last_transition_time: since.unwrap_or_else(|| Time(seconds(now))),
            }
        })
        .collect()
}

/// Whole seconds, as Kubernetes stores them. A fraction would count as a change after each round trip.
fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

#[cfg(test)]
mod tests;
