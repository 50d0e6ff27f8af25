//! The map of all keys, which grows in small steps.
//!
//! A full hash table is rebuilt at twice its size, and a full vector is copied. With millions of
//! keys that allocates hundreds of megabytes at once and blocks everything else meanwhile
//! (docs/performance.md has figures). This map never allocates or moves more than a few blocks or
//! shards at once:
//!
//! - **Entries** are in blocks, in the order in which their keys were added, and do not move: a
//!   position is a cursor.
//! - **Shards** are small hash tables from a key to its position. For every [`KEYS_PER_SHARD`] keys
//!   the next shard in turn is split in two. This is linear hashing (W. Litwin, 1980), with tables
//!   as its buckets.
//!
//! Hashes differ from process to process, but the order of iteration does not: it is the order of
//! positions.

use std::fmt;
use std::hash::BuildHasher;
use std::ops::Range;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::types::Key;

/// Maximum memory of the entries of a block. Small enough that allocating one never stalls a write.
/// Slightly below a power of two, since some allocators add a few bytes and would otherwise use the
/// next larger size.
const BLOCK_BYTES: usize = 16_000;

/// Keys in a shard on average. A shard about to be split has about twice as many as one that was
/// just split.
const KEYS_PER_SHARD: usize = 2048;

/// A map that keeps its keys in the order in which they were added.
#[derive(Clone)]
pub struct KeyMap<T> {
    blocks: Vec<Vec<(Key, T)>>,
    len: usize,
    shards: Vec<HashTable<Place>>,
    hasher: RandomState,
}

/// The position of a key's entry, with the hash of the key, so that splitting a shard does not read
/// the keys.
#[derive(Clone, Copy)]
struct Place {
    hash: u32,
    position: u32,
}

impl<T> Default for KeyMap<T> {
    fn default() -> Self {
        Self { blocks: Vec::new(), len: 0, shards: Vec::new(), hasher: RandomState::default() }
    }
}

/// The shard of a hash among `shards`, chosen by the low bits of the hash.
fn shard_of(hash: u32, shards: usize) -> usize {
    let mask = shards.next_power_of_two() - 1;
    let shard = hash as usize & mask;
    if shard < shards { shard } else { shard & (mask >> 1) }
}

/// The hash for the tables, which use the lowest and the highest bits. All hashes in a shard have
/// the same low bits, so this mixes the bits.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
}

impl<T> KeyMap<T> {
    /// Number of entries in a block.
    const BLOCK: usize = if size_of::<(Key, T)>() < BLOCK_BYTES { BLOCK_BYTES / size_of::<(Key, T)>() } else { 1 };

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the map contains a key.
    pub fn contains(&self, key: &str) -> bool {
        self.position(self.hash(key), key).is_some()
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&T> {
        self.find(key).map(|(_, value)| value)
    }

    /// The value of a key, mutable.
    pub fn get_mut(&mut self, key: &str) -> Option<&mut T> {
        self.find_mut(key).map(|(_, value)| value)
    }

    /// The key as the map has it, and its value, mutable.
    pub fn find_mut(&mut self, key: &str) -> Option<(&Key, &mut T)> {
        let position = self.position(self.hash(key), key)?;
        let (key, value) = self.entry_mut(position);
        Some((key, value))
    }

    /// The position and the value of a key. The position is valid until keys are removed.
    pub fn find(&self, key: &str) -> Option<(usize, &T)> {
        let position = self.position(self.hash(key), key)?;
        Some((position, &self.entry(position).1))
    }

    /// The key and the value at a position.
    pub fn at(&self, position: usize) -> Option<(&Key, &T)> {
        let (key, value) = self.blocks.get(position / Self::BLOCK)?.get(position % Self::BLOCK)?;
        Some((key, value))
    }

    /// The value at a position, mutable.
    pub fn at_mut(&mut self, position: usize) -> Option<&mut T> {
        self.blocks.get_mut(position / Self::BLOCK)?.get_mut(position % Self::BLOCK).map(|(_, value)| value)
    }

    /// Sets the value of a key. Returns the position of the key and its previous value.
    pub fn insert(&mut self, key: Key, value: T) -> (usize, Option<T>) {
        let hash = self.hash(&key);
        if let Some(position) = self.position(hash, &key) {
            let before = std::mem::replace(&mut self.entry_mut(position).1, value);
            return (position, Some(before));
        }
        (self.append(hash, key, value), None)
    }

    /// All entries, in the order of positions.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.range(0..self.len)
    }

