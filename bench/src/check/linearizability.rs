//! Whether what clients saw of one key can be explained by one register: Wing and Gong's search with Lowe's memory.
//!
//! It knows nothing of versions, so that it checks them too. It ends in bounded time because
//!
//! - a write of unknown outcome whose value no client read or replaced may as well never have happened, and is left out; one
//!   whose value was seen took effect before the first operation that saw it ended, and ends there, so that every operation
//!   ends;
//! - other operations of unknown outcome (increments, deletions, writes of numbers) take effect only where an answer cannot
//!   be explained without them ([`floating`]);
//! - the history is cut wherever no operation is under way, and only the states that are possible there are carried on;
//! - a read of the register's value is taken at once: it changes nothing, so that postponing it gains nothing. Only writes
//!   that overlap branch, and the search visits every state (what took effect, and the register's value) once.

mod floating;
mod register;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};

use self::floating::{AllFloating, State, TooMuch};
pub use self::register::{Effect, Guard, Value};

/// One operation on the register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was asked.
    pub called: u64,
    /// When its answer had come. Nothing: the outcome is unknown; it takes effect at any later time, or never.
    pub returned: Option<u64>,
    /// What it does.
    pub effect: Effect,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// There is an order that explains everything.
    Explained,
    /// There is none. No order gets beyond the answer of this call (its place in what was given).
    Impossible {
        /// Which one.
        call: usize,
    },
    /// The search was given up: too many states for one stretch without a quiet moment, or too many combinations of
    /// operations of unknown outcome.
    Undecided,
}

/// Searches, and looks at `states_max` states between two quiet moments at most.
pub fn search(calls: &[Call], states_max: usize) -> Answer {
    let Ok((spans, floating)) = ordered(calls) else { return Answer::Undecided };
    let mut states = BTreeSet::from([State::default()]);
    let mut rest = spans.as_slice();
    while !rest.is_empty() {
        let mut end = rest[0].returned;
        let length = rest.iter().position(|span| {
            let quiet = span.called > end;
            end = end.max(span.returned);
            quiet
        });
        let (stretch, later) = rest.split_at(length.unwrap_or(rest.len()));
        states = match explain(stretch, &floating, states, states_max) {
            Ok(states) => states,
            Err(answer) => return answer,
        };
        rest = later;
    }
    Answer::Explained
}

/// A call whose end is known, and its place in what was given.
#[derive(Clone, Copy, Debug)]
struct Span {
    called: u64,
    returned: u64,
    effect: Effect,
    place: usize,
}

/// When each text was there at the latest: the first end of a read that shows it, or of a write that replaced it.
fn first_seen(calls: &[Call]) -> HashMap<Value, u64> {
    let mut first_seen: HashMap<Value, u64> = HashMap::new();
    loop {
        let mut is_complete = true;
        for Call { called, returned, effect } in calls.iter().copied() {
            // A write of unknown outcome that was seen replaced a value before that.
            let end = returned.or(written(effect).and_then(|value| Some(called.max(*first_seen.get(&value)?))));
            let Some((end, shows @ Value::Text(_))) = end.zip(effect.shows()) else { continue };
            let seen = first_seen.entry(shows).or_insert(u64::MAX);
            if end < *seen {
                *seen = end;
                is_complete = false;
            }
        }
        if is_complete {
            return first_seen;
        }
    }
}

fn written(effect: Effect) -> Option<Value> {
    match effect {
        Effect::Write { value, .. } => Some(value),
        _ => None,
    }
}

/// The calls that have an end, or are given one, in the order of their calls; and the others.
fn ordered(calls: &[Call]) -> Result<(Vec<Span>, AllFloating), TooMuch> {
    let first_seen = first_seen(calls);
    let mut spans: Vec<Span> = Vec::with_capacity(calls.len());
    let mut floating: Vec<(u64, Effect)> = Vec::new();
    for (place, Call { called, returned, effect }) in calls.iter().copied().enumerate() {
        let seen = written(effect).and_then(|value| first_seen.get(&value));
        // A read that ended before the call of its write is impossible; the search has to see that, not this.
        match returned.or(seen.map(|seen| called.max(*seen))) {
            Some(returned) => spans.push(Span { called, returned, effect, place }),
            None => floating.push((called, effect)),
        }
    }
    spans.sort_by_key(|span| (span.called, span.returned));
    floating.sort_by_key(|(called, _)| *called);
    let mut all = AllFloating::default();
    floating.into_iter().try_for_each(|(called, effect)| all.add(called, effect))?;
    Ok((spans, all.complete()))
}

/// What took effect of a stretch: everything before `base`, and these beyond it, rising.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Done {
    base: usize,
    beyond: Vec<usize>,
}

impl Done {
    fn contains(&self, index: usize) -> bool {
        index < self.base || self.beyond.binary_search(&index).is_ok()
    }

    fn add(&mut self, index: usize) {
        if let Err(place) = self.beyond.binary_search(&index) {
            self.beyond.insert(place, index);
        }
        let reached = self.beyond.iter().enumerate().take_while(|(offset, done)| **done == self.base + offset).count();
        self.base += reached;
        self.beyond.drain(..reached);
    }

    fn count(&self) -> usize {
        self.base + self.beyond.len()
    }

    /// What may take effect next: whatever was called before the first of the remaining ones returned. And which that is.
    fn next(&self, stretch: &[Span]) -> (Vec<usize>, Option<usize>) {
        let (mut open, mut first) = (Vec::new(), None::<usize>);
        for (index, span) in stretch.iter().enumerate().skip(self.base) {
            if first.is_some_and(|first| span.called > stretch[first].returned) {
                break;
            }
            if !self.contains(index) {
                open.push(index);
                if first.is_none_or(|first| span.returned < stretch[first].returned) {
                    first = Some(index);
                }
            }
        }
        let end = first.map_or(0, |first| stretch[first].returned);
        open.retain(|index| stretch[*index].called <= end);
        (open, first)
    }
}

/// The states that are possible after a stretch that begins with one of `states`.
fn explain(
    stretch: &[Span],
    floating: &AllFloating,
    states: BTreeSet<State>,
    states_max: usize,
) -> Result<BTreeSet<State>, Answer> {
    let mut known: HashSet<(Done, State)> = HashSet::new();
    let mut stack: Vec<(Done, State)> = states.into_iter().map(|state| (Done::default(), state)).collect();
    let mut last = BTreeSet::new();
    let mut furthest = (0, stretch[0].place);
    while let Some((mut done, state)) = stack.pop() {
        let (open, first) = loop {
            let (open, first) = done.next(stretch);
            let fitting = |index: &&usize| {
                let effect = stretch[**index].effect;
                effect.is_read() && effect.apply(state.register).is_some()
            };
            let Some(read) = open.iter().find(fitting) else { break (open, first) };
            done.add(*read);
        };
        let Some(first) = first else {
            last.insert(state);
            continue;
        };
        if done.count() >= furthest.0 {
            furthest = (done.count(), stretch[first].place);
        }
        if known.len() >= states_max {
            return Err(Answer::Undecided);
        }
        if !known.insert((done.clone(), state.clone())) {
            continue;
        }
        let end = stretch[first].returned;
        for index in open {
            let ways = floating.ways(stretch[index].effect, &state, end).map_err(|TooMuch| Answer::Undecided)?;
            for way in ways {
                let mut next = done.clone();
                next.add(index);
                stack.push((next, way));
            }
        }
    }
    if last.is_empty() { Err(Answer::Impossible { call: furthest.1 }) } else { Ok(last) }
}
