//! Whether the latencies follow theory, and if not, whether the law of the delays or the system is off.

use super::{Finding, FindingKind, at_quorums, finding, largest};
use crate::sweep::{analysis::QuorumReport, report::SweepSettings};

/// What the system adds to a mean is not chance beyond this many standard errors of the mean.
const STANDARD_ERRORS_MAX: f64 = 3.0;

/// The delays that the leader drew, against their law, without any time of the system.
pub(super) fn law_differs(quorums: &[QuorumReport]) -> Option<Finding> {
    let beyond = |report: &QuorumReport| {
        let distribution = report.distribution.as_ref()?;
        distribution.law.filter(|distance| *distance > distribution.band).map(|distance| (distance, distribution.band))
    };
    let at = at_quorums(quorums, |report| beyond(report).is_some())?;
    let (distance, band) = quorums.iter().filter_map(beyond).max_by(|left, right| left.0.total_cmp(&right.0))?;
    finding(
        FindingKind::LawDiffers,
        format!(
            "the law is off: at {at} the delays that the leader drew are up to {distance:.3} away from their distribution, \
             where a 99 % band allows {band:.3}"
        ),
    )
}

/// Agreement, or what is off when the law is not.
pub(super) fn follows_theory(quorums: &[QuorumReport], settings: &SweepSettings) -> Option<Finding> {
    if quorums.iter().all(|report| report.overhead.is_none()) {
        return unexplained(quorums).or_else(|| agreement(quorums, settings));
    }
    system_adds(quorums).or_else(|| agreement(quorums, settings))
}

/// The overhead in standard errors of the mean.
fn overhead_in_errors(report: &QuorumReport) -> Option<f64> {
    let error_ms = report.latency?.standard_error_ms;
    (error_ms > 0.0).then_some(report.overhead?.mean_ms / error_ms)
}

fn is_outside(report: &QuorumReport) -> bool {
    report.distribution.as_ref().is_some_and(|distribution| distribution.latency > distribution.band)
}

fn system_adds(quorums: &[QuorumReport]) -> Option<Finding> {
    let errors = |report: &QuorumReport| overhead_in_errors(report).unwrap_or(0.0);
    let is_off = |report: &QuorumReport| is_outside(report) || errors(report) > STANDARD_ERRORS_MAX;
    let at = at_quorums(quorums, is_off)?;
    let worst =
        quorums.iter().filter(|report| is_off(report)).max_by(|left, right| errors(left).total_cmp(&errors(right)))?;
    let distance = largest(quorums.iter().filter_map(|report| report.distribution.as_ref()?.law));
    let band = largest(quorums.iter().filter_map(|report| Some(report.distribution.as_ref()?.band)));
    finding(
        FindingKind::SystemAdds,
        format!(
            "the system is off, the law is not: at {at} the latencies are above theory by more than chance. The delays that \
             the leader drew have their distribution (at most {distance:.3} away, where a 99 % band allows {band:.3}); the \
             system adds {:+.1} ms to a mean of {:.1} ms at W = {} ({:+.1} standard errors)",
            worst.overhead?.mean_ms,
            worst.theory.mean_ms,
            worst.write_quorum,
            errors(worst),
        ),
    )
}

/// Without the delays that were drawn, law and system cannot be separated.
fn unexplained(quorums: &[QuorumReport]) -> Option<Finding> {
    let errors =
        |report: &QuorumReport| report.deviation.and_then(|deviation| deviation.standard_errors).map_or(0.0, f64::abs);
    let at = at_quorums(quorums, |report| is_outside(report) || errors(report) > STANDARD_ERRORS_MAX)?;
    finding(
        FindingKind::TheoryDiffers,
        format!(
            "at {at} the latencies differ from theory by more than chance (means by up to {:.1} standard errors). The \
             leader does not report its delays, so that law and system cannot be told apart",
            largest(quorums.iter().map(errors))
        ),
    )
}

fn agreement(quorums: &[QuorumReport], settings: &SweepSettings) -> Option<Finding> {
    if settings.delay.is_some() { distributions_agree(quorums) } else { means_agree(quorums) }
}

