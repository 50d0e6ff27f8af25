//! The format of a backup: lines of JSON. The first and the last line describe the file.
//!
//! ```text
//! {"kvcluster_backup":2,"cluster":"shop/demo","epoch":"4.5330a361fbe5e544","keys":3}
//! {"key":"color","seq":7,"value":"blue"}
//! {"key":"pixel","seq":1,"value_base64":"iVBORw=="}
//! {"key":"shape","seq":3,"value":null}
//! {"end":{"keys":3,"digest":"1ba62d6a2cbe21ec"}}
//! ```
//!
//! The cluster is absent where the leader knows no name. A value that is not UTF-8 is `value_base64`
//! in place of `value`. Format 1 has no such values and is otherwise the same, so this release reads
//! both.
//!
//! A backup contains deleted keys, without a value, so that their sequence numbers continue after a
//! restore. It also contains the marks of retried writes. The digest (64-bit XXH3) covers every
//! byte before the last line. A reader thus detects a truncated or changed file before it restores
//! any key.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::protocol::leader::Saved;

/// The format that this release writes. It reads this one and all earlier ones.
pub const FORMAT: u32 = 2;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Number of the format.
    pub kvcluster_backup: u32,
    /// The cluster that it is a backup of, where its leader has a name for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The epoch of the leader that wrote it.
    pub epoch: String,
    /// How many keys follow, deleted ones included.
    pub keys: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trailer {
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct End {
    keys: u64,
    digest: String,
}

/// Why a backup is invalid.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The first line is not a header.
    #[error("this is no backup of kvcluster: {0}")]
    NoBackup(String),
    /// A later release wrote it.
    #[error("the backup has format {found}, and this release reads formats up to {FORMAT}: use a newer release")]
    NewerFormat {
        /// The format in the header.
        found: u32,
    },
    /// A line in the middle is not a key.
    #[error("line {line} of the backup is not a key: {why}")]
    Line {
        /// Line number, from 1.
        line: u64,
        /// The reason.
        why: String,
    },
    /// The last line is missing.
    #[error("the backup is cut off after line {lines}: its last line is missing")]
    CutOff {
        /// How many complete lines the file has.
        lines: u64,
    },
    /// The last line does not match the lines before it.
    #[error("the backup was changed after it was made: its digest is {found}, and its last line says {stated}")]
    Changed {
        /// The digest of the lines.
        found: String,
        /// The digest in the last line.
        stated: String,
    },
}

/// Writes the lines of a backup.
#[derive(Clone)]
pub struct Writer {
    format: u32,
    cluster: Option<String>,
    digest: Xxh3,
    keys: u64,
}

impl Default for Writer {
    fn default() -> Self {
        Self::of_format(FORMAT)
    }
}

impl Writer {
    /// A writer of this format. In formats before 2, every value has to be UTF-8.
    pub fn of_format(format: u32) -> Self {
        Self { format, cluster: None, digest: Xxh3::default(), keys: 0 }
    }

    /// A writer for the cluster of this name.
    pub fn of_cluster(cluster: Option<&str>) -> Self {
        Self { cluster: cluster.map(str::to_owned), ..Self::default() }
    }

    /// The first line.
    pub fn header(&mut self, epoch: String, keys: u64) -> String {
        self.line(&Header { kvcluster_backup: self.format, cluster: self.cluster.clone(), epoch, keys })
    }

    /// A key's line.
    pub fn key(&mut self, saved: &Saved) -> String {
        self.keys += 1;
        self.line(saved)
    }

    /// The last line.
    pub fn trailer(mut self) -> String {
        let digest = format!("{:016x}", self.digest.digest());
        let keys = self.keys;
        self.line(&Trailer { end: End { keys, digest } })
    }

    fn line(&mut self, line: &impl Serialize) -> String {
        // Plain data always serialises.
        let mut text = serde_json::to_string(line).unwrap_or_default();
        text.push('\n');
        self.digest.update(text.as_bytes());
        text
    }
}

/// A backup whose lines were all read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// The first line.
    pub header: Header,
    /// How many keys it has, deleted ones included.
    pub keys: u64,
    /// The digest in the last line.
    pub digest: String,
}

/// Checks a backup line by line.
#[derive(Clone, Default)]
pub struct Reader {
    digest: Xxh3,
    header: Option<Header>,
    lines: u64,
    keys: u64,
    ended: bool,
}

