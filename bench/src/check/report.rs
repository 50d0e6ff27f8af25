//! What a check found: words on standard output; `check.json`, `history.jsonl` and, where there is a violation, a picture.

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::timeline;
use crate::check::{
    fill::{Fill, FillReport},
    history::History,
    summary::{CheckReport, DeleteCounts, GetCounts, IncrementCounts, PutCounts, RedisCounts},
    violation::Violation,
};

/// Violations that the text describes; `check.json` has all of them.
const VIOLATIONS_SHOWN: usize = 10;

/// The whole report for a terminal, ending in a line break.
pub fn text(report: &CheckReport) -> String {
    let CheckReport { settings, puts, increments, gets, local_gets, verdict, .. } = report;
    let load = &settings.load;
    let mut lines = vec![
        format!(
            "{}: {} followers, write quorum {}, delays up to {} ms; {} clients on {} keys over {}, seed {}",
            report.target,
            settings.followers,
            settings.write_quorum,
            settings.max_delay_ms,
            load.clients,
            load.keys,
            load.protocols.iter().map(|protocol| protocol.words()).collect::<Vec<_>>().join(" and "),
            load.seed
        ),
        format!("kv-bench {}; {}; {:.0} s", report.version, report.started_at, settings.elapsed_s),
        String::new(),
    ];
    let PutCounts { acknowledged, acknowledged_by_retry, acknowledged_with_condition, unmet, not_applied, unknown } =
        puts;
    lines.push(format!(
        "writes                {acknowledged:>8} acknowledged ({acknowledged_by_retry} by a retry), {not_applied} refused, \
         {unknown} of unknown outcome"
    ));
    lines.push(format!(
        "of them, conditional  {acknowledged_with_condition:>8} acknowledged; {unmet} more refused by their condition"
    ));
    let IncrementCounts { acknowledged, acknowledged_by_retry, not_applied, unknown } = increments;
    lines.push(format!(
        "increments            {acknowledged:>8} acknowledged ({acknowledged_by_retry} by a retry), {not_applied} refused, \
         {unknown} of unknown outcome"
    ));
    let DeleteCounts { acknowledged, not_applied, unknown } = report.deletes;
    lines.push(format!(
        "deletions             {acknowledged:>8} acknowledged, {not_applied} refused, {unknown} of unknown outcome"
    ));
    let reads = |name: &str, GetCounts { answered, failed }: &GetCounts| {
        format!("{name:<21} {answered:>8} answered, {failed} refused or without an answer")
    };
    lines.push(reads("reads at the leader", gets));
    lines.push(reads("reads at followers", local_gets));
    let RedisCounts { writes_acknowledged, reads_answered } = report.over_redis;
    lines.push(format!(
        "over Redis' protocol  {writes_acknowledged:>8} of the writes acknowledged, {reads_answered} of the reads answered"
    ));
    if let Some(FillReport { fill: Fill { keys, value_bytes }, intact }) = &report.fill {
        lines.push(format!("{:<21} {keys:>8} of {value_bytes} bytes, {intact} intact in the end", "keys before"));
    }
    lines.push(String::new());
    lines.push(format!("{:<21} {:>8}   whole again after, ms: median  longest", "faults", settings.rounds_words()));
    for fault in &report.faults {
        let ms = |value: Option<f64>| value.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0}"));
        let (median, longest) = (ms(fault.recovery_median_ms), ms(fault.recovery_max_ms));
        lines.push(format!("  {:<19} {:>8}   {median:>29}  {longest:>7}", fault.kind, fault.count));
    }
    lines.push(String::new());
    for Violation { rule, text, .. } in verdict.violations.iter().take(VIOLATIONS_SHOWN) {
        lines.push(format!("violation, {}: {text}", rule.words()));
    }
    if verdict.violations.len() > VIOLATIONS_SHOWN {
        lines.push(format!("and {} more violations, in check.json", verdict.violations.len() - VIOLATIONS_SHOWN));
    }
    if report.interrupted {
        lines.push("interrupted: this is the verdict on what was seen until then".to_owned());
    }
    if let Some(failure) = &report.failure {
        lines.push(format!("failed: {failure}"));
    }
    lines.push(verdict_line(report));
    lines.join("\n") + "\n"
}

