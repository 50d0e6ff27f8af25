//! A running follower: the state machine, its store, and the connections of leaders.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};
use tracing::info;

use super::link::{ALIVE_EVERY, QUIET_TICKS_MAX, Watch};
use super::session::Connection;
use super::wire::{self, WireError, WritesIn};
use crate::deliberate::{self, DeliberateFault};
use crate::protocol::follower::{Change, Effects, Follower, approximate_bytes};
use crate::protocol::keymap::KeyMap;
use crate::protocol::messages::{Hello, ToFollower, ToLeader};
use crate::protocol::types::{Epoch, Key, RESTORE_MARK, Synced};
use crate::protocol::value::Value;
use crate::store::disk;
use crate::store::{Health, Store, StoreFailure, Stored};

/// Maximum number of records that one batch of a renewal stores again, and about how many bytes.
const RENEW_KEYS: usize = 4096;
const RENEW_BYTES: usize = 256 << 10;

/// Limits of the values that `POST /replicate` stores in addition to the leader's records.
#[derive(Clone, Copy, Debug)]
pub struct ForeignLimits {
    /// How many keys.
    pub keys: usize,
    /// How many bytes of keys and values.
    pub bytes: usize,
}

impl Default for ForeignLimits {
    fn default() -> Self {
        Self { keys: 100_000, bytes: 64 << 20 }
    }
}

/// The first position of a dump for values of `POST /replicate`.
pub(crate) const FOREIGN_POSITION: usize = usize::MAX / 2;

/// A value in the answer to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The value.
    pub value: Value,
    /// Its sequence number.
    pub seq: u64,
    /// The epoch of the leader that sent it; `None` for a value of `POST /replicate`.
    pub epoch: Option<Epoch>,
}

/// The freshness of the state: it contains every write acknowledged more than `lag` before `as_of`.
#[derive(Clone, Copy, Debug)]
struct Freshness {
    /// A moment before the leader sent the heartbeat with this lag.
    as_of: Instant,
    lag: Duration,
}

/// When this follower answered the heartbeats of a leader. Anything that the leader sends after it
/// received an answer was sent after that time.
#[derive(Debug, Default)]
struct Answers {
    epoch: Epoch,
    rounds: VecDeque<(u64, Instant)>,
}

impl Answers {
    /// How many rounds are kept. For a dropped round, an earlier one still gives a valid bound.
    const ROUNDS_MAX: usize = 256;

    fn note(&mut self, epoch: Epoch, round: u64, at: Instant) {
        if self.epoch != epoch {
            *self = Self { epoch, rounds: VecDeque::new() };
        }
        if self.rounds.len() < Self::ROUNDS_MAX {
            self.rounds.push_back((round, at));
        }
    }

    /// A moment that precedes everything that a leader sent after it received the answer to this
    /// round.
    fn before(&mut self, epoch: Epoch, heard: u64) -> Option<Instant> {
        if self.epoch != epoch {
            return None;
        }
        while self.rounds.get(1).is_some_and(|(round, _)| *round <= heard) {
            self.rounds.pop_front();
        }
        self.rounds.front().filter(|(round, _)| *round <= heard).map(|(_, at)| *at)
    }
}

/// Values of `POST /replicate`, which belong to no epoch. A read returns such a value while its
/// sequence number is the higher one. The follower sends it to no leader and never stores it as a
/// record, so its sender cannot undo an acknowledged write.
#[derive(Default)]
struct Foreign {
    values: KeyMap<(u64, Value)>,
    /// Bytes of all keys and values.
    bytes: usize,
    limits: ForeignLimits,
}

impl Foreign {
    fn insert(&mut self, key: &str, seq: u64, value: &[u8]) -> Result<(), ForeignFull> {
        let known = self.values.get(key).map(|(_, value)| value.len());
        let (keys, added) = (usize::from(known.is_none()), if known.is_none() { key.len() } else { 0 } + value.len());
        let bytes = self.bytes - known.unwrap_or(0) + added;
        let ForeignLimits { keys: keys_max, bytes: bytes_max } = self.limits;
        if self.values.len() + keys > keys_max || bytes > bytes_max {
            return Err(ForeignFull { keys: self.values.len(), bytes: self.bytes, limits: self.limits });
        }
        self.bytes = bytes;
        self.values.insert(key.into(), (seq, value.into()));
        Ok(())
    }
}

