//! `load.json`.

use anyhow::{Result, ensure};

use super::{cluster_options, command, ends, option, origin};
use crate::report::{Finding, Run, Table, document::Document};

pub(super) fn read(document: Document<'_>) -> Result<Run> {
    let settings = document.at("/settings");
    ensure!(settings.is_there() && document.at("/measured_ms").is_there(), "it has no settings and measured time");
    let mut facts = origin(document);
    facts.extend([
        ("load", words(settings)),
        ("seed", settings.shown("/seed")),
        ("measured", format!("{} s", rounded_s(document, "/measured_ms"))),
    ]);
    let mut tables = vec![operations(document)];
    tables.extend(document.at("/cpu").is_there().then(|| processor_time(document)));
    Ok(Run {
        title: "Load".to_owned(),
        facts,
        repeat: repeat(document),
        findings: findings(document),
        tables,
        ..Run::default()
    })
}

fn rounded_s(document: Document<'_>, path: &str) -> String {
    document.number(path).map_or_else(|| "-".to_owned(), |ms| format!("{}", (ms / 100.0).round() / 10.0))
}

fn is_open(settings: Document<'_>) -> bool {
    settings.text("/pace/kind").is_some_and(|kind| kind == "open")
}

fn words(settings: Document<'_>) -> String {
    let pace = if is_open(settings) {
        format!("{} operations per second due ({})", settings.shown("/pace/rate"), settings.shown("/pace/arrivals"))
    } else {
        "closed loop".to_owned()
    };
    format!(
        "{pace}, {} connections, pipelines of {}, {} reads, values of {} bytes on {} keys",
        settings.shown("/connections"),
        settings.shown("/pipeline"),
        settings.percent("/reads"),
        settings.shown("/value_size_bytes"),
        settings.shown("/keys")
    )
}

/// The options of the cluster to start are not in the file, so that the target is in the words of the run.
fn repeat(document: Document<'_>) -> String {
    let settings = document.at("/settings");
    let seconds = |name: &str, path: &str| Some(format!("{name} {}", rounded_s(settings, path)));
    let flag = |name: &str, path: &str| settings.is_true(path).then(|| name.to_owned());
    let parts = [
        Some("kv-bench load".to_owned()),
        Some(cluster_options(document, String::new())),
        option(settings, "--connections", "/connections"),
        option(settings, "--rate", "/pace/rate"),
        option(settings, "--arrivals", "/pace/arrivals"),
        option(settings, "--reads", "/reads"),
        option(settings, "--keys", "/keys"),
        option(settings, "--value-size-bytes", "/value_size_bytes"),
        flag("--fill", "/fill"),
        flag("--explain", "/explain"),
        seconds("--warmup-seconds", "/warmup_ms"),
        seconds("--seconds", "/duration_ms"),
        option(settings, "--seed", "/seed"),
    ];
    command(parts.into_iter().flatten())
}

fn operations(document: Document<'_>) -> Table {
    let header = ["operation", "done/s", "failed", "latency, ms: mean", "p50", "p90", "p99", "p99.9", "max"];
    let row = |name: &str, part: &str, latency: &str| {
        let kind = document.at(part);
        let figures = kind.at(latency);
        figures.is_there().then(|| {
            let mut cells = vec![name.to_owned(), kind.rounded("/per_second", 0), failed(kind).to_string()];
            let paths = ["/mean_ms", "/p50_ms", "/p90_ms", "/p99_ms", "/p999_ms", "/max_ms"];
            cells.extend(paths.map(|path| figures.rounded(path, 2)));
            cells
        })
    };
    let rows = [
        row("puts", "/puts", "/service"),
        row("puts, from when due", "/puts", "/response"),
        row("puts, beyond the delays", "/puts", "/service_overhead"),
        row("gets", "/gets", "/service"),
        row("gets, from when due", "/gets", "/response"),
        document.at("/machine").is_there().then(|| {
            let paths = ["/mean_ms", "/p50_ms", "/p90_ms", "/p99_ms", "/p999_ms", "/max_ms"];
            let mut cells = vec!["a thread that only slept, late by".to_owned(), "-".to_owned(), "-".to_owned()];
            cells.extend(paths.map(|path| document.at("/machine").rounded(path, 2)));
            cells
        }),
    ];
    Table {
        title: "Operations".to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows: rows.into_iter().flatten().collect(),
    }
}

