//! Breaks the cluster in rounds; each is repaired before the next begins.

use std::time::Duration;

use anyhow::Result;
use rand::{RngExt, rngs::SmallRng};
use tokio::time::{Instant, sleep_until};

use super::{
    fill::FilledKeys,
    history::{Clock, FaultRecord},
    plan::{Planned, Shape},
    target::Breakable,
};
use crate::interrupt::Interrupt;

/// When a check ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// With the first round that ends after this long.
    Time(Duration),
    /// After so many rounds.
    Rounds(u32),
}

/// What to do to a cluster, and when to stop.
#[derive(Debug)]
pub(super) struct Nemesis<'a> {
    pub shape: &'a Shape,
    pub limit: Limit,
    pub clock: Clock,
    pub interrupt: &'a Interrupt,
    /// Keys that must be there after every round: a loss ends it, before later rounds hide it.
    pub filled: Option<&'a FilledKeys>,
    /// Every wait is multiplied by this: 1, but for tests.
    pub slowness: f64,
}

impl Nemesis<'_> {
    /// Breaks and heals until the limit or an interruption; returns how many rounds that were. What was done goes to
    /// `faults`, whatever the result. Calls `on_round` before each round with what is planned.
    ///
    /// # Errors
    /// When something could not be done, or the cluster did not heal.
    pub(super) async fn run(
        &self,
        target: &mut impl Breakable,
        rng: &mut SmallRng,
        faults: &mut Vec<FaultRecord>,
        on_round: impl Fn(u32, &str),
    ) -> Result<u32> {
        let began = Instant::now();
        let mut round = 0;
        let is_over = |round: u32| match self.limit {
            Limit::Time(limit) => began.elapsed() >= limit,
            Limit::Rounds(limit) => round >= limit,
        };
        while !is_over(round) && !self.interrupt.is_requested() {
            // A moment of calm, so that something is acknowledged between the faults.
            self.pause(Instant::now(), Duration::from_millis(rng.random_range(100..800))).await;
            round += 1;
            let planned = self.shape.round(round, rng);
            let words: Vec<String> = planned.iter().map(|planned| target.words(planned.fault)).collect();
            on_round(round, &words.join(", "));
            let first = faults.len();
            let mended_us = self.run_round(target, &planned, round, faults).await?;
            target.heal().await?;
            let recovered_us = self.clock.now_us() - mended_us;
            faults[first..].iter_mut().for_each(|fault| fault.recovered_us = Some(recovered_us));
            if let Some(filled) = self.filled
                && !filled.are_counted().await?
            {
                break;
            }
        }
        Ok(round)
    }

    /// Does and undoes what is planned, each at its time. An interruption undoes everything at once. Returns when it
    /// began to undo the last one.
    async fn run_round(
        &self,
        target: &mut impl Breakable,
        planned: &[Planned],
        round: u32,
        faults: &mut Vec<FaultRecord>,
    ) -> Result<u64> {
        let began = Instant::now();
        let mut struck: Vec<Option<usize>> = vec![None; planned.len()];
        let mut times: Vec<(Duration, bool, usize)> = Vec::new();
        for (index, Planned { at, lasts, .. }) in planned.iter().enumerate() {
            times.extend([(*at, false, index), (*at + *lasts, true, index)]);
        }
        times.sort_unstable();
        let mut mended_us = self.clock.now_us();
        for (at, mends, index) in times {
            self.pause(began, at).await;
            let fault = planned[index].fault;
            if mends {
                let Some(record) = struck[index] else { continue };
                mended_us = self.clock.now_us();
                target.mend(fault).await?;
                faults[record].to_us = mended_us;
            } else if !self.interrupt.is_requested() {
                struck[index] = Some(faults.len());
                let (kind, text, from_us) = (fault.kind().name(), target.words(fault), self.clock.now_us());
                faults.push(FaultRecord { kind, text, round, from_us, to_us: from_us, recovered_us: None });
                target.strike(fault).await?;
            }
        }
        Ok(mended_us)
    }

    /// Waits until so long after `from`, unless the run is asked to end.
    async fn pause(&self, from: Instant, wait: Duration) {
        tokio::select! {
            () = sleep_until(from + wait.mul_f64(self.slowness)) => {}
            () = self.interrupt.requested() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use tokio::sync::watch;

    use super::*;
    use crate::check::{
        faults::{Fault, Place},
        history::FinalDump,
        target::Endpoints,
    };
    use crate::client::Credentials;

    /// Remembers what is done to it.
    #[derive(Default)]
    struct Dummy {
        broken: Vec<Fault>,
        struck: usize,
        heals: u32,
        heals_max: u32,
    }

    impl Breakable for Dummy {
        fn description(&self) -> String {
            "dummy".to_owned()
        }

        fn credentials(&self) -> Credentials {
            Credentials::default()
        }

        fn endpoints(&self) -> watch::Receiver<Endpoints> {
            watch::channel(Endpoints::default()).1
        }

        async fn strike(&mut self, fault: Fault) -> Result<()> {
            self.struck += 1;
            self.broken.push(fault);
            Ok(())
        }

        async fn mend(&mut self, fault: Fault) -> Result<()> {
            let place = self.broken.iter().position(|broken| *broken == fault).expect("it was done before");
            self.broken.remove(place);
            Ok(())
        }

        async fn heal(&mut self) -> Result<()> {
            assert!(self.broken.is_empty(), "{:?} is not undone", self.broken);
            self.heals += 1;
            if self.heals > self.heals_max { anyhow::bail!("failed to heal") } else { Ok(()) }
        }

        async fn dumps(&mut self) -> Result<Vec<FinalDump>> {
            Ok(Vec::new())
        }
    }

    fn nemesis<'a>(shape: &'a Shape, limit: Limit, interrupt: &'a Interrupt) -> Nemesis<'a> {
        Nemesis { shape, limit, clock: Clock::start(), interrupt, filled: None, slowness: 0.001 }
    }

    fn shape() -> Shape {
        Shape::new(Place::Process, 5, 3, true)
    }

    #[tokio::test]
    async fn everything_that_is_done_is_undone_before_the_next_round() {
        let mut dummy = Dummy { heals_max: 12, ..Dummy::default() };
        let (mut faults, mut rng) = (Vec::new(), SmallRng::seed_from_u64(3));
        let (_request, interrupt) = Interrupt::manual();
        let shape = shape();
        let nemesis = nemesis(&shape, Limit::Rounds(12), &interrupt);
        let rounds = nemesis.run(&mut dummy, &mut rng, &mut faults, |_, _| {}).await;
        assert_eq!((rounds.expect("healed"), dummy.heals), (12, 12));
        assert_eq!(faults.len(), dummy.struck);
        assert!(faults.iter().all(|fault| fault.recovered_us.is_some()));
        let mut kinds: Vec<&str> = faults.iter().map(|fault| fault.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        assert_eq!(kinds.len(), 8, "{kinds:?}");
    }

    #[tokio::test]
    async fn a_cluster_that_does_not_heal_ends_it_and_its_faults_are_kept() {
        let mut dummy = Dummy { heals_max: 1, ..Dummy::default() };
        let (mut faults, mut rng) = (Vec::new(), SmallRng::seed_from_u64(3));
        let (_request, interrupt) = Interrupt::manual();
        let shape = shape();
        let nemesis = nemesis(&shape, Limit::Time(Duration::from_secs(600)), &interrupt);
        let result = nemesis.run(&mut dummy, &mut rng, &mut faults, |_, _| {}).await;
        assert_eq!(result.expect_err("the second round").to_string(), "failed to heal");
        assert!(faults.last().is_some_and(|fault| fault.round == 2 && fault.recovered_us.is_none()));
    }

    #[tokio::test]
    async fn an_interruption_begins_nothing_any_more() {
        let mut dummy = Dummy { heals_max: 9, ..Dummy::default() };
        let (mut faults, mut rng) = (Vec::new(), SmallRng::seed_from_u64(3));
        let (request, interrupt) = Interrupt::manual();
        request();
        let shape = shape();
        let nemesis = nemesis(&shape, Limit::Rounds(5), &interrupt);
        let planned = shape.round(1, &mut rng);
        nemesis.run_round(&mut dummy, &planned, 1, &mut faults).await.expect("ends");
        assert_eq!((dummy.struck, faults.len()), (0, 0));
        let rounds = nemesis.run(&mut dummy, &mut rng, &mut faults, |_, _| {}).await;
        assert_eq!(rounds.expect("ends"), 0);
    }
}
