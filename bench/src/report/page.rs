//! The report as one file of HTML that refers to nothing outside of itself and runs no script.

use std::fmt::Write as _;

use super::{Collection, Finding, Picture, Run, Table};

const STYLE: &str = include_str!("page.css");

/// Allows nothing to be loaded, so that no text or picture of a run can either.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The report with this title and a line on how it was made.
pub fn page(collection: &Collection, title: &str, origin: &str) -> String {
    let Collection { runs, unread } = collection;
    let mut body = format!("<h1>{}</h1>\n<p class=\"soft\">{}</p>\n", escape(title), escape(origin));
    push(&mut body, format_args!("<nav aria-label=\"Runs\"><ol>\n"));
    for (number, run) in runs.iter().enumerate() {
        let warnings = run.findings.iter().filter(|finding| finding.is_warning).count();
        let sign = match warnings {
            0 => String::new(),
            1 => " <span class=\"sign\">1 warning</span>".to_owned(),
            count => format!(" <span class=\"sign\">{count} warnings</span>"),
        };
        let (title, file) = (escape(&run.title), escape(&run.file));
        push(
            &mut body,
            format_args!("<li><a href=\"#run{number}\">{title}</a> <span class=\"soft\">{file}</span>{sign}</li>\n"),
        );
    }
    push(&mut body, format_args!("</ol></nav>\n<main>\n"));
    runs.iter().enumerate().for_each(|(number, run)| section(&mut body, number, run));
    if !unread.is_empty() {
        push(&mut body, format_args!("<section>\n<h2>Not read</h2>\n<ul>\n"));
        unread.iter().for_each(|line| push(&mut body, format_args!("<li>{}</li>\n", escape(line))));
        push(&mut body, format_args!("</ul>\n</section>\n"));
    }
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}</main>\n</body>\n</html>\n",
        escape(title)
    )
}

fn section(body: &mut String, number: usize, run: &Run) {
    push(body, format_args!("<section id=\"run{number}\">\n<h2>{}</h2>\n", escape(&run.title)));
    if !run.findings.is_empty() {
        push(body, format_args!("<ul class=\"findings\">\n"));
        for Finding { is_warning, text } in &run.findings {
            let (class, word) = if *is_warning { ("warning", "<b>Warning:</b> ") } else { ("result", "") };
            push(body, format_args!("<li class=\"{class}\">{word}{}</li>\n", escape(text)));
        }
        push(body, format_args!("</ul>\n"));
    }
    push(body, format_args!("<dl>\n"));
    for (name, value) in &run.facts {
        push(body, format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(name), escape(value)));
    }
    push(body, format_args!("<dt>file</dt><dd>{}</dd>\n</dl>\n", escape(&run.file)));
    push(body, format_args!("<h3>The same again</h3>\n<pre>{}</pre>\n", escape(&run.repeat)));
    run.tables.iter().filter(|table| !table.rows.is_empty()).for_each(|shown| table(body, shown));
    for Picture { alt, content, .. } in &run.pictures {
        let (alt, content) = (escape(alt), in_a_reference(content));
        push(
            body,
            format_args!(
                "<figure class=\"picture\"><img alt=\"{alt}\" src=\"data:image/svg+xml;charset=utf-8,{content}\"></figure>\n"
            ),
        );
    }
    push(body, format_args!("</section>\n"));
}

fn table(body: &mut String, Table { title, header, rows }: &Table) {
    push(body, format_args!("<h3>{}</h3>\n<div class=\"wide\"><table>\n<thead><tr>", escape(title)));
    header.iter().for_each(|name| push(body, format_args!("<th scope=\"col\">{}</th>", escape(name))));
    push(body, format_args!("</tr></thead>\n<tbody>\n"));
    for row in rows {
        push(body, format_args!("<tr>"));
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell);
            match column {
                0 => push(body, format_args!("<th scope=\"row\">{cell}</th>")),
                _ => push(body, format_args!("<td>{cell}</td>")),
            }
        }
        push(body, format_args!("</tr>\n"));
    }
    push(body, format_args!("</tbody></table></div>\n"));
}

fn push(body: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = body.write_fmt(text);
}

/// A drawing as the end of a `data:` reference: what is no letter or digit is encoded.
fn in_a_reference(drawing: &str) -> String {
    let mut text = String::with_capacity(2 * drawing.len());
    for byte in drawing.bytes() {
        match byte {
            b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'-' | b'.' | b',' | b'=' | b'_' => text.push(byte.into()),
            _ => push(&mut text, format_args!("%{byte:02X}")),
        }
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::testing::collection;

    #[test]
    fn the_page_refers_to_nothing_outside_of_itself_and_is_well_formed() {
        let page = page(&collection(), "Runs <of> today", "kv-bench 0.1.0");
        for reference in ["https://", "<script", "<link", "url(", "@import"] {
            assert!(!page.contains(reference), "{reference}");
        }
        assert_eq!(page.matches("//").count(), 1, "the address of a leader, which is text");
        assert!(page.contains("src=\"data:image/svg+xml;charset=utf-8,%3Csvg%2F%3E\""), "{page}");
        let body = &page[page.find("<body>").expect("a body")..page.find("</html>").expect("an end")];
        let body = body.replace("\"></figure>", "\"/></figure>");
        resvg::usvg::roxmltree::Document::parse(&body).expect("every element has its end");
    }

    #[test]
    fn what_a_run_says_is_text() {
        let mut collection = collection();
        collection.runs[0].findings[0].text = "<img src=x onerror=alert(1)> & \"quotes\"".to_owned();
        collection.runs[0].repeat = "kv-bench sweep --delay '{\"maxMs\":9}' </pre>".to_owned();
        let page = page(&collection, "t", "o");
        assert!(page.contains("&lt;img src=x onerror=alert(1)&gt; &amp; &quot;quotes&quot;"), "{page}");
        assert!(!page.contains("<img src=x") && page.contains("&lt;/pre&gt;"), "{page}");
        assert!(page.contains("<span class=\"sign\">1 warning</span>"), "{page}");
    }
}
