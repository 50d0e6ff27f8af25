//! Whether what clients saw of one key can be explained by one register: Wing and Gong's search, with memory.

use std::collections::HashSet;

use kv_node::protocol::value::Value;

/// One operation on the register.
#[derive(Clone, Debug)]
pub(crate) struct Call<V> {
    pub(crate) called: u64,
    /// Nothing: the outcome is unknown; it may take effect at any later time, or never.
    pub(crate) returned: Option<u64>,
    pub(crate) is_write: bool,
    /// What was written, or read. Nothing is the absence of a value.
    pub(crate) value: Option<V>,
    /// What the register must have when a write with a condition takes effect.
    pub(crate) expected: Option<Option<V>>,
    /// What a write adds to the register. Its value is the sum, or nothing if no answer shows it.
    pub(crate) by: Option<i64>,
}

/// What a register holds.
pub(crate) trait Held: Clone + Eq {
    /// The sum, if there is one. Nothing counts as 0.
    fn sum(held: Option<&Self>, by: i64) -> Option<Self>;
}

impl Held for Value {
    fn sum(held: Option<&Self>, by: i64) -> Option<Self> {
        let before: i64 = held.map_or(Some(0), |value| value.as_text()?.parse().ok())?;
        Some(before.checked_add(by)?.to_string().into())
    }
}

/// How many states are looked at before the search gives up. Histories of the simulation need a few thousand.
const STATES_MAX: usize = 2_000_000;

/// # Errors
/// Why there is no explanation.
pub(crate) fn check<V: Held>(calls: &[Call<V>]) -> Result<(), String> {
    let mut search = Search::new(calls);
    // Few writes of unknown outcome take effect between two answers that depend on the register. Where sums show them,
    // longer rows of them are tried only if shorter ones explain nothing.
    let mut row_max = if search.has_sums { 1 } else { usize::MAX };
    let mut known = 0;
    loop {
        let Found { explained, furthest, is_cut, states } = search.run(row_max, STATES_MAX.saturating_sub(known));
        known += states;
        match (explained, is_cut) {
            (true, _) => return Ok(()),
            _ if known >= STATES_MAX => return Err("the search did not end".to_owned()),
            (false, true) => row_max += 1,
            (false, false) => {
                let needed = search.needed;
                return Err(format!("no order explains more than {furthest} of {needed} answered operations"));
            }
        }
    }
}

struct Search<'a, V> {
    /// In the order of their calls.
    calls: Vec<&'a Call<V>>,
    /// The register holds one of these.
    distinct: Vec<Option<V>>,
    /// The place of each call's value among them, and of the value that it expects.
    values: Vec<usize>,
    expected: Vec<Option<usize>>,
    has_sums: bool,
    /// How many calls are answered.
    needed: usize,
}

struct Found {
    explained: bool,
    furthest: usize,
    /// Whether longer rows of writes of unknown outcome would be possible.
    is_cut: bool,
    states: usize,
}

impl<'a, V: Held> Search<'a, V> {
    fn new(calls: &'a [Call<V>]) -> Self {
        let has_sums = calls.iter().any(|call| call.by.is_some());
        let seen = |value: &Option<V>| {
            calls.iter().any(|call| (!call.is_write && call.value == *value) || call.expected.as_ref() == Some(value))
        };
        // A write of unknown outcome whose value no operation saw may as well never have happened. What was added to shows
        // in the sum.
        let counts = |call: &&Call<V>| {
            call.returned.is_some() || (has_sums && V::sum(call.value.as_ref(), 0).is_some()) || seen(&call.value)
        };
        let mut calls: Vec<&Call<V>> = calls.iter().filter(counts).collect();
        calls.sort_by_key(|call| call.called);
        let mut distinct: Vec<Option<V>> = vec![None];
        let values = calls.iter().map(|call| number_of(&mut distinct, call.value.as_ref())).collect();
        let expected = calls.iter().map(|call| Some(number_of(&mut distinct, call.expected.as_ref()?.as_ref())));
        let expected = expected.collect();
        let needed = calls.iter().filter(|call| call.returned.is_some()).count();
        Self { calls, distinct, values, expected, has_sums, needed }
    }

    /// Depth first over (set of operations that took effect, value of the register, length of the row of writes of unknown
    /// outcome that took effect last).
    fn run(&mut self, row_max: usize, states_max: usize) -> Found {
        let ends: Vec<u64> = self.calls.iter().map(|call| call.returned.unwrap_or(u64::MAX)).collect();
        let count = self.calls.len();
        let mut known: HashSet<(Vec<u64>, usize, usize)> = HashSet::new();
        let mut stack = vec![(vec![0_u64; count.div_ceil(64)], 0_usize, 0_usize, 0_usize)];
        let mut found = Found { explained: false, furthest: 0, is_cut: false, states: 0 };
        while let Some((done, register, row, answered)) = stack.pop() {
            found.furthest = found.furthest.max(answered);
            if answered == self.needed {
                found.explained = true;
            }
            if found.explained || known.len() > states_max {
                break;
            }
            let is_done = |index: usize| done[index / 64] & (1 << (index % 64)) != 0;
            // Whatever comes next was called before the first of the remaining ones returned.
            let open: Vec<usize> = (0..count).filter(|index| !is_done(*index)).collect();
            let first_end = open.iter().map(|index| ends[*index]).min().unwrap_or(u64::MAX);
            let mut open: Vec<usize> =
                open.into_iter().filter(|index| self.calls[*index].called <= first_end).collect();
            // A read that fits changes nothing: postponing it gains nothing.
            if let Some(read) =
                open.iter().find(|index| !self.calls[**index].is_write && self.values[**index] == register)
            {
                open = vec![*read];
            }
            for index in open {
                let call = self.calls[index];
                let is_unknown = self.has_sums && call.returned.is_none();
                let is_blind = call.is_write && call.expected.is_none() && call.by.is_none();
                if row > 0 && is_blind {
                    // What it overwrites may as well never have happened.
                    continue;
                }
                let Some(after) = self.after(index, register) else { continue };
                if is_unknown && row >= row_max {
                    found.is_cut = true;
                    continue;
                }
                let row = if is_unknown { row + 1 } else { 0 };
                let mut next = done.clone();
                next[index / 64] |= 1 << (index % 64);
                if known.insert((next.clone(), after, row)) {
                    stack.push((next, after, row, answered + usize::from(call.returned.is_some())));
                }
            }
        }
        found.states = known.len();
        found
    }

