//! What clients saw: every operation with its times on one monotonic clock, every fault, every final dump.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::Arc,
    time::Instant,
};

use kv_node::protocol::types::Epoch;
use serde::{Serialize, Serializer};

use crate::{client::Dump, commands::Protocol};

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A write, over all its attempts.
    Put,
    /// An increment, over all its attempts.
    Increment,
    /// A deletion, over all its attempts.
    Delete,
    /// A write that a leader refused because its condition does not hold: a linearizable read of the
    /// record that refused it.
    Unmet,
    /// A linearizable read at a leader.
    Get,
    /// A read of what one follower has.
    LocalGet,
}

/// What must hold of a key when a write changes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It has this version.
    Version {
        /// Its sequence number.
        seq: u64,
        /// Its value; none if it is deleted.
        value: Option<Arc<str>>,
    },
    /// It has no value.
    Absent,
    /// It has a value.
    Present,
}

/// What an answer to a write showed of the key before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Before {
    /// Its value, if it had one.
    pub value: Option<Arc<str>>,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OperationOutcome {
    /// It was answered: the write is acknowledged, the read shows something.
    Answered,
    /// The write was refused before anything was assigned: it never takes effect.
    NotApplied,
    /// The write may have taken effect, may do so later, or never does.
    Unknown,
    /// The read brought nothing; that says nothing.
    Failed,
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// And how.
    pub protocol: Protocol,
    /// What for.
    pub action: Action,
    /// Of which key.
    pub key: Arc<str>,
    /// What was written, or shown; nothing where a read found no value. The sum of an increment, where an answer showed it.
    pub value: Option<Arc<str>>,
    /// What an increment adds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<i64>,
    /// The condition of a write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
    /// What was there before a write, where its answer shows that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
    /// The name of the node that was asked last.
    pub node: Arc<str>,
    /// Which life of that follower's process it was, where it was one and the same from the question to the answer.
    pub incarnation: Option<u32>,
    /// When it was asked, in microseconds since the history began.
    pub called_us: u64,
    /// When the answer had come, or the client gave up.
    pub ended_us: u64,
    /// How it ended.
    pub outcome: OperationOutcome,
    /// The sequence number in the last answer; 0 for a key without a value.
    pub seq: Option<u64>,
    /// The epoch in the last answer.
    #[serde(serialize_with = "as_text")]
    pub epoch: Option<Epoch>,
    /// How old what a follower shows may be, as it says, in ms.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub staleness_ms: Option<f64>,
    /// How often it was sent, each time under the same idempotency key.
    pub attempts: u32,
    /// What went wrong, in the node's words or the client's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Operation {
    /// Whether there was an answer, so that its effect lies between call and end.
    pub fn is_answered(&self) -> bool {
        self.outcome == OperationOutcome::Answered
    }

    /// Whether what it shows is committed: the answer to a write or to a linearizable read.
    pub fn is_settled(&self) -> bool {
        self.is_answered() && self.action != Action::LocalGet
    }

    /// Whether it changes its key.
    pub fn is_write(&self) -> bool {
        matches!(self.action, Action::Put | Action::Increment | Action::Delete)
    }

    /// In words: `put v17 to k3 (seq 5)`.
    pub fn words(&self) -> String {
        let value = self.value.as_deref().unwrap_or("no value");
        let seq = self.seq.map(|seq| format!(" (seq {seq})")).unwrap_or_default();
        let outcome = match self.outcome {
            OperationOutcome::Answered => "",
            OperationOutcome::NotApplied => ", refused",
            OperationOutcome::Unknown => ", outcome unknown",
            OperationOutcome::Failed => ", failed",
        };
        let condition = match &self.condition {
            None => String::new(),
            Some(Condition::Absent) => " if there is none".to_owned(),
            Some(Condition::Present) => " if there is one".to_owned(),
            Some(Condition::Version { seq, .. }) => format!(" if it is at seq {seq}"),
        };
        let before = match &self.before {
            None => String::new(),
            Some(Before { value }) => format!(" after {}", value.as_deref().unwrap_or("no value")),
        };
        match self.action {
            Action::Put => format!("put {value}{condition}{before}{seq}{outcome}"),
            Action::Delete => format!("delete{condition}{seq}{outcome}"),
            Action::Increment => {
                let sum = self.value.as_ref().map(|sum| format!(" → {sum}")).unwrap_or_default();
                format!("add {}{sum}{seq}{outcome}", self.by.unwrap_or(0))
            }
            Action::Unmet => format!("a write{condition} is refused → {value}{seq}{outcome}"),
            Action::Get => format!("get → {value}{seq}{outcome}"),
            Action::LocalGet => format!("local get at {} → {value}{seq}{outcome}", self.node),
        }
    }
}

