//! Commands as clients send them: arrays of byte strings, or lines of words.
//!
//! The parser resumes where it stopped, so a frame that arrives byte by byte is not read again and
//! again. It allocates for bytes that arrived, never for a length that a client only declares.

use std::ops::Range;

use bytes::{Buf, BytesMut};

use crate::tls::HANDSHAKE;

/// Most arguments of a command, its name included.
const ARGUMENTS_MAX: usize = 65_536;

/// The same before a client has given its token.
const ARGUMENTS_MAX_BEFORE_AUTH: usize = 10;

/// Arguments for which a connection keeps memory.
const ARGUMENTS_KEPT: usize = 64;

/// Longest argument before a client has given its token, in bytes.
const ARGUMENT_BYTES_MAX_BEFORE_AUTH: usize = 16 << 10;

/// Longest argument that is skipped if it is above the limit. A longer one ends the connection.
const SKIPPED_BYTES_MAX: usize = 512 << 20;

/// Longest line of words, in bytes.
const INLINE_BYTES_MAX: usize = 64 << 10;

/// Longest line that contains a number, in bytes.
const NUMBER_BYTES_MAX: usize = 32;

/// Lengths that a parser accepts, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct FrameLimits {
    /// Of an argument.
    pub(super) argument: usize,
    /// Of a whole command.
    pub(super) command: usize,
}

/// Why a connection ends: these bytes are not the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    #[error("Protocol error: invalid multibulk length")]
    Count,
    #[error("Protocol error: unauthenticated multibulk length")]
    CountBeforeAuth,
    #[error("Protocol error: too big mbulk count string")]
    LongCount,
    #[error("Protocol error: expected '$', got '{0}'")]
    NoArgument(char),
    #[error("Protocol error: invalid bulk length")]
    Length,
    #[error("Protocol error: unauthenticated bulk length")]
    LengthBeforeAuth,
    #[error("Protocol error: too big bulk count string")]
    LongLength,
    #[error("Protocol error: expected a line break after {0} bytes")]
    NoLineBreak(usize),
    #[error("Protocol error: this port speaks without TLS")]
    Tls,
    #[error("Protocol error: too big inline request")]
    LongLine,
    #[error("Protocol error: unbalanced quotes in request")]
    Quotes,
}

/// What the buffer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A part of a command, or nothing.
    Incomplete,
    /// A whole command: see [`Parser::arguments`].
    Command,
    /// The end of a command that was skipped, since it or an argument has this many bytes.
    TooLong(usize),
}

/// The position of a parser in a command.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Position up to which the command is read.
    at: usize,
    /// Arguments of the array that are missing.
    missing: usize,
    /// Length of the argument whose bytes are next.
    length: Option<usize>,
    /// The arguments: in the buffer, or in `words`.
    arguments: Vec<Range<usize>>,
    /// The unquoted words of a line.
    words: Option<Vec<u8>>,
    /// Bytes of a skipped argument that are still to come.
    skips: usize,
    /// The number of bytes for which the command is skipped.
    too_long: Option<usize>,
    /// Position up to which a line has no line break.
    searched: usize,
}