    /// All values, mutable.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.blocks.iter_mut().flatten().map(|(_, value)| value)
    }

    /// The entries at these positions, as far as they exist.
    pub fn range(&self, positions: Range<usize>) -> impl Iterator<Item = (&Key, &T)> {
        let blocks = self.blocks.get(positions.start / Self::BLOCK..).unwrap_or_default();
        let entries = blocks.iter().flatten().skip(positions.start % Self::BLOCK).take(positions.len());
        entries.map(|(key, value)| (key, value))
    }

    /// Removes the entries for which `stays` returns false. The last entry takes the place of each,
    /// so that no other entry moves.
    pub fn retain(&mut self, mut stays: impl FnMut(&Key, &T) -> bool) {
        for position in (0..self.len).rev() {
            let (key, value) = self.entry(position);
            if !stays(key, value) {
                self.remove(position);
            }
        }
    }

    fn hash(&self, key: &str) -> u32 {
        (self.hasher.hash_one(key) >> 32) as u32
    }

    fn position(&self, hash: u32, key: &str) -> Option<usize> {
        let shard = self.shards.get(shard_of(hash, self.shards.len()))?;
        let is_it = |place: &Place| place.hash == hash && *self.entry(place.position as usize).0 == *key;
        shard.find(spread(hash), is_it).map(|place| place.position as usize)
    }

    /// The entry at a position from a shard, which always exists.
    fn entry(&self, position: usize) -> &(Key, T) {
        &self.blocks[position / Self::BLOCK][position % Self::BLOCK]
    }

    fn entry_mut(&mut self, position: usize) -> &mut (Key, T) {
        &mut self.blocks[position / Self::BLOCK][position % Self::BLOCK]
    }

    /// Adds a key that the map does not contain.
    fn append(&mut self, hash: u32, key: Key, value: T) -> usize {
        if self.len >= self.shards.len() * KEYS_PER_SHARD {
            self.add_shard();
        }
        let position = self.len;
        let place = Place { hash, position: u32::try_from(position).expect("four billion keys fit in no memory") };
        let shard = shard_of(hash, self.shards.len());
        self.shards[shard].insert_unique(spread(hash), place, |place| spread(place.hash));
        match self.blocks.last_mut() {
            Some(block) if block.len() < Self::BLOCK => block.push((key, value)),
            // The first block grows on demand: most maps in tests have few keys.
            Some(_) => {
                let mut block = Vec::with_capacity(Self::BLOCK);
                block.push((key, value));
                self.blocks.push(block);
            }
            None => self.blocks.push(vec![(key, value)]),
        }
        self.len += 1;
        position
    }

    /// Adds a shard and moves its keys there from the shard that had them so far.
    fn add_shard(&mut self) {
        let number = self.shards.len();
        self.shards.push(HashTable::new());
        let source = shard_of(number as u32, number);
        if source == number {
            return;
        }
        let places = std::mem::take(&mut self.shards[source]);
        let goes = |place: &Place| shard_of(place.hash, number + 1) == number;
        let going = places.iter().filter(|place| goes(place)).count();
        for (shard, room) in [(source, places.len() - going), (number, going)] {
            self.shards[shard] = HashTable::with_capacity(room);
        }
        for place in places {
            let shard = if goes(&place) { number } else { source };
            self.shards[shard].insert_unique(spread(place.hash), place, |place| spread(place.hash));
        }
    }

    fn remove(&mut self, position: usize) {
        self.with_place(position, |entry| _ = entry.remove());
        let last = self.len - 1;
        if position < last {
            self.with_place(last, |mut entry| entry.get_mut().position = position as u32);
        }
        let moved = self.blocks.last_mut().and_then(Vec::pop);
        if self.blocks.last().is_some_and(Vec::is_empty) {
            self.blocks.pop();
        }
        if let (Some(moved), true) = (moved, position < last) {
            *self.entry_mut(position) = moved;
        }
        self.len = last;
    }

    /// Passes the [`Place`] of the entry at this position to `change`.
    fn with_place(&mut self, position: usize, change: impl FnOnce(hashbrown::hash_table::OccupiedEntry<'_, Place>)) {
        let hash = self.hash(&self.entry(position).0);
        let shard = shard_of(hash, self.shards.len());
        if let Ok(entry) = self.shards[shard].find_entry(spread(hash), |place| place.position as usize == position) {
            change(entry);
        }
    }
}

/// Equal if both have the same keys with the same values, in any order.
impl<T: PartialEq> PartialEq for KeyMap<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().all(|(key, value)| other.get(key) == Some(value))
    }
}