/// What a step came to.
struct Step {
    replies: Vec<ToLeader>,
    stored: Stored,
    /// Whether the follower obeys the leader of the connection.
    obeys: bool,
    malformed: Result<(), WireError>,
}

struct State {
    core: Follower,
    foreign: Foreign,
    /// When the last message of the leader was read. It may have waited in a socket before, while
    /// this process or the leader's was stopped.
    contact: Option<Instant>,
    /// From the newest heartbeat whose age has a bound. An install does not change it: a leader
    /// that was replaced without knowing it may have sent the state, and the bound of the earlier
    /// state remains valid.
    freshness: Option<Freshness>,
    answers: Answers,
    store: Store,
    /// Without a record of a restore, one has not begun yet, and a missing key means nothing.
    starts_from_backup: bool,
}

/// What a follower says of itself.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    /// Its greeting.
    pub hello: Hello,
    /// How many keys it has, deleted ones included.
    pub keys: usize,
    /// The URL of its leader.
    pub leader: Option<Arc<str>>,
    /// Upper bound of the age of its state, if a leader has reported it.
    pub staleness: Option<Duration>,
    /// How long ago the last message of a leader arrived.
    pub heard: Option<Duration>,
}

/// `POST /replicate` is refused, since its limits are reached.
#[derive(Debug, thiserror::Error)]
#[error(
    "{keys} keys of {bytes} bytes were replicated from outside already (limits: {} keys, {} bytes)", .limits.keys, .limits.bytes
)]
pub struct ForeignFull {
    keys: usize,
    bytes: usize,
    limits: ForeignLimits,
}

/// The result of a read.
#[derive(Clone, Debug)]
pub struct Found {
    /// The value, unless the key is absent.
    pub shown: Option<Shown>,
    /// Upper bound of the age of the state, if it is known.
    pub staleness: Option<Duration>,
    /// Whether a restore is unfinished. If so, neither a value nor its absence is meaningful.
    pub restoring: bool,
}

/// A follower.
pub struct Replica {
    state: Mutex<State>,
    found: Option<disk::Found>,
}

impl Replica {
    /// A follower with the state that its store loaded.
    pub fn new(core: Follower, store: Store, found: Option<disk::Found>) -> Arc<Self> {
        let (foreign, answers) = (Foreign::default(), Answers::default());
        let state = Mutex::new(State {
            core,
            foreign,
            contact: None,
            freshness: None,
            answers,
            store,
            starts_from_backup: false,
        });
        Arc::new(Self { state, found })
    }

    /// The condition of its data directory at start, if it has one.
    pub fn found(&self) -> Option<&disk::Found> {
        self.found.as_ref()
    }

    /// Reports a failure of the store, after which the follower has to exit.
    pub fn store_failure(&self) -> StoreFailure {
        self.state.lock().store.failure()
    }

    /// Sets the limits of `POST /replicate`.
    pub fn limit_foreign(&self, limits: ForeignLimits) {
        self.state.lock().foreign.limits = limits;
    }

    /// Declares that this cluster starts from a backup: until a restore has begun in it, a missing key means nothing.
    pub fn await_restore(&self) {
        self.state.lock().starts_from_backup = true;
    }

    /// The condition of its disk, if it has one.
    pub fn disk_health(&self) -> Option<Health> {
        self.state.lock().store.health()
    }

    /// Stores all records again, in parts, whenever the store needs them. Ends when the replica is
    /// dropped.
    pub async fn renew(replica: Weak<Self>) {
        let Some(mut renewal) = replica.upgrade().map(|replica| replica.state.lock().store.renewal()) else { return };
        loop {
            renewal.wanted().await;
            let mut position = 0;
            while renewal.is_wanted() {
                let Some(replica) = replica.upgrade() else { return };
                let mut stored;
                (stored, position) = replica.state.lock().renew_part(position);
                drop(replica);
                if stored.wait().await.is_err() {
                    return;
                }
            }
        }
    }

