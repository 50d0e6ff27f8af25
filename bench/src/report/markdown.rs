//! The report as Markdown, with the pictures by their files.

use super::{Collection, Run, Table};

/// The report with this title and a line on how it was made.
pub fn markdown(collection: &Collection, title: &str, origin: &str) -> String {
    let mut parts = vec![format!("# {title}"), origin.to_owned()];
    collection.runs.iter().for_each(|run| section(&mut parts, run));
    if !collection.unread.is_empty() {
        let lines: Vec<String> = collection.unread.iter().map(|line| format!("- {line}")).collect();
        parts.extend(["## Not read".to_owned(), lines.join("\n")]);
    }
    parts.join("\n\n") + "\n"
}

fn section(parts: &mut Vec<String>, run: &Run) {
    parts.push(format!("## {}", run.title));
    let warning = |is_warning| if is_warning { "**Warning:** " } else { "" };
    let findings = run.findings.iter();
    let findings: Vec<String> =
        findings.map(|finding| format!("- {}{}", warning(finding.is_warning), one_line(&finding.text))).collect();
    if !findings.is_empty() {
        parts.push(findings.join("\n"));
    }
    let facts = run.facts.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]);
    let facts = facts.chain([vec!["file".to_owned(), run.file.clone()]]);
    let header = vec!["what".to_owned(), "value".to_owned()];
    parts.push(table(&Table { title: String::new(), header, rows: facts.collect() }, ":---"));
    parts.push(format!("The same again:\n\n```sh\n{}\n```", run.repeat));
    for shown in run.tables.iter().filter(|table| !table.rows.is_empty()) {
        parts.extend([format!("### {}", shown.title), table(shown, "---:")]);
    }
    // Names of files are encoded, where a reader would take them for the end of the link.
    let link = |file: &str| file.replace('%', "%25").replace(' ', "%20").replace('(', "%28").replace(')', "%29");
    parts.extend(run.pictures.iter().map(|picture| format!("![{}]({})", picture.alt, link(&picture.file))));
}

fn table(Table { header, rows, .. }: &Table, alignment: &str) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| one_line(cell).replace('|', "\\|")).collect();
        format!("| {} |", cells.join(" | "))
    };
    let rule = format!("| {} |", vec![alignment; header.len()].join(" | "));
    [line(header), rule].into_iter().chain(rows.iter().map(|row| line(row))).collect::<Vec<_>>().join("\n")
}

/// A line break would end the list or the table.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::collection;

    #[test]
    fn every_run_has_its_section_and_every_row_as_many_cells_as_its_header() {
        let mut collection = collection();
        collection.runs[0].findings[0].text = "two\nlines".to_owned();
        collection.runs[1].pictures[0].file = "a run (2)/load.svg".to_owned();
        let text = markdown(&collection, "Runs", "made by a test");
        assert!(
            text.starts_with("# Runs\n\nmade by a test\n\n## Write latency by quorum\n\n- **Warning:** two lines"),
            "{text}"
        );
        assert!(
            text.contains("](a%20run%20%282%29/load.svg)") && text.contains("## Not read\n\n- b.json: no JSON"),
            "{text}"
        );
        let mut width = None;
        for line in text.lines() {
            let cells = line.starts_with('|').then(|| line.replace("\\|", "").matches('|').count());
            if let (Some(header), Some(row)) = (width, cells) {
                assert_eq!(header, row, "{line}");
            }
            width = cells;
        }
    }
}
