//! What the figures mean, in words: agreement with theory, queueing, answers that wait for every follower or for none.

mod latency;
mod verdict;

use serde::Serialize;

use self::latency::{answers_early, flatness, overhead_grows, queueing, stalls, unexplained_latency};
use self::verdict::{follows_theory, law_differs};
use crate::sweep::{analysis::QuorumReport, consistency::ConsistencyReport, report::SweepSettings};

/// A conclusion that a reader of the table should not have to draw alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What sort of conclusion.
    pub kind: FindingKind,
    /// One or two sentences.
    pub text: String,
}

/// The sorts of conclusions; all but the first are warnings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// The latencies are where theory puts them.
    Agreement,
    /// The delays that the leader drew do not have their law.
    LawDiffers,
    /// The delays have their law, and the system adds more to them than chance could.
    SystemAdds,
    /// The latencies are not where theory puts them, and the leader does not report its delays.
    TheoryDiffers,
    /// Latencies above the longest delay there is.
    Queueing,
    /// The overhead is larger at the end of a run than at its beginning.
    OverheadGrows,
    /// Latency that the delays do not explain.
    UnexplainedLatency,
    /// A few writes that were held up for long.
    Stalls,
    /// The same latency at every quorum, that of the slowest follower.
    WaitsForEveryFollower,
    /// The same latency at every quorum.
    QuorumWithoutEffect,
    /// Answers before the quorum can have confirmed.
    AnswersEarly,
    /// Answers under another quorum than the one in force.
    OtherQuorum,
    /// Writes without success.
    Failures,
    /// Followers that were not taking part when the sweep began.
    FollowersMissing,
    /// Replication that did not come to its end.
    NotDrained,
    /// Followers that hold other data than the leader.
    Inconsistent,
}

impl FindingKind {
    /// Whether it is bad news.
    pub fn is_warning(self) -> bool {
        self != Self::Agreement
    }
}

/// Timers and schedulers are allowed this much before a latency counts as unexplained: 5 % of the delays' span,
/// and 5 ms at least. The span of a law that is not uniform ends at the 99 % quantile of the slowest quorum.
fn tolerance_ms(quorums: &[QuorumReport], settings: &SweepSettings) -> f64 {
    let (min_ms, max_ms) = (f64::from(settings.min_delay_ms), f64::from(settings.max_delay_ms));
    let slowest_ms = largest(quorums.iter().map(|report| report.theory.p99_ms));
    let longest_ms = if settings.delay.is_some() { slowest_ms } else { max_ms };
    (0.05 * (longest_ms - min_ms)).max(5.0)
}

/// Draws the conclusions from a sweep.
pub fn findings(
    quorums: &[QuorumReport],
    settings: &SweepSettings,
    consistency: Option<&ConsistencyReport>,
) -> Vec<Finding> {
    let tolerance = tolerance_ms(quorums, settings);
    let max_delay_ms = f64::from(settings.max_delay_ms);
    let flat = flatness(quorums, settings);
    let unexplained = if flat.is_none() { unexplained_latency(quorums, max_delay_ms, tolerance) } else { None };
    let latency_findings = [
        queueing(quorums, max_delay_ms, tolerance),
        overhead_grows(quorums, tolerance),
        flat,
        unexplained,
        answers_early(quorums, tolerance),
    ];
    let explained = latency_findings.iter().all(Option::is_none);
    let mut all: Vec<Finding> = Vec::new();
    let law = law_differs(quorums);
    all.extend(follows_theory(quorums, settings).filter(|_| explained && law.is_none()));
    all.extend(law);
    all.extend(latency_findings.into_iter().flatten());
    all.extend(stalls(quorums, tolerance).filter(|_| explained));
    all.extend(other_quorum(quorums));
    all.extend(failures(quorums));
    all.extend(consistency.map(replication).into_iter().flatten());
    all
}

fn finding(kind: FindingKind, text: String) -> Option<Finding> {
    Some(Finding { kind, text })
}

/// "W = 1, 2 and 3", for the quorums that `affected` picks; `None` when it picks none.
fn at_quorums(quorums: &[QuorumReport], affected: impl Fn(&QuorumReport) -> bool) -> Option<String> {
    let names: Vec<String> =
        quorums.iter().filter(|report| affected(report)).map(|report| report.write_quorum.to_string()).collect();
    let (last, others) = names.split_last()?;
    Some(if others.is_empty() { format!("W = {last}") } else { format!("W = {} and {last}", others.join(", ")) })
}

fn largest(values: impl Iterator<Item = f64>) -> f64 {
    values.fold(f64::NEG_INFINITY, f64::max)
}

fn other_quorum(quorums: &[QuorumReport]) -> Option<Finding> {
    let at = at_quorums(quorums, |report| report.under_other_quorum > 0)?;
    let writes: usize = quorums.iter().map(|report| report.under_other_quorum).sum();
    finding(
        FindingKind::OtherQuorum,
        format!(
            "{writes} writes at {at} were answered under another quorum: somebody else changes this cluster's settings"
        ),
    )
}

