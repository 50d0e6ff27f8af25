//! The tables on standard output, and the words around them.

use super::{CpuReport, FillReport, FootprintReport, KindReport, Latencies, LoadReport};
use crate::load::{LoadOptions, Pace, ProcessorTime, RequestOutcome, schedule::Arrivals};

/// The whole report for a terminal, ending in a line break.
pub fn text(report: &LoadReport) -> String {
    let mut lines = vec![report.target.clone(), settings_line(&report.settings), String::new()];
    lines.extend(latency_table(report));
    if let Some(cpu) = &report.cpu {
        lines.push(String::new());
        lines.extend(cpu_table(cpu));
    }
    if let Some(footprint) = &report.footprint {
        lines.push(String::new());
        lines.extend(footprint_table(footprint, &report.settings));
    }
    lines.extend(remarks(report));
    lines.join("\n") + "\n"
}

/// "closed loop, 64 connections; puts of 64 bytes on 10000 keys (uniform); 10 s after 2 s of warm-up".
pub(super) fn settings_line(options: &LoadOptions) -> String {
    let LoadOptions { pace, connections, pipeline, reads, read_from, keys, distribution, value_size_bytes, .. } =
        options;
    let pace = match pace {
        Pace::Closed if *pipeline > 1 => format!("closed loop, {connections} connections with pipelines of {pipeline}"),
        Pace::Closed => format!("closed loop, {connections} connections"),
        Pace::Open { rate, arrivals } => {
            let arrivals = if *arrivals == Arrivals::Poisson { "Poisson" } else { "even" };
            let what = if *pipeline > 1 { format!(" in pipelines of {pipeline}") } else { String::new() };
            format!("open loop, {rate} operations/s{what} ({arrivals} arrivals), at most {connections} under way")
        }
    };
    let operations = if *reads <= 0.0 {
        format!("puts of {value_size_bytes} bytes")
    } else if *reads >= 1.0 {
        format!("gets ({read_from}) of {value_size_bytes} bytes")
    } else {
        format!("{} % gets ({read_from}) and puts of {value_size_bytes} bytes", reads * 100.0)
    };
    let (measured_s, warmup_s) = (options.duration.as_secs_f64(), options.warmup.as_secs_f64());
    format!("{pace}; {operations} on {keys} keys ({distribution}); {measured_s} s after {warmup_s} s of warm-up")
}

fn latency_table(report: &LoadReport) -> Vec<String> {
    let name = |name: &str| match report.settings.pipeline {
        1 => name.to_owned(),
        pipeline => format!("{pipeline} {name}s"),
    };
    let mut rows = vec![
        ["", "done/s", "count", "failed", "mean", "p50", "p90", "p99", "p99.9", "max"].map(str::to_owned).to_vec(),
    ];
    if let Some(FillReport { per_second, latency: Some(latency), .. }) = &report.fill {
        rows.push(row("every key written once, ms", Some(*per_second), 0, latency));
    }
    for (name, kind) in [(name("put"), &report.puts), (name("get"), &report.gets)] {
        let Some(kind) = kind else { continue };
        let failures = kind.failures();
        match (&kind.service, &kind.response) {
            (Some(service), Some(response)) => {
                rows.push(row(&format!("{name} response time, ms"), Some(kind.per_second), failures, response));
                rows.push(row(&format!("{name} service time, ms"), None, failures, service));
            }
            (Some(service), None) => {
                rows.push(row(&format!("{name} latency, ms"), Some(kind.per_second), failures, service));
            }
            (None, _) => {
                let mut cells =
                    vec![format!("{name} latency, ms"), "0".to_owned(), "0".to_owned(), failures.to_string()];
                cells.resize(rows[0].len(), "-".to_owned());
                rows.push(cells);
            }
        }
        let beyond = [
            ("response time", kind.response_overhead),
            (if kind.response.is_some() { "service time" } else { "latency" }, kind.service_overhead),
        ];
        for (what, overhead) in beyond {
            rows.extend(overhead.map(|overhead| row(&format!("… {what} over the delays"), None, failures, &overhead)));
        }
    }
    align(&rows)
}

fn row(name: &str, per_second: Option<f64>, failures: u64, latencies: &Latencies) -> Vec<String> {
    let Latencies { count, mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms } = *latencies;
    let mut cells = vec![
        name.to_owned(),
        per_second.map(|per_second| format!("{per_second:.0}")).unwrap_or_default(),
        count.to_string(),
        failures.to_string(),
    ];
    cells.extend([mean_ms, p50_ms, p90_ms, p99_ms, p999_ms, max_ms].map(|ms| format!("{ms:.3}")));
    cells
}

