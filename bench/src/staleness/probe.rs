//! The clients: each writes a key of its own, reads it at random followers at the times asked for, and writes again.

use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

use futures::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

use crate::{client::NodeClient, interrupt::Interrupt};

/// A quorum is given up after this many writes or reads without success.
pub const FAILURES_MAX: usize = 50;

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Workload {
    /// Writes in total, each followed by one read for each time.
    pub writes: usize,
    /// Clients, each with one write and its reads under way.
    pub concurrency: usize,
    /// Seed of the choice of followers.
    pub seed: u64,
}

/// One read after an acknowledged write.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The shortest and the longest time in ms that can have passed from the commit to the read.
    pub elapsed_ms: (f64, f64),
    /// Whether the read missed the write.
    pub is_stale: bool,
    /// Which share of the followers still waited for the delay that the leader drew for this write, after the longest and
    /// after the shortest of these times. Absent when the leader does not explain its delays.
    pub drawn: Option<(f64, f64)>,
}

/// All reads at one write quorum.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// For each time in the order asked for: the reads.
    pub observations: Vec<Vec<Observation>>,
    /// Writes that were acknowledged.
    pub acknowledged: usize,
    /// Writes that were not, after which nothing was read.
    pub failed_writes: usize,
    /// Reads without an answer.
    pub failed_reads: usize,
    /// What the first failure met.
    pub first_failure: Option<String>,
}

/// Where the clients write and read.
#[derive(Clone, Debug)]
pub struct Nodes {
    /// Takes the writes.
    pub leader: NodeClient,
    /// Answer the reads.
    pub followers: Vec<NodeClient>,
    /// After this long a request has failed.
    pub timeout: Duration,
}

/// Lets the clients write and read. The first write of each client opens connections and is not part of the result.
pub async fn run(
    nodes: &Nodes,
    workload: &Workload,
    times_ms: &[f64],
    write_quorum: u16,
    interrupt: &Interrupt,
    on_write: impl Fn(),
) -> Run {
    let begun = Cell::new(0);
    let run = RefCell::new(Run { observations: vec![Vec::new(); times_ms.len()], ..Run::default() });
    let clients = (0..workload.concurrency).map(|number| {
        let (begun, run, on_write) = (&begun, &run, &on_write);
        async move {
            let key = format!("stale{number}");
            let mut random = StdRng::seed_from_u64(workload.seed.wrapping_add((number as u64) << 32));
            let mut is_first = true;
            loop {
                let failures = run.borrow().failed_writes + run.borrow().failed_reads;
                let is_over = !is_first && begun.get() >= workload.writes;
                if is_over || interrupt.is_requested() || failures >= FAILURES_MAX {
                    return;
                }
                if !is_first {
                    begun.set(begun.get() + 1);
                }
                let followers: Vec<usize> =
                    times_ms.iter().map(|_| random.random_range(0..nodes.followers.len())).collect();
                let probed = write_and_read(nodes, &key, write_quorum, times_ms, &followers).await;
                if !is_first || !probed.is_sound() {
                    run.borrow_mut().add(probed);
                    on_write();
                }
                is_first = false;
            }
        }
    });
    join_all(clients).await;
    run.into_inner()
}

impl Run {
    fn add(&mut self, probed: Probed) {
        match probed {
            Probed::NotWritten(why) => {
                self.failed_writes += 1;
                self.first_failure.get_or_insert(why);
            }
            Probed::Read(reads) => {
                self.acknowledged += 1;
                for (observations, read) in self.observations.iter_mut().zip(reads) {
                    match read {
                        Ok(observation) => observations.push(observation),
                        Err(why) => {
                            self.failed_reads += 1;
                            self.first_failure.get_or_insert(why);
                        }
                    }
                }
            }
        }
    }
}

enum Probed {
    NotWritten(String),
    Read(Vec<Result<Observation, String>>),
}

impl Probed {
    fn is_sound(&self) -> bool {
        matches!(self, Self::Read(reads) if reads.iter().all(Result::is_ok))
    }
}