    /// What the register holds after this call, if it may take effect now.
    fn after(&mut self, index: usize, register: usize) -> Option<usize> {
        let call = self.calls[index];
        let needs = if call.is_write { self.expected[index] } else { Some(self.values[index]) };
        if needs.is_some_and(|needs| needs != register) {
            return None;
        }
        let Some(by) = call.by else { return Some(if call.is_write { self.values[index] } else { register }) };
        let sum = V::sum(self.distinct[register].as_ref(), by)?;
        let sum = number_of(&mut self.distinct, Some(&sum));
        (call.value.is_none() || sum == self.values[index]).then_some(sum)
    }
}

/// The place of a value among `distinct`, where it is put if it is not there.
fn number_of<V: Held>(distinct: &mut Vec<Option<V>>, value: Option<&V>) -> usize {
    distinct.iter().position(|known| known.as_ref() == value).unwrap_or_else(|| {
        distinct.push(value.cloned());
        distinct.len() - 1
    })
}

#[cfg(test)]
mod tests {
    use super::{Call, Held, check};

    impl Held for u32 {
        fn sum(held: Option<&Self>, by: i64) -> Option<Self> {
            u32::try_from(i64::from(held.copied().unwrap_or(0)) + by).ok()
        }
    }

    fn add(called: u64, returned: u64, by: i64, sum: u32) -> Call<u32> {
        Call { by: Some(by), ..call(called, returned, true, sum) }
    }

    fn call(called: u64, returned: u64, is_write: bool, value: u32) -> Call<u32> {
        let returned = (returned > 0).then_some(returned);
        Call { called, returned, is_write, value: (value > 0).then_some(value), expected: None, by: None }
    }

    fn swap(called: u64, returned: u64, expected: u32, value: u32) -> Call<u32> {
        Call { expected: Some((expected > 0).then_some(expected)), ..call(called, returned, true, value) }
    }

    // Goal: the checker accepts what a register can do and nothing else. Method: textbook histories.
    #[test]
    fn explains_overlapping_operations_and_unknown_outcomes() {
        let reads_between = [call(1, 10, true, 1), call(2, 3, false, 0), call(4, 5, false, 1)];
        assert_eq!(check(&reads_between), Ok(()));
        let appears_late = [call(1, 0, true, 1), call(2, 3, false, 0), call(50, 51, false, 1)];
        assert_eq!(check(&appears_late), Ok(()));
        let one_by_one = [swap(1, 10, 1, 2), swap(2, 9, 0, 1), call(11, 12, false, 2)];
        assert_eq!(check(&one_by_one), Ok(()));
        let sums = [add(1, 10, 4, 7), add(2, 9, 3, 3), call(11, 12, false, 7)];
        assert_eq!(check(&sums), Ok(()));
        // One counts late, one never does, and the answer to the retry of one shows no sum.
        let unknown = [add(1, 0, 4, 0), add(1, 0, 9, 0), add(2, 3, 3, 3), add(4, 5, 1, 8), add(6, 7, 2, 0)];
        assert_eq!(check(&[&unknown[..], &[call(8, 9, false, 10)]].concat()), Ok(()));
        let never_happened = [call(1, 0, true, 1), call(2, 3, false, 0)];
        assert_eq!(check(&never_happened), Ok(()));
    }

    #[test]
    fn finds_lost_stale_and_vanishing_values() {
        let lost = [call(1, 2, true, 1), call(3, 4, false, 0)];
        assert!(check(&lost).is_err());
        let stale = [call(1, 2, true, 1), call(3, 4, true, 2), call(5, 6, false, 1)];
        assert!(check(&stale).is_err());
        let seen_then_gone = [call(1, 0, true, 1), call(2, 3, false, 1), call(4, 5, false, 0)];
        assert!(check(&seen_then_gone).is_err());
        let both_replace = [call(1, 2, true, 1), swap(3, 9, 1, 2), swap(4, 8, 1, 3)];
        assert!(check(&both_replace).is_err());
        let counts_twice = [add(1, 2, 4, 4), add(3, 4, 3, 10)];
        assert!(check(&counts_twice).is_err());
        let of_what_is_replaced = [call(1, 2, true, 5), add(3, 9, 1, 6), add(4, 8, 2, 7)];
        assert!(check(&of_what_is_replaced).is_err());
        let twice = [call(1, 2, true, 1), call(3, 4, true, 2), call(5, 6, false, 2), call(7, 8, false, 1)];
        assert!(check(&twice).is_err());
    }
}
