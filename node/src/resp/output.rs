//! Replies on their way to a client, in version 2 or 3 of the protocol.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::protocol::value::Value;

/// Values from this length on are sent from where they are, without a copy.
const SHARED_BYTES: usize = 16 << 10;

/// Capacity that the buffer keeps while nothing waits to be sent.
const KEPT_BYTES: usize = 16 << 10;

/// Replies that are not sent yet.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// Replies, and values between them, before those in `tail`.
    queue: VecDeque<Bytes>,
    tail: BytesMut,
    /// Whether replies have the types of version 3.
    pub(super) resp3: bool,
}

impl Output {
    /// An empty one whose replies have the types of version 3, or of version 2.
    pub(super) fn in_version(resp3: bool) -> Self {
        Self { resp3, ..Self::default() }
    }

    /// Bytes that wait to be sent.
    pub(super) fn len(&self) -> usize {
        self.remaining()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tail.is_empty() && self.queue.is_empty()
    }

    /// Frees the memory of long replies, once they are sent.
    pub(super) fn give_back(&mut self) {
        if self.is_empty() && self.tail.capacity() > KEPT_BYTES {
            self.tail = BytesMut::new();
        }
    }

    pub(super) fn ok(&mut self) {
        self.simple("OK");
    }

    pub(super) fn simple(&mut self, text: &str) {
        self.line(b'+', text.as_bytes());
    }

    /// An error. A line break in it would end the reply, so it becomes a space.
    pub(super) fn error(&mut self, text: &str) {
        let begin = self.tail.len();
        self.line(b'-', text.as_bytes());
        let end = self.tail.len() - 2;
        self.tail[begin..end].iter_mut().filter(|byte| matches!(byte, b'\r' | b'\n')).for_each(|byte| *byte = b' ');
    }

    pub(super) fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    pub(super) fn null(&mut self) {
        self.tail.put_slice(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    pub(super) fn bulk(&mut self, bytes: &[u8]) {
        self.number(b'$', bytes.len() as i64);
        self.tail.put_slice(bytes);
        self.tail.put_slice(b"\r\n");
    }

    /// A value, or null.
    pub(super) fn value(&mut self, value: Option<Value>) {
        match value {
            None => self.null(),
            Some(value) if value.len() < SHARED_BYTES => self.bulk(&value),
            Some(value) => self.shared(value.len(), Bytes::from_owner(value)),
        }
    }

    /// A long value. `bytes` has `length` bytes.
    pub(super) fn shared(&mut self, length: usize, bytes: Bytes) {
        self.number(b'$', length as i64);
        self.queue.push_back(self.tail.split().freeze());
        self.queue.push_back(bytes);
        self.tail.put_slice(b"\r\n");
    }

    /// Replies that are encoded already.
    pub(super) fn encoded(&mut self, bytes: Bytes) {
        self.tail.put_slice(&bytes);
    }

    /// All of it at once.
    pub(super) fn into_bytes(mut self) -> Bytes {
        self.copy_to_bytes(self.remaining())
    }

    /// Text for people.
    pub(super) fn verbatim(&mut self, text: &str) {
        if !self.resp3 {
            return self.bulk(text.as_bytes());
        }
        self.number(b'=', text.len() as i64 + 4);
        self.tail.put_slice(b"txt:");
        self.tail.put_slice(text.as_bytes());
        self.tail.put_slice(b"\r\n");
    }

    /// Begins an array of so many replies.
    pub(super) fn array(&mut self, length: usize) {
        self.number(b'*', length as i64);
    }

    /// Begins a map of so many pairs of replies.
    pub(super) fn map(&mut self, length: usize) {
        if self.resp3 { self.number(b'%', length as i64) } else { self.array(2 * length) }
    }

    /// Begins a set of so many replies.
    pub(super) fn set(&mut self, length: usize) {
        self.number(if self.resp3 { b'~' } else { b'*' }, length as i64);
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.tail.put_u8(kind);
        self.tail.put_slice(text);
        self.tail.put_slice(b"\r\n");
    }

    fn number(&mut self, kind: u8, number: i64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.tail.put_u8(kind);
        if number < 0 {
            self.tail.put_u8(b'-');
        }
        self.tail.put_slice(&digits[at..]);
        self.tail.put_slice(b"\r\n");
    }
}

impl Buf for Output {
    fn remaining(&self) -> usize {
        self.queue.iter().map(Bytes::len).sum::<usize>() + self.tail.len()
    }

    fn chunk(&self) -> &[u8] {
        self.queue.front().map_or(&*self.tail, |bytes| bytes)
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.queue.front_mut() {
            if count < front.len() {
                return front.advance(count);
            }
            count -= front.len();
            self.queue.pop_front();
        }
        self.tail.advance(count);
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [std::io::IoSlice<'a>]) -> usize {
        let parts = self.queue.iter().map(|bytes| &**bytes).chain([&*self.tail]);
        let parts = parts.filter(|part| !part.is_empty()).zip(slices);
        parts.map(|(part, slice)| *slice = std::io::IoSlice::new(part)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(resp3: bool, make: impl FnOnce(&mut Output)) -> String {
        let mut output = Output { resp3, ..Output::default() };
        make(&mut output);
        let bytes = output.copy_to_bytes(output.remaining());
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn replies_have_the_types_of_their_version() {
        type Make = fn(&mut Output);
        let table: &[(Make, &str, &str)] = &[
            (|out| out.ok(), "+OK\r\n", "+OK\r\n"),
            (|out| out.error("ERR a\r\n+b"), "-ERR a  +b\r\n", "-ERR a  +b\r\n"),
            (|out| out.integer(0), ":0\r\n", ":0\r\n"),
            (|out| out.integer(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (|out| out.null(), "$-1\r\n", "_\r\n"),
            (|out| out.bulk(b"a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
            (|out| out.verbatim("text"), "$4\r\ntext\r\n", "=8\r\ntxt:text\r\n"),
            (|out| out.array(12), "*12\r\n", "*12\r\n"),
            (|out| out.map(2), "*4\r\n", "%2\r\n"),
            (|out| out.set(2), "*2\r\n", "~2\r\n"),
        ];
        for (make, second, third) in table {
            assert_eq!((&*sent(false, make), &*sent(true, make)), (*second, *third));
        }
    }

    #[test]
    fn long_values_are_sent_in_order_and_in_any_parts() {
        let long = |byte: char| byte.to_string().repeat(SHARED_BYTES);
        let mut expected = String::new();
        let mut output = Output::default();
        for value in ["short".to_owned(), long('a'), String::new(), long('b')] {
            expected.push_str(&format!("${}\r\n{value}\r\n", value.len()));
            output.value(Some(value.into()));
        }
        assert_eq!(output.len(), expected.len());
        let mut seen = Vec::new();
        while !output.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 2];
            let count = output.chunks_vectored(&mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            let part = bytes.len().min(9_973);
            seen.extend_from_slice(&bytes[..part]);
            output.advance(part);
        }
        assert_eq!(seen, expected.as_bytes());
    }
}
