//! Reading back what was acknowledged: a fast write that is not there afterwards would be a wrong figure.
//!
//! The load's own protocols are not asked: kvcluster answers plain HTTP, Redis plain RESP, and etcd its own `etcdctl`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::process::find;
use crate::load::{Dialect, LoadTarget};

/// Keys that are read back of each system, at most.
const SAMPLE: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was found of the keys that were read back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadBack {
    /// How many were read.
    pub keys: usize,
    /// How many had the value that was acknowledged last.
    pub correct: usize,
    /// The first that had not, or why nothing could be read.
    pub first_difference: Option<String>,
}

impl ReadBack {
    /// Whether all was there.
    pub fn is_complete(&self) -> bool {
        self.keys > 0 && self.correct == self.keys
    }
}

/// Reads some of the keys that were acknowledged, spread over all of them, and compares their values.
pub(super) fn read_back(target: &LoadTarget, acknowledged: &BTreeMap<u64, String>) -> ReadBack {
    let mut found = ReadBack { keys: 0, correct: 0, first_difference: None };
    for (number, expected) in acknowledged.iter().step_by(acknowledged.len().div_ceil(SAMPLE).max(1)) {
        let key = format!("key{number}");
        found.keys += 1;
        let difference = match get(target, &key) {
            Ok(Some(value)) if value == *expected => {
                found.correct += 1;
                continue;
            }
            Ok(Some(value)) => format!("{key} is '{value}' in place of '{expected}'"),
            Ok(None) => format!("{key} is not there"),
            Err(error) => format!("{error:#}"),
        };
        found.first_difference.get_or_insert(difference);
    }
    found
}

fn get(target: &LoadTarget, key: &str) -> Result<Option<String>> {
    match target.dialect {
        Dialect::Http => over_http(target.leader, key),
        Dialect::Redis { .. } => over_resp(target.leader, key),
        Dialect::Etcd => with_etcdctl(target.leader, key),
    }
    .with_context(|| format!("failed to read {key} from {}", target.leader))
}

fn connect(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn over_http(address: SocketAddr, key: &str) -> Result<Option<String>> {
    let mut stream = connect(address)?;
    let request = format!("GET /get?key={key} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("the answer is not HTTP")?;
    match head.split(' ').nth(1) {
        Some("200") => {
            let body: serde_json::Value = serde_json::from_str(body)?;
            Ok(Some(body["value"].as_str().context("the answer has no value")?.to_owned()))
        }
        Some("404") => Ok(None),
        status => bail!("status {}: {body}", status.unwrap_or_default()),
    }
}

fn over_resp(address: SocketAddr, key: &str) -> Result<Option<String>> {
    let mut stream = BufReader::new(connect(address)?);
    let request = format!("*2\r\n$3\r\nGET\r\n${}\r\n{key}\r\n", key.len());
    stream.get_mut().write_all(request.as_bytes())?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let length: i64 = line.trim_end().strip_prefix('$').context("the answer is no bulk string")?.parse()?;
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    let mut value = vec![0; length];
    stream.read_exact(&mut value)?;
    Ok(Some(String::from_utf8(value)?))
}

fn with_etcdctl(address: SocketAddr, key: &str) -> Result<Option<String>> {
    let program = find("etcdctl").context("etcdctl is not installed")?;
    let endpoint = format!("http://{address}");
    let arguments = ["--endpoints", &endpoint, "get", key, "--print-value-only"];
    let output = Command::new(program).env("ETCDCTL_API", "3").args(arguments).output()?;
    if !output.status.success() {
        bail!("etcdctl: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    // A value ends in a line break; a key that is not there has nothing to end.
    Ok(String::from_utf8(output.stdout)?.strip_suffix('\n').map(str::to_owned))
}

#[cfg(test)]
mod tests {
    //! Goal: what is missing, or another value, is found, and told by name. Method: servers of one canned answer to each call.

    use std::{net::TcpListener, thread};

    use super::*;
    use crate::load::{Acknowledgement, Processes};

    const REDIS: Dialect = Dialect::Redis { acknowledgement: Acknowledgement::Wait { replicas: 3 } };

    /// A server that answers its calls one after the other, and what speaks to it.
    fn target(dialect: Dialect, answers: &[&str]) -> LoadTarget {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let leader = listener.local_addr().expect("an address");
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("a call");
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).expect("a request");
                stream.write_all(answer.as_bytes()).expect("sent");
            }
        });
        let (description, followers) = ("fake".to_owned(), Vec::new());
        LoadTarget { description, dialect, leader, followers, processes: Processes::default(), token: None }
    }

    fn acknowledged() -> BTreeMap<u64, String> {
        [(3, "abc".to_owned()), (5, "xyz".to_owned())].into()
    }

    #[test]
    fn another_value_and_a_missing_one_are_found() {
        for (dialect, right, wrong, missing) in [
            (
                Dialect::Http,
                "HTTP/1.1 200 OK\r\n\r\n{\"key\":\"key3\",\"value\":\"abc\",\"seq\":1}",
                "HTTP/1.1 200 OK\r\n\r\n{\"key\":\"key5\",\"value\":\"abc\",\"seq\":1}",
                "HTTP/1.1 404 Not Found\r\n\r\n{}",
            ),
            (REDIS, "$3\r\nabc\r\n", "$3\r\nabc\r\n", "$-1\r\n"),
        ] {
            let found = read_back(&target(dialect, &[right, wrong]), &acknowledged());
            assert_eq!((found.keys, found.correct), (2, 1), "{found:?}");
            assert_eq!(found.first_difference.as_deref(), Some("key5 is 'abc' in place of 'xyz'"));
            assert!(!found.is_complete());
            let found = read_back(&target(dialect, &[missing, missing]), &acknowledged());
            assert_eq!(found.first_difference.as_deref(), Some("key3 is not there"));
        }
        let nothing = read_back(&target(Dialect::Http, &[]), &BTreeMap::new());
        assert!(!nothing.is_complete(), "nothing read back is nothing shown");
    }

    #[test]
    fn a_sample_is_spread_over_all_keys() {
        let all: BTreeMap<u64, String> = (0..1_000).map(|number| (number, "abc".to_owned())).collect();
        let answers = vec!["$3\r\nabc\r\n"; SAMPLE];
        let found = read_back(&target(REDIS, &answers), &all);
        assert_eq!((found.keys, found.is_complete()), (SAMPLE, true), "{found:?}");
    }
}
