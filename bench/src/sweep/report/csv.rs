//! `sweep.csv`: one line per quorum for spreadsheets; unknown values are empty fields.

use anyhow::Result;

use super::{Exporter, SweepReport};
use crate::sweep::analysis::QuorumReport;

/// Writes the quorums as comma-separated values with a header.
#[derive(Debug)]
pub struct Csv;

impl Exporter for Csv {
    fn file_name(&self) -> &'static str {
        "sweep.csv"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        let empty = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
        let mut lines = Vec::with_capacity(report.quorums.len() + 1);
        for quorum in &report.quorums {
            let fields = fields(quorum);
            if lines.is_empty() {
                lines.push(header(&fields));
            }
            let values: Vec<String> = fields
                .iter()
                .map(|(_, field)| match field {
                    Field::Count(count) => count.to_string(),
                    Field::Measure(value) => empty(*value),
                    Field::Share(value) => value.map(|value| format!("{value:.5}")).unwrap_or_default(),
                })
                .collect();
            lines.push(values.join(","));
        }
        Ok((lines.join("\n") + "\n").into_bytes())
    }
}

enum Field {
    Count(usize),
    Measure(Option<f64>),
    Share(Option<f64>),
}

fn header(fields: &[(&str, Field)]) -> String {
    fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

/// Names and values side by side, so that none can slip into its neighbour's column.
fn fields(report: &QuorumReport) -> Vec<(&'static str, Field)> {
    let QuorumReport {
        write_quorum,
        writes,
        failures,
        first_failure: _,
        given_up: _,
        under_other_quorum,
        duration_ms,
        writes_per_second,
        latency,
        theory,
        deviation,
        overhead,
        distribution,
    } = report;
    let distribution = distribution.as_ref();
    let measure = |value| Field::Measure(Some(value));
    vec![
        ("write_quorum", Field::Count(*write_quorum as usize)),
        ("writes", Field::Count(*writes)),
        ("committed", Field::Count(report.committed())),
        ("indeterminate", Field::Count(failures.indeterminate)),
        ("not_applied", Field::Count(failures.not_applied)),
        ("refused", Field::Count(failures.refused)),
        ("no_answer", Field::Count(failures.no_answer)),
        ("under_other_quorum", Field::Count(*under_other_quorum)),
        ("duration_ms", measure(*duration_ms)),
        ("writes_per_second", measure(*writes_per_second)),
        ("mean_ms", Field::Measure(latency.map(|latency| latency.mean_ms))),
        ("mean_interval_ms", Field::Measure(latency.map(|latency| latency.mean_interval_ms))),
        ("sd_ms", Field::Measure(latency.map(|latency| latency.sd_ms))),
        ("p50_ms", Field::Measure(latency.map(|latency| latency.p50_ms))),
        ("p90_ms", Field::Measure(latency.map(|latency| latency.p90_ms))),
        ("p99_ms", Field::Measure(latency.map(|latency| latency.p99_ms))),
        ("max_ms", Field::Measure(latency.map(|latency| latency.max_ms))),
        ("theory_mean_ms", measure(theory.mean_ms)),
        ("theory_sd_ms", measure(theory.sd_ms)),
        ("theory_p50_ms", measure(theory.p50_ms)),
        ("theory_p90_ms", measure(theory.p90_ms)),
        ("theory_p99_ms", measure(theory.p99_ms)),
        ("deviation_ms", Field::Measure(deviation.map(|deviation| deviation.ms))),
        ("deviation_standard_errors", Field::Measure(deviation.and_then(|deviation| deviation.standard_errors))),
        ("deviation_by_draw_ms", Field::Measure(deviation.and_then(|deviation| deviation.by_draw_ms))),
        ("overhead_mean_ms", Field::Measure(overhead.map(|overhead| overhead.mean_ms))),
        ("overhead_p50_ms", Field::Measure(overhead.map(|overhead| overhead.p50_ms))),
        ("overhead_p99_ms", Field::Measure(overhead.map(|overhead| overhead.p99_ms))),
        ("overhead_max_ms", Field::Measure(overhead.map(|overhead| overhead.max_ms))),
        ("distance_band", Field::Share(distribution.map(|distribution| distribution.band))),
        ("distance_law", Field::Share(distribution.and_then(|distribution| distribution.law))),
        (
            "distance_without_overhead",
            Field::Share(distribution.and_then(|distribution| distribution.without_overhead)),
        ),
        ("distance_latency", Field::Share(distribution.map(|distribution| distribution.latency))),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    fn column(report: &SweepReport, name: &str) -> Vec<String> {
        let text = String::from_utf8(Csv.render(report).expect("rendered")).expect("UTF-8");
        let mut lines = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let header = lines.next().expect("a header");
        let index = header.iter().position(|field| field == name).expect("the column");
        lines
            .map(|line| {
                assert_eq!(line.len(), header.len());
                line[index].clone()
            })
            .collect()
    }

    #[test]
    fn columns_hold_what_their_names_say() {
        let report = synthetic_report(Behaviour::Sound, 5, 0, 200, 200);
        assert_eq!(column(&report, "write_quorum"), ["1", "2", "3", "4", "5"]);
        assert_eq!(column(&report, "theory_mean_ms"), ["33.333", "66.667", "100.000", "133.333", "166.667"]);
        let latency = report.quorums[3].latency.expect("measured");
        assert_eq!(column(&report, "p90_ms")[3], format!("{:.3}", latency.p90_ms));
        assert_eq!(column(&report, "max_ms")[3], format!("{:.3}", latency.max_ms));
    }

    #[test]
    fn what_is_not_known_is_empty() {
        let mut report = synthetic_report(Behaviour::WaitsForAll, 5, 0, 200, 200);
        report.quorums[1].latency = None;
        assert_eq!(column(&report, "overhead_p50_ms"), [""; 5]);
        assert_eq!(column(&report, "mean_ms")[1], "");
    }
}
