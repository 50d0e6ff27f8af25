//! Commands that read and write keys.

use smallvec::{SmallVec, smallvec};

use super::backend::Turn;
use super::client::{Client, Under};
use super::errors::Error;
use super::frames::integer;
use super::part::{Part, Settled};
use super::slot::{Form, Slot};
use crate::protocol::leader::{Change, ReadOf, sum};
use crate::protocol::types::Record;
use crate::protocol::value::Value;

/// What must hold before SET changes a value.
enum If<'a> {
    Always,
    Absent,
    Present,
    Equal(&'a [u8]),
}

fn value(record: Option<&Record>) -> Option<&Value> {
    record?.value.as_ref()
}

/// A decimal 64-bit integer.
fn number(text: &[u8]) -> Result<i64, Error> {
    integer(text).ok_or(Error::NO_INTEGER)
}

impl Client {
    /// SET.
    pub(super) fn set(&mut self, args: &[&[u8]], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        let (key, new, options) = match args {
            [_, key, new, options @ ..] => (*key, *new, options),
            _ => return Err(Error::SYNTAX),
        };
        let (mut condition, mut get, mut options) = (If::Always, false, options.iter());
        while let Some(option) = options.next() {
            let unconditional = matches!(condition, If::Always);
            match option.to_ascii_uppercase().as_slice() {
                b"NX" if unconditional => condition = If::Absent,
                b"XX" if unconditional => condition = If::Present,
                b"IFEQ" if unconditional => condition = If::Equal(options.next().ok_or(Error::SYNTAX)?),
                b"GET" if !get => get = true,
                b"EX" | b"PX" | b"EXAT" | b"PXAT" | b"KEEPTTL" => {
                    let option = String::from_utf8_lossy(option);
                    return Err(Error::wrong(format_args!("this store has no expiry: {option} is not supported")));
                }
                _ => return Err(Error::SYNTAX),
            }
        }
        self.backend.check_value(new.len())?;
        let (part, before) = self.write(key, turn, |known| {
            let known = value(known);
            let holds = match condition {
                If::Always => true,
                If::Absent => known.is_none(),
                If::Present => known.is_some(),
                If::Equal(expected) => known.is_some_and(|known| **known == *expected),
            };
            let change = if holds { Change::To(Some(new.into())) } else { Change::Refused };
            (change, if get { known.cloned() } else { None })
        })?;
        Ok(self.slot(smallvec![part], if get { Form::Before(before) } else { Form::Ok }, true))
    }

    /// SETNX.
    pub(super) fn set_absent(&mut self, key: &[u8], new: &[u8], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        self.backend.check_value(new.len())?;
        let (part, ()) = self.write(key, turn, |known| match value(known) {
            None => (Change::To(Some(new.into())), ()),
            Some(_) => (Change::Refused, ()),
        })?;
        Ok(self.slot(smallvec![part], Form::Written, true))
    }

    /// GETSET, or GETDEL without a new value.
    pub(super) fn replace(&mut self, key: &[u8], new: Option<&[u8]>, turn: &mut Turn<'_>) -> Result<Slot, Error> {
        self.backend.check_value(new.map_or(0, <[u8]>::len))?;
        let (part, before) = self.write(key, turn, |known| {
            let before = value(known).cloned();
            let change = match new {
                None if before.is_none() => Change::Refused,
                new => Change::To(new.map(Value::from)),
            };
            (change, before)
        })?;
        Ok(self.slot(smallvec![part], Form::Before(before), true))
    }

    /// APPEND.
    pub(super) fn append(&mut self, key: &[u8], more: &[u8], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        let limit = self.backend.site().value_bytes_max;
        let (part, length) = self.write(key, turn, |known| {
            let known = value(known).map_or(&[][..], |known| known);
            let length = known.len() + more.len();
            if length > limit {
                let error = Error::limit(format_args!("the value would have {length} bytes (limit {limit})"));
                return (Change::Refused, Err(error));
            }
            (Change::To(Some([known, more].concat().into())), Ok(length as i64))
        })?;
        Ok(self.slot(smallvec![part], Form::Number(length), true))
    }

