//! Measures the cost of each step of a write in the program, without sockets, clocks and disks:
//!
//!     cargo bench -p kv-node --features measurements
//!
//! The times depend on the machine, so CI does not check them. CI checks the number of instructions
//! instead; see `tests/instructions.sh`.

use std::sync::Arc;

use bytes::BytesMut;
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use kv_node::http::put_fields;
use kv_node::protocol::follower::{Effects, Follower};
use kv_node::protocol::leader::{DelayRange, Leader, LeaderSettings, Limits, NewWrite, Output, SlotId};
use kv_node::protocol::messages::{ToFollower, Write};
use kv_node::protocol::types::FollowerId;
use kv_node::protocol::value::Value;
use kv_node::replication::wire;

fn main() {
    divan::main();
}

const FOLLOWERS: u16 = 5;
const WRITE_QUORUM: u16 = 3;
const KEYS: u64 = 10_000;
const VALUE_BYTES: usize = 64;
/// How many writes the leader sends together when many clients write.
const TOGETHER: usize = 64;

/// A leader and its followers, connected by function calls.
struct Cluster {
    leader: Leader<u64, ()>,
    followers: Vec<(SlotId, Follower)>,
    outputs: Vec<Output<u64, ()>>,
    effects: Effects,
    value: Value,
    put: u64,
    committed: u64,
}

impl Cluster {
    fn open() -> Self {
        let delay = DelayRange { min_us: 0, max_us: 0 }.into();
        let settings =
            LeaderSettings { quorum: WRITE_QUORUM, size: FOLLOWERS, delay, limits: Limits::default(), seed: 11 };
        let mut leader = Leader::new(7, settings);
        let followers = (0..FOLLOWERS).map(|number| {
            let name = format!("follower-{number}");
            let slot = leader.declare(&name).expect("a free slot");
            (slot, Follower::blank(FollowerId(number.into()), name.as_str().into()))
        });
        let followers: Vec<_> = followers.collect();
        for (slot, follower) in &followers {
            leader.hello(*slot, 1, follower.hello());
        }
        let (outputs, effects) = (Vec::new(), Effects::default());
        let value = "v".repeat(VALUE_BYTES).into();
        let mut cluster = Self { leader, followers, outputs, effects, value, put: 0, committed: 0 };
        cluster.settle();
        assert!(cluster.leader.is_open(), "it opens without any fault");
        cluster
    }

    /// Passes one more write to the leader.
    fn put(&mut self) {
        self.put += 1;
        let key = format!("key{}", self.put * 7919 % KEYS).into();
        let value = Some(self.value.clone());
        let write = NewWrite { key, value, retry_token: None, explain: false, now_us: self.put };
        self.leader.put(write, self.put).expect("there is room");
    }

    /// Delivers messages until there are none.
    fn settle(&mut self) {
        loop {
            let mut outputs = std::mem::take(&mut self.outputs);
            self.leader.swap_outputs(&mut outputs);
            if outputs.is_empty() {
                return;
            }
            for output in outputs.drain(..) {
                match output {
                    Output::Send(slot, message) => self.deliver(slot, message),
                    Output::Transmit(to, write) => {
                        for slot in to {
                            let (epoch, writes) = (write.record.version.epoch, vec![(*write).clone()]);
                            self.deliver(slot, ToFollower::Writes { epoch, writes });
                        }
                    }
                    Output::Schedule { slot, index, .. } => self.leader.due(slot, index),
                    Output::Install(slot, mut job) => {
                        while let Some(part) = self.leader.install_part(&mut job) {
                            self.deliver(slot, part);
                        }
                    }
                    Output::Committed { .. } => self.committed += 1,
                    _ => {}
                }
            }
            self.outputs = outputs;
        }
    }

    fn deliver(&mut self, slot: SlotId, message: ToFollower) {
        let Some((_, follower)) = self.followers.iter_mut().find(|(own, _)| *own == slot) else { return };
        follower.step(message, &mut self.effects);
        self.effects.changes.clear();
        for reply in self.effects.replies.drain(..) {
            self.leader.receive(slot, 1, reply);
        }
    }

