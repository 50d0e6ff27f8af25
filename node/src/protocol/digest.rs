//! Compares two states without sending them: keys are divided into buckets, and each bucket has one
//! number.
//!
//! The number is the sum of a hash of every record in the bucket. The sum does not depend on the
//! order of the records, and sums of parts can be added. Buckets with equal numbers count as equal;
//! with 64 bits, two different buckets have the same number with a probability of about 2⁻⁶⁴.
//!
//! The hash does not include the epoch. A leader gives recovered records its own epoch, and need
//! not send them again to followers that have the same values under an earlier epoch.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::types::{Epoch, Record};

/// Maximum number of buckets. Bounds the message that carries a digest to 512 KiB.
pub const BUCKETS_MAX: usize = 65_536;

/// How fine a comparison is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLimits {
    /// About how many keys share a bucket at most. A bucket that differs is sent in full.
    pub keys_per_bucket: usize,
    /// The fewest buckets.
    pub least: usize,
    /// The most buckets, a power of two, at most [`BUCKETS_MAX`].
    pub most: usize,
}

impl Default for BucketLimits {
    fn default() -> Self {
        Self { keys_per_bucket: 64, least: 16, most: BUCKETS_MAX }
    }
}

impl BucketLimits {
    /// How many buckets suit a state of so many keys: a power of two.
    pub fn buckets_for(&self, keys: usize) -> u32 {
        // The bounds come first, so that the number always fits.
        let buckets = (keys / self.keys_per_bucket.max(1)).max(self.least.max(1));
        buckets.min(self.most.clamp(1, BUCKETS_MAX)).next_power_of_two() as u32
    }
}

/// The digest of a state: one sum for each bucket of keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Digest {
    seed: u64,
    sums: Vec<u64>,
}

/// A set of buckets.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Buckets {
    seed: u64,
    count: u32,
    bits: Vec<u64>,
}

/// The seed of every hash that a leader of this epoch compares. Since the id of a leader is random,
/// no client can prepare keys or values that collide under a later leader.
pub fn seed_of(epoch: Epoch) -> u64 {
    xxh3_64_with_seed(&epoch.term.to_le_bytes(), epoch.leader)
}

fn bucket_of(key_hash: u64, count: usize) -> usize {
    // The upper half of the product is distributed as evenly as a remainder, without a division.
    ((u128::from(key_hash) * count as u128) >> 64) as usize
}

impl Digest {
    /// The digest of an empty state. The number of buckets is clamped to 1..=[`BUCKETS_MAX`].
    pub fn new(buckets: u32, seed: u64) -> Self {
        Self { seed, sums: vec![0; (buckets as usize).clamp(1, BUCKETS_MAX)] }
    }

    /// The digest of an empty state, comparable with this one.
    #[must_use]
    pub fn emptied(&self) -> Self {
        Self::new(self.buckets(), self.seed)
    }

    /// The seed of its hashes.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many buckets.
    pub fn buckets(&self) -> u32 {
        self.sums.len() as u32
    }

    /// Adds a record.
    pub fn add(&mut self, key: &str, record: &Record) {
        let key = xxh3_64_with_seed(key.as_bytes(), self.seed);
        let bucket = bucket_of(key, self.sums.len());
        self.sums[bucket] = self.sums[bucket].wrapping_add(hash(key, record));
    }

    /// Removes a record that was added.
    pub fn remove(&mut self, key: &str, record: &Record) {
        let key = xxh3_64_with_seed(key.as_bytes(), self.seed);
        let bucket = bucket_of(key, self.sums.len());
        self.sums[bucket] = self.sums[bucket].wrapping_sub(hash(key, record));
    }

    /// Adds the digest of another part of the same state. A part with another number of buckets or
    /// another seed is useless: every bucket of this digest then differs from any other digest.
    pub fn join(&mut self, part: &Self) {
        if part.sums.len() != self.sums.len() || part.seed != self.seed {
            self.sums.clear();
        }
        self.sums.iter_mut().zip(&part.sums).for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
    }

    /// The digest of the same state with fewer buckets. Both numbers are powers of two, so each new
    /// bucket consists of whole old ones.
    pub fn folded(&self, buckets: u32) -> Self {
        let each = (self.sums.len() / (buckets as usize).max(1)).max(1);
        let sum = |sums: &[u64]| sums.iter().fold(0_u64, |sum, more| sum.wrapping_add(*more));
        Self { seed: self.seed, sums: self.sums.chunks(each).map(sum).collect() }
    }

    /// The digest of the same state without the keys of these buckets. Their number is a power of two,
    /// and at most that of this digest.
    #[must_use]
    pub fn without(mut self, buckets: &Buckets) -> Self {
        let each = (self.sums.len() / (buckets.count as usize).max(1)).max(1);
        for (bucket, sums) in self.sums.chunks_mut(each).enumerate() {
            if buckets.contains_bucket(bucket) {
                sums.fill(0);
            }
        }
        self
    }

