//! `kv-bench failover`: for how long writes stop when the leader is lost.

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Args;

use super::{
    EXIT_VIOLATION,
    size::{PairArguments, SizeArguments},
};
use crate::{
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    load::{
        ANSWER_TIMEOUT, Answers,
        failover::{self, Failover, FailoverOptions, Loss},
    },
    output::print,
    progress::Progress,
    stats::Summary,
};

/// The settings of a failover.
#[derive(Clone, Debug, Args)]
pub struct FailoverArguments {
    /// How often the leader is lost
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,

    /// How the leader is lost: kill -9, a pause that ends once another one leads, or POST /hand-over
    #[arg(long, value_enum, default_value = "kill")]
    loss: Loss,

    #[command(flatten)]
    pair: PairArguments,

    /// Further keys of 100 bytes that are written first
    #[arg(long, value_name = "N", default_value_t = 0)]
    fill: u64,

    /// Gives followers disks
    #[arg(long)]
    disk: bool,

    /// Then measures etcd, five members with disks: the member that leads is killed as often
    #[arg(long)]
    beside_etcd: bool,

    /// Directory of the nodes' data and logs; what the last run left there goes
    #[arg(long, value_name = "DIRECTORY", default_value = "out/failover")]
    out: PathBuf,
}

/// Runs it.
///
/// # Errors
/// When a node fails or no standby takes over.
pub(super) fn main(arguments: &FailoverArguments) -> Result<u8> {
    let FailoverArguments { rounds, loss, pair, fill, disk, beside_etcd, out } = arguments;
    let data = out.join("data");
    let cluster = pair.options(disk.then(|| data.clone()), out)?;
    super::remove_directory(&data)?;
    let options = FailoverOptions {
        rounds: *rounds,
        loss: *loss,
        clients: usize::from(pair.clients),
        fill: *fill,
        patience: Duration::from_secs(120),
    };
    let (measured, etcd, interrupted) = super::run(async {
        let interrupt = Interrupt::listen()?;
        let progress = Progress::on_stderr();
        let bar = progress.bar(*rounds);
        let report = |what: &str, done| {
            progress.note(what);
            bar.set_position(done);
        };
        let measured = failover::measure(cluster, options, &interrupt, report).await?;
        let etcd = if *beside_etcd && !interrupt.is_requested() {
            let FailoverOptions { rounds, clients, patience, .. } = options;
            let (found, data) = ((rounds, clients), data.join("etcd"));
            super::make_directory(&data)?;
            failover::etcd::measure(&data, found, patience, &interrupt, report).await?
        } else {
            None
        };
        bar.finish_and_clear();
        progress.finish();
        anyhow::Ok((measured, etcd, interrupt.is_requested()))
    })?;
    print(&text(&measured, arguments));
    match &etcd {
        Some((name, measured)) => print(&text_of_etcd(name, measured, pair.clients)),
        None if *beside_etcd && !interrupted => print("etcd is not installed: there is no such program in PATH\n"),
        None => {}
    }
    super::remove_directory(&data)?;
    let is_lost = |measured: &Failover| !measured.lost.is_empty();
    Ok(match (!is_lost(&measured) && !etcd.is_some_and(|(_, measured)| is_lost(&measured)), interrupted) {
        (false, _) => EXIT_VIOLATION,
        (true, true) => EXIT_INTERRUPTED,
        (true, false) => 0,
    })
}

fn text(measured: &Failover, arguments: &FailoverArguments) -> String {
    let FailoverArguments { loss, pair, fill, disk, .. } = arguments;
    let PairArguments { clients, size: SizeArguments { follower_count, quorum }, takeover_after_ms } = pair;
    let loss = match loss {
        Loss::Kill => "killed",
        Loss::Pause => "paused",
        Loss::HandOver => "asked to hand over",
    };
    let mut text = format!(
        "leader {loss} {} times; N = {follower_count}, W = {quorum}, {}, {fill} keys before, {clients} clients, \
         TAKEOVER_AFTER_MS={takeover_after_ms}\n",
        measured.gaps_ms.len(),
        if *disk { "on disk" } else { "in memory" }
    );
    text.push_str(&figures(measured));
    text
}

fn text_of_etcd(name: &str, measured: &Failover, clients: u16) -> String {
    let times = measured.gaps_ms.len();
    format!("\n{name}, on disk: leader killed {times} times; {clients} clients\n{}", figures(measured))
}

fn figures(Failover { gaps_ms, answers, lost }: &Failover) -> String {
    let gaps = Summary::of(gaps_ms).map(|Summary { p50_ms, p99_ms, max_ms, .. }| {
        format!("writes stop for    p50 {p50_ms:.0} ms, p99 {p99_ms:.0} ms, at most {max_ms:.0} ms\n")
    });
    format!("{}{}{}", gaps.unwrap_or_default(), what_clients_saw(*answers), what_is_lost(lost))
}

/// What clients that know every process that may lead saw.
pub(super) fn what_clients_saw(answers: Answers) -> String {
    let Answers { acknowledged, refused, redirected, indeterminate, unclear, unconnected, cut_off, late } = answers;
    let patience_ms = ANSWER_TIMEOUT.as_millis();
    format!(
        "requests           {acknowledged} acknowledged, {refused} refused by 503 with Retry-After, {redirected} redirected, \
         {indeterminate} of unknown outcome, {unclear} answered in another way\n                   {unconnected} \
         connections refused, {cut_off} ended before the answer, {late} requests without an answer within {patience_ms} ms\n"
    )
}

/// Whether every acknowledged write is there.
pub(super) fn what_is_lost(lost: &[String]) -> String {
    match lost {
        [] => "acknowledged writes: all are there\n".to_owned(),
        lost => lost.iter().map(|line| format!("LOST: {line}\n")).collect(),
    }
}
