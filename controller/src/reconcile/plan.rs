//! Step 6 (no client): which one pod may get its new template now, and why no other.
//!
//! Followers go first, one at a time, each streaming again before the next. The leader goes last. A follower moves only
//! if those that remain suffice for writes and for a leader that restarts meanwhile: max(W, N - W + 1) by every rule that
//! counts. Where that is N itself (W = 1 or W = N), a follower moves while all N stream and none is behind: otherwise
//! such a cluster could never be upgraded. With durability Memory a pod that is replaced comes back empty, and at most
//! W - 1 followers may be empty at once.
//!
//! A pod that its old template keeps from running moves at once: nothing depends on it, and a bad image could not be
//! repaired otherwise.

use crate::reconcile::disruption::Rule;

pub mod situation;

/// What a follower pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowerState {
    /// It is ready, and the leader counts it: it has all data and confirms writes.
    Streams,
    /// It runs, or may run on a lost machine, and does not confirm writes.
    Silent,
    /// It cannot run with its template: a crash loop, no image, no machine that suits it.
    Broken,
    /// It is being deleted, or does not exist yet.
    Absent,
}

/// A follower pod that the StatefulSet asks for.
#[derive(Clone, Debug)]
pub struct Follower {
    /// Its name.
    pub name: String,
    /// Whether it has the newest template.
    pub current: bool,
    /// What it does.
    pub state: FollowerState,
    /// Why it does not stream, as `NAME: REASON`.
    pub why: String,
}

/// What the leader does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaderIs {
    /// It accepts writes, and its report on the followers counts.
    Open,
    /// No leader pod can run with its template.
    Broken,
    /// Anything else, a recovery for example.
    Closed,
}

/// How far the leader's template is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaderTemplate {
    /// Every leader pod has the newest one.
    Current,
    /// There is a newer one, and no pod has been started with it.
    Waits,
    /// The Deployment is replacing pods.
    Rolls {
        /// Why a pod of it cannot run, as `NAME: REASON`.
        problem: Option<String>,
    },
}

/// What decides which pod may move.
#[derive(Clone, Debug)]
pub struct Situation {
    /// The rules that count: in force, pending, and of the spec.
    pub rules: Vec<Rule>,
    /// Whether a follower that is replaced comes back empty.
    pub in_memory: bool,
    /// Whether the StatefulSet has the newest template, so that each follower is known to have it or not.
    pub recorded: bool,
    /// The follower pods that the StatefulSet asks for, by ordinal.
    pub followers: Vec<Follower>,
    /// A follower that is behind by more than its delays explain, as `NAME: REASON`.
    pub behind: Option<String>,
    /// What the leader does.
    pub leader: LeaderIs,
    /// How far its template is.
    pub leader_template: LeaderTemplate,
}

/// What may move now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// This follower pod. Within the disruption budget, unless no follower can be spared.
    Follower {
        /// Its name.
        name: String,
        /// Whether the PodDisruptionBudget can allow it.
        within_budget: bool,
    },
    /// The leader's Deployment.
    Leader,
}

/// How far the newest template is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rollout {
    /// Every pod has it.
    Done,
    /// A pod moves, or one that moved is not back yet.
    Moving,
    /// It waits for its turn.
    Queued,
    /// It waits for something that may need a person.
    Blocked,
    /// The cluster is paused.
    Paused,
}

/// What may happen now, and why no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What may move now.
    pub next: Option<Move>,
    /// How far the newest template is.
    pub rollout: Rollout,
    /// What moves, or what is waited for, in one sentence.
    pub message: String,
    /// Whether this cluster counts as one that rolls.
    pub rolls: bool,
}

impl Plan {
    fn done() -> Self {
        let message = "every pod has the newest template".to_owned();
        Self { next: None, rollout: Rollout::Done, message, rolls: false }
    }

    /// The plan of a cluster without pods: the next ones get the newest template.
    #[must_use]
    pub fn without_pods() -> Self {
        Self { message: "no pods run, and those that start have the newest template".to_owned(), ..Self::done() }
    }

    /// What a paused cluster has of a rollout.
    #[must_use]
    pub fn of_paused(situation: &Situation) -> Self {
        let plan = decide(situation, Turn { rolls: false, others: 0, cap: usize::MAX });
        if plan.rollout == Rollout::Done {
            return plan;
        }
        let message = "paused: pods with an older template remain until spec.paused is false".to_owned();
        Self { next: None, rollout: Rollout::Paused, message, rolls: false }
    }

    fn moving(message: String) -> Self {
        Self { next: None, rollout: Rollout::Moving, message, rolls: true }
    }

    fn queued(message: String) -> Self {
        Self { next: None, rollout: Rollout::Queued, message, rolls: false }
    }

    fn blocked(message: String) -> Self {
        Self { next: None, rollout: Rollout::Blocked, message, rolls: false }
    }

    fn of_follower(name: &str, within_budget: bool) -> Self {
        let next = Some(Move::Follower { name: name.to_owned(), within_budget });
        Self { next, ..Self::moving(format!("{name} gets the newest template")) }
    }

    fn of_leader() -> Self {
        Self { next: Some(Move::Leader), ..Self::moving("leader: a pod of the newest template takes over".to_owned()) }
    }

