//! Views of the leader for status, probes and metrics.

use std::sync::Arc;

use kvcluster_api::config::{ConfigView, LiveConfig, PendingConfig};
use tracing::{info, warn};

use super::{Coordinator, State};
use crate::protocol::leader::{AuditCounts, CandidateView, CutOff, FollowerView, RecoveryView, Refusal, Unfinished};
use crate::protocol::types::Epoch;

/// The condition of the leader.
#[derive(Debug)]
pub enum Condition {
    /// Another leader replaced it, with this epoch.
    Fenced(Epoch),
    /// It asks for no promises while another leader may be at work.
    Candidate(CandidateView, RecoveryView),
    /// It resigned.
    Resigned,
    /// It collects promises and merges records.
    Recovering(RecoveryView),
    /// It installs the merged state: (followers that have it, followers needed), as far as that is known.
    Opening(Option<(usize, usize)>),
    /// It is open, but cannot acknowledge writes now.
    CutOff(CutOff),
    /// It is open. While a restore is unfinished or awaited, it refuses clients for this reason.
    Open(Option<Refusal>),
}

/// A follower and its connection.
#[derive(Debug)]
pub struct PlaceView {
    /// The follower as the leader sees it.
    pub follower: FollowerView,
    /// The last known URL.
    pub url: Option<String>,
    /// Why the last connection failed or ended.
    pub last_error: Option<String>,
}

/// A snapshot of the leader for status and metrics.
#[derive(Debug)]
pub struct LeaderView {
    /// Its condition.
    pub condition: Condition,
    /// Its configuration.
    pub config: ConfigView,
    /// The epoch that it leads, or asks for.
    pub epoch: Epoch,
    /// Keys, deleted ones included.
    pub keys: usize,
    /// Writes accepted by this leader.
    pub accepted: u64,
    /// Writes committed by this leader.
    pub committed: u64,
    /// Writes without their quorum.
    pub in_flight: usize,
    /// Writes that some follower has not confirmed.
    pub backlog: usize,
    /// Whether clients are served.
    pub serving: bool,
    /// The restore that began and has not ended.
    pub restore: Option<Unfinished>,
    /// In a cluster that starts from a backup: whether the restore has still to end.
    pub start_pending: Option<bool>,
    /// Progress of recovery; `None` once the leader opens.
    pub recovery: Option<RecoveryView>,
    /// Every follower.
    pub followers: Vec<PlaceView>,
    /// What the background comparison found.
    pub audit: AuditCounts,
}

impl Coordinator {
    /// Returns a snapshot. Writes wait meanwhile.
    pub fn view(&self) -> LeaderView {
        let now_us = self.now_us();
        self.look(|state| {
            let core = &state.core;
            let (accepted, committed) = core.counters();
            LeaderView {
                condition: state.condition(),
                config: state.config(self.seed),
                epoch: core.epoch(),
                keys: core.keys(),
                accepted,
                committed,
                in_flight: core.in_flight(),
                backlog: core.backlog(),
                serving: core.is_serving(),
                restore: core.unfinished_restore(),
                start_pending: core.start_pending(),
                recovery: core.recovery(),
                followers: state.followers(now_us),
                audit: core.audit_counts(),
            }
        })
    }

    /// Returns the condition of the leader.
    pub fn condition(&self) -> Condition {
        self.look(State::condition)
    }

    /// Returns the configuration in force and the pending one.
    pub fn config(&self) -> ConfigView {
        self.look(|state| state.config(self.seed))
    }

    /// The epoch that this leader leads, or asks for.
    pub fn epoch(&self) -> Epoch {
        self.look(|state| state.core.epoch())
    }

    /// How many keys there are, deleted ones included.
    pub(crate) fn keys(&self) -> usize {
        self.look(|state| state.core.keys())
    }

    /// The epoch of the leader that replaced this one.
    pub fn fenced_by(&self) -> Option<Epoch> {
        self.look(|state| state.core.fenced_by())
    }

    /// The URL of the leader, while this process is its standby, or once it was followed by it.
    pub(crate) fn leads_elsewhere(&self) -> Option<Arc<str>> {
        self.look(|state| state.core.leads_elsewhere())
    }

    /// Whether this process asks for no promises while another leader may be at work.
    pub(crate) fn is_candidate(&self) -> bool {
        self.look(|state| state.core.candidate().is_some())
    }

    /// Waits until another leader replaced this one, and returns its epoch.
    pub(crate) async fn replaced(&self) -> Epoch {
        let mut changes = self.changes();
        loop {
            if let Some(by) = self.fenced_by() {
                return by;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl State {
    /// Logs when the leader starts to refuse clients for lack of followers, and when it serves them
    /// again.
    pub(super) fn log_cut_off(&mut self) {
        let cut_off = self.core.cut_off();
        if cut_off.is_some() == self.cut_off_logged {
            return;
        }
        self.cut_off_logged = cut_off.is_some();
        match cut_off {
            Some(reason) => warn!(%reason, "too few followers: refusing clients"),
            None if self.core.is_open() => info!("enough followers again: serving clients"),
            None => {}
        }
    }

    fn condition(&self) -> Condition {
        let core = &self.core;
        if let Some(by) = core.fenced_by() {
            Condition::Fenced(by)
        } else if core.is_resigned() {
            Condition::Resigned
        } else if let Some(recovery) = core.recovery() {
            match core.candidate() {
                Some(candidate) => Condition::Candidate(candidate, recovery),
                None => Condition::Recovering(recovery),
            }
        } else if core.is_opening() {
            Condition::Opening(core.change_progress())
        } else if let Some(cut_off) = core.cut_off() {
            Condition::CutOff(cut_off.clone())
        } else {
            Condition::Open(core.restore_refusal())
        }
    }

    fn config(&self, seed: u64) -> ConfigView {
        let LiveConfig { generation, write_quorum, followers, .. } = self.wanted;
        let pending = (generation != self.in_force.generation).then(|| {
            let message = match self.core.change_progress() {
                Some((stored, needed)) => format!("stored on {stored} followers, {needed} are needed"),
                None if !self.core.is_open() => "the leader is not open".to_owned(),
                None => format!("waits until {write_quorum} followers can take it"),
            };
            PendingConfig { generation, write_quorum, followers, message }
        });
        ConfigView { in_force: self.in_force.clone(), delay_seed: Some(seed), pending }
    }

    fn followers(&self, now_us: u64) -> Vec<PlaceView> {
        let show = |follower: FollowerView| {
            let path = self.paths.get(follower.slot.index());
            let url = path.map(|path| path.url.clone()).filter(|url| !url.is_empty());
            let last_error = path.and_then(|path| path.last_error.clone());
            PlaceView { follower, url, last_error }
        };
        self.core.followers(now_us).into_iter().map(show).collect()
    }
}