    /// The value of a key, with the staleness of this follower.
    pub fn get(&self, key: &str) -> Found {
        let state = self.state.lock();
        Found { shown: state.shown(key), staleness: state.staleness(), restoring: state.is_restoring() }
    }

    /// Whether a restore is unfinished, or awaited.
    pub fn is_restoring(&self) -> bool {
        self.state.lock().is_restoring()
    }

    /// A part of all values, in a stable order, from a position on: at most `keys` keys, and none
    /// after the one that reaches `bytes` bytes. Also returns the position of the next part, if
    /// there is one.
    pub fn dump_part(&self, position: usize, keys: usize, bytes: usize) -> (Vec<(Key, Shown)>, Option<usize>) {
        let state = self.state.lock();
        let (records, foreign) = (state.core.records(), &state.foreign.values);
        let (mut part, mut part_bytes, mut at) = (Vec::new(), 0, position);
        while at - position < keys && part_bytes < bytes {
            let key = match (records.at(at), at.checked_sub(FOREIGN_POSITION)) {
                (Some((key, _)), None) => Some(key),
                // After the leader's keys come those that only `POST /replicate` brought.
                (None, None) => return (part, Some(FOREIGN_POSITION)),
                (_, Some(place)) => match foreign.at(place) {
                    Some((key, _)) => Some(key).filter(|key| records.get(key).is_none()),
                    None => return (part, None),
                },
            };
            at += 1;
            if let Some((key, shown)) = key.and_then(|key| Some((key, state.shown(key)?))) {
                part_bytes += key.len() + shown.value.len();
                part.push((key.clone(), shown));
            }
        }
        (part, Some(at))
    }

    /// Stores a write of `POST /replicate`, which belongs to no epoch. A sequence number that is
    /// not higher than the stored one changes nothing.
    ///
    /// # Errors
    /// [`ForeignFull`] if the limits are reached.
    pub fn replicate(&self, key: &str, value: &[u8], seq: u64) -> Result<(), ForeignFull> {
        let mut state = self.state.lock();
        let known = state.core.get(key).map_or(0, |record| record.version.seq);
        let foreign = state.foreign.values.get(key).map_or(0, |(seq, _)| *seq);
        if seq > known.max(foreign) { state.foreign.insert(key, seq, value) } else { Ok(()) }
    }

    /// What this follower says of itself.
    pub fn view(&self) -> ReplicaView {
        let state = self.state.lock();
        ReplicaView {
            hello: state.core.hello(),
            keys: state.core.keys(),
            leader: state.core.leader().cloned(),
            staleness: state.staleness(),
            heard: state.contact.map(|received| received.elapsed()),
        }
    }

    /// The URL of the leader, if it is known.
    pub fn leader(&self) -> Option<Arc<str>> {
        self.state.lock().core.leader().cloned()
    }

