//! Nodes as processes, and clients that speak TLS to them.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kv_node::replication::wire::PROTOCOL;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificates::Pair;

/// Conditions are waited for this long; reached only when something is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A node that runs. Dropped, it is killed.
pub(crate) struct Node {
    process: Child,
    log: Arc<Mutex<String>>,
    pub(crate) port: u16,
    pub(crate) redis_port: u16,
}

fn command(settings: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-node"));
    command.env_clear().envs([
        ("PORT", "0"),
        ("BIND_ADDRESS", "127.0.0.1"),
        ("LOG_FORMAT", "json"),
        ("RESP_PORT", "0"),
    ]);
    command.env("NODE_NAME", "node").env("MAX_DELAY_MS", "0").envs(settings.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The line with which a node refuses to start, and its exit code.
pub(crate) fn refused(settings: &[(&str, String)]) -> (Option<i32>, String) {
    let output = command(settings).output().expect("it runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

impl Node {
    /// Starts a node and waits until it listens.
    pub(crate) async fn start(settings: &[(&str, String)]) -> Self {
        let mut process = command(settings).spawn().expect("it starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (lines, copy) = (process.stderr.take().expect("a pipe"), log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(lines).lines().map_while(Result::ok) {
                copy.lock().expect("not poisoned").extend([&line, "\n"]);
            }
        });
        let mut node = Self { process, log, port: 0, redis_port: 0 };
        node.redis_port = node.address_in("listens for Redis' protocol").await;
        node.port = node.address_in(" starts\"").await;
        node
    }

    async fn address_in(&self, message: &str) -> u16 {
        eventually(message, async || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains(message))?;
            let line: Value = serde_json::from_str(line).expect("JSON");
            line["address"].as_str()?.rsplit(':').next()?.parse().ok()
        })
        .await
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("not poisoned").clone()
    }

    pub(crate) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://127.0.0.1:{}", self.port)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what} did not come about");
        sleep(Duration::from_millis(20)).await;
    }
}

/// A client that trusts this authority and shows this certificate, if any.
pub(crate) fn client(authority: &Path, pair: Option<&Pair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).expect("a certificate")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_root_certificates(roots);
    Arc::new(match pair {
        Some(pair) => {
            let chain = CertificateDer::pem_file_iter(&pair.certificate).expect("a file");
            let chain = chain.collect::<Result<_, _>>().expect("certificates");
            let key = PrivateKeyDer::from_pem_file(&pair.key).expect("a key");
            config.with_client_auth_cert(chain, key).expect("a pair")
        }
        None => config.with_no_client_auth(),
    })
}

/// A session with a port of this machine.
pub(crate) async fn session(port: u16, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    timeout(PATIENCE, TlsConnector::from(config.clone()).connect(name, stream)).await.expect("an end of the handshake")
}

/// What a port answers to these bytes without TLS, until it closes the connection.
pub(crate) async fn plainly(port: u16, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    stream.write_all(bytes).await.expect("sent");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("an end").expect("no reset");
    String::from_utf8_lossy(&answer).into_owned()
}

/// One request on a session of its own. Returns the status and the body.
pub(crate) async fn ask(port: u16, config: &Arc<ClientConfig>, request: &str) -> std::io::Result<(u16, String)> {
    exchange(&mut session(port, config).await?, request).await
}

/// `METHOD /path` with this body, on a connection that stays.
pub(crate) async fn exchange(stream: &mut TlsStream<TcpStream>, request: &str) -> std::io::Result<(u16, String)> {
    let (line, body) = request.split_once(' ').map_or((request, ""), |(method, rest)| {
        let end = rest.find(' ').map_or(request.len(), |end| method.len() + 1 + end);
        (&request[..end], request[end..].trim_start())
    });
    let upgrade = match line.ends_with("/replication") {
        true => format!("Connection: upgrade\r\nUpgrade: {PROTOCOL}\r\n"),
        false => String::new(),
    };
    let head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{upgrade}Content-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, rest)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if rest.len() >= length.unwrap_or(0_usize) {
                return Ok((head[9..12].parse().expect("a status"), rest.to_owned()));
            }
        }
        if timeout(PATIENCE, stream.read_buf(&mut bytes)).await.expect("an answer in time")? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What `kv-node healthcheck` prints, and whether the node is ready.
pub(crate) fn healthcheck(port: u16, settings: &[(&str, String)]) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kv-node"));
    command.arg("healthcheck").env_clear().env("PORT", port.to_string());
    command.envs(settings.iter().map(|(name, value)| (name, value))).stdout(Stdio::piped());
    let mut process = command.spawn().expect("it runs");
    let mut text = String::new();
    process.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    (process.wait().expect("it ends").success(), text)
}