fn failed(kind: Document<'_>) -> u64 {
    let outcomes = kind.at("/outcomes").0.as_object().into_iter().flatten();
    outcomes.filter(|(outcome, _)| *outcome != "ok").filter_map(|(_, count)| count.as_u64()).sum()
}

fn processor_time(document: Document<'_>) -> Table {
    let row = |name: &str, part: &str| {
        let time = document.at(part);
        let both = time.number("/user_us").zip(time.number("/system_us")).map(|(user, system)| user + system)?;
        Some(vec![name.to_owned(), time.rounded("/user_us", 1), time.rounded("/system_us", 1), format!("{both:.1}")])
    };
    let rows = [row("leader", "/cpu/leader"), row("followers together", "/cpu/followers"), row("load", "/cpu/load")];
    Table {
        title: "Processor time for each operation, in µs".to_owned(),
        header: ["of", "user", "system", "both"].map(str::to_owned).to_vec(),
        rows: rows.into_iter().flatten().collect(),
    }
}

fn findings(document: Document<'_>) -> Vec<Finding> {
    let warning = |text: String| Finding { is_warning: true, text };
    let first = document.text("/first_failure").map(|failure| warning(format!("the first failure: {failure}")));
    let unsent = document.number("/unsent").filter(|count| *count > 0.0);
    let unsent =
        unsent.map(|count| warning(format!("{count} operations were due and never sent: all clients were waiting")));
    unsent.into_iter().chain(first).chain(ends(document)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_load_is_read_with_its_figures() {
        let latency = json!({"count": 9, "mean_ms": 1.5, "p50_ms": 1.25, "p90_ms": 2.0, "p99_ms": 4.0, "p999_ms": 8.0, "max_ms": 16.0});
        let value = json!({"started_at": "2026-11-22T10:45:00Z", "bench_version": "0.1.0", "target": "local processes",
            "settings": {"pace": {"kind": "open", "rate": 500.0, "arrivals": "poisson"}, "connections": 64, "pipeline": 1,
                "reads": 0.25, "read_from": "leader", "keys": 100, "value_size_bytes": 64, "fill": true, "explain": false,
                "warmup_ms": 500, "duration_ms": 3000, "seed": 7},
            "measured_ms": 3000.0, "puts": {"per_second": 375.4, "outcomes": {"ok": 8, "timeout": 2, "busy": 1},
                "service": latency, "response": null},
            "cpu": {"leader": {"user_us": 5.0, "system_us": 2.5}, "followers": null, "load": {"user_us": 1.0, "system_us": 1.0}},
            "unsent": 3, "first_failure": "HTTP 503", "interrupted": false});
        let run = read(Document(&value)).expect("a load");
        assert_eq!(
            run.repeat,
            "kv-bench load --connections 64 --rate 500.0 --arrivals poisson --reads 0.25 --keys 100 --value-size-bytes 64 \
             --fill --warmup-seconds 0.5 --seconds 3 --seed 7"
        );
        assert_eq!(
            run.tables[0].rows,
            [["puts", "375", "3", "1.50", "1.25", "2.00", "4.00", "8.00", "16.00"].map(str::to_owned)]
        );
        assert_eq!(run.tables[1].rows[0], ["leader", "5.0", "2.5", "7.5"]);
        assert_eq!(run.tables[1].rows.len(), 2);
        assert!(
            run.findings[0].text.starts_with("3 operations were due") && run.findings[1].text.ends_with("HTTP 503")
        );
    }
}
