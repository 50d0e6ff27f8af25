//! The tables on standard output, and the words below them.

use super::{LawReport, StalenessReport, confidence, percents};
use crate::staleness::analysis::{Cell, Place, QuorumReport};

/// So many quorums side by side fit a terminal.
const COLUMNS: usize = 6;

/// The whole report for a terminal, ending in a line break.
pub fn text(report: &StalenessReport) -> String {
    let mut lines = vec![report.settings_line(), report.origin_line()];
    for law in &report.laws {
        lines.extend([
            String::new(),
            format!("delays {}: stale reads in %, with theory in brackets", law.settings.name()),
        ]);
        law.quorums.chunks(COLUMNS).for_each(|quorums| lines.extend(table(law, quorums)));
        lines.extend(instants(law));
    }
    lines.extend([
        String::new(),
        format!("(theory between the longest and the shortest times that can have passed; * outside of the {} interval of all shares)", confidence()),
    ]);
    lines.extend(
        report.findings.iter().map(|finding| {
            format!("{}: {}", if finding.kind.is_warning() { "warning" } else { "result" }, finding.text)
        }),
    );
    if report.interrupted {
        lines.push("interrupted: these are partial results".to_owned());
    }
    lines.extend(report.failure.iter().map(|failure| format!("stopped early: {failure}")));
    lines.join("\n") + "\n"
}

fn table(law: &LawReport, quorums: &[QuorumReport]) -> Vec<String> {
    let header = std::iter::once("t, ms".to_owned());
    let header = header.chain(quorums.iter().map(|quorum| format!("W = {}", quorum.write_quorum))).collect();
    let row = |(number, time_ms): (usize, &f64)| -> Vec<String> {
        let cells = quorums.iter().map(|quorum| words(&quorum.cells[number]));
        std::iter::once(format!("{time_ms:.1}")).chain(cells).collect()
    };
    let rows: Vec<Vec<String>> =
        std::iter::once(header).chain(law.settings.times_ms.iter().enumerate().map(row)).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..=quorums.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, wide)| " ".repeat(wide - cell.chars().count()) + cell);
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

/// "79.1 (78.2-80.0)", with a star where theory does not allow it.
fn words(cell: &Cell) -> String {
    if cell.reads == 0 {
        return "-".to_owned();
    }
    let theory = percents(cell.theory.0, cell.theory.1);
    let mark = if cell.place() == Place::Within { " " } else { "*" };
    format!("{:.1} ({}){mark}", 100.0 * cell.share, theory.trim_end_matches(" %"))
}

fn instants(law: &LawReport) -> Vec<String> {
    let quorum = |quorum: &QuorumReport| {
        format!("W = {}: {:.1}, {:.1}", quorum.write_quorum, quorum.width_p50_ms, quorum.width_p99_ms)
    };
    let all: Vec<String> = law.quorums.iter().map(quorum).collect();
    vec![format!("the time from commit to read is known to so many ms (median, p99): {}", all.join("; "))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_report};

    #[test]
    fn every_law_has_its_table_and_what_is_outside_has_a_star() {
        let report = synthetic_report(Behaviour::AppliesLate, 5, 1_000);
        let shown = text(&report);
        assert!(
            shown.contains("delays 0-100 ms: stale reads") && shown.contains("delays yammer: stale reads"),
            "{shown}"
        );
        assert!(shown.contains(" W = 5") && shown.contains("warning: more reads are stale"), "{shown}");
        let line = shown.lines().find(|line| line.trim_start().starts_with("5.0 ")).expect("a row");
        assert_eq!(line.matches('*').count(), 5, "{line}");
        assert!(!text(&synthetic_report(Behaviour::Sound, 5, 1_000)).contains(")*"));
    }

    #[test]
    fn many_quorums_are_tables_below_each_other() {
        let shown = text(&synthetic_report(Behaviour::Sound, 9, 50));
        assert_eq!(shown.lines().filter(|line| line.trim_start().starts_with("t, ms")).count(), 4);
        assert!(
            shown
                .lines()
                .all(|line| line.starts_with("result") || line.starts_with("the time") || line.chars().count() < 170)
        );
    }
}