    /// INCR, INCRBY.
    pub(super) fn increment(&mut self, key: &[u8], by: &[u8], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        self.add(key, number(by)?, turn)
    }

    /// DECR, DECRBY.
    pub(super) fn decrement(&mut self, key: &[u8], by: &[u8], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        let by = number(by)?.checked_neg().ok_or_else(|| Error::wrong("decrement would overflow"))?;
        self.add(key, by, turn)
    }

    fn add(&mut self, key: &[u8], by: i64, turn: &mut Turn<'_>) -> Result<Slot, Error> {
        let (part, sum) = self.write(key, turn, |known| match sum(value(known).map(|known| &**known), by) {
            Ok(sum) => (Change::To(Some(sum.to_string().into())), Ok(sum)),
            Err(why) => (Change::Refused, Err(why.into())),
        })?;
        Ok(self.slot(smallvec![part], Form::Number(sum), true))
    }

    /// MSET.
    pub(super) fn set_all(&mut self, pairs: &[&[u8]], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        if !pairs.len().is_multiple_of(2) {
            return Err(Error::arity("mset"));
        }
        // A command that is wrong changes nothing.
        for pair in pairs.chunks_exact(2) {
            self.backend.key(pair[0])?;
            self.backend.check_value(pair[1].len())?;
        }
        let write = |pair: &[&[u8]]| self.write(pair[0], turn, |_| (Change::To(Some(pair[1].into())), ()));
        let parts = each(pairs.chunks_exact(2), write)?;
        Ok(self.slot(parts, Form::AllOk, true))
    }

    /// DEL, UNLINK.
    pub(super) fn delete(&mut self, keys: &[&[u8]], turn: &mut Turn<'_>) -> Result<Slot, Error> {
        for key in keys {
            self.backend.key(key)?;
        }
        let delete = |key: &&[u8]| {
            self.write(key, turn, |known| match value(known) {
                Some(_) => (Change::To(None), ()),
                None => (Change::Refused, ()),
            })
        };
        let parts = each(keys.iter(), delete)?;
        Ok(self.slot(parts, Form::Written, true))
    }

    /// GET, STRLEN, TYPE, and with several keys MGET, EXISTS.
    pub(super) fn read(
        &self,
        keys: &[&[u8]],
        form: Form,
        under: &Under<'_>,
        turn: &mut Turn<'_>,
    ) -> Result<Slot, Error> {
        let read = |key: &&[u8]| -> Result<(u64, Part), Error> {
            let (hash, key) = self.backend.key(key)?;
            // See `read_in_order`: a read shows the earlier writes of its own connection.
            let of = if under.touches(hash) { ReadOf::Accepted } else { ReadOf::Committed };
            Ok((hash, turn.read(key, of, &self.answers)))
        };
        let parts = keys.iter().map(read).collect::<Result<_, _>>()?;
        Ok(self.slot(parts, form, false))
    }

    /// Begins a write. Also returns what `decide` finds.
    fn write<T>(
        &mut self,
        key: &[u8],
        turn: &mut Turn<'_>,
        decide: impl FnOnce(Option<&Record>) -> (Change, T),
    ) -> Result<((u64, Part), T), Error> {
        let (hash, key) = self.backend.key(key)?;
        let (part, found, end) = turn.write(key, decide, &self.answers)?;
        self.end = end;
        Ok(((hash, part), found))
    }

    fn slot(&self, parts: SmallVec<[(u64, Part); 1]>, form: Form, writes: bool) -> Slot {
        Slot::new(parts, form, writes, self.now)
    }
}

/// Begins the writes of a command of several keys. When one is refused, those before it go on: the
/// reply is the error, once they are settled.
fn each<I>(
    items: impl Iterator<Item = I>,
    mut write: impl FnMut(I) -> Result<((u64, Part), ()), Error>,
) -> Result<SmallVec<[(u64, Part); 1]>, Error> {
    let mut parts = SmallVec::new();
    for item in items {
        match write(item) {
            Ok((part, ())) => parts.push(part),
            Err(error) if parts.is_empty() => return Err(error),
            Err(error) => {
                parts.push((0, Part::Settled(Settled::Failed(error))));
                break;
            }
        }
    }
    Ok(parts)
}
