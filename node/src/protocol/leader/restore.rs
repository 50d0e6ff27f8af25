//! The state as a backup has it, out and in again.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::writes::{Accepted, Refusal};
use super::{Entry, Leader};
use crate::protocol::types::{Key, Record, RetryMark, Version};

/// A key as a backup has it: without the epoch, which says nothing in another cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Saved {
    /// The key.
    pub key: Key,
    /// Its sequence number, which goes on from here.
    pub seq: u64,
    /// The value; none where the key was deleted.
    pub value: Option<Arc<str>>,
    /// The last marked writes of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marks: Option<Arc<[RetryMark]>>,
}

impl<W, R> Leader<W, R> {
    /// Every key as it is committed now: one moment for all of them. Shares keys and values, copies none.
    pub fn saved(&self) -> Vec<Saved> {
        let committed = |(key, entry): (&Key, &Entry)| {
            let Record { version, value, marks } =
                if entry.latest_committed { &entry.latest } else { entry.committed.as_deref()? };
            Some(Saved { key: key.clone(), seq: version.seq, value: value.clone(), marks: marks.clone() })
        };
        self.entries.iter().filter_map(committed).collect()
    }

    /// Accepts a write that brings its sequence number with it. A key that is there just like that stays; another value
    /// of it gives way only where that is asked for, and then the number goes on from the higher of the two.
    ///
    /// # Errors
    /// [`Refusal`] when nothing was accepted.
    pub fn restore(&mut self, saved: Saved, overwrite: bool, now_us: u64, waiter: W) -> Result<Accepted, Refusal> {
        self.refusal()?;
        self.refuse_overload()?;
        let Saved { key, mut seq, value, marks } = saved;
        let known = self.entries.get_full(&*key).map(|(position, _, entry)| (position, &entry.latest));
        if let Some((_, latest)) = known {
            if latest.version.seq == seq && latest.value == value && latest.marks == marks {
                return self.retry(&key, seq, true, waiter);
            }
            if !overwrite {
                return Err(Refusal::Exists { key, seq: latest.version.seq });
            }
            seq = seq.max(latest.version.seq + 1);
        }
        let position = known.map(|(position, _)| position);
        let record = Record { version: Version { epoch: self.epoch, seq }, value, marks };
        self.enter(position, key, record, false, now_us, waiter);
        Ok(Accepted::Pending { seq })
    }
}
