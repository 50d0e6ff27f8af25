//! etcd: `Put` and `Range` of its gRPC interface, over as much of HTTP/2 as a pipeline of requests needs.
//!
//! A request has the same few bytes around key and value, so this module writes them itself: headers as literals, which need
//! no table, and protobuf messages of two fields. The frames of an answer show whether the call succeeded: then a message
//! precedes the trailers. So no header has to be decoded.

use std::collections::VecDeque;

use super::{Answer, Operation, Parsed, Protocol, RequestOutcome};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
/// What any server takes in one frame, and what flow control begins with.
const FRAME_BYTES_MAX: usize = 16_384;
const WINDOW_BYTES_FIRST: i64 = 65_535;
/// How much this side is willing to receive: as much as there can be, given again after half of it.
const WINDOW_BYTES_MAX: u32 = 0x7fff_ffff;
const STREAM_ID_MAX: u32 = 0x3fff_ffff;
/// A gRPC message begins with a flag and its length.
const MESSAGE_HEAD_BYTES: usize = 5;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// One connection to an etcd member.
#[derive(Debug)]
pub(in crate::load) struct Etcd {
    put_headers: Vec<u8>,
    range_headers: Vec<u8>,
    stream_id: u32,
    /// What the server lets this side send: on the whole connection, and on a new stream.
    send_window: i64,
    stream_window: i64,
    /// Received since the server was last given more room.
    received: u32,
    /// The requests under way, the oldest first. The server answers them in any order.
    calls: VecDeque<Call>,
    message: Vec<u8>,
}

/// One request and what came of its answer.
#[derive(Debug)]
struct Call {
    stream_id: u32,
    message_bytes: usize,
    answer: Option<Answer>,
}

impl Etcd {
    pub(in crate::load) fn new(authority: &str) -> Self {
        Self {
            put_headers: headers("/etcdserverpb.KV/Put", authority),
            range_headers: headers("/etcdserverpb.KV/Range", authority),
            stream_id: 0,
            send_window: WINDOW_BYTES_FIRST,
            stream_window: WINDOW_BYTES_FIRST,
            received: 0,
            calls: VecDeque::new(),
            message: Vec::new(),
        }
    }

    fn frame(&mut self, head: FrameHead, payload: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match head.kind {
            DATA => {
                self.received += payload.len() as u32;
                if self.received > WINDOW_BYTES_MAX / 2 {
                    frame(out, WINDOW_UPDATE, 0, 0, &self.received.to_be_bytes());
                    self.received = 0;
                }
                if let Some(call) = self.call(head.stream_id) {
                    call.message_bytes += payload.len();
                }
            }
            RST_STREAM => {
                if let Some(call) = self.call(head.stream_id) {
                    call.answer = Some(indeterminate("the server broke off the call", true));
                }
            }
            SETTINGS if head.flags & ACK == 0 => {
                for (name, value) in settings(payload) {
                    if name == INITIAL_WINDOW_SIZE {
                        self.stream_window = i64::from(value);
                    }
                }
                frame(out, SETTINGS, ACK, 0, &[]);
            }
            PING if head.flags & ACK == 0 => frame(out, PING, ACK, 0, payload),
            GOAWAY => return Err("the server closes the connection".to_owned()),
            WINDOW_UPDATE if head.stream_id == 0 => {
                self.send_window += i64::from(number(payload) & WINDOW_BYTES_MAX);
            }
            _ => {}
        }
        let is_last = matches!(head.kind, DATA | HEADERS) && head.flags & END_STREAM != 0;
        let keep = self.stream_id < STREAM_ID_MAX;
        if let (true, Some(call)) = (is_last, self.call(head.stream_id)) {
            let answer = if call.message_bytes >= MESSAGE_HEAD_BYTES {
                Answer { keep, ..Answer::ok() }
            } else {
                indeterminate("the call failed: there is no message in its answer", keep)
            };
            call.answer.get_or_insert(answer);
        }
        Ok(())
    }

    /// The request under way on a stream.
    fn call(&mut self, stream_id: u32) -> Option<&mut Call> {
        self.calls.iter_mut().find(|call| call.stream_id == stream_id)
    }
}

impl Protocol for Etcd {
    fn open(&mut self, out: &mut Vec<u8>) {
        self.stream_id = 0;
        self.calls.clear();
        (self.send_window, self.stream_window) = (WINDOW_BYTES_FIRST, WINDOW_BYTES_FIRST);
        self.received = 0;
        out.extend_from_slice(PREFACE);
        let mut settings = Vec::new();
        for (name, value) in [(HEADER_TABLE_SIZE, 0), (ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, WINDOW_BYTES_MAX)] {
            settings.extend_from_slice(&name.to_be_bytes());
            settings.extend_from_slice(&u32::to_be_bytes(value));
        }
        frame(out, SETTINGS, 0, 0, &settings);
        frame(out, WINDOW_UPDATE, 0, 0, &(WINDOW_BYTES_MAX - WINDOW_BYTES_FIRST as u32).to_be_bytes());
    }

