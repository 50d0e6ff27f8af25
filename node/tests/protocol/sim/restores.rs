//! A client that restores backups: mark, keys, end. Leaders change in between, requests are repeated at other leaders,
//! and some restores are abandoned in the middle and given up later.
//!
//! Goal: from the moment when the beginning of a restore is committed until its end is, no client is answered, whichever
//! leader it asks. What is restored survives like any other acknowledged write.

use std::collections::HashSet;
use std::sync::Arc;

use kv_node::protocol::leader::{Accepted, Part, Refusal, Saved, Unfinished};
use kv_node::protocol::types::{RESTORE_MARK, Record, Version};
use rand::RngExt;

use super::clients::key_name;
use super::history::Act;
use super::{Event, World, note};

/// Numbers from here on wait for a mark, and not for an operation of the history.
pub(crate) const MARKS: usize = 1 << 40;

/// After how many attempts the client abandons a restore.
const ATTEMPTS_MAX: u32 = 12;

#[derive(Default)]
pub(crate) struct Restorer {
    begun: usize,
    pub(crate) finished: usize,
    under_way: Option<Restore>,
    /// How many marks were requested.
    marks: usize,
    /// Since when no client may be answered.
    pub(crate) hides_since_us: Option<u64>,
    /// The newest end of a restore that was committed, or with which a leader opened.
    ended: Version,
    /// The marks that were removals.
    removals: HashSet<usize>,
}

struct Restore {
    backup: Arc<str>,
    stage: Stage,
    attempts: u32,
    /// The mark whose commit the client waits for, and whether it was committed.
    mark: usize,
    committed: bool,
    /// Sequence numbers and operations that are not acknowledged yet.
    keys: Vec<(u64, usize)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    Keys,
    End,
}

impl World {
    pub(crate) fn restorer_acts(&mut self) {
        let wait = self.wait(30_000);
        self.after(wait, Event::Restorer);
        let Some(leader) = self.pick_leader().filter(|leader| !self.leads[*leader].paused) else { return };
        let gives_up = !self.clients_on || self.chance(0.01);
        let Some(restore) = &mut self.restorer.under_way else {
            if self.clients_on && self.chance(0.1) {
                self.begin_restore();
            } else if gives_up || self.chance(0.05) {
                // A person finds a restore that nothing finishes.
                self.mark(leader, None);
            }
            return;
        };
        restore.attempts += 1;
        if gives_up || restore.attempts > ATTEMPTS_MAX {
            note!(self, "the restore of {} is abandoned", restore.backup);
            self.restorer.under_way = None;
            return;
        }
        let (stage, backup) = (restore.stage, restore.backup.clone());
        match stage {
            Stage::Begin | Stage::End if !restore.committed => self.mark(leader, Some((&backup, stage))),
            Stage::Begin => {
                let keys = self.backed_up();
                self.go_on(Stage::Keys, keys);
            }
            Stage::Keys => {
                restore.keys.retain(|(_, op)| !self.history.ops[*op].is_acknowledged());
                let keys = restore.keys.clone();
                if keys.is_empty() {
                    return self.go_on(Stage::End, keys);
                }
                let some = self.rng.random_range(1..=keys.len());
                for (seq, op) in keys.into_iter().take(some) {
                    self.restore_key(leader, &backup, seq, op);
                }
            }
            Stage::End => {
                note!(self, "the restore of {backup} is finished");
                self.restorer.finished += 1;
                self.restorer.under_way = None;
            }
        }
    }

    fn begin_restore(&mut self) {
        self.restorer.begun += 1;
        let backup = format!("backup {}", self.restorer.begun).into();
        let (stage, keys) = (Stage::Begin, Vec::new());
        self.restorer.under_way = Some(Restore { backup, stage, attempts: 0, mark: 0, committed: false, keys });
    }

    fn go_on(&mut self, stage: Stage, keys: Vec<(u64, usize)>) {
        if let Some(restore) = &mut self.restorer.under_way {
            *restore = Restore { backup: restore.backup.clone(), stage, attempts: 0, mark: 0, committed: false, keys };
        }
    }

