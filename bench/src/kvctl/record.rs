//! What is known of a backup in a directory or a bucket: a record beside its data.
//!
//! The data of the backup NAME are `NAME.jsonl`, and `NAME.json` is written once these were read back and are as they were
//! sent. A backup without a record does not count: nothing lists it or restores it.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use kv_node::backup::Whole;
use serde::{Deserialize, Serialize};

/// The number of the form of a record.
const FORMAT: u32 = 1;

/// What the names of data and of records end with.
pub(super) const DATA: &str = ".jsonl";
pub(super) const RECORD: &str = ".json";

/// What a name begins with where the leader knows no name of its cluster.
const UNNAMED: &str = "kvcluster";

/// A verified backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    kvcluster_backup_record: u32,
    /// Its name.
    pub name: String,
    /// The cluster that it is a backup of, where its leader knew a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// When it began, in UTC.
    pub taken: String,
    /// How many keys it has, deleted ones included.
    pub keys: u64,
    /// How many bytes its data are.
    pub bytes: u64,
    /// The digest of its data.
    pub digest: String,
}

impl Record {
    /// Of a backup that was written.
    pub(super) fn new(name: String, taken: SystemTime, whole: &Whole, bytes: u64) -> Self {
        let Whole { header, keys, digest } = whole.clone();
        let taken = humantime::format_rfc3339_seconds(taken).to_string();
        Self { kvcluster_backup_record: FORMAT, name, cluster: header.cluster, taken, keys, bytes, digest }
    }

    /// From the bytes of `NAME.json`. None for a file of something else.
    ///
    /// # Errors
    /// When a newer release wrote it, or it is the record of another name.
    pub(super) fn parse(name: &str, bytes: &[u8]) -> Result<Option<Self>> {
        #[derive(Deserialize)]
        struct Any {
            kvcluster_backup_record: u32,
        }
        let Ok(Any { kvcluster_backup_record }) = serde_json::from_slice(bytes) else { return Ok(None) };
        if kvcluster_backup_record > FORMAT {
            bail!(
                "the record of {name} has format {kvcluster_backup_record}, and this release reads formats up to {FORMAT}"
            );
        }
        let record: Self = serde_json::from_slice(bytes).with_context(|| format!("the record of {name} is damaged"))?;
        if record.name != name {
            bail!("the record of {name} is that of {}", record.name);
        }
        Ok(Some(record))
    }

    /// The bytes of `NAME.json`.
    pub(super) fn text(&self) -> Vec<u8> {
        // Plain data always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Writes it into a file.
    ///
    /// # Errors
    /// When that is not possible.
    pub(crate) fn write(&self, file: &Path) -> Result<()> {
        fs::write(file, self.text()).with_context(|| format!("failed to write {}", file.display()))
    }

    /// Compares it with what was read.
    ///
    /// # Errors
    /// When that is something else.
    pub(super) fn compare(&self, whole: &Whole, bytes: u64) -> Result<()> {
        let found = (&whole.header.cluster, whole.keys, bytes, &whole.digest);
        if found != (&self.cluster, self.keys, self.bytes, &self.digest) {
            bail!(
                "the data of {} are another backup than the one of its record: digest {} of {} keys and {bytes} bytes, not {} of \
                 {} keys and {} bytes",
                self.name,
                whole.digest,
                whole.keys,
                self.digest,
                self.keys,
                self.bytes
            );
        }
        Ok(())
    }

    fn age(&self, now: SystemTime) -> Duration {
        let taken = humantime::parse_rfc3339_weak(&self.taken);
        taken.ok().and_then(|taken| now.duration_since(taken).ok()).unwrap_or_default()
    }
}

/// The name of a backup that begins now. `chance` keeps two of one second apart.
pub(super) fn name(cluster: Option<&str>, taken: SystemTime, chance: u16) -> String {
    let time = humantime::format_rfc3339_seconds(taken).to_string().replace(['-', ':'], "");
    format!("{}-{time}-{chance:04x}", words(cluster))
}

/// The name of a cluster as part of the name of a file.
fn words(cluster: Option<&str>) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "-_".contains(c) { c } else { '.' };
    cluster.map_or_else(|| UNNAMED.to_owned(), |cluster| cluster.chars().map(allowed).collect())
}

/// Whether this can be the name of a backup of the cluster.
pub(super) fn is_name_of(cluster: Option<&str>, name: &str) -> bool {
    let rest = name.strip_prefix(&words(cluster)).and_then(|rest| rest.strip_prefix('-'));
    let Some((time, chance)) = rest.and_then(|rest| rest.split_once('-')) else { return false };
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    time.len() == 16 && chance.len() == 4 && time.ends_with('Z') && time.as_bytes()[8] == b'T' && digits(chance)
}

/// Which backups go, and how many there are to keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keep {
    /// This many of the newest ones stay; None for all.
    pub newest: Option<u32>,
    /// Older ones go, but never the newest one; None for no age.
    pub days: Option<u32>,
}

