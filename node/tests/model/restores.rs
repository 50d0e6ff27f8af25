//! A client that restores backups: it begins, sends each key, and ends. Leaders change in between, requests are repeated
//! at other leaders, and some restores are given up in the middle.
//!
//! The mark of an unfinished restore is a key like any other here, so that everything that must hold of a key must hold of
//! the mark. `clients` checks that no client is answered while the mark exists.

use std::sync::Arc;

use kv_node::protocol::leader::{Leader, Part, Saved, Unfinished};

use crate::actions::Action;
use crate::clients::{Act, KEYS, MARK};
use crate::world::{Plan, World};

/// The restore under way. Requests are operations by their numbers.
#[derive(Clone, Debug, Hash)]
pub(crate) struct Restore {
    backup: Arc<str>,
    begin: usize,
    /// Of each key, once the beginning is acknowledged.
    keys: Vec<usize>,
    end: Option<usize>,
}

impl Restore {
    /// Whether this request ends it.
    pub(crate) fn ends_with(&self, op: usize) -> bool {
        self.end == Some(op)
    }
}

impl World {
    pub(crate) fn restore_actions(&self, number: u8, leader: &Leader<usize, usize>, actions: &mut Vec<Action>) {
        if self.left.restores > 0 && leader.unfinished_restore().is_some() {
            actions.push(Action::GiveUpRestore(number));
        }
        let Some(restore) = &self.clients.restore else {
            if self.left.restores > 0 {
                actions.push(Action::BeginRestore(number));
            }
            return;
        };
        if !self.clients.is_acknowledged(restore.begin) {
            return actions.push(Action::BeginRestore(number));
        }
        let missing = |op: &usize| !self.clients.is_acknowledged(*op);
        let keys = restore.keys.iter().enumerate().filter(|(_, op)| missing(op));
        let keys: Vec<Action> = keys.map(|(key, _)| Action::RestoreKey(number, key as u8)).collect();
        if keys.is_empty() && !restore.keys.is_empty() {
            actions.push(Action::EndRestore(number));
        } else {
            actions.extend(keys);
        }
        if restore.keys.is_empty() {
            actions.push(Action::RestoreKey(number, 0));
        }
    }

    pub(crate) fn begin_restore(&mut self, number: usize, plan: &Plan) {
        if self.clients.restore.is_none() {
            self.left.restores -= 1;
            let backup: Arc<str> = format!("b{}", self.left.restores).into();
            let unfinished = Unfinished { backup: backup.clone(), overwrite: true };
            let mark = serde_json::to_string(&unfinished).expect("plain data serialises");
            self.clients.change(|clients| {
                let begin = clients.call(MARK, Act::Write(Some(mark.into())));
                clients.restore = Some(Restore { backup, begin, keys: Vec::new(), end: None });
            });
        }
        let Some(Restore { backup, begin, .. }) = self.clients.restore.clone() else { return };
        let unfinished = Unfinished { backup, overwrite: true };
        self.enter(number, begin, plan, |leader| leader.begin_restore(&unfinished, 0, begin));
    }

    pub(crate) fn restore_key(&mut self, number: usize, key: usize, plan: &Plan) {
        self.clients.change(|clients| {
            let Some(mut restore) = clients.restore.take() else { return };
            if restore.keys.is_empty() {
                restore.keys = (0..plan.keys).map(|key| clients.call_restored(key)).collect();
            }
            clients.restore = Some(restore);
        });
        let Some(Restore { backup, keys, .. }) = self.clients.restore.clone() else { return };
        let op = keys[key];
        // Below and above the numbers that the key has reached.
        let seq = [1, 5][key % 2];
        let saved = Saved { key: KEYS[key].into(), seq, value: self.clients.value(op), marks: None };
        self.enter(number, op, plan, |leader| leader.restore(saved, Part::Of(&backup), 0, op));
    }

    pub(crate) fn end_restore(&mut self, number: usize, plan: &Plan) {
        self.clients.change(|clients| {
            let Some(mut restore) = clients.restore.take() else { return };
            restore.end.get_or_insert_with(|| clients.call(MARK, Act::Write(None)));
            clients.restore = Some(restore);
        });
        let Some(Restore { backup, end: Some(end), .. }) = self.clients.restore.clone() else { return };
        self.enter(number, end, plan, |leader| leader.end_restore(Some(&backup), 0, end));
    }

    pub(crate) fn give_up_restore(&mut self, number: usize, plan: &Plan) {
        self.left.restores -= 1;
        let op = self.clients.change(|clients| {
            clients.restore = None;
            clients.call(MARK, Act::Write(None))
        });
        self.enter(number, op, plan, |leader| leader.end_restore(None, 0, op));
    }
}
