//! `curve_*.json`.

use anyhow::{Result, ensure};

use super::origin;
use crate::report::{Run, Table, document::Document};

pub(super) fn read(document: Document<'_>) -> Result<Run> {
    let by = document.text("/by").unwrap_or_default();
    let Some(first) = document.items("/points").next() else { anyhow::bail!("it has no points") };
    ensure!(!by.is_empty(), "it does not say what it is by");
    let by = by.replace('_', " ");
    let settings = first.at("/report/settings");
    let values: Vec<String> = document.items("/points").map(|point| point.shown("/value")).collect();
    let mut facts = origin(first.at("/report"));
    facts.extend([
        ("seed", settings.shown("/seed")),
        ("measured", format!("{} ms at each value", settings.shown("/duration_ms"))),
    ]);
    let row = |point: Document<'_>| {
        let report = point.at("/report");
        let kind =
            ["/puts", "/gets"].map(|name| report.at(name)).into_iter().find(|kind| kind.at("/service").is_there());
        let kind = kind.unwrap_or(report);
        vec![
            point.shown("/value"),
            kind.rounded("/per_second", 0),
            kind.rounded("/service/p50_ms", 2),
            kind.rounded("/service/p99_ms", 2),
            kind.rounded("/service/p999_ms", 2),
        ]
    };
    Ok(Run {
        title: format!("Throughput and latency by {by}"),
        facts,
        repeat: format!("kv-bench curves --by {} --values {}", by.replace(' ', "-"), values.join(",")),
        tables: vec![Table {
            title: "Operations".to_owned(),
            header: [by.as_str(), "done/s", "p50, ms", "p99, ms", "p99.9, ms"].map(str::to_owned).to_vec(),
            rows: document.items("/points").map(row).collect(),
        }],
        ..Run::default()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_curve_is_read_with_its_points() {
        let point = |value: u64, kind: &str| {
            let service = json!({"p50_ms": 1.5, "p99_ms": 3.25, "p999_ms": 9.0});
            json!({"value": value, "report": {"target": "local processes", "bench_version": "0.1.0", "settings": {"seed": 1, "duration_ms": 3000},
                kind: {"per_second": 1234.4, "service": service}}})
        };
        let value = json!({"by": "value_size", "points": [point(16, "puts"), point(64, "gets")]});
        let run = read(Document(&value)).expect("a curve");
        assert_eq!(run.repeat, "kv-bench curves --by value-size --values 16,64");
        assert_eq!(run.tables[0].rows[1], ["64", "1234", "1.50", "3.25", "9.00"]);
        assert!(read(Document(&json!({"by": "reads", "points": []}))).is_err());
    }
}