impl Parser {
    /// Reads on. After [`Parsed::Command`] the caller has to call [`Parser::consume`].
    pub(super) fn parse(
        &mut self,
        buffer: &mut BytesMut,
        limits: FrameLimits,
        authenticated: bool,
    ) -> Result<Parsed, Malformed> {
        loop {
            if self.skips > 0 {
                let skipped = self.skips.min(buffer.len());
                buffer.advance(skipped);
                self.skips -= skipped;
                if self.skips > 0 {
                    return Ok(Parsed::Incomplete);
                }
            }
            if self.missing == 0 {
                if let Some(bytes) = self.too_long {
                    self.consume(buffer);
                    return Ok(Parsed::TooLong(bytes));
                }
                match buffer.first() {
                    None => return Ok(Parsed::Incomplete),
                    Some(b'*') => {
                        let Some(count) = self.number(buffer, Malformed::Count, Malformed::LongCount)? else {
                            return Ok(Parsed::Incomplete);
                        };
                        match usize::try_from(count) {
                            Ok(0) | Err(_) => self.consume(buffer),
                            Ok(count) if count > ARGUMENTS_MAX => return Err(Malformed::Count),
                            Ok(count) if !authenticated && count > ARGUMENTS_MAX_BEFORE_AUTH => {
                                return Err(Malformed::CountBeforeAuth);
                            }
                            Ok(count) => self.missing = count,
                        }
                    }
                    // No line ends what a client says that speaks TLS.
                    Some(&HANDSHAKE) => return Err(Malformed::Tls),
                    Some(_) => match self.line(buffer)? {
                        None => return Ok(Parsed::Incomplete),
                        Some(0) => self.consume(buffer),
                        Some(_) => return Ok(Parsed::Command),
                    },
                }
                continue;
            }
            let Some(length) = self.length else {
                match buffer.get(self.at) {
                    None => return Ok(Parsed::Incomplete),
                    Some(b'$') => {}
                    Some(other) => return Err(Malformed::NoArgument(char::from(*other))),
                }
                let Some(length) = self.number(buffer, Malformed::Length, Malformed::LongLength)? else {
                    return Ok(Parsed::Incomplete);
                };
                let length = usize::try_from(length).map_err(|_| Malformed::Length)?;
                if length > SKIPPED_BYTES_MAX {
                    return Err(Malformed::Length);
                }
                if !authenticated && length > ARGUMENT_BYTES_MAX_BEFORE_AUTH {
                    return Err(Malformed::LengthBeforeAuth);
                }
                if self.too_long.is_none() && (length > limits.argument || self.at + length > limits.command) {
                    self.too_long = Some(if length > limits.argument { length } else { self.at + length });
                }
                if self.too_long.is_some() {
                    // Nothing of the command is needed any more.
                    buffer.advance(self.at);
                    (self.at, self.skips) = (0, length + 2);
                    self.arguments.clear();
                    self.missing -= 1;
                } else {
                    self.length = Some(length);
                }
                continue;
            };
            let end = self.at + length;
            match buffer.get(end..end + 2) {
                None => return Ok(Parsed::Incomplete),
                Some(b"\r\n") => {}
                Some(_) => return Err(Malformed::NoLineBreak(length)),
            }
            self.arguments.push(self.at..end);
            (self.at, self.length) = (end + 2, None);
            self.missing -= 1;
            if self.missing == 0 {
                return Ok(Parsed::Command);
            }
        }
    }

    /// Whether the buffer ends within a command.
    pub(super) fn is_within(&self, buffer: &BytesMut) -> bool {
        !buffer.is_empty() || self.missing > 0 || self.skips > 0
    }

    /// The number of arguments of a whole command.
    pub(super) fn len(&self) -> usize {
        self.arguments.len()
    }

    /// The arguments of a whole command.
    pub(super) fn arguments<'a>(&'a self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let bytes = self.words.as_deref().unwrap_or(buffer);
        self.arguments.iter().map(|range| &bytes[range.clone()])
    }

    /// Removes a whole command.
    pub(super) fn consume(&mut self, buffer: &mut BytesMut) {
        buffer.advance(self.at);
        let mut arguments = std::mem::take(&mut self.arguments);
        arguments.clear();
        // A command with many arguments must not cost its connection memory from then on.
        if arguments.capacity() > ARGUMENTS_KEPT {
            arguments.shrink_to(ARGUMENTS_KEPT);
        }
        *self = Self { arguments, ..Self::default() };
    }

    /// The number after the byte at the present position, and moves behind its line.
    fn number(&mut self, buffer: &[u8], invalid: Malformed, long: Malformed) -> Result<Option<i64>, Malformed> {
        let rest = &buffer[self.at..];
        // Nearly every number has one or two digits.
        let (number, length) = match rest {
            [_, ones @ b'0'..=b'9', b'\r', b'\n', ..] => (ones - b'0', 4),
            [_, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', b'\n', ..] => ((tens - b'0') * 10 + (ones - b'0'), 5),
            _ => return self.long_number(buffer, invalid, long),
        };
        self.at += length;
        Ok(Some(number.into()))
    }

    fn long_number(&mut self, buffer: &[u8], invalid: Malformed, long: Malformed) -> Result<Option<i64>, Malformed> {
        let rest = &buffer[self.at..];
        let Some(end) = rest.iter().take(NUMBER_BYTES_MAX).position(|byte| *byte == b'\n') else {
            return if rest.len() >= NUMBER_BYTES_MAX { Err(long) } else { Ok(None) };
        };
        let line = rest[1..end].strip_suffix(b"\r").ok_or(invalid)?;
        let number = integer(line).ok_or(invalid)?;
        self.at += end + 1;
        Ok(Some(number))
    }

    /// Reads a line of words; returns their number.
    fn line(&mut self, buffer: &[u8]) -> Result<Option<usize>, Malformed> {
        let limit = buffer.len().min(INLINE_BYTES_MAX);
        let Some(end) = buffer[self.searched..limit].iter().position(|byte| *byte == b'\n') else {
            self.searched = limit;
            return if limit == INLINE_BYTES_MAX { Err(Malformed::LongLine) } else { Ok(None) };
        };
        let end = self.searched + end;
        let line = buffer[..end].strip_suffix(b"\r").unwrap_or(&buffer[..end]);
        let mut words = Vec::new();
        split(line, &mut words, &mut self.arguments)?;
        (self.words, self.at) = (Some(words), end + 1);
        Ok(Some(self.arguments.len()))
    }
}

