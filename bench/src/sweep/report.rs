//! What a sweep found, and the files it is written to: one exporter per file.

mod csv;
mod json;
mod markdown;
mod plot;
mod png;
mod text;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use kvcluster_api::delay::DelayLaw;
use serde::Serialize;

pub use self::{
    csv::Csv,
    json::Json,
    markdown::Markdown,
    plot::{DistributionsSvg, SvgPlot},
    png::{DistributionsPng, PngPlot},
    text::text,
};
use crate::{
    sweep::{
        analysis::QuorumReport,
        consistency::ConsistencyReport,
        findings::{Finding, findings},
        workload::Workload,
    },
    theory::{self, QuorumDelay},
};

/// Everything about a sweep; `sweep.json` is this, field by field.
#[derive(Clone, Debug, Serialize)]
pub struct SweepReport {
    /// When it began, RFC 3339, UTC.
    pub started_at: String,
    /// Which programs took part.
    pub versions: Versions,
    /// Where the cluster came from.
    pub target: String,
    /// What was asked for and what was in force.
    pub settings: SweepSettings,
    /// One per quorum, in the order of measuring.
    pub quorums: Vec<QuorumReport>,
    /// The followers' data beside the leader's, when their URLs are known.
    pub consistency: Option<ConsistencyReport>,
    /// What the figures mean.
    pub findings: Vec<Finding>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// What ended it before its time, if it was an error.
    pub failure: Option<String>,
    /// The answer to `--max-deviation-ms`.
    pub deviation_check: Option<DeviationCheck>,
}

/// Versions of the programs that took part.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// kv-bench.
    pub bench: String,
    /// kv-node.
    pub node: String,
}

/// The settings of a sweep.
#[derive(Clone, Debug, Serialize)]
pub struct SweepSettings {
    /// Number of followers, N.
    pub followers: u16,
    /// Shortest delay before a send to a follower, in ms.
    pub min_delay_ms: u32,
    /// Longest delay before a send to a follower, in ms.
    pub max_delay_ms: u32,
    /// The law of the delays; uniform from the shortest to the longest when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Arc<DelayLaw>>,
    /// After this long without a quorum a write's outcome is unknown, in ms.
    pub replication_timeout_ms: u32,
    /// Seed of the random delays, if the leader reports it.
    pub delay_seed: Option<u64>,
    /// The quorums asked for.
    pub quorums: Vec<u16>,
    /// Writes before each measurement that are not part of it.
    pub warmup_writes: usize,
    /// The limit of the deviation check, in ms.
    pub max_deviation_ms: Option<f64>,
    /// What the clients do at each quorum.
    pub workload: Workload,
    /// How they write.
    pub protocol: crate::commands::Protocol,
}

/// Whether every mean lies close enough to theory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviationCheck {
    /// How far a mean may lie beyond its 95 % interval, in ms.
    pub limit_ms: f64,
    /// Whether all do.
    pub passed: bool,
    /// The result in words.
    pub text: String,
}

impl SweepSettings {
    /// The law of the time until `write_quorum` followers have confirmed; nothing for a quorum that is not possible.
    pub fn law(&self, write_quorum: u16) -> Option<QuorumDelay> {
        match self.delay.as_ref().and_then(|law| law.resolve().ok()) {
            Some(delays) => QuorumDelay::of(&delays, self.followers, write_quorum),
            None => QuorumDelay::new(self.followers, write_quorum, self.min_delay_ms.into(), self.max_delay_ms.into()),
        }
    }
}

impl SweepReport {
    /// Draws the conclusions from the measurements; `before` are those that came before any measurement.
    pub fn conclude(&mut self, before: Vec<Finding>) {
        self.findings = before;
        self.findings.extend(findings(&self.quorums, &self.settings, self.consistency.as_ref()));
        self.deviation_check = self.settings.max_deviation_ms.map(|limit_ms| DeviationCheck::new(limit_ms, self));
    }

    /// One line on what was measured: "5 followers, delays 0-200 ms, …".
    pub fn settings_line(&self) -> String {
        let SweepSettings { followers, delay_seed, workload, .. } = &self.settings;
        let settings = &self.settings;
        let delays = theory::delays_name(settings.delay.as_deref(), settings.min_delay_ms, settings.max_delay_ms);
        let Workload { writes, concurrency, keys, value_size_bytes } = workload;
        let size = value_size_bytes.map(|bytes| format!(" of {bytes} bytes")).unwrap_or_default();
        let seed = delay_seed.map(|seed| format!(" (seed {seed})")).unwrap_or_default();
        format!(
            "{followers} followers, delays {delays}{seed}; {writes} writes{size} per quorum by \
             {concurrency} clients on {keys} keys"
        )
    }

    /// One line on where and when: "local processes, kv-node 0.1.0, …".
    pub fn origin_line(&self) -> String {
        let Versions { bench, node } = &self.versions;
        format!("{}; kv-node {node}, kv-bench {bench}; {}", self.target, self.started_at)
    }
}

