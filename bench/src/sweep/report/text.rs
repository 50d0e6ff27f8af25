//! The table on standard output, and the words below it.

use super::{SweepReport, SweepSettings};
use crate::sweep::analysis::QuorumReport;

/// The whole report for a terminal, ending in a line break.
pub fn text(report: &SweepReport) -> String {
    let mut lines = vec![report.settings_line(), report.origin_line(), String::new()];
    lines.extend(table(&report.quorums));
    if report.settings.delay.is_some() {
        lines.push(String::new());
        lines.extend(distributions(&report.quorums));
    }
    if let Some(consistency) = &report.consistency {
        lines.push(String::new());
        lines.push(match consistency.drained_after_ms {
            Some(ms) => format!("replicas after the writes (drained after {ms:.0} ms):"),
            None => "replicas after the writes:".to_owned(),
        });
        lines.extend(consistency.followers.iter().map(|check| format!("  {}: {}", check.url, check.words())));
    }
    lines.push(String::new());
    lines.extend(remarks(report));
    lines.join("\n") + "\n"
}

/// Medians, and how far whole distributions are from theory: what to compare where a tail is heavy.
fn distributions(quorums: &[QuorumReport]) -> Vec<String> {
    let names = ["W", "median", "theory", "99 % band", "delays drawn", "without overhead", "latency"];
    let row = |report: &QuorumReport| {
        let distribution = report.distribution.as_ref();
        let share = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
        [
            report.write_quorum.to_string(),
            report.latency.map_or_else(|| "-".to_owned(), |latency| format!("{:.1}", latency.p50_ms)),
            format!("{:.1}", report.theory.p50_ms),
            distribution.map_or_else(|| "-".to_owned(), |distribution| format!("± {:.4}", distribution.band)),
            share(distribution.and_then(|distribution| distribution.law)),
            share(distribution.and_then(|distribution| distribution.without_overhead)),
            share(distribution.map(|distribution| distribution.latency)),
        ]
    };
    let rows: Vec<[String; 7]> = [names.map(str::to_owned)].into_iter().chain(quorums.iter().map(row)).collect();
    let widths: Vec<usize> =
        (0..names.len()).map(|column| rows.iter().map(|row| width(&row[column])).max().unwrap_or(0)).collect();
    let padded = |row: &[String; 7]| {
        let cells = row.iter().zip(&widths).map(|(cell, wide)| " ".repeat(wide - width(cell)) + cell);
        cells.collect::<Vec<_>>().join("  ")
    };
    let title = "medians in ms, and the distances of whole distributions from theory:".to_owned();
    [title].into_iter().chain(rows.iter().map(padded)).collect()
}

/// Findings, checks and what went wrong, a line each.
fn remarks(report: &SweepReport) -> Vec<String> {
    let mut lines: Vec<String> = report
        .findings
        .iter()
        .map(|finding| format!("{}: {}", if finding.kind.is_warning() { "warning" } else { "result" }, finding.text))
        .collect();
    if let Some(check) = &report.deviation_check {
        lines.push(format!("check {}: {}", if check.passed { "passed" } else { "failed" }, check.text));
    }
    let SweepSettings { quorums, .. } = &report.settings;
    let measured = report.quorums.len();
    if report.interrupted {
        lines.push(format!("interrupted: {measured} of {} quorums measured, the last perhaps in part", quorums.len()));
    }
    if let Some(failure) = &report.failure {
        lines.push(format!("stopped after {measured} of {} quorums: {failure}", quorums.len()));
    }
    lines
}

/// A group of columns under one title.
struct Group {
    title: &'static str,
    columns: &'static [&'static str],
}

const GROUPS: [Group; 5] = [
    Group { title: "", columns: &["W", "writes", "failed"] },
    Group { title: "latency, ms", columns: &["mean", "± 95 %", "sd", "p50", "p90", "p99", "max"] },
    Group { title: "theory, ms", columns: &["mean", "sd"] },
    Group { title: "deviation", columns: &["ms", "std err"] },
    Group { title: "overhead, ms", columns: &["p50", "p99", "max"] },
];

fn table(quorums: &[QuorumReport]) -> Vec<String> {
    let rows: Vec<Vec<String>> = quorums.iter().map(row).collect();
    let names: Vec<&str> = GROUPS.iter().flat_map(|group| group.columns).copied().collect();
    let mut widths: Vec<usize> = names
        .iter()
        .enumerate()
        .map(|(column, name)| rows.iter().map(|row| width(&row[column])).chain([width(name)]).max().unwrap_or(0))
        .collect();
    let mut titles = String::new();
    let mut start = 0;
    for (number, Group { title, columns }) in GROUPS.iter().enumerate() {
        let end = start + columns.len();
        let columns_width = widths[start..end].iter().sum::<usize>() + 2 * (columns.len() - 1);
        // A title needs a space and a dash on either side; the first column gives what is missing.
        let group_width = columns_width.max(if title.is_empty() { 0 } else { width(title) + 4 });
        widths[start] += group_width - columns_width;
        let rule = if title.is_empty() {
            " ".repeat(group_width)
        } else {
            let dashes = group_width.saturating_sub(width(title) + 2);
            format!("{} {title} {}", "-".repeat(dashes / 2), "-".repeat(dashes - dashes / 2))
        };
        titles.push_str(if number == 0 { "" } else { GAP });
        titles.push_str(&rule);
        start = end;
    }
    let names = line(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(), &widths);
    let mut lines = vec![titles, names];
    lines.extend(rows.iter().map(|row| line(row, &widths)));
    lines
}

