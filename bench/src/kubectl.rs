//! `kubectl kv`: commands for those who operate KvClusters. kubectl runs the program `kubectl-kv` where it is on the PATH.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::json;

use self::{logs::LogsArguments, target::Target};
use crate::{
    cli,
    kvctl::backup,
    output::{exit_code, print, run},
};

mod logs;
mod overview;
mod target;

/// Operates KvClusters: what they do, their quorum and their logs; backup and restore; a leader that hands over; pause and
/// hibernation
#[derive(Debug, Parser)]
#[command(name = "kubectl-kv", bin_name = "kubectl kv", version, arg_required_else_help = true, after_help = AFTER_HELP)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// Namespace of the KvCluster [default: that of the kubeconfig's context]
    #[arg(long, short, global = true, value_name = "NAMESPACE")]
    namespace: Option<String>,

    /// Context of the kubeconfig [default: the current one]
    #[arg(long, global = true, value_name = "CONTEXT")]
    context: Option<String>,

    /// For how long to wait until what was asked for is in force, in s
    #[arg(long, global = true, default_value_t = 180, value_name = "SECONDS")]
    timeout_s: u64,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print what a KvCluster does, which failures it survives, its conditions and its pods
    Status(Named),
    /// Print the write quorum in force, or change it and wait until it is
    ///
    /// With W of N followers, writes go on while N - W followers are down, and no acknowledged write is lost while W - 1
    /// volumes are. No pod restarts.
    Quorum {
        #[command(flatten)]
        cluster: Named,
        /// The new write quorum
        #[arg(value_name = "W", value_parser = clap::value_parser!(u16).range(1..))]
        quorum: Option<u16>,
    },
    /// Print the logs of all nodes, each line after the name of its pod
    Logs(LogsArguments),
    /// Write everything that a KvCluster has into a file, as it is at one moment
    Backup {
        #[command(flatten)]
        cluster: Named,
        /// The file; one that is there is replaced once the new one is complete
        #[arg(long, value_name = "FILE", required_unless_present = "now")]
        to: Option<PathBuf>,
        /// Make one where spec.backup says, and wait until it was verified
        #[arg(long, conflicts_with = "to")]
        now: bool,
    },
    /// Put a backup into an empty KvCluster
    ///
    /// Until it is complete the cluster serves no client. The same command continues a restore that was interrupted.
    Restore {
        #[command(flatten)]
        cluster: Named,
        /// The file. A restore of it that was interrupted goes on
        #[arg(long, value_name = "FILE", required_unless_present = "give_up")]
        from: Option<PathBuf>,
        /// Also where there are keys: those of the backup replace them, others stay
        #[arg(long)]
        overwrite: bool,
        /// Give up a restore that was interrupted: the cluster serves again, with what it has of the backup
        #[arg(long, conflicts_with_all = ["from", "overwrite"])]
        give_up: bool,
    },
    /// Measure the write latency at each quorum of a KvCluster, beside theory
    ///
    /// As kv-bench sweep --kube NAME, whose options may follow. The quorum is restored at the end.
    Sweep(BenchArguments),
    /// Break a KvCluster that no one else needs, and say whether what clients saw was linearizable
    ///
    /// As kv-bench check --kube NAME, whose options may follow. It deletes pods.
    Check(BenchArguments),
    /// Have the leader hand over to a standby, and wait until that one leads
    ///
    /// It needs leader.standbys. Writes stop for a moment, and no acknowledged one is lost.
    Promote(Named),
    /// Keep the operator from changing anything
    Pause(Named),
    /// End a pause
    Resume(Named),
    /// End all pods and keep the volumes with their data
    Hibernate(Named),
    /// Start the pods of a hibernated KvCluster again
    Wake(Named),
    /// Print the completions of kubectl-kv for a shell
    ///
    /// For bash: source <(kubectl-kv completions bash)
    Completions {
        /// The shell
        shell: Shell,
    },
}

const AFTER_HELP: &str = "Examples:
  kubectl kv status demo                      what it does, and what it waits for
  kubectl kv quorum demo 3                    a write is acknowledged once 3 followers have it
  kubectl kv logs demo --follow               all nodes, also those that start later
  kubectl kv backup demo --to demo.backup
  kubectl kv backup demo --now                where spec.backup says, as its schedule does
  kubectl kv hibernate demo -n shop           no pods; kubectl kv wake demo -n shop starts them again

Exit codes: 0 done; 1 failed, with the reason; 2 wrong usage; sweep and check also 3, as kv-bench.";

/// Which KvCluster.
#[derive(Clone, Debug, Args)]
struct Named {
    /// The KvCluster
    #[arg(value_name = "NAME")]
    name: String,
}

