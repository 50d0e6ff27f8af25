//! Goal: damage of the log that is found while the follower runs is mended from its memory.
//!
//! Method: a bit of what is stored is flipped. The store finds it, by reading the log again or by cleaning it, asks for
//! the records and gets them as a follower hands them over; after that the machine stops, and everything comes back.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures::FutureExt;
use kv_node::protocol::follower::{Change, Follower};
use kv_node::protocol::types::FollowerId;
use kv_node::store::disk::{self, Found, Limits, Opened, Options};
use kv_node::store::{Health, Store};

use crate::files::{Failure, Fault, SimDisk, Unsynced};
use crate::image::{Writer, facts, rebuild};

const LIMITS: Limits = Limits { segment: 600, ahead: 100, slack: 1_000 };
const DATA: &str = "/data";

thread_local! {
    static BASE: Instant = Instant::now();
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The time of this test, which passes when the test says so.
fn now() -> Instant {
    BASE.with(|base| *base) + PASSED.get()
}

struct Running {
    disk: SimDisk,
    follower: Follower,
    store: Store,
    stepped: kv_node::store::Stepped,
    found: Found,
    writer: Writer,
}

impl Running {
    fn start(disk: SimDisk, scrub_bytes_per_s: u64) -> Self {
        let new_id = FollowerId(1 + disk.operations());
        let options = Options { files: disk.files(), limits: LIMITS, new_id, scrub_bytes_per_s, clock: now };
        let ready = disk::open_with(Path::new(DATA), None, options).expect("opens");
        let (Opened { store, id, kept, found }, stepped) = ready.stepped();
        let mut running = Self { disk, follower: rebuild(id, kept), store, stepped, found, writer: Writer::new(7) };
        running.stepped.idle();
        running
    }

    fn commit(&mut self, changes: Vec<Change>) -> bool {
        changes.iter().for_each(|change| self.follower.restore(change.clone()));
        self.hand_over(changes)
    }

    fn hand_over(&mut self, changes: Vec<Change>) -> bool {
        let mut stored = self.store.append(changes);
        self.stepped.step();
        stored.wait().now_or_never().is_some_and(|stored| stored.is_ok())
    }

    fn write(&mut self, batches: usize) -> bool {
        (0..batches).all(|_| {
            let batch = self.writer.batch(1, 12, 2);
            self.commit(batch)
        })
    }

    fn health(&self) -> Health {
        self.store.health().expect("a disk")
    }

    /// Time passes until a condition holds; false where it never does.
    fn idle_until(&mut self, done: impl Fn(Health) -> bool) -> bool {
        for _ in 0..200 {
            if done(self.health()) {
                return true;
            }
            PASSED.set(PASSED.get() + Duration::from_secs(20));
            if !self.stepped.idle() {
                return false;
            }
        }
        false
    }

    /// Hands records over while the store asks for them, a few at a time.
    fn renew(&mut self) -> bool {
        let records: Vec<_> =
            self.follower.records().iter().map(|(key, record)| (key.clone(), record.clone())).collect();
        for turn in 0..100 {
            if !self.health().renews {
                return true;
            }
            let mut changes = vec![Change::Promised(self.follower.promised())];
            let part = records.chunks(3).cycle().nth(turn).unwrap_or_default();
            changes.extend(part.iter().map(|(key, record)| Change::Put(key.clone(), record.clone())));
            if !self.hand_over(changes) {
                return false;
            }
        }
        false
    }

    fn restart(self, how: Unsynced) -> Self {
        let Self { disk, .. } = self;
        disk.crash(how);
        Self::start(disk, 0)
    }
}

fn segments(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "log") && !path.ends_with("next.log");
    disk.contents().into_iter().filter(|(path, _)| is_segment(path)).collect()
}

/// A running follower with a log of several segments. The same each time.
fn running(scrub_bytes_per_s: u64) -> Running {
    let mut running = Running::start(SimDisk::new(1), scrub_bytes_per_s);
    assert!(running.write(40));
    assert!(segments(&running.disk).len() > 2, "{} segments", segments(&running.disk).len());
    running
}

