//! From a history to a verdict: the rules of [`versions`] and the search of [`linearizability`] for each key, and whether
//! the replicas agree in the end.

use std::collections::HashMap;

use serde::Serialize;

use super::{
    history::{Action, History, OperationOutcome},
    linearizability::{self, Answer, Call},
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
    let mut values: HashMap<&str, u32> = HashMap::new();
    let relevant = numbers.iter().copied().filter(|number| {
        let operation = &history.operations[*number];
        let may_count = operation.is_answered() || operation.outcome == OperationOutcome::Unknown;
        may_count && operation.action != Action::LocalGet
    });
    let relevant: Vec<usize> = relevant.collect();
    let calls = relevant.iter().map(|number| {
        let operation = &history.operations[*number];
        let mut number_of = |value: Option<&'a str>| {
            let next = values.len() as u32 + 1;
            value.map_or(0, |value| *values.entry(value).or_insert(next))
        };
        let value = number_of(operation.value.as_deref());
        let is_write = operation.action == Action::Put;
        let condition = operation.condition.as_ref().filter(|_| is_write);
        let expected = condition.map(|condition| number_of(condition.value.as_deref()));
        let returned = operation.is_answered().then_some(operation.ended_us);
        Call { called: operation.called_us, returned, is_write, value, expected }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        history::Operation,
        testing::{dump, epoch, get, history, in_epoch, local, only_if, put, unknown, unmet},
    };

    fn rules(operations: Vec<Operation>) -> Vec<Rule> {
        let verdict = judge(&history(operations));
        assert!(verdict.undecided.is_empty());
        let mut rules: Vec<Rule> = verdict.violations.iter().map(|violation| violation.rule).collect();
        rules.sort();
        rules.dedup();
        rules
    }

    // Goal: what the contract allows passes. Method: a history for each thing that looks wrong and is not.
    #[test]
    fn what_the_contract_allows_passes() {
        let cases: Vec<(&str, Vec<Operation>)> = vec![
            ("nothing", vec![]),
            ("a key without a value", vec![get("k", "", 0, (1, 2)), put("k", "a", 1, (3, 4))]),
            (
                "answers out of order",
                vec![put("k", "a", 1, (1, 90)), put("k", "b", 2, (2, 50)), get("k", "b", 2, (60, 70))],
            ),
            (
                "an unknown write appears late",
                vec![
                    put("k", "a", 1, (1, 2)),
                    unknown("k", "b", (3, 4)),
                    get("k", "a", 1, (5, 6)),
                    get("k", "b", 2, (7, 8)),
                ],
            ),
            (
                "a new leader stamps what it takes over",
                vec![
                    put("k", "a", 1, (1, 2)),
                    in_epoch(2, get("k", "a", 1, (3, 4))),
                    in_epoch(2, put("k", "b", 2, (5, 6))),
                ],
            ),
            (
                "a dead leader's number is given again",
                vec![
                    put("k", "a", 1, (1, 2)),
                    Operation { seq: Some(2), epoch: epoch(1), ..unknown("k", "lost", (3, 4)) },
                    local("k", "lost", 2, (4, 5)),
                    in_epoch(2, put("k", "b", 2, (6, 7))),
                    in_epoch(2, get("k", "b", 2, (8, 9))),
                ],
            ),
            (
                "a follower is late",
                vec![
                    put("k", "a", 1, (1, 2)),
                    put("k", "b", 2, (3, 4)),
                    local("k", "a", 1, (5, 6)),
                    local("k", "b", 2, (7, 8)),
                ],
            ),
            (
                "a follower is as late as it says",
                vec![
                    put("k", "a", 1, (1, 2_000)),
                    put("k", "b", 2, (3_000, 8_000)),
                    Operation { staleness_ms: Some(3.0), ..local("k", "a", 1, (10_000, 11_000)) },
                ],
            ),
            (
                "another life of a follower",
                vec![
                    put("k", "a", 1, (1, 2)),
                    put("k", "b", 2, (3, 4)),
                    local("k", "b", 2, (5, 6)),
                    Operation { incarnation: Some(2), ..local("k", "a", 1, (7, 8)) },
                ],
            ),
            (
                "what was never acknowledged may go",
                vec![
                    Operation { seq: Some(1), epoch: epoch(1), ..unknown("k", "lost", (1, 2)) },
                    local("k", "lost", 1, (3, 4)),
                    Operation { seq: None, epoch: None, ..local("k", "", 0, (5, 6)) },
                ],
            ),
            (
                "conditions, kept and not",
                vec![
                    only_if(0, "", put("k", "a", 1, (1, 2))),
                    only_if(0, "", unmet("k", "a", 1, (3, 4))),
                    only_if(1, "a", put("k", "b", 2, (5, 20))),
                    only_if(1, "a", unmet("k", "b", 2, (6, 19))),
                    only_if(2, "b", unknown("k", "c", (21, 22))),
                    only_if(2, "b", unmet("k", "c", 3, (23, 24))),
                ],
            ),
            (
                "a retry is told its number by a later leader",
                vec![
                    put("k", "a", 1, (1, 50)),
                    put("k", "b", 2, (2, 3)),
                    in_epoch(2, get("k", "b", 2, (5, 6))),
                    Operation { attempts: 2, ..in_epoch(3, put("k", "c", 3, (7, 9))) },
                ],
            ),
        ];
        for (name, operations) in cases {
            assert_eq!(rules(operations), [], "{name}");
        }
    }

    // Goal: each rule is needed. Method: for each the shortest history that breaks it.
    #[test]
    fn every_breach_is_found() {
        let cases: Vec<(&str, Vec<Operation>, &[Rule])> = vec![
            (
                "an acknowledged write is gone",
                vec![put("k", "a", 1, (1, 2)), put("k", "b", 2, (3, 4)), in_epoch(2, get("k", "a", 1, (5, 6)))],
                &[Rule::Linearizable, Rule::NeverBack],
            ),
            (
                "its number was given to another one",
                vec![put("k", "a", 1, (1, 2)), in_epoch(2, put("k", "b", 1, (3, 4)))],
                &[Rule::OneValuePerVersion, Rule::NeverBack, Rule::InFinalDumps],
            ),
            (
                "two leaders acknowledge",
                vec![
                    put("k", "a", 1, (1, 2)),
                    in_epoch(2, put("k", "b", 2, (3, 4))),
                    put("k", "c", 2, (5, 6)),
                    in_epoch(2, get("k", "b", 2, (7, 8))),
                ],
                &[Rule::Linearizable, Rule::OneValuePerVersion, Rule::NeverBack],
            ),
            (
                "a replaced leader shows what it had",
                vec![put("k", "a", 1, (1, 2)), in_epoch(2, put("k", "b", 2, (3, 4))), get("k", "a", 1, (5, 6))],
                &[Rule::Linearizable, Rule::NeverBack],
            ),
            (
                "a value seen, then gone",
                vec![unknown("k", "a", (1, 2)), get("k", "a", 1, (3, 4)), get("k", "", 0, (5, 6))],
                &[Rule::Linearizable, Rule::NeverBack],
            ),
            (
                "a retry is applied twice",
                vec![
                    Operation { attempts: 2, ..put("k", "a", 1, (1, 9)) },
                    put("k", "b", 2, (10, 11)),
                    get("k", "a", 3, (12, 13)),
                ],
                &[Rule::Linearizable, Rule::AppliedOnce],
            ),
            (
                "another number than its client was told",
                vec![
                    Operation { seq: Some(1), epoch: epoch(1), ..unknown("k", "a", (1, 2)) },
                    in_epoch(2, get("k", "a", 2, (3, 4))),
                ],
                &[Rule::AppliedOnce],
            ),
            (
                "a refused write shows",
                vec![
                    Operation { outcome: OperationOutcome::NotApplied, ..unknown("k", "a", (1, 2)) },
                    local("k", "a", 1, (3, 4)),
                ],
                &[Rule::ValueWritten],
            ),
            (
                "a follower shows the future",
                vec![local("k", "a", 1, (1, 2)), put("k", "a", 1, (3, 4))],
                &[Rule::ValueWritten],
            ),
            ("a follower invents", vec![local("k", "a", 1, (1, 2))], &[Rule::ValueWritten]),
            (
                "a follower goes back",
                vec![
                    put("k", "a", 1, (1, 2)),
                    put("k", "b", 2, (3, 4)),
                    local("k", "b", 2, (5, 6)),
                    local("k", "a", 1, (7, 8)),
                ],
                &[Rule::LocalNeverBack],
            ),
            (
                "a follower is later than it says",
                vec![
                    put("k", "a", 1, (1, 2_000)),
                    put("k", "b", 2, (3_000, 8_000)),
                    Operation { staleness_ms: Some(1.5), ..local("k", "a", 1, (10_000, 11_000)) },
                ],
                &[Rule::StalenessBound],
            ),
            (
                "a follower loses an acknowledged value",
                vec![
                    put("k", "a", 1, (1, 2)),
                    local("k", "a", 1, (5, 6)),
                    Operation { seq: None, epoch: None, ..local("k", "", 0, (7, 8)) },
                ],
                &[Rule::LocalNeverBack],
            ),
            (
                "a follower shows another value under a version",
                vec![put("k", "a", 1, (1, 2)), put("k", "b", 2, (3, 4)), local("k", "a", 2, (5, 6))],
                &[Rule::OneValuePerVersion],
            ),
            (
                "a write comes back after a recovery without it",
                vec![
                    put("k", "a", 1, (1, 2)),
                    Operation { seq: Some(2), epoch: epoch(1), ..unknown("k", "b", (3, 4)) },
                    in_epoch(2, get("k", "a", 1, (5, 6))),
                    in_epoch(3, get("k", "b", 2, (7, 8))),
                ],
                &[Rule::NotAfterRecovery],
            ),
            (
                "two writes replace one version",
                vec![
                    put("k", "a", 1, (1, 2)),
                    only_if(1, "a", put("k", "b", 2, (3, 10))),
                    only_if(1, "a", put("k", "c", 3, (4, 9))),
                ],
                &[Rule::Linearizable, Rule::ConditionKept],
            ),
            (
                "a condition that holds refuses",
                vec![put("k", "a", 1, (1, 2)), only_if(1, "a", unmet("k", "a", 1, (3, 4)))],
                &[Rule::ConditionKept],
            ),
            (
                "what refuses is lost",
                vec![
                    put("k", "a", 1, (1, 2)),
                    Operation { seq: Some(2), epoch: epoch(1), ..unknown("k", "b", (3, 9)) },
                    only_if(1, "a", unmet("k", "b", 2, (4, 5))),
                    in_epoch(2, get("k", "a", 1, (10, 11))),
                ],
                &[Rule::Linearizable, Rule::NeverBack],
            ),
        ];
        for (name, operations, expected) in cases {
            assert_eq!(rules(operations), expected, "{name}");
        }
    }

    #[test]
    fn final_dumps_have_everything_and_are_the_same() {
        let mut lost = history(vec![put("k", "a", 1, (1, 2)), put("k", "b", 2, (3, 4)), put("l", "c", 1, (1, 2))]);
        lost.dumps[1] = dump("follower1", &[("k", "a", 1), ("l", "c", 1)]);
        lost.dumps[2] = dump("follower2", &[("k", "x", 2)]);
        let verdict = judge(&lost);
        let texts: Vec<&str> = verdict.violations.iter().map(|violation| violation.text.as_str()).collect();
        for expected in [
            "k: put b (seq 2), and in the end follower1 ends at seq 1",
            "k: put b (seq 2), and in the end follower2 has x there",
            "k: in the end follower2 has x, which no client wrote there",
            "l: put c (seq 1), and in the end follower2 has no such key",
            "l: in the end leader has c (seq 1) and follower2 has nothing",
        ] {
            assert!(texts.contains(&expected), "{expected} is not among {texts:#?}");
        }
        assert_eq!(verdict.violations[0].operations, [2], "what came out first comes first");
    }
}
