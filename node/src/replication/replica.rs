//! The follower at run time: the state machine, what it stores, and the connections of its leaders.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::info;

use super::session::{ALIVE_EVERY, QUIET_TICKS_MAX, Watch};
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

/// When a leader was heard from, and how far behind it said that this follower is.
#[derive(Clone, Debug)]
struct Contact {
    leader: String,
    at: Instant,
    lag: Duration,
}

struct State {
    core: Follower,
    /// What came by `POST /replicate`, from outside any epoch. It is shown while its number is the higher one, but never
    /// given to a leader and never stored as one of its records: whoever sends it cannot undo what was acknowledged.
    foreign: HashMap<Key, (u64, Arc<str>)>,
    contact: Option<Contact>,
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
        let state = Mutex::new(State { core, foreign: HashMap::new(), contact: None, store });
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
        let part: Vec<Key> = match records.get_range(position..records.len().min(position + most)) {
            Some(part) if !part.is_empty() => part.keys().cloned().collect(),
            // After the leader's keys those that only came from outside, all at once: they are few.
            _ => state.foreign.keys().filter(|key| records.get(*key).is_none()).cloned().collect(),
        };
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
            keys: state.core.records().len(),
            leader: state.contact.as_ref().map(|contact| contact.leader.clone()),
            staleness: state.staleness(),
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
        let mut watch = Watch::new();
        loop {
            while let Some(message) = wire::decode::<ToFollower>(&mut input)? {
                messages.push(message);
            }
            if !messages.is_empty() {
                let (replies, mut stored) = self.state.lock().step(&mut messages, &leader);
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
    fn step(&mut self, messages: &mut Vec<ToFollower>, leader: &str) -> (Vec<ToLeader>, Stored) {
        let mut effects = Effects::default();
        for message in messages.drain(..) {
            let heartbeat = match message {
                ToFollower::Probe { epoch, lag_us, .. } if lag_us < u64::MAX => Some((epoch, lag_us)),
                _ => None,
            };
            let before = self.core.synced().map(|synced| synced.epoch);
            self.core.step(message, &mut effects);
            if let Some((epoch, lag_us)) = heartbeat
                && self.core.promised() == epoch
                && self.core.synced().is_some_and(|synced| synced.epoch == epoch)
            {
                let lag = Duration::from_micros(lag_us);
                self.contact = Some(Contact { leader: leader.to_owned(), at: Instant::now(), lag });
            }
            if let Some(Synced { epoch, .. }) = self.core.synced().filter(|synced| Some(synced.epoch) != before) {
                info!(%epoch, leader, keys = self.core.records().len(), "took over the state of a leader");
                self.contact = Some(Contact { leader: leader.to_owned(), at: Instant::now(), lag: Duration::ZERO });
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
        self.contact.as_ref().map(|contact| contact.at.elapsed() + contact.lag)
    }
}
