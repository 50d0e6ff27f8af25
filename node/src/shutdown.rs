//! When to stop: the first signal asks for an orderly end, the second for an immediate one.

use std::io::Read;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// How long connections may stay open once nothing is under way on them.
pub const LINGER_MAX: Duration = Duration::from_secs(1);

/// Everything that may ask for the end.
pub struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
    orphaned: mpsc::Receiver<()>,
    // Keeps the channel open where standard input does not matter.
    _orphan: mpsc::Sender<()>,
}

impl Shutdown {
    /// Listens from now on. With `with_stdin`, the end of standard input counts as a signal: whoever started this
    /// process is gone.
    ///
    /// # Errors
    /// When the operating system takes no handler or gives no thread.
    pub fn start(with_stdin: bool) -> std::io::Result<Self> {
        let (orphan, orphaned) = mpsc::channel(1);
        if with_stdin {
            let orphan = orphan.clone();
            // Blocking reads would hold up the runtime's end: a thread of its own ends with the process.
            std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
                let mut input = std::io::stdin().lock();
                let mut buffer = [0; 256];
                while input.read(&mut buffer).is_ok_and(|read| read > 0) {}
                let _ = orphan.blocking_send(());
            })?;
        }
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            orphaned,
            _orphan: orphan,
        })
    }

    /// Waits for the next reason to stop.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
            _ = self.orphaned.recv() => "standard input ended",
        }
    }
}
