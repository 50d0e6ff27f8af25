//! The random delays of all writes, with one alarm for the earliest end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::error;

use super::alarm::Alarm;

struct Shared<T> {
    waits: Mutex<BinaryHeap<Reverse<(Instant, T)>>>,
    alarm: Alarm,
}

/// Returns items after their delay.
pub struct Timer<T> {
    shared: Arc<Shared<T>>,
    task: AbortHandle,
}

impl<T: Ord + Send + 'static> Timer<T> {
    /// Starts the timer. `ended` gets all items whose delay is over, together. Must be called
    /// inside a runtime.
    ///
    /// # Errors
    /// If the operating system cannot create a timer.
    pub fn start(ended: impl Fn(&mut Vec<T>) + Send + 'static) -> io::Result<Self> {
        Ok(Self::with_alarm(Alarm::system()?, ended))
    }

    /// Starts the timer with a given alarm.
    pub(super) fn with_alarm(alarm: Alarm, ended: impl Fn(&mut Vec<T>) + Send + 'static) -> Self {
        let shared = Arc::new(Shared { waits: Mutex::default(), alarm });
        let of_task = shared.clone();
        let task = tokio::spawn(async move {
            let mut over = Vec::new();
            loop {
                if let Err(error) = of_task.alarm.rung().await {
                    return error!(%error, "failed to wait for the random delays");
                }
                of_task.take_over(&mut over);
                ended(&mut over);
                over.clear();
            }
        });
        Self { shared, task: task.abort_handle() }
    }

    /// Starts the delays of items.
    pub fn schedule(&self, waits: impl IntoIterator<Item = (Duration, T)>) {
        let now = Instant::now();
        let mut all = self.shared.waits.lock();
        let before = all.peek().map(|Reverse((at, _))| *at);
        all.extend(waits.into_iter().map(|(wait, item)| Reverse((now + wait, item))));
        if let Some(Reverse((at, _))) = all.peek()
            && before.is_none_or(|before| *at < before)
        {
            self.shared.alarm.set(at.saturating_duration_since(now));
        }
    }
}

impl<T: Ord> Shared<T> {
    /// Takes all items whose delay is over, and sets the alarm to the next end. It keeps the lock
    /// until the alarm is set; otherwise the alarm would miss a shorter delay that starts in
    /// between.
    fn take_over(&self, over: &mut Vec<T>) {
        let mut waits = self.waits.lock();
        let now = Instant::now();
        while waits.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            over.extend(waits.pop().map(|Reverse((_, item))| item));
        }
        if let Some(Reverse((at, _))) = waits.peek() {
            self.alarm.set(at.saturating_duration_since(now));
        }
    }
}

impl<T> Drop for Timer<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// Each item is returned once, in the order of deadlines, and never early.
    #[tokio::test]
    async fn waits_end_in_order_and_not_early() {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let timer = Timer::start(move |over: &mut Vec<u64>| {
            over.drain(..).for_each(|item| sender.send((Instant::now(), item)).expect("the test listens"));
        })
        .expect("a timer");
        let begun = Instant::now();
        let waits = [40, 5, 20, 0, 30, 10];
        timer.schedule(waits.map(|wait| (Duration::from_millis(wait), wait)));
        for expected in [0, 5, 10, 20, 30, 40] {
            let (at, wait) = ended.recv().await.expect("an end");
            assert_eq!(wait, expected);
            assert!(at - begun >= Duration::from_millis(wait), "the wait of {wait} ms ended early");
        }
    }

    /// A delay that starts later but ends earlier does not wait for a longer one.
    #[tokio::test]
    async fn a_shorter_wait_overtakes() {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let timer = Timer::start(move |over: &mut Vec<&str>| {
            over.drain(..).for_each(|item| sender.send(item).expect("the test listens"));
        })
        .expect("a timer");
        timer.schedule([(Duration::from_secs(3600), "long")]);
        timer.schedule([(Duration::from_millis(1), "short")]);
        assert_eq!(ended.recv().await.expect("an end"), "short");
    }

    /// No item is lost while many delays start and others end.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn none_is_forgotten_under_load() {
        const WAITS: u64 = 20_000;
        let (sender, mut ended) = mpsc::unbounded_channel();
        let timer = Timer::start(move |over: &mut Vec<u64>| {
            over.drain(..).for_each(|item| sender.send(item).expect("the test listens"));
        })
        .expect("a timer");
        for item in 0..WAITS {
            timer.schedule([(Duration::from_micros(item * 7919 % 3000), item)]);
            if item % 64 == 0 {
                tokio::task::yield_now().await;
            }
        }
        let mut seen = vec![false; WAITS as usize];
        for _ in 0..WAITS {
            let item = ended.recv().await.expect("an end");
            assert!(!std::mem::replace(&mut seen[item as usize], true), "{item} came back twice");
        }
    }
}
