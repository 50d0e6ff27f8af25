//! What a client that watches keys has to be sent next.
//!
//! A [`Watch`] keeps no values. It knows which positions of the leader's map it still has to show: those from `walk` on, and
//! those before it whose keys changed. Each is shown as it is committed when it is sent, so that a client that reads slowly
//! gets the newest value of each key, and never an older one after a newer one. Once more than a limit of positions
//! changed, the walk begins again instead.

use std::collections::BTreeSet;

use super::types::{Key, Record};

/// What is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Watched {
    /// One key.
    Key(Key),
    /// All keys that begin with this text.
    Prefix(Box<str>),
}

impl Watched {
    fn matches(&self, key: &str) -> bool {
        match self {
            // The node keeps a mark of its own under the empty key.
            _ if key.is_empty() => false,
            Self::Key(only) => **only == *key,
            Self::Prefix(prefix) => key.starts_with(&**prefix),
        }
    }
}

/// A part of what the client has to be sent.
#[derive(Debug, Default)]
pub struct WatchPart {
    /// Keys and their newest committed records.
    pub changes: Vec<(Key, Record)>,
    /// Whether everything that was there has been shown with this part, for the first time.
    pub is_current: bool,
    /// Whether there is more to send now.
    pub more: bool,
}

/// What one client has to be sent.
#[derive(Clone, Debug)]
pub struct Watch {
    watched: Watched,
    /// The next position of the walk over all keys; `None` once it has ended.
    walk: Option<usize>,
    /// Positions before `walk` whose keys changed since they were shown.
    changed: BTreeSet<usize>,
    /// Where the next look at `changed` begins, so that all positions get their turn.
    turn: usize,
    /// How many positions `changed` has at most.
    changed_max: usize,
    /// Whether everything that was there has been shown once.
    is_current: bool,
    /// Whether the walk may meet keys that the client has been shown, so that it needs their deletions.
    repeats: bool,
}

impl Watch {
    /// Begins with everything that is there. Where a single key is watched, `place` is its position, if it has one.
    pub fn new(watched: Watched, place: Option<usize>, changed_max: usize) -> Self {
        let walk = matches!(watched, Watched::Prefix(_)).then_some(0);
        let (changed, turn, is_current, repeats) = (place.into_iter().collect(), 0, false, false);
        Self { watched, walk, changed, turn, changed_max, is_current, repeats }
    }

    /// A write of the key at this position is committed. Returns whether the client has to be sent something.
    pub fn committed(&mut self, position: usize, key: &str) -> bool {
        if !self.watched.matches(key) {
            return false;
        }
        if self.walk.is_none_or(|next| position < next) {
            self.changed.insert(position);
            if self.changed.len() > self.changed_max {
                self.changed.clear();
                (self.walk, self.repeats) = (Some(0), true);
            }
        }
        true
    }

