//! What a standby costs: the same load without one and beside one, in turns, so that other work on the machine affects both.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use kvcluster_api::status::LeaderState;
use tokio::task::block_in_place;

use super::{
    Dialect, Distribution, LoadOptions, LoadTarget, Observer, Pace, Processes, ReadFrom, failover::settled,
    recovery::until, run,
};
use crate::{
    client::NodeClient,
    cluster::{LocalCluster, LocalClusterOptions},
    stats::Summary,
};

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub struct StandbyOptions {
    /// How often it is measured in each of the two ways.
    pub rounds: u64,
    /// Clients, each with one write under way.
    pub connections: usize,
    /// How long each measurement takes, and the time before that is not measured.
    pub duration: Duration,
    /// What comes before each measurement.
    pub warmup: Duration,
    /// Number of keys, all of which are written first.
    pub keys: u64,
    /// How long anything may take.
    pub patience: Duration,
}

/// Writes per second, by round.
#[derive(Clone, Debug, Default)]
pub struct StandbyCost {
    /// With one leader process.
    pub without: Vec<f64>,
    /// Beside a standby whose copy is complete.
    pub beside: Vec<f64>,
    /// Writes that failed.
    pub failures: u64,
}

impl StandbyCost {
    /// The throughput beside a standby as a part of that without, by round.
    pub fn ratios(&self) -> Vec<f64> {
        self.beside.iter().zip(&self.without).map(|(beside, without)| beside / without).collect()
    }

    /// For a terminal, ending in a line break.
    pub fn text(&self) -> String {
        let of = |values: &[f64]| Summary::of(values).map(|it| (it.p50_ms, it.min_ms, it.max_ms)).unwrap_or_default();
        let (without, beside, (ratio, least, most)) = (of(&self.without).0, of(&self.beside).0, of(&self.ratios()));
        format!(
            "writes/s           {without:.0} without a standby, {beside:.0} beside one (medians of {} rounds)\n\
             ratio              {ratio:.3} in the median, {least:.3} to {most:.3}\n\
             failed             {}\n",
            self.beside.len(),
            self.failures
        )
    }
}

/// Starts a cluster, and puts it under load without a standby and beside one, so many times.
///
/// # Errors
/// When a node fails, or cannot be put under load.
pub async fn measure(
    cluster: LocalClusterOptions,
    options: StandbyOptions,
    observer: &mut dyn Observer,
) -> Result<StandbyCost> {
    let StandbyOptions { rounds, keys, patience, .. } = options;
    let mut cluster = LocalCluster::start(LocalClusterOptions { start_timeout: patience, ..cluster }).await?;
    let mut cost = StandbyCost::default();
    for round in 0..rounds {
        // The first of a round may have it harder.
        for is_beside in if round % 2 == 0 { [false, true] } else { [true, false] } {
            if observer.is_stopped() {
                return Ok(cost);
            }
            cluster.kill_rivals()?;
            if is_beside {
                let (_, standby) = cluster.start_rival().await?;
                settled(&cluster, &standby, patience).await?;
                copied(&NodeClient::with(cluster.credentials(), &standby, 1)?, keys, round > 0, patience).await?;
            }
            let load = load(options, round, cost.without.is_empty() && cost.beside.is_empty());
            let report = block_in_place(|| run(&target(&cluster)?, &load, observer))?;
            cost.failures += report.failures();
            let per_second = report.puts.as_ref().context("the load wrote nothing")?.per_second;
            if is_beside { &mut cost.beside } else { &mut cost.without }.push(per_second);
        }
    }
    Ok(cost)
}

/// Waits until the copy of a standby is complete, where there is something to copy.
async fn copied(standby: &NodeClient, keys: u64, is_filled: bool, patience: Duration) -> Result<()> {
    let complete = format!("its copy of the state has {}", if is_filled { keys.to_string() } else { String::new() });
    until("the standby has no copy", patience, async || match standby.status().await {
        Ok(status) if status.state == LeaderState::Standby && status.message.contains(&complete) => None,
        Ok(status) => Some(status.message),
        Err(error) => Some(format!("{error:#}")),
    })
    .await
}

fn target(cluster: &LocalCluster) -> Result<LoadTarget> {
    let url = cluster.leader_url();
    let leader = url.trim_start_matches("http://").parse().with_context(|| format!("{url} has no address"))?;
    let [id, ..] = cluster.process_ids()[..] else { bail!("no node runs") };
    Ok(LoadTarget {
        description: "local processes".to_owned(),
        dialect: Dialect::Http,
        leader,
        followers: Vec::new(),
        processes: Processes { leader: Some(id), ..Processes::default() },
        token: cluster.credentials().client_token.clone(),
    })
}

fn load(options: StandbyOptions, round: u64, fill: bool) -> LoadOptions {
    let StandbyOptions { connections, duration, warmup, keys, .. } = options;
    LoadOptions {
        pace: Pace::Closed,
        connections,
        pipeline: 1,
        reads: 0.0,
        read_from: ReadFrom::Leader,
        keys,
        distribution: Distribution::Uniform,
        value_size_bytes: 64,
        fill,
        explain: false,
        warmup,
        duration,
        request_timeout: Duration::from_secs(15),
        threads: 1,
        seed: round,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_taken_within_each_round() {
        let cost = StandbyCost { without: vec![100.0, 200.0, 400.0], beside: vec![90.0, 190.0, 392.0], failures: 3 };
        assert_eq!(cost.ratios(), [0.9, 0.95, 0.98]);
        let text = cost.text();
        for words in ["200 without", "190 beside", "0.950 in the median, 0.900 to 0.980", "failed             3"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
