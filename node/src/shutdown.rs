//! The signals that end a node: the first one in order, the second one at once.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the orderly end waits for connections on which no request is under way.
pub const LINGER_MAX: Duration = Duration::from_secs(1);

/// The signals that ask for the end.
pub struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    /// Installs the signal handlers.
    ///
    /// # Errors
    /// When the operating system refuses a handler.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal and returns what it asks for, as a word for the log.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }
}
