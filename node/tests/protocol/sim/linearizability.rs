//! Whether what clients saw of one key can be explained by one register: Wing and Gong's search, with memory.

use std::collections::HashSet;

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
}

/// How many states are looked at before the search gives up. Histories of the simulation need a few thousand.
const STATES_MAX: usize = 2_000_000;

/// # Errors
/// Why there is no explanation.
pub(crate) fn check<V: Clone + Eq>(calls: &[Call<V>]) -> Result<(), String> {
    // A write of unknown outcome whose value no operation saw may as well never have happened.
    let seen = |value: &Option<V>| {
        calls.iter().any(|call| (!call.is_write && call.value == *value) || call.expected.as_ref() == Some(value))
    };
    let mut calls: Vec<&Call<V>> = calls.iter().filter(|call| call.returned.is_some() || seen(&call.value)).collect();
    calls.sort_by_key(|call| call.called);
    let mut distinct: Vec<&Option<V>> = Vec::new();
    let values: Vec<usize> = calls
        .iter()
        .map(|call| {
            distinct.iter().position(|known| **known == call.value).unwrap_or_else(|| {
                distinct.push(&call.value);
                distinct.len() - 1
            })
        })
        .collect();
    // A value that no operation has matches none.
    let number_of = |value: &Option<V>| distinct.iter().position(|known| *known == value);
    let expected: Vec<Option<usize>> = calls
        .iter()
        .map(|call| {
            let expected = call.expected.as_ref()?;
            Some(number_of(expected).unwrap_or(if expected.is_none() { usize::MAX } else { usize::MAX - 1 }))
        })
        .collect();
    let initial = distinct.iter().position(|value| value.is_none()).unwrap_or(usize::MAX);
    let ends: Vec<u64> = calls.iter().map(|call| call.returned.unwrap_or(u64::MAX)).collect();
    let needed = calls.iter().filter(|call| call.returned.is_some()).count();

    // Depth first over (set of operations that took effect, value of the register).
    let words = calls.len().div_ceil(64);
    let mut known: HashSet<(Vec<u64>, usize)> = HashSet::new();
    let mut stack = vec![(vec![0_u64; words], initial, 0_usize)];
    let mut furthest = 0;
    while let Some((done, register, count)) = stack.pop() {
        if count == needed {
            return Ok(());
        }
        furthest = furthest.max(count);
        if known.len() > STATES_MAX {
            return Err("the search did not end".to_owned());
        }
        let is_done = |index: usize| done[index / 64] & (1 << (index % 64)) != 0;
        // Whatever comes next was called before the first of the remaining ones returned.
        let first_end = (0..calls.len()).filter(|index| !is_done(*index)).map(|index| ends[index]).min();
        let candidates =
            (0..calls.len()).filter(|index| !is_done(*index) && calls[*index].called <= first_end.unwrap_or(u64::MAX));
        for index in candidates {
            let needs = if calls[index].is_write { expected[index] } else { Some(values[index]) };
            if needs.is_some_and(|needs| needs != register) {
                continue;
            }
            let mut next = done.clone();
            next[index / 64] |= 1 << (index % 64);
            let register = if calls[index].is_write { values[index] } else { register };
            if known.insert((next.clone(), register)) {
                stack.push((next, register, count + usize::from(calls[index].returned.is_some())));
            }
        }
    }
    Err(format!("no order explains more than {furthest} of {needed} answered operations"))
}

#[cfg(test)]
mod tests {
    use super::{Call, check};

    fn call(called: u64, returned: u64, is_write: bool, value: u32) -> Call<u32> {
        let returned = (returned > 0).then_some(returned);
        Call { called, returned, is_write, value: (value > 0).then_some(value), expected: None }
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
        let twice = [call(1, 2, true, 1), call(3, 4, true, 2), call(5, 6, false, 2), call(7, 8, false, 1)];
        assert!(check(&twice).is_err());
    }
}