#[test]
fn reading_the_log_again_finds_and_mends_every_flipped_bit() {
    let places: Vec<_> = segments(&running(1 << 20).disk)
        .into_iter()
        .flat_map(|(path, bytes)| {
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            (0..written).step_by(7).map(move |byte| (path.clone(), byte))
        })
        .collect();
    assert!(places.len() > 150, "{} places", places.len());
    for (path, byte) in places {
        let what = format!("byte {byte} of {}", path.display());
        let mut running = running(1 << 20);
        running.disk.damage(&path, byte, byte as u32 % 8);
        assert!(running.idle_until(|health| health.damaged == 1), "{what}: not found");
        assert!(running.idle_until(|health| health.renews), "{what}: no records are asked for");
        // Writes go on meanwhile.
        assert!(running.write(2));
        assert!(running.renew(), "{what}: still asked for");
        assert!(running.idle_until(|health| health.mended == 1), "{what}: not mended");
        assert!(running.write(2));
        let (expected, health) = (facts(&running.follower), running.health());
        assert!(health.damaged == 1 && health.damaged_batch.is_some(), "{what}: {health:?}");
        let mut again = running.restart(Unsynced::Lost);
        assert_eq!(again.found, Found::State { torn_bytes: 0 }, "{what}");
        assert_eq!(facts(&again.follower), expected, "{what}");
        assert!(again.write(30));
    }
}

/// The same without reading it again: the cleaner comes to the damage by itself.
#[test]
fn cleaning_finds_and_mends_damage() {
    let mut running = running(0);
    let (path, bytes) = segments(&running.disk).remove(0);
    running.disk.damage(&path, bytes.len() / 2, 3);
    for _ in 0..60 {
        assert!(running.write(1));
        if running.health().renews {
            break;
        }
    }
    assert!(running.renew());
    assert!(running.idle_until(|health| health.mended == 1), "{:?}", running.health());
    let count = segments(&running.disk).len();
    assert!(running.write(100));
    assert!(segments(&running.disk).len() < count + 4, "it is cleaned again");
    let expected = facts(&running.follower);
    let again = running.restart(Unsynced::Lost);
    assert_eq!((again.found.clone(), facts(&again.follower)), (Found::State { torn_bytes: 0 }, expected));
}

/// A stop at any operation of the mending leaves everything, or a follower that says that its log is damaged.
#[test]
fn a_stop_while_mending_is_never_silent() {
    let (mut whole, mut damaged) = (0, 0);
    for how in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn] {
        for at in 0.. {
            let mut running = running(1 << 20);
            let (path, bytes) = segments(&running.disk).remove(1);
            running.disk.damage(&path, bytes.len() / 2, 3);
            let before = running.disk.operations();
            running.disk.plan(Some(Fault { at: before + at, lasts: false, failure: Failure::Stop }));
            let through =
                running.idle_until(|health| health.renews) && running.renew() && running.idle_until(|h| h.mended == 1);
            let expected = facts(&running.follower);
            let again = running.restart(how);
            match &again.found {
                Found::State { .. } => {
                    assert_eq!(facts(&again.follower), expected, "stop at {at}, then {how:?}");
                    whole += 1;
                }
                Found::Damage { .. } => damaged += 1,
                Found::Nothing => panic!("stop at {at}, then {how:?}: the follower forgot that it was there"),
            }
            if through {
                break;
            }
        }
    }
    assert!(whole > 3 && damaged > 30, "{whole} whole, {damaged} damaged");
}

/// Reading is bounded in time, and a log that was read through rests.
#[test]
fn so_many_bytes_a_second_are_read() {
    let mut running = running(100);
    let begin = running.health().checked_bytes;
    let at = PASSED.get();
    for _ in 0..10 {
        PASSED.set(PASSED.get() + Duration::from_secs(1));
        running.stepped.idle();
    }
    let read = running.health().checked_bytes - begin;
    assert!((700..1_400).contains(&read), "{read} bytes in {:?}", PASSED.get() - at);
    let off = Running::start(SimDisk::new(2), 0);
    assert_eq!(off.health().checked_bytes, 0);
}
