//! One node as a child process: started, killed, paused, with its log in a file.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::{Program, wires::Wires};
use crate::node_command;

/// How much of a log is shown when its node fails.
const LOG_TAIL_BYTES: u64 = 2_000;

/// What the nodes keep of this process's environment; everything else could be somebody's node settings.
const ENVIRONMENT_KEPT: [&str; 6] = ["PATH", "HOME", "TMPDIR", "RUST_BACKTRACE", "LOG_LEVEL", "LLVM_PROFILE_FILE"];

/// How to start one node, again and again with the same settings.
#[derive(Clone, Debug)]
pub(super) struct NodeSpec {
    pub name: String,
    pub program: Program,
    pub port: u16,
    /// For Redis' protocol.
    pub redis_port: u16,
    pub environment: Vec<(String, String)>,
    pub log_path: PathBuf,
}

/// A node's specification and, while it runs, its process. Dropped, the process is killed.
#[derive(Debug)]
pub(super) struct NodeProcess {
    pub spec: NodeSpec,
    /// Of a leader that can be cut off: its ways to its followers.
    pub wires: Option<Wires>,
    child: Option<Child>,
}

impl NodeProcess {
    /// A node that does not run yet; its old log is removed.
    pub(super) fn new(spec: NodeSpec) -> Result<Self> {
        File::create(&spec.log_path).with_context(|| format!("failed to create {}", spec.log_path.display()))?;
        Ok(Self { spec, wires: None, child: None })
    }

    /// Another node with the same settings but for its name, its ports and its log, which does not run yet.
    pub(super) fn sibling(&self, name: &str, port: u16, redis_port: u16) -> Result<Self> {
        let mut spec = NodeSpec { name: name.to_owned(), port, redis_port, ..self.spec.clone() };
        spec.log_path.set_file_name(format!("{name}.log"));
        for (setting, value) in &mut spec.environment {
            match setting.as_str() {
                "PORT" => *value = port.to_string(),
                "RESP_PORT" => *value = redis_port.to_string(),
                "NODE_NAME" => name.clone_into(value),
                "ADVERTISE_URL" => *value = format!("http://127.0.0.1:{port}"),
                _ => {}
            }
        }
        Self::new(spec)
    }

    /// The same leader, with wires of its own to these ports for its followers.
    pub(super) fn over_wires(mut self, ports: &[u16]) -> Result<Self> {
        let wires = Wires::lay(ports)?;
        let followers = self.spec.environment.iter_mut().filter(|(name, _)| name == "FOLLOWERS");
        followers.for_each(|(_, urls)| *urls = wires.urls().join(","));
        self.wires = Some(wires);
        Ok(self)
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.spec.port)
    }

    pub(super) fn redis(&self) -> String {
        format!("127.0.0.1:{}", self.spec.redis_port)
    }

    /// Starts the process, in a process group of its own: a Ctrl-C at the terminal is for the bench, which still
    /// needs its nodes to finish in order.
    pub(super) fn start(&mut self) -> Result<()> {
        if self.child.is_some() {
            bail!("failed to start {}: it is already running", self.spec.name);
        }
        let log = OpenOptions::new().append(true).open(&self.spec.log_path).context("failed to open the log")?;
        let (program, arguments) = match &self.spec.program {
            Program::Bench(path) => (path, &[node_command::SUBCOMMAND, node_command::EXIT_WITH_STDIN][..]),
            Program::Node(path) => (path, &[][..]),
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(ENVIRONMENT_KEPT.iter().filter_map(|name| std::env::var_os(name).map(|value| (*name, value))))
            .envs(self.spec.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(log.try_clone().context("failed to share the log")?)
            .stderr(log)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("failed to start {} from {}", self.spec.name, program.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// kill -9, and waits until the process is gone. No error when it does not run.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.kill().with_context(|| format!("failed to kill {}", self.spec.name))?;
        child.wait().with_context(|| format!("failed to wait for {}", self.spec.name))?;
        Ok(())
    }

    /// Waits until the process, which was asked to end, is gone. No error when it does not run.
    pub(super) fn wait(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        child.wait().map(drop).with_context(|| format!("failed to wait for {}", self.spec.name))
    }

    /// Sends a signal to the running process.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().with_context(|| format!("{} is not running", self.spec.name))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("failed to read the process id")?;
        kill_process(pid, signal).with_context(|| format!("failed to signal {}", self.spec.name))
    }

    pub(super) fn is_started(&self) -> bool {
        self.child.is_some()
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// How the process ended by itself, if it did; it counts as not running from then on.
    pub(super) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(status)
    }

    /// The end of the node's log, for an error message.
    pub(super) fn log_tail(&self) -> String {
        match tail(&self.spec.log_path, LOG_TAIL_BYTES) {
            Ok(text) if text.trim().is_empty() => {
                format!("(its log {} is empty)", self.spec.log_path.display())
            }
            Ok(text) => format!("the end of {}:\n{}", self.spec.log_path.display(), text.trim_end()),
            Err(error) => format!("(its log {} cannot be read: {error})", self.spec.log_path.display()),
        }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

/// The last `bytes` of a file, from the beginning of a line.
fn tail(path: &Path, bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = fs::metadata(path)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end).into_owned();
    Ok(match text.split_once('\n') {
        Some((_cut, whole_lines)) if length > bytes => whole_lines.to_owned(),
        _ => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_begins_with_a_whole_line() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("leader.log");
        fs::write(&path, "first line\nsecond line\nthird line\n").expect("written");
        assert_eq!(tail(&path, 15).expect("read"), "third line\n");
        assert_eq!(tail(&path, 500).expect("read"), "first line\nsecond line\nthird line\n");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let spec = NodeSpec {
            name: "follower3".into(),
            program: Program::Bench("/nonexistent/kv-bench".into()),
            port: 1,
            redis_port: 2,
            environment: Vec::new(),
            log_path: directory.path().join("follower3.log"),
        };
        let mut node = NodeProcess::new(spec).expect("a log");
        let error = node.start().expect_err("no such program").to_string();
        assert_eq!(error, "failed to start follower3 from /nonexistent/kv-bench");
        assert!(node.log_tail().contains("is empty"));
    }
}
