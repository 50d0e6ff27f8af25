use super::*;
use crate::check::{
    history::{Condition, Operation},
    testing::{
        after, delete, dump, epoch, get, history, in_epoch, increment, local, only_if, put, redis, unknown,
        unknown_increment, unmet,
    },
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
            "increments, of which one is of unknown outcome",
            vec![
                increment("n", 4, 4, 1, (1, 9)),
                increment("n", -1, 3, 2, (2, 8)),
                unknown_increment("n", 16, (10, 11)),
                local("n", "19", 3, (12, 13)),
                put("n", "-7", 4, (14, 15)),
                increment("n", 4, -3, 5, (16, 17)),
                // The retry of an increment whose sum is replaced.
                Operation { value: None, attempts: 2, ..increment("n", 64, 0, 6, (18, 25)) },
                increment("n", 1, 62, 7, (19, 24)),
                get("n", "62", 7, (26, 27)),
            ],
        ),
        (
            "deletions, and what follows them",
            vec![
                put("k", "a", 1, (1, 2)),
                delete("k", 2, (3, 4)),
                get("k", "", 2, (5, 6)),
                Operation { seq: None, epoch: None, ..local("k", "", 0, (5, 6)) },
                only_if(0, "", put("k", "b", 3, (7, 8))),
                only_if(3, "b", unmet("k", "c", 4, (9, 20))),
                put("k", "c", 4, (10, 11)),
            ],
        ),
        (
            "Redis' protocol, which shows no versions",
            vec![
                redis(only_if(0, "", put("k", "a", 0, (1, 2)))),
                // SET NX without GET.
                redis(only_if(0, "", unmet("k", "", 0, (3, 4)))),
                get("k", "a", 1, (3, 4)),
                redis(after("a", put("k", "b", 0, (5, 6)))),
                redis(get("k", "b", 0, (7, 8))),
                redis(Operation { condition: Some(Condition::Present), ..delete("k", 0, (9, 10)) }),
                redis(Operation { condition: Some(Condition::Present), ..unmet("k", "", 0, (11, 12)) }),
                redis(after("", put("k", "c", 0, (13, 14)))),
                get("k", "c", 4, (15, 16)),
                redis(increment("n", 4, 4, 0, (1, 2))),
                increment("n", 1, 5, 2, (3, 4)),
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
            "an increment counts twice",
            vec![
                increment("n", 4, 4, 1, (1, 2)),
                Operation { attempts: 2, ..increment("n", 1, 6, 3, (3, 4)) },
                get("n", "6", 3, (5, 6)),
            ],
            &[Rule::Linearizable],
        ),
        (
            "an increment adds to what is replaced",
            vec![increment("n", 4, 4, 1, (1, 2)), increment("n", 1, 5, 2, (3, 9)), increment("n", 16, 20, 3, (4, 8))],
            &[Rule::Linearizable, Rule::SumOfVersionBefore],
        ),
        (
            "the first increment adds to something",
            vec![increment("n", 4, 7, 1, (1, 2))],
            &[Rule::Linearizable, Rule::SumOfVersionBefore],
        ),
        (
            "an increment is lost",
            vec![
                increment("n", 4, 4, 1, (1, 2)),
                increment("n", 1, 5, 2, (3, 4)),
                in_epoch(2, increment("n", 16, 20, 2, (5, 6))),
            ],
            &[Rule::Linearizable, Rule::OneValuePerVersion, Rule::NeverBack, Rule::InFinalDumps],
        ),
        (
            "a deletion shows what is deleted",
            vec![put("k", "a", 1, (1, 2)), delete("k", 2, (3, 4)), get("k", "a", 1, (5, 6))],
            &[Rule::Linearizable, Rule::NeverBack, Rule::InFinalDumps],
        ),
        (
            "a SET shows what another one replaced",
            vec![
                put("k", "a", 1, (1, 2)),
                put("k", "b", 2, (3, 4)),
                redis(after("a", put("k", "c", 0, (5, 6)))),
                get("k", "c", 3, (7, 8)),
            ],
            &[Rule::Linearizable],
        ),
        (
            "a SET NX is refused where there is nothing",
            vec![redis(only_if(0, "", unmet("k", "", 0, (1, 2)))), put("k", "a", 1, (3, 4))],
            &[Rule::Linearizable],
        ),
        (
            "a write that was acknowledged without a version is gone",
            vec![put("k", "a", 1, (1, 2)), redis(put("k", "b", 0, (3, 4))), get("k", "a", 1, (5, 6))],
            &[Rule::Linearizable],
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
