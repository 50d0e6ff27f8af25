//! One run: connections, every key once where reads need them, warm-up, measurement, and what came of it.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result, bail};
use rand::{SeedableRng, rngs::StdRng};

use super::{
    LoadOptions, LoadReport, Pace,
    cpu::ProcessorTime,
    engine::{Engine, Shared},
    machine::wake_ups,
    operations::Operations,
    pipeline::Client,
    protocol::RequestOutcome,
    recorder::{Recorder, Window},
    report::{CpuReport, FillReport, FootprintReport, Latencies, SecondReport, US_MS},
    schedule::Schedule,
    target::{LoadTarget, Processes},
};
use crate::load::footprint::Footprint;

/// How often the run is looked at while it goes on.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// Clients that write every key once.
const FILL_CONNECTIONS: usize = 64;
/// One that takes longer is an error.
const FILL_TIME_MAX: Duration = Duration::from_secs(3_600);

/// Looks at a run while it goes on.
pub trait Observer {
    /// Operations done and failed since it began; called a few times a second.
    fn progress(&mut self, stage: &str, elapsed: Duration, done: u64, failed: u64);

    /// Whether the run should end.
    fn is_stopped(&self) -> bool;
}

/// Puts `target` under the load that `options` describe. Blocks until the end.
///
/// # Errors
/// When no connection can be opened, or the system fails the load itself; requests that fail are part of the report.
pub fn run(target: &LoadTarget, options: &LoadOptions, observer: &mut dyn Observer) -> Result<LoadReport> {
    let started_at = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let empty = target.processes.footprint();
    let is_filled = options.fill || options.reads > 0.0;
    let fill = is_filled.then(|| fill(target, options, observer)).transpose()?;
    let clients = target.connect(options.connections, options.reads, options.read_from, options.explain)?;
    let window = Window {
        from_ns: nanoseconds(options.warmup),
        until_ns: nanoseconds(options.warmup) + nanoseconds(options.duration),
    };
    let shared = Shared::default();
    let begin = Instant::now();
    let engines = engines(clients, options, window, begin, &shared);
    let (recorder, used, late_us) = thread::scope(|scope| -> Result<_> {
        let machine = scope.spawn(|| wake_ups(begin, window, || shared.stop.load(Ordering::Relaxed)));
        let threads: Vec<_> = engines.into_iter().map(|engine| scope.spawn(move || engine.run())).collect();
        let used =
            watch(target, options, begin, &shared, observer, || threads.iter().all(|thread| thread.is_finished()));
        shared.stop.store(true, Ordering::Relaxed);
        let mut merged: Option<Recorder> = None;
        for thread in threads {
            let recorder = thread.join().map_err(|_| anyhow::anyhow!("failed to run a thread of the load"))??;
            match &mut merged {
                Some(merged) => merged.merge(recorder)?,
                None => merged = Some(recorder),
            }
        }
        let late_us = machine.join().map_err(|_| anyhow::anyhow!("failed to run a thread of the load"))??;
        Ok((merged.context("failed to run without a thread")?, used, late_us))
    })?;
    let measured = used.measured.min(options.duration);
    if measured.is_zero() {
        bail!("interrupted before anything was measured");
    }
    let operations = recorder.puts.done_within + recorder.gets.done_within;
    let (cpu, footprint) = (used.cpu(operations), FootprintReport::of(empty, &used.footprints));
    let mut report = LoadReport::new(started_at, target, options, measured, recorder, observer.is_stopped());
    // The first one is of the begin.
    SecondReport::note_footprints(&mut report.seconds, used.footprints.get(1..).unwrap_or_default());
    Ok(LoadReport { fill, cpu, footprint, machine: Latencies::of(&late_us, US_MS), ..report })
}

fn engines<'a>(
    clients: Vec<Client>,
    options: &LoadOptions,
    window: Window,
    begin: Instant,
    shared: &'a Shared,
) -> Vec<Engine<'a>> {
    let threads = options.threads.min(clients.len()).max(1);
    let mut shares: Vec<Vec<Client>> = (0..threads).map(|_| Vec::new()).collect();
    for (number, client) in clients.into_iter().enumerate() {
        shares[number % threads].push(client);
    }
    let engine = |(share, clients): (usize, Vec<Client>)| {
        let LoadOptions { pace, pipeline, reads, distribution, keys, value_size_bytes, seed, request_timeout, .. } =
            *options;
        let seed = seed.wrapping_add(share as u64);
        let schedule = match pace {
            Pace::Closed => None,
            Pace::Open { rate, arrivals } => {
                let mut random = StdRng::seed_from_u64(seed);
                // What is due is a pipeline.
                Some(Schedule::new(arrivals, rate / pipeline as f64, share, threads, &mut random))
            }
        };
        let operations = Operations::mix(reads, distribution, keys, value_size_bytes, seed);
        Engine { clients, operations, pipeline, schedule, keys, window, request_timeout, begin, shared }
    };
    shares.into_iter().enumerate().map(engine).collect()
}

