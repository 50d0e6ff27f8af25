//! Operations of unknown outcome whose effect no value names: they take effect at any time after their call, or never.
//!
//! Such an operation need not take effect before another one shows it, so that the search lets it do so just before that
//! one, and only where that one cannot take effect without it. Which increments made a difference follows from the
//! difference, since clients add amounts each of which is more than twice the sum of all smaller ones.

use super::register::{Effect, Guard, Value};

/// As many increments of other amounts are tried in every combination.
const COMBINED_MAX: usize = 12;

/// A register, and the floating operations that took effect, rising.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct State {
    pub(super) register: Value,
    pub(super) used: Vec<usize>,
}

/// Too much is possible for the search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMuch;

#[derive(Clone, Copy, Debug)]
struct Floating<T> {
    number: usize,
    called: u64,
    what: T,
}

/// All of one history.
#[derive(Debug, Default)]
pub(super) struct AllFloating {
    count: usize,
    deletions: Vec<Floating<()>>,
    /// Texts that nothing shows. Which of them took effect makes no difference.
    texts: Vec<Floating<Value>>,
    numbers: Vec<Floating<i64>>,
    /// By their size, the smallest first.
    additions: Vec<Floating<i64>>,
    /// Whether a sum of some of them tells which they are.
    is_telling: bool,
}

impl AllFloating {
    /// Adds one, in the order of the calls.
    ///
    /// # Errors
    /// When the search cannot handle it: a condition on the write of a number, or on the value that a deletion removes; an
    /// increment by 0.
    pub(super) fn add(&mut self, called: u64, effect: Effect) -> Result<(), TooMuch> {
        let number = self.count;
        self.count += 1;
        match effect {
            // The condition of a deletion at an absent key changes nothing.
            Effect::Write { guard: Guard::Always | Guard::Present, value: Value::Absent } => {
                self.deletions.push(Floating { number, called, what: () });
            }
            Effect::Write { guard: Guard::Always, value: Value::Number(what) } => {
                self.numbers.push(Floating { number, called, what });
            }
            Effect::Write { value: Value::Absent | Value::Number(_), .. } => return Err(TooMuch),
            Effect::Write { guard: Guard::Always | Guard::Is(Value::Absent), value } => {
                self.texts.push(Floating { number, called, what: value });
            }
            // A text that no answer shows, in place of another one.
            Effect::Write { .. } | Effect::Read(_) => {}
            Effect::Add { by: 0, .. } => return Err(TooMuch),
            Effect::Add { by, .. } => self.additions.push(Floating { number, called, what: by }),
        }
        Ok(())
    }

    /// Ends the adding.
    pub(super) fn complete(mut self) -> Self {
        self.additions.sort_by_key(|addition| addition.what.unsigned_abs());
        let mut smaller: u128 = 0;
        self.is_telling = self.additions.iter().all(|addition| {
            let size = u128::from(addition.what.unsigned_abs());
            let is_telling = size > 2 * smaller;
            smaller += size;
            is_telling
        });
        self
    }

    /// Every state that `effect` may leave if it takes effect next, after floating operations that were called until `end`.
    pub(super) fn ways(&self, effect: Effect, state: &State, end: u64) -> Result<Vec<State>, TooMuch> {
        let directly = effect.apply(state.register);
        let mut ways: Vec<State> =
            directly.map(|register| State { register, used: state.used.clone() }).into_iter().collect();
        let mut reached: Vec<State> = Vec::new();
        match effect {
            Effect::Add { sum: None, .. } => reached.extend(self.bases(state, end)),
            _ if directly.is_some() => {}
            Effect::Add { by, sum: Some(sum) } => {
                if let Some(before) = sum.checked_sub(by) {
                    reached = self.at_number(before, state, end)?;
                }
            }
            Effect::Read(guard) | Effect::Write { guard, .. } => match guard {
                Guard::Is(Value::Number(number)) => reached = self.at_number(number, state, end)?,
                Guard::Is(Value::Absent) => reached.extend(self.deleted(state, end)),
                Guard::Present => reached = self.present(state, end),
                Guard::Always | Guard::Is(Value::Text(_)) => {}
            },
        }
        ways.extend(
            reached
                .into_iter()
                .filter_map(|State { register, used }| Some(State { register: effect.apply(register)?, used })),
        );
        Ok(ways)
    }

