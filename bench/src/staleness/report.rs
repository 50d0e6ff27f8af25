//! What a measurement found, in words, and the files it is written to.

mod csv;
mod markdown;
mod plot;
mod text;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use kvcluster_api::delay::DelayLaw;
use serde::Serialize;

pub use self::text::text;
use crate::{
    draw::rasterize,
    output::write_files,
    staleness::{
        analysis::{Cell, ERROR, Place, QuorumReport},
        probe::Workload,
    },
    theory,
};

/// Everything about a measurement; `staleness.json` is this, field by field.
#[derive(Clone, Debug, Serialize)]
pub struct StalenessReport {
    /// When it began, RFC 3339, UTC.
    pub started_at: String,
    /// Which programs took part.
    pub versions: Versions,
    /// Where the cluster came from.
    pub target: String,
    /// What was asked for and what was in force.
    pub settings: StalenessSettings,
    /// One for each law, in the order of measuring.
    pub laws: Vec<LawReport>,
    /// What the figures mean.
    pub findings: Vec<Finding>,
    /// Whether it was stopped before its end.
    pub interrupted: bool,
    /// What ended it before its time, if it was an error.
    pub failure: Option<String>,
}

/// Versions of the programs that took part.
#[derive(Clone, Debug, Serialize)]
pub struct Versions {
    /// kv-bench.
    pub bench: String,
    /// kv-node.
    pub node: String,
}

/// The settings of all laws.
#[derive(Clone, Debug, Serialize)]
pub struct StalenessSettings {
    /// Number of followers, N.
    pub followers: u16,
    /// Seed of the random delays, if the leader reports it.
    pub delay_seed: Option<u64>,
    /// The quorums asked for.
    pub quorums: Vec<u16>,
    /// What the clients do at each quorum.
    pub workload: Workload,
}

/// A law of the delays, and when to read.
#[derive(Clone, Debug, Serialize)]
pub struct LawSettings {
    /// Shortest delay before a send to a follower, in ms.
    pub min_delay_ms: u32,
    /// Longest delay before a send to a follower, in ms.
    pub max_delay_ms: u32,
    /// The law; uniform from the shortest to the longest when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay: Option<Arc<DelayLaw>>,
    /// Times after the acknowledgement at which to read, in ms.
    pub times_ms: Vec<f64>,
}

/// The measurements under one law.
#[derive(Clone, Debug, Serialize)]
pub struct LawReport {
    /// The law.
    pub settings: LawSettings,
    /// For the plot: times in ms with the chances in theory at W = 1, 2, …, N.
    #[serde(skip)]
    pub theory: Vec<(f64, Vec<f64>)>,
    /// One for each quorum, in the order of measuring.
    pub quorums: Vec<QuorumReport>,
}

/// Something worth saying about the figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is about, for programs.
    pub kind: FindingKind,
    /// The same in words.
    pub text: String,
}

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Every share is where theory allows it.
    Agreement,
    /// More reads are stale than theory allows.
    MoreStale,
    /// Fewer reads are stale than theory allows.
    FewerStale,
    /// Writes or reads failed.
    Failures,
}

impl FindingKind {
    /// Whether the reader should act or doubt.
    pub fn is_warning(self) -> bool {
        self != Self::Agreement
    }
}

impl LawSettings {
    /// "0-200 ms", "yammer", or the law as JSON.
    pub fn name(&self) -> String {
        theory::delays_name(self.delay.as_deref(), self.min_delay_ms, self.max_delay_ms)
    }
}

impl StalenessReport {
    /// Draws the conclusions from the measurements.
    pub fn conclude(&mut self) {
        self.findings =
            [self.outside(Place::Above), self.outside(Place::Below), self.failures()].into_iter().flatten().collect();
        if self.findings.iter().all(|finding| finding.kind == FindingKind::Failures) {
            self.findings.insert(0, self.agreement());
        }
    }

    /// Every time at every quorum under every law.
    fn cells(&self) -> impl Iterator<Item = (&LawReport, &QuorumReport, &Cell)> {
        self.laws.iter().flat_map(|law| {
            law.quorums.iter().flat_map(move |quorum| quorum.cells.iter().map(move |cell| (law, quorum, cell)))
        })
    }

    fn agreement(&self) -> Finding {
        let widest = |value: &dyn Fn(&Cell) -> f64| self.cells().map(|(_, _, cell)| value(cell)).fold(0.0, f64::max);
        let text = format!(
            "the stale reads follow theory: the intervals of all {} shares, which hold together in 99 of 100 measurements, \
             reach the chances that theory allows. The widest is ± {:.1} %, and theory allows {:.1} % at most for what is \
             not known of the instants",
            self.cells().count(),
            50.0 * widest(&|cell| cell.interval.1 - cell.interval.0),
            100.0 * widest(&|cell| cell.theory.1 - cell.theory.0),
        );
        Finding { kind: FindingKind::Agreement, text }
    }

    fn outside(&self, place: Place) -> Option<Finding> {
        let outside = || self.cells().filter(move |(_, _, cell)| cell.place() == place);
        let (law, quorum, cell) =
            outside().max_by(|(_, _, left), (_, _, right)| left.distance().total_cmp(&right.distance()))?;
        let (kind, words) = match place {
            Place::Above => (FindingKind::MoreStale, "more reads are stale than theory allows"),
            _ => (FindingKind::FewerStale, "fewer reads are stale than theory allows"),
        };
        let drawn = cell.drawn.map(|(least, most)| {
            format!(
                ". With the delays that the leader drew for these very writes it would be {}: the rest is the system, \
                 which needs time beyond the delays",
                percents(least, most)
            )
        });
        let text = format!(
            "{words} at {} of {} times and quorums. The farthest, under delays {} at W = {} after {} ms: {} measured \
             (interval {}), {} in theory{}",
            outside().count(),
            self.cells().count(),
            law.settings.name(),
            quorum.write_quorum,
            cell.time_ms,
            percents(cell.share, cell.share),
            percents(cell.interval.0, cell.interval.1),
            percents(cell.theory.0, cell.theory.1),
            drawn.unwrap_or_default(),
        );
        Some(Finding { kind, text })
    }