/// Something that was done to the cluster, from its beginning to its undoing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FaultRecord {
    /// Its kind, as on the command line.
    pub kind: &'static str,
    /// What was done, in words.
    pub text: String,
    /// In which round.
    pub round: u32,
    /// When it was done, in microseconds since the history began.
    pub from_us: u64,
    /// When its undoing began: the process was started or continued.
    pub to_us: u64,
    /// From the undoing of the last fault of its round until the cluster was whole again: one leader open, every follower
    /// taking part and having everything that was accepted before. Nothing where it never was.
    pub recovered_us: Option<u64>,
}

/// What one node held after everything had healed and drained.
#[derive(Clone, Debug, PartialEq)]
pub struct FinalDump {
    /// The node's name.
    pub node: String,
    /// Every key, and what it has.
    pub entries: Dump,
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which they ended.
    pub operations: Vec<Operation>,
    /// In the order in which they began.
    pub faults: Vec<FaultRecord>,
    /// The leader's first; none where the cluster did not heal.
    pub dumps: Vec<FinalDump>,
}

impl History {
    /// The numbers of the operations on each key, in the order of their calls.
    pub fn by_key(&self) -> BTreeMap<&str, Vec<usize>> {
        let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (number, operation) in self.operations.iter().enumerate() {
            keys.entry(&operation.key).or_default().push(number);
        }
        for numbers in keys.values_mut() {
            numbers.sort_by_key(|number| self.operations[*number].called_us);
        }
        keys
    }

    /// Writes it as JSON, a line for each operation, fault and dump.
    ///
    /// # Errors
    /// When `out` takes no more.
    pub fn write_lines(&self, mut out: impl Write) -> io::Result<()> {
        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Line<'a> {
            Operation {
                number: usize,
                #[serde(flatten)]
                operation: &'a Operation,
            },
            Fault(&'a FaultRecord),
            Dump {
                node: &'a str,
                entries: BTreeMap<&'a str, (String, u64)>,
            },
        }
        let operations = self.operations.iter().enumerate();
        let operations = operations.map(|(number, operation)| Line::Operation { number, operation });
        let dumps = self.dumps.iter().map(|dump| {
            let entries = dump.entries.iter().map(|(key, entry)| (key.as_str(), (entry.value.to_string(), entry.seq)));
            Line::Dump { node: &dump.node, entries: entries.collect() }
        });
        for line in operations.chain(self.faults.iter().map(Line::Fault)).chain(dumps) {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

/// The clock of a history; copies show the same time.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since it began.
    pub fn now_us(self) -> u64 {
        u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Reads an epoch as nodes write it: the term, a dot, the leader's id in hexadecimal digits.
pub fn parse_epoch(text: &str) -> Option<Epoch> {
    let (term, leader) = text.split_once('.')?;
    Some(Epoch { term: term.parse().ok()?, leader: u64::from_str_radix(leader, 16).ok()? })
}

fn as_text<S: Serializer>(epoch: &Option<Epoch>, serializer: S) -> Result<S::Ok, S::Error> {
    epoch.map(|epoch| epoch.to_string()).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{get, history, put};

    #[test]
    fn an_epoch_is_read_as_nodes_write_it() {
        let epoch = Epoch { term: 12, leader: 0x5330_a361_fbe5_e544 };
        assert_eq!(parse_epoch(&epoch.to_string()), Some(epoch));
        for wrong in ["", "1", "1.", ".5", "x.5", "1.g"] {
            assert_eq!(parse_epoch(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn every_line_is_json_and_names_its_type() {
        let mut history = history(vec![put("k", "a", 1, (10, 20)), get("k", "a", 1, (30, 40))]);
        let faults =
            FaultRecord { kind: "kill", text: "kill -9".into(), round: 1, from_us: 3, to_us: 4, recovered_us: None };
        history.faults.push(faults);
        let mut lines = Vec::new();
        history.write_lines(&mut lines).expect("written");
        let text = String::from_utf8(lines).expect("UTF-8");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 2 + 1 + history.dumps.len());
        assert_eq!((&lines[0]["type"], &lines[1]["action"]), (&"operation".into(), &"get".into()));
        assert_eq!((&lines[1]["epoch"], &lines[1]["called_us"]), (&"1.0000000000000001".into(), &30.into()));
        assert_eq!(lines[2]["type"], "fault");
        assert_eq!(lines[3]["entries"]["k"], serde_json::json!(["a", 1]));
    }
}
