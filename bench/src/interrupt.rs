//! Ctrl-C in two stages: the first asks the run to end in order, the second ends the program at once.

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// The exit code of a program that was interrupted (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Whether the run was asked to end; clones share the state.
#[derive(Clone, Debug)]
pub struct Interrupt {
    requested: watch::Receiver<bool>,
}

impl Interrupt {
    /// Starts to listen for SIGINT and SIGTERM. The first makes [`Interrupt::is_requested`] true; the second ends
    /// the process with code 130 (children notice that their parent is gone).
    pub fn listen() -> std::io::Result<Self> {
        let (mut interrupts, mut terminations) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        let (request, requested) = watch::channel(false);
        tokio::spawn(async move {
            let mut stage = 0;
            loop {
                tokio::select! {
                    _ = interrupts.recv() => {}
                    _ = terminations.recv() => {}
                }
                stage += 1;
                if stage > 1 {
                    std::process::exit(i32::from(EXIT_INTERRUPTED));
                }
                eprintln!("interrupted: the writes under way are finished first; interrupt again to stop at once");
                request.send_replace(true);
            }
        });
        Ok(Self { requested })
    }

    /// One that is requested by calling the returned function, for callers with other reasons to stop a run.
    pub fn manual() -> (impl Fn(), Self) {
        let (request, requested) = watch::channel(false);
        (
            move || {
                request.send_replace(true);
            },
            Self { requested },
        )
    }

    /// Whether the run was asked to end.
    pub fn is_requested(&self) -> bool {
        *self.requested.borrow()
    }

    /// Waits until the run is asked to end; without end when no request is possible.
    pub async fn requested(&self) {
        let mut requested = self.requested.clone();
        if requested.wait_for(|requested| *requested).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