fn failures(quorums: &[QuorumReport]) -> Option<Finding> {
    let at = at_quorums(quorums, |report| report.failures.total() > 0)?;
    let failed: usize = quorums.iter().map(|report| report.failures.total()).sum();
    let writes: usize = quorums.iter().map(|report| report.writes).sum();
    let first = quorums.iter().find_map(|report| report.first_failure.as_deref()).unwrap_or("no message");
    let rest = if quorums.iter().any(|report| report.given_up) {
        "; the rest of a run with that many failures was given up"
    } else {
        ""
    };
    finding(
        FindingKind::Failures,
        format!(
            "{failed} of {writes} writes failed, at {at} (the first: {first}){rest}; latencies are those of the others"
        ),
    )
}

fn replication(consistency: &ConsistencyReport) -> Vec<Finding> {
    let not_drained = consistency.not_drained.as_ref().and_then(|why| {
        finding(FindingKind::NotDrained, format!("replication is not known to have come to its end: {why}"))
    });
    let different: Vec<&str> =
        consistency.followers.iter().filter(|check| !check.is_consistent()).map(|check| check.url.as_str()).collect();
    let inconsistent = (!different.is_empty())
        .then(|| {
            finding(FindingKind::Inconsistent, format!("not the same data as the leader's: {}", different.join(", ")))
        })
        .flatten();
    not_drained.into_iter().chain(inconsistent).collect()
}

#[cfg(test)]
mod tests {
    //! Goal: each behaviour of a cluster is called by its name, and only by that. Method: synthetic runs of systems
    //! that behave so, through the same analysis as measured ones.
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_quorums, synthetic_settings};

    fn settings() -> SweepSettings {
        synthetic_settings(5, 0, 200, 1_000)
    }

    fn kinds(behaviour: Behaviour) -> Vec<FindingKind> {
        let quorums = synthetic_quorums(behaviour, 5, 0.0, 200.0, 1_000);
        findings(&quorums, &settings(), None).into_iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn a_sound_system_agrees_with_theory() {
        assert_eq!(kinds(Behaviour::Sound), [FindingKind::Agreement]);
    }

    #[test]
    fn the_parts_of_the_largest_deviation_are_told() {
        let quorums = synthetic_quorums(Behaviour::Sound, 5, 0.0, 200.0, 1_000);
        let text = &findings(&quorums, &settings(), None)[0].text;
        assert!(text.contains("standard errors) by the luck") && text.ends_with("ms by the system"), "{text}");
    }

    #[test]
    fn a_system_that_serves_one_write_at_a_time_queues() {
        let quorums = synthetic_quorums(Behaviour::Queues, 5, 0.0, 200.0, 1_000);
        let all = findings(&quorums, &settings(), None);
        let queueing = all.iter().find(|finding| finding.kind == FindingKind::Queueing).expect("called by its name");
        assert!(queueing.text.contains("above 200 ms, the longest delay there is"), "{}", queueing.text);
        assert!(all.iter().all(|finding| finding.kind != FindingKind::Agreement));
    }

    #[test]
    fn a_growing_backlog_shows_before_latencies_pass_the_longest_delay() {
        assert_eq!(kinds(Behaviour::PilesUp), [FindingKind::OverheadGrows, FindingKind::UnexplainedLatency]);
    }

    #[test]
    fn answers_that_wait_for_everyone_are_recognised() {
        let quorums = synthetic_quorums(Behaviour::WaitsForAll, 5, 0.0, 200.0, 1_000);
        let all = findings(&quorums, &settings(), None);
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].kind, FindingKind::WaitsForEveryFollower);
        assert!(all[0].text.contains("the slowest of 5 takes 167 ms"), "{}", all[0].text);
    }

    #[test]
    fn answers_that_wait_for_no_follower_are_recognised() {
        assert_eq!(kinds(Behaviour::WaitsForNone), [FindingKind::QuorumWithoutEffect, FindingKind::AnswersEarly]);
    }

    #[test]
    fn a_slow_but_steady_system_is_not_called_queueing() {
        assert_eq!(kinds(Behaviour::Slow), [FindingKind::UnexplainedLatency]);
    }

    #[test]
    fn a_sound_system_that_stands_still_now_and_then_agrees_but_stalls() {
        let mut quorums = synthetic_quorums(Behaviour::Sound, 5, 0.0, 200.0, 1_000);
        let overhead = quorums[2].overhead.as_mut().expect("explained");
        overhead.p99_ms = 45.0;
        let all = findings(&quorums, &settings(), None);
        let kinds: Vec<FindingKind> = all.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, [FindingKind::Agreement, FindingKind::Stalls]);
        assert!(all[1].text.starts_with("at W = 3 one write in a hundred is held up for 45 ms"), "{}", all[1].text);

        let overhead = quorums[2].overhead.as_mut().expect("explained");
        overhead.mean_ms = 12.0;
        let all = findings(&quorums, &settings(), None);
        assert_eq!(all.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::UnexplainedLatency]);
    }

    #[test]
    fn other_findings_name_quorums_and_followers() {
        let mut quorums = synthetic_quorums(Behaviour::Sound, 5, 0.0, 200.0, 50);
        quorums[1].failures.indeterminate = 3;
        quorums[1].first_failure = Some("HTTP 500: quorum not reached".into());
        quorums[4].failures.no_answer = 1;
        quorums[4].under_other_quorum = 2;
        let text = failures(&quorums).expect("failures").text;
        assert!(text.starts_with("4 of 250 writes failed, at W = 2 and 5 (the first: HTTP 500"), "{text}");
        assert!(other_quorum(&quorums).expect("other quorum").text.starts_with("2 writes at W = 5"));
    }
}