    /// The buckets that differ from those of the other digest; all of them if the numbers of
    /// buckets or the seeds differ.
    pub fn differing(&self, other: &Self) -> Buckets {
        let mut buckets = Buckets::none(self.buckets(), self.seed);
        let comparable = self.sums.len() == other.sums.len() && self.seed == other.seed;
        for (bucket, sum) in self.sums.iter().enumerate() {
            if !comparable || other.sums[bucket] != *sum {
                buckets.insert(bucket);
            }
        }
        buckets
    }
}

fn hash(key: u64, record: &Record) -> u64 {
    let Record { version, value, marks } = record;
    let mut hash = xxh3_64_with_seed(&version.seq.to_le_bytes(), key);
    if let Some(value) = value {
        // Another seed, so that an empty value differs from an absent one.
        hash = xxh3_64_with_seed(value, hash.wrapping_add(1));
    }
    for mark in marks.iter().flat_map(|marks| marks.iter()) {
        hash = xxh3_64_with_seed(mark.token.as_bytes(), hash.wrapping_add(2));
        hash = xxh3_64_with_seed(&mark.seq.to_le_bytes(), hash);
        hash = xxh3_64_with_seed(&mark.fingerprint.to_le_bytes(), hash);
    }
    hash
}

impl Buckets {
    /// The empty set, of `count` buckets.
    pub fn none(count: u32, seed: u64) -> Self {
        Self { seed, count, bits: vec![0; (count as usize).div_ceil(64)] }
    }

    /// The set that contains every key.
    pub fn all() -> Self {
        Self { seed: 0, count: 1, bits: vec![1] }
    }

    /// Whether the bucket of this key is in the set.
    pub fn contains(&self, key: &str) -> bool {
        self.contains_bucket(bucket_of(xxh3_64_with_seed(key.as_bytes(), self.seed), self.count as usize))
    }

