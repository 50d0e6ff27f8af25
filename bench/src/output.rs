//! How the programs of this package print, fail and end.

use std::{
    fmt, fs,
    future::Future,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result};

/// Something failed: no or partial results, or replicas that differ.
pub const EXIT_FAILED: u8 = 1;
/// The command line contradicts itself or names what does not exist.
pub const EXIT_USAGE: u8 = 2;

/// An error in what the user asked for: nothing was started.
#[derive(Debug)]
pub struct WrongUsage(String);

impl WrongUsage {
    /// `text` names the values that do not fit.
    pub fn error(text: impl Into<String>) -> anyhow::Error {
        Self(text.into()).into()
    }
}

impl fmt::Display for WrongUsage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for WrongUsage {}

/// Prints to standard output. A reader that has gone away, as `head` does, is no failure: results are in files as well.
pub fn print(text: &str) {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => eprintln!("failed to print: {error}"),
        _ => {}
    }
}

/// Writes files by name, and returns their paths.
///
/// # Errors
/// When a file cannot be written; those before it are there.
pub(crate) fn write_files(
    directory: &Path,
    files: impl IntoIterator<Item = (impl AsRef<Path>, Vec<u8>)>,
) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for (name, content) in files {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

/// Runs to its end on all processors.
///
/// # Errors
/// Those of `work`, or when the runtime cannot start.
pub fn run<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Runtime::new().context("failed to start the runtime")?.block_on(work)
}

/// Prints an error; wrong usage and a failure have different codes.
pub fn exit_code(result: Result<u8>) -> ExitCode {
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<WrongUsage>() { EXIT_USAGE } else { EXIT_FAILED })
        }
    }
}
