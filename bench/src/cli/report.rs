//! `kv-bench report`: a directory of results → one page and one text.

use std::{path::PathBuf, time::SystemTime};

use anyhow::Result;
use clap::Args;

use crate::{
    output::{WrongUsage, print, write_files},
    report::{self, Collection},
};

pub(super) const AFTER_HELP: &str = "\
Reads sweep.json, staleness.json, load.json, compare.json, check.json and curve_*.json, and the pictures beside them.
Exit codes: 0 written; 1 failed (the reason is the last line); 2 wrong usage, or no results.";

/// Which results, and where to.
#[derive(Clone, Debug, Args)]
pub struct ReportArguments {
    /// Directory of the results; those in directories in it are read as well
    #[arg(value_name = "DIRECTORY")]
    directory: PathBuf,

    /// Title of the report
    #[arg(long, value_name = "TEXT", default_value = "What was measured")]
    title: String,

    /// Directory of report.html and report.md, whose links to pictures are from there on [default: that of the results]
    #[arg(long, value_name = "DIRECTORY")]
    out: Option<PathBuf>,
}

/// Writes the report; the value is the exit code.
pub(super) fn main(arguments: &ReportArguments) -> Result<u8> {
    let ReportArguments { directory, title, out } = arguments;
    if !directory.is_dir() {
        return Err(WrongUsage::error(format!("{} is no directory", directory.display())));
    }
    let mut collection = report::collect(directory)?;
    if collection.runs.is_empty() {
        let unread: String = collection.unread.iter().map(|line| format!("; {line}")).collect();
        return Err(WrongUsage::error(format!("there are no results in {}{unread}", directory.display())));
    }
    collection.unread.iter().for_each(|line| eprintln!("not read: {line}"));
    let origin = origin(&collection);
    let page = report::page(&collection, title, &origin).into_bytes();
    if let Some(out) = out {
        super::make_directory(out)?;
        let back = directory.canonicalize().unwrap_or_else(|_| directory.clone());
        let pictures = collection.runs.iter_mut().flat_map(|run| &mut run.pictures);
        pictures.for_each(|picture| picture.file = back.join(&picture.file).display().to_string());
    }
    let text = report::markdown(&collection, title, &origin).into_bytes();
    let paths = write_files(out.as_ref().unwrap_or(directory), [("report.html", page), ("report.md", text)])?;
    print(&paths.iter().map(|path| format!("wrote {}\n", path.display())).collect::<String>());
    Ok(0)
}

fn origin(collection: &Collection) -> String {
    let runs = match collection.runs.len() {
        1 => "1 run".to_owned(),
        count => format!("{count} runs"),
    };
    let now = humantime::format_rfc3339_seconds(SystemTime::now());
    format!("{runs}; written by kv-bench {} at {now}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{
        staleness::{self, testing as stale},
        sweep::{self, testing::Behaviour},
    };

    fn arguments(directory: &std::path::Path, out: Option<PathBuf>) -> ReportArguments {
        ReportArguments { directory: directory.to_owned(), title: "A day".to_owned(), out }
    }

    /// The files as the subcommands write them.
    #[test]
    fn the_results_of_runs_are_in_one_page_and_one_text() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = |name: &str| directory.path().join(name);
        fs::create_dir(place("stale")).expect("created");
        sweep::report::export_all(
            &sweep::testing::synthetic_report(Behaviour::Sound, 3, 20, 60, 100),
            directory.path(),
        )
        .expect("written");
        let report = stale::synthetic_report(stale::Behaviour::Sound, 3, 100);
        staleness::report::export_all(&report, &place("stale")).expect("written");
        assert_eq!(main(&arguments(directory.path(), None)).expect("written"), 0);
        let page = fs::read_to_string(place("report.html")).expect("written");
        assert_eq!(page.matches("data:image/svg+xml;").count(), 3);
        assert!(page.contains("Write latency by quorum") && page.contains("stale/staleness.json"), "{page}");
        let text = fs::read_to_string(place("report.md")).expect("written");
        assert!(
            text.starts_with("# A day\n\n2 runs; written by kv-bench") && text.contains("](stale/staleness.svg)"),
            "{text}"
        );
        main(&arguments(directory.path(), Some(place("elsewhere")))).expect("written");
        let text = fs::read_to_string(place("elsewhere/report.md")).expect("written");
        let picture = place("stale").canonicalize().expect("there").join("staleness.svg");
        assert!(text.contains(&format!("]({})", picture.display())), "{text}");
    }

    #[test]
    fn a_directory_without_results_is_wrong_usage() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let refused = |path: &std::path::Path| main(&arguments(path, None)).expect_err("nothing to report");
        let error = refused(directory.path());
        assert!(error.is::<WrongUsage>() && error.to_string().starts_with("there are no results in "), "{error}");
        fs::write(directory.path().join("load.json"), "{}").expect("written");
        let error = refused(directory.path());
        assert!(
            error.to_string().contains("; load.json: it is no result of kv-bench load: it has no settings"),
            "{error}"
        );
        let gone = directory.path().join("gone");
        assert_eq!(refused(&gone).to_string(), format!("{} is no directory", gone.display()));
    }
}
