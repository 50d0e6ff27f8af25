use rand::{RngExt, SeedableRng, rngs::SmallRng};

use super::*;

fn call(called: u64, returned: u64, effect: Effect) -> Call {
    Call { called, returned: (returned > 0).then_some(returned), effect }
}

/// 0 for no value.
fn text(value: u32) -> Value {
    if value == 0 { Value::Absent } else { Value::Text(value) }
}

fn write(called: u64, returned: u64, value: u32) -> Call {
    call(called, returned, Effect::Write { guard: Guard::Always, value: text(value) })
}

fn swap(called: u64, returned: u64, expected: u32, value: u32) -> Call {
    call(called, returned, Effect::Write { guard: Guard::Is(text(expected)), value: text(value) })
}

fn read(called: u64, returned: u64, value: u32) -> Call {
    call(called, returned, Effect::Read(Guard::Is(text(value))))
}

/// A deletion that found something.
fn delete(called: u64, returned: u64) -> Call {
    call(called, returned, Effect::Write { guard: Guard::Present, value: Value::Absent })
}

fn present(called: u64, returned: u64) -> Call {
    call(called, returned, Effect::Read(Guard::Present))
}

fn add(called: u64, returned: u64, by: i64, sum: i64) -> Call {
    call(called, returned, Effect::Add { by, sum: (returned > 0).then_some(sum) })
}

fn set(called: u64, returned: u64, number: i64) -> Call {
    call(called, returned, Effect::Write { guard: Guard::Always, value: Value::Number(number) })
}