impl Reader {
    /// Reads the next line, with its line break. Returns its key; `None` for the first and the last
    /// line.
    ///
    /// # Errors
    /// [`BackupError`] if the line is invalid or follows the last line.
    pub fn line(&mut self, line: &str) -> Result<Option<Saved>, BackupError> {
        self.lines += 1;
        let whole = line.ends_with('\n');
        let not_a_key = |why: String| BackupError::Line { line: self.lines, why };
        if self.ended {
            return Err(not_a_key("it follows the last line".to_owned()));
        }
        let Some(header) = &self.header else {
            let header: Header =
                serde_json::from_str(line).map_err(|error| BackupError::NoBackup(error.to_string()))?;
            if header.kvcluster_backup > FORMAT {
                return Err(BackupError::NewerFormat { found: header.kvcluster_backup });
            }
            self.digest.update(line.as_bytes());
            self.header = Some(header);
            return Ok(None);
        };
        if !whole {
            return Err(BackupError::CutOff { lines: self.lines - 1 });
        }
        if let Ok(Trailer { end }) = serde_json::from_str(line) {
            let found = format!("{:016x}", self.digest.digest());
            if found != end.digest || self.keys != end.keys || self.keys != header.keys {
                return Err(BackupError::Changed { found, stated: end.digest });
            }
            self.ended = true;
            return Ok(None);
        }
        let saved: Saved = serde_json::from_str(line).map_err(|error| not_a_key(error.to_string()))?;
        self.digest.update(line.as_bytes());
        self.keys += 1;
        Ok(Some(saved))
    }

    /// The first line, once it was read.
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Ends the backup after its last line.
    ///
    /// # Errors
    /// [`BackupError`] if the backup is empty or truncated.
    pub fn end(self) -> Result<Whole, BackupError> {
        match self.header {
            Some(header) if self.ended => {
                Ok(Whole { header, keys: self.keys, digest: format!("{:016x}", self.digest.digest()) })
            }
            None => Err(BackupError::NoBackup("it is empty".to_owned())),
            Some(_) => Err(BackupError::CutOff { lines: self.lines }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(seq: u64, value: Option<&str>) -> Saved {
        Saved { key: format!("key {seq}").into(), seq, value: value.map(Into::into), marks: None }
    }

    fn written() -> String {
        let mut writer = Writer::default();
        let mut text = writer.header("4.01".to_owned(), 4);
        let binary = Saved { value: Some(b"\xff\n\x00"[..].into()), ..saved(4, None) };
        for saved in [saved(1, Some("one\n\"line\"")), saved(2, None), saved(3, Some("")), binary] {
            text.push_str(&writer.key(&saved));
        }
        text + &writer.trailer()
    }

    fn read(text: &str) -> Result<Vec<Saved>, BackupError> {
        let mut reader = Reader::default();
        let keys = text.split_inclusive('\n').filter_map(|line| reader.line(line).transpose());
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        reader.end()?;
        Ok(keys)
    }

    #[test]
    fn what_is_written_is_read() {
        let keys = read(&written()).expect("whole");
        let binary = Saved { value: Some(b"\xff\n\x00"[..].into()), ..saved(4, None) };
        assert_eq!(keys, [saved(1, Some("one\n\"line\"")), saved(2, None), saved(3, Some("")), binary]);
    }

    #[test]
    fn the_name_of_the_cluster_is_part_of_what_the_digest_covers() {
        let mut writer = Writer::of_cluster(Some("shop/demo"));
        let text = writer.header("4.01".to_owned(), 0) + &writer.trailer();
        let mut reader = Reader::default();
        text.split_inclusive('\n').for_each(|line| drop(reader.line(line).expect("a line")));
        assert_eq!(reader.header().and_then(|header| header.cluster.as_deref()), Some("shop/demo"));
        let error = read(&text.replace("shop/demo", "shop/dem0")).expect_err("another name").to_string();
        assert!(error.contains("was changed after it was made"), "{error}");
    }

    #[test]
    fn a_line_with_two_values_or_no_base64_is_no_key() {
        let mut text = written();
        let binary = r#""value_base64":"/woA""#;
        assert!(text.contains(binary), "{text}");
        for other in [r#""value":"v","value_base64":"/woA""#, r#""value_base64":"/wo""#, r#""value_base64":7"#] {
            let error = read(&text.replace(binary, other)).expect_err(other).to_string();
            assert!(error.starts_with("line 5 of the backup is not a key: "), "{error}");
        }
        text = text.replacen("\"kvcluster_backup\":2", "\"kvcluster_backup\":1", 1);
        let error = read(&text).expect_err("another format").to_string();
        assert!(error.contains("was changed after it was made"), "{error}");
    }

    // Truncates the file at every position, and changes every byte.
    #[test]
    fn every_cut_and_every_change_is_noticed() {
        let text = written();
        for cut in 0..text.len() {
            assert!(read(&text[..cut]).is_err(), "cut at {cut}");
        }
        for position in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= 1;
            if let Ok(changed) = String::from_utf8(bytes) {
                assert!(read(&changed).is_err(), "changed at {position}");
            }
        }
    }

    #[test]
    fn other_files_are_named_for_what_they_are() {
        let newer = written().replace("\"kvcluster_backup\":2", "\"kvcluster_backup\":3");
        let error = read(&newer).expect_err("newer").to_string();
        assert_eq!(error, "the backup has format 3, and this release reads formats up to 2: use a newer release");
        let error = read("hello\n").expect_err("no backup").to_string();
        assert!(error.starts_with("this is no backup of kvcluster"), "{error}");
        assert_eq!(read("").expect_err("empty").to_string(), "this is no backup of kvcluster: it is empty");
    }
}
