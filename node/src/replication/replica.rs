//! The follower at run time: the state machine, what it stores, and the connections of its leaders.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::info;

use super::link::{ALIVE_EVERY, QUIET_TICKS_MAX, Watch};
use super::wire;
use crate::deliberate::{self, DeliberateFault};
use crate::protocol::follower::{Effects, Follower};
use crate::protocol::types::{Epoch, Hello, Key, Synced, ToFollower, ToLeader};
use crate::store::disk::Found;
use crate::store::{Store, StoreFailure, Stored};

/// How many keys `POST /replicate` may hold beside the leader's.
const FOREIGN_KEYS_MAX: usize = 100_000;

/// A value as a read shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The value.
    pub value: Arc<str>,
    /// Its sequence number.
    pub seq: u64,
    /// The epoch of the leader that gave it; none for one that came by `POST /replicate`.
    pub epoch: Option<Epoch>,
}

/// What a leader said last of how far behind this follower is.
#[derive(Clone, Debug)]
struct Contact {
    leader: String,
    /// When that arrived. It may have lain in a socket for long: this process, or the leader's, may have stood still.
    received: Instant,
    /// A moment before it was sent.
    as_of: Instant,
    /// How far behind, as of then.
    lag: Duration,
}

/// When this follower answered the heartbeats of a leader: what the leader sends once it has an answer, it sends later.
#[derive(Debug, Default)]
struct Answers {
    epoch: Epoch,
    rounds: VecDeque<(u64, Instant)>,
}

impl Answers {
    /// Heartbeats without an answer that was heard. Those beyond are not remembered; an earlier one is as true.
    const ROUNDS_MAX: usize = 256;

    fn note(&mut self, epoch: Epoch, round: u64, at: Instant) {
        if self.epoch != epoch {
            *self = Self { epoch, rounds: VecDeque::new() };
        }
        if self.rounds.len() < Self::ROUNDS_MAX {
            self.rounds.push_back((round, at));
        }
    }

    /// A moment before anything was sent by a leader that had heard the answer to this round.
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

struct State {
    core: Follower,
    /// What came by `POST /replicate`, from outside any epoch. It is shown while its number is the higher one, but never
    /// given to a leader and never stored as one of its records: whoever sends it cannot undo what was acknowledged.
    foreign: HashMap<Key, (u64, Arc<str>)>,
    contact: Option<Contact>,
    answers: Answers,
    store: Store,
}

/// What a follower says of itself.
#[derive(Clone, Debug)]
pub struct ReplicaView {
    /// Its greeting.
    pub hello: Hello,
    /// How many keys it has, deleted ones included.
    pub keys: usize,
    /// Where its leader is reached.
    pub leader: Option<String>,
    /// Upper bound of how old its state is, if a leader was heard from.
    pub staleness: Option<Duration>,
    /// How long ago a leader was heard from.
    pub heard: Option<Duration>,
}

/// `POST /replicate` is refused: too many keys came that way.
#[derive(Debug, thiserror::Error)]
#[error("{FOREIGN_KEYS_MAX} keys were replicated from outside already")]
pub struct ForeignFull;

/// A follower.
pub struct Replica {
    state: Mutex<State>,
    found: Option<Found>,
}

impl Replica {
    /// A follower as its store has it.
    pub fn new(core: Follower, store: Store, found: Option<Found>) -> Arc<Self> {
        let state =
            Mutex::new(State { core, foreign: HashMap::new(), contact: None, answers: Answers::default(), store });
        Arc::new(Self { state, found })
    }

    /// What its data directory held at start, where it has one.
    pub fn found(&self) -> Option<&Found> {
        self.found.as_ref()
    }

    /// What to watch beside everything else: a follower whose store failed has to end.
    pub fn store_failure(&self) -> StoreFailure {
        self.state.lock().store.failure()
    }

    /// The value of a key, however old, with the staleness of this follower.
    pub fn get(&self, key: &str) -> (Option<Shown>, Option<Duration>) {
        let state = self.state.lock();
        (state.shown(key), state.staleness())
    }

    /// A part of all values, in a stable order, from a position on; and the position of the next part.
    pub fn dump_part(&self, position: usize, most: usize) -> (Vec<(Key, Shown)>, Option<usize>) {
        let state = self.state.lock();
        let records = state.core.records();
        let mut part: Vec<Key> = records.range(position..position + most).map(|(key, _)| key.clone()).collect();
        if part.is_empty() {
            // After the leader's keys those that only came from outside, all at once: they are few.
            part = state.foreign.keys().filter(|key| records.get(key).is_none()).cloned().collect();
        }
        let next = (position < records.len()).then_some(position + part.len());
        (part.into_iter().filter_map(|key| Some((key.clone(), state.shown(&key)?))).collect(), next)
    }