    /// Serves one leader's connection until it ends.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn serve(
        &self,
        connection: Connection<impl AsyncRead + Unpin, impl AsyncWrite + Unpin>,
        leader: Arc<str>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let Connection { mut reader, mut writer, read: mut input } = connection;
        let mut output = BytesMut::new();
        let (hello, mut stored) = {
            let state = self.state.lock();
            (state.core.hello(), state.store.append(Vec::new()))
        };
        // Waits until promises of other connections are stored, since the greeting reports them.
        stored.wait().await?;
        wire::encode(&ToLeader::Hello(hello), &mut output);
        writer.write_all_buf(&mut output).await?;
        writer.flush().await?;
        let mut frames = Vec::new();
        let mut watch = Watch::new();
        let mut silent_since = None;
        loop {
            while let Some(frame) = wire::next(&mut input)? {
                frames.push(frame);
            }
            if !frames.is_empty() {
                let Step { replies, mut stored, obeys, malformed } = self.state.lock().step(&mut frames, &leader);
                malformed?;
                if deliberate::is_on(DeliberateFault::ConfirmsBeforeStored) {
                    stored = Store::Memory.append(Vec::new());
                }
                // Keep-alives, so that the leader does not close the connection while a slow disk
                // stores.
                while timeout(ALIVE_EVERY, stored.wait()).await.map_or(Ok(true), |wait| wait.map(|()| false))? {
                    if obeys {
                        // The leader's next messages wait unread, so its silence proves nothing.
                        self.state.lock().core.still_hears();
                    }
                    wire::encode_alive(&mut output);
                    writer.write_all_buf(&mut output).await?;
                    writer.flush().await?;
                }
                // The leader's keep-alives waited unread meanwhile.
                watch.note();
                replies.iter().for_each(|reply| wire::encode(reply, &mut output));
                // The follower does not answer each part of a state, and there may be many, so it
                // sends keep-alives.
                if !output.is_empty() {
                    silent_since = None;
                } else if silent_since.get_or_insert_with(Instant::now).elapsed() >= ALIVE_EVERY {
                    silent_since = None;
                    wire::encode_alive(&mut output);
                }
            }
            writer.write_all_buf(&mut output).await?;
            writer.flush().await?;
            wire::give_back(&mut output);
            tokio::select! {
                biased;
                read = reader.read_buf(&mut input) => match read? {
                    0 => return Ok(()),
                    _ => watch.note(),
                },
                quiet_ticks = watch.tick() => {
                    if quiet_ticks > QUIET_TICKS_MAX {
                        return Err("nothing was heard from the leader".into());
                    }
                    wire::encode_alive(&mut output);
                }
            }
        }
    }
}

impl State {
    /// Handles frames of a leader, up to one that is malformed.
    fn step(&mut self, frames: &mut Vec<BytesMut>, leader: &Arc<str>) -> Step {
        let mut effects = Effects::default();
        let heard_before = self.core.heard();
        let now = Instant::now();
        let malformed = frames.drain(..).try_for_each(|frame| -> Result<(), WireError> {
            let heard = self.core.heard();
            match WritesIn::of(&frame) {
                Some(mut writes) if !deliberate::is_on(DeliberateFault::ObeysReplacedLeader) => {
                    self.core.write(writes.epoch(), &mut writes, &mut effects);
                    writes.end()?;
                }
                _ => self.step_one(wire::message(&frame)?, leader, now, &mut effects),
            }
            if self.core.heard() > heard && self.core.leader() != Some(leader) {
                self.core.set_leader(leader.clone());
            }
            Ok(())
        });
        let stored = self.store.append(effects.changes);
        Step { replies: effects.replies, stored, obeys: self.core.heard() > heard_before, malformed }
    }

    fn step_one(&mut self, message: ToFollower, leader: &Arc<str>, now: Instant, effects: &mut Effects) {
        if let Some(reply) = deliberate::answer_to_replaced_leader(&message, self.core.promised()) {
            effects.replies.push(reply);
            return;
        }
        let heartbeat = match message {
            ToFollower::Probe { epoch, round, lag_us, heard } if lag_us < u64::MAX => {
                Some((epoch, round, lag_us, heard))
            }
            _ => None,
        };
        let before = self.core.synced().map(|synced| synced.epoch);
        self.core.step(message, effects);
        if let Some((epoch, round, lag_us, heard)) = heartbeat
            && self.core.promised() == epoch
            && self.core.synced().is_some_and(|synced| synced.epoch == epoch)
        {
            if let Some(as_of) = self.answers.before(epoch, heard) {
                self.contact = Some(now);
                self.freshness = Some(Freshness { as_of, lag: Duration::from_micros(lag_us) });
            }
            self.answers.note(epoch, round, now);
        }
        if let Some(Synced { epoch, .. }) = self.core.synced().filter(|synced| Some(synced.epoch) != before) {
            info!(%epoch, %leader, keys = self.core.keys(), "took over the state of a leader");
            self.contact = Some(now);
        }
    }

