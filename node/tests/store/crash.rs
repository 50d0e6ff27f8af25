//! Goal: whatever operation on a file fails, or is the last one before a process or a machine stops, everything that was
//! confirmed comes back, and nothing that was never stored.
//!
//! Method: a script of batches runs on a simulated disk whose segments are tiny, so that the log is rotated and cleaned
//! all the time. It is interrupted at every single operation, in every way; then the directory is opened again without
//! faults, has to contain one of the states that may be there, and runs the script to its end. At last the machine stops
//! once more, and everything is there.

use std::panic::AssertUnwindSafe;
use std::path::Path;

use futures::FutureExt;
use kv_node::protocol::digest::Buckets;
use kv_node::protocol::follower::{Change, Follower};
use kv_node::protocol::types::{FollowerId, Key, Record, Synced};
use kv_node::store::disk::{self, Found, Limits, Options, Ready};

use crate::files::{Failure, Fault, SimDisk, Unsynced};
use crate::image::{Writer, epoch, rebuild, synced};

const TINY: Limits = Limits { segment: 600, ahead: 100, slack: 1_000 };

/// Two directories deep: each of them has to be made and made durable.
const DATA: &str = "/volume/follower/data";

/// A follower's state without its id.
type State = (kv_node::protocol::types::Epoch, Option<Synced>, Vec<(Key, Record)>);

fn state(follower: &Follower) -> State {
    let mut records: Vec<_> = follower.records().iter().map(|(key, record)| (key.clone(), record.clone())).collect();
    records.sort_by(|a, b| a.0.cmp(&b.0));
    (follower.promised(), follower.synced().cloned(), records)
}

/// What is stored, and the state after each number of batches.
struct Script {
    batches: Vec<Vec<Change>>,
    states: Vec<State>,
}

impl Script {
    /// Leaders come and go, each promises, installs a state that drops what is older, and writes.
    fn new(leaders: u64) -> Self {
        let mut writer = Writer::new(leaders);
        let mut batches = Vec::new();
        for term in 1..=leaders {
            batches.push(vec![Change::Promised(epoch(term))]);
            batches.push(writer.batch(term, 12, 6));
            let mut last = writer.batch(term, 12, 2);
            last.push(Change::Synced { synced: synced(term), drop_older: Some(Buckets::all()) });
            batches.push(last);
            // One large batch, longer than a segment.
            batches.push(writer.batch(term, 12, 9));
            batches.extend((0..8).map(|turn| writer.batch(term, 12, 1 + turn % 3)));
        }
        let mut follower = Follower::blank(FollowerId(0), "f".into());
        let mut states = vec![state(&follower)];
        for batch in &batches {
            batch.iter().for_each(|change| follower.restore(change.clone()));
            states.push(state(&follower));
        }
        Self { batches, states }
    }
}

type EachBatch = Box<dyn Fn(&SimDisk, usize)>;

/// One follower over several processes.
struct Life<'a> {
    script: &'a Script,
    disk: SimDisk,
    /// Which id it has, once it was opened.
    id: Option<FollowerId>,
    /// How many batches must be there.
    confirmed: usize,
    /// How many may be there.
    attempted: usize,
    processes: u64,
    /// Called after each batch with their number.
    each_batch: Option<EachBatch>,
}

impl<'a> Life<'a> {
    fn new(script: &'a Script, seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        disk.files().create_dir(Path::new("/volume")).expect("made");
        disk.files().open_dir(Path::new("/")).and_then(|root| root.sync_all()).expect("synced");
        Self { script, disk, id: None, confirmed: 0, attempted: 0, processes: 0, each_batch: None }
    }

    /// A process starts and stores the rest of the script. An error ends it.
    fn process(&mut self) -> Result<(), String> {
        self.processes += 1;
        let (files, new_id) = (self.disk.files(), FollowerId(self.processes));
        let options = Options { files, limits: TINY, new_id, scrub_bytes_per_s: 0, ..Options::default() };
        let ready = disk::open_with(Path::new(DATA), None, options).map_err(|error| error.to_string())?;
        self.check(&ready);
        let (opened, mut stepped) = ready.stepped();
        while let Some(batch) = self.script.batches.get(self.confirmed) {
            self.attempted = self.confirmed + 1;
            let mut stored = opened.store.append(batch.clone());
            stepped.step();
            stored.wait().now_or_never().expect("decided").map_err(|error| error.to_string())?;
            self.confirmed += 1;
            self.each_batch.iter().for_each(|call| call(&self.disk, self.confirmed));
            if self.confirmed.is_multiple_of(5) && !stepped.idle() {
                return Err("failed while idle".to_owned());
            }
        }
        Ok(())
    }

    /// What is there is one of the states that may be. From here on it is what the follower says that it has.
    fn check(&mut self, ready: &Ready) {
        match &ready.found {
            Found::Nothing => assert_eq!(self.id, None, "the follower forgot that it was there"),
            Found::State { .. } => assert!(self.id.is_none_or(|id| id == ready.id), "another follower"),
            Found::Damage { reason, .. } => panic!("nothing was damaged: {reason}"),
        }
        let found = state(&rebuild(ready.id, ready.kept.clone()));
        let known = (self.confirmed..=self.attempted).find(|batches| self.script.states[*batches] == found);
        let known = known.unwrap_or_else(|| {
            let is = self.script.states.iter().rposition(|state| *state == found);
            panic!("{} to {} batches were to be there, and {is:?} are", self.confirmed, self.attempted)
        });
        (self.id, self.confirmed, self.attempted) = (Some(ready.id), known, known);
    }

    fn interrupt(&mut self, how: Interruption) {
        match how {
            Interruption::Process => self.disk.kill(),
            Interruption::Machine(unsynced) => self.disk.crash(unsynced),
        }
    }