    /// Takes a write from outside any epoch, as the seed's leader sends it: only a higher number changes anything.
    ///
    /// # Errors
    /// [`ForeignFull`].
    pub fn replicate(&self, key: &str, value: &str, seq: u64) -> Result<(), ForeignFull> {
        let mut state = self.state.lock();
        let known = state.core.get(key).map_or(0, |record| record.version.seq);
        let foreign = state.foreign.get(key).map_or(0, |(seq, _)| *seq);
        if seq > known.max(foreign) {
            if foreign == 0 && state.foreign.len() >= FOREIGN_KEYS_MAX {
                return Err(ForeignFull);
            }
            state.foreign.insert(key.into(), (seq, value.into()));
        }
        Ok(())
    }

    /// What this follower says of itself.
    pub fn view(&self) -> ReplicaView {
        let state = self.state.lock();
        ReplicaView {
            hello: state.core.hello(),
            keys: state.core.keys(),
            leader: state.contact.as_ref().map(|contact| contact.leader.clone()),
            staleness: state.staleness(),
            heard: state.contact.as_ref().map(|contact| contact.received.elapsed()),
        }
    }

    /// Where the leader is reached, as far as it said so.
    pub fn leader(&self) -> Option<String> {
        self.state.lock().contact.as_ref().map(|contact| contact.leader.clone())
    }