    /// Stores some records again; returns the position of the next ones. After the last record it
    /// continues with the first, since a record may have moved to the position of a removed one.
    fn renew_part(&self, position: usize) -> (Stored, usize) {
        let records = self.core.records();
        let mut changes = vec![Change::Promised(self.core.promised())];
        let mut bytes = 0;
        for (key, record) in records.range(position..records.len()).take(RENEW_KEYS) {
            bytes += approximate_bytes(key, record);
            changes.push(Change::Put(key.clone(), record.clone()));
            if bytes > RENEW_BYTES {
                break;
            }
        }
        let next = position + changes.len() - 1;
        (self.store.append(changes), if next < records.len() { next } else { 0 })
    }

    fn shown(&self, key: &str) -> Option<Shown> {
        let record = self.core.get(key);
        let seq = record.map_or(0, |record| record.version.seq);
        match self.foreign.values.get(key).filter(|(foreign, _)| *foreign > seq) {
            Some((seq, value)) => Some(Shown { value: value.clone(), seq: *seq, epoch: None }),
            None => record.and_then(|record| {
                let epoch = Some(record.version.epoch);
                Some(Shown { value: record.value.clone()?, seq: record.version.seq, epoch })
            }),
        }
    }

    fn staleness(&self) -> Option<Duration> {
        self.freshness.map(|Freshness { as_of, lag }| as_of.elapsed() + lag)
    }