fn verdict_line(report: &CheckReport) -> String {
    let verdict = &report.verdict;
    let undecided = match verdict.undecided.len() {
        0 => String::new(),
        count => format!(" (by the versions alone on {count} of them, where too much overlapped for the search)"),
    };
    match verdict.violations.len() {
        0 => format!(
            "verdict: no violation. What clients saw of {} keys is linearizable{undecided}{}",
            verdict.keys,
            if report.failure.is_none() { ", nothing acknowledged was lost, and all replicas agree" } else { "" }
        ),
        1 => "verdict: 1 violation".to_owned(),
        count => format!("verdict: {count} violations"),
    }
}

impl crate::check::summary::CheckSettings {
    fn rounds_words(&self) -> String {
        if self.rounds == 1 { "1 round".to_owned() } else { format!("{} rounds", self.rounds) }
    }
}

/// A file that can be printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TextFile {
    /// Everything but the history
    Json,
    /// The picture of a violation, where there is one
    Svg,
    /// Every operation, fault and dump, a line each
    History,
}

impl TextFile {
    /// The text of this file, an empty line before it; empty where there is nothing to show.
    ///
    /// # Errors
    /// When it cannot be expressed in this form.
    pub fn render(self, report: &CheckReport, history: &History) -> Result<String> {
        let text = match self {
            Self::Json => serde_json::to_string_pretty(report)?,
            Self::Svg if report.verdict.violations.is_empty() => return Ok(String::new()),
            Self::Svg => timeline::draw(history, &report.verdict.violations),
            Self::History => {
                let mut lines = Vec::new();
                history.write_lines(&mut lines).context("failed to write the history as text")?;
                String::from_utf8(lines).context("failed to print the history")?
            }
        };
        Ok(format!("\n{}\n", text.trim_end()))
    }
}

/// Writes every file into `directory`, and returns their paths. Pictures of an earlier check go.
///
/// # Errors
/// When a file cannot be made; those before it are there.
pub fn export(report: &CheckReport, history: &History, directory: &Path) -> Result<Vec<PathBuf>> {
    let place = |name: &str| directory.join(name);
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    let mut paths = vec![write(place("check.json"), &json)?];

    let path = place("history.jsonl");
    let lines = File::create(&path).map(BufWriter::new).and_then(|file| history.write_lines(file));
    lines.with_context(|| format!("failed to write {}", path.display()))?;
    paths.push(path);

    let (svg, png) = (place("violation.svg"), place("violation.png"));
    match report.verdict.violations.as_slice() {
        [] => {
            for path in [svg, png].into_iter().filter(|path| path.exists()) {
                fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
            }
        }
        violations => {
            let drawing = timeline::draw(history, violations);
            paths.push(write(svg, drawing.as_bytes())?);
            paths.push(write(png, &crate::draw::rasterize(&drawing)?)?);
        }
    }
    Ok(paths)
}

