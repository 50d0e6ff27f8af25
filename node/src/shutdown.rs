//! When to stop: the first signal asks for an orderly end, the second for an immediate one.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long connections may stay open once nothing is under way on them.
pub const LINGER_MAX: Duration = Duration::from_secs(1);

/// The signals that ask for the end.
pub struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the operating system takes no handler.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }
}
