//! The one thread that stores: it takes all queued changes, stores them with one sync, and reports
//! them as stored.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;
use tracing::warn;

use super::signal::{Receiver, Sender};
use super::{Health, StoreError};
use crate::deliberate::{self, DeliberateFault};
use crate::protocol::follower::Change;

/// How long a commit may take before the disk counts as failed. Without this limit the follower
/// would wait forever for a disk that does not answer.
const COMMIT_MAX: Duration = Duration::from_secs(60);

/// After this long without work the committer calls [`Sink::idle`].
const IDLE: Duration = Duration::from_millis(100);

/// Delay of a store that deliberately confirms before it stores.
const DELIBERATE_WAIT: Duration = Duration::from_millis(300);

/// The target of the thread's writes.
pub(super) trait Sink: std::fmt::Debug + Send + 'static {
    /// Stores a batch. The batch is durable when this returns.
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError>;
    /// Called after each batch has been reported as stored.
    fn after(&mut self) -> Result<(), StoreError>;
    /// Called after a time without work. Returns after how long it wants to be called again.
    fn idle(&mut self) -> Result<Option<Duration>, StoreError>;
    /// The condition of the disk.
    fn health(&self) -> Health;
}

/// How much the thread has stored, and whether it failed. Every batch wakes those that wait for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    /// How many appends are stored.
    pub(super) stored: u64,
    /// Why the store failed, if it did. It then stores nothing more.
    pub(super) failed: Option<Arc<str>>,
}

/// What changes rarely. Apart from [`Progress`], so that a batch does not wake those that wait for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Condition {
    /// Why the store failed, if it did.
    pub(super) failed: Option<Arc<str>>,
    pub(super) health: Health,
}

#[derive(Debug, Default)]
struct Queue {
    changes: Vec<Change>,
    appended: u64,
    busy_since: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Wakes the caller of [`Stepped::step`], if the store has no thread.
    stepped: Option<Notify>,
    progress: Sender<Progress>,
    condition: Sender<Condition>,
}

/// A store without a thread, for simulations: it stores when the caller calls [`Self::step`].
/// Dropping it simulates the end of the process: it unlocks the data directory and loses the queue.
#[derive(Debug)]
pub struct Stepped {
    shared: Arc<Shared>,
    sink: Box<dyn Sink>,
}

impl Stepped {
    /// Waits until changes are queued or the [`Store`](super::Store) is dropped. Cancel safe.
    pub async fn ready(&mut self) {
        let Some(stepped) = &self.shared.stepped else { return };
        loop {
            let notified = stepped.notified();
            if self.shared.has_work() {
                return;
            }
            notified.await;
        }
    }

    /// Stores all queued changes as one batch. Returns whether there were any and the store can
    /// continue.
    pub fn step(&mut self) -> bool {
        let (changes, position) = {
            let mut queue = self.shared.queue.lock();
            (std::mem::take(&mut queue.changes), queue.appended)
        };
        if changes.is_empty() || self.shared.progress.borrow().failed.is_some() {
            return false;
        }
        let stored = self.sink.commit(changes);
        if !self.note(stored.map(|()| Some(position))) {
            return false;
        }
        let after = self.sink.after();
        self.note(after.map(|()| None))
    }

    /// Does the work of the idle thread. Returns whether the store can continue.
    pub fn idle(&mut self) -> bool {
        let failed = self.shared.progress.borrow().failed.is_some();
        let idle = if failed { return false } else { self.sink.idle() };
        self.note(idle.map(|_| None))
    }

    fn note(&mut self, stored: Result<Option<u64>, StoreError>) -> bool {
        match stored {
            Ok(Some(position)) => self.shared.progress.send_modify(|progress| progress.stored = position),
            Ok(None) => {}
            Err(error) => {
                self.shared.fail(reason(error));
                return false;
            }
        }
        self.shared.note(self.sink.health());
        true
    }
}