    /// Takes the next part: at most `positions` positions, and none after those that reach `bytes` bytes of values. `at`
    /// returns the key at a position and its newest committed record.
    pub fn next_part<'a>(
        &mut self,
        positions: usize,
        bytes: usize,
        at: impl Fn(usize) -> Option<(&'a Key, Option<&'a Record>)>,
    ) -> WatchPart {
        let mut part = WatchPart::default();
        // While the walk lasts, changes get half of each part, so that neither holds up the other.
        let share = if self.walk.is_some() { 2 } else { 1 };
        let (mut looked_at, mut size) = (0, 0);
        while looked_at < positions.div_ceil(share)
            && size < bytes / share
            && let Some(position) = self.next_changed()
        {
            looked_at += 1;
            if let Some((key, Some(record))) = at(position)
                && (record.value.is_some() || self.shows_deletions())
            {
                size += record.value.as_ref().map_or(0, |value| value.len());
                part.changes.push((key.clone(), record.clone()));
            }
        }
        let (mut looked_at, mut size) = (0, 0);
        while looked_at < positions.div_ceil(share)
            && size < bytes / share
            && let Some(position) = self.walk
        {
            let Some((key, record)) = at(position) else {
                self.walk = None;
                break;
            };
            (self.walk, looked_at) = (Some(position + 1), looked_at + 1);
            if let Some(record) = record.filter(|record| record.value.is_some() || self.repeats)
                && self.watched.matches(key)
            {
                size += record.value.as_ref().map_or(0, |value| value.len());
                part.changes.push((key.clone(), record.clone()));
            }
        }
        part.more = self.walk.is_some() || !self.changed.is_empty();
        let is_shown = match self.watched {
            Watched::Key(_) => true,
            Watched::Prefix(_) => self.walk.is_none(),
        };
        part.is_current = is_shown && !self.is_current;
        self.is_current |= is_shown;
        part
    }

    /// Whether a change may be a deletion that the client needs. The one key of a watch is shown first as what is
    /// there.
    fn shows_deletions(&self) -> bool {
        self.is_current || matches!(self.watched, Watched::Prefix(_))
    }

    fn next_changed(&mut self) -> Option<usize> {
        let position = self.changed.range(self.turn..).next().or_else(|| self.changed.first()).copied()?;
        self.changed.remove(&position);
        self.turn = position + 1;
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;
    use crate::protocol::types::{Epoch, Version};

    type Entries = Vec<(Key, Option<Record>)>;

    fn at(entries: &Entries, position: usize) -> Option<(&Key, Option<&Record>)> {
        entries.get(position).map(|(key, record)| (key, record.as_ref()))
    }

    fn commit(entries: &mut Entries, position: usize, value: Option<u64>) {
        let seq = entries[position].1.as_ref().map_or(0, |record| record.version.seq) + 1;
        let value = value.map(|value| value.to_string().as_str().into());
        entries[position].1 = Some(Record { version: Version { epoch: Epoch::default(), seq }, value, marks: None });
    }

    /// What a client knows after what it was sent.
    #[derive(Default)]
    struct Client {
        seqs: BTreeMap<Key, u64>,
        values: BTreeMap<Key, String>,
        is_current: u32,
    }

    impl Client {
        fn read(&mut self, part: WatchPart) {
            for (key, record) in part.changes {
                let before = self.seqs.insert(key.clone(), record.version.seq);
                assert!(
                    before.is_none_or(|before| before <= record.version.seq),
                    "{key}: an older one after a newer one"
                );
                match record.value {
                    Some(value) => _ = self.values.insert(key, String::from_utf8_lossy(&value).into_owned()),
                    None => _ = self.values.remove(&key),
                }
            }
            self.is_current += u32::from(part.is_current);
        }
    }

    // Goal: whatever is committed and however slowly the client reads, it never gets an older value after a newer one, its
    // memory is bounded, and in the end it knows exactly what is there. Method: random steps over few keys, parts from one
    // position on, and limits from one change on, so that the walk begins again in many of them.
    #[test]
    fn a_client_ends_with_what_is_there() {
        for seed in 0..400 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut entries: Entries = vec![("".into(), None)];
            let new = |entries: &mut Entries| {
                let name = format!("{}{}", if entries.len().is_multiple_of(3) { "b" } else { "a" }, entries.len());
                entries.push((name.into(), None));
                entries.len() - 1
            };
            for _ in 0..random.random_range(0..20) {
                let position = new(&mut entries);
                if random.random_bool(0.7) {
                    commit(&mut entries, position, random.random_bool(0.7).then_some(seed));
                }
            }
            commit(&mut entries, 0, Some(1));
            let watched = match seed % 3 {
                0 => Watched::Prefix("".into()),
                1 => Watched::Prefix("a".into()),
                _ => Watched::Key("a1".into()),
            };
            let place = match &watched {
                Watched::Key(key) => entries.iter().position(|(other, _)| other == key),
                Watched::Prefix(_) => None,
            };
            let changed_max = random.random_range(1..12);
            let mut watch = Watch::new(watched.clone(), place, changed_max);
            let mut client = Client::default();
            for step in 0..random.random_range(1..300) {
                match random.random_range(0..5) {
                    0 => client.read(watch.next_part(
                        random.random_range(1..6),
                        [1, 3, 100][seed as usize % 3],
                        |position| at(&entries, position),
                    )),
                    1 if entries.len() < 30 => _ = new(&mut entries),
                    _ => {
                        let position = random.random_range(0..entries.len());
                        commit(&mut entries, position, random.random_bool(0.7).then_some(step));
                        let wakes = watch.committed(position, &entries[position].0);
                        assert_eq!(wakes, watched.matches(&entries[position].0));
                    }
                }
                assert!(watch.changed.len() <= changed_max);
            }
            let mut parts = 0;
            loop {
                let part = watch.next_part(2, 3, |position| at(&entries, position));
                let more = part.more;
                client.read(part);
                if !more {
                    break;
                }
                parts += 1;
                assert!(parts < 1_000, "seed {seed}: it never ends");
            }
            let there = entries.iter().filter(|(key, _)| watched.matches(key));
            let there = there.filter_map(|(key, record)| {
                let value = record.as_ref()?.value.as_deref()?;
                Some((key.clone(), String::from_utf8_lossy(value).into_owned()))
            });
            assert_eq!(client.values, there.collect(), "seed {seed}");
            assert_eq!(client.is_current, 1, "seed {seed}");
        }
    }

    // Goal: a key that changes all the time holds up no other. Method: the client reads one position at a time, and the first
    // key changes before each.
    #[test]
    fn every_key_gets_its_turn() {
        let mut entries: Entries = (0..5).map(|number| (format!("k{number}").into(), None)).collect();
        let mut watch = Watch::new(Watched::Prefix("".into()), None, 100);
        while watch.next_part(10, 100, |position| at(&entries, position)).more {}
        for position in 0..5 {
            commit(&mut entries, position, Some(1));
            watch.committed(position, &entries[position].0);
        }
        let mut client = Client::default();
        for _ in 0..5 {
            commit(&mut entries, 0, Some(2));
            watch.committed(0, "k0");
            client.read(watch.next_part(1, 100, |position| at(&entries, position)));
        }
        assert_eq!(client.values.len(), 5);
    }
}
