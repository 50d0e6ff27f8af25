//! The signals that end a node. The first starts an orderly shutdown, the second ends the node
//! immediately.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long the shutdown waits for connections without a request under way.
pub const LINGER_MAX: Duration = Duration::from_secs(1);

/// How long a connection waits for a request that is on its way. Closed at once, it would leave that request without an
/// answer, and the client would not know whether its write was applied.
pub const LAST_REQUEST_MAX: Duration = Duration::from_millis(100);

/// The signals that end the node.
pub struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    /// Installs the signal handlers.
    ///
    /// # Errors
    /// If the operating system rejects a handler.
    pub fn start() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next signal and returns its name for the log.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "interrupted",
            _ = self.terminate.recv() => "terminated",
        }
    }
}
