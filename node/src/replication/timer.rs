//! The random waits, to the precision of the operating system.
//!
//! An asynchronous runtime's timers count in milliseconds and round up; with five followers and delays of 0 to 200 ms that
//! alone would show in every measurement. A thread of its own that sleeps on a condition variable until the earliest
//! deadline wakes within some tens of microseconds, however many waits there are.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

struct State<T> {
    waits: BinaryHeap<Reverse<(Instant, T)>>,
    closed: bool,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    earlier: Condvar,
}

/// Hands things back after their wait, from a thread of its own.
pub struct Timer<T> {
    shared: Arc<Shared<T>>,
}

impl<T: Ord + Send + 'static> Timer<T> {
    /// Starts the thread; `ended` gets everything whose wait is over, together.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(ended: impl Fn(&mut Vec<T>) + Send + 'static) -> std::io::Result<Self> {
        let state = State { waits: BinaryHeap::new(), closed: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), earlier: Condvar::new() });
        let of_thread = shared.clone();
        thread::Builder::new().name("delays".to_owned()).spawn(move || run(&of_thread, &ended))?;
        Ok(Self { shared })
    }

    /// Begins waits.
    pub fn schedule(&self, waits: impl IntoIterator<Item = (Duration, T)>) {
        let now = Instant::now();
        let mut state = self.shared.state.lock();
        let before = state.waits.peek().map(|Reverse((at, _))| *at);
        state.waits.extend(waits.into_iter().map(|(wait, item)| Reverse((now + wait, item))));
        let after = state.waits.peek().map(|Reverse((at, _))| *at);
        drop(state);
        if after != before {
            self.shared.earlier.notify_one();
        }
    }
}

impl<T> Drop for Timer<T> {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.earlier.notify_one();
    }
}

fn run<T: Ord>(shared: &Shared<T>, ended: &impl Fn(&mut Vec<T>)) {
    let mut over = Vec::new();
    let mut state = shared.state.lock();
    while !state.closed {
        let now = Instant::now();
        while let Some(Reverse((at, _))) = state.waits.peek()
            && *at <= now
        {
            over.extend(state.waits.pop().map(|Reverse((_, item))| item));
        }
        if !over.is_empty() {
            // Unlocked, so that new waits can begin meanwhile.
            parking_lot::MutexGuard::unlocked(&mut state, || ended(&mut over));
            over.clear();
            continue;
        }
        match state.waits.peek().map(|Reverse((at, _))| *at) {
            Some(at) => {
                shared.earlier.wait_until(&mut state, at);
            }
            None => shared.earlier.wait(&mut state),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Everything comes back once, in the order of its deadline, and never early.
    #[test]
    fn waits_end_in_order_and_not_early() {
        let (sender, ended) = mpsc::channel();
        let timer = Timer::start(move |over: &mut Vec<u64>| {
            over.drain(..).for_each(|item| sender.send((Instant::now(), item)).expect("the test listens"));
        })
        .expect("a thread");
        let begun = Instant::now();
        let waits = [40, 5, 20, 0, 30, 10];
        timer.schedule(waits.map(|wait| (Duration::from_millis(wait), wait)));
        let seen: Vec<(Instant, u64)> = (0..waits.len()).map(|_| ended.recv().expect("an end")).collect();
        assert_eq!(seen.iter().map(|(_, wait)| *wait).collect::<Vec<_>>(), [0, 5, 10, 20, 30, 40]);
        for (at, wait) in seen {
            assert!(at - begun >= Duration::from_millis(wait), "the wait of {wait} ms ended early");
        }
    }

    /// A wait that is begun later but ends earlier does not stand behind a longer one.
    #[test]
    fn a_shorter_wait_overtakes() {
        let (sender, ended) = mpsc::channel();
        let timer = Timer::start(move |over: &mut Vec<&str>| {
            over.drain(..).for_each(|item| sender.send(item).expect("the test listens"));
        })
        .expect("a thread");
        timer.schedule([(Duration::from_secs(3600), "long")]);
        timer.schedule([(Duration::from_millis(1), "short")]);
        assert_eq!(ended.recv().expect("an end"), "short");
    }
}
