//! The command line: its subcommands, their settings, their exit codes.

mod advise;
mod check;
mod cluster;
mod compare;
mod curves;
mod failover;
mod load;
mod play;
mod recover;
mod report;
mod size;
mod staleness;
mod standby;
mod steady;
mod sweep;
mod top;

use std::{fs, io::ErrorKind, path::Path, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

pub use self::{
    advise::AdviseArguments, check::CheckArguments, compare::CompareArguments, curves::CurvesArguments,
    failover::FailoverArguments, load::LoadArguments, play::PlayArguments, recover::RecoverArguments,
    report::ReportArguments, staleness::StalenessArguments, standby::StandbyArguments, steady::SteadyArguments,
    sweep::SweepArguments, top::TopArguments,
};
use crate::{
    node_command,
    output::{EXIT_FAILED, WrongUsage, exit_code, print, run},
};

/// The measured means are too far from theory for `--max-deviation-ms`.
pub const EXIT_DEVIATES: u8 = 3;
/// What clients saw breaks the contract.
pub const EXIT_VIOLATION: u8 = 3;

/// Explains what a write quorum costs and buys: measures it, beside theory, and checks that nothing is lost
#[derive(Debug, Parser)]
#[command(name = "kv-bench", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure the write latency at each quorum, beside theory
    ///
    /// Starts a leader and five followers as processes on this machine, changes the write quorum of the running cluster
    /// from 1 to 5, measures each write, compares it with theory and with the delays that were drawn for it, checks
    /// that the replicas agree, and writes table, plot and data.
    #[command(after_help = sweep::AFTER_HELP)]
    Sweep(Box<SweepArguments>),
    /// Measure how often a read at a follower misses an acknowledged write, beside theory
    ///
    /// Starts a leader and five followers as processes on this machine. At each write quorum clients write, and read what they
    /// wrote at a random follower at twenty times after the acknowledgement. Sets the shares of stale reads beside theory, and
    /// writes tables, plot and data.
    #[command(after_help = staleness::AFTER_HELP)]
    Staleness(Box<StalenessArguments>),
    /// Say which write quorums meet targets, and what each costs, by theory alone
    ///
    /// Computes latency, stale reads and what may be lost at each write quorum from the law of the delays, or from delays that
    /// were measured, and names the quorums that meet the targets. Starts nothing.
    #[command(after_help = advise::AFTER_HELP)]
    Advise(Box<AdviseArguments>),
    /// Write one page and one text of the results in a directory: what was measured on what, and how to repeat it
    #[command(after_help = report::AFTER_HELP)]
    Report(ReportArguments),
    /// Start a cluster, show its page in the browser, and break it by commands
    ///
    /// Starts a leader and five followers with disks as processes on this machine, prints the address of the leader's page and
    /// opens it where there is a desktop. Commands on standard input kill, pause and start nodes, until quit.
    Play(PlayArguments),
    /// Follow a cluster live in the terminal: quorum, delays, latency beside theory, and the state of each follower
    ///
    /// Shows what the leader's page shows in a browser, of a cluster that runs already: http://localhost:8000 unless another one
    /// is named. Changes nothing.
    #[command(after_help = top::AFTER_HELP)]
    Top(Box<TopArguments>),
    /// Break a cluster, and say whether what its clients saw was linearizable
    ///
    /// Starts a leader and five followers as processes on this machine. While clients write and read, kills and pauses
    /// nodes, empties disks within what the write quorum allows, cuts the leader off, lets two leaders compete and changes the
    /// quorum; or, with --kube, deletes the pods of a KvCluster and changes its quorum and its number of followers. Then judges
    /// every answer that the clients received, and shows the history around a violation.
    #[command(after_help = check::AFTER_HELP)]
    Check(Box<CheckArguments>),
    /// Measure throughput, latency and processor time under a closed or an open loop of puts and gets
    ///
    /// Starts a leader and five followers as processes on this machine, or takes a cluster that runs, and puts it under load.
    #[command(after_help = load::AFTER_HELP)]
    Load(Box<LoadArguments>),
    /// Compare kvcluster with Redis and etcd, where they are installed, under the same load in one run
    ///
    /// Starts each as one leader and its followers on this machine, with and without a disk, and prints the ratios of writes per
    /// second and latencies at several numbers of connections. Takes about two and a half minutes.
    #[command(after_help = compare::AFTER_HELP)]
    Compare(Box<CompareArguments>),
    /// Plot throughput, processor time and latency against followers, connections and value size, and for each kind of read
    ///
    /// Starts clusters on this machine and puts them under a closed loop, some seconds for each value of a setting. Takes about
    /// three minutes.
    #[command(after_help = curves::AFTER_HELP)]
    Curves(Box<CurvesArguments>),
    /// Become the program of a peer, until the parent ends
    #[command(hide = true)]
    Peer,
    /// A command of kvctl now
    #[command(hide = true, disable_help_flag = true)]
    Backup(MovedArguments),
    /// A command of kvctl now
    #[command(hide = true, disable_help_flag = true)]
    Restore(MovedArguments),
    /// Measure how long a cluster with many keys needs to be itself again
    ///
    /// Starts a leader and followers with disks on this machine, writes many keys, then restarts the leader, empties a
    /// follower, kills everything at once, and overwrites keys at random, while it looks at time, memory and disk.
    Recover(Box<RecoverArguments>),
    /// Measure for how long writes stop when the leader is lost and its standby takes over
    ///
    /// Starts two leader processes and their followers on this machine. While clients write, kills the process that leads, pauses
    /// it, or asks it to hand over, again and again. Then reads every acknowledged write; exits with 3 where one is missing.
    Failover(Box<FailoverArguments>),
    /// Measure what a standby costs: throughput without one and beside one, in turns
    ///
    /// Starts one leader process and its followers on this machine. Each round puts the leader under load alone, and while a second
    /// leader process copies its state, and the ratio is taken within the round.
    Standby(Box<StandbyArguments>),
    /// Disturb a cluster that has a standby, and count how often the standby took over: it must never
    ///
    /// Starts two leader processes and their followers, with disks, on this machine. While clients write, pauses nodes for a short
    /// time, restarts followers, and takes processors and the disk. A leader that works must lead on.
    #[command(after_help = steady::AFTER_HELP)]
    Steady(Box<SteadyArguments>),
    /// Run a node with the settings of the environment, until standard input ends
    #[command(hide = true)]
    Node,
}

