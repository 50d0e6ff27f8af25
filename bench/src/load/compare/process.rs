//! Servers of other makers as child processes that end with this one, however it ends.

use std::{
    fs::File,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, bail};

/// The hidden subcommand that becomes such a server.
pub const SUBCOMMAND: &str = "peer";

/// `kv-bench peer PARENT PROGRAM ARGUMENT…`: asks the kernel to kill this process when its parent ends, kill -9 included, and
/// becomes the program.
pub fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(2);
    let (Some(parent), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: kv-bench {SUBCOMMAND} PARENT PROGRAM ARGUMENT…");
        return ExitCode::from(2);
    };
    #[cfg(target_os = "linux")]
    {
        let asked = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        // A parent that ended before the kernel was asked will not end again.
        let is_there = rustix::process::getppid().is_some_and(|id| parent == *id.as_raw_nonzero().to_string());
        if asked.is_err() || !is_there {
            eprintln!("failed to tie this process to its parent");
            return ExitCode::FAILURE;
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    let error = Command::new(&program).args(arguments).exec();
    eprintln!("failed to become {}: {error}", Path::new(&program).display());
    ExitCode::FAILURE
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub(super) struct Server {
    name: String,
    child: Child,
    log_path: PathBuf,
}

impl Server {
    /// Starts `program`, whose output goes to `log_path`.
    pub(super) fn start(name: &str, program: &Path, arguments: &[String], log_path: PathBuf) -> Result<Self> {
        let log = File::create(&log_path).with_context(|| format!("failed to create {}", log_path.display()))?;
        let own = std::env::current_exe().context("failed to find this program's own file")?;
        let child = Command::new(own)
            .arg(SUBCOMMAND)
            .arg(std::process::id().to_string())
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("failed to share the log")?)
            .stderr(log)
            // A Ctrl-C at the terminal is for the bench, which ends its servers itself.
            .process_group(0)
            .spawn()
            .with_context(|| format!("failed to start {name}"))?;
        Ok(Self { name: name.to_owned(), child, log_path })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// # Errors
    /// When it ended by itself.
    pub(super) fn check(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(Some(status)) => {
                let (name, log) = (&self.name, self.log_path.display());
                bail!("{name} ended by itself ({status}); its log is {log}")
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Either may fail only because the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is, as a shell would find it.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let directories = std::env::var_os("PATH")?;
    std::env::split_paths(&directories).map(|directory| directory.join(program)).find(|path| path.is_file())
}

/// The first number of the form 1.2.3 in what `program --version` prints.
pub(super) fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let words = text.split(|letter: char| letter.is_whitespace() || letter == '=');
    let is_version = |word: &&str| {
        let mut parts = word.split('.');
        parts.clone().count() == 3 && parts.all(|part| part.parse::<u32>().is_ok())
    };
    words.map(|word| word.trim_start_matches('v')).find(is_version).map(str::to_owned)
}
