//! The parser of commands as a fuzz target sees it.

use bytes::BytesMut;

use super::frames::{FrameLimits, Parsed, Parser};

const LIMITS: FrameLimits = FrameLimits { argument: 100, command: 300 };

/// What a connection reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commands {
    /// The arguments of each command; `None` where it is too long.
    pub commands: Vec<Option<Vec<Vec<u8>>>>,
    /// The error that ends them.
    pub error: Option<String>,
}

/// The commands in bytes that arrive in these parts.
///
/// # Panics
/// If the parser uses more memory than in proportion to what has arrived.
pub fn commands<'a>(parts: impl IntoIterator<Item = &'a [u8]>, authenticated: bool) -> Commands {
    let (mut parser, mut buffer, mut found) = (Parser::default(), BytesMut::new(), Commands::default());
    for part in parts {
        buffer.extend_from_slice(part);
        let room = buffer.capacity();
        loop {
            match parser.parse(&mut buffer, LIMITS, authenticated) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::TooLong(_)) => found.commands.push(None),
                Ok(Parsed::Command) => {
                    found.commands.push(Some(parser.arguments(&buffer).map(<[u8]>::to_vec).collect()));
                    parser.consume(&mut buffer);
                }
                Err(malformed) => {
                    found.error = Some(malformed.to_string());
                    return found;
                }
            }
        }
        assert!(buffer.capacity() <= room, "a parser reserves nothing");
    }
    found
}
