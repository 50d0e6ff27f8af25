//! Single nodes, for what a whole cluster of the library cannot be.

use std::{
    ffi::OsStr,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use super::{KV_BENCH, eventually};

/// A node as a process. Dropped, it is killed.
pub(crate) struct Node {
    child: Child,
    log: PathBuf,
}

impl Node {
    /// Starts a node of this name on loopback with these settings alone. Its log is in the directory.
    pub(crate) fn start(directory: &Path, name: &str, settings: &[(&str, impl AsRef<OsStr>)]) -> Self {
        let log = directory.join(format!("{name}.log"));
        let child = Command::new(KV_BENCH)
            .arg("node")
            .env_clear()
            .env("BIND_ADDRESS", "127.0.0.1")
            .env("NODE_NAME", name)
            .envs(settings.iter().map(|(setting, value)| (setting, value)))
            .stdin(Stdio::null())
            .stderr(File::create(&log).expect("a log"))
            .spawn()
            .expect("kv-bench runs");
        Self { child, log }
    }

    /// Waits for a line with these words; returns the whole log.
    pub(crate) async fn logs(&self, words: &str) -> String {
        eventually(words, async || fs::read_to_string(&self.log).ok().filter(|log| log.contains(words))).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that were free a moment ago.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
    listeners.map(|listener| listener.local_addr().expect("an address").port())
}
