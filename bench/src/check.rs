//! Breaks a cluster while clients use it, and says whether what they saw was linearizable.
//!
//! [`plan`] draws rounds of [`faults`] from a seed, and `nemesis` causes and undoes them on a [`target`] ([`local`]:
//! processes, [`kube`]: pods). [`clients`] record every answer as a [`history`], [`fill`] writes a large state first.
//! [`verdict`] judges the history: by the [`versions`] that every answer carries, and by a search for an order that
//! explains it ([`linearizability`]). [`summary`] counts, and [`report`] prints.

pub mod clients;
pub mod faults;
pub mod fill;
pub mod history;
#[cfg(feature = "kubernetes")]
pub mod kube;
pub mod linearizability;
pub mod local;
mod nemesis;
pub mod plan;
pub mod report;
pub mod summary;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
mod timeline;
pub mod verdict;
pub mod versions;
pub mod violation;

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result};
use rand::{SeedableRng, rngs::SmallRng};
use tokio::sync::mpsc;

pub use self::nemesis::Limit;
use self::{
    clients::{Clients, Load},
    fill::{Fill, FillReport, FilledKeys},
    history::{Clock, History, Operation},
    nemesis::Nemesis,
    plan::Shape,
    summary::{CheckReport, CheckSettings},
    target::Breakable,
    violation::Violation,
};
use crate::{interrupt::Interrupt, progress::Progress};

/// What to do.
#[derive(Clone, Debug)]
pub struct CheckOptions {
    /// When it ends.
    pub limit: Limit,
    /// What may be done to the cluster.
    pub shape: Shape,
    /// What clients do.
    pub load: Load,
    /// What there is before the faults.
    pub fill: Option<Fill>,
    /// Prefix of the keys and idempotency keys, where others share the cluster.
    pub run: String,
    /// Longest random wait before a send to a follower, for the report, in ms.
    pub max_delay_ms: u32,
}

