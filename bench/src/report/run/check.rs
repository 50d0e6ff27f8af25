//! `check.json`.

use anyhow::{Result, ensure};

use super::{cluster_options, command, ends, option, origin};
use crate::report::{Finding, Run, Table, document::Document};

/// Violations that a report describes; the file has all of them.
const VIOLATIONS_SHOWN: usize = 10;

pub(super) fn read(document: Document<'_>) -> Result<Run> {
    let (settings, load) = (document.at("/settings"), document.at("/settings/load"));
    ensure!(document.at("/verdict").is_there(), "it has no verdict");
    let mut facts = origin(document);
    facts.extend([
        ("followers", format!("{}, write quorum {}", settings.shown("/followers"), settings.shown("/write_quorum"))),
        ("clients", format!("{} on {} keys", load.shown("/clients"), load.shown("/keys"))),
        ("seed", load.shown("/seed")),
        (
            "duration",
            format!("{} s, {} rounds of faults", settings.rounded("/elapsed_s", 0), settings.shown("/rounds")),
        ),
    ]);
    let local = [
        option(settings, "--follower-count", "/followers"),
        option(settings, "--write-quorum", "/write_quorum"),
        option(settings, "--max-delay-ms", "/max_delay_ms"),
    ];
    let local = command(local.into_iter().flatten());
    let parts = [
        Some("kv-bench check".to_owned()),
        Some(cluster_options(document, local)),
        option(settings, "--rounds", "/rounds"),
        Some(settings.joined("/faults")).filter(|faults| !faults.is_empty()).map(|faults| format!("--faults {faults}")),
        option(load, "--clients", "/clients"),
        option(load, "--keys", "/keys"),
        option(load, "--rate", "/rate"),
        option(load, "--seed", "/seed"),
    ];
    Ok(Run {
        title: "Check of what clients saw".to_owned(),
        facts,
        repeat: command(parts.into_iter().flatten()),
        findings: findings(document),
        tables: vec![operations(document), faults(document)],
        ..Run::default()
    })
}

fn findings(document: Document<'_>) -> Vec<Finding> {
    let warning = |text: String| Finding { is_warning: true, text };
    let violations: Vec<_> = document.items("/verdict/violations").collect();
    let shown = violations.iter().take(VIOLATIONS_SHOWN);
    let mut findings: Vec<Finding> = shown
        .map(|violation| warning(format!("violation ({}): {}", violation.shown("/rule"), violation.shown("/text"))))
        .collect();
    if violations.len() > VIOLATIONS_SHOWN {
        findings.push(warning(format!("and {} more violations", violations.len() - VIOLATIONS_SHOWN)));
    }
    let ends = ends(document);
    if violations.is_empty() {
        let keys = document.shown("/verdict/keys");
        let lost = if ends.is_empty() { ", nothing acknowledged was lost, and all replicas agree" } else { "" };
        let text = format!("no violation: what clients saw of {keys} keys is linearizable{lost}");
        findings.push(Finding { is_warning: false, text });
    }
    ends.into_iter().chain(findings).collect()
}

fn operations(document: Document<'_>) -> Table {
    let row = |name: &str, good: &str, rest: &[&str]| {
        let others = rest.iter().filter_map(|path| document.number(path)).sum::<f64>();
        vec![name.to_owned(), document.shown(good), format!("{others}")]
    };
    Table {
        title: "Operations of the clients".to_owned(),
        header: ["operation", "acknowledged or answered", "refused, or of unknown outcome"].map(str::to_owned).to_vec(),
        rows: vec![
            row("writes", "/puts/acknowledged", &["/puts/not_applied", "/puts/unknown", "/puts/unmet"]),
            row("reads at the leader", "/gets/answered", &["/gets/failed"]),
            row("reads at followers", "/local_gets/answered", &["/local_gets/failed"]),
        ],
    }
}

fn faults(document: Document<'_>) -> Table {
    let row = |fault: Document<'_>| {
        let mut cells = vec![fault.shown("/kind"), fault.shown("/count")];
        cells.extend(["/recovery_median_ms", "/recovery_max_ms"].map(|path| fault.rounded(path, 0)));
        cells
    };
    Table {
        title: "Faults, and after how many ms the cluster was whole again".to_owned(),
        header: ["fault", "times", "median", "longest"].map(str::to_owned).to_vec(),
        rows: document.items("/faults").map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(violations: serde_json::Value) -> serde_json::Value {
        json!({"started_at": "2026-11-22T10:45:00Z", "version": "0.1.0", "target": "local processes",
            "settings": {"followers": 5, "write_quorum": 3, "max_delay_ms": 20, "faults": ["kill", "pause"],
                "load": {"clients": 32, "keys": 16, "rate": 200.0, "seed": 9}, "elapsed_s": 61.4, "rounds": 12},
            "puts": {"acknowledged": 700, "not_applied": 20, "unknown": 3, "unmet": 4}, "gets": {"answered": 800, "failed": 5},
            "local_gets": {"answered": 90, "failed": 0},
            "faults": [{"kind": "kill", "count": 7, "recovery_median_ms": 210.4, "recovery_max_ms": null}],
            "verdict": {"violations": violations, "keys": 16, "undecided": []}, "interrupted": false, "failure": null})
    }

    #[test]
    fn a_check_is_read_with_its_verdict() {
        let value = document(json!([]));
        let run = read(Document(&value)).expect("a check");
        assert_eq!(run.findings.len(), 1);
        assert!(
            !run.findings[0].is_warning
                && run.findings[0].text.starts_with("no violation: what clients saw of 16 keys")
        );
        assert_eq!(
            run.repeat,
            "kv-bench check --follower-count 5 --write-quorum 3 --max-delay-ms 20 --rounds 12 --faults kill,pause --clients 32 \
             --keys 16 --rate 200.0 --seed 9"
        );
        assert_eq!(run.tables[0].rows[0], ["writes", "700", "27"]);
        assert_eq!(run.tables[1].rows[0], ["kill", "7", "210", "-"]);
    }

    #[test]
    fn violations_are_warnings() {
        let violation = json!({"rule": "linearizable", "text": "key3 went back"});
        let value = document(json!(vec![violation; 12]));
        let run = read(Document(&value)).expect("a check");
        assert_eq!(run.findings.len(), VIOLATIONS_SHOWN + 1);
        assert!(run.findings.iter().all(|finding| finding.is_warning));
        assert_eq!(run.findings[0].text, "violation (linearizable): key3 went back");
        assert_eq!(run.findings[VIOLATIONS_SHOWN].text, "and 2 more violations");
    }
}