fn cpu_table(cpu: &CpuReport) -> Vec<String> {
    let CpuReport { leader, followers, load } = *cpu;
    let mut rows = vec![["processor time, µs per operation", "user", "system", "both"].map(str::to_owned).to_vec()];
    let mut sum = ProcessorTime::default();
    for (name, time) in [("leader", leader), ("followers, all together", followers), ("load", Some(load))] {
        let Some(time) = time else { continue };
        sum = ProcessorTime { user_us: sum.user_us + time.user_us, system_us: sum.system_us + time.system_us };
        rows.push(cpu_row(name, time));
    }
    if rows.len() > 2 {
        rows.push(cpu_row("everyone", sum));
    }
    align(&rows)
}

fn cpu_row(name: &str, time: ProcessorTime) -> Vec<String> {
    let [user, system, both] =
        [time.user_us, time.system_us, time.total_us()].map(|microseconds| format!("{microseconds:.1}"));
    vec![name.to_owned(), user, system, both]
}

/// With every key written before, also what each takes of it.
fn footprint_table(footprint: &FootprintReport, options: &LoadOptions) -> Vec<String> {
    let FootprintReport { at_first, at_begin, at_end, largest } = *footprint;
    let is_filled = options.fill || options.reads > 0.0;
    let mut header = vec!["MB", "initial", "start", "end", "peak"];
    header.extend(is_filled.then_some("bytes a key"));
    let mut rows = vec![header.into_iter().map(str::to_owned).collect::<Vec<_>>()];
    let (begin, end, largest) = (at_begin.by_name(), at_end.by_name(), largest.by_name());
    for (place, (name, first)) in at_first.by_name().into_iter().enumerate() {
        let Some(first) = first else { continue };
        let shown = |bytes: Option<u64>| bytes.map_or("-".to_owned(), |bytes| format!("{:.1}", bytes as f64 / 1e6));
        let mut cells = vec![name.to_owned()];
        cells.extend([Some(first), begin[place].1, end[place].1, largest[place].1].map(shown));
        if is_filled {
            let each = |bytes: u64| format!("{:.0}", bytes.saturating_sub(first) as f64 / options.keys as f64);
            cells.push(begin[place].1.map_or("-".to_owned(), each));
        }
        rows.push(cells);
    }
    align(&rows)
}

/// What went wrong, and what to make of it.
fn remarks(report: &LoadReport) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, kind) in [("puts", &report.puts), ("gets", &report.gets)] {
        let Some(kind) = kind else { continue };
        let words = outcome_words(kind);
        if !words.is_empty() {
            lines.push(format!("{name}: {words}"));
        }
    }
    if report.settings.pipeline > 1 {
        lines.push(
            "a latency is that of a pipeline, from sending its first request to its last answer; count has pipelines, done/s \
             and failed have operations"
                .to_owned(),
        );
    }
    lines.extend(report.first_failure.as_ref().map(|failure| format!("the first failure: {failure}")));
    if let Some(Latencies { p50_ms, p99_ms, max_ms, .. }) = report.machine {
        lines.push(format!(
            "this machine woke a thread that only slept late by {p50_ms:.2} ms (p50), {p99_ms:.2} ms (p99), {max_ms:.2} ms \
             (max): no hop between processes is quicker"
        ));
    }
    if let Pace::Open { rate, .. } = report.settings.pace {
        if report.unsent > 0 {
            let unsent = report.unsent;
            lines.push(format!(
                "warning: {unsent} operations were due and never sent, as all clients were waiting: the system takes less \
                 than {rate} operations/s, and the latencies lack those that would have been longest"
            ));
        } else if report.late_ms_max > 1.0 {
            lines.push(format!(
                "operations were sent up to {:.1} ms after they were due; response time counts that, service time does not",
                report.late_ms_max
            ));
        }
    }
    if report.interrupted {
        lines.push(format!("interrupted after {:.1} s of the measurement", report.measured_ms / 1e3));
    }
    if !lines.is_empty() {
        lines.insert(0, String::new());
    }
    lines
}

/// "12 indeterminate, 3 not found"; empty when all is well.
fn outcome_words(kind: &KindReport) -> String {
    let told = kind.outcomes.iter().filter(|(outcome, count)| **outcome != RequestOutcome::Ok && **count > 0);
    let mut words = told.map(|(outcome, count)| format!("{count} {}", outcome.words())).collect::<Vec<_>>().join(", ");
    if !kind.errors.is_empty() {
        let errors: Vec<_> = kind.errors.iter().map(|(word, count)| format!("{count} {word}")).collect();
        words.push_str(&format!(" (errors: {})", errors.join(", ")));
    }
    words
}

/// Columns of equal width: the first to the left, all others to the right.
pub(crate) fn align(rows: &[Vec<String>]) -> Vec<String> {
    let width = |text: &str| text.chars().count();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| width(cell)).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, column_width))| {
            let filling = " ".repeat(column_width - width(cell));
            if column == 0 { format!("{cell}{filling}") } else { format!("{filling}{cell}") }
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}
