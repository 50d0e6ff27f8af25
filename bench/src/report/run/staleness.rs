//! `staleness.json`.

use anyhow::{Result, ensure};

use super::{cluster_options, command, delays, findings, option, origin};
use crate::report::{Run, Table, document::Document};

pub(super) fn read(document: Document<'_>) -> Result<Run> {
    let (settings, workload) = (document.at("/settings"), document.at("/settings/workload"));
    ensure!(settings.is_there() && document.at("/laws").is_there(), "it has no settings and laws");
    let mut laws: Vec<_> = document.items("/laws").map(|law| (law, delays(law.at("/settings")))).collect();
    if laws.len() > 1 {
        // Bounds are options of a single law.
        laws.iter_mut().for_each(|(law, (options, _))| *options = as_law(law.at("/settings"), options));
    }
    let mut facts = origin(document);
    let names: Vec<&str> = laws.iter().map(|(_, (_, words))| words.as_str()).collect();
    facts.extend([
        ("followers", settings.shown("/followers")),
        ("delays", names.join("; ")),
        ("seed of the delays", settings.shown("/delay_seed")),
        (
            "workload",
            format!(
                "{} writes at each quorum by {} clients, each read at a random follower at every time (seed {})",
                workload.shown("/writes"),
                workload.shown("/concurrency"),
                workload.shown("/seed")
            ),
        ),
    ]);
    let local = [option(settings, "--follower-count", "/followers"), option(settings, "--delay-seed", "/delay_seed")];
    let local = command(local.into_iter().flatten());
    let options = laws.iter().map(|(_, (options, _))| options.clone());
    // Times are given once for all laws.
    let times = laws.first().map(|(law, _)| law.joined("/settings/times_ms")).filter(|_| laws.len() == 1);
    let repeat = ["kv-bench staleness".to_owned(), cluster_options(document, local)].into_iter().chain(options).chain(
        [
            Some(format!("--quorums {}", settings.joined("/quorums"))),
            times.map(|times| format!("--times-ms {times}")),
            option(workload, "--writes", "/writes"),
            option(workload, "--concurrency", "/concurrency"),
            option(workload, "--seed", "/seed"),
        ]
        .into_iter()
        .flatten(),
    );
    Ok(Run {
        title: "Stale reads at followers".to_owned(),
        facts,
        repeat: command(repeat),
        findings: findings(document, &["agreement"]),
        tables: laws.iter().map(|(law, (_, words))| shares(*law, words)).collect(),
        ..Run::default()
    })
}

/// The option of a law that is one of several.
fn as_law(settings: Document<'_>, options: &str) -> String {
    if settings.at("/delay").is_there() {
        return options.to_owned();
    }
    let (min, max) = (settings.shown("/min_delay_ms"), settings.shown("/max_delay_ms"));
    format!("--delay '{{\"minMs\":{min},\"maxMs\":{max}}}'")
}

fn shares(law: Document<'_>, delays: &str) -> Table {
    let quorums: Vec<_> = law.items("/quorums").collect();
    let names = quorums.iter().map(|quorum| format!("W = {}", quorum.shown("/write_quorum")));
    let row = |(number, time): (usize, Document<'_>)| -> Vec<String> {
        let cell = |quorum: &Document<'_>| {
            let cell = quorum.at(&format!("/cells/{number}"));
            let theory = |path| cell.percent(path).replace(" %", "");
            format!("{} ({}-{})", cell.percent("/share"), theory("/theory/0"), theory("/theory/1"))
        };
        std::iter::once(time.rounded("", 1)).chain(quorums.iter().map(cell)).collect()
    };
    Table {
        title: format!("Delays {delays}: stale reads, with theory in brackets"),
        header: std::iter::once("t, ms".to_owned()).chain(names).collect(),
        rows: law.items("/settings/times_ms").enumerate().map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_report};

    #[test]
    fn a_measurement_is_read_with_its_figures_and_repeated_by_its_command() {
        let mut report = synthetic_report(Behaviour::Sound, 3, 400);
        let value = serde_json::to_value(&report).expect("JSON");
        let run = read(Document(&value)).expect("a measurement");
        assert_eq!(
            run.repeat,
            "kv-bench staleness --follower-count 3 --delay-seed 42 --delay '{\"minMs\":0,\"maxMs\":100}' \
             --delay yammer --quorums 1,2,3 --writes 400 --concurrency 32 --seed 1"
        );
        assert_eq!(run.tables.len(), 2);
        let cell = &report.laws[0].quorums[1].cells[3];
        let expected =
            format!("{:.1} % ({:.1}-{:.1})", 100.0 * cell.share, 100.0 * cell.theory.0, 100.0 * cell.theory.1);
        assert_eq!((run.tables[0].rows[3][0].as_str(), run.tables[0].rows[3][2].clone()), ("15.0", expected));
        report.laws.truncate(1);
        let value = serde_json::to_value(&report).expect("JSON");
        let run = read(Document(&value)).expect("a measurement");
        let expected = " --min-delay-ms 0 --max-delay-ms 100 --quorums 1,2,3 --times-ms 0.0,5.0,10.0,";
        assert!(run.repeat.contains(expected), "{}", run.repeat);
    }
}
