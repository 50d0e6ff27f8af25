//! From a history to a verdict: the rules of [`versions`] and the search of [`linearizability`] for each key, and whether
//! the replicas agree in the end.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use serde::Serialize;

use super::{
    history::{Action, Condition, History, OperationOutcome},
    linearizability::{self, Answer, Call, Effect, Guard, Value},
    versions,
    violation::{Rule, Violation},
};

/// How many states the search looks at between two quiet moments of a key. At about 100 bytes each.
const STATES_MAX: usize = 1_000_000;

/// What a history says about the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Everything that must not be; those that came out first come first.
    pub violations: Vec<Violation>,
    /// Keys that were looked at.
    pub keys: usize,
    /// Keys whose search was given up, because too much overlapped. Their versions were checked all the same.
    pub undecided: Vec<String>,
}

/// Judges a whole history.
pub fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    for (key, numbers) in history.by_key() {
        verdict.keys += 1;
        verdict.violations.extend(versions::check_key(history, key, &numbers));
        let (calls, numbers) = calls(history, &numbers);
        match linearizability::search(&calls, STATES_MAX) {
            Answer::Explained => {}
            Answer::Impossible { call } => {
                let number = numbers[call];
                let text = format!("{key}: no order of its operations explains {}", history.operations[number].words());
                let operations = vec![number];
                verdict.violations.push(Violation {
                    rule: Rule::Linearizable,
                    key: Some(key.to_owned()),
                    operations,
                    text,
                });
            }
            Answer::Undecided => verdict.undecided.push(key.to_owned()),
        }
    }
    verdict.violations.extend(replicas_differ(history));
    let came_out = |violation: &Violation| {
        violation.operations.iter().map(|number| history.operations[*number].ended_us).max().unwrap_or(u64::MAX)
    };
    verdict.violations.sort_by_key(|violation| (came_out(violation), violation.rule));
    verdict
}

/// The register's operations on a key for the search, and the number of each. Reads of followers are no part of it.
fn calls<'a>(history: &'a History, numbers: &[usize]) -> (Vec<Call>, Vec<usize>) {
    let mut texts: HashMap<&str, u32> = HashMap::new();
    let relevant = numbers.iter().copied().filter(|number| {
        let operation = &history.operations[*number];
        let may_count = operation.is_answered() || operation.outcome == OperationOutcome::Unknown;
        may_count && operation.action != Action::LocalGet
    });
    let relevant: Vec<usize> = relevant.collect();
    let calls = relevant.iter().map(|number| {
        let operation = &history.operations[*number];
        let mut value_of = |value: Option<&'a str>| match value {
            None => Value::Absent,
            Some(value) => value.parse().map(Value::Number).unwrap_or_else(|_| {
                let next = texts.len() as u32;
                Value::Text(*texts.entry(value).or_insert(next))
            }),
        };
        let value = value_of(operation.value.as_deref());
        let effect = match operation.action {
            Action::Put | Action::Delete => {
                let guard = match (&operation.before, &operation.condition) {
                    (Some(before), _) => Guard::Is(value_of(before.value.as_deref())),
                    (None, None) => Guard::Always,
                    (None, Some(Condition::Absent)) => Guard::Is(Value::Absent),
                    (None, Some(Condition::Present)) => Guard::Present,
                    (None, Some(Condition::Version { value, .. })) => Guard::Is(value_of(value.as_deref())),
                };
                Effect::Write { guard, value }
            }
            Action::Increment => {
                let sum = operation.value.as_deref().filter(|_| operation.is_answered());
                Effect::Add { by: operation.by.unwrap_or(0), sum: sum.and_then(|sum| sum.parse().ok()) }
            }
            // Refused by a value that the answer does not show.
            Action::Unmet if (&operation.condition, value) == (&Some(Condition::Absent), Value::Absent) => {
                Effect::Read(Guard::Present)
            }
            Action::Unmet | Action::Get | Action::LocalGet => Effect::Read(Guard::Is(value)),
        };
        let returned = operation.is_answered().then_some(operation.ended_us);
        Call { called: operation.called_us, returned, effect }
    });
    (calls.collect(), relevant)
}

fn replicas_differ(history: &History) -> Vec<Violation> {
    let Some((leader, followers)) = history.dumps.split_first() else { return Vec::new() };
    let mut violations = Vec::new();
    for follower in followers {
        let keys =
            leader.entries.keys().chain(follower.entries.keys().filter(|key| !leader.entries.contains_key(*key)));
        for key in keys.filter(|key| leader.entries.get(*key) != follower.entries.get(*key)) {
            let words = |dump: &super::history::FinalDump| {
                let entry = dump.entries.get(key);
                entry.map_or("nothing".to_owned(), |entry| format!("{} (seq {})", entry.value, entry.seq))
            };
            let (left, right) = (words(leader), words(follower));
            let text = format!("{key}: in the end {} has {left} and {} has {right}", leader.node, follower.node);
            let key = Some(key.clone());
            violations.push(Violation { rule: Rule::ReplicasAgree, key, operations: Vec::new(), text });
        }
    }
    violations
}