impl DeviationCheck {
    fn new(limit_ms: f64, report: &SweepReport) -> Self {
        let mut beyond = Vec::new();
        for quorum in &report.quorums {
            match (quorum.deviation, quorum.latency) {
                (Some(deviation), Some(latency)) if deviation.ms.abs() > limit_ms + latency.mean_interval_ms => {
                    let interval_ms = latency.mean_interval_ms;
                    let (w, ms) = (quorum.write_quorum, deviation.ms);
                    beyond.push(format!(
                        "at W = {w} the mean is {ms:+.1} ms from theory (its interval: ± {interval_ms:.1} ms)"
                    ));
                }
                (Some(_), Some(_)) => {}
                _ => beyond.push(format!("at W = {} no write was committed", quorum.write_quorum)),
            }
        }
        let measured: Vec<u16> = report.quorums.iter().map(|quorum| quorum.write_quorum).collect();
        let unmeasured = report.settings.quorums.iter().filter(|quorum| !measured.contains(quorum));
        beyond.extend(unmeasured.map(|quorum| format!("W = {quorum} was not measured")));
        let text = if beyond.is_empty() {
            format!("every mean lies within {limit_ms} ms of theory, its 95 % interval allowed for")
        } else {
            format!("not every mean lies within {limit_ms} ms of theory: {}", beyond.join("; "))
        };
        Self { limit_ms, passed: beyond.is_empty(), text }
    }
}

/// One file of the output directory.
pub trait Exporter {
    /// Its name.
    fn file_name(&self) -> &'static str;

    /// Its content.
    ///
    /// # Errors
    /// When the report cannot be expressed in this form.
    fn render(&self, report: &SweepReport) -> Result<Vec<u8>>;
}

/// The files that are text, so that they can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextFile {
    /// The plot.
    Svg,
    /// The figures, one quorum a line.
    Csv,
    /// Everything.
    Json,
    /// The report.
    Md,
}

impl TextFile {
    /// The text of this file.
    ///
    /// # Errors
    /// When the report cannot be expressed in this form.
    pub fn render(self, report: &SweepReport) -> Result<String> {
        let exporter: &dyn Exporter = match self {
            Self::Svg => &SvgPlot,
            Self::Csv => &Csv,
            Self::Json => &Json,
            Self::Md => &Markdown,
        };
        let content = exporter.render(report).with_context(|| format!("failed to render {}", exporter.file_name()))?;
        String::from_utf8(content).with_context(|| format!("failed to print {}", exporter.file_name()))
    }
}

/// Writes every file into `directory`, and returns their paths.
///
/// # Errors
/// When a file cannot be made; those before it are there.
pub fn export_all(report: &SweepReport, directory: &Path) -> Result<Vec<PathBuf>> {
    let exporters: [&dyn Exporter; 7] =
        [&PngPlot, &SvgPlot, &DistributionsPng, &DistributionsSvg, &Csv, &Json, &Markdown];
    let mut paths = Vec::with_capacity(exporters.len());
    for exporter in exporters {
        let path = directory.join(exporter.file_name());
        let content = exporter.render(report).with_context(|| format!("failed to render {}", exporter.file_name()))?;
        fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
        paths.push(path);
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::testing::{Behaviour, synthetic_report};

    #[test]
    fn the_check_passes_within_the_limit_and_names_what_is_beyond() {
        let mut report = synthetic_report(Behaviour::Sound, 5, 0, 200, 1_000);
        report.settings.max_deviation_ms = Some(5.0);
        report.conclude(Vec::new());
        let check = report.deviation_check.clone().expect("asked for");
        assert!(check.passed, "{}", check.text);

        let mut report = synthetic_report(Behaviour::Slow, 5, 0, 200, 1_000);
        report.settings.max_deviation_ms = Some(5.0);
        report.conclude(Vec::new());
        let check = report.deviation_check.clone().expect("asked for");
        assert!(!check.passed);
        assert!(check.text.contains("at W = 3 the mean is +3"), "{}", check.text);
    }

    #[test]
    fn a_quorum_that_was_not_measured_does_not_pass() {
        let mut report = synthetic_report(Behaviour::Sound, 5, 0, 200, 1_000);
        report.settings.max_deviation_ms = Some(50.0);
        report.quorums.pop();
        report.conclude(Vec::new());
        let check = report.deviation_check.expect("asked for");
        assert!(!check.passed);
        assert!(check.text.ends_with("W = 5 was not measured"), "{}", check.text);
    }

    #[test]
    fn a_printed_file_can_be_cut_out_of_a_log_by_its_first_and_last_line() {
        let report = synthetic_report(Behaviour::Sound, 3, 20, 60, 100);
        for (file, first, last) in [(TextFile::Svg, "<svg", "</svg>"), (TextFile::Json, "{", "}")] {
            let text = file.render(&report).expect("text");
            let lines: Vec<&str> = text.lines().collect();
            let starts = |mark: &str| lines.iter().filter(|line| line.starts_with(mark)).count();
            assert!(text.starts_with(first) && lines.last().is_some_and(|line| line.starts_with(last)), "{file:?}");
            assert_eq!((starts(first), starts(last)), (1, 1), "{file:?}");
            assert!(text.ends_with('\n'), "{file:?}");
        }
    }

    #[test]
    fn every_file_is_written_and_a_bad_directory_is_named() {
        let report = synthetic_report(Behaviour::Sound, 3, 20, 60, 100);
        let directory = tempfile::tempdir().expect("temporary directory");
        let paths = export_all(&report, directory.path()).expect("written");
        let names: Vec<_> = paths.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        let pictures = ["quorum_vs_latency.png", "quorum_vs_latency.svg"];
        let distributions = ["latency_distributions.png", "latency_distributions.svg"];
        assert_eq!(names, [&pictures[..], &distributions, &["sweep.csv", "sweep.json", "sweep.md"]].concat());
        let error = export_all(&report, &directory.path().join("gone")).expect_err("no such directory");
        assert!(error.to_string().starts_with("failed to write "), "{error}");
    }
}