    /// The keys of a backup, as operations that no client waits for.
    fn backed_up(&mut self) -> Vec<(u64, usize)> {
        (0..self.plan.keys)
            .map(|key| {
                let value = Some(self.value(self.history.ops.len()));
                (self.rng.random_range(1..20), self.begin(None, key, Act::Write(value), false))
            })
            .collect()
    }

    /// Asks a leader to begin a restore, to end it, or to give up whichever is unfinished.
    fn mark(&mut self, leader: usize, of: Option<(&Arc<str>, Stage)>) {
        self.restorer.marks += 1;
        let number = MARKS + self.restorer.marks;
        if let (Some(restore), Some(_)) = (&mut self.restorer.under_way, of) {
            restore.mark = number;
        }
        if !matches!(of, Some((_, Stage::Begin))) {
            self.restorer.removals.insert(number);
        }
        let now_us = self.now_us;
        let mut accepted = Err(Refusal::Recovering);
        let mut mark = None;
        self.drive(leader, |lead| {
            accepted = match of {
                Some((backup, Stage::Begin)) => {
                    lead.begin_restore(&Unfinished { backup: backup.clone(), overwrite: true }, now_us, number)
                }
                Some((backup, _)) => lead.end_restore(Some(&**backup), now_us, number),
                None => lead.end_restore(None, now_us, number),
            };
            mark = lead.latest(RESTORE_MARK).map(|(record, _)| record.clone());
        });
        note!(self, "mark {} at L{leader}: {accepted:?}, now {mark:?}", self.restorer.marks);
        match (accepted, mark) {
            (Ok(Accepted::Pending { .. }), Some(Record { version, value, .. })) => {
                self.history.gave(RESTORE_MARK.to_owned(), version, value);
            }
            (Ok(Accepted::AlreadyCommitted { .. }), Some(record)) => self.mark_committed(number, record.version),
            (Ok(Accepted::Unmet), _) => unreachable!("a restore has no condition"),
            // There was no restore, and so there is nothing to end.
            (Ok(_), None) | (Err(_), _) => {}
        }
    }

    pub(crate) fn mark_committed(&mut self, number: usize, version: Version) {
        note!(self, "mark {} is committed as {version:?}", number - MARKS);
        if self.restorer.removals.contains(&number) {
            self.restore_ended(version);
        }
        let Some(restore) = self.restorer.under_way.as_mut().filter(|restore| restore.mark == number) else { return };
        restore.committed = true;
        // A leader that answers a client from now on shows half of a backup.
        if restore.stage == Stage::Begin && version > self.restorer.ended {
            self.restorer.hides_since_us.get_or_insert(self.now_us);
        }
    }

    /// The removal of a mark is committed: clients may be answered again.
    pub(crate) fn restore_ended(&mut self, version: Version) {
        self.restorer.ended = self.restorer.ended.max(version);
        self.restorer.hides_since_us = None;
    }

    fn restore_key(&mut self, leader: usize, backup: &str, seq: u64, op: usize) {
        let now_us = self.now_us;
        let it = &self.history.ops[op];
        let (key, Act::Write(value)) = (key_name(it.key), it.act.clone()) else { return };
        let saved = Saved { key: key.as_str().into(), seq, value, marks: None };
        let mut taken = Err(Refusal::Recovering);
        let mut entered = None;
        self.drive(leader, |lead| {
            taken = lead.restore(saved, Part::Of(backup), now_us, op);
            let newest = lead.latest(&key).map(|(record, _)| record.version);
            entered = newest.filter(|version| taken == Ok(Accepted::Pending { seq: version.seq }));
        });
        note!(self, "op {op} restores {key} at L{leader}: {taken:?}");
        match taken {
            Ok(Accepted::Pending { .. }) => {
                if let Some(version) = entered {
                    self.history.accepted(op, version);
                }
            }
            Ok(Accepted::Unmet) => unreachable!("a restore has no condition"),
            Ok(Accepted::AlreadyCommitted { seq }) => self.client_acknowledged(op, seq),
            Err(_) => {}
        }
    }
}
