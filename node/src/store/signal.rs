//! A value that several tasks wait for.
//!
//! Like the channel `watch` of tokio, which wakes those that wait in a random order. Here they wake in the order in which
//! they began to wait, so that a simulation of the node replays from its seed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Shared<T> {
    value: Mutex<T>,
    closed: AtomicBool,
    changed: Notify,
}

/// Changes the value. When it is dropped, all waits end.
#[derive(Debug, Default)]
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// Waits for the value.
#[derive(Debug)]
pub(super) struct Receiver<T>(Arc<Shared<T>>);

/// The sender is gone.
#[derive(Debug)]
pub(super) struct Gone;

impl<T> Sender<T> {
    /// Returns the value. Locked until the result is dropped.
    pub(super) fn borrow(&self) -> MutexGuard<'_, T> {
        self.0.value.lock()
    }

    pub(super) fn subscribe(&self) -> Receiver<T> {
        Receiver(self.0.clone())
    }

    /// Changes the value and wakes all that wait.
    pub(super) fn send_modify(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.0.value.lock());
        self.0.changed.notify_waiters();
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl<T: Clone> Receiver<T> {
    /// Returns the value. Locked until the result is dropped.
    pub(super) fn borrow(&self) -> MutexGuard<'_, T> {
        self.0.value.lock()
    }

    /// Waits until the value is as wanted, and returns it. Cancel safe.
    ///
    /// # Errors
    /// [`Gone`], when the sender is and the value is not as wanted.
    pub(super) async fn wait_for(&self, wanted: impl Fn(&T) -> bool) -> Result<T, Gone> {
        loop {
            // Created before the look at the value: it notices every change from here on.
            let changed = self.0.changed.notified();
            let closed = self.0.closed.load(Ordering::SeqCst);
            {
                let value = self.0.value.lock();
                if wanted(&value) {
                    return Ok(value.clone());
                }
            }
            if closed {
                return Err(Gone);
            }
            changed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Goal: a simulation replays. Method: many wait, and the order in which they wake is that in which they began.
    #[tokio::test]
    async fn waits_end_in_their_order() {
        let (sender, woken) = (Sender::<u32>::default(), Arc::new(Mutex::new(Vec::new())));
        for number in 0..20 {
            let (receiver, woken) = (sender.subscribe(), woken.clone());
            tokio::spawn(async move {
                assert_eq!(receiver.wait_for(|value| *value > 0).await.expect("the sender is there"), 7);
                woken.lock().push(number);
            });
        }
        tokio::task::yield_now().await;
        sender.send_modify(|value| *value = 7);
        while woken.lock().len() < 20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*woken.lock(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn waits_end_with_the_sender() {
        let sender = Sender::<u32>::default();
        let receiver = sender.subscribe();
        let wait = tokio::spawn(async move { receiver.wait_for(|value| *value > 0).await });
        tokio::task::yield_now().await;
        drop(sender);
        assert!(wait.await.expect("the task ends").is_err());
    }
}
