//! The keys that clients share.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::check::history::Condition;

/// A key remembers its last 16 idempotency keys. So many are used in [`MARKS_WINDOW_US`] at most, which leaves room for
/// retries, and for attempts that lay in a paused node's socket.
const MARKS_MAX: usize = 10;
const MARKS_WINDOW_US: u64 = 12_000_000;
/// As many increments of one counter are under way or of unknown outcome at once; then the clients begin another counter.
const STEPS_MAX: u32 = 24;

/// What clients do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They write texts.
    Register,
    /// They write texts, and now and then delete it.
    Deleted,
    /// They add to it, and now and then write a number.
    Counter,
}

/// One key; of a counter the present one.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// Every name that it had, the present one last.
    names: Mutex<Vec<Arc<str>>>,
    /// When writes with an idempotency key began, the latest last.
    marks: Mutex<VecDeque<u64>>,
    /// The last version that an answer showed, and its ETag.
    shown: Mutex<Option<(String, Condition)>>,
    /// The steps of the present counter that are in use, a bit for each.
    steps: Mutex<u32>,
}

/// What one increment adds.
///
/// Each step of a counter that is in use is more than twice as large as all smaller ones together, so that any sum tells
/// which of the increments of unknown outcome are in it, and that none is in it twice.
#[derive(Clone, Debug)]
pub(super) struct Step {
    number: u32,
    /// The name of the counter.
    pub(super) key: Arc<str>,
}

impl Step {
    /// The amount. Every second one is negative, so that sums stay small.
    pub(super) fn by(&self) -> i64 {
        (-4_i64).pow(self.number)
    }
}

impl Key {
    /// The key with this number, from 0.
    pub(super) fn new(run: &str, number: u32) -> Self {
        let (kind, letter) = match number % 4 {
            1 => (Kind::Counter, 'n'),
            3 => (Kind::Deleted, 'd'),
            _ => (Kind::Register, 'k'),
        };
        let names = Mutex::new(vec![format!("{run}{letter}{number}").into()]);
        Self { kind, names, marks: Mutex::default(), shown: Mutex::default(), steps: Mutex::default() }
    }

    /// Its present name.
    pub(super) fn name(&self) -> Arc<str> {
        lock(&self.names).last().cloned().unwrap_or_default()
    }

    /// Every name that it had.
    pub(super) fn names(&self) -> Vec<Arc<str>> {
        lock(&self.names).clone()
    }

    /// Whether one more write of this key may carry an idempotency key now.
    pub(super) fn may_mark(&self, now_us: u64) -> bool {
        let mut marks = lock(&self.marks);
        while marks.front().is_some_and(|at| at + MARKS_WINDOW_US < now_us) {
            marks.pop_front();
        }
        let may = marks.len() < MARKS_MAX;
        if may {
            marks.push_back(now_us);
        }
        may
    }

    /// An answer showed this version to a client.
    pub(super) fn shows(&self, etag: String, version: Condition) {
        *lock(&self.shown) = Some((etag, version));
    }

    /// The last version that an answer showed, and its ETag.
    pub(super) fn shown(&self) -> Option<(String, Condition)> {
        lock(&self.shown).clone()
    }

    /// The smallest step that is not in use. Begins another counter where all are.
    pub(super) fn step(&self) -> Step {
        let (mut steps, mut names) = (lock(&self.steps), lock(&self.names));
        if steps.trailing_ones() >= STEPS_MAX {
            *steps = 0;
            let next = names.first().map(|first| format!("{first}.{}", names.len()).into());
            names.extend(next);
        }
        let number = steps.trailing_ones();
        *steps |= 1 << number;
        Step { number, key: names.last().cloned().unwrap_or_default() }
    }

    /// It is known whether this increment took effect, so that others may have the same size.
    pub(super) fn settles(&self, step: &Step) {
        let (mut steps, names) = (lock(&self.steps), lock(&self.names));
        if names.last() == Some(&step.key) {
            *steps &= !(1 << step.number);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_in_four_is_a_counter_and_one_is_deleted() {
        let names: Vec<String> = (0..6).map(|number| Key::new("run-", number).name().to_string()).collect();
        assert_eq!(names, ["run-k0", "run-n1", "run-k2", "run-d3", "run-k4", "run-n5"]);
    }

    #[test]
    fn a_step_is_used_again_once_its_outcome_is_known_and_a_full_counter_is_left() {
        let key = Key::new("", 1);
        let steps: Vec<Step> = (0..3).map(|_| key.step()).collect();
        assert_eq!(steps.iter().map(Step::by).collect::<Vec<_>>(), [1, -4, 16]);
        key.settles(&steps[1]);
        assert_eq!((key.step().by(), key.step().by()), (-4, -64));
        for _ in 4..STEPS_MAX {
            assert_eq!(&*key.step().key, "n1");
        }
        let next = key.step();
        assert_eq!((&*next.key, next.by()), ("n1.1", 1));
        key.settles(&steps[0]);
        assert_eq!(key.step().by(), -4, "of another counter");
        assert_eq!(key.names().iter().map(|name| &**name).collect::<Vec<_>>(), ["n1", "n1.1"]);
    }
}
