//! `sweep.json`: the whole report for programs.

use anyhow::Result;

use super::{Exporter, SweepReport};

/// Writes the report as it is.
#[derive(Debug)]
pub struct Json;

impl Exporter for Json {
    fn file_name(&self) -> &'static str {
        "sweep.json"
    }

    fn render(&self, report: &SweepReport) -> Result<Vec<u8>> {
        let mut text = serde_json::to_vec_pretty(report)?;
        text.push(b'\n');
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    #[test]
    fn settings_versions_date_and_figures_are_there() {
        let report = synthetic_report(Behaviour::Sound, 5, 0, 200, 200);
        let parsed: serde_json::Value =
            serde_json::from_slice(&Json.render(&report).expect("rendered")).expect("valid JSON");
        assert_eq!(parsed["settings"]["delay_seed"], 42);
        assert_eq!(parsed["settings"]["workload"]["concurrency"], 32);
        assert_eq!(parsed["versions"]["node"], "0.1.0");
        assert_eq!(parsed["started_at"], "2026-11-22T10:45:00Z");
        assert_eq!(parsed["quorums"][2]["write_quorum"], 3);
        let mean_ms = parsed["quorums"][2]["latency"]["mean_ms"].as_f64().expect("a number");
        assert!((mean_ms - report.quorums[2].latency.expect("measured").mean_ms).abs() < 1e-9);
        assert_eq!(parsed["findings"][0]["kind"], "agreement");
        assert_eq!(parsed["consistency"]["followers"][4]["mismatches"], 0);
    }
}