    fn failures(&self) -> Option<Finding> {
        let quorums = || self.laws.iter().flat_map(|law| &law.quorums);
        let (writes, reads) = quorums()
            .fold((0, 0), |(writes, reads), quorum| (writes + quorum.failed_writes, reads + quorum.failed_reads));
        let first = quorums().find_map(|quorum| quorum.first_failure.as_deref()).unwrap_or_default();
        let text =
            format!("{writes} writes and {reads} reads failed and are not part of the shares, the first with: {first}");
        (writes + reads > 0).then_some(Finding { kind: FindingKind::Failures, text })
    }

    /// One line on what was measured.
    pub fn settings_line(&self) -> String {
        let StalenessSettings { followers, delay_seed, workload, .. } = &self.settings;
        let Workload { writes, concurrency, seed } = workload;
        let delays = delay_seed.map(|seed| format!(", seed of the delays {seed}")).unwrap_or_default();
        format!(
            "{followers} followers{delays}; at each quorum {writes} writes by {concurrency} clients, and after each a read \
             at every time at a random follower (seed {seed})"
        )
    }

    /// One line on where and when.
    pub fn origin_line(&self) -> String {
        let Versions { bench, node } = &self.versions;
        format!("{}; kv-node {node}, kv-bench {bench}; {}", self.target, self.started_at)
    }
}

/// "3.1-4.2 %", or one number where both are the same.
fn percents(low: f64, high: f64) -> String {
    let (low, high) = (format!("{:.1}", 100.0 * low), format!("{:.1}", 100.0 * high));
    if low == high { format!("{low} %") } else { format!("{low}-{high} %") }
}

/// How often all intervals of a measurement hold together, in words.
fn confidence() -> String {
    format!("{:.0} %", 100.0 * (1.0 - ERROR))
}

/// Writes every file into `directory`, and returns their paths.
///
/// # Errors
/// When a file cannot be made; those before it are there.
pub fn export_all(report: &StalenessReport, directory: &Path) -> Result<Vec<PathBuf>> {
    let drawing = plot::draw(report);
    let mut json = serde_json::to_vec_pretty(report).context("failed to render staleness.json")?;
    json.push(b'\n');
    let files = [
        ("staleness.png", rasterize(&drawing).context("failed to render staleness.png")?),
        ("staleness.svg", drawing.into_bytes()),
        ("staleness.csv", csv::csv(report).into_bytes()),
        ("staleness.json", json),
        ("staleness.md", markdown::markdown(report).into_bytes()),
    ];
    write_files(directory, files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_report};

    fn kinds(report: &StalenessReport) -> Vec<FindingKind> {
        report.findings.iter().map(|finding| finding.kind).collect()
    }

    #[test]
    fn the_findings_say_whether_and_where_theory_is_left() {
        let sound = synthetic_report(Behaviour::Sound, 5, 1_000);
        assert_eq!(kinds(&sound), [FindingKind::Agreement], "{:?}", sound.findings);
        assert!(sound.findings[0].text.contains("all 200 shares"), "{}", sound.findings[0].text);
        let late = synthetic_report(Behaviour::AppliesLate, 5, 1_000);
        assert_eq!(kinds(&late), [FindingKind::MoreStale]);
        let text = &late.findings[0].text;
        assert!(text.contains("With the delays that the leader drew for these very writes it would be "), "{text}");
        let waits = synthetic_report(Behaviour::WaitsForAll, 5, 1_000);
        assert_eq!(kinds(&waits), [FindingKind::FewerStale]);
        assert!(waits.findings[0].text.contains("at W = 1 after 0 ms: 0.0 % measured"), "{}", waits.findings[0].text);
    }

    #[test]
    fn failures_are_reported_beside_what_was_measured() {
        let mut report = synthetic_report(Behaviour::Sound, 3, 500);
        report.laws[1].quorums[2].failed_reads = 3;
        report.laws[1].quorums[2].first_failure = Some("no answer".into());
        report.conclude();
        assert_eq!(kinds(&report), [FindingKind::Agreement, FindingKind::Failures]);
        assert!(report.findings[1].text.starts_with("0 writes and 3 reads failed"), "{:?}", report.findings);
        assert!(report.findings[1].text.ends_with("no answer"));
    }

    #[test]
    fn every_file_is_written_and_a_bad_directory_is_named() {
        let report = synthetic_report(Behaviour::Sound, 3, 100);
        let directory = tempfile::tempdir().expect("temporary directory");
        let paths = export_all(&report, directory.path()).expect("written");
        let names: Vec<_> = paths.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        assert_eq!(names, ["png", "svg", "csv", "json", "md"].map(|kind| format!("staleness.{kind}")));
        let json: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&paths[3]).expect("written")).expect("JSON");
        assert_eq!(json["settings"]["workload"]["concurrency"], 32);
        assert_eq!(json["laws"][1]["settings"]["delay"]["preset"], "yammer");
        assert_eq!(json["laws"][0]["quorums"][2]["cells"][0]["stale"], 0, "W = N");
        let error = export_all(&report, &directory.path().join("gone")).expect_err("no such directory");
        assert!(error.to_string().starts_with("failed to write "), "{error}");
    }
}