/// One write, and a read of its key at each time after its answer, at these followers.
async fn write_and_read(nodes: &Nodes, key: &str, write_quorum: u16, times_ms: &[f64], followers: &[usize]) -> Probed {
    let request = nodes.leader.put(key, "stale?", nodes.timeout);
    let sent = Instant::now();
    let answer = match request.send().await {
        Ok(response) => {
            let status = response.status();
            response.bytes().await.map(|body| (status, body))
        }
        Err(error) => Err(error),
    };
    let answered = Instant::now();
    let answer = match answer {
        Ok((StatusCode::OK, body)) => serde_json::from_slice::<Answer>(&body).map_err(|error| error.to_string()),
        Ok((status, body)) => Err(format!("HTTP {}: {}", status.as_u16(), String::from_utf8_lossy(&body))),
        Err(error) => Err(format!("{:#}", anyhow::Error::new(error))),
    };
    let written = match answer {
        Ok(Answer { explain: Some(Drawn { write_quorum: under, .. }), .. }) if under != write_quorum => {
            return Probed::NotWritten(format!("answered under write quorum {under} in place of {write_quorum}"));
        }
        Ok(Answer { seq, explain }) => Written { sent, answered, seq, drawn: explain.unwrap_or_default() },
        Err(why) => return Probed::NotWritten(why),
    };
    let reads = times_ms.iter().zip(followers).map(|(time_ms, follower)| {
        let (written, follower) = (&written, &nodes.followers[*follower]);
        async move {
            sleep_until(answered + Duration::from_secs_f64(time_ms / 1e3)).await;
            let begun = Instant::now();
            let seq = follower.seq(key, nodes.timeout).await.map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>(written.observed(begun, Instant::now(), seq))
        }
    });
    Probed::Read(join_all(reads).await)
}

#[derive(Deserialize)]
struct Answer {
    seq: u64,
    explain: Option<Drawn>,
}

/// The delays that the leader drew for a write.
#[derive(Clone, Debug, Default, Deserialize)]
struct Drawn {
    write_quorum: u16,
    quorum_delay_ms: f64,
    #[serde(default)]
    delays_ms: Vec<f64>,
}

/// An acknowledged write.
struct Written {
    sent: Instant,
    answered: Instant,
    seq: u64,
    drawn: Drawn,
}

impl Written {
    /// What a read says that found `seq` between these instants.
    fn observed(&self, begun: Instant, ended: Instant, seq: u64) -> Observation {
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        let Drawn { quorum_delay_ms, delays_ms, .. } = &self.drawn;
        let shortest_ms = milliseconds(begun.saturating_duration_since(self.answered));
        // At least as long, also where the leader's timer is a little early.
        let longest_ms = (milliseconds(ended - self.sent) - quorum_delay_ms).max(shortest_ms);
        let late_after = |elapsed_ms: f64| {
            let late = delays_ms.iter().filter(|delay_ms| **delay_ms > quorum_delay_ms + elapsed_ms);
            late.count() as f64 / delays_ms.len() as f64
        };
        Observation {
            elapsed_ms: (shortest_ms, longest_ms),
            is_stale: seq < self.seq,
            drawn: (!delays_ms.is_empty()).then(|| (late_after(longest_ms), late_after(shortest_ms))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sent at 0, answered at 33 ms after a quorum's delay of 30 ms, read from 43 to 45 ms: 10 to 15 ms after the commit.
    #[test]
    fn the_time_from_commit_to_read_is_bounded_from_both_sides() {
        let sent = Instant::now();
        let at = |ms| sent + Duration::from_millis(ms);
        let drawn = Drawn { write_quorum: 2, quorum_delay_ms: 30.0, delays_ms: vec![9.0, 30.0, 41.0, 47.0] };
        let written = Written { sent, answered: at(33), seq: 7, drawn: drawn.clone() };
        let read = written.observed(at(43), at(45), 6);
        assert!(read.is_stale && !written.observed(at(43), at(45), 7).is_stale);
        assert!(!written.observed(at(43), at(45), 8).is_stale, "newer than the write");
        assert!((read.elapsed_ms.0 - 10.0).abs() < 1e-9 && (read.elapsed_ms.1 - 15.0).abs() < 1e-9, "{read:?}");
        assert_eq!(read.drawn, Some((0.25, 0.5)), "after 45 and after 40 ms");

        let unexplained = Written { sent, answered: at(33), seq: 7, drawn: Drawn::default() };
        let read = unexplained.observed(at(43), at(45), 7);
        assert!((read.elapsed_ms.1 - 45.0).abs() < 1e-9, "the commit is only known to be after the request: {read:?}");
        assert_eq!(read.drawn, None);

        let early = Written { sent, answered: at(29), seq: 7, drawn };
        assert_eq!(early.observed(at(29), at(29), 7).elapsed_ms, (0.0, 0.0), "never a negative time");
    }
}