    /// Writes as the leader passes them to a connection.
    fn writes(&mut self, count: usize) -> Vec<Arc<Write>> {
        (0..count).for_each(|_| self.put());
        let mut writes = Vec::new();
        let (first, _) = self.followers[0];
        for output in self.leader.take_outputs() {
            match output {
                Output::Transmit(to, write) if to.contains(first) => writes.push(write),
                Output::Schedule { slot, index, .. } => self.leader.due(slot, index),
                _ => {}
            }
        }
        writes.extend(self.leader.take_outputs().into_iter().filter_map(|output| match output {
            Output::Transmit(to, write) if to.contains(first) => Some(write),
            _ => None,
        }));
        assert_eq!(writes.len(), count, "each write goes to each follower");
        writes
    }
}

/// From the leader's `put` over five followers to five confirmations, one write or many at a time.
#[divan::bench(args = [1, TOGETHER])]
fn put_to_quorum(bencher: Bencher<'_, '_>, together: usize) {
    let mut cluster = Cluster::open();
    bencher.counter(ItemsCount::new(together)).bench_local(|| {
        (0..together).for_each(|_| cluster.put());
        cluster.settle();
    });
    assert_eq!(cluster.committed, cluster.put, "each was committed");
}

/// A retry of a write committed long ago, while the leader keeps `backlog` writes for a
/// disconnected follower.
#[divan::bench(args = [0, 100_000])]
fn retry(bencher: Bencher<'_, '_>, backlog: usize) {
    let mut cluster = Cluster::open();
    let write = |value: &Value| {
        let (key, retry_token) = ("retried".into(), Some("token".into()));
        NewWrite { key, value: Some(value.clone()), retry_token, explain: false, now_us: 1 }
    };
    cluster.leader.put(write(&cluster.value), 0).expect("there is room");
    cluster.settle();
    cluster.followers.pop();
    for _ in 0..backlog {
        cluster.put();
        cluster.settle();
    }
    let value = cluster.value.clone();
    bencher.with_inputs(|| write(&value)).bench_local_values(|write| cluster.leader.put(write, 0));
}

/// A follower stores writes and confirms them.
#[divan::bench(args = [1, TOGETHER])]
fn follower_step(bencher: Bencher<'_, '_>, together: usize) {
    let mut cluster = Cluster::open();
    let writes: Vec<Write> = cluster.writes(together).iter().map(|write| (**write).clone()).collect();
    let epoch = writes[0].record.version.epoch;
    let (_, mut follower) = cluster.followers.swap_remove(0);
    let mut seq = together as u64;
    bencher
        .counter(ItemsCount::new(together))
        // Each write is newer than the follower's record.
        .with_inputs(move || {
            let mut next = writes.clone();
            for write in &mut next {
                seq += 1;
                (write.index, write.record.version.seq) = (seq, seq);
            }
            ToFollower::Writes { epoch, writes: next }
        })
        .bench_local_values(|message| {
            let mut effects = Effects::default();
            follower.step(message, &mut effects);
            effects
        });
}

/// Encodes writes into frames, as the first of five connections does.
#[divan::bench(args = [1, TOGETHER])]
fn encode_writes(bencher: Bencher<'_, '_>, together: usize) {
    let writes = Cluster::open().writes(together);
    let epoch = writes[0].record.version.epoch;
    let mut buffer = BytesMut::new();
    bencher
        .counter(ItemsCount::new(together))
        .with_inputs(|| writes.iter().map(|write| Arc::new((**write).clone())).collect::<Vec<_>>())
        .bench_local_refs(|writes| {
            buffer.clear();
            wire::encode_writes(epoch, writes, &mut buffer);
            black_box(&buffer);
        });
}

/// Decodes a frame of writes, as a follower does.
#[divan::bench(args = [1, TOGETHER])]
fn decode_writes(bencher: Bencher<'_, '_>, together: usize) {
    let writes = Cluster::open().writes(together);
    let mut frame = BytesMut::new();
    wire::encode_writes(writes[0].record.version.epoch, &writes, &mut frame);
    bencher
        .counter(ItemsCount::new(together))
        .with_inputs(|| frame.clone())
        .bench_local_refs(|frame| wire::decode::<ToFollower>(frame).expect("well-formed"));
}

/// The body of `POST /put`, with nothing to unescape and with something.
#[divan::bench(args = ["plain", "escaped"])]
fn parse_put(bencher: Bencher<'_, '_>, kind: &str) {
    let value = if kind == "plain" { "v".repeat(VALUE_BYTES) } else { "\\u00e9\\n".repeat(VALUE_BYTES / 8) };
    let body = format!(r#"{{"key":"key7","value":"{value}"}}"#);
    bencher.bench_local(|| put_fields(black_box(body.as_bytes())).map(|put| (put.key.len(), put.value.len())));
}
