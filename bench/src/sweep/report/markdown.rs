//! `sweep.md`: the results as a section of a report.

use anyhow::Result;

use super::{Exporter, SweepReport};
use crate::sweep::analysis::QuorumReport;

/// Writes tables, plot and conclusions as Markdown.
#[derive(Debug)]
pub struct Markdown;

impl Exporter for Markdown {
    fn file_name(&self) -> &'static str {
        "sweep.md"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        let mut parts = vec![
            "# Write quorum and latency".to_owned(),
            format!("{}  \n{}", report.settings_line(), report.origin_line()),
            "![Latency by write quorum, measured and in theory](quorum_vs_latency.svg)".to_owned(),
            conclusions(report),
            "## Means\n\nAll times in milliseconds; ± is the 95 % interval of the mean.".to_owned(),
            table(
                &[
                    "W",
                    "writes",
                    "failed",
                    "mean",
                    "theory",
                    "deviation",
                    "in std errors",
                    "sd",
                    "theory sd",
                    "writes/s",
                ],
                report.quorums.iter().map(means),
            ),
            "## Quantiles\n\nMeasured, with theory in brackets.".to_owned(),
            table(&["W", "p50", "p90", "p99", "max"], report.quorums.iter().map(quantiles)),
            "## Overhead\n\nEach write's latency minus the delay its own quorum had to wait for: what the system adds."
                .to_owned(),
            table(&["W", "mean", "p50", "p99", "max"], report.quorums.iter().map(overheads)),
        ];
        parts.push(
            "## Distributions\n\nThe largest difference between distribution functions, where the law allows the band in \
             99 of 100 sweeps: of the delays that the leader drew, of the latencies without the median of the overhead, and \
             of the latencies as measured.\n\n![Distribution of the latency at each quorum, measured and in \
             theory](latency_distributions.svg)"
                .to_owned(),
        );
        let names = ["W", "median", "theory", "band", "delays drawn", "without overhead", "latency"];
        parts.push(table(&names, report.quorums.iter().map(distances)));
        if let Some(consistency) = &report.consistency {
            parts.push("## Replicas after the writes".to_owned());
            let rows = consistency.followers.iter().map(|check| vec![check.url.clone(), check.words()]);
            parts.push(table(&["follower", "compared with the leader"], rows));
        }
        Ok((parts.join("\n\n") + "\n").into_bytes())
    }
}

fn conclusions(report: &SweepReport) -> String {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("- {}{}", if finding.kind.is_warning() { "**Warning:** " } else { "" }, finding.text))
        .collect();
    if let Some(check) = &report.deviation_check {
        lines.push(format!("- **Check {}:** {}", if check.passed { "passed" } else { "failed" }, check.text));
    }
    if report.interrupted {
        lines.push("- **Interrupted:** these are partial results".to_owned());
    }
    if let Some(failure) = &report.failure {
        lines.push(format!("- **Stopped early:** {failure}"));
    }
    lines.join("\n")
}

fn table(names: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut lines = vec![format!("| {} |", names.join(" | ")), format!("|{}", " ---: |".repeat(names.len()))];
    lines.extend(rows.map(|cells| format!("| {} |", cells.join(" | ").replace('\n', " "))));
    lines.join("\n")
}

fn or_dash(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_owned())
}

fn means(report: &QuorumReport) -> Vec<String> {
    let (latency, deviation) = (report.latency, report.deviation);
    vec![
        report.write_quorum.to_string(),
        report.writes.to_string(),
        report.failures.words(),
        or_dash(latency.map(|latency| format!("{:.1} ± {:.1}", latency.mean_ms, latency.mean_interval_ms))),
        format!("{:.1}", report.theory.mean_ms),
        or_dash(deviation.map(|deviation| format!("{:+.1}", deviation.ms))),
        or_dash(deviation.and_then(|deviation| deviation.standard_errors).map(|errors| format!("{errors:+.1}"))),
        or_dash(latency.map(|latency| format!("{:.1}", latency.sd_ms))),
        format!("{:.1}", report.theory.sd_ms),
        format!("{:.0}", report.writes_per_second),
    ]
}

fn quantiles(report: &QuorumReport) -> Vec<String> {
    let (latency, theory) = (report.latency, report.theory);
    let beside = |measured: Option<f64>, theory: f64| or_dash(measured.map(|ms| format!("{ms:.1} ({theory:.1})")));
    vec![
        report.write_quorum.to_string(),
        beside(latency.map(|latency| latency.p50_ms), theory.p50_ms),
        beside(latency.map(|latency| latency.p90_ms), theory.p90_ms),
        beside(latency.map(|latency| latency.p99_ms), theory.p99_ms),
        or_dash(latency.map(|latency| format!("{:.1}", latency.max_ms))),
    ]
}

fn distances(report: &QuorumReport) -> Vec<String> {
    let distribution = report.distribution.as_ref();
    let share = |value: Option<f64>| or_dash(value.map(|value| format!("{value:.4}")));
    vec![
        report.write_quorum.to_string(),
        or_dash(report.latency.map(|latency| format!("{:.1}", latency.p50_ms))),
        format!("{:.1}", report.theory.p50_ms),
        share(distribution.map(|distribution| distribution.band)),
        share(distribution.and_then(|distribution| distribution.law)),
        share(distribution.and_then(|distribution| distribution.without_overhead)),
        share(distribution.map(|distribution| distribution.latency)),
    ]
}

fn overheads(report: &QuorumReport) -> Vec<String> {
    let overhead = report.overhead;
    let one = |value: Option<f64>| or_dash(value.map(|ms| format!("{ms:.2}")));
    vec![
        report.write_quorum.to_string(),
        one(overhead.map(|overhead| overhead.mean_ms)),
        one(overhead.map(|overhead| overhead.p50_ms)),
        one(overhead.map(|overhead| overhead.p99_ms)),
        one(overhead.map(|overhead| overhead.max_ms)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    fn render(report: &SweepReport) -> String {
        String::from_utf8(Markdown.render(report).expect("rendered")).expect("UTF-8")
    }

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_header() {
        let text = render(&synthetic_report(Behaviour::Sound, 5, 0, 200, 200));
        let mut cells = None;
        let mut rows = 0;
        for line in text.lines() {
            let count = line.starts_with('|').then(|| line.matches('|').count());
            if let (Some(header), Some(row)) = (cells, count) {
                assert_eq!(header, row, "{line}");
                rows += 1;
            }
            cells = count;
        }
        assert_eq!(rows, 5 + 5 * 5, "four tables by quorum and one by follower");
    }

    #[test]
    fn quantiles_stand_beside_theirs_and_warnings_are_bold() {
        let report = synthetic_report(Behaviour::Queues, 5, 0, 200, 200);
        let text = render(&report);
        assert!(text.contains("(100.0)"), "theory's median at W = 3");
        assert!(text.contains("- **Warning:** the system queues"), "{text}");
        assert!(render(&synthetic_report(Behaviour::WaitsForAll, 5, 0, 200, 200)).contains("| 1 | - | - | - | - |"));
    }
}
