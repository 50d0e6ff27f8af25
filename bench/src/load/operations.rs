//! What the clients do next: a random mix, or every key once.

use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    keys::{Distribution, KeyChooser},
    protocol::Operation,
    recorder::Kind,
};

/// The operations of one thread.
#[derive(Debug)]
pub(super) struct Operations {
    plan: Plan,
    random: StdRng,
    value: String,
    key: String,
}

#[derive(Debug)]
enum Plan {
    Mix { reads: f64, keys: KeyChooser },
    EachOnce { next: u64, keys: u64 },
}

impl Operations {
    /// Reads with probability `reads`, otherwise writes.
    pub(super) fn mix(reads: f64, distribution: Distribution, keys: u64, value_size_bytes: usize, seed: u64) -> Self {
        Self::new(Plan::Mix { reads, keys: KeyChooser::new(distribution, keys) }, value_size_bytes, seed)
    }

    /// Writes each key once.
    pub(super) fn each_once(keys: u64, value_size_bytes: usize, seed: u64) -> Self {
        Self::new(Plan::EachOnce { next: 0, keys }, value_size_bytes, seed)
    }

    fn new(plan: Plan, value_size_bytes: usize, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let value = letters(value_size_bytes, &mut random);
        Self { plan, random, value, key: String::new() }
    }

    /// The source of chance of this thread.
    pub(super) fn random(&mut self) -> &mut StdRng {
        &mut self.random
    }

    /// What the operations of the next pipeline are; `None` when all are done.
    pub(super) fn kind(&mut self) -> Option<Kind> {
        match &self.plan {
            Plan::Mix { reads, .. } => {
                // Without a mix no chance is needed to choose.
                let is_read = *reads > 0.0 && (*reads >= 1.0 || self.random.random::<f64>() < *reads);
                Some(if is_read { Kind::Get } else { Kind::Put })
            }
            Plan::EachOnce { next, keys } => (next < keys).then_some(Kind::Put),
        }
    }

    /// The next operation of this kind, with the number of its key; `None` when all are done.
    pub(super) fn next(&mut self, kind: Kind) -> Option<(u64, Operation<'_>)> {
        let number = match &mut self.plan {
            Plan::Mix { keys, .. } => keys.choose(&mut self.random),
            Plan::EachOnce { next, keys } => {
                if next == keys {
                    return None;
                }
                *next += 1;
                *next - 1
            }
        };
        name(&mut self.key, number);
        let key = &self.key;
        Some(match kind {
            Kind::Put => (number, Operation::Put { key, value: &self.value }),
            Kind::Get => (number, Operation::Get { key }),
        })
    }
}

/// What the first thread of a load with this seed writes under every key.
pub(crate) fn value(value_size_bytes: usize, seed: u64) -> String {
    letters(value_size_bytes, &mut StdRng::seed_from_u64(seed))
}

/// Nothing to escape in JSON, and nothing that compression could make small.
fn letters(count: usize, random: &mut StdRng) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..count).map(|_| char::from(LETTERS[random.random_range(0..LETTERS.len())])).collect()
}

/// `key` and the number, without the cost of formatting.
fn name(key: &mut String, mut number: u64) {
    const DIGITS_MAX: usize = 20;
    let mut digits = ['0'; DIGITS_MAX];
    let mut first = DIGITS_MAX;
    loop {
        first -= 1;
        digits[first] = char::from(b'0' + (number % 10) as u8);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    key.clear();
    key.push_str("key");
    key.extend(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_named_by_their_numbers() {
        let mut key = String::new();
        for number in [0, 7, 10, 9_999, 10_000, u64::MAX] {
            name(&mut key, number);
            assert_eq!(key, format!("key{number}"));
        }
    }

    #[test]
    fn a_mix_reads_as_often_as_asked_for() {
        for (reads, expected) in [(0.0, 0..=0), (0.5, 4_700..=5_300), (0.9, 8_800..=9_200), (1.0, 10_000..=10_000)] {
            let mut operations = Operations::mix(reads, Distribution::Uniform, 10, 16, 5);
            let gets = (0..10_000).filter(|_| operations.kind() == Some(Kind::Get)).count();
            assert!(expected.contains(&gets), "{gets} reads at {reads}");
        }
    }

    #[test]
    fn each_key_is_written_once_with_a_value_of_the_size_asked_for() {
        let mut operations = Operations::each_once(25, 64, 5);
        let mut keys = BTreeSet::new();
        while let Some((_, Operation::Put { key, value })) = operations.next(Kind::Put) {
            assert_eq!(value, super::value(64, 5));
            assert!(keys.insert(key.to_owned()), "{key} twice");
        }
        assert_eq!((keys.len(), operations.kind()), (25, None));
    }
}
