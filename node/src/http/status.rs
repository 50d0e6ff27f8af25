//! Makes the answers of `GET /status` from the views of a leader and of a follower.

use kvcluster_api::status::{
    DiskStatus, Durability, Epoch, FollowerStatus, FollowerView, LeaderState, LeaderStatus, Leadership, RecoveryStatus,
    ReplicaState, Role, UnfinishedRestore, WriteCounts,
};
use kvcluster_api::tolerance::Tolerance;

use super::{FollowerSite, LeaderSite, Site};
use crate::protocol::leader::{CandidateView, RecoveryView, Unfinished};
use crate::protocol::types;
use crate::replication::coordinator::{Condition, PlaceView};

/// The answer to `GET /status` at a leader.
pub(super) fn of_leader(site: &LeaderSite) -> LeaderStatus {
    let view = site.leader.view();
    let (state, message) = describe(&view.condition, site.site.is_draining());
    LeaderStatus {
        role: Role::Leader,
        name: site.site.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        state,
        message,
        epoch: Some(epoch(view.epoch)),
        keys: view.keys as u64,
        restore: view
            .restore
            .map(|Unfinished { backup, overwrite }| UnfinishedRestore { backup: backup.to_string(), overwrite }),
        start_pending: view.start_pending,
        writes: WriteCounts {
            accepted: view.accepted,
            committed: view.committed,
            in_flight: view.in_flight as u64,
            backlog: view.backlog as u64,
        },
        tolerates: Tolerance::of(view.config.in_force.followers, view.config.in_force.write_quorum),
        recovery: view.recovery.as_ref().map(recovery),
        followers: view.followers.into_iter().map(follower).collect(),
        config: view.config,
        warnings: warnings(&site.site),
    }
}

/// The answer to `GET /status` at a follower.
pub(super) fn of_follower(site: &FollowerSite) -> FollowerStatus {
    let view = site.replica.view();
    let hello = &view.hello;
    let found = site.replica.found();
    let health = site.replica.disk_health().unwrap_or_default();
    let synced = hello.synced.as_ref();
    let promised = Some(hello.promised).filter(|promised| *promised > types::Epoch::default());
    let state = match synced {
        None if promised.is_none() => ReplicaState::Blank,
        Some(synced) if synced.epoch == hello.promised => ReplicaState::Synced,
        _ => ReplicaState::Installing,
    };
    FollowerStatus {
        role: Role::Follower,
        name: site.site.name.to_string(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        id: hello.id.to_string(),
        state,
        epoch: synced.map(|synced| epoch(synced.epoch)),
        promised: promised.map(epoch),
        write_quorum: synced.map(|synced| synced.config.quorum),
        keys: view.keys as u64,
        durability: if found.is_some() { Durability::Disk } else { Durability::Memory },
        disk: found.map(|found| DiskStatus {
            found: found.state(),
            message: found.to_string(),
            checked_bytes: health.checked_bytes,
            damaged: health.damaged,
            mended: health.mended,
            damaged_batch: health.damaged_batch,
        }),
        leader: view.leader.as_deref().map(str::to_owned),
        staleness_ms: view.staleness.map(|staleness| staleness.as_secs_f64() * 1e3),
        warnings: warnings(&site.site),
    }
}

/// Whether this process leads.
pub(super) fn leadership(site: &LeaderSite) -> Leadership {
    let (state, _) = describe(&site.leader.condition(), site.site.is_draining());
    let leader = site.leader.leads_elsewhere().map(|url| url.as_ref().to_owned());
    Leadership { state, epoch: epoch(site.leader.epoch()), leader }
}

fn warnings(site: &Site) -> Vec<String> {
    site.files().into_iter().filter_map(|file| file.trouble).collect()
}

/// The state of a leader, and one sentence about what it waits for.
pub(super) fn describe(condition: &Condition, draining: bool) -> (LeaderState, String) {
    match condition {
        Condition::Fenced(by) => (LeaderState::Fenced, format!("replaced by the leader of epoch {by}")),
        Condition::Resigned => (LeaderState::Draining, "handed over".to_owned()),
        Condition::Candidate(CandidateView { leader: Some(leader), hearing, answered, copied_keys, copied }, _) => {
            let copy = if *copied { "its copy of the state has" } else { "copies the state, so far" };
            let message =
                format!("{leader} leads: {hearing} of {answered} followers hear it; {copy} {copied_keys} keys");
            (LeaderState::Standby, message)
        }
        Condition::Candidate(_, recovery) if recovery.is_enough() => {
            (LeaderState::Recovering, "makes sure that no other leader is at work".to_owned())
        }
        Condition::Candidate(_, recovery) | Condition::Recovering(recovery) => {
            (LeaderState::Recovering, recovery_message(recovery))
        }
        Condition::Opening(Some((stored, needed))) => (
            LeaderState::Recovering,
            format!("installing the recovered state: {stored} followers have it, {needed} are needed"),
        ),
        Condition::Opening(None) => (LeaderState::Recovering, "installing the recovered state".to_owned()),
        Condition::Open(_) | Condition::CutOff(_) if draining => {
            (LeaderState::Draining, "shutting down: no new writes".to_owned())
        }
        Condition::CutOff(cut_off) => (LeaderState::Open, format!("refuses clients: {cut_off}")),
        Condition::Open(refusal) => (LeaderState::Open, refusal.as_ref().map_or(String::new(), ToString::to_string)),
    }
}

fn recovery_message(view: &RecoveryView) -> String {
    let RecoveryView { needed, answered, counting, blank, size, opened_before } = view;
    match needed {
        None if *opened_before && answered == blank => format!(
            "this cluster was open before, but {answered} of {size} followers answered and all are blank: its writes are \
             lost, or on followers that are missing. POST /recover {{\"accept_data_loss\":true}} opens it empty"
        ),
        None if answered == blank => format!(
            "waits for all {size} followers: {answered} answered and are blank, and only all of them prove a new cluster"
        ),
        None => format!("waits for followers: {answered} of {size} answered"),
        Some(needed) if counting < needed => format!(
            "waits for {needed} followers that have state: {counting} of {size} answered ({blank} more are blank); any \
             acknowledged write could be on the missing ones. If they are lost for good, \
             POST /recover {{\"accept_data_loss\":true}} opens without them"
        ),
        Some(_) => format!("merges the state of {counting} followers"),
    }
}

fn recovery(view: &RecoveryView) -> RecoveryStatus {
    RecoveryStatus {
        needed: view.needed.map(|needed| needed as u64),
        answered: view.answered as u64,
        non_blank: view.counting as u64,
        blank: view.blank as u64,
        message: recovery_message(view),
    }
}

fn follower(place: PlaceView) -> FollowerView {
    let PlaceView { follower, url, last_error } = place;
    FollowerView {
        name: follower.name,
        url,
        id: follower.id.map(|id| id.to_string()),
        state: follower.state,
        member: follower.member,
        retiring: follower.retired,
        lag_writes: follower.lag_writes,
        lag_ms: follower.lag_us as f64 / 1e3,
        config_generation: follower.generation,
        last_error,
    }
}

fn epoch(epoch: types::Epoch) -> Epoch {
    Epoch { term: epoch.term, leader: format!("{:016x}", epoch.leader) }
}
