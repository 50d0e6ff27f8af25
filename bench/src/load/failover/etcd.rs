//! The same for etcd: the member that leads is killed, and clients know all members.

use std::{path::Path, time::Duration};

use anyhow::{Result, bail};
use rand::RngExt;
use tokio::{
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{ACKNOWLEDGED_AFTER, Failover, POLL_INTERVAL};
use crate::{
    client::Credentials,
    interrupt::Interrupt,
    load::{
        compare::Members,
        recovery::until,
        writers::{Servers, Writers},
    },
};

/// Starts five members and kills the one that leads so many times. Also returns what it is, with its version; `None` where
/// etcd is not installed.
///
/// # Errors
/// When a member ends by itself, or writes do not go on in time.
pub async fn measure(
    directory: &Path,
    (rounds, clients): (u64, usize),
    patience: Duration,
    interrupt: &Interrupt,
    report: impl Fn(&str, u64),
) -> Result<Option<(String, Failover)>> {
    report("starting etcd", 0);
    let started = block_in_place(|| Members::start(directory, &|| interrupt.is_requested()))?;
    let Some(mut members) = started else { return Ok(None) };
    let urls = members.addresses().iter().map(|address| format!("http://{address}")).collect();
    let writers = Writers::start(Servers::Etcd, urls, &Credentials::default(), clients)?;
    let mut gaps_ms = Vec::new();
    for round in 0..rounds {
        until_whole(&members, patience).await?;
        if interrupt.is_requested() {
            break;
        }
        report(&format!("etcd, round {} of {rounds}", round + 1), round);
        sleep(Duration::from_millis(rand::rng().random_range(200..400))).await;
        let Some(leader) = block_in_place(|| members.leader()) else { continue };
        writers.begin();
        members.kill(leader);
        gaps_ms.push(gap(&members, &writers, patience).await?.as_secs_f64() * 1e3);
        members.start_member(leader)?;
    }
    until_whole(&members, patience).await?;
    let (answers, last_writes) = writers.finish().await?;
    let lost = last_writes.lost_in_etcd(members.addresses()[0]).await?;
    Ok(Some((members.name(), Failover { gaps_ms, answers, lost })))
}

/// Waits until the next leader acknowledged [`ACKNOWLEDGED_AFTER`] writes. Returns the longest time without an
/// acknowledgement.
async fn gap(members: &Members, writers: &Writers, patience: Duration) -> Result<Duration> {
    let begun = Instant::now();
    let mut before_next = None;
    loop {
        if before_next.is_none() && block_in_place(|| members.leader()).is_some() {
            before_next = Some(writers.acknowledged());
        }
        if before_next.is_some_and(|before| writers.acknowledged() >= before + ACKNOWLEDGED_AFTER) {
            return Ok(writers.longest_gap());
        }
        if begun.elapsed() > patience {
            bail!("writes do not go on within {} s after etcd's leader was killed", patience.as_secs());
        }
        sleep(POLL_INTERVAL).await;
    }
}

async fn until_whole(members: &Members, patience: Duration) -> Result<()> {
    until("etcd's members do not agree on a leader", patience, async || {
        let whole = block_in_place(|| members.are_whole());
        (!whole).then(|| "not every member runs and knows one".to_owned())
    })
    .await
}
