//! For unit tests: two runs, and a file that is none.

use super::{Collection, Finding, Picture, Run, Table};

pub(super) fn collection() -> Collection {
    let table = Table {
        title: "Latency".to_owned(),
        header: vec!["W".to_owned(), "mean".to_owned()],
        rows: vec![vec!["1".to_owned(), "3.5 | 4".to_owned()], vec!["2".to_owned(), "7.1".to_owned()]],
    };
    let run = |title: &str, file: &str, is_warning| Run {
        title: title.to_owned(),
        file: file.to_owned(),
        facts: vec![("cluster", "cluster at http://leader:8000".to_owned()), ("seed", "42".to_owned())],
        repeat: "kv-bench sweep --writes 400".to_owned(),
        findings: vec![Finding { is_warning, text: "the means follow theory".to_owned() }],
        tables: vec![table.clone()],
        pictures: vec![Picture {
            alt: "Latency",
            file: "quorum_vs_latency.svg".to_owned(),
            content: "<svg/>".to_owned(),
        }],
    };
    let mut runs = vec![run("Write latency by quorum", "sweep.json", true), run("Load", "a/load.json", false)];
    runs[1].facts.clear();
    Collection { runs, unread: vec!["b.json: no JSON".to_owned()] }
}
