//! `staleness.md`: the results as a section of a report.

use super::{LawReport, StalenessReport, confidence, percents};
use crate::staleness::analysis::{Place, QuorumReport};

/// Tables, plot and conclusions as Markdown.
pub(super) fn markdown(report: &StalenessReport) -> String {
    let mut parts = vec![
        "# Stale reads".to_owned(),
        format!("{}  \n{}", report.settings_line(), report.origin_line()),
        "![Stale reads by time since the acknowledgement, measured and in theory](staleness.svg)".to_owned(),
        conclusions(report),
    ];
    for law in &report.laws {
        parts.push(format!(
            "## Delays {}\n\nShares of stale reads with their intervals, which hold together in {} of all measurements; in \
             brackets what theory allows between the longest and the shortest time that can have passed since the commit. \
             Bold: outside.",
            law.settings.name(),
            confidence()
        ));
        parts.push(table(law));
    }
    parts.join("\n\n") + "\n"
}

fn conclusions(report: &StalenessReport) -> String {
    let warning = |is_warning| if is_warning { "**Warning:** " } else { "" };
    let findings = report.findings.iter();
    let mut lines: Vec<String> =
        findings.map(|finding| format!("- {}{}", warning(finding.kind.is_warning()), finding.text)).collect();
    if report.interrupted {
        lines.push("- **Interrupted:** these are partial results".to_owned());
    }
    lines.extend(report.failure.iter().map(|failure| format!("- **Stopped early:** {failure}")));
    lines.join("\n")
}

fn table(law: &LawReport) -> String {
    let names = law.quorums.iter().map(|quorum| format!("W = {}", quorum.write_quorum)).collect::<Vec<_>>().join(" | ");
    let mut lines = vec![format!("| t, ms | {names} |"), format!("|{}", " ---: |".repeat(law.quorums.len() + 1))];
    for (number, time_ms) in law.settings.times_ms.iter().enumerate() {
        let cells: Vec<String> = law.quorums.iter().map(|quorum| words(quorum, number)).collect();
        lines.push(format!("| {time_ms:.1} | {} |", cells.join(" | ")));
    }
    lines.join("\n")
}

fn words(quorum: &QuorumReport, number: usize) -> String {
    let cell = &quorum.cells[number];
    if cell.reads == 0 {
        return "-".to_owned();
    }
    let words = format!(
        "{:.1}, {} ({})",
        100.0 * cell.share,
        percents(cell.interval.0, cell.interval.1),
        percents(cell.theory.0, cell.theory.1)
    );
    if cell.place() == Place::Within { words } else { format!("**{words}**") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_report};

    #[test]
    fn every_row_of_a_table_has_as_many_cells_as_its_header() {
        let text = markdown(&synthetic_report(Behaviour::AppliesLate, 5, 200));
        let rows: Vec<usize> =
            text.lines().filter(|line| line.starts_with('|')).map(|line| line.matches('|').count()).collect();
        assert_eq!(rows, [7; 2 * 22]);
        assert!(text.contains("- **Warning:** more reads are stale") && text.contains("| **"), "{text}");
    }
}