impl<T: fmt::Debug> fmt::Debug for KeyMap<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn key(number: u32) -> Key {
        format!("key{number}").into()
    }

    // Goal: it behaves as a map, with stable positions. Method: random steps, compared with the map
    // of the standard library.
    #[test]
    fn it_holds_what_was_put_in_and_not_removed() {
        for seed in 0..20 {
            let mut random = StdRng::seed_from_u64(seed);
            let numbers = [10, 3_000, 20_000][seed as usize % 3];
            let (mut map, mut model) = (KeyMap::default(), HashMap::new());
            for _ in 0..6 {
                let mut positions = HashMap::new();
                for _ in 0..numbers {
                    let (number, value) = (random.random_range(0..numbers), random.random::<u32>());
                    let (position, before) = map.insert(key(number), value);
                    assert_eq!(before, model.insert(number, value));
                    assert_eq!(*positions.entry(number).or_insert(position), position, "it stays where it is");
                    assert_eq!(map.find(&key(number)), Some((position, &value)));
                    assert_eq!(map.at(position), Some((&key(number), &value)));
                }
                let kept = random.random_range(1..5);
                map.retain(|_, value| value % 5 < kept);
                model.retain(|_, value| *value % 5 < kept);
                assert_eq!(map.len(), model.len());
                for number in 0..numbers {
                    assert_eq!(map.get(&key(number)), model.get(&number));
                    assert_eq!(map.get_mut(&key(number)), model.get_mut(&number));
                }
                let listed: HashMap<Key, u32> = map.iter().map(|(key, value)| (key.clone(), *value)).collect();
                assert_eq!(listed.len(), map.iter().count(), "each key once");
                assert!(model.iter().all(|(number, value)| listed.get(&key(*number)) == Some(value)));
            }
            let mut copy = map.clone();
            assert_eq!(copy, map);
            copy.insert("another".into(), 1);
            assert_ne!(copy, map);
            map.retain(|_, _| false);
            assert!(map.is_empty() && map.iter().next().is_none() && map.at(0).is_none());
        }
    }

    #[test]
    fn keys_are_listed_in_the_order_in_which_they_came() {
        let mut map = KeyMap::default();
        (0..5_000).for_each(|number| _ = map.insert(key(number), number));
        assert!(map.iter().map(|(_, value)| *value).eq(0..5_000));
        for (start, end) in [(0, 1), (1_000, 1_100), (1_023, 1_025), (2_048, 5_000), (4_990, 6_000), (7_000, 8_000)] {
            assert!(
                map.range(start..end).map(|(_, value)| *value as usize).eq(start..end.min(5_000)),
                "{start}, {end}"
            );
        }
        map.values_mut().for_each(|value| *value += 1);
        assert!(map.iter().all(|(name, value)| *name == key(*value - 1)));
        // The last entry takes the place of the removed one.
        map.retain(|_, value| !matches!(value, 3 | 4_999 | 5_000));
        assert_eq!((map.at(2), map.len()), (Some((&key(4_997), &4_998)), 4_997));
        assert_eq!(format!("{:?}", map.range(0..2).collect::<Vec<_>>()), r#"[("key0", 1), ("key1", 2)]"#);
    }

    // Goal: adding a key never rebuilds anything large. Method: compare the sizes of all tables
    // before and after each key, and check that entries did not move.
    #[test]
    fn one_key_more_never_moves_more_than_a_shard_or_two() {
        let (mut map, mut before, mut most) = (KeyMap::default(), Vec::new(), 0);
        let mut first = None;
        for number in 0..300_000_u32 {
            map.insert(key(number), number);
            let sizes: Vec<usize> = map.shards.iter().map(HashTable::capacity).collect();
            let moved = (0..sizes.len()).filter(|shard| before.get(*shard) != Some(&sizes[*shard]));
            most = most.max(moved.map(|shard| map.shards[shard].len()).sum());
            before = sizes;
            // Only the first block grows, up to its full size.
            if map.len() == KeyMap::<u32>::BLOCK {
                first = map.at(0).map(|(key, _)| std::ptr::from_ref(key));
            }
        }
        assert_eq!(map.at(0).map(|(key, _)| std::ptr::from_ref(key)), first);
        assert!(map.blocks.iter().skip(1).all(|block| block.capacity() == KeyMap::<u32>::BLOCK));
        assert!(most < 5 * KEYS_PER_SHARD, "{most} keys moved for one");
        let sizes = map.shards.iter().map(HashTable::len);
        let (least, largest) = (sizes.clone().min(), sizes.max());
        assert!(least > Some(KEYS_PER_SHARD / 3) && largest < Some(KEYS_PER_SHARD * 5 / 2), "{least:?}, {largest:?}");
    }
}
