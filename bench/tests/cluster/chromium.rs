//! Drives a headless Chromium by its DevTools protocol over a pipe, one command after the other.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

use crate::support::PATIENCE;

const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// Without a window, without a sandbox (tests may run as root), and without requests of the browser itself.
const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
];

/// A name that the browser takes for one of this machine.
pub(crate) const FOREIGN_NAME: &str = "foreign.example";

/// Where Chromium is installed: `CHROMIUM`, or the first of its names in `PATH`.
pub(crate) fn installed() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("CHROMIUM") {
        return Some(path.into());
    }
    let path = std::env::var_os("PATH")?;
    let files = std::env::split_paths(&path).flat_map(|directory| NAMES.map(|name| directory.join(name)));
    files.into_iter().find(|file| file.is_file())
}

/// The text of the element with this id.
pub(crate) fn text(id: &str) -> String {
    format!("document.getElementById('{id}').textContent")
}

/// The number at the beginning of the text of the element with this id.
pub(crate) fn number(id: &str) -> String {
    format!("parseFloat({})", text(id))
}

/// A browser with one page. Dropped, it is killed.
pub(crate) struct Chromium {
    _process: Child,
    commands: ChildStdin,
    answers: BufReader<ChildStdout>,
    session: Option<String>,
    last_id: u64,
    /// Exceptions of the page's scripts, and what its policy blocked.
    pub(crate) faults: Vec<Value>,
    _profile: TempDir,
}

impl Chromium {
    /// Starts the browser with an empty profile and an empty page.
    pub(crate) async fn start(program: PathBuf) -> Self {
        let profile = TempDir::new().expect("a directory");
        // The browser reads commands from descriptor 3 and writes answers to 4.
        let mut process = Command::new("sh")
            .args(["-c", r#"exec "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#, "sh"])
            .arg(program)
            .args(ARGUMENTS)
            .arg(format!("--host-resolver-rules=MAP {FOREIGN_NAME} 127.0.0.1"))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("sh runs");
        let commands = process.stdin.take().expect("a pipe");
        let answers = BufReader::new(process.stdout.take().expect("a pipe"));
        let (faults, session) = (Vec::new(), None);
        let mut browser = Self { _process: process, commands, answers, session, last_id: 0, faults, _profile: profile };
        let page = browser.send("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": page["targetId"], "flatten": true});
        let attached = browser.send("Target.attachToTarget", attach).await;
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime.enable", "Log.enable", "Page.enable"] {
            browser.send(domain, json!({})).await;
        }
        browser
    }

    /// Sends a command and returns its result.
    pub(crate) async fn send(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let mut command = json!({"id": self.last_id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).await.expect("the browser reads");
        loop {
            let mut message = Vec::new();
            let read = timeout(PATIENCE, self.answers.read_until(0, &mut message)).await.expect("an answer in time");
            assert!(read.expect("an answer") > 0, "the browser ended");
            message.pop();
            let mut message: Value = serde_json::from_slice(&message).expect("JSON");
            let is_blocked = message["params"]["entry"]["source"] == "security";
            if message["method"] == "Runtime.exceptionThrown" || is_blocked {
                self.faults.push(message["params"].clone());
            }
            if message["id"] == self.last_id {
                assert!(message["error"].is_null(), "{method}: {message}");
                return message["result"].take();
            }
        }
    }

    /// Opens a page.
    pub(crate) async fn open(&mut self, url: &str) {
        self.send("Page.navigate", json!({"url": url})).await;
    }

    /// The value of an expression in the page.
    pub(crate) async fn evaluate(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.send("Runtime.evaluate", parameters).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until a condition holds in the page.
    pub(crate) async fn until(&mut self, condition: &str) {
        let deadline = Instant::now() + PATIENCE;
        // The elements do not exist while a page loads.
        let safe = format!("(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()");
        while self.evaluate(&safe).await != true {
            if Instant::now() > deadline {
                let text = self.evaluate("document.body.innerText").await;
                panic!("{condition} did not come about: {text}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Presses and releases a key.
    pub(crate) async fn press(&mut self, key: &str, code: u32) {
        for kind in ["rawKeyDown", "keyUp"] {
            let parameters = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.send("Input.dispatchKeyEvent", parameters).await;
        }
    }

    /// Types text into the element that has the focus.
    pub(crate) async fn enter(&mut self, text: &str) {
        self.send("Input.insertText", json!({"text": text})).await;
    }
}