    fn is_restoring(&self) -> bool {
        self.core.get(RESTORE_MARK).map_or(self.starts_from_backup, |mark| mark.value.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::digest::Buckets;
    use crate::protocol::messages::Covered;
    use crate::protocol::types::{Config, FollowerId, Record, Version};

    const EPOCH: Epoch = Epoch { term: 1, leader: 7 };

    fn state() -> State {
        let (core, foreign) = (Follower::blank(FollowerId(1), "f".into()), Foreign::default());
        let answers = Answers::default();
        let store = Store::Memory;
        let mut state =
            State { core, foreign, contact: None, freshness: None, answers, store, starts_from_backup: false };
        install(&mut state, EPOCH);
        state
    }

    /// The follower handles messages as they come over the wire.
    fn receive(state: &mut State, messages: impl IntoIterator<Item = ToFollower>) {
        let (mut bytes, mut frames) = (BytesMut::new(), Vec::new());
        messages.into_iter().for_each(|message| wire::encode(&message, &mut bytes));
        while let Some(frame) = wire::next(&mut bytes).expect("well-formed") {
            frames.push(frame);
        }
        state.step(&mut frames, &"l".into()).malformed.expect("well-formed");
    }

    fn install(state: &mut State, epoch: Epoch) {
        let config = Config { generation: 1, quorum: 1, size: 1, members: Vec::new(), earlier: Vec::new() };
        let end = ToFollower::InstallEnd { epoch, config, covered: Covered::Buckets(Buckets::all()), token: 1 };
        receive(state, [ToFollower::Prepare { epoch }, end]);
    }

    fn heartbeat(state: &mut State, round: u64, lag_us: u64, heard: u64) {
        receive(state, [ToFollower::Probe { epoch: EPOCH, round, lag_us, heard }]);
    }

    fn as_of(state: &State) -> Option<Instant> {
        state.freshness.map(|freshness| freshness.as_of)
    }

    // Goal: a heartbeat that waited in a socket does not make its follower look fresh. Method: the
    // newest answer that its leader had received bounds when it was sent; its lag counts from then,
    // not from when it was read.
    #[test]
    fn what_a_heartbeat_says_counts_from_the_last_answer_that_its_leader_had() {
        let mut state = state();
        assert_eq!(as_of(&state), None, "the install itself says nothing: its leader may have been replaced");
        heartbeat(&mut state, 1, 0, 0);
        assert_eq!(as_of(&state), None, "sent before any answer: its age is unknown");
        let answered = state.answers.rounds[0].1;
        // Sent after the first answer, and read at an unknown time.
        for round in 2..=5 {
            heartbeat(&mut state, round, 3_000, 1);
            assert_eq!(as_of(&state), Some(answered), "round {round}");
        }
        assert!(state.staleness().expect("heard") >= Duration::from_micros(3_000));
        let later = state.answers.rounds[3].1;
        heartbeat(&mut state, 6, 0, 4);
        assert_eq!(as_of(&state), Some(later));
        assert_eq!(state.answers.rounds.len(), 3, "older answers are dropped");
    }

    #[test]
    fn an_answer_that_another_process_gave_says_nothing_and_memory_is_bounded() {
        let mut state = state();
        heartbeat(&mut state, 900, 0, 899);
        assert_eq!(as_of(&state), None);
        for round in 901..2_000 {
            heartbeat(&mut state, round, 0, 0);
        }
        assert_eq!((state.answers.rounds.len(), as_of(&state)), (Answers::ROUNDS_MAX, None));
        let last = state.answers.rounds[Answers::ROUNDS_MAX - 1];
        heartbeat(&mut state, 2_000, 0, 1_999);
        assert_eq!(as_of(&state), Some(last.1), "an earlier answer bounds it too");
    }

    // Goal: a leader that was replaced without knowing it cannot make its follower look fresh with
    // an install.
    #[test]
    fn an_install_keeps_the_bound_that_the_follower_had() {
        let mut state = state();
        heartbeat(&mut state, 1, 0, 0);
        heartbeat(&mut state, 2, 7_000, 1);
        let before = as_of(&state).expect("a heartbeat said so");
        install(&mut state, Epoch { term: 2, leader: 8 });
        assert_eq!(state.core.synced().map(|synced| synced.epoch.term), Some(2));
        assert_eq!(as_of(&state), Some(before));
        assert!(state.staleness().expect("known") >= Duration::from_millis(7));
    }

    #[test]
    fn what_comes_from_outside_is_bounded_in_keys_and_in_bytes() {
        let limits = ForeignLimits { keys: 3, bytes: 20 };
        let mut foreign = Foreign { limits, ..Foreign::default() };
        foreign.insert("a", 1, b"123456789").expect("10 bytes");
        foreign.insert("b", 1, b"12345").expect("16 bytes");
        let error = foreign.insert("c", 1, b"1234").expect_err("21 bytes").to_string();
        assert_eq!(error, "2 keys of 16 bytes were replicated from outside already (limits: 3 keys, 20 bytes)");
        foreign.insert("a", 2, b"1").expect("shorter than before");
        foreign.insert("c", 1, b"1234").expect("13 bytes");
        assert!(foreign.insert("d", 1, b"").is_err(), "a fourth key");
        assert_eq!((foreign.values.len(), foreign.bytes), (3, 13));
    }

    #[test]
    fn a_dump_in_small_parts_has_every_value_once() {
        let replica = Replica::new(Follower::blank(FollowerId(1), "f".into()), Store::Memory, None);
        *replica.state.lock() = state();
        let version = |seq| Version { epoch: EPOCH, seq };
        let record = |key: u64| {
            let record = Record { version: version(1), value: Some(format!("value {key}").into()), marks: None };
            (format!("key{key}").into(), record)
        };
        let records = (0..10).map(record).collect();
        receive(&mut replica.state.lock(), [ToFollower::Install { epoch: EPOCH, records }]);
        replica.replicate("key3", b"from outside", 9).expect("taken");
        replica.replicate("other", b"from outside", 1).expect("taken");
        for (keys, bytes) in [(1, 1_000), (3, 1_000), (100, 1), (100, 30), (100, 1_000)] {
            let (mut seen, mut position) = (Vec::new(), Some(0));
            while let Some(from) = position {
                let (part, next) = replica.dump_part(from, keys, bytes);
                assert!(part.len() <= keys);
                assert!(
                    part.iter().rev().skip(1).map(|(key, shown)| key.len() + shown.value.len()).sum::<usize>() < bytes
                );
                seen.extend(part.into_iter().map(|(key, shown)| (key, shown.seq)));
                position = next;
            }
            let mut expected: Vec<(Key, u64)> = (0..10).map(|key| (format!("key{key}").into(), 1)).collect();
            expected[3].1 = 9;
            expected.push(("other".into(), 1));
            assert_eq!(seen, expected, "parts of {keys} keys and {bytes} bytes");
        }
    }
}
