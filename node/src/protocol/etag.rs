//! The versions of keys as clients see them.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use super::types::Record;

/// A version of a key: its sequence number and a hash of its value, as `<seq>-<16 hex digits>`.
///
/// The sequence number alone could name two values: one that a leader accepted and never committed,
/// and one of the next leader. The hash is the same in every process and release. A deletion has
/// the hash 0, which no value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Etag {
    /// The sequence number.
    pub seq: u64,
    hash: u64,
}

impl Etag {
    /// The version that stores this value. `None` is a deletion.
    pub fn new(seq: u64, value: Option<&[u8]>) -> Self {
        Self { seq, hash: value.map_or(0, |value| xxh3_64(value).max(1)) }
    }

    /// The version of this record.
    pub fn of(record: &Record) -> Self {
        Self::new(record.version.seq, record.value.as_deref())
    }

    /// The version of the same value under another sequence number.
    #[must_use]
    pub fn at(self, seq: u64) -> Self {
        Self { seq, ..self }
    }
}

impl fmt::Display for Etag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:016x}", self.seq, self.hash)
    }
}

/// The text is not the ETag of any version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an ETag is a sequence number, a hyphen and 16 hexadecimal digits")]
pub struct NoEtag;

impl FromStr for Etag {
    type Err = NoEtag;

    fn from_str(text: &str) -> Result<Self, NoEtag> {
        let (seq, hash) = text.split_once('-').ok_or(NoEtag)?;
        let digits = |text: &str, radix| text.bytes().all(|byte| char::from(byte).is_digit(radix));
        if hash.len() != 16 || !digits(hash, 16) || !digits(seq, 10) {
            return Err(NoEtag);
        }
        let seq = seq.parse().map_err(|_| NoEtag)?;
        Ok(Self { seq, hash: u64::from_str_radix(hash, 16).map_err(|_| NoEtag)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Clients may keep an ETag across releases, so its text must never change.
    #[test]
    fn an_etag_is_stable_and_reads_back() {
        let table = [
            (Etag::new(1, Some(b"")), "1-2d06800538d394c2"),
            (Etag::new(7, Some(b"blue")), "7-a9d131d3cc362513"),
            (Etag::new(u64::MAX, None), "18446744073709551615-0000000000000000"),
        ];
        for (etag, text) in table {
            assert_eq!(etag.to_string(), text);
            assert_eq!(text.parse(), Ok(etag));
        }
        assert_eq!(Etag::new(1, Some(b"v")).at(2), Etag::new(2, Some(b"v")));
    }

    #[test]
    fn other_texts_are_no_etags() {
        for text in ["", "1", "1-", "-0000000000000000", "1-00", "+1-0000000000000000", "1-+000000000000000", "1-2-3"] {
            assert_eq!(text.parse::<Etag>(), Err(NoEtag), "{text:?}");
        }
    }
}
