//! Whether what clients saw of one key can be explained by one register: Wing and Gong's search with Lowe's memory.
//!
//! It knows nothing of versions, so that it checks them too. It ends in bounded time because
//!
//! - a write of unknown outcome whose value no client read or replaced may as well never have happened, and is left out; one
//!   whose value was seen took effect before the first operation that saw it ended, and ends there, so that every operation
//!   ends;
//! - the history is cut wherever no operation is under way, and only the values that the register may have there are
//!   carried on;
//! - a read of the register's value is taken at once: it changes nothing, so that postponing it gains nothing. Only writes
//!   that overlap branch, and the search visits every state (what took effect, and the register's value) once.

use std::collections::{BTreeSet, HashMap, HashSet};

/// One operation on the register. Values are numbers, 0 being the absence of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it was asked.
    pub called: u64,
    /// When its answer had come. Nothing: the outcome is unknown; it takes effect at any later time, or never.
    pub returned: Option<u64>,
    /// A write, or a read.
    pub is_write: bool,
    /// What was written, or read.
    pub value: u32,
    /// The value that the register must have when a write with a condition takes effect.
    pub expected: Option<u32>,
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
    /// The search was given up: too many states for one stretch without a quiet moment.
    Undecided,
}

/// Searches, and looks at `states_max` states between two quiet moments at most.
pub fn search(calls: &[Call], states_max: usize) -> Answer {
    let spans = closed(calls);
    let mut registers = BTreeSet::from([0]);
    let mut rest = spans.as_slice();
    while !rest.is_empty() {
        let mut end = rest[0].returned;
        let length = rest.iter().position(|span| {
            let quiet = span.called > end;
            end = end.max(span.returned);
            quiet
        });
        let (stretch, later) = rest.split_at(length.unwrap_or(rest.len()));
        registers = match explain(stretch, &registers, states_max) {
            Ok(registers) => registers,
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
    is_write: bool,
    value: u32,
    expected: Option<u32>,
    place: usize,
}

impl Span {
    fn may_write(&self, register: u32) -> bool {
        self.is_write && self.expected.is_none_or(|expected| expected == register)
    }
}

/// When each value was there at the latest: the first end of a read that shows it, or of a write that replaced it.
fn first_seen(calls: &[Call]) -> HashMap<u32, u64> {
    let mut first_seen: HashMap<u32, u64> = HashMap::new();
    loop {
        let mut is_complete = true;
        for Call { called, returned, is_write, value, expected } in calls.iter().copied() {
            // A write of unknown outcome that was seen replaced a value before that.
            let end = returned.or(first_seen.get(&value).map(|seen| called.max(*seen)));
            let shows = if is_write { expected } else { Some(value) };
            let Some((end, shows)) = end.zip(shows) else { continue };
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

/// Gives an end to writes of unknown outcome, or leaves them out; in the order of their calls.
fn closed(calls: &[Call]) -> Vec<Span> {
    let first_seen = first_seen(calls);
    let mut spans: Vec<Span> = Vec::with_capacity(calls.len());
    for (place, Call { called, returned, is_write, value, expected }) in calls.iter().copied().enumerate() {
        let seen = first_seen.get(&value).copied().filter(|_| is_write);
        // A read that ended before the call of its write is impossible; the search has to see that, not this.
        let Some(returned) = returned.or(seen.map(|seen| seen.max(called))) else { continue };
        spans.push(Span { called, returned, is_write, value, expected, place });
    }
    spans.sort_by_key(|span| (span.called, span.returned));
    spans
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

/// The values that the register may hold after a stretch that begins with one of `registers`.
fn explain(stretch: &[Span], registers: &BTreeSet<u32>, states_max: usize) -> Result<BTreeSet<u32>, Answer> {
    let mut known: HashSet<(Done, u32)> = HashSet::new();
    let mut stack: Vec<(Done, u32)> = registers.iter().map(|register| (Done::default(), *register)).collect();
    let mut last = BTreeSet::new();
    let mut furthest = (0, stretch[0].place);
    while let Some((mut done, register)) = stack.pop() {
        let (open, first) = loop {
            let (open, first) = done.next(stretch);
            let fitting = |index: &&usize| !stretch[**index].is_write && stretch[**index].value == register;
            let Some(read) = open.iter().find(fitting) else { break (open, first) };
            done.add(*read);
        };
        let Some(first) = first else {
            last.insert(register);
            continue;
        };
        if done.count() >= furthest.0 {
            furthest = (done.count(), stretch[first].place);
        }
        if known.len() >= states_max {
            return Err(Answer::Undecided);
        }
        if !known.insert((done.clone(), register)) {
            continue;
        }
        for index in open.into_iter().filter(|index| stretch[*index].may_write(register)) {
            let mut next = done.clone();
            next.add(index);
            stack.push((next, stretch[index].value));
        }
    }
    if last.is_empty() { Err(Answer::Impossible { call: furthest.1 }) } else { Ok(last) }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    fn write(called: u64, returned: u64, value: u32) -> Call {
        Call { called, returned: (returned > 0).then_some(returned), is_write: true, value, expected: None }
    }

    fn swap(called: u64, returned: u64, expected: u32, value: u32) -> Call {
        Call { expected: Some(expected), ..write(called, returned, value) }
    }

    fn read(called: u64, returned: u64, value: u32) -> Call {
        Call { called, returned: Some(returned), is_write: false, value, expected: None }
    }

    fn answer(calls: &[Call]) -> Answer {
        search(calls, 100_000)
    }

    // Goal: the checker accepts what a register can do and nothing else. Method: textbook histories.
    #[test]
    fn overlapping_operations_and_unknown_outcomes_are_explained() {
        for calls in [
            vec![],
            vec![read(1, 2, 0)],
            vec![write(1, 10, 1), read(2, 3, 0), read(4, 5, 1)],
            vec![write(1, 0, 1), read(2, 3, 0), read(50, 51, 1)],
            vec![write(1, 0, 1), read(2, 3, 0)],
            vec![write(1, 10, 1), write(2, 9, 2), read(11, 12, 1)],
            vec![write(1, 10, 1), write(2, 9, 2), read(11, 12, 2)],
            // The unknown one takes effect long after its client gave up.
            vec![write(1, 0, 1), write(5, 6, 2), read(7, 8, 2), write(9, 10, 3), read(11, 12, 1)],
            // Writes with conditions: one after the other, in the order that their conditions ask for, and one that never was.
            vec![swap(1, 2, 0, 1), swap(3, 4, 1, 2), read(5, 6, 2)],
            vec![swap(1, 10, 2, 3), swap(2, 9, 1, 2), swap(3, 8, 0, 1), read(11, 12, 3)],
            vec![write(1, 2, 1), swap(3, 0, 1, 2), swap(4, 5, 1, 3), read(6, 7, 3)],
            // One open write, many operations beside it.
            vec![write(1, 100, 1), write(2, 3, 2), read(4, 5, 2), write(6, 7, 3), read(8, 9, 3), read(110, 111, 1)],
        ] {
            assert_eq!(answer(&calls), Answer::Explained, "{calls:?}");
        }
    }

    #[test]
    fn lost_stale_vanishing_and_invented_values_are_found() {
        for (calls, culprit) in [
            (vec![write(1, 2, 1), read(3, 4, 0)], 1),
            (vec![write(1, 2, 1), write(3, 4, 2), read(5, 6, 1)], 2),
            (vec![write(1, 0, 1), read(2, 3, 1), read(4, 5, 0)], 2),
            (vec![write(1, 2, 1), write(3, 4, 2), read(5, 6, 2), read(7, 8, 1)], 3),
            (vec![write(1, 2, 1), read(3, 4, 7)], 1),
            // Two writes that replace one value, and one that replaces what is not there.
            (vec![write(1, 2, 1), swap(3, 10, 1, 2), swap(4, 9, 1, 3), read(11, 12, 2)], 2),
            (vec![write(1, 2, 1), swap(3, 4, 0, 2)], 1),
            // Read before it was written.
            (vec![read(1, 2, 1), write(3, 4, 1)], 0),
            (vec![read(1, 2, 1), write(3, 0, 1)], 0),
            // Two reads that contradict each other while both writes are under way.
            (vec![write(1, 20, 1), write(2, 19, 2), read(3, 4, 1), read(5, 6, 2), read(7, 8, 1)], 4),
        ] {
            assert_eq!(answer(&calls), Answer::Impossible { call: culprit }, "{calls:?}");
        }
    }

    #[test]
    fn a_quiet_moment_carries_every_possible_value_on() {
        let both = [write(1, 10, 1), write(2, 9, 2)];
        for value in [1, 2] {
            let calls = [&both[..], &[read(20, 21, value), read(30, 31, value)]].concat();
            assert_eq!(answer(&calls), Answer::Explained);
        }
        let calls = [&both[..], &[read(20, 21, 1), read(30, 31, 2)]].concat();
        assert_eq!(answer(&calls), Answer::Impossible { call: 3 });
    }

    // Goal: the shortcuts change no verdict. Method: random histories, legal and spoiled ones, beside plain trying out.
    #[test]
    fn it_agrees_with_trying_every_order() {
        let mut rng = SmallRng::seed_from_u64(5);
        let mut verdicts = [0, 0];
        for _ in 0..4_000 {
            let count = rng.random_range(1..8);
            let calls: Vec<Call> = (0..count)
                .map(|number| {
                    let called = rng.random_range(0..20);
                    let ended = called + rng.random_range(0..8);
                    if rng.random_bool(0.5) {
                        let write = write(called, if rng.random_bool(0.3) { 0 } else { ended }, number + 1);
                        let expected = rng.random_bool(0.3).then(|| rng.random_range(0..=number));
                        Call { expected, ..write }
                    } else {
                        read(called, ended, rng.random_range(0..=count))
                    }
                })
                // A time of 0 means no answer.
                .map(|call| Call { called: call.called + 1, returned: call.returned.map(|at| at + 1), ..call })
                .collect();
            let expected = possible(&calls, 0, 0);
            verdicts[usize::from(expected)] += 1;
            assert_eq!(answer(&calls) == Answer::Explained, expected, "{calls:?}");
        }
        assert!(verdicts.iter().all(|count| *count > 300), "both kinds were looked at: {verdicts:?}");
    }

    /// The definition, word by word: some order of all answered and some unanswered calls.
    fn possible(calls: &[Call], done: u32, register: u32) -> bool {
        let left = |index: &usize| done & (1 << index) == 0;
        let mut open = (0..calls.len()).filter(left).filter_map(|index| calls[index].returned);
        let Some(first_end) = open.by_ref().min() else { return true };
        (0..calls.len()).filter(left).any(|index| {
            let Call { called, is_write, value, expected, .. } = calls[index];
            called <= first_end
                && (is_write || value == register)
                && expected.is_none_or(|expected| expected == register)
                && possible(calls, done | 1 << index, if is_write { value } else { register })
        })
    }

    #[test]
    fn a_long_history_takes_no_long_time_and_a_tangle_is_given_up() {
        let long: Vec<Call> = (0..100_000_u32)
            .flat_map(|number| {
                let at = u64::from(number) * 10;
                // Each overlaps its neighbours, so that there is no quiet moment.
                [write(at, at + 14, number + 1), read(at + 12, at + 16, number + 1)]
            })
            .collect();
        assert_eq!(search(&long, 1_000_000), Answer::Explained);
        let tangle: Vec<Call> = (1..=24).map(|value| write(1, 100, value)).chain([read(50, 60, 99)]).collect();
        assert_eq!(search(&tangle, 10_000), Answer::Undecided);
    }
}
