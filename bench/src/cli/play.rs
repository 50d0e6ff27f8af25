//! `kv-bench play`: a local cluster, the address of its page, and commands that break it.

use std::{
    io::BufRead,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result};
use clap::Args;
use tokio::sync::mpsc;

use crate::{
    cluster::{LocalCluster, LocalClusterOptions},
    interrupt::{EXIT_INTERRUPTED, Interrupt},
    output::print,
};

/// Commands that wait. Further lines of standard input are read once there is room.
const COMMANDS_MAX: usize = 16;

/// The settings of a cluster to play with.
#[derive(Clone, Debug, Args)]
pub struct PlayArguments {
    /// Followers to start
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=60))]
    follower_count: u16,

    /// Followers that confirm a write
    #[arg(long, alias = "quorum", value_name = "W", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    write_quorum: u16,

    /// Longest delay before a write is sent to a follower, in ms
    #[arg(long, value_name = "MS", default_value_t = 200)]
    max_delay_ms: u32,

    /// Only prints the address of the page
    #[arg(long)]
    no_browser: bool,

    /// Directory of the nodes' data and logs; what the last run left there goes
    #[arg(long, value_name = "DIRECTORY", default_value = "out/play")]
    out: PathBuf,
}

/// Runs it until `quit`, the end of standard input, or an interrupt.
///
/// # Errors
/// When the cluster does not start.
pub(super) fn main(arguments: &PlayArguments) -> Result<u8> {
    let PlayArguments { follower_count, write_quorum, max_delay_ms, no_browser, out } = arguments;
    super::require_possible(*write_quorum, *follower_count)?;
    let data = out.join("data");
    super::remove_directory(&data)?;
    let program = std::env::current_exe().context("failed to find this program's own file")?;
    let options = LocalClusterOptions {
        followers: *follower_count,
        write_quorum: *write_quorum,
        max_delay_ms: *max_delay_ms,
        data_directory: Some(data.clone()),
        ..LocalClusterOptions::new(program, out.join("logs"))
    };
    let interrupted = super::run(async {
        let interrupt = Interrupt::listen()?;
        let mut cluster = LocalCluster::start(options).await?;
        let url = cluster.leader_url();
        print(&format!("page: {url}/\n{}", help(cluster.follower_urls().len())));
        if !no_browser {
            open_browser(&url);
        }
        let mut lines = lines_of_standard_input();
        loop {
            print("> ");
            let line = tokio::select! {
                line = lines.recv() => line,
                () = interrupt.requested() => return Ok(true),
            };
            match line.as_deref().map(|line| parse(line, cluster.follower_urls().len())) {
                None | Some(Ok(Asked::Quit)) => return Ok(false),
                Some(Ok(Asked::Nothing)) => {}
                Some(Ok(Asked::Help)) => print(&help(cluster.follower_urls().len())),
                Some(Ok(Asked::Do(action, node))) => print(&match act(&mut cluster, action, node).await {
                    Ok(()) => format!("{} {}\n", node.name(), action.done()),
                    Err(error) => format!("{error:#}\n"),
                }),
                Some(Err(message)) => print(&format!("{message}\n")),
            }
        }
    })?;
    super::remove_directory(&data)?;
    Ok(if interrupted { EXIT_INTERRUPTED } else { 0 })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Pause,
    Resume,
    Kill,
    Start,
}

impl Action {
    fn done(self) -> &'static str {
        match self {
            Self::Pause => "is paused",
            Self::Resume => "goes on",
            Self::Kill => "is killed",
            Self::Start => "is started",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Leader,
    /// From 0.
    Follower(usize),
}

impl Node {
    fn name(self) -> String {
        match self {
            Self::Leader => "the leader".to_owned(),
            Self::Follower(index) => format!("follower {}", index + 1),
        }
    }
}

/// What a line asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Do(Action, Node),
    Help,
    Nothing,
    Quit,
}

fn help(followers: usize) -> String {
    format!(
        "commands: kill NODE, start NODE, pause NODE, resume NODE, help, quit; NODE is leader, or a follower from 1 to \
         {followers}\n"
    )
}

fn parse(line: &str, followers: usize) -> Result<Asked, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (action, node) = match words[..] {
        [] => return Ok(Asked::Nothing),
        ["help"] => return Ok(Asked::Help),
        ["quit" | "exit"] => return Ok(Asked::Quit),
        [action, node] => (action, node),
        _ => return Err(format!("unknown command {:?}: help lists them", line.trim())),
    };
    let action = match action {
        "pause" => Action::Pause,
        "resume" => Action::Resume,
        "kill" => Action::Kill,
        "start" => Action::Start,
        _ => return Err(format!("unknown command {action:?}: help lists them")),
    };
    let number = node.strip_prefix("follower").unwrap_or(node).parse().ok();
    match number {
        _ if node == "leader" => Ok(Asked::Do(action, Node::Leader)),
        Some(number) if (1..=followers).contains(&number) => Ok(Asked::Do(action, Node::Follower(number - 1))),
        _ => Err(format!("there is no node {node:?}: it is leader, or a follower from 1 to {followers}")),
    }
}

async fn act(cluster: &mut LocalCluster, action: Action, node: Node) -> Result<()> {
    match (action, node) {
        (Action::Pause, Node::Leader) => cluster.pause_leader(),
        (Action::Resume, Node::Leader) => cluster.resume_leader(),
        (Action::Kill, Node::Leader) => cluster.kill_leader(),
        (Action::Start, Node::Leader) => cluster.start_leader().await,
        (Action::Pause, Node::Follower(index)) => cluster.pause_follower(index),
        (Action::Resume, Node::Follower(index)) => cluster.resume_follower(index),
        (Action::Kill, Node::Follower(index)) => cluster.kill_follower(index),
        (Action::Start, Node::Follower(index)) => cluster.start_follower(index).await,
    }
}

/// The lines, until the end of standard input. A thread reads them: a read of a terminal cannot be cancelled.
fn lines_of_standard_input() -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(COMMANDS_MAX);
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Opens the page in a browser, where there is a desktop. The address is printed in any case.
fn open_browser(url: &str) {
    let opener = if cfg!(target_os = "macos") {
        "open"
    } else if ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some()) {
        "xdg-open"
    } else {
        return;
    };
    let (stdin, stdout, stderr) = (Stdio::null(), Stdio::null(), Stdio::null());
    if let Ok(mut opening) = Command::new(opener).arg(url).stdin(stdin).stdout(stdout).stderr(stderr).spawn() {
        thread::spawn(move || opening.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_an_action_and_a_node() {
        for (line, asked) in [
            ("kill 2", Asked::Do(Action::Kill, Node::Follower(1))),
            (" pause  follower5 ", Asked::Do(Action::Pause, Node::Follower(4))),
            ("start leader", Asked::Do(Action::Start, Node::Leader)),
            ("", Asked::Nothing),
            ("quit", Asked::Quit),
            ("help", Asked::Help),
        ] {
            assert_eq!(parse(line, 5), Ok(asked), "{line}");
        }
        for (line, message) in [
            ("kill 6", "there is no node \"6\": it is leader, or a follower from 1 to 5"),
            ("kill 0", "there is no node \"0\""),
            ("kill me", "there is no node \"me\""),
            ("stop 1", "unknown command \"stop\": help lists them"),
            ("kill", "unknown command \"kill\""),
        ] {
            let error = parse(line, 5).expect_err(line);
            assert!(error.starts_with(message), "{error}");
        }
    }
}
