//! Clients that watch keys.
//!
//! Nothing is recorded while there is none: a commit and a step cost one branch each. Otherwise the leader notes the position
//! of each committed write, and after the step, without the coordinator's lock, every watch learns of it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use super::Coordinator;
use crate::protocol::leader::Refusal;
use crate::protocol::types::Key;
use crate::protocol::watch::{Watch, WatchPart, Watched};

/// Changed keys that a watch remembers. Beyond them it begins again with everything that is there.
const CHANGED_MAX: usize = 65_536;

/// The watches of this leader. Their locks come before the coordinator's.
#[derive(Default)]
pub(super) struct Watches(Mutex<Vec<Arc<Watcher>>>);

struct Watcher {
    watch: Mutex<Watch>,
    wake: Notify,
}

impl Watches {
    /// Reports commits to every watch.
    pub(super) fn committed(&self, commits: &[(usize, Key)]) {
        for watcher in self.0.lock().iter() {
            let mut watch = watcher.watch.lock();
            let mut wakes = false;
            commits.iter().for_each(|(position, key)| wakes |= watch.committed(*position, key));
            drop(watch);
            if wakes {
                watcher.wake.notify_one();
            }
        }
    }
}

/// A watch. It ends when this is dropped.
pub(crate) struct Watching {
    coordinator: Arc<Coordinator>,
    watcher: Arc<Watcher>,
    /// Changes when another leader takes over.
    changes: watch::Receiver<u64>,
}

impl Coordinator {
    /// Begins a watch.
    pub(crate) fn watch(self: &Arc<Self>, watched: Watched) -> Watching {
        let watcher = {
            let mut all = self.watches.0.lock();
            let mut state = self.state.lock();
            // From here on every commit is noted, and what was committed before is found.
            state.core.note_commits(true);
            let place = match &watched {
                Watched::Key(key) => state.core.position_of(key),
                Watched::Prefix(_) => None,
            };
            let watch = Mutex::new(Watch::new(watched, place, CHANGED_MAX));
            let watcher = Arc::new(Watcher { watch, wake: Notify::new() });
            all.push(watcher.clone());
            watcher
        };
        Watching { changes: self.changes(), coordinator: self.clone(), watcher }
    }
}

impl Watching {
    /// The next part of what the client has to be sent. Writes wait meanwhile.
    ///
    /// # Errors
    /// [`Refusal`] when this leader no longer serves clients.
    pub(crate) fn next_part(&self, positions: usize, bytes: usize) -> Result<WatchPart, Refusal> {
        let mut watch = self.watcher.watch.lock();
        self.coordinator.look(|state| {
            state.core.client_refusal()?;
            Ok(watch.next_part(positions, bytes, |position| state.core.committed_at(position)))
        })
    }

    /// Waits until there may be something to send.
    pub(crate) async fn wait(&mut self) {
        tokio::select! {
            () = self.watcher.wake.notified() => {}
            _ = self.changes.changed() => {}
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut all = self.coordinator.watches.0.lock();
        all.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
        if all.is_empty() {
            self.coordinator.state.lock().core.note_commits(false);
        }
    }
}
