//! What is known of the cluster: the newest update, and what follows from those before it.

use std::collections::VecDeque;

use kvcluster_api::{
    config::LiveConfig,
    status::{FollowerState, FollowerView},
};

use super::feed::{Event, Latency, Update};
use crate::theory::QuorumDelay;

/// Writes that began under settings before the present ones end this much later than the longest delay.
const SETTLE_MS: f64 = 300.0;
/// How long a delay usually takes at most. The longest one of a law may be an hour.
const USUAL_MS_MAX: f64 = 2000.0;
/// Updates over which writes per second are counted: two seconds.
const RATE_UPDATES: usize = 9;
/// Rates that are kept: a minute of them.
const RATES_MAX: usize = 240;

/// The cluster as the terminal shows it.
#[derive(Debug, Default)]
pub struct Model {
    /// Where the leader is that sent the newest update.
    pub leader: String,
    /// The newest update.
    pub update: Option<Update>,
    /// Why there is none any more.
    pub lost: Option<String>,
    /// Writes per second at each of the last updates.
    pub rates: VecDeque<u64>,
    /// The latency in theory, where there are delays and enough followers.
    pub theory: Option<QuorumDelay>,
    commits: VecDeque<(f64, u64)>,
    /// The latencies when the present settings came into force.
    before: Latency,
    setting: Option<Setting>,
    settles_at: f64,
}

/// What the latency depends on: another one starts the measurement anew.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    config: LiveConfig,
    confirm: Vec<String>,
}

/// Latencies of the writes under the present settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// How many writes.
    pub count: u64,
    /// Their mean.
    pub mean_ms: f64,
    /// Twice its standard error.
    pub error_ms: f64,
    /// Half of them took at most this.
    pub median_ms: f64,
    /// 99 of 100 took at most this.
    pub p99_ms: f64,
}

/// How a follower is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It confirms.
    Up,
    /// It confirms later than its delays explain, or receives what it lacks.
    Behind,
    /// There is no connection.
    Down,
}

impl Model {
    /// Takes what is new.
    pub fn apply(&mut self, event: Event) {
        match event {
            Event::Lost(reason) => self.lost = Some(reason),
            Event::Update(leader, update) => {
                (self.leader, self.lost) = (leader, None);
                self.count(&update);
                self.settle(&update);
                self.update = Some(*update);
            }
        }
    }

    fn count(&mut self, update: &Update) {
        let now = (update.at_ms, update.status.writes.committed);
        // Another leader counts from nothing, by a clock of its own.
        if self.commits.back().is_some_and(|last| now.0 < last.0 || now.1 < last.1) {
            self.commits.clear();
        }
        self.commits.push_back(now);
        if self.commits.len() > RATE_UPDATES {
            self.commits.pop_front();
        }
        self.rates.push_back(self.per_second().round() as u64);
        if self.rates.len() > RATES_MAX {
            self.rates.pop_front();
        }
    }

    /// Committed writes per second.
    pub fn per_second(&self) -> f64 {
        match (self.commits.front(), self.commits.back()) {
            (Some(first), Some(last)) if last.0 > first.0 => (last.1 - first.1) as f64 * 1e3 / (last.0 - first.0),
            _ => 0.0,
        }
    }

    fn settle(&mut self, update: &Update) {
        let config = update.status.config.in_force.clone();
        let confirming = update.status.followers.iter().filter(|follower| confirms(follower));
        let setting = Setting { confirm: confirming.map(|follower| follower.name.clone()).collect(), config };
        if update.latency.count < self.before.count {
            self.before = Latency::default();
        }
        if self.setting.as_ref() != Some(&setting) {
            let usual_ms = f64::from(setting.config.max_delay_ms).min(USUAL_MS_MAX);
            self.settles_at = if self.setting.is_some() { update.at_ms + usual_ms + SETTLE_MS } else { 0.0 };
            self.theory = theory(&setting);
            self.setting = Some(setting);
        }
        if update.at_ms < self.settles_at {
            self.before = update.latency.clone();
        }
    }