    fn request(&mut self, operation: Operation<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        self.message.clear();
        self.message.extend_from_slice(&[0; MESSAGE_HEAD_BYTES]);
        let headers = match operation {
            Operation::Put { key, value } => {
                field(&mut self.message, 1, key.as_bytes());
                field(&mut self.message, 2, value.as_bytes());
                &self.put_headers
            }
            Operation::Get { key } => {
                field(&mut self.message, 1, key.as_bytes());
                &self.range_headers
            }
        };
        let bytes = self.message.len();
        let room = self.send_window.min(self.stream_window).min(FRAME_BYTES_MAX as i64);
        if bytes as i64 > room {
            return Err(format!("a request of {bytes} bytes does not fit into a frame (room for {room})"));
        }
        self.send_window -= bytes as i64;
        let length = (bytes - MESSAGE_HEAD_BYTES) as u32;
        self.message[1..MESSAGE_HEAD_BYTES].copy_from_slice(&length.to_be_bytes());
        self.stream_id += if self.stream_id == 0 { 1 } else { 2 };
        self.calls.push_back(Call { stream_id: self.stream_id, message_bytes: 0, answer: None });
        frame(out, HEADERS, END_HEADERS, self.stream_id, headers);
        frame(out, DATA, END_STREAM, self.stream_id, &self.message);
        Ok(())
    }

    fn parse(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Parsed, String> {
        let mut parsed = Parsed::nothing_yet();
        while let Some(head) = FrameHead::read(&input[parsed.consumed..])? {
            let begin = parsed.consumed + FRAME_HEAD_BYTES;
            let Some(payload) = input.get(begin..begin + head.length) else { break };
            self.frame(head, payload, out)?;
            parsed.consumed = begin + head.length;
        }
        if self.calls.front().is_some_and(|call| call.answer.is_some()) {
            parsed.answer = self.calls.pop_front().and_then(|call| call.answer);
        }
        Ok(parsed)
    }
}

#[derive(Clone, Copy, Debug)]
struct FrameHead {
    length: usize,
    kind: u8,
    flags: u8,
    stream_id: u32,
}

impl FrameHead {
    fn read(input: &[u8]) -> Result<Option<Self>, String> {
        let Some(head) = input.first_chunk::<FRAME_HEAD_BYTES>() else { return Ok(None) };
        let [high, middle, low, kind, flags, stream_id @ ..] = *head;
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if length > FRAME_BYTES_MAX {
            return Err(format!(
                "the answer is not HTTP/2, or has a frame of {length} bytes (limit {FRAME_BYTES_MAX})"
            ));
        }
        Ok(Some(Self { length, kind, flags, stream_id: u32::from_be_bytes(stream_id) & WINDOW_BYTES_MAX }))
    }
}

fn indeterminate(words: &str, keep: bool) -> Answer {
    Answer { outcome: RequestOutcome::Indeterminate, words: Some(words.to_owned()), keep, ..Answer::ok() }
}

/// Appends a frame.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream_id: u32, payload: &[u8]) {
    let [_, length @ ..] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream_id.to_be_bytes());
    out.extend_from_slice(payload);
}

fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    payload.chunks_exact(6).map(|setting| (u16::from_be_bytes([setting[0], setting[1]]), number(&setting[2..])))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Appends a field of bytes of a protobuf message.
fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    const LENGTH_DELIMITED: u8 = 2;
    message.push(number << 3 | LENGTH_DELIMITED);
    let mut length = bytes.len();
    while length >= 0x80 {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}