/// Writes every key once, so that reads find something and memory has grown to what it takes.
fn fill(target: &LoadTarget, options: &LoadOptions, observer: &mut dyn Observer) -> Result<FillReport> {
    let LoadOptions { keys, pipeline, value_size_bytes, seed, request_timeout, .. } = *options;
    let connections = usize::try_from(keys).unwrap_or(usize::MAX).min(FILL_CONNECTIONS);
    let clients = target.connect(connections, 0.0, options.read_from, false)?;
    let shared = Shared::default();
    let begin = Instant::now();
    let window = Window { from_ns: 0, until_ns: nanoseconds(FILL_TIME_MAX) };
    let operations = Operations::each_once(keys, value_size_bytes, seed);
    let engine =
        Engine { clients, operations, pipeline, schedule: None, keys, window, request_timeout, begin, shared: &shared };
    let mut footprints = Vec::new();
    let recorder = thread::scope(|scope| {
        let thread = scope.spawn(move || engine.run());
        while !thread.is_finished() {
            thread::sleep(LOOK_INTERVAL);
            report_progress(observer, "writing every key once", begin, &shared);
            if begin.elapsed() >= Duration::from_secs(footprints.len() as u64 + 1) {
                footprints.push(target.processes.footprint());
            }
        }
        thread.join().map_err(|_| anyhow::anyhow!("failed to run a thread of the load"))?
    })?;
    let took = begin.elapsed();
    let done = recorder.puts.outcomes[RequestOutcome::Ok as usize];
    if done != keys && !observer.is_stopped() {
        let failure = recorder.first_failure.unwrap_or_else(|| "time is up".to_owned());
        bail!(
            "failed to write every key once before the measurement: {} of {keys} writes failed: {failure}",
            keys - done
        );
    }
    Ok(FillReport::new(took, &recorder, &footprints))
}

fn report_progress(observer: &mut dyn Observer, stage: &str, begin: Instant, shared: &Shared) {
    let (done, failed) = (shared.done.load(Ordering::Relaxed), shared.failed.load(Ordering::Relaxed));
    observer.progress(stage, begin.elapsed(), done, failed);
    if observer.is_stopped() {
        shared.stop.store(true, Ordering::Relaxed);
    }
}

/// Processor time of everyone at the edges of the window, and what the nodes occupied at its begin and after each second.
struct Used {
    before: Option<Usage>,
    after: Option<Usage>,
    measured: Duration,
    footprints: Vec<Footprint>,
}

#[derive(Clone, Copy, Debug)]
struct Usage {
    leader: Option<ProcessorTime>,
    followers: Option<ProcessorTime>,
    load: Option<ProcessorTime>,
}

impl Usage {
    fn now(processes: &Processes) -> Self {
        let Processes { leader, followers, .. } = processes;
        Self {
            leader: leader.and_then(ProcessorTime::of_process),
            followers: (!followers.is_empty()).then(|| ProcessorTime::of_processes(followers)).flatten(),
            load: ProcessorTime::of_this_process(),
        }
    }
}

impl Used {
    fn cpu(&self, operations: u64) -> Option<CpuReport> {
        let (before, after) = (self.before?, self.after?);
        let each = |of: fn(&Usage) -> Option<ProcessorTime>| of(&after)?.since(of(&before)?, operations);
        let load = each(|usage| usage.load)?;
        Some(CpuReport { leader: each(|usage| usage.leader), followers: each(|usage| usage.followers), load })
    }
}

/// Waits through the run; takes the processor times when the window begins and when it ends.
fn watch(
    target: &LoadTarget,
    options: &LoadOptions,
    begin: Instant,
    shared: &Shared,
    observer: &mut dyn Observer,
    is_finished: impl Fn() -> bool,
) -> Used {
    let (from, until) = (options.warmup, options.warmup + options.duration);
    let mut used = Used { before: None, after: None, measured: Duration::ZERO, footprints: Vec::new() };
    while !is_finished() {
        let elapsed = begin.elapsed();
        if used.before.is_none() && elapsed >= from {
            used.before = Some(Usage::now(&target.processes));
        }
        let next_look = from + Duration::from_secs(used.footprints.len() as u64);
        if used.after.is_none() && elapsed >= next_look {
            used.footprints.push(target.processes.footprint());
        }
        let is_over = elapsed >= until || shared.stop.load(Ordering::Relaxed);
        if used.after.is_none() && is_over && used.before.is_some() {
            used.after = Some(Usage::now(&target.processes));
            used.measured = elapsed.saturating_sub(from);
        }
        let stage = if used.before.is_none() {
            "warming up"
        } else if used.after.is_none() {
            "measuring"
        } else {
            "waiting for the last answers"
        };
        report_progress(observer, stage, begin, shared);
        let next_edge = if used.before.is_none() { from } else { until };
        let wait = next_edge.saturating_sub(begin.elapsed());
        thread::sleep(if wait.is_zero() { LOOK_INTERVAL } else { wait.min(LOOK_INTERVAL) });
    }
    if used.after.is_none() && used.before.is_some() {
        used.after = Some(Usage::now(&target.processes));
        used.measured = begin.elapsed().saturating_sub(from);
    }
    used
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