/// Means say little of a law with a heavy tail, so that whole distributions are compared.
fn distributions_agree(quorums: &[QuorumReport]) -> Option<Finding> {
    let farthest = quorums
        .iter()
        .filter_map(|report| Some((report, report.distribution.as_ref()?)))
        .max_by(|(_, left), (_, right)| left.latency.total_cmp(&right.latency));
    let (report, distribution) = farthest?;
    let overhead = largest(quorums.iter().filter_map(|report| Some(report.overhead?.p50_ms)));
    let added = if overhead.is_finite() {
        format!("; half of all writes take at most {overhead:.1} ms more than their delays")
    } else {
        String::new()
    };
    let heavy = at_quorums(quorums, |report| report.theory.sd_ms > 2.0 * report.theory.mean_ms);
    let medians =
        heavy.map(|at| format!(". At {at} the tail is heavy: compare medians, not means")).unwrap_or_default();
    finding(
        FindingKind::Agreement,
        format!(
            "the measured distributions follow theory; the farthest, at W = {}, is {:.3} away, where a 99 % band allows \
             {:.3}{added}{medians}",
            report.write_quorum, distribution.latency, distribution.band
        ),
    )
}

fn means_agree(quorums: &[QuorumReport]) -> Option<Finding> {
    let farthest = quorums
        .iter()
        .filter_map(|report| Some((report.write_quorum, report.deviation?)))
        .max_by(|(_, left), (_, right)| left.ms.abs().total_cmp(&right.ms.abs()))?;
    let (write_quorum, deviation) = farthest;
    let standard_error_ms = deviation.standard_errors.map(|errors| deviation.ms / errors);
    let in_errors = |ms: f64| {
        standard_error_ms.map(|error_ms| format!(" ({:+.1} standard errors)", ms / error_ms)).unwrap_or_default()
    };
    let parts = match deviation.by_draw_ms {
        Some(by_draw_ms) => format!(
            ": {by_draw_ms:+.1} ms{} by the luck of the delays drawn, {:+.1} ms by the system",
            in_errors(by_draw_ms),
            deviation.ms - by_draw_ms
        ),
        None => in_errors(deviation.ms),
    };
    finding(
        FindingKind::Agreement,
        format!(
            "the measured means follow theory; the farthest, at W = {write_quorum}, is {:+.1} ms away{parts}",
            deviation.ms
        ),
    )
}

#[cfg(test)]
mod tests {
    //! Goal: the verdict names what is off, and only that. Method: synthetic runs whose law or system is known to be off.
    use crate::sweep::{
        findings::{FindingKind, findings},
        testing::{Behaviour, synthetic_quorums, synthetic_settings},
    };

    /// 1-2 ms above delays of 0-5 ms are no small thing.
    #[test]
    fn an_overhead_that_is_large_beside_the_delays_is_the_system_s() {
        let quorums = synthetic_quorums(Behaviour::Sound, 5, 0.0, 5.0, 1_000);
        let all = findings(&quorums, &synthetic_settings(5, 0, 5, 1_000), None);
        assert_eq!(all.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::SystemAdds]);
        let text = &all[0].text;
        assert!(text.starts_with("the system is off, the law is not: at W = 1, 2, 3, 4 and 5 the latencies"), "{text}");
        assert!(text.contains("the system adds +1.5 ms to a mean of "), "{text}");
    }

    #[test]
    fn delays_of_another_law_are_the_law_s() {
        let quorums = synthetic_quorums(Behaviour::Sound, 5, 0.0, 200.0, 1_000);
        let mut wrong = quorums.clone();
        let distribution = wrong[2].distribution.as_mut().expect("measured");
        distribution.law = Some(2.0 * distribution.band);
        let settings = synthetic_settings(5, 0, 200, 1_000);
        let all = findings(&wrong, &settings, None);
        assert_eq!(all.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::LawDiffers]);
        assert!(all[0].text.starts_with("the law is off: at W = 3 the delays that the leader drew"), "{}", all[0].text);
        assert!(FindingKind::LawDiffers.is_warning() && FindingKind::SystemAdds.is_warning());
        assert_eq!(findings(&quorums, &settings, None)[0].kind, FindingKind::Agreement);
    }

    #[test]
    fn without_reported_delays_law_and_system_are_not_told_apart() {
        let mut quorums = synthetic_quorums(Behaviour::Sound, 5, 0.0, 5.0, 1_000);
        for report in &mut quorums {
            report.overhead = None;
            report.distribution.as_mut().expect("measured").law = None;
        }
        let all = findings(&quorums, &synthetic_settings(5, 0, 5, 1_000), None);
        assert_eq!(all.iter().map(|finding| finding.kind).collect::<Vec<_>>(), [FindingKind::TheoryDiffers]);
    }
}
