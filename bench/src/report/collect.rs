//! The results in a directory and in the directories in it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::{Picture, Run, document::Document, run};

/// How deep directories are looked at: those of runs are in one that is given, or in one in it.
const DEPTH_MAX: usize = 2;

/// No result is as large; a history may be.
const BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What is in a directory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Collection {
    /// In the order of their files.
    pub runs: Vec<Run>,
    /// Files that are named as results and are none, with the reason.
    pub unread: Vec<String>,
}

/// Reads all results in `directory`.
///
/// # Errors
/// When the directory cannot be read.
pub fn collect(directory: &Path) -> Result<Collection> {
    let mut files = Vec::new();
    find(directory, DEPTH_MAX, &mut files)?;
    files.sort();
    let mut collection = Collection::default();
    for path in files {
        let file = path.strip_prefix(directory).unwrap_or(&path).display().to_string();
        match read(&path, &file) {
            Ok(run) => collection.runs.push(run),
            Err(error) => collection.unread.push(format!("{file}: {error:#}")),
        }
    }
    Ok(collection)
}

fn find(directory: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("failed to read {}", directory.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to read {}", directory.display()))?.path();
        let is_result =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| run::kind_of(name).is_some());
        if is_result && path.is_file() {
            files.push(path);
        } else if depth > 1 && path.is_dir() {
            find(&path, depth - 1, files)?;
        }
    }
    Ok(())
}

fn read(path: &Path, file: &str) -> Result<Run> {
    let size = fs::metadata(path).context("failed to read it")?.len();
    anyhow::ensure!(size <= BYTES_MAX, "it has {size} bytes, and no result has more than {BYTES_MAX}");
    let value: Value =
        serde_json::from_slice(&fs::read(path).context("failed to read it")?).context("it is no JSON")?;
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let kind = run::kind_of(name).context("it is no result")?;
    let mut run = (kind.read)(Document(&value)).with_context(|| format!("it is no result of {}", kind.command))?;
    let beside = |name: &str| path.with_file_name(name);
    for (name, alt) in kind.pictures(name) {
        let Ok(content) = fs::read_to_string(beside(&name)) else { continue };
        let file = Path::new(file).with_file_name(&name).display().to_string();
        run.pictures.push(Picture { alt, file, content });
    }
    run.file = file.to_owned();
    Ok(run)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_in_directories_and_what_is_none_is_named() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let place = |name: &str| directory.path().join(name);
        let write = |name: &str, text: &str| fs::write(place(name), text).expect("written");
        for name in ["b", "b/logs", "b/logs/deep"] {
            fs::create_dir(place(name)).expect("created");
        }
        let check = r#"{"started_at":"2026-11-22T10:45:00Z","verdict":{"violations":[],"keys":3}}"#;
        write("b/check.json", check);
        write("b/logs/deep/check.json", check);
        write("b/violation.svg", "<svg/>");
        write("load.json", "{");
        write("sweep.json", r#"{"started_at":"now"}"#);
        write("other.json", "{");
        write("history.jsonl", "{");
        let found = collect(directory.path()).expect("readable");
        assert_eq!(found.runs.iter().map(|run| run.file.as_str()).collect::<Vec<_>>(), ["b/check.json"]);
        assert_eq!(found.runs[0].pictures[0].file, "b/violation.svg");
        assert_eq!(found.unread.len(), 2, "{:?}", found.unread);
        assert!(found.unread[0].starts_with("load.json: it is no JSON: "), "{:?}", found.unread);
        assert!(found.unread[1].starts_with("sweep.json: it is no result of kv-bench sweep: "), "{:?}", found.unread);
        let error = collect(&place("gone")).expect_err("no directory").to_string();
        assert!(error.starts_with("failed to read "), "{error}");
    }
}