fn write(path: PathBuf, content: &[u8]) -> Result<PathBuf> {
    fs::write(&path, content).with_context(|| format!("failed to write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{
        CheckOptions, Limit,
        clients::Load,
        faults::Place,
        history::{FaultRecord, Operation},
        plan::Shape,
        summary::CheckSettings,
        testing::{delete, get, history, increment, local, only_if, put, redis, unknown, unknown_increment, unmet},
        verdict::judge,
    };
    use crate::commands::Protocol;

    fn report(history: &History) -> CheckReport {
        let shape = Shape::new(Place::Process, 5, 3, true);
        let protocols = vec![Protocol::Http, Protocol::Redis];
        let load = Load { clients: 4, keys: 1, rate: 50.0, protocols, timeout_ms: 1_500, seed: 17 };
        let limit = Limit::Rounds(2);
        let options = CheckOptions { limit, shape, load, fill: None, run: String::new(), max_delay_ms: 20 };
        let settings = CheckSettings::new(&options, std::time::Duration::from_millis(9_400), 2);
        let started_at = "2026-11-22T14:00:00Z".to_owned();
        CheckReport::new(started_at, "local processes".to_owned(), settings, history, judge(history))
    }

    fn sound() -> History {
        let mut history = history(vec![
            only_if(0, "", put("k0", "a", 1, (1_000, 9_000))),
            only_if(0, "", unmet("k0", "a", 1, (9_500, 9_900))),
            get("k0", "a", 1, (12_000, 15_000)),
            unknown("k0", "b", (16_000, 90_000)),
            local("k0", "a", 1, (17_000, 18_000)),
            Operation { attempts: 2, ..increment("n1", 4, 4, 1, (1_000, 2_000)) },
            increment("n1", 1, 5, 2, (3_000, 4_000)),
            unknown_increment("n1", 16, (5_000, 6_000)),
            delete("d3", 1, (1_000, 2_000)),
            redis(put("d3", "c", 0, (3_000, 4_000))),
            redis(get("d3", "c", 0, (5_000, 6_000))),
            get("d3", "c", 2, (7_000, 8_000)),
        ]);
        for (kind, from_us, recovered_us) in [("kill", 2_000, Some(61_000)), ("kill", 40_000, Some(77_000))] {
            let text = "leader killed".to_owned();
            history.faults.push(FaultRecord { kind, text, round: 1, from_us, to_us: from_us + 9_000, recovered_us });
        }
        history
    }

    #[test]
    fn counts_faults_and_verdict_are_told() {
        let text = text(&report(&sound()));
        for expected in [
            "local processes: 5 followers, write quorum 3, delays up to 20 ms; 4 clients on 1 keys over HTTP and Redis' protocol, seed 17\n",
            "       2 acknowledged (0 by a retry), 0 refused, 1 of unknown outcome\n",
            "       1 acknowledged; 1 more refused by their condition\n",
            "increments                   2 acknowledged (1 by a retry), 0 refused, 1 of unknown outcome\n",
            "deletions                    1 acknowledged, 0 refused, 0 of unknown outcome\n",
            "over Redis' protocol         1 of the writes acknowledged, 1 of the reads answered\n",
            "  kill                       2                              69       77\n",
            "\nverdict: no violation. What clients saw of 3 keys is linearizable, nothing acknowledged was lost",
        ] {
            assert!(text.contains(expected), "{expected} is not in\n{text}");
        }
    }

    #[test]
    fn a_violation_leaves_a_picture_and_the_next_sound_check_removes_it() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut broken = sound();
        broken.operations.push(get("k0", "", 0, (20_000, 22_000)));
        let verdict = report(&broken);
        assert!(
            text(&verdict).contains("violation, not linearizable: k0: no order of its operations explains get → no")
        );
        let names = |paths: Vec<PathBuf>| -> Vec<String> {
            paths.iter().filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
        };
        let written = export(&verdict, &broken, directory.path()).expect("written");
        assert_eq!(names(written), ["check.json", "history.jsonl", "violation.svg", "violation.png"]);
        let printed = |file: TextFile, of: &History| file.render(&report(of), of).expect("text");
        assert!(printed(TextFile::Svg, &broken).starts_with("\n<svg"));
        assert_eq!(printed(TextFile::Svg, &sound()), "");
        assert!(
            printed(TextFile::Json, &sound()).starts_with("\n{\n")
                && printed(TextFile::Json, &sound()).ends_with("\n}\n")
        );
        assert_eq!(printed(TextFile::History, &sound()).trim().lines().count(), 12 + 2 + 3);
        let written = export(&report(&sound()), &sound(), directory.path()).expect("written");
        assert_eq!(names(written), ["check.json", "history.jsonl"]);
        assert!(!directory.path().join("violation.png").exists());
    }
}