/// A command of kv-bench.
#[derive(Clone, Debug, Args)]
struct BenchArguments {
    #[command(flatten)]
    cluster: Named,
    /// Options of kv-bench, which has a --help of its own
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

impl BenchArguments {
    /// The command line of kv-bench.
    fn words(&self, command: &str, namespace: Option<&str>) -> Vec<String> {
        let namespace = namespace.into_iter().flat_map(|namespace| ["--namespace", namespace]);
        let words = ["kv-bench", command, "--kube", &self.cluster.name].into_iter().chain(namespace);
        words.map(str::to_owned).chain(self.options.iter().cloned()).collect()
    }
}

/// The program: reads the command line and runs what it asks for.
pub fn main() -> ExitCode {
    exit_code(run(carry_out(Arguments::parse())))
}

/// Runs a command line, whose first word is the name of the program.
///
/// # Errors
/// When the command line is wrong, or what it asks for fails.
pub async fn execute(words: &[&str]) -> Result<()> {
    carry_out(Arguments::try_parse_from(words)?).await.map(drop)
}

async fn carry_out(arguments: Arguments) -> Result<u8> {
    let Arguments { command, namespace, context, timeout_s } = arguments;
    let patience = Duration::from_secs(timeout_s);
    let open = async |name: &str| Target::open(name, namespace.as_deref(), context.as_deref(), patience).await;
    let bench = async |command: &str, arguments: BenchArguments| {
        if context.is_some() {
            bail!("{command} takes the current context of the kubeconfig: choose it with kubectl config use-context");
        }
        let words = arguments.words(command, namespace.as_deref());
        // It has a runtime of its own.
        tokio::task::spawn_blocking(move || cli::sweep_or_check(&words)).await?
    };
    let done = match command {
        Command::Sweep(arguments) => return bench("sweep", arguments).await,
        Command::Check(arguments) => return bench("check", arguments).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Arguments::command(), "kubectl-kv", &mut std::io::stdout());
            String::new()
        }
        Command::Status(Named { name }) => {
            let target = open(&name).await?;
            overview::render(&target.get().await?, &target.pods().await?)
        }
        Command::Quorum { cluster: Named { name }, quorum } => match quorum {
            None => overview::quorum(&open(&name).await?.get().await?),
            Some(quorum) => open(&name).await?.set_quorum(quorum).await?,
        },
        Command::Logs(arguments) => {
            logs::print_all(&open(&arguments.name).await?, &arguments).await?;
            String::new()
        }
        Command::Backup { cluster: Named { name }, to, now: _ } => match to {
            Some(to) => {
                let leader = open(&name).await?.leader().await?;
                let keys = backup::save(&leader.client, &to).await?;
                format!("{keys} keys in {}\n", to.display())
            }
            None => open(&name).await?.backup_now().await?,
        },
        Command::Restore { cluster: Named { name }, from, overwrite, give_up: _ } => {
            let leader = open(&name).await?.leader().await?;
            match from {
                Some(from) => {
                    let source = backup::Source::File(from);
                    let keys = backup::restore(&leader.client, &source, None, overwrite, patience).await?;
                    format!("{keys} keys of {source} restored\n")
                }
                None => {
                    backup::give_up(&leader.client, patience).await?;
                    "no restore is under way\n".to_owned()
                }
            }
        }
        Command::Promote(Named { name }) => open(&name).await?.promote().await?,
        Command::Pause(Named { name }) => open(&name).await?.set(json!({"paused": true}), "Paused", "True").await?,
        Command::Resume(Named { name }) => open(&name).await?.set(json!({"paused": false}), "Paused", "False").await?,
        Command::Hibernate(Named { name }) => {
            open(&name).await?.set(json!({"hibernated": true}), "Hibernated", "True").await?
        }
        Command::Wake(Named { name }) => open(&name).await?.set(json!({"hibernated": false}), "Ready", "True").await?,
    };
    print(&done);
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_command_of_kv_bench_gets_the_cluster_and_the_options_behind_it() {
        let parsed = Arguments::try_parse_from(["kubectl-kv", "-n", "shop", "sweep", "demo", "--writes", "40"]);
        let Arguments { command: Command::Sweep(arguments), namespace, .. } = parsed.expect("a command line") else {
            panic!("it is a sweep");
        };
        let words = arguments.words("sweep", namespace.as_deref());
        assert_eq!(words.join(" "), "kv-bench sweep --kube demo --namespace shop --writes 40");
        let refused = cli::sweep_or_check(&["kv-bench", "load"].map(str::to_owned)).expect_err("neither");
        assert_eq!(refused.to_string(), "kv-bench load is neither sweep nor check");
    }

    #[test]
    fn completions_name_every_command() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Arguments::command(), "kubectl-kv", &mut script);
        let script = String::from_utf8(script).expect("text");
        for command in Arguments::command().get_subcommands() {
            assert!(script.contains(command.get_name()), "{}", command.get_name());
        }
    }
}