/// Runs it to its end, and judges whatever was seen: also after an interruption, and where the cluster did not heal.
///
/// # Errors
/// When it could not begin, or judging failed.
pub async fn run(
    target: &mut impl Breakable,
    options: &CheckOptions,
    interrupt: &Interrupt,
    progress: &Progress,
) -> Result<(CheckReport, History)> {
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let CheckOptions { limit, shape, load, run, .. } = options;
    let endpoints = target.endpoints();
    let credentials = target.credentials();
    let filled = options.fill.map(|fill| FilledKeys::new(fill, run, &credentials, endpoints.clone())).transpose()?;
    if let Some(filled) = &filled {
        progress.note(&format!("writing {} keys", filled.numbers().len()));
        filled.write().await?;
    }
    let clock = Clock::start();
    let (written, seen) = mpsc::unbounded_channel();
    let http = credentials.http(load.clients as usize)?;
    let clients = Arc::new(Clients::new(load.clone(), run.clone(), clock, http, endpoints, written));
    let tasks: Vec<_> = (0..load.clients).map(|client| tokio::spawn(clients.clone().client(client))).collect();

    let mut history = History::default();
    let mut rng = SmallRng::seed_from_u64(load.seed);
    let nemesis = Nemesis { shape, limit: *limit, clock, interrupt, filled: filled.as_ref(), slowness: 1.0 };
    let on_round = |round: u32, what: &str| progress.note(&words(&clients, clock, *limit, round, what));
    let broken = nemesis.run(target, &mut rng, &mut history.faults, on_round).await;
    let begun = history.faults.last().map_or(0, |fault| fault.round);
    let rounds = broken.as_ref().copied().unwrap_or(begun);

    progress.note("the clients finish");
    clients.stop();
    for task in tasks {
        task.await.context("failed to end a client")?;
    }
    let mut fill = None;
    let mut ended = match broken {
        Ok(_) => {
            progress.note("final reads and dumps");
            finish(target, &clients, run, &mut history, filled.as_ref()).await.map(|judged| fill = judged)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = target.restore().await {
        ended = Err(match ended.err() {
            Some(first) => first.context(format!("{error:#}")),
            None => error,
        });
    }
    let elapsed = Duration::from_micros(clock.now_us());
    history.operations = drain(clients, seen);
    progress.note(&format!("judging {} operations", history.operations.len()));
    let judged = tokio::task::spawn_blocking(move || (verdict::judge(&history), history));
    let (mut verdict, history) = judged.await.context("failed to judge")?;
    let fill = fill.map(|(fill, lost)| {
        verdict.violations.extend(lost);
        fill
    });
    // Around a violation they are evidence.
    if ended.is_ok() && verdict.violations.is_empty() {
        let mut keys: Vec<String> = history.by_key().into_keys().map(str::to_owned).collect();
        keys.extend(filled.iter().flat_map(|filled| filled.numbers().map(|number| filled.key(number))));
        ended = target.forget(&keys).await;
    }
    let settings = CheckSettings::new(options, elapsed, rounds);
    let description = target.description();
    let mut report = CheckReport::new(started_at, description, settings, &history, verdict);
    report.fill = fill;
    report.interrupted = interrupt.is_requested();
    report.failure = ended.err().map(|error| format!("{error:#}"));
    Ok((report, history))
}

/// Once all clients have ended: waits until every write has reached every node, then reads and dumps them.
async fn finish(
    target: &mut impl Breakable,
    clients: &Clients,
    run: &str,
    history: &mut History,
    filled: Option<&FilledKeys>,
) -> Result<Option<(FillReport, Vec<Violation>)>> {
    target.heal().await?;
    clients.final_reads().await;
    history.dumps = target.dumps().await?;
    // Others have keys there, too.
    history.dumps.iter_mut().for_each(|dump| dump.entries.retain(|key, _| key.starts_with(run)));
    let Some(filled) = filled else { return Ok(None) };
    let dumps = history.dumps.iter_mut().map(|dump| (dump.node.as_str(), &mut dump.entries));
    filled.judge(dumps).await.map(Some)
}

fn drain(clients: Arc<Clients>, mut seen: mpsc::UnboundedReceiver<Operation>) -> Vec<Operation> {
    drop(clients);
    let mut operations = Vec::with_capacity(seen.len());
    while let Ok(operation) = seen.try_recv() {
        operations.push(operation);
    }
    operations
}

fn words(clients: &Clients, clock: Clock, limit: Limit, round: u32, what: &str) -> String {
    let elapsed_s = clock.now_us() / 1_000_000;
    let progress = match limit {
        Limit::Time(limit) => format!("{elapsed_s} of {} s, round {round}", limit.as_secs()),
        Limit::Rounds(limit) => format!("{elapsed_s} s, round {round} of {limit}"),
    };
    let (operations, acknowledged) = (&clients.counters.operations, &clients.counters.acknowledged);
    let (operations, acknowledged) = (operations.load(Ordering::Relaxed), acknowledged.load(Ordering::Relaxed));
    format!("{progress}: {operations} operations, {acknowledged} writes acknowledged; {what}")
}

#[cfg(test)]
mod tests {
    use tokio::sync::watch;

    use super::*;
    use crate::check::{
        faults::{Fault, Place},
        history::FinalDump,
        target::Endpoints,
        testing::dump,
    };
    use crate::client::Credentials;

    /// A cluster that no client reaches; it remembers how it was left.
    #[derive(Default)]
    struct Unreachable {
        cannot_heal: bool,
        restored: bool,
        forgotten: Option<Vec<String>>,
    }

    impl Breakable for Unreachable {
        fn description(&self) -> String {
            "nothing".to_owned()
        }

        fn credentials(&self) -> Credentials {
            Credentials::default()
        }

        fn endpoints(&self) -> watch::Receiver<Endpoints> {
            watch::channel(Endpoints::default()).1
        }

        async fn strike(&mut self, _: Fault) -> Result<()> {
            Ok(())
        }

        async fn mend(&mut self, _: Fault) -> Result<()> {
            Ok(())
        }

        async fn heal(&mut self) -> Result<()> {
            if self.cannot_heal { anyhow::bail!("failed to heal") } else { Ok(()) }
        }

        async fn dumps(&mut self) -> Result<Vec<FinalDump>> {
            // Others wrote there before, and go on.
            Ok(vec![dump("leader", &[("old", "a", 4)]), dump("follower", &[("old", "a", 3), ("older", "b", 1)])])
        }

        async fn restore(&mut self) -> Result<()> {
            self.restored = true;
            Ok(())
        }

        async fn forget(&mut self, keys: &[String]) -> Result<()> {
            self.forgotten = Some(keys.to_vec());
            Ok(())
        }
    }

    async fn checked(cannot_heal: bool) -> (Unreachable, CheckReport) {
        let mut target = Unreachable { cannot_heal, ..Unreachable::default() };
        let shape = Shape::new(Place::Pod, 3, 2, true);
        let protocols = vec![crate::commands::Protocol::Http];
        let load = Load { clients: 2, keys: 2, rate: 100.0, protocols, timeout_ms: 100, seed: 5 };
        let options = CheckOptions {
            limit: Limit::Rounds(1),
            shape,
            load,
            fill: None,
            run: "check-1-".to_owned(),
            max_delay_ms: 0,
        };
        let (_request, interrupt) = Interrupt::manual();
        let report = run(&mut target, &options, &interrupt, &Progress::hidden()).await.expect("judged").0;
        (target, report)
    }

    #[tokio::test]
    async fn in_a_cluster_with_data_its_own_keys_alone_are_judged_and_taken_out() {
        let (target, report) = checked(false).await;
        assert_eq!((report.failure, report.verdict.violations), (None, Vec::new()));
        assert_eq!((target.restored, target.forgotten), (true, Some(vec!["check-1-k0".into(), "check-1-n1".into()])));
    }

    #[tokio::test]
    async fn what_was_changed_is_restored_after_a_failure_too_and_the_keys_stay() {
        let (target, report) = checked(true).await;
        assert_eq!(report.failure.as_deref(), Some("failed to heal"));
        assert_eq!((target.restored, target.forgotten), (true, None));
    }
}
