//! One document of the runs whose results are in a directory: what was measured on what, what came of it, and how to repeat
//! it.
//!
//! [`collect`] finds the results and [`run`] reads them: a file of JSON becomes a [`Run`] of facts, tables and pictures, whatever
//! measured it. [`page`] and [`markdown`] write runs and know nothing of what they are. Results are read as they are in the
//! files, so that those of earlier versions of this program and of other machines can be reported as well: what a file
//! does not say is left out.

mod collect;
mod document;
mod markdown;
mod page;
mod run;
#[cfg(test)]
mod testing;

pub use self::{
    collect::{Collection, collect},
    markdown::markdown,
    page::page,
};

/// What was measured once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// "Write latency by quorum", …
    pub title: String,
    /// Its file, from the directory on.
    pub file: String,
    /// Names and values: where, when, with which settings and seeds.
    pub facts: Vec<(&'static str, String)>,
    /// A command that does the same again.
    pub repeat: String,
    /// What it means, the gravest first.
    pub findings: Vec<Finding>,
    /// The figures.
    pub tables: Vec<Table>,
    /// The pictures that lie beside the file.
    pub pictures: Vec<Picture>,
}

/// A sentence about a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether the reader should act or doubt.
    pub is_warning: bool,
    /// The sentence.
    pub text: String,
}

/// Figures with a header; all rows are as long as it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Names of the columns.
    pub header: Vec<String>,
    /// The first cell names the row.
    pub rows: Vec<Vec<String>>,
}

/// A drawing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// What it shows, for those who do not see it.
    pub alt: &'static str,
    /// Its file, from the directory on.
    pub file: String,
    /// SVG.
    pub content: String,
}