    fn contains_bucket(&self, bucket: usize) -> bool {
        self.bits.get(bucket / 64).is_some_and(|bits| bits & 1 << (bucket % 64) != 0)
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Adds the bucket of a key.
    pub fn insert_key(&mut self, key: &str) {
        self.insert(bucket_of(xxh3_64_with_seed(key.as_bytes(), self.seed), self.count as usize));
    }

    /// Adds the buckets of another set with the same `count`.
    pub fn join(&mut self, others: &Self) {
        self.bits.iter_mut().zip(&others.bits).for_each(|(bits, more)| *bits |= more);
    }

    /// The buckets that are not in another set with the same `count`.
    #[must_use]
    pub fn without(mut self, others: &Self) -> Self {
        self.bits.iter_mut().zip(&others.bits).for_each(|(bits, less)| *bits &= !less);
        self
    }

    /// Whether a bucket is in both sets. Returns true if the sets have different numbers of
    /// buckets.
    pub fn meets(&self, others: &Self) -> bool {
        self.count != others.count || self.bits.iter().zip(&others.bits).any(|(a, b)| a & b != 0)
    }

    fn insert(&mut self, bucket: usize) {
        if let Some(bits) = self.bits.get_mut(bucket / 64) {
            *bits |= 1 << (bucket % 64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::types::{RetryMark, Version};

    const SEED: u64 = 11;

    fn record(term: u64, seq: u64, value: Option<&str>) -> Record {
        Record {
            version: Version { epoch: Epoch { term, leader: term }, seq },
            value: value.map(Into::into),
            marks: None,
        }
    }

    fn of(records: &[(&str, Record)]) -> Digest {
        let mut digest = Digest::new(16, SEED);
        records.iter().for_each(|(key, record)| digest.add(key, record));
        digest
    }

    #[test]
    fn the_order_and_the_epoch_do_not_matter() {
        let one = of(&[("a", record(1, 3, Some("x"))), ("b", record(2, 1, None))]);
        let other = of(&[("b", record(7, 1, None)), ("a", record(7, 3, Some("x")))]);
        assert!(one.differing(&other).is_empty());
        let mut parts = of(&[("a", record(1, 3, Some("x")))]);
        parts.join(&of(&[("b", record(1, 1, None))]));
        assert_eq!(parts, one);
    }

    // Goal: if any part of a record differs, the bucket of its key differs, and no other. Method:
    // change each part.
    #[test]
    fn everything_else_does() {
        let marked = |token: &str, seq, fingerprint| Record {
            marks: Some([RetryMark { token: token.into(), seq, fingerprint }].into()),
            ..record(1, 3, Some("x"))
        };
        let base = record(1, 3, Some("x"));
        let others = [
            record(1, 4, Some("x")),
            record(1, 3, Some("y")),
            record(1, 3, Some("")),
            record(1, 3, None),
            marked("t", 3, 9),
            marked("t", 2, 9),
            marked("u", 3, 9),
            marked("t", 3, 8),
        ];
        let kept = ("elsewhere", record(1, 1, Some("k")));
        let digests: Vec<Digest> =
            others.iter().chain([&base]).map(|record| of(&[("a", record.clone()), kept.clone()])).collect();
        for (number, one) in digests.iter().enumerate() {
            for other in &digests[number + 1..] {
                let differing = one.differing(other);
                assert!(differing.contains("a") && !differing.contains("elsewhere") && differing.len() == 1);
            }
        }
        assert!(of(&[("a", base.clone())]).differing(&of(&[])).contains("a"));
        assert!(of(&[]).differing(&of(&[("a", base)])).contains("a"));
    }

    #[test]
    fn what_was_taken_out_is_gone() {
        let mut digest = of(&[("a", record(1, 3, Some("x"))), ("b", record(1, 1, None))]);
        digest.remove("a", &record(5, 3, Some("x")));
        assert_eq!(digest, of(&[("b", record(1, 1, None))]));
    }

    #[test]
    fn fewer_buckets_are_sums_of_more() {
        let [mut fine, mut coarse] = [BUCKETS_MAX as u32, 64].map(|buckets| Digest::new(buckets, SEED));
        for number in 0..1_000 {
            let (key, record) = (format!("key{number}"), record(1, number, Some("x")));
            fine.add(&key, &record);
            coarse.add(&key, &record);
        }
        assert_eq!(fine.folded(64), coarse);
        assert_eq!(coarse.folded(64), coarse);
        assert_eq!((coarse.folded(1).buckets(), coarse.folded(0).buckets()), (1, 1));
    }

    // Goal: a digest without some buckets equals the digest of the other keys. Method: leave out two
    // coarse buckets of a fine digest.
    #[test]
    fn buckets_can_be_left_out() {
        let mut left_out = Buckets::none(16, SEED);
        ["key1", "key2"].iter().for_each(|key| left_out.insert_key(key));
        let [mut all, mut others] = [BUCKETS_MAX as u32; 2].map(|buckets| Digest::new(buckets, SEED));
        for number in 0..1_000 {
            let (key, record) = (format!("key{number}"), record(1, number, Some("x")));
            all.add(&key, &record);
            if !left_out.contains(&key) {
                others.add(&key, &record);
            }
        }
        assert_ne!(all, others);
        assert_eq!(all.clone().without(&Buckets::none(16, SEED)), all);
        assert_eq!(all.clone().without(&left_out), others);
        assert_eq!(all.without(&Buckets::all()), Digest::new(BUCKETS_MAX as u32, SEED));
    }

    #[test]
    fn another_number_of_buckets_is_another_state() {
        let mut digest = Digest::new(16, SEED);
        assert_eq!(digest.differing(&Digest::new(17, SEED)).len(), 16);
        digest.join(&Digest::new(32, SEED));
        assert_eq!(Digest::new(16, SEED).differing(&digest).len(), 16);
        assert_eq!(Digest::new(0, SEED).buckets(), 1);
        assert_eq!(Digest::new(u32::MAX, SEED).buckets() as usize, BUCKETS_MAX);
    }

    // Goal: no client can prepare keys or values that collide under a later leader. Method: two
    // leaders compute different buckets and sums for the same records, and treat a digest with
    // another seed as different.
    #[test]
    fn another_leader_has_other_sums() {
        let [one, other] = [1, 2].map(|leader| {
            let mut digest = Digest::new(16, seed_of(Epoch { term: 7, leader }));
            (0..100).for_each(|number| digest.add(&format!("key{number}"), &record(1, number, Some("x"))));
            digest
        });
        let same = one.sums.iter().filter(|sum| other.sums.contains(sum)).count();
        assert_eq!((same, one.differing(&other).len()), (0, 16));
        let mut joined = one.emptied();
        joined.join(&other);
        assert_eq!(one.differing(&joined).len(), 16);
    }

    #[test]
    fn buckets_share_the_keys_evenly() {
        let keys: Vec<String> = (0..64 * 1024).map(|number| format!("key{number}")).collect();
        let limits = BucketLimits::default();
        let count = limits.buckets_for(keys.len()) as usize;
        assert_eq!(count, 1024);
        let mut sizes = vec![0; count];
        keys.iter().for_each(|key| sizes[bucket_of(xxh3_64_with_seed(key.as_bytes(), SEED), count)] += 1);
        assert!(sizes.iter().all(|size| (16..160).contains(size)), "{sizes:?}");
        assert_eq!((limits.buckets_for(0) as usize, limits.buckets_for(usize::MAX) as usize), (16, BUCKETS_MAX));
        assert!(keys.iter().all(|key| Buckets::all().contains(key) && !Buckets::none(7, SEED).contains(key)));
    }
}