/// A decimal number without a plus and without zeros in front.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', ..] => true,
        _ => false,
    };
    if canonical { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Splits a line into words, as a shell does: quotes group, and `"` allows escapes.
fn split(line: &[u8], words: &mut Vec<u8>, ranges: &mut Vec<Range<usize>>) -> Result<(), Malformed> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        if rest.is_empty() {
            return Ok(());
        }
        let begin = words.len();
        let mut quote = None;
        loop {
            let Some((byte, more)) = rest.split_first() else {
                if quote.is_some() {
                    return Err(Malformed::Quotes);
                }
                break;
            };
            match (quote, *byte) {
                (None, byte) if byte.is_ascii_whitespace() => break,
                (None, b'"' | b'\'') => quote = Some(*byte),
                (Some(open), byte) if byte == open => {
                    // A quote ends its word.
                    if more.first().is_some_and(|next| !next.is_ascii_whitespace()) {
                        return Err(Malformed::Quotes);
                    }
                    quote = None;
                }
                (Some(b'"'), b'\\') => {
                    let (byte, used) = escaped(more).ok_or(Malformed::Quotes)?;
                    words.push(byte);
                    rest = &more[used..];
                    continue;
                }
                (Some(b'\''), b'\\') if more.first() == Some(&b'\'') => {
                    words.push(b'\'');
                    rest = &more[1..];
                    continue;
                }
                (_, byte) => words.push(byte),
            }
            rest = more;
        }
        ranges.push(begin..words.len());
    }
}

