//! What waits to be sent on one connection. Everything that is due when the connection is free leaves together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::protocol::leader::InstallJob;
use crate::protocol::types::{ToFollower, Write};

/// One thing to send.
#[derive(Debug)]
pub(crate) enum Item {
    Message(ToFollower),
    Write(Arc<Write>),
    Install(InstallJob),
}

/// The queue of one connection. Its length is bounded by the leader's window: every write in it stands there too.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    items: Mutex<Vec<Item>>,
    filled: Notify,
    closed: AtomicBool,
}

impl Outbox {
    /// Adds without waking the sender: see [`Outbox::wake`].
    pub(crate) fn push(&self, item: Item) {
        self.items.lock().push(item);
    }

    pub(crate) fn wake(&self) {
        self.filled.notify_one();
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.filled.notify_one();
    }

    /// Waits for something to send and takes all of it, in exchange for an empty vector. False once closed.
    pub(crate) async fn take(&self, taken: &mut Vec<Item>) -> bool {
        loop {
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            {
                let mut items = self.items.lock();
                if !items.is_empty() {
                    std::mem::swap(&mut *items, taken);
                    return true;
                }
            }
            self.filled.notified().await;
        }
    }
}