    /// After a deletion, or the write of a number.
    fn bases<'a>(&'a self, state: &'a State, end: u64) -> impl Iterator<Item = State> + 'a {
        let numbers = available(&self.numbers, state, end);
        let numbers = numbers.map(|write| state.with(Value::Number(write.what), [write.number]));
        self.deleted(state, end).into_iter().chain(numbers)
    }

    /// After a deletion. All that may take effect now are alike from here on.
    fn deleted(&self, state: &State, end: u64) -> Option<State> {
        available(&self.deletions, state, end).next().map(|deletion| state.with(Value::Absent, [deletion.number]))
    }

    /// After anything that leaves a value where there is none.
    fn present(&self, state: &State, end: u64) -> Vec<State> {
        let texts = available(&self.texts, state, end).take(1).map(|text| state.with(text.what, [text.number]));
        let numbers = available(&self.numbers, state, end).chain(available(&self.additions, state, end));
        texts.chain(numbers.map(|number| state.with(Value::Number(number.what), [number.number]))).collect()
    }

    /// With this number: after increments, of what there is, of nothing, or of a number that was written.
    fn at_number(&self, number: i64, state: &State, end: u64) -> Result<Vec<State>, TooMuch> {
        let mut reached = Vec::new();
        for base in std::iter::once(state.clone()).chain(self.bases(state, end)) {
            let Some(from) = base.register.number() else { continue };
            let difference = i128::from(number) - i128::from(from);
            let additions: Vec<_> = available(&self.additions, state, end).copied().collect();
            let sets = match difference {
                0 if base.register != Value::Absent || self.is_telling => Vec::new(),
                // Of nothing, increments that add up to 0 make a number.
                _ if !self.is_telling => all(&additions, difference)?,
                _ => told(&additions, difference).into_iter().collect(),
            };
            reached.extend(sets.into_iter().map(|set| base.with(Value::Number(number), set)));
            if difference == 0 {
                reached.push(base);
            }
        }
        Ok(reached)
    }
}

impl State {
    fn with(&self, register: Value, more: impl IntoIterator<Item = usize>) -> Self {
        let mut used = self.used.clone();
        used.extend(more);
        used.sort_unstable();
        Self { register, used }
    }
}

fn available<'a, T>(all: &'a [Floating<T>], state: &'a State, end: u64) -> impl Iterator<Item = &'a Floating<T>> {
    all.iter().filter(move |one| one.called <= end && state.used.binary_search(&one.number).is_err())
}

/// The only set of these with this sum, where each is larger than twice the sum of those before it.
fn told(additions: &[Floating<i64>], sum: i128) -> Option<Vec<usize>> {
    let mut smaller: i128 = additions.iter().map(|addition| i128::from(addition.what).abs()).sum();
    let (mut rest, mut set) = (sum, Vec::new());
    for addition in additions.iter().rev() {
        smaller -= i128::from(addition.what).abs();
        if rest.abs() > smaller {
            rest -= i128::from(addition.what);
            set.push(addition.number);
        }
    }
    (rest == 0).then_some(set)
}

/// Every set of these with this sum, and one at least in it.
fn all(additions: &[Floating<i64>], sum: i128) -> Result<Vec<Vec<usize>>, TooMuch> {
    if additions.len() > COMBINED_MAX {
        return Err(TooMuch);
    }
    let sets = (1..1_u32 << additions.len()).map(|mask| {
        additions.iter().enumerate().filter(move |(index, _)| mask & 1 << index != 0).map(|(_, addition)| addition)
    });
    let fitting = sets.filter(|set| set.clone().map(|addition| i128::from(addition.what)).sum::<i128>() == sum);
    Ok(fitting.map(|set| set.map(|addition| addition.number).collect()).collect())
}
