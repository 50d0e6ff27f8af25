//! `sweep.json`.

use anyhow::{Result, ensure};

use super::{cluster_options, command, delays, findings, option, origin};
use crate::report::{Run, Table, document::Document};

pub(super) fn read(document: Document<'_>) -> Result<Run> {
    let (settings, workload) = (document.at("/settings"), document.at("/settings/workload"));
    ensure!(settings.is_there() && document.at("/quorums").is_there(), "it has no settings and quorums");
    let (delay_options, delay_words) = delays(settings);
    let mut facts = origin(document);
    facts.extend([
        ("followers", settings.shown("/followers")),
        ("delays", delay_words),
        ("seed of the delays", settings.shown("/delay_seed")),
        (
            "workload",
            format!(
                "{} writes at each quorum by {} clients on {} keys",
                workload.shown("/writes"),
                workload.shown("/concurrency"),
                workload.shown("/keys")
            ),
        ),
        ("replicas afterwards", replicas(document)),
    ]);
    let local = [option(settings, "--follower-count", "/followers"), option(settings, "--delay-seed", "/delay_seed")];
    let local = command(local.into_iter().flatten());
    let repeat = command(
        ["kv-bench sweep".to_owned(), cluster_options(document, local), delay_options].into_iter().chain(
            [
                Some(format!("--quorums {}", settings.joined("/quorums"))),
                option(workload, "--writes", "/writes"),
                option(workload, "--concurrency", "/concurrency"),
                option(workload, "--keys", "/keys"),
                option(workload, "--value-size-bytes", "/value_size_bytes"),
                option(settings, "--warmup-writes", "/warmup_writes"),
                option(settings, "--max-deviation-ms", "/max_deviation_ms"),
            ]
            .into_iter()
            .flatten(),
        ),
    );
    Ok(Run {
        title: "Write latency by quorum".to_owned(),
        facts,
        repeat,
        findings: findings(document, &["agreement"]),
        tables: vec![latencies(document)],
        ..Run::default()
    })
}

fn replicas(document: Document<'_>) -> String {
    if !document.at("/consistency").is_there() {
        return "not compared".to_owned();
    }
    let followers: Vec<_> = document.items("/consistency/followers").collect();
    let differ = |follower: &&Document<'_>| {
        let count = |path| follower.number(path).unwrap_or_default();
        follower.at("/error").is_there() || count("/missing") > 0.0 || count("/mismatches") > 0.0
    };
    match followers.iter().filter(differ).count() {
        0 => format!("all {} agree with the leader", followers.len()),
        count => format!("{count} of {} differ from the leader", followers.len()),
    }
}

fn latencies(document: Document<'_>) -> Table {
    let header =
        ["W", "writes", "failed", "mean, ms", "± 95 %", "theory", "p50", "theory", "p99", "theory", "overhead p50"];
    let row = |quorum: Document<'_>| {
        let failures = quorum.at("/failures").0.as_object();
        let failed: u64 = failures.into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        let ms = |path| quorum.rounded(path, 1);
        vec![
            quorum.shown("/write_quorum"),
            quorum.shown("/writes"),
            failed.to_string(),
            ms("/latency/mean_ms"),
            ms("/latency/mean_interval_ms"),
            ms("/theory/mean_ms"),
            ms("/latency/p50_ms"),
            ms("/theory/p50_ms"),
            ms("/latency/p99_ms"),
            ms("/theory/p99_ms"),
            quorum.rounded("/overhead/p50_ms", 2),
        ]
    };
    Table {
        title: "Latency of writes in ms, measured and in theory".to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows: document.items("/quorums").map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sweep::{
        report::{Exporter, Json},
        testing::{Behaviour, synthetic_report, with_law},
    };

    fn run_of(report: &crate::sweep::report::SweepReport) -> Run {
        let value = serde_json::from_slice(&Json.render(report).expect("rendered")).expect("JSON");
        read(Document(&value)).expect("a sweep")
    }

    /// The file as a sweep writes it today.
    #[test]
    fn a_sweep_is_read_with_its_figures_and_repeated_by_its_command() {
        let report = synthetic_report(Behaviour::Queues, 3, 20, 60, 400);
        let run = run_of(&report);
        assert_eq!(
            run.repeat,
            "kv-bench sweep --follower-count 3 --delay-seed 42 --min-delay-ms 20 --max-delay-ms 60 --quorums 1,2,3 \
             --writes 400 --concurrency 32 --keys 10 --warmup-writes 50"
        );
        let row = &run.tables[0].rows[1];
        let latency = report.quorums[1].latency.expect("measured");
        assert_eq!(
            (row[0].as_str(), row[3].clone(), row[5].as_str()),
            ("2", format!("{:.1}", latency.mean_ms), "40.0")
        );
        assert!(run.findings[0].is_warning && run.findings[0].text.contains("queues"), "{:?}", run.findings);
        assert!(
            run.facts.contains(&("replicas afterwards", "all 3 agree with the leader".to_owned())),
            "{:?}",
            run.facts
        );
        assert!(run.facts.contains(&("programs", "kv-node 0.1.0, kv-bench 0.1.0".to_owned())), "{:?}", run.facts);
        let run = run_of(&with_law(synthetic_report(Behaviour::Sound, 5, 0, 200, 100), "yammer"));
        assert!(run.repeat.contains(" --delay yammer --quorums 1,2,3,4,5 "), "{}", run.repeat);
    }
}
