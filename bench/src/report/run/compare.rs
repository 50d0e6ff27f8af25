//! `compare.json`.

use anyhow::{Result, ensure};

use super::{ends, origin};
use crate::{
    report::{Finding, Run, Table, document::Document},
    stats::quantile,
};

pub(super) fn read(document: Document<'_>) -> Result<Run> {
    ensure!(document.at("/systems").is_there() && document.at("/places").is_there(), "it has no systems and places");
    let mut facts = origin(document);
    facts.extend([
        (
            "load",
            format!(
                "closed loop, values of {} bytes on {} keys",
                document.shown("/value_size_bytes"),
                document.shown("/keys")
            ),
        ),
        (
            "figures",
            format!("medians of {} rounds of {} ms", document.shown("/rounds"), document.shown("/duration_ms")),
        ),
    ]);
    let missing = document.items("/missing").filter_map(|missing| missing.text(""));
    let missing = missing.map(|missing| Finding { is_warning: false, text: format!("not compared: {missing}") });
    let tables = document.items("/places").enumerate().map(|(number, place)| table(document, number, place));
    Ok(Run {
        title: "Comparison with other systems".to_owned(),
        facts,
        repeat: "kv-bench compare".to_owned(),
        findings: ends(document).into_iter().chain(not_found(document)).chain(missing).collect(),
        tables: tables.collect(),
        ..Run::default()
    })
}

/// Acknowledged writes that were not there afterwards.
fn not_found(document: Document<'_>) -> Vec<Finding> {
    let lost = document.items("/systems").filter(|system| {
        let back = system.at("/read_back");
        back.is_there() && (back.number("/correct") < back.number("/keys") || back.number("/keys") == Some(0.0))
    });
    let text = |system: Document<'_>| {
        let back = system.at("/read_back");
        format!(
            "{}: of {} acknowledged writes {} were found again",
            system.shown("/name"),
            back.shown("/keys"),
            back.shown("/correct")
        )
    };
    lost.map(|system| Finding { is_warning: true, text: text(system) }).collect()
}

fn table(document: Document<'_>, number: usize, place: Document<'_>) -> Table {
    let row = |system: Document<'_>| {
        let point = system.at(&format!("/points/{number}"));
        let median = |path: &str, digits: usize| {
            let mut rounds: Vec<f64> = point.items(path).filter_map(|round| round.number("")).collect();
            rounds.sort_by(f64::total_cmp);
            if rounds.is_empty() { "-".to_owned() } else { format!("{:.digits$}", quantile(&rounds, 0.5)) }
        };
        let is_measured = point.items("/writes_per_second").next().is_some();
        is_measured.then(|| {
            vec![
                system.shown("/name"),
                median("/writes_per_second", 0),
                median("/p50_ms", 2),
                median("/p99_ms", 2),
                median("/servers_us", 1),
                point.shown("/failures"),
            ]
        })
    };
    let header = ["system", "writes/s", "p50, ms", "p99, ms", "servers, µs per write", "failed"];
    Table {
        title: format!("{} connections, pipelines of {}", place.shown("/connections"), place.shown("/pipeline")),
        header: header.map(str::to_owned).to_vec(),
        rows: document.items("/systems").filter_map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_comparison_is_read_with_its_medians() {
        let point = |rounds: &[f64]| json!({"writes_per_second": rounds, "p50_ms": [1.0, 3.0, 2.0], "p99_ms": [], "servers_us": [4.0], "failures": 2});
        let value = json!({"bench_version": "0.1.0", "duration_ms": 2000, "rounds": 3, "keys": 100, "value_size_bytes": 64,
            "places": [{"connections": 1, "pipeline": 1}, {"connections": 64, "pipeline": 16}],
            "systems": [{"name": "kvcluster", "points": [point(&[5.0, 9.0, 7.0]), point(&[50.0])],
                    "read_back": {"keys": 9, "correct": 9}},
                {"name": "other", "points": [point(&[6.0])], "read_back": {"keys": 9, "correct": 8}}],
            "missing": ["etcd is not installed"], "interrupted": false});
        let run = read(Document(&value)).expect("a comparison");
        assert_eq!(run.tables[0].rows[0], ["kvcluster", "7", "2.00", "-", "4.0", "2"]);
        assert_eq!((run.tables[0].rows.len(), run.tables[1].rows.len()), (2, 1));
        assert_eq!(run.tables[1].title, "64 connections, pipelines of 16");
        let texts: Vec<_> = run.findings.iter().map(|finding| finding.text.as_str()).collect();
        assert_eq!(
            texts,
            ["other: of 9 acknowledged writes 8 were found again", "not compared: etcd is not installed"]
        );
        assert!(run.findings[0].is_warning);
    }
}
