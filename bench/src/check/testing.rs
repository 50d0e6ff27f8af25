//! Hand-written histories for tests.

use std::sync::Arc;

use kv_node::protocol::types::Epoch;

use super::history::{Action, Before, Condition, FinalDump, History, Operation, OperationOutcome};
use crate::{
    client::{Dump, Entry},
    commands::Protocol,
};

/// An epoch of a leader whose id is its term.
pub(crate) fn epoch(term: u64) -> Option<Epoch> {
    Some(Epoch { term, leader: term })
}

fn operation(action: Action, key: &str, value: Option<&str>, seq: u64, (called_us, ended_us): (u64, u64)) -> Operation {
    Operation {
        client: 0,
        protocol: Protocol::Http,
        action,
        key: key.into(),
        value: value.map(Arc::from),
        by: None,
        condition: None,
        before: None,
        node: "leader".into(),
        incarnation: None,
        called_us,
        ended_us,
        outcome: OperationOutcome::Answered,
        seq: Some(seq),
        epoch: epoch(1),
        staleness_ms: None,
        attempts: 1,
        detail: None,
    }
}

/// An acknowledged write in epoch 1.
pub(crate) fn put(key: &str, value: &str, seq: u64, times: (u64, u64)) -> Operation {
    operation(Action::Put, key, Some(value), seq, times)
}

/// An acknowledged increment in epoch 1.
pub(crate) fn increment(key: &str, by: i64, sum: i64, seq: u64, times: (u64, u64)) -> Operation {
    Operation { by: Some(by), ..operation(Action::Increment, key, Some(&sum.to_string()), seq, times) }
}

/// An increment whose client never heard of it.
pub(crate) fn unknown_increment(key: &str, by: i64, times: (u64, u64)) -> Operation {
    let (outcome, value) = (OperationOutcome::Unknown, None);
    Operation { outcome, value, seq: None, epoch: None, ..increment(key, by, 0, 0, times) }
}

/// A write whose client never heard of it.
pub(crate) fn unknown(key: &str, value: &str, times: (u64, u64)) -> Operation {
    Operation { outcome: OperationOutcome::Unknown, seq: None, epoch: None, ..put(key, value, 0, times) }
}

/// A linearizable read in epoch 1; an empty value for none.
pub(crate) fn get(key: &str, value: &str, seq: u64, times: (u64, u64)) -> Operation {
    operation(Action::Get, key, Some(value).filter(|value| !value.is_empty()), seq, times)
}

/// The same with a condition: an empty value for none.
pub(crate) fn only_if(seq: u64, value: &str, operation: Operation) -> Operation {
    let value = Some(value).filter(|value| !value.is_empty()).map(Arc::from);
    let condition = if seq == 0 { Condition::Absent } else { Condition::Version { seq, value } };
    Operation { condition: Some(condition), ..operation }
}

/// An acknowledged deletion in epoch 1.
pub(crate) fn delete(key: &str, seq: u64, times: (u64, u64)) -> Operation {
    operation(Action::Delete, key, None, seq, times)
}

/// The same over Redis' protocol, which shows no version.
pub(crate) fn redis(operation: Operation) -> Operation {
    Operation { protocol: Protocol::Redis, seq: None, epoch: None, ..operation }
}

/// A write whose answer shows what was there before; an empty value for none.
pub(crate) fn after(value: &str, operation: Operation) -> Operation {
    let value = Some(value).filter(|value| !value.is_empty()).map(Arc::from);
    Operation { before: Some(Before { value }), ..operation }
}

/// A write that was refused by what is there; an empty value for none.
pub(crate) fn unmet(key: &str, value: &str, seq: u64, times: (u64, u64)) -> Operation {
    Operation { action: Action::Unmet, ..get(key, value, seq, times) }
}

/// A read of the first life of follower 2.
pub(crate) fn local(key: &str, value: &str, seq: u64, times: (u64, u64)) -> Operation {
    let read = get(key, value, seq, times);
    Operation { action: Action::LocalGet, node: "follower2".into(), incarnation: Some(1), ..read }
}

/// The same in another epoch.
pub(crate) fn in_epoch(term: u64, operation: Operation) -> Operation {
    Operation { epoch: epoch(term), ..operation }
}

/// The data of a node.
pub(crate) fn dump(node: &str, entries: &[(&str, &str, u64)]) -> FinalDump {
    let entry = |value: &str, seq| Entry { value: value.into(), seq };
    let entries: Dump = entries.iter().map(|(key, value, seq)| ((*key).to_owned(), entry(value, *seq))).collect();
    FinalDump { node: node.to_owned(), entries }
}

/// These operations, and dumps that show for each key what was settled under the highest number.
pub(crate) fn history(operations: Vec<Operation>) -> History {
    let mut newest: Vec<(&str, &str, u64)> = Vec::new();
    for operation in operations.iter().filter(|operation| operation.is_settled()) {
        let (Some(value), Some(seq)) = (operation.value.as_deref(), operation.seq) else { continue };
        match newest.iter_mut().find(|(key, ..)| *key == &*operation.key) {
            Some(known) if known.2 < seq => (known.1, known.2) = (value, seq),
            Some(_) => {}
            None => newest.push((&operation.key, value, seq)),
        }
    }
    let dumps = ["leader", "follower1", "follower2"].map(|node| dump(node, &newest)).to_vec();
    History { operations, faults: Vec::new(), dumps }
}