    /// Latencies since the present settings came into force, once a write was committed.
    pub fn measured(&self) -> Option<Measured> {
        let now = &self.update.as_ref()?.latency;
        let known = |from: u64| self.before.buckets.iter().find(|bucket| bucket.0 == from).map_or(0, |bucket| bucket.2);
        let buckets: Vec<(f64, u64)> = now
            .buckets
            .iter()
            .map(|&(from, to, count)| ((from + to) as f64 / 2e3, count.saturating_sub(known(from))))
            .collect();
        let count = now.count.checked_sub(self.before.count).filter(|count| *count > 0)?;
        let mean_ms = (now.sum_ms - self.before.sum_ms) / count as f64;
        let variance =
            buckets.iter().map(|(ms, count)| *count as f64 * (ms - mean_ms).powi(2)).sum::<f64>() / count as f64;
        let quantile = |share: f64| {
            let mut seen = 0;
            let found = buckets.iter().find(|(_, count)| {
                seen += count;
                seen as f64 >= share * count_of(&buckets)
            });
            found.map_or(mean_ms, |(ms, _)| *ms)
        };
        let error_ms = 2.0 * (variance / count as f64).sqrt();
        Some(Measured { count, mean_ms, error_ms, median_ms: quantile(0.5), p99_ms: quantile(0.99) })
    }
}

fn count_of(buckets: &[(f64, u64)]) -> f64 {
    buckets.iter().map(|(_, count)| count).sum::<u64>() as f64
}

fn confirms(follower: &FollowerView) -> bool {
    follower.confirms() && follower.member
}

/// Laws that differ between followers have a theory only while all of them confirm: who is missing would matter.
fn theory(Setting { config, confirm }: &Setting) -> Option<QuorumDelay> {
    let law = config.delay.as_ref();
    let differs = law.is_some_and(|law| law.per_follower.is_some() || law.preset.as_deref() == Some("wan-3-zones"));
    let followers = u16::try_from(confirm.len()).ok()?;
    if config.max_delay_ms == 0 || (differs && followers != config.followers) {
        return None;
    }
    QuorumDelay::of(&config.delays(), followers, config.write_quorum)
}

/// How a follower is shown, under these settings.
pub fn level(follower: &FollowerView, config: &LiveConfig) -> Level {
    let usual_ms = f64::from(config.max_delay_ms).min(USUAL_MS_MAX);
    let is_late = follower.lag_writes > 0 && follower.lag_ms > usual_ms + 500.0;
    match follower.state {
        FollowerState::Unreachable | FollowerState::Lagging => Level::Down,
        FollowerState::Streaming if !is_late => Level::Up,
        _ => Level::Behind,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::testing::{after, update};

    #[test]
    fn a_measurement_starts_anew_with_the_settings_and_leaves_out_what_began_before() {
        let mut model = after([update(0.0, 100, &[]), update(1_000.0, 150, &[(10_000, 12_000, 50)])]);
        assert_eq!(model.measured().map(|measured| (measured.count, measured.median_ms)), Some((50, 11.0)));
        assert!((model.per_second() - 50.0).abs() < 1e-9);

        let mut other = |at_ms: f64, committed: u64, buckets: &[(u64, u64, u64)]| {
            let mut update = update(at_ms, committed, buckets);
            update.status.config.in_force.write_quorum = 1;
            model.apply(Event::Update("http://leader:8000".to_owned(), Box::new(update)));
            model.measured().map(|measured| (measured.count, measured.median_ms))
        };
        assert_eq!(other(1_250.0, 160, &[(10_000, 12_000, 60)]), None, "they began under the quorum before");
        assert_eq!(other(1_900.0, 170, &[(4_000, 6_000, 3), (10_000, 12_000, 60)]), Some((3, 5.0)));
    }

    #[test]
    fn another_leader_counts_from_nothing() {
        let model = after([update(5_000.0, 9_000, &[(1_000, 3_000, 900)]), update(250.0, 4, &[(1_000, 3_000, 4)])]);
        assert_eq!((model.per_second(), model.measured().map(|measured| measured.count)), (0.0, Some(4)));
    }

    /// Two of three followers confirm: the second of two uniform delays is 200 · 2/3.
    #[test]
    fn theory_counts_the_followers_that_confirm() {
        let mean = |update: Update| after([update]).theory.map(|law| law.mean_ms().round());
        let (mut all, mut missing) = (update(0.0, 100, &[]), update(0.0, 100, &[]));
        all.status.followers[1].state = FollowerState::Streaming;
        assert_eq!((mean(all), mean(missing.clone())), (Some(100.0), Some(133.0)));
        missing.status.followers[0].state = FollowerState::Unreachable;
        assert_eq!(mean(missing.clone()), None, "fewer than W");
        missing.status.followers[0].state = FollowerState::Streaming;
        // Which follower is missing would matter.
        missing.status.config.in_force.delay =
            Some(std::sync::Arc::new(kvcluster_api::delay::DelayLaw::preset("wan-3-zones")));
        assert_eq!(mean(missing), None);
    }
}
