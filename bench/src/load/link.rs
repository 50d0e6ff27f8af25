//! One connection of a client: bytes out, bytes in, and answers out of them. It neither waits nor looks at the clock.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
};

use anyhow::{Context, Result};
use mio::{Interest, Poll, Token, net::TcpStream};

use super::protocol::{Answer, Operation, Parsed, Protocol};

/// One connection, and what came and could not be sent so far.
pub(super) struct Link {
    address: SocketAddr,
    /// `None` while there is no connection.
    stream: Option<TcpStream>,
    protocol: Box<dyn Protocol>,
    received: Vec<u8>,
    unsent: Vec<u8>,
}

impl Link {
    /// A link over an open connection.
    pub(super) fn new(stream: std::net::TcpStream, address: SocketAddr, protocol: Box<dyn Protocol>) -> Result<Self> {
        stream.set_nonblocking(true).context("failed to set up a connection")?;
        stream.set_nodelay(true).context("failed to set up a connection")?;
        let stream = Some(TcpStream::from_std(stream));
        Ok(Self { address, stream, protocol, received: Vec::new(), unsent: Vec::new() })
    }

    /// Where it leads.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn is_connected(&self) -> bool {
        self.stream.is_some()
    }

    /// Has its connection polled from here on.
    pub(super) fn watch(&mut self, poll: &Poll, token: Token) -> io::Result<()> {
        if let Some(stream) = &mut self.stream {
            poll.registry().register(stream, token, Interest::READABLE | Interest::WRITABLE)?;
        }
        self.open();
        Ok(())
    }

    /// Begins a new connection; what is sent before it is open goes out once it is.
    pub(super) fn connect(&mut self, poll: &Poll, token: Token) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        self.open();
        Ok(())
    }

    /// Makes the protocol's opening words the first to be sent.
    fn open(&mut self) {
        self.received.clear();
        self.unsent.clear();
        self.protocol.open(&mut self.unsent);
    }

    /// Forgets the connection, and what was under way on it.
    pub(super) fn close(&mut self) {
        self.stream = None;
        self.received.clear();
        self.unsent.clear();
    }

    /// Appends an operation's request to `out`.
    pub(super) fn request(&mut self, operation: Operation<'_>, out: &mut Vec<u8>) -> Result<(), String> {
        self.protocol.request(operation, out)
    }

    /// Appends what ends a pipeline of requests.
    pub(super) fn finish(&mut self, out: &mut Vec<u8>) {
        self.protocol.finish(out);
    }

    /// Sends as much as the socket takes, and keeps the rest.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = &mut self.stream else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if self.unsent.is_empty() {
            return write_all_that_fits(stream, bytes, &mut self.unsent);
        }
        self.unsent.extend_from_slice(bytes);
        let unsent = std::mem::take(&mut self.unsent);
        write_all_that_fits(stream, &unsent, &mut self.unsent)
    }

    /// Sends what could not be sent before.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() { Ok(()) } else { self.send(&[]) }
    }

    /// Reads into `input`; nothing where nothing more is there. A connection that was closed is an error.
    pub(super) fn receive(&mut self, input: &mut [u8]) -> io::Result<Option<usize>> {
        let Some(stream) = &mut self.stream else { return Ok(None) };
        loop {
            return match stream.read(input) {
                Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
                Ok(count) => Ok(Some(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
        }
    }

    /// Takes what was received apart into `answers`, and sends what the protocol has to say to it; `out` is memory for that.
    /// Bytes are kept only where they are part of something longer.
    ///
    /// # Errors
    /// When something is no answer; those before it are in `answers`.
    pub(super) fn take(&mut self, input: &[u8], out: &mut Vec<u8>, answers: &mut Vec<Answer>) -> io::Result<()> {
        let mut received = std::mem::take(&mut self.received);
        let taken = if received.is_empty() {
            let taken = self.parse(input, out, answers)?;
            received.extend_from_slice(&input[taken..]);
            0
        } else {
            received.extend_from_slice(input);
            self.parse(&received, out, answers)?
        };
        received.drain(..taken);
        self.received = received;
        if out.is_empty() { Ok(()) } else { self.send(out) }
    }

    /// Reads one answer after the other, and returns how many bytes they had.
    fn parse(&mut self, input: &[u8], out: &mut Vec<u8>, answers: &mut Vec<Answer>) -> io::Result<usize> {
        let mut taken = 0;
        loop {
            let parsed = self.protocol.parse(&input[taken..], out);
            let Parsed { consumed, answer } =
                parsed.map_err(|words| io::Error::new(io::ErrorKind::InvalidData, words))?;
            taken += consumed;
            let Some(answer) = answer else { return Ok(taken) };
            answers.push(answer);
        }
    }
}

fn write_all_that_fits(stream: &mut TcpStream, mut bytes: &[u8], rest: &mut Vec<u8>) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            // A connection that is not established yet takes nothing either.
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected) => {
                rest.extend_from_slice(bytes);
                return Ok(());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