/// The header block of a call. Names and values are shorter than 127 bytes, whose length is one byte.
fn headers(path: &str, authority: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http`, by their places in the table that every side has; then names from there.
    let mut block = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], authority);
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(kind: u8, flags: u8, stream_id: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        frame(&mut out, kind, flags, stream_id, payload);
        out
    }

    fn asked() -> Etcd {
        let mut etcd = Etcd::new("127.0.0.1:2379");
        let mut out = Vec::new();
        etcd.open(&mut out);
        etcd.request(Operation::Put { key: "k", value: "v" }, &mut out).expect("fits");
        etcd
    }

    fn success() -> Vec<u8> {
        let message = [0, 0, 0, 0, 2, 0x0a, 0];
        [framed(HEADERS, END_HEADERS, 1, &[0x88]), framed(DATA, 0, 1, &message), framed(HEADERS, 5, 1, &[0x88])]
            .concat()
    }

    #[test]
    fn a_put_is_two_frames_around_key_and_value() {
        let mut etcd = asked();
        let mut out = Vec::new();
        let value = "v".repeat(200);
        etcd.request(Operation::Put { key: "key7", value: &value }, &mut out).expect("fits");
        let first = FrameHead::read(&out).expect("HTTP/2").expect("whole");
        assert_eq!((first.kind, first.flags, first.stream_id), (HEADERS, END_HEADERS, 3));
        let rest = &out[FRAME_HEAD_BYTES + first.length..];
        let second = FrameHead::read(rest).expect("HTTP/2").expect("whole");
        assert_eq!((second.kind, second.flags, second.stream_id), (DATA, END_STREAM, 3));
        let message = [&[0x0a, 4][..], b"key7", &[0x12, 0xc8, 0x01], value.as_bytes()].concat();
        let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
        assert_eq!(&rest[FRAME_HEAD_BYTES..], [head, message].concat());
    }

    #[test]
    fn an_answer_cut_anywhere_is_the_same_answer() {
        let window = framed(WINDOW_UPDATE, 0, 0, &7_u32.to_be_bytes());
        let input = [framed(SETTINGS, 0, 0, &[0, 4, 0, 0, 0x20, 0]), success(), window].concat();
        for cut in 0..=input.len() {
            let (mut etcd, mut out) = (asked(), Vec::new());
            let first = etcd.parse(&input[..cut], &mut out).expect("HTTP/2");
            let second = etcd.parse(&input[first.consumed..], &mut out).expect("HTTP/2");
            assert_eq!(first.consumed + second.consumed, input.len(), "cut at {cut}");
            assert_eq!(first.answer.or(second.answer), Some(Answer::ok()), "cut at {cut}");
            assert_eq!(out, framed(SETTINGS, ACK, 0, &[]), "settings are acknowledged once");
            assert_eq!(etcd.stream_window, 0x2000);
            assert_eq!(etcd.send_window, WINDOW_BYTES_FIRST - 11 + 7);
        }
    }

    #[test]
    fn calls_of_a_pipeline_are_answered_in_any_order_and_told_in_that_of_sending() {
        let (mut etcd, mut out) = (asked(), Vec::new());
        etcd.request(Operation::Put { key: "k2", value: "v" }, &mut out).expect("fits");
        let failure = framed(HEADERS, 5, 3, &[0x88]);
        assert_eq!(etcd.parse(&failure, &mut out).expect("HTTP/2").answer, None, "the first one has no answer yet");
        let first = etcd.parse(&success(), &mut out).expect("HTTP/2");
        assert_eq!(first, Parsed { consumed: success().len(), answer: Some(Answer::ok()) });
        let second = etcd.parse(b"", &mut out).expect("HTTP/2").answer.expect("kept");
        assert_eq!(second.outcome, RequestOutcome::Indeterminate);
        assert_eq!(etcd.parse(b"", &mut out), Ok(Parsed::nothing_yet()));
    }

    #[test]
    fn a_call_without_a_message_has_failed() {
        for (input, expected) in [
            (framed(HEADERS, 5, 1, &[0x88]), "no message in its answer"),
            (framed(RST_STREAM, 0, 1, &[0; 4]), "broke off the call"),
        ] {
            let answer = asked().parse(&input, &mut Vec::new()).expect("HTTP/2").answer.expect("the end");
            assert_eq!(answer.outcome, RequestOutcome::Indeterminate);
            assert!(answer.words.is_some_and(|words| words.contains(expected)));
        }
        let error = asked().parse(&framed(GOAWAY, 0, 0, &[0; 8]), &mut Vec::new()).expect_err("closes");
        assert!(error.contains("closes the connection"), "{error}");
        let error = asked().parse(b"HTTP/1.1 400 Bad Request\r\n\r\n", &mut Vec::new()).expect_err("HTTP/1.1");
        assert!(error.contains("not HTTP/2"), "{error}");
    }

    #[test]
    fn pings_are_answered_and_flow_control_is_kept() {
        let mut out = Vec::new();
        let mut etcd = asked();
        assert_eq!(etcd.parse(&framed(PING, 0, 0, b"abcdefgh"), &mut out).expect("HTTP/2").answer, None);
        assert_eq!(out, framed(PING, ACK, 0, b"abcdefgh"));
        let value = "v".repeat(16_000);
        for _ in 0..4 {
            etcd.request(Operation::Put { key: "k", value: &value }, &mut out).expect("fits");
        }
        let error = etcd.request(Operation::Put { key: "k", value: &value }, &mut out).expect_err("no room");
        assert!(error.contains("does not fit"), "{error}");
    }
}
