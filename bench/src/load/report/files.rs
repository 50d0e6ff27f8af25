//! The files of a run: `load.json` with everything, `load.csv` second by second, `load.png` and `load.svg`; `fill.csv` is of the
//! time in which every key was written once.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Latencies, LoadReport, SecondReport, text::settings_line};
use crate::{
    draw::chart::{Chart, Panel, Scale, Series},
    output::write_files,
};

/// Writes every file into `directory`, and returns their paths.
///
/// # Errors
/// When a file cannot be made; those before it are there.
pub fn export_all(report: &LoadReport, directory: &Path) -> Result<Vec<PathBuf>> {
    let chart = chart(report);
    let mut json = serde_json::to_vec_pretty(report).context("failed to render load.json")?;
    json.push(b'\n');
    let mut files = vec![
        ("load.png", chart.png().context("failed to render load.png")?),
        ("load.svg", chart.svg().into_bytes()),
        ("load.csv", csv(&report.seconds).into_bytes()),
        ("load.json", json),
    ];
    files.extend(report.fill.as_ref().map(|fill| ("fill.csv", csv(&fill.seconds).into_bytes())));
    write_files(directory, files)
}

/// Throughput and latency over time.
fn chart(report: &LoadReport) -> Chart {
    let over_time = |value: &dyn Fn(&SecondReport) -> Option<f64>| -> Vec<(f64, f64)> {
        report.seconds.iter().filter_map(|second| Some((second.at_s as f64, value(second)?))).collect()
    };
    let latency = |name: &str, value: fn(&Latencies) -> f64| Series {
        name: name.to_owned(),
        points: over_time(&|second| second.latency.as_ref().map(value)),
    };
    let mut throughput = Vec::new();
    if report.puts.is_some() {
        throughput.push(Series { name: "puts".into(), points: over_time(&|second| Some(second.puts as f64)) });
    }
    if report.gets.is_some() {
        throughput.push(Series { name: "gets".into(), points: over_time(&|second| Some(second.gets as f64)) });
    }
    if report.seconds.iter().any(|second| second.failures > 0) {
        throughput.push(Series { name: "failed".into(), points: over_time(&|second| Some(second.failures as f64)) });
    }
    let panel = |title: &str, y_name: &str, series| Panel {
        title: title.to_owned(),
        x_name: "seconds since the measurement began".to_owned(),
        x_scale: Scale::Linear,
        y_name: y_name.to_owned(),
        y_scale: Scale::Linear,
        series,
    };
    let latencies = vec![
        latency("p50", |latency| latency.p50_ms),
        latency("p90", |latency| latency.p90_ms),
        latency("p99", |latency| latency.p99_ms),
    ];
    let mut memory = Vec::new();
    for (place, name) in ["leader", "largest follower", "a follower's disk"].into_iter().enumerate() {
        let megabytes = |second: &SecondReport| Some(second.footprint?.by_name()[place].1? as f64 / 1e6);
        memory.push(Series { name: name.to_owned(), points: over_time(&megabytes) });
    }
    memory.retain(|series| !series.points.is_empty());
    let mut overheads = Vec::new();
    for (name, value) in [("p50", (|of| of.p50_ms) as fn(&Latencies) -> f64), ("p99", |of| of.p99_ms)] {
        overheads
            .push(Series { name: name.to_owned(), points: over_time(&|second| second.overhead.as_ref().map(value)) });
    }
    overheads.retain(|series| !series.points.is_empty());
    let mut panels = vec![
        panel("Throughput", "operations per second", throughput),
        panel("Latency of what was answered in each second", "ms", latencies),
    ];
    if !overheads.is_empty() {
        panels.push(panel("Latency over the delays", "ms", overheads));
    }
    if !memory.is_empty() {
        panels.push(panel("Memory", "MB", memory));
    }
    Chart {
        title: "Throughput and latency over time".to_owned(),
        subtitles: vec![report.target.clone(), settings_line(&report.settings)],
        panels,
    }
}

/// One line per second; a second in which nothing was done has no latency, and what is not known is an empty field.
fn csv(seconds: &[SecondReport]) -> String {
    let mut text =
        "at_s,puts,gets,failures,mean_ms,p50_ms,p90_ms,p99_ms,p999_ms,max_ms,overhead_p50_ms,overhead_p99_ms,\
                    leader_bytes,follower_bytes,disk_bytes\n"
            .to_owned();
    for SecondReport { at_s, puts, gets, failures, latency, overhead, footprint } in seconds {
        let latencies = latency.map_or_else(
            || ",".repeat(5),
            |Latencies { count: _, mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms }| {
                [mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.3}")).join(",")
            },
        );
        let overheads = overhead
            .map_or_else(|| ",".to_owned(), |overhead| format!("{:.3},{:.3}", overhead.p50_ms, overhead.p99_ms));
        let bytes = footprint.unwrap_or_default().by_name();
        let bytes = bytes.map(|(_, bytes)| bytes.map(|bytes| bytes.to_string()).unwrap_or_default()).join(",");
        text.push_str(&format!("{at_s},{puts},{gets},{failures},{latencies},{overheads},{bytes}\n"));
    }
    text
}
