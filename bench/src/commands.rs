//! Commands over Redis' protocol, one at a time on each connection.

use std::{collections::HashMap, io, time::Duration};

use clap::ValueEnum;
use serde::Serialize;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};

/// No reply that the bench asks for is longer.
const REPLY_BYTES_MAX: u64 = 64 << 10;

/// How a client asks a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP
    Http,
    /// Redis' protocol
    Redis,
}

impl Protocol {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Redis => "Redis' protocol",
        }
    }
}

/// The connections of one client.
#[derive(Debug)]
pub struct CommandClient {
    /// By address; each is idle, and has no reply under way.
    idle: HashMap<String, BufReader<TcpStream>>,
    timeout: Duration,
}

/// What a node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A status.
    Ok,
    /// A number.
    Integer(i64),
    /// A value, or null.
    Value(Option<String>),
    /// An error, in words.
    Error(String),
}

/// Why there is no reply.
#[derive(Debug)]
pub struct NoReply {
    /// Whether the node may have read the command.
    pub is_sent: bool,
    /// In words.
    pub why: String,
}

impl CommandClient {
    /// A client that waits so long for a connection, and as long for each reply.
    pub fn new(timeout: Duration) -> Self {
        Self { idle: HashMap::new(), timeout }
    }

    /// Sends a command to the node at `address`, `host:port`, and waits for its reply.
    ///
    /// # Errors
    /// [`NoReply`] if there is none.
    pub async fn ask(&mut self, address: &str, command: &[&str]) -> Result<Reply, NoReply> {
        let within = self.timeout;
        let connected = timeout(within, self.connection(address)).await;
        let not_sent = |why: String| NoReply { is_sent: false, why };
        let mut stream = connected
            .map_err(|_| not_sent(format!("no connection within {} ms", within.as_millis())))?
            .map_err(|error| not_sent(error.to_string()))?;
        let asked = timeout(within, async {
            stream.write_all(&encode(command)).await?;
            reply(&mut stream).await
        });
        match asked.await {
            Ok(Ok(reply)) => {
                // A node that leads no more says so with each answer: clients ask for the leader anew.
                if !matches!(&reply, Reply::Error(words) if words.starts_with("READONLY")) {
                    self.idle.insert(address.to_owned(), stream);
                }
                Ok(reply)
            }
            Ok(Err(error)) => Err(NoReply { is_sent: true, why: error.to_string() }),
            Err(_) => Err(NoReply { is_sent: true, why: format!("no answer within {} ms", within.as_millis()) }),
        }
    }

    async fn connection(&mut self, address: &str) -> io::Result<BufReader<TcpStream>> {
        if let Some(stream) = self.idle.remove(address).filter(|stream| is_open(stream.get_ref())) {
            return Ok(stream);
        }
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }
}

/// Whether the other side has neither closed it nor sent anything unasked.
fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn encode(command: &[&str]) -> Vec<u8> {
    let words: String = command.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    format!("*{}\r\n{words}", command.len()).into_bytes()
}

async fn reply(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Reply> {
    let mut stream = stream.take(REPLY_BYTES_MAX);
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, format!("{what:?} is no reply"));
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    let Some(line) = line.strip_suffix("\r\n") else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended before the reply"));
    };
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| wrong(line))?;
    Ok(match kind {
        "+" => Reply::Ok,
        "-" => Reply::Error(rest.to_owned()),
        ":" => Reply::Integer(rest.parse().map_err(|_| wrong(line))?),
        "$" if rest == "-1" => Reply::Value(None),
        "$" => {
            let length: u64 = rest.parse().map_err(|_| wrong(line))?;
            let mut value = vec![0; length.min(REPLY_BYTES_MAX) as usize];
            stream.read_exact(&mut value).await?;
            stream.read_exact(&mut [0; 2]).await?;
            Reply::Value(Some(String::from_utf8(value).map_err(|_| wrong(line))?))
        }
        _ => return Err(wrong(line)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn replies_are_read_whole() {
        let mut input = &b"+OK\r\n:-17\r\n$5\r\nhe\r\no\r\n$-1\r\n-READONLY no\r\n$3\r\nab"[..];
        for expected in [
            Reply::Ok,
            Reply::Integer(-17),
            Reply::Value(Some("he\r\no".into())),
            Reply::Value(None),
            Reply::Error("READONLY no".into()),
        ] {
            assert_eq!(reply(&mut input).await.expect("a reply"), expected);
        }
        let error = reply(&mut input).await.expect_err("half of a reply");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(reply(&mut &b"?\r\n"[..]).await.expect_err("no reply").to_string().contains("is no reply"));
        assert!(reply(&mut &b""[..]).await.expect_err("no reply").to_string().contains("ended before the reply"));
    }
}
