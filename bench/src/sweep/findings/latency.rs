//! What the latencies of a sweep give away about the system behind them.

use super::{Finding, FindingKind, at_quorums, finding, largest};
use crate::sweep::{analysis::QuorumReport, report::SweepSettings};

pub(super) fn queueing(quorums: &[QuorumReport], max_delay_ms: f64, tolerance: f64) -> Option<Finding> {
    let above = |report: &QuorumReport| {
        report.latency.is_some_and(|latency| latency.mean_ms.max(latency.p50_ms) > max_delay_ms + tolerance)
    };
    let at = at_quorums(quorums, above)?;
    let worst = largest(quorums.iter().filter_map(|report| Some(report.latency?.mean_ms)));
    finding(
        FindingKind::Queueing,
        format!(
            "the system queues: at {at} mean or median lies above {max_delay_ms:.0} ms, the longest delay there is \
             (mean up to {worst:.0} ms); writes wait for each other, not for followers"
        ),
    )
}

pub(super) fn overhead_grows(quorums: &[QuorumReport], tolerance: f64) -> Option<Finding> {
    let growth = |report: &QuorumReport| {
        let overhead = report.overhead?;
        let growth_ms = overhead.last_third_mean_ms - overhead.first_third_mean_ms;
        // A difference of two means over a third of the sample each: √6 standard errors of the whole.
        let noise_ms = 4.0 * 6.0_f64.sqrt() * overhead.standard_error_ms;
        (growth_ms > tolerance.max(noise_ms)).then_some(growth_ms)
    };
    let at = at_quorums(quorums, |report| growth(report).is_some())?;
    let most = largest(quorums.iter().filter_map(growth));
    finding(
        FindingKind::OverheadGrows,
        format!(
            "the system queues: at {at} the overhead grows during the run, by up to {most:.0} ms from its first third to \
             its last; writes arrive faster than they are done"
        ),
    )
}

/// Whether the latency ignores the quorum, although theory spreads it well beyond the measurements' noise.
pub(super) fn flatness(quorums: &[QuorumReport], settings: &SweepSettings) -> Option<Finding> {
    let measured: Vec<(&QuorumReport, f64, f64)> = quorums
        .iter()
        .filter_map(|report| report.latency.map(|latency| (report, latency.mean_ms, latency.mean_interval_ms)))
        .collect();
    let range = |pick: &dyn Fn(&(&QuorumReport, f64, f64)) -> f64| {
        largest(measured.iter().map(pick)) + largest(measured.iter().map(|item| -pick(item)))
    };
    let (measured_range, theory_range) = (range(&|item| item.1), range(&|item| item.0.theory.mean_ms));
    let noise = largest(measured.iter().map(|item| item.2));
    if measured.len() < 2 || theory_range < 4.0 * noise || theory_range <= 1.0 || measured_range > theory_range / 4.0 {
        return None;
    }
    let mean_ms = measured.iter().map(|item| item.1).sum::<f64>() / measured.len() as f64;
    let (first, last) = (measured.first()?.0, measured.last()?.0);
    let theory = format!(
        "theory says {:.0} ms at W = {} and {:.0} ms at W = {}",
        first.theory.mean_ms, first.write_quorum, last.theory.mean_ms, last.write_quorum
    );
    let followers = settings.followers;
    let slowest_ms = settings.law(followers)?.mean_ms();
    if mean_ms > slowest_ms - theory_range / 8.0 {
        return finding(
            FindingKind::WaitsForEveryFollower,
            format!(
                "the quorum changes nothing: about {mean_ms:.0} ms at every W, where {theory}; answers wait for every \
                 follower (the slowest of {followers} takes {slowest_ms:.0} ms on average)"
            ),
        );
    }
    finding(
        FindingKind::QuorumWithoutEffect,
        format!("the quorum changes nothing: about {mean_ms:.0} ms at every W, where {theory}"),
    )
}

pub(super) fn unexplained_latency(quorums: &[QuorumReport], max_delay_ms: f64, tolerance: f64) -> Option<Finding> {
    let unexplained = |report: &QuorumReport| {
        let latency = report.latency?;
        let typical_ms = match report.overhead {
            Some(overhead) => overhead.p50_ms.max(overhead.mean_ms),
            None => report.deviation?.ms - latency.mean_interval_ms,
        };
        // Above the longest delay it is queueing, which is said elsewhere.
        (typical_ms > tolerance && latency.mean_ms <= max_delay_ms + tolerance).then_some(typical_ms)
    };
    let at = at_quorums(quorums, |report| unexplained(report).is_some())?;
    let most = largest(quorums.iter().filter_map(unexplained));
    finding(
        FindingKind::UnexplainedLatency,
        format!(
            "at {at} writes take up to {most:.1} ms longer, on average, than their delays explain: the system itself is slow, \
             or short of processor time, under this load"
        ),
    )
}

/// Means can be sound although the system pauses now and then; the report warns readers of the quantiles.
pub(super) fn stalls(quorums: &[QuorumReport], tolerance: f64) -> Option<Finding> {
    let stalled =
        |report: &QuorumReport| report.overhead.map(|overhead| overhead.p99_ms).filter(|ms| *ms > 2.0 * tolerance);
    let at = at_quorums(quorums, |report| stalled(report).is_some())?;
    let most = largest(quorums.iter().filter_map(stalled));
    finding(
        FindingKind::Stalls,
        format!(
            "at {at} one write in a hundred is held up for {most:.0} ms or more beyond its delays: the high quantiles show \
             the machine rather than the quorum"
        ),
    )
}

pub(super) fn answers_early(quorums: &[QuorumReport], tolerance: f64) -> Option<Finding> {
    let early = |report: &QuorumReport| match (report.overhead, report.deviation, report.latency) {
        (Some(overhead), ..) => overhead.min_ms < -1.0,
        (None, Some(deviation), Some(latency)) => deviation.ms < -(tolerance + 2.0 * latency.mean_interval_ms),
        _ => false,
    };
    let at = at_quorums(quorums, early)?;
    finding(
        FindingKind::AnswersEarly,
        format!("at {at} writes are answered before their quorum can have confirmed them: an answer promises too much"),
    )
}
