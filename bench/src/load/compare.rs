//! kvcluster beside what users would pick instead: the same load for all of them, on one machine, in one run.
//!
//! All systems run side by side, and only one of them is under load at a time. Rounds go over every system at every number of
//! connections, and at every length of a pipeline where it takes pipelines, so that other work on the machine affects all
//! systems alike. A ratio is computed within its round, and the report has the median of the rounds.

mod etcd;
mod process;
mod readback;
mod redis;
mod report;
mod sync;
mod system;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use serde::Serialize;

pub(in crate::load) use self::etcd::Members;
pub use self::{
    process::{SUBCOMMAND, main as become_peer},
    readback::ReadBack,
    redis::{Family, Promise},
    report::{CompareReport, Pair, Point, Ratio, SystemReport, markdown, text},
    system::System,
};
use crate::load::{self, Distribution, LoadOptions, Observer, Pace, ReadFrom};

/// Replicas of each system besides the one that takes the writes; etcd has its five members.
pub const FOLLOWERS: u16 = 5;
/// How many of them must have a write.
pub const WRITE_QUORUM: u16 = 3;

/// A system of another maker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A master and its replicas that speak Redis' protocol.
    Redis {
        /// Whose program.
        family: Family,
        /// When a write counts.
        promise: Promise,
    },
    /// etcd, which always stores.
    Etcd,
}

impl Peer {
    /// All, in the order of the report.
    pub const ALL: [Self; 6] = [
        Self::Redis { family: Family::Redis, promise: Promise::Received },
        Self::Redis { family: Family::Valkey, promise: Promise::Received },
        Self::Redis { family: Family::Redis, promise: Promise::Synced },
        Self::Redis { family: Family::Valkey, promise: Promise::Synced },
        // Redis has WAITAOF from 7.2 on; Debian's is older.
        Self::Redis { family: Family::Valkey, promise: Promise::SyncedByWaitAof },
        Self::Etcd,
    ];

    /// What has to be installed for it.
    pub fn requirement(self) -> &'static str {
        match self {
            Self::Redis { family, .. } => family.program(),
            Self::Etcd => "etcd",
        }
    }

    /// Whether a write is on disk when it is answered.
    pub fn is_stored(self) -> bool {
        !matches!(self, Self::Redis { promise: Promise::Received, .. })
    }

    /// Whether it stores every write: it has no mode that keeps data in memory alone.
    pub fn always_stores(self) -> bool {
        self == Self::Etcd
    }

    /// Starts it; `None` where it is not installed.
    ///
    /// # Errors
    /// When it is installed and does not start, or `is_stopped` says that it is no longer needed.
    pub fn start(self, directory: &Path, is_stopped: &dyn Fn() -> bool) -> Result<Option<System>> {
        match self {
            Self::Redis { family, promise } => redis::start(family, promise, directory, is_stopped),
            Self::Etcd => etcd::start(directory, is_stopped),
        }
        .with_context(|| format!("failed to start {}", self.requirement()))
    }
}

/// One of the systems to compare, and how its writes are kept.
#[derive(Debug)]
pub struct Contender {
    /// Whose it is: kvcluster's own have no peer.
    pub peer: Option<Peer>,
    /// Whether a write is on disk when it is answered.
    pub is_stored: bool,
    /// Where it runs.
    pub system: System,
}

/// How many clients there are, and how many writes each of them sends together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    /// Connections, each with one pipeline under way.
    pub connections: usize,
    /// Writes of a pipeline; 1 without pipelines.
    pub pipeline: usize,
}

/// How to compare.
#[derive(Clone, Debug)]
pub struct CompareOptions {
    /// Clients and pipelines, in the order of measuring.
    pub places: Vec<Place>,
    /// How long each point is measured, and warmed up before.
    pub duration: Duration,
    /// Before each measurement.
    pub warmup: Duration,
    /// How often each point is measured.
    pub rounds: usize,
    /// Number of keys.
    pub keys: u64,
    /// Size of each value.
    pub value_size_bytes: usize,
    /// A directory on the disk of all systems.
    pub disk: PathBuf,
}

/// Puts all contenders under load in turn. An interruption ends it with what was measured until then.
///
/// # Errors
/// When a system cannot be put under load at all; it is named.
pub fn run(
    contenders: &[Contender],
    missing: Vec<String>,
    options: &CompareOptions,
    observer: &mut dyn Observer,
) -> Result<CompareReport> {
    let mut report = CompareReport::new(contenders, missing, options);
    // What each system acknowledged last, by key: every run writes a value of its own.
    let mut acknowledged = vec![BTreeMap::new(); contenders.len()];
    for round in 0..options.rounds {
        if observer.is_stopped() {
            report.interrupted = true;
            return Ok(report);
        }
        let syncs = sync::measure(&options.disk);
        report.add_syncs(&syncs.with_context(|| format!("failed to sync a file in {}", options.disk.display()))?);
        for (index, &place) in options.places.iter().enumerate() {
            let seed = (round * options.places.len() + index) as u64;
            let load_options = load_options(options, place, seed);
            for (number, contender) in contenders.iter().enumerate() {
                if place.pipeline > 1 && !contender.system.target.dialect.can_pipeline() {
                    continue;
                }
                if observer.is_stopped() {
                    report.interrupted = true;
                    return Ok(report);
                }
                let measured = load::run(&contender.system.target, &load_options, observer)
                    .with_context(|| format!("failed to put {} under load", contender.system.name));
                match measured {
                    Ok(measured) => {
                        report.add(number, index, &measured);
                        let value = load::value(options.value_size_bytes, seed);
                        acknowledged[number].extend(measured.acknowledged.iter().map(|key| (*key, value.clone())));
                    }
                    Err(_) if observer.is_stopped() => {}
                    Err(error) => return Err(error),
                }
            }
        }
    }
    for (number, contender) in contenders.iter().enumerate() {
        report.read_back(number, readback::read_back(&contender.system.target, &acknowledged[number]));
    }
    Ok(report)
}

fn load_options(options: &CompareOptions, place: Place, seed: u64) -> LoadOptions {
    LoadOptions {
        pace: Pace::Closed,
        connections: place.connections,
        pipeline: place.pipeline,
        reads: 0.0,
        read_from: ReadFrom::Leader,
        keys: options.keys,
        distribution: Distribution::Uniform,
        value_size_bytes: options.value_size_bytes,
        fill: false,
        explain: false,
        warmup: options.warmup,
        duration: options.duration,
        request_timeout: Duration::from_secs(15),
        threads: 1,
        seed,
    }
}
