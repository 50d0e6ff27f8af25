//! How fast: a closed or open loop of puts and gets against a cluster, and what it costs in processor time.
//!
//! A run flows through the modules in this order: [`LoadOptions`] say what to do, [`run`] opens the connections and starts
//! a thread or several; each `engine` asks `operations` (with `keys`) what to send and, in an open loop, `schedule` when;
//! `protocol` makes bytes of it and reads the answers; `recorder` keeps what came of it; [`LoadReport`] says what that
//! means, and [`export_all`] writes it down.

mod alarm;
pub mod compare;
mod cpu;
pub mod curves;
mod engine;
pub mod failover;
pub mod footprint;
mod keys;
mod link;
mod machine;
mod operations;
mod pipeline;
pub mod progress;
mod protocol;
mod recorder;
pub mod recovery;
mod report;
mod run;
mod schedule;
pub mod standby;
pub mod steady;
mod target;
mod writers;

use std::time::Duration;

use serde::Serialize;

pub use self::{
    cpu::ProcessorTime,
    keys::Distribution,
    protocol::RequestOutcome,
    report::{
        CpuReport, FillReport, FootprintReport, KindReport, Latencies, LoadReport, SecondReport, export_all, text,
    },
    run::{Observer, run},
    schedule::Arrivals,
    target::{Acknowledgement, Dialect, LoadTarget, Processes, WAIT_MS, raise_file_limit},
    writers::{ANSWER_TIMEOUT, Answers},
};
pub(crate) use self::{operations::value, report::align};

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Pace {
    /// Each client sends its next request once the last one was answered.
    Closed,
    /// Requests are due at a rate, whether or not earlier ones were answered.
    Open {
        /// Per second.
        rate: f64,
        /// How they follow each other.
        arrivals: Arrivals,
    },
}

/// Who answers reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ReadFrom {
    /// The leader, linearizable: a write quorum confirms that it still leads.
    Leader,
    /// The leader, without asking its followers.
    Local,
    /// The followers, each client one of them: perhaps stale.
    Followers,
}

impl std::fmt::Display for ReadFrom {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Leader => "the leader, linearizable",
            Self::Local => "the leader, local",
            Self::Followers => "the followers",
        })
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadOptions {
    /// When requests are sent.
    pub pace: Pace,
    /// Clients, each with one pipeline under way; of an open loop, the most pipelines under way.
    pub connections: usize,
    /// Operations that a client sends together and waits for together; 1 without pipelines.
    pub pipeline: usize,
    /// The part of the operations that are reads, 0 to 1; a pipeline has operations of one kind.
    pub reads: f64,
    /// Who answers them.
    pub read_from: ReadFrom,
    /// Number of keys.
    pub keys: u64,
    /// How often each is taken.
    pub distribution: Distribution,
    /// Size of each value.
    pub value_size_bytes: usize,
    /// Whether every key is written once before, as it always is before reads.
    pub fill: bool,
    /// Whether writes ask which delays were drawn, to report what they took beyond those.
    pub explain: bool,
    /// What comes before the measurement.
    #[serde(rename = "warmup_ms", serialize_with = "milliseconds")]
    pub warmup: Duration,
    /// The measurement.
    #[serde(rename = "duration_ms", serialize_with = "milliseconds")]
    pub duration: Duration,
    /// After so long without an answer a request is given up.
    #[serde(rename = "request_timeout_ms", serialize_with = "milliseconds")]
    pub request_timeout: Duration,
    /// Threads of the load.
    pub threads: usize,
    /// Makes keys, mix and arrivals repeatable.
    pub seed: u64,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}