impl Keep {
    /// Those that go, of the backups of one cluster from the newest to the oldest.
    pub(super) fn surplus<'a>(&self, records: &'a [Record], now: SystemTime) -> Vec<&'a Record> {
        let days = self.days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
        let goes = |(index, record): (usize, &'a Record)| {
            let many = self.newest.is_some_and(|newest| index >= newest as usize);
            let old = days.is_some_and(|days| index > 0 && record.age(now) > days);
            (many || old).then_some(record)
        };
        records.iter().enumerate().filter_map(goes).collect()
    }
}

#[cfg(test)]
mod tests {
    use kv_node::backup::Header;

    use super::*;

    fn record(name: &str, taken: &str) -> Record {
        let header =
            Header { kvcluster_backup: 2, cluster: Some("shop/demo".to_owned()), epoch: "1".to_owned(), keys: 3 };
        let whole = Whole { header, keys: 3, digest: "1ba6".to_owned() };
        Record::new(name.to_owned(), humantime::parse_rfc3339_weak(taken).expect("a time"), &whole, 77)
    }

    #[test]
    fn a_record_is_read_as_it_was_written_and_under_no_other_name() {
        let written = record("a", "2026-11-27T08:30:00Z");
        assert_eq!(Record::parse("a", &written.text()).expect("a record"), Some(written.clone()));
        let error = Record::parse("b", &written.text()).expect_err("another name").to_string();
        assert_eq!(error, "the record of b is that of a");
        assert_eq!(Record::parse("a", b"{\"kind\":\"something else\"}").expect("not ours"), None);
        assert_eq!(Record::parse("a", b"\xff").expect("not ours"), None);
        let error = Record::parse("a", b"{\"kvcluster_backup_record\":2}").expect_err("newer").to_string();
        assert_eq!(error, "the record of a has format 2, and this release reads formats up to 1");
        assert!(Record::parse("a", b"{\"kvcluster_backup_record\":1}").is_err(), "damaged");
    }

    #[test]
    fn data_that_differ_from_the_record_in_anything_are_refused() {
        let record = record("a", "2026-11-27T08:30:00Z");
        let header = Header { kvcluster_backup: 2, cluster: record.cluster.clone(), epoch: "9".to_owned(), keys: 3 };
        let whole = Whole { header, keys: 3, digest: "1ba6".to_owned() };
        record.compare(&whole, 77).expect("the same");
        let mut other = whole.clone();
        other.header.cluster = Some("shop/other".to_owned());
        assert!(record.compare(&other, 77).is_err());
        assert!(record.compare(&Whole { keys: 4, ..whole.clone() }, 77).is_err());
        assert!(record.compare(&Whole { digest: "1ba7".to_owned(), ..whole.clone() }, 77).is_err());
        assert!(record.compare(&whole, 78).is_err());
    }

    #[test]
    fn names_tell_clusters_apart() {
        let taken = humantime::parse_rfc3339_weak("2026-11-27T08:30:12Z").expect("a time");
        let of_demo = name(Some("shop/demo"), taken, 0x4f2);
        assert_eq!(of_demo, "shop.demo-20261127T083012Z-04f2");
        assert_eq!(name(None, taken, 1), "kvcluster-20261127T083012Z-0001");
        assert!(is_name_of(Some("shop/demo"), &of_demo));
        assert!(!is_name_of(None, &of_demo));
        // The name of the first begins with that of the second.
        assert!(!is_name_of(Some("shop/demo"), &name(Some("shop/demo-2"), taken, 1)));
        for other in
            ["shop.demo", "shop.demo-notes", "shop.demo-20261127T083012Z", "shop.demo-20261127T083012Z-04f2.old"]
        {
            assert!(!is_name_of(Some("shop/demo"), other), "{other}");
        }
    }

    #[test]
    fn what_goes_is_what_is_too_many_or_too_old_and_never_the_newest() {
        let now = humantime::parse_rfc3339_weak("2026-11-27T08:30:00Z").expect("a time");
        let records = ["2026-11-20T08:30:00Z", "2026-11-19T08:30:00Z", "2026-11-01T08:30:00Z"];
        let records: Vec<_> = records.into_iter().enumerate().map(|(i, taken)| record(&i.to_string(), taken)).collect();
        let gone = |newest, days| -> Vec<String> {
            Keep { newest, days }.surplus(&records, now).iter().map(|record| record.name.clone()).collect()
        };
        assert_eq!(gone(None, None), Vec::<String>::new());
        assert_eq!(gone(Some(2), None), ["2"]);
        assert_eq!(gone(Some(1), None), ["1", "2"]);
        assert_eq!(gone(None, Some(8)), ["2"]);
        assert_eq!(gone(None, Some(7)), ["1", "2"]);
        assert_eq!(gone(None, Some(1)), ["1", "2"], "the newest one stays, however old it is");
        assert_eq!(gone(Some(2), Some(7)), ["1", "2"]);
    }
}