fn shows(called: u64, returned: u64, number: i64) -> Call {
    call(called, returned, Effect::Read(Guard::Is(Value::Number(number))))
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
        // Increments, in the order of their sums; one of unknown outcome that took effect much later, and one that never did.
        vec![add(1, 10, 4, 5), add(2, 9, 1, 1), shows(11, 12, 5)],
        vec![add(1, 0, 1, 0), add(2, 3, 4, 4), shows(4, 5, 4), add(6, 7, 16, 21), shows(8, 9, 21)],
        vec![add(1, 0, 1, 0), add(1, 0, -4, 0), add(1, 0, 16, 0), add(2, 3, 64, 77), shows(4, 5, 77)],
        vec![set(1, 2, 100), add(3, 4, 1, 101), set(5, 0, 7), add(6, 0, 4, 0), add(8, 9, 1, 12)],
        // An increment whose retry is told no sum.
        vec![call(1, 9, Effect::Add { by: 1, sum: None }), set(2, 3, 50), shows(10, 11, 50)],
        vec![set(1, 0, 50), call(2, 9, Effect::Add { by: 1, sum: None }), shows(10, 11, 51)],
        // A deletion of unknown outcome, a value that only a deletion found, and an increment of what was deleted.
        vec![write(1, 2, 1), delete(3, 0), read(4, 5, 1), read(6, 7, 0), write(8, 9, 2), read(10, 11, 2)],
        vec![write(1, 0, 1), delete(2, 3), read(4, 5, 0)],
        vec![swap(1, 0, 0, 1), present(2, 3), delete(4, 5)],
        vec![set(1, 2, 9), delete(3, 0), add(4, 5, 1, 1)],
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
        // An increment that counts twice, one that is lost, two of one sum, a sum of nothing.
        (vec![add(1, 2, 1, 1), add(3, 4, 4, 5), shows(5, 6, 6)], 2),
        (vec![add(1, 0, 1, 0), add(3, 4, 4, 6)], 1),
        (vec![add(1, 2, 1, 1), add(3, 4, 4, 5), shows(5, 6, 4)], 2),
        (vec![add(1, 10, 1, 1), add(2, 9, 1, 1)], 1),
        (vec![add(1, 2, 1, 1), add(3, 0, 4, 0), add(5, 6, 1, 6), shows(7, 8, 2)], 3),
        // A deletion of nothing, a value that a deletion removed, one deletion of unknown outcome for two.
        (vec![delete(1, 2)], 0),
        (vec![write(1, 2, 1), delete(3, 4), read(5, 6, 1)], 2),
        (vec![write(1, 2, 1), delete(3, 0), read(4, 5, 0), write(6, 7, 2), read(8, 9, 0)], 4),
        (vec![write(1, 0, 1), delete(2, 3), delete(4, 5)], 2),
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
    // On texts, on numbers whose sums tell their parts, and on numbers whose sums do not.
    for (kind, rounds) in [(Kind::Texts, 4_000), (Kind::Telling, 8_000), (Kind::Alike, 8_000)] {
        let mut verdicts = [0, 0];
        for _ in 0..rounds {
            let calls = random_calls(kind, &mut rng);
            let expected = possible(&calls, 0, Value::Absent);
            verdicts[usize::from(expected)] += 1;
            assert_eq!(answer(&calls) == Answer::Explained, expected, "{calls:?}");
        }
        assert!(verdicts.iter().all(|count| *count > 300), "both were looked at: {kind:?}, {verdicts:?}");
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Texts,
    Telling,
    Alike,
}

fn random_calls(kind: Kind, rng: &mut SmallRng) -> Vec<Call> {
    let count = rng.random_range(1..8);
    // What a register might hold, so that many histories are legal.
    let mut register = Value::Absent;
    let mut calls: Vec<Call> = Vec::new();
    for number in 0..count {
        let called = rng.random_range(1..20);
        let returned = rng.random_bool(0.7).then(|| called + rng.random_range(0..8));
        let effect = random_effect(kind, number, register, returned.is_none(), rng);
        register = effect.apply(register).unwrap_or(register);
        calls.push(Call { called, returned, effect });
    }
    if rng.random_bool(0.5) {
        // In the order in which they were drawn: only the outcomes and the overlaps are random.
        let mut called: Vec<u64> = calls.iter().map(|call| call.called).collect();
        called.sort_unstable();
        for (call, called) in calls.iter_mut().zip(called) {
            call.returned = call.returned.map(|returned| called + (returned - call.called));
            call.called = called;
        }
    }
    calls
}

fn random_effect(kind: Kind, number: u32, register: Value, is_unknown: bool, rng: &mut SmallRng) -> Effect {
    let some = |rng: &mut SmallRng| match kind {
        _ if rng.random_bool(0.5) => register,
        Kind::Texts => text(rng.random_range(0..=number + 1)),
        Kind::Telling | Kind::Alike => Value::Number(rng.random_range(-4..=6)),
    };
    match (kind, rng.random_range(0..10)) {
        (_, 0..3) => Effect::Read(Guard::Is(some(rng))),
        (_, 3) => Effect::Read(Guard::Present),
        (_, 4) => Effect::Write { guard: Guard::Present, value: Value::Absent },
        (Kind::Texts, 5..8) => Effect::Write { guard: Guard::Always, value: text(number + 1) },
        (Kind::Texts, _) => {
            let guard = if rng.random_bool(0.3) { Guard::Present } else { Guard::Is(some(rng)) };
            Effect::Write { guard, value: text(number + 1) }
        }
        (_, 5) => Effect::Write { guard: Guard::Always, value: Value::Number(rng.random_range(-4..=6)) },
        (_, 6) if !is_unknown => {
            Effect::Write { guard: Guard::Is(some(rng)), value: Value::Number(rng.random_range(-4..=6)) }
        }
        _ => {
            let by =
                if kind == Kind::Telling { (-4_i64).pow(number) } else { [-2, -1, 1, 2, 3][rng.random_range(0..5)] };
            let sum = match register.number() {
                Some(before) if rng.random_bool(0.7) => Some(before + by),
                _ => rng.random_bool(0.5).then(|| rng.random_range(-4..=6)),
            };
            Effect::Add { by, sum: sum.filter(|_| !is_unknown) }
        }
    }
}

/// The definition, word by word: some order of all answered and some unanswered calls.
fn possible(calls: &[Call], done: u32, register: Value) -> bool {
    let left = |index: &usize| done & (1 << index) == 0;
    let mut open = (0..calls.len()).filter(left).filter_map(|index| calls[index].returned);
    let Some(first_end) = open.by_ref().min() else { return true };
    (0..calls.len()).filter(left).any(|index| {
        let Call { called, effect, .. } = calls[index];
        let after = effect.apply(register).filter(|_| called <= first_end);
        after.is_some_and(|after| possible(calls, done | 1 << index, after))
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
    // Increments of unknown outcome, of which every third took effect.
    let mut sum = 0;
    let counted: Vec<Call> = (0..24_u32)
        .flat_map(|number| {
            let (by, at) = ((-4_i64).pow(number), u64::from(number) * 10 + 1);
            sum += if number % 3 == 0 { by } else { 0 };
            [add(at, 0, by, 0), shows(at + 1, at + 2, sum)]
        })
        .collect();
    assert_eq!(search(&counted, 10_000), Answer::Explained);
    let alike: Vec<Call> = (1..=20).map(|by| add(1, 0, by, 0)).chain([shows(50, 60, 77)]).collect();
    assert_eq!(search(&alike, 10_000), Answer::Undecided);
}