/// A queue and the thread that stores it. The callers bound the memory: each waits for its changes
/// before it reads more, so that a slow disk slows down the connections.
#[derive(Debug)]
pub struct Committer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(sink: impl Sink) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(None));
        let mine = shared.clone();
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || mine.run(sink))?;
        let watched = Arc::downgrade(&shared);
        std::thread::Builder::new().name("store-watch".to_owned()).spawn(move || {
            while let Some(shared) = watched.upgrade() {
                let since = shared.queue.lock().busy_since;
                if since.is_some_and(|since| since.elapsed() > COMMIT_MAX) {
                    shared.fail(format!("a write to the disk is not finished after {} s", COMMIT_MAX.as_secs()));
                    return;
                }
                drop(shared);
                std::thread::sleep(Duration::from_secs(1));
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A store without a thread.
    pub(super) fn stepped(sink: impl Sink) -> (Self, Stepped) {
        let shared = Arc::new(Shared::new(Some(Notify::new())));
        (Self { shared: shared.clone(), thread: None }, Stepped { shared, sink: Box::new(sink) })
    }

    /// Queues changes. They are stored once the progress reaches the returned number.
    pub(super) fn append(&self, changes: Vec<Change>) -> (u64, Receiver<Progress>) {
        let mut queue = self.shared.queue.lock();
        if !changes.is_empty() {
            queue.changes.extend(changes);
            queue.appended += 1;
            self.shared.wake();
        }
        (queue.appended, self.shared.progress.subscribe())
    }

    pub(super) fn condition(&self) -> Receiver<Condition> {
        self.shared.condition.subscribe()
    }
}

impl Drop for Committer {
    /// Stores the queued changes, unless the store has failed.
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake();
        if self.shared.progress.borrow().failed.is_none()
            && let Some(thread) = self.thread.take()
        {
            // `run` catches panics of the thread.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(stepped: Option<Notify>) -> Self {
        let (progress, condition) = (Sender::default(), Sender::default());
        Self { queue: Mutex::default(), work: Condvar::new(), stepped, progress, condition }
    }

    fn has_work(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed || !queue.changes.is_empty()
    }

    fn wake(&self) {
        match &self.stepped {
            Some(stepped) => stepped.notify_one(),
            None => _ = self.work.notify_one(),
        }
    }

    fn fail(&self, reason: String) {
        warn!(reason, "the store failed");
        let reason: Arc<str> = reason.into();
        self.progress.send_modify(|progress| progress.failed = Some(reason.clone()));
        self.condition.send_modify(|condition| condition.failed = Some(reason));
    }

    /// Reports the condition of the disk. The bytes read again, which grow with every batch, wake
    /// nothing.
    fn note(&self, health: Health) {
        let wakes = {
            let mut known = self.condition.borrow();
            known.health.checked_bytes = health.checked_bytes;
            known.health != health
        };
        if wakes {
            self.condition.send_modify(|condition| condition.health = health);
        }
    }

    fn run(&self, mut sink: impl Sink) {
        let result = catch_unwind(AssertUnwindSafe(|| self.work(&mut sink)));
        let failed = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => reason(error),
            Err(panic) => format!("the store panicked: {}", panic_text(&*panic)),
        };
        // The directory stays locked until the process ends.
        std::mem::forget(sink);
        self.fail(failed);
    }

    fn work(&self, sink: &mut impl Sink) -> Result<(), StoreError> {
        let mut pause = Some(IDLE);
        loop {
            self.note(sink.health());
            let (changes, position) = {
                let mut queue = self.queue.lock();
                queue.busy_since = None;
                while queue.changes.is_empty() {
                    if queue.closed {
                        return Ok(());
                    }
                    match pause {
                        None => self.work.wait(&mut queue),
                        Some(pause) => {
                            if self.work.wait_for(&mut queue, pause).timed_out() && queue.changes.is_empty() {
                                break;
                            }
                        }
                    }
                }
                queue.busy_since = Some(Instant::now());
                (std::mem::take(&mut queue.changes), queue.appended)
            };
            if changes.is_empty() {
                pause = sink.idle()?;
                continue;
            }
            pause = Some(IDLE);
            if deliberate::is_on(DeliberateFault::ConfirmsBeforeStored) {
                // The follower has confirmed these changes already. A kill during this delay loses
                // them.
                std::thread::sleep(DELIBERATE_WAIT);
            }
            sink.commit(changes)?;
            self.progress.send_modify(|progress| progress.stored = position);
            sink.after()?;
        }
    }
}

fn reason(error: StoreError) -> String {
    match error {
        StoreError::Failed(reason) => reason,
        error => error.to_string(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::protocol::types::Epoch;
    use crate::store::{Store, Stored};

    /// Answers every commit with the result that the test sends, and reports how many changes it
    /// had.
    #[derive(Debug)]
    struct Scripted {
        answers: mpsc::Receiver<Result<(), StoreError>>,
        sizes: mpsc::Sender<usize>,
    }

    impl Sink for Scripted {
        fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
            self.sizes.send(changes.len()).expect("the test listens");
            self.answers.recv().expect("the test answers")
        }

        fn after(&mut self) -> Result<(), StoreError> {
            Ok(())
        }

        fn idle(&mut self) -> Result<Option<Duration>, StoreError> {
            Ok(None)
        }

        fn health(&self) -> Health {
            Health::default()
        }
    }

    fn scripted() -> (Store, mpsc::Sender<Result<(), StoreError>>, mpsc::Receiver<usize>) {
        let (answer, answers) = mpsc::channel();
        let (sizes, size) = mpsc::channel();
        (Store::Disk(Committer::start(Scripted { answers, sizes }).expect("a thread starts")), answer, size)
    }

    fn promise(term: u64) -> Vec<Change> {
        vec![Change::Promised(Epoch { term, leader: 1 })]
    }

    async fn is_pending(stored: &mut Stored) -> bool {
        futures::poll!(std::pin::pin!(stored.wait())).is_pending()
    }

    /// All changes that arrive during a sync are stored together by the next one. A reply without
    /// changes waits for the changes appended before it.
    #[tokio::test]
    async fn everything_queued_is_one_batch() {
        let (store, answer, size) = scripted();
        let mut first = store.append(promise(1));
        assert_eq!(size.recv(), Ok(1));
        let mut others = [store.append(promise(2)), store.append(promise(3)), store.append(Vec::new())];
        assert!(is_pending(&mut first).await);
        answer.send(Ok(())).expect("the store runs");
        first.wait().await.expect("stored");
        assert_eq!(size.recv(), Ok(2));
        for other in &mut others {
            assert!(is_pending(other).await);
        }
        answer.send(Ok(())).expect("the store runs");
        for other in &mut others {
            other.wait().await.expect("stored");
        }
        store.append(Vec::new()).wait().await.expect("nothing to wait for");
    }

    /// How often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// A batch wakes only what waits for it, and not what waits for a failure or for damage.
    #[tokio::test]
    async fn a_batch_wakes_nothing_else() {
        let (store, answer, _size) = scripted();
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let (failure, mut renewal) = (store.failure(), store.renewal());
        let (mut failure, mut renewal) = (Box::pin(failure.wait()), Box::pin(renewal.wanted()));
        let context = &mut Context::from_waker(&waker);
        assert!(failure.as_mut().poll(context).is_pending() && renewal.as_mut().poll(context).is_pending());
        for term in 1..=3 {
            let mut stored = store.append(promise(term));
            answer.send(Ok(())).expect("the store runs");
            stored.wait().await.expect("stored");
        }
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        let _lost = store.append(promise(4));
        answer.send(Err(StoreError::Failed("input/output error".to_owned()))).expect("the store runs");
        store.failure().wait().await;
        assert!(woken.0.load(Ordering::SeqCst) > 0 && failure.as_mut().poll(context).is_ready());
    }

    /// After a failed sync the store confirms nothing and retries nothing, and reports the reason.
    #[tokio::test]
    async fn a_failed_sync_ends_the_store() {
        let (store, answer, size) = scripted();
        let mut stored = store.append(promise(1));
        answer.send(Ok(())).expect("the store runs");
        stored.wait().await.expect("stored");
        let mut lost = store.append(promise(2));
        assert_eq!((size.recv(), size.recv()), (Ok(1), Ok(1)));
        let mut queued = store.append(promise(3));
        answer.send(Err(StoreError::Failed("input/output error".to_owned()))).expect("the store runs");
        for stored in [&mut lost, &mut queued, &mut store.append(promise(4))] {
            let error = stored.wait().await.expect_err("not stored");
            assert_eq!(error.to_string(), "failed to store: input/output error");
        }
        assert_eq!(store.failure().wait().await.to_string(), "failed to store: input/output error");
        assert!(size.try_recv().is_err(), "nothing is tried again");
    }
}