    /// The plan after the API server refused its move.
    #[must_use]
    pub fn refused(message: String) -> Self {
        Self::blocked(message)
    }
}

/// What other clusters do.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Whether this cluster counts as one that rolls already. It keeps its place.
    pub rolls: bool,
    /// How many others roll.
    pub others: usize,
    /// How many may at once.
    pub cap: usize,
}

/// Decides what may move. Pure.
#[must_use]
pub fn decide(situation: &Situation, turn: Turn) -> Plan {
    let Situation { rules, in_memory, recorded, followers, behind, leader, leader_template } = situation;
    if *leader == LeaderIs::Broken && *leader_template == LeaderTemplate::Waits {
        return Plan::of_leader();
    }
    if !recorded {
        return Plan { rolls: false, ..Plan::moving("the StatefulSet takes over the newest template".to_owned()) };
    }
    let outdated: Vec<&Follower> = followers.iter().filter(|follower| !follower.current).collect();
    if let Some(broken) = outdated.iter().find(|follower| follower.state == FollowerState::Broken) {
        return Plan::of_follower(&broken.name, true);
    }
    match leader_template {
        LeaderTemplate::Rolls { problem: Some(problem) } => {
            return Plan { rolls: true, ..Plan::blocked(format!("a leader pod cannot run: {problem}")) };
        }
        LeaderTemplate::Rolls { problem: None } => {
            return Plan::moving("leader: a pod of the newest template takes over".to_owned());
        }
        LeaderTemplate::Current if outdated.is_empty() => return Plan::done(),
        LeaderTemplate::Current | LeaderTemplate::Waits => {}
    }
    // A new template that does not work stops at the first follower.
    let away = |follower: &&Follower| {
        follower.state == FollowerState::Absent || (follower.current && follower.state != FollowerState::Streams)
    };
    if let Some(follower) = followers.iter().find(away) {
        let message = format!("waits until {} streams again: {}", follower.name, follower.why);
        return match follower.state {
            FollowerState::Broken => Plan { rolls: true, ..Plan::blocked(message) },
            _ if turn.rolls => Plan::moving(message),
            _ => Plan::blocked(message),
        };
    }
    if *leader != LeaderIs::Open {
        return Plan::blocked("waits for an open leader, which alone knows which followers have all data".to_owned());
    }
    let count = followers.len();
    if rules.iter().any(|rule| usize::from(rule.followers) != count) {
        return Plan::queued("waits until the number of followers is in force".to_owned());
    }
    let enough = Enough::of(rules, count);
    let streaming = followers.iter().filter(|follower| follower.state == FollowerState::Streams).count();
    let silent = followers.iter().find(|follower| follower.state != FollowerState::Streams);
    let silent = silent.map_or_else(String::new, |follower| format!(": {}", follower.why));
    let candidate = outdated.iter().rev().find(|follower| follower.state == FollowerState::Streams);
    let (name, next) = match candidate {
        Some(follower) => (follower.name.as_str(), Plan::of_follower(&follower.name, enough.spare)),
        None if outdated.is_empty() => ("the leader", Plan::of_leader()),
        None => return Plan::blocked(format!("waits until every follower streams{silent}")),
    };
    if let Some(refusal) = candidate.and_then(|_| enough.refuses_empty(count - streaming + 1, *in_memory)) {
        return Plan::blocked(format!("{name} cannot move: {refusal}"));
    }
    let remaining = if candidate.is_some() && enough.spare { streaming - 1 } else { streaming };
    if remaining < enough.needed {
        let Enough { needed, .. } = enough;
        return Plan::blocked(format!(
            "{name} cannot move: {streaming} of {count} followers stream, and {needed} have to remain{silent}"
        ));
    }
    let Turn { rolls, others, cap } = turn;
    if others >= cap && !rolls {
        return Plan::queued(format!("{others} other KvClusters roll out, and at most {cap} do at once"));
    }
    if let (true, false, Some(behind)) = (candidate.is_some(), enough.spare, behind) {
        return Plan::moving(format!("{name} cannot move while a follower is behind: {behind}"));
    }
    next
}

/// How many followers are enough, by every rule that counts.
struct Enough {
    /// How many have to stream.
    needed: usize,
    /// Whether that is fewer than there are.
    spare: bool,
    /// The smallest write quorum.
    write_quorum: usize,
}

impl Enough {
    fn of(rules: &[Rule], count: usize) -> Self {
        let needed = rules.iter().map(|rule| usize::from(rule.needed())).max().unwrap_or(count);
        let write_quorum = rules.iter().map(|rule| usize::from(rule.write_quorum)).min().unwrap_or_default();
        Self { needed, spare: needed < count, write_quorum }
    }

    /// Why so many followers may not be empty at once: a write may be on no others.
    fn refuses_empty(&self, empty: usize, in_memory: bool) -> Option<String> {
        let Self { write_quorum, .. } = self;
        if !in_memory || empty < *write_quorum {
            return None;
        }
        Some(format!(
            "with durability Memory a replaced follower is empty, and at most {} may be with writeQuorum {write_quorum}{}",
            write_quorum.saturating_sub(1),
            if *write_quorum < 2 { ": set writeQuorum (and replicas) to at least 2 first" } else { "" },
        ))
    }
}

#[cfg(test)]
mod tests;