    /// No fault from here on: everything is stored, and is there after another stop of the machine.
    fn finish(mut self) {
        self.process().unwrap_or_else(|error| panic!("failed without a fault: {error}"));
        assert_eq!(self.confirmed, self.script.batches.len());
        self.disk.crash(Unsynced::Lost);
        self.process().unwrap_or_else(|error| panic!("failed without a fault: {error}"));
    }
}

#[derive(Clone, Copy, Debug)]
enum Interruption {
    Process,
    Machine(Unsynced),
}

const INTERRUPTIONS: [Interruption; 4] = [
    Interruption::Process,
    Interruption::Machine(Unsynced::Lost),
    Interruption::Machine(Unsynced::Kept),
    Interruption::Machine(Unsynced::Torn),
];

/// Runs a test case; on failure it says which one.
fn case(what: std::fmt::Arguments<'_>, run: impl FnOnce()) {
    let text = what.to_string();
    if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(run)) {
        eprintln!("failed: {text}");
        std::panic::resume_unwind(panic);
    }
}

/// The numbers of the operations that the script takes without a fault.
fn operations(script: &Script) -> std::ops::Range<u64> {
    let mut life = Life::new(script, 0);
    let begin = life.disk.operations();
    life.process().expect("nothing fails");
    begin..life.disk.operations()
}

#[test]
fn a_stop_at_any_operation_loses_nothing_that_was_confirmed() {
    let script = Script::new(4);
    let operations = operations(&script);
    assert!(operations.clone().count() > 250, "{operations:?}");
    for at in operations {
        for (turn, how) in INTERRUPTIONS.iter().chain(&[INTERRUPTIONS[3]; 3]).enumerate() {
            case(format_args!("stop at {at}, then {how:?} (turn {turn})"), || {
                let mut life = Life::new(&script, at * 100 + turn as u64);
                life.disk.plan(Some(Fault { at, lasts: false, failure: Failure::Stop }));
                life.process().expect_err("the process was stopped");
                life.interrupt(*how);
                life.finish();
            });
        }
    }
}

#[test]
fn a_failure_of_any_operation_loses_nothing_that_was_confirmed() {
    let script = Script::new(4);
    for at in operations(&script) {
        for failure in [Failure::Eio, Failure::Enospc, Failure::Emfile] {
            for (lasts, how) in [false, true].into_iter().flat_map(|lasts| INTERRUPTIONS.map(|how| (lasts, how))) {
                case(format_args!("{failure:?} at {at}, lasts: {lasts}, then {how:?}"), || {
                    let mut life = Life::new(&script, at);
                    life.disk.plan(Some(Fault { at, lasts, failure }));
                    let ended = life.process();
                    match failure {
                        Failure::Eio if lasts => ended.expect_err("nothing can be done any more"),
                        // What a running store needs is open.
                        Failure::Emfile if life.id.is_some() => {
                            ended.map_or_else(|error| panic!("{error}"), |()| String::new())
                        }
                        _ => String::new(),
                    };
                    life.interrupt(how);
                    life.finish();
                });
            }
        }
    }
}

/// The start after a stop is stopped as well, at every operation; and the one after that.
#[test]
fn a_stop_while_starting_again_loses_nothing_that_was_confirmed() {
    let script = Script::new(3);
    let mut starts = 0;
    for first in operations(&script).step_by(7) {
        for (turn, how) in INTERRUPTIONS.iter().enumerate() {
            for again in 0.. {
                let mut through = false;
                let mut run = || {
                    let mut life = Life::new(&script, first * 1_000 + again);
                    life.disk.plan(Some(Fault { at: first, lasts: false, failure: Failure::Stop }));
                    life.process().expect_err("the process was stopped");
                    life.interrupt(*how);
                    for (number, how) in [INTERRUPTIONS[(turn + 2) % 4], INTERRUPTIONS[3]].into_iter().enumerate() {
                        let at = life.disk.operations() + again / (1 + number as u64);
                        life.disk.plan(Some(Fault { at, lasts: false, failure: Failure::Stop }));
                        let before = life.processes;
                        through |= life.process().is_ok() && before == 1;
                        life.interrupt(how);
                    }
                    life.finish();
                };
                starts += 1;
                case(format_args!("stop at {first}, then {how:?}, then stop at {again} of the start"), &mut run);
                // Beyond the start it is the first test again.
                if through || again > 40 {
                    break;
                }
            }
        }
    }
    println!("{starts} starts were stopped");
}

/// A process that has no descriptor left goes on storing, uses the next segments and removes the old ones.
#[test]
fn without_descriptors_the_log_goes_on_and_stays_short() {
    let script = Script::new(40);
    let log_bytes = |disk: &SimDisk| -> usize {
        let contents = disk.contents().into_iter();
        contents
            .filter(|(path, _)| path.extension().is_some_and(|name| name == "log"))
            .map(|(_, bytes)| bytes.len())
            .sum()
    };
    let mut largest = [0, 0];
    for exhausted in [false, true] {
        let mut life = Life::new(&script, 1);
        life.each_batch = Some(Box::new(move |disk, batches| {
            if exhausted && batches == 60 {
                disk.exhaust_descriptors();
            }
        }));
        life.process().expect("nothing fails");
        let segments =
            life.disk.contents().into_keys().filter(|path| path.extension().is_some_and(|name| name == "log"));
        assert!(segments.count() > 3, "the log was rotated");
        largest[usize::from(exhausted)] = log_bytes(&life.disk);
        life.each_batch = None;
        life.interrupt(Interruption::Machine(Unsynced::Lost));
        life.finish();
    }
    assert_eq!(largest[0], largest[1], "as long as with descriptors");
}