/// The byte that an escape means, and the length of the escape after its backslash.
fn escaped(rest: &[u8]) -> Option<(u8, usize)> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    if let [b'x', high, low, ..] = rest
        && let (Some(high), Some(low)) = (digit(high), digit(low))
    {
        return Some(((high * 16 + low) as u8, 3));
    }
    let byte = match rest.first()? {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 8,
        b'a' => 7,
        other => *other,
    };
    Some((byte, 1))
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const LIMITS: FrameLimits = FrameLimits { argument: 100, command: 300 };

    /// Feeds the bytes in parts of this size. Returns the commands, and `None` for each skipped one.
    fn feed(bytes: &[u8], part: usize) -> Result<Vec<Option<Vec<Vec<u8>>>>, Malformed> {
        let (mut parser, mut buffer, mut commands) = (Parser::default(), BytesMut::new(), Vec::new());
        for part in bytes.chunks(part) {
            buffer.extend_from_slice(part);
            loop {
                match parser.parse(&mut buffer, LIMITS, true)? {
                    Parsed::Incomplete => break,
                    Parsed::TooLong(_) => commands.push(None),
                    Parsed::Command => {
                        commands.push(Some(parser.arguments(&buffer).map(<[u8]>::to_vec).collect()));
                        parser.consume(&mut buffer);
                    }
                }
            }
        }
        assert!(!parser.is_within(&buffer), "{buffer:?} is left");
        Ok(commands)
    }

    fn command(words: &[&[u8]]) -> Option<Vec<Vec<u8>>> {
        Some(words.iter().map(|word| word.to_vec()).collect())
    }

    #[test]
    fn commands_survive_any_cut() {
        let mut bytes =
            b"*2\r\n$3\r\nGET\r\n$2\r\n\r\n\r\n\r\n*0\r\n*-1\r\nPING\r\n set \"a\\x00\\n\" 'b\\'c'  \n".to_vec();
        bytes.extend_from_slice(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*2\r\n$3\r\nGET\r\n$101\r\n");
        bytes.extend_from_slice(&[b'x'; 101]);
        bytes.extend_from_slice(b"\r\n*1\r\n$4\r\nPING\r\n*4\r\n");
        for _ in 0..4 {
            bytes.extend_from_slice(b"$90\r\n");
            bytes.extend_from_slice(&[b'y'; 90]);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"QUIT\n");
        let expected = [
            command(&[b"GET", b"\r\n"]),
            command(&[b"PING"]),
            command(&[b"set", b"a\0\n", b"b'c"]),
            command(&[b"SET", b"k", b""]),
            None,
            command(&[b"PING"]),
            None,
            command(&[b"QUIT"]),
        ];
        for part in 1..=bytes.len() {
            assert_eq!(feed(&bytes, part).expect("well-formed"), expected, "parts of {part} bytes");
        }
    }

    #[test]
    fn what_is_not_the_protocol_is_named() {
        let long = [b'a'; INLINE_BYTES_MAX];
        let table: &[(&[u8], Malformed)] = &[
            (b"*x\r\n", Malformed::Count),
            (b"*01\r\n", Malformed::Count),
            (b"*+1\r\n", Malformed::Count),
            (b"*1\n", Malformed::Count),
            (b"*65537\r\n", Malformed::Count),
            (b"*9223372036854775808\r\n", Malformed::Count),
            (b"*00000000000000000000000000000000000", Malformed::LongCount),
            (b"*1\r\n*1\r\n", Malformed::NoArgument('*')),
            (b"*1\r\n:1\r\n", Malformed::NoArgument(':')),
            (b"*1\r\n$-1\r\n", Malformed::Length),
            (b"*1\r\n$one\r\n", Malformed::Length),
            (b"*1\r\n$536870913\r\n", Malformed::Length),
            (b"*1\r\n$00000000000000000000000000000000000", Malformed::LongLength),
            (b"*1\r\n$3\r\nPINGS\r\n", Malformed::NoLineBreak(3)),
            (b"*1\r\n$3\r\nPIN\n\n", Malformed::NoLineBreak(3)),
            (&long, Malformed::LongLine),
            (&[0x16, 3, 1], Malformed::Tls),
            (b"get \"k\r\n", Malformed::Quotes),
            (b"get \"k\"x\r\n", Malformed::Quotes),
            (b"get 'k\r\n", Malformed::Quotes),
        ];
        for (bytes, expected) in table {
            for part in [1, 7, bytes.len()] {
                assert_eq!(
                    feed(bytes, part),
                    Err(*expected),
                    "{:?}",
                    String::from_utf8_lossy(&bytes[..20.min(bytes.len())])
                );
            }
        }
    }

    #[test]
    fn a_client_without_the_token_gets_little_room() {
        let parse = |bytes: &[u8]| Parser::default().parse(&mut BytesMut::from(bytes), LIMITS, false);
        assert_eq!(parse(b"*11\r\n"), Err(Malformed::CountBeforeAuth));
        assert_eq!(parse(b"*10\r\n$16385\r\n"), Err(Malformed::LengthBeforeAuth));
        assert_eq!(parse(b"*10\r\n$100\r\n"), Ok(Parsed::Incomplete));
    }

    /// Goal: no bytes make the parser panic, stay where it is, or allocate more than in proportion to what arrived. Method:
    /// pieces of commands in random order and parts, with random bytes among them.
    #[test]
    fn random_bytes_are_commands_or_malformed() {
        let pieces: &[&[u8]] = &[
            b"*1\r\n",
            b"*3\r\n",
            b"*0\r\n",
            b"*-1\r\n",
            b"*65536\r\n",
            b"$3\r\n",
            b"$0\r\n\r\n",
            b"GET\r\n",
            b"$101\r\n",
            b"$1\r\nk\r\n",
            b"PING\r\n",
            b"\r\n",
            b"\n",
            b"\"",
            b"'",
            b"\\x0",
            b" ",
            b"$536870912\r\n",
            b"*9223372036854775807\r\n",
            b"\xff\x00",
        ];
        let mut random = SmallRng::seed_from_u64(7);
        let mut commands = 0;
        for _ in 0..20_000 {
            let (mut parser, mut buffer) = (Parser::default(), BytesMut::new());
            'connection: for _ in 0..30 {
                buffer.extend_from_slice(pieces[random.random_range(0..pieces.len())]);
                loop {
                    match parser.parse(&mut buffer, LIMITS, true) {
                        Ok(Parsed::Incomplete) => break,
                        Ok(Parsed::TooLong(_)) => {}
                        Ok(Parsed::Command) => {
                            assert!(parser.len() > 0 && parser.arguments(&buffer).count() == parser.len());
                            parser.consume(&mut buffer);
                            commands += 1;
                        }
                        Err(_) => break 'connection,
                    }
                }
                assert!(parser.arguments.capacity() <= 64 && buffer.capacity() <= 4096);
            }
        }
        assert!(commands > 10_000, "{commands} commands");
    }

    /// A declared length allocates nothing.
    #[test]
    fn memory_follows_what_arrives() {
        let mut buffer = BytesMut::from(&b"*65536\r\n$100\r\n"[..]);
        let mut parser = Parser::default();
        assert_eq!(parser.parse(&mut buffer, LIMITS, true), Ok(Parsed::Incomplete));
        assert!(parser.arguments.capacity() == 0 && buffer.capacity() <= 64, "{} bytes", buffer.capacity());
        let mut skipped = BytesMut::from(&b"*1\r\n$536870912\r\n"[..]);
        assert_eq!(parser.parse(&mut skipped, LIMITS, true).map(|_| skipped.capacity() <= 64), Ok(true));
    }
}
