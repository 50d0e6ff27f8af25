//! `staleness.csv`: one line for each law, quorum and time; unknown values are empty fields.

use super::StalenessReport;
use crate::staleness::analysis::{Cell, Place};

const HEADER: &str = "law,write_quorum,time_ms,elapsed_low_ms,elapsed_high_ms,reads,stale,share,interval_low,interval_high,\
                      theory_at_time,theory_low,theory_high,drawn_low,drawn_high,place";

/// The cells as comma-separated values with a header.
pub(super) fn csv(report: &StalenessReport) -> String {
    let mut text = format!("{HEADER}\n");
    for (law, quorum, cell) in report.cells() {
        let Cell { time_ms, elapsed_ms, reads, stale, share, interval, theory_at_time, theory, drawn } = cell;
        let share_of = |(low, high): (f64, f64)| format!("{low:.5},{high:.5}");
        let place = match cell.place() {
            Place::Within => "within",
            Place::Above => "above",
            Place::Below => "below",
        };
        text.push_str(&format!(
            "{},{},{time_ms},{:.3},{:.3},{reads},{stale},{share:.5},{},{theory_at_time:.5},{},{},{place}\n",
            quoted(&law.settings.name()),
            quorum.write_quorum,
            elapsed_ms.0,
            elapsed_ms.1,
            share_of(*interval),
            share_of(*theory),
            drawn.map_or_else(|| ",".to_owned(), share_of),
        ));
    }
    text
}

/// A law as JSON has commas and quotes.
fn quoted(text: &str) -> String {
    if text.contains([',', '"']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::staleness::testing::{Behaviour, synthetic_report};

    #[test]
    fn columns_have_what_their_names_say() {
        let mut report = synthetic_report(Behaviour::AppliesLate, 5, 400);
        report.laws[0].quorums[0].cells[1].drawn = None;
        let text = csv(&report);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
        assert_eq!(lines.len(), 1 + 2 * 5 * 20);
        let column = |name: &str| lines[0].iter().position(|field| *field == name).expect(name);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()));
        let (cell, line) = (&report.laws[0].quorums[0].cells[1], &lines[2]);
        assert_eq!(
            (line[column("law")], line[column("write_quorum")], line[column("time_ms")]),
            ("0-100 ms", "1", "5")
        );
        assert_eq!(line[column("stale")], cell.stale.to_string());
        assert_eq!((line[column("drawn_high")], line[column("place")]), ("", "above"));
        assert_eq!(line[column("theory_low")], format!("{:.5}", cell.theory.0));
        assert_eq!(quoted(r#"{"a":1}"#), r#""{""a"":1}""#);
    }
}