    /// Serves one leader's connection until it ends.
    ///
    /// # Errors
    /// What ended it.
    pub async fn serve(
        &self,
        stream: TcpStream,
        mut input: BytesMut,
        leader: String,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (mut reader, mut writer) = stream.into_split();
        let mut output = BytesMut::new();
        let (hello, mut stored) = {
            let state = self.state.lock();
            (state.core.hello(), state.store.append(Vec::new()))
        };
        // The greeting tells of promises too: those that another connection is just storing included.
        stored.wait().await?;
        wire::encode(&ToLeader::Hello(hello), &mut output);
        writer.write_all_buf(&mut output).await?;
        let mut messages = Vec::new();
        let (mut watch, connected) = (Watch::new(), Instant::now());
        let mut silent_since = None;
        loop {
            while let Some(message) = wire::decode::<ToFollower>(&mut input)? {
                messages.push(message);
            }
            if !messages.is_empty() {
                let (replies, mut stored) = self.state.lock().step(&mut messages, &leader, connected);
                if deliberate::is_on(DeliberateFault::ConfirmsBeforeStored) {
                    stored = Store::Memory.append(Vec::new());
                }
                // A slow disk is no reason for the leader to take this follower for dead.
                while timeout(ALIVE_EVERY, stored.wait()).await.map_or(Ok(true), |wait| wait.map(|()| false))? {
                    wire::encode_alive(&mut output);
                    writer.write_all_buf(&mut output).await?;
                }
                // The leader's own signs of life waited in the meantime.
                watch.note();
                replies.iter().for_each(|reply| wire::encode(reply, &mut output));
                // The parts of a state are not answered one by one, and there may be many: the leader has to hear something.
                if !output.is_empty() {
                    silent_since = None;
                } else if silent_since.get_or_insert_with(Instant::now).elapsed() >= ALIVE_EVERY {
                    silent_since = None;
                    wire::encode_alive(&mut output);
                }
            }
            writer.write_all_buf(&mut output).await?;
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
    /// Takes messages that came on a connection which has been there since `connected`.
    fn step(&mut self, messages: &mut Vec<ToFollower>, leader: &str, connected: Instant) -> (Vec<ToLeader>, Stored) {
        let mut effects = Effects::default();
        let now = Instant::now();
        for message in messages.drain(..) {
            if let Some(reply) = deliberate::told_to_a_replaced_leader(&message, self.core.promised()) {
                effects.replies.push(reply);
                continue;
            }
            let heartbeat = match message {
                ToFollower::Probe { epoch, round, lag_us, heard } if lag_us < u64::MAX => {
                    Some((epoch, round, lag_us, heard))
                }
                _ => None,
            };
            let before = self.core.synced().map(|synced| synced.epoch);
            self.core.step(message, &mut effects);
            if let Some((epoch, round, lag_us, heard)) = heartbeat
                && self.core.promised() == epoch
                && self.core.synced().is_some_and(|synced| synced.epoch == epoch)
            {
                if let Some(as_of) = self.answers.before(epoch, heard) {
                    let (leader, lag) = (leader.to_owned(), Duration::from_micros(lag_us));
                    self.contact = Some(Contact { leader, received: now, as_of, lag });
                }
                self.answers.note(epoch, round, now);
            }
            if let Some(Synced { epoch, .. }) = self.core.synced().filter(|synced| Some(synced.epoch) != before) {
                info!(%epoch, leader, keys = self.core.keys(), "took over the state of a leader");
                let leader = leader.to_owned();
                self.contact = Some(Contact { leader, received: now, as_of: connected, lag: Duration::ZERO });
            }
        }
        let stored = self.store.append(effects.changes);
        (effects.replies, stored)
    }

    fn shown(&self, key: &str) -> Option<Shown> {
        let record = self.core.get(key);
        let seq = record.map_or(0, |record| record.version.seq);
        match self.foreign.get(key).filter(|(foreign, _)| *foreign > seq) {
            Some((seq, value)) => Some(Shown { value: value.clone(), seq: *seq, epoch: None }),
            None => record.and_then(|record| {
                let epoch = Some(record.version.epoch);
                Some(Shown { value: record.value.clone()?, seq: record.version.seq, epoch })
            }),
        }
    }

    fn staleness(&self) -> Option<Duration> {
        self.contact.as_ref().map(|contact| contact.as_of.elapsed() + contact.lag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::digest::Buckets;
    use crate::protocol::types::{Config, Covered, FollowerId};

    const EPOCH: Epoch = Epoch { term: 1, leader: 7 };

    fn state() -> State {
        let core = Follower::blank(FollowerId(1), "f".into());
        let answers = Answers::default();
        let mut state = State { core, foreign: HashMap::new(), contact: None, answers, store: Store::Memory };
        let config = Config { generation: 1, quorum: 1, size: 1, members: Vec::new(), earlier: Vec::new() };
        let install =
            ToFollower::InstallEnd { epoch: EPOCH, config, covered: Covered::Buckets(Buckets::all()), token: 1 };
        let _ = state.step(&mut vec![ToFollower::Prepare { epoch: EPOCH }, install], "l", Instant::now());
        state
    }

    fn heartbeat(state: &mut State, round: u64, lag_us: u64, heard: u64) {
        let _ = state.step(&mut vec![ToFollower::Probe { epoch: EPOCH, round, lag_us, heard }], "l", Instant::now());
    }

    fn as_of(state: &State) -> Instant {
        state.contact.as_ref().expect("a leader was heard").as_of
    }

    // Goal: a heartbeat that lay in a socket makes nobody look fresh. Method: when it was sent is known only from the
    // newest answer that its leader had; what it says counts from then, not from when it was read.
    #[test]
    fn what_a_heartbeat_says_counts_from_the_last_answer_that_its_leader_had() {
        let mut state = state();
        let connected = as_of(&state);
        heartbeat(&mut state, 1, 0, 0);
        assert_eq!(as_of(&state), connected, "sent before any answer: nobody knows when");
        let answered = state.answers.rounds[0].1;
        assert!(answered > connected);
        // Sent at once after the first answer; read who knows when.
        for round in 2..=5 {
            heartbeat(&mut state, round, 3_000, 1);
            assert_eq!(as_of(&state), answered, "round {round}");
        }
        assert!(state.staleness().expect("heard") >= Duration::from_micros(3_000));
        let later = state.answers.rounds[3].1;
        heartbeat(&mut state, 6, 0, 4);
        assert_eq!(as_of(&state), later);
        assert_eq!(state.answers.rounds.len(), 3, "what nobody needs any more is forgotten");
    }

    #[test]
    fn an_answer_that_another_process_gave_says_nothing_and_memory_is_bounded() {
        let mut state = state();
        let connected = as_of(&state);
        heartbeat(&mut state, 900, 0, 899);
        assert_eq!(as_of(&state), connected);
        for round in 901..2_000 {
            heartbeat(&mut state, round, 0, 0);
        }
        assert_eq!((state.answers.rounds.len(), as_of(&state)), (Answers::ROUNDS_MAX, connected));
        let last = state.answers.rounds[Answers::ROUNDS_MAX - 1];
        heartbeat(&mut state, 2_000, 0, 1_999);
        assert_eq!(as_of(&state), last.1, "an earlier answer is as true");
    }
}