/// The program: reads the command line and runs what it asks for.
pub fn main() -> ExitCode {
    // A node takes its settings in its own way and knows nothing of this command line.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == node_command::SUBCOMMAND) {
        return node_command::main();
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == crate::load::compare::SUBCOMMAND) {
        return crate::load::compare::become_peer();
    }
    match Arguments::parse().command {
        Command::Sweep(arguments) => exit_code(sweep::main(&arguments)),
        Command::Staleness(arguments) => exit_code(staleness::main(&arguments)),
        Command::Advise(arguments) => exit_code(advise::main(&arguments)),
        Command::Report(arguments) => exit_code(report::main(&arguments)),
        Command::Top(arguments) => exit_code(top::main(&arguments)),
        Command::Play(arguments) => exit_code(play::main(&arguments)),
        Command::Check(arguments) => exit_code(check::main(&arguments)),
        Command::Load(arguments) => exit_code(load::main(&arguments)),
        Command::Compare(arguments) => exit_code(compare::main(&arguments)),
        Command::Curves(arguments) => exit_code(curves::main(&arguments)),
        Command::Peer => crate::load::compare::become_peer(),
        Command::Backup(arguments) => exit_code(arguments.refuse("backup")),
        Command::Restore(arguments) => exit_code(arguments.refuse("restore")),
        Command::Recover(arguments) => exit_code(recover::main(&arguments)),
        Command::Failover(arguments) => exit_code(failover::main(&arguments)),
        Command::Standby(arguments) => exit_code(standby::main(&arguments)),
        Command::Steady(arguments) => exit_code(steady::main(&arguments)),
        Command::Node => node_command::main(),
    }
}

/// Runs `sweep` or `check` as the program does with these words, the first of which is its name.
///
/// # Errors
/// When the words are wrong, or what they ask for fails.
pub fn sweep_or_check(words: &[String]) -> Result<u8> {
    let arguments = match Arguments::try_parse_from(words) {
        Ok(arguments) => arguments,
        Err(help) if !help.use_stderr() => {
            print(&help.to_string());
            return Ok(0);
        }
        Err(error) => return Err(WrongUsage::error(error.to_string().trim_start_matches("error: "))),
    };
    match arguments.command {
        Command::Sweep(arguments) => sweep::main(&arguments),
        Command::Check(arguments) => check::main(&arguments),
        _ => Err(WrongUsage::error(format!("{} is neither sweep nor check", words.join(" ")))),
    }
}

/// The arguments of a command that moved to kvctl.
#[derive(Clone, Debug, clap::Args)]
struct MovedArguments {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

impl MovedArguments {
    /// Names the new command.
    fn refuse(&self, command: &str) -> Result<u8> {
        let line =
            self.arguments.iter().fold(format!("kvctl {command}"), |line, argument| format!("{line} {argument}"));
        Err(WrongUsage::error(format!("{command} is a command of kvctl now: {line}")))
    }
}

/// # Errors
/// When no write could reach this quorum.
fn require_possible(quorum: u16, followers: u16) -> Result<()> {
    if quorum > followers {
        return Err(WrongUsage::error(format!("write quorum {quorum} is not possible with {followers} followers")));
    }
    Ok(())
}

/// Removes a directory with all that is in it, if it is there.
fn remove_directory(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes a directory for results, where it is not there.
fn make_directory(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("failed to create {}", path.display()))
}

#[cfg(test)]
/// The settings of a subcommand, as this line gives them.
pub(crate) fn parse<A: clap::Args>(line: &str) -> Result<A, String> {
    let words = std::iter::once("kv-bench").chain(line.split_whitespace());
    let matches = A::augment_args(clap::Command::new("kv-bench")).try_get_matches_from(words);
    matches.and_then(|matches| A::from_arg_matches(&matches)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::interrupt::EXIT_INTERRUPTED;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn exit_codes_differ() {
        let codes = std::collections::BTreeSet::from([0, EXIT_FAILED, 2, EXIT_DEVIATES, EXIT_INTERRUPTED]);
        assert_eq!(codes.len(), 5);
    }
}