const GAP: &str = "   ";

fn line(cells: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    let mut column = 0;
    for (number, group) in GROUPS.iter().enumerate() {
        for place in 0..group.columns.len() {
            text.push_str(if place > 0 {
                "  "
            } else if number > 0 {
                GAP
            } else {
                ""
            });
            text.push_str(&" ".repeat(widths[column].saturating_sub(width(&cells[column]))));
            text.push_str(&cells[column]);
            column += 1;
        }
    }
    text
}

fn width(text: &str) -> usize {
    text.chars().count()
}

fn row(report: &QuorumReport) -> Vec<String> {
    let one = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    let signed = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:+.1}"));
    let (latency, theory, overhead) = (report.latency, report.theory, report.overhead);
    vec![
        report.write_quorum.to_string(),
        report.writes.to_string(),
        report.failures.words(),
        one(latency.map(|latency| latency.mean_ms)),
        one(latency.map(|latency| latency.mean_interval_ms)),
        one(latency.map(|latency| latency.sd_ms)),
        one(latency.map(|latency| latency.p50_ms)),
        one(latency.map(|latency| latency.p90_ms)),
        one(latency.map(|latency| latency.p99_ms)),
        one(latency.map(|latency| latency.max_ms)),
        one(Some(theory.mean_ms)),
        one(Some(theory.sd_ms)),
        signed(report.deviation.map(|deviation| deviation.ms)),
        signed(report.deviation.and_then(|deviation| deviation.standard_errors)),
        one(overhead.map(|overhead| overhead.p50_ms)),
        one(overhead.map(|overhead| overhead.p99_ms)),
        one(overhead.map(|overhead| overhead.max_ms)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    #[test]
    fn the_table_is_aligned_and_fits_a_wide_terminal() {
        let report = synthetic_report(Behaviour::Sound, 5, 0, 200, 1_000);
        let lines = table(&report.quorums);
        assert_eq!(lines.len(), 7);
        for line in &lines {
            assert_eq!(width(line), width(&lines[0]), "{line}");
        }
        assert!(width(&lines[0]) <= 132, "{} columns:\n{}", width(&lines[0]), lines.join("\n"));
        let cells: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!((cells[0], cells[1], cells[2], cells[10], cells[11]), ("3", "1000", "0", "100.0", "37.8"));
        let mean = format!("{:.1}", report.quorums[2].latency.expect("measured").mean_ms);
        assert_eq!(cells[3], mean);
    }

    #[test]
    fn medians_and_distances_are_shown_where_a_law_is() {
        let mut report = synthetic_report(Behaviour::Sound, 5, 0, 200, 1_000);
        assert!(!text(&report).contains("whole distributions"));
        report.settings.delay = Some(std::sync::Arc::new(kvcluster_api::delay::DelayLaw::uniform(0, 200)));
        let lines = distributions(&report.quorums);
        assert!(lines[1..].iter().all(|line| width(line) == width(&lines[1])), "{lines:#?}");
        let cells: Vec<&str> = lines[4].split_whitespace().collect();
        assert_eq!((cells[0], cells[2], cells[3], cells[4]), ("3", "100.0", "±", "0.0588"));
        assert!(text(&report).contains(&lines[4]));
    }

    #[test]
    fn replicas_and_conclusions_stand_below() {
        let text = text(&synthetic_report(Behaviour::Sound, 5, 0, 200, 200));
        assert!(text.contains("\n  http://127.0.0.1:8005: 10/10 keys, 0 mismatches\n"), "{text}");
        assert!(text.contains("\nresult: the measured means follow theory"), "{text}");
        assert!(
            text.starts_with("5 followers, delays 0-200 ms (seed 42); 200 writes per quorum by 32 clients"),
            "{text}"
        );
    }

    #[test]
    fn interruption_failure_and_unknown_values_are_told() {
        let mut report = synthetic_report(Behaviour::WaitsForAll, 5, 0, 200, 200);
        report.quorums.truncate(2);
        report.quorums[1].latency = None;
        report.interrupted = true;
        report.failure = Some("failed to reach http://127.0.0.1:9".into());
        let text = text(&report);
        assert!(text.contains("warning: the quorum changes nothing"), "{text}");
        assert!(text.contains("interrupted: 2 of 5 quorums measured"), "{text}");
        assert!(text.contains("stopped after 2 of 5 quorums: failed to reach"), "{text}");
        assert!(table(&report.quorums)[3].contains(" - "), "{text}");
    }
}
