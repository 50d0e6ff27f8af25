//! The tokens that clients, administrators and leaders show: from a setting, or from a file that is read again when it
//! changes, so that a rotation needs no restart and locks no client out.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use subtle::{Choice, ConstantTimeEq};
use thiserror::Error;
use tracing::{info, warn};

/// The longest file of tokens, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// How often a file is compared with what is in force. The kubelet takes up to a minute to write a changed Secret.
const READ_EVERY: Duration = Duration::from_secs(1);

/// Why a file gives no tokens.
#[derive(Debug, Error)]
pub enum TokenError {
    /// It cannot be read.
    #[error("failed to read {setting} {}: {source}", path.display())]
    Read {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is longer than any list of tokens.
    #[error("{setting} {} is longer than {FILE_BYTES_MAX} bytes", path.display())]
    Long {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// It has no token.
    #[error("{setting} {} has no token: it needs one in a line", path.display())]
    Empty {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// A line cannot be sent in a header. The line itself is not shown, as it may be a secret.
    #[error("{setting} {} has a line {line} that is no token: printable ASCII without spaces", path.display())]
    Malformed {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// Counts from 1.
        line: usize,
    },
}

/// Tokens for one purpose. All are accepted; the first is the one to show first. Never empty.
#[derive(Debug)]
pub struct Tokens {
    /// The setting, for messages.
    setting: &'static str,
    accepted: RwLock<Arc<[Box<str>]>>,
    /// Absent where the token is the value of the setting.
    path: Option<PathBuf>,
    /// Why the file gives no tokens now.
    trouble: Mutex<Option<String>>,
}

/// A file that a setting names and that the node reads again while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    /// The setting.
    pub(crate) setting: &'static str,
    /// Why it cannot be used now, in one sentence. What it had before stays in force.
    pub(crate) trouble: Option<String>,
}

impl Tokens {
    /// The value of a setting.
    #[must_use]
    pub fn fixed(setting: &'static str, token: &str) -> Arc<Self> {
        Arc::new(Self {
            setting,
            accepted: RwLock::new(Arc::new([token.into()])),
            path: None,
            trouble: Mutex::default(),
        })
    }

    /// Reads a file: one token a line; empty lines and lines that begin with `#` do not count.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn of_file(setting: &'static str, path: PathBuf) -> Result<Arc<Self>, TokenError> {
        let accepted = RwLock::new(read(setting, &path)?);
        Ok(Arc::new(Self { setting, accepted, path: Some(path), trouble: Mutex::default() }))
    }

    /// The tokens to show, one after the other: during a rotation another node may not have read the first one yet.
    pub fn to_show(&self) -> Arc<[Box<str>]> {
        self.accepted.read().clone()
    }

    /// Whether this is one of the tokens. Takes the same time for every guess of one length, so that the time does not
    /// reveal how much of a guess was right, nor which token it resembles.
    pub fn accept(&self, given: &[u8]) -> bool {
        let accepted = self.accepted.read().clone();
        let found = accepted.iter().fold(Choice::from(0), |found, token| found | given.ct_eq(token.as_bytes()));
        found.into()
    }

    /// Reads the file again. What it had stays in force where it gives no tokens. Returns whether they changed.
    fn read_again(&self, path: &Path) -> Result<bool, TokenError> {
        let read = read(self.setting, path)?;
        let mut accepted = self.accepted.write();
        let is_new = *accepted != read;
        *accepted = read;
        Ok(is_new)
    }

    /// Logs what became of the file, once for each cause, since it is read every second.
    fn note(&self, outcome: Result<bool, TokenError>) {
        let setting = self.setting;
        if let Ok(true) = outcome {
            info!(setting, "the tokens changed");
        }
        let trouble = outcome.err().map(|error| format!("{error}. the tokens that it had before stay in force"));
        let before = std::mem::replace(&mut *self.trouble.lock(), trouble.clone());
        match trouble {
            Some(trouble) if before.as_ref() != Some(&trouble) => warn!("{trouble}"),
            None if before.is_some() => info!(setting, "the file has tokens again"),
            _ => {}
        }
    }

    /// Takes over what changes in the file, for as long as somebody uses these tokens.
    pub async fn follow(tokens: Weak<Self>) {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let Some(tokens) = tokens.upgrade() else { return };
            let Some(path) = tokens.path.clone() else { return };
            // A file system that hangs must not hold up the node.
            let read = tokio::task::spawn_blocking(move || {
                let outcome = tokens.read_again(&path);
                tokens.note(outcome);
            });
            if read.await.is_err() {
                return;
            }
        }
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Arc<[Box<str>]>, TokenError> {
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text))
        .map_err(|source| TokenError::Read { setting, path: path.to_owned(), source })?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(TokenError::Long { setting, path: path.to_owned() });
    }
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        match std::str::from_utf8(text) {
            Ok(token) if text.iter().all(u8::is_ascii_graphic) => tokens.push(token.into()),
            _ => return Err(TokenError::Malformed { setting, path: path.to_owned(), line }),
        }
    }
    if tokens.is_empty() {
        return Err(TokenError::Empty { setting, path: path.to_owned() });
    }
    Ok(tokens.into())
}

/// Who may do what at a node. Without tokens everybody may.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Guards replication and administration. Every node of the cluster has them.
    pub cluster: Option<Arc<Tokens>>,
    /// Guards reads and writes.
    pub clients: Option<Arc<Tokens>>,
}

impl Access {
    /// The files of the tokens.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileState> {
        let of_files = [&self.cluster, &self.clients].into_iter().flatten().filter(|tokens| tokens.path.is_some());
        of_files.map(|tokens| FileState { setting: tokens.setting, trouble: tokens.trouble.lock().clone() })
    }
}

#[cfg(test)]
mod tests {
    //! Goal: a rotation never locks anybody out, and a broken file changes nothing.
    use std::fs;

    use super::*;

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tokens");
        fs::write(&path, text).expect("written");
        (directory, path)
    }

    #[test]
    fn all_lines_are_accepted_and_the_first_is_shown() {
        let (_directory, path) = file("# since Monday\n\nnew-token \r\nold-token\n");
        let tokens = Tokens::of_file("AUTH_TOKEN_FILE", path).expect("tokens");
        assert_eq!(*tokens.to_show(), ["new-token".into(), "old-token".into()]);
        for (given, accepted) in [
            ("new-token", true),
            ("old-token", true),
            ("new-toke", false),
            ("# since Monday", false),
            ("", false),
            ("new-tokenold-token", false),
        ] {
            assert_eq!(tokens.accept(given.as_bytes()), accepted, "{given:?}");
        }
    }

    #[test]
    fn what_is_no_list_of_tokens_is_refused_in_words() {
        let long = "token\n".repeat(20_000);
        for (text, message) in [
            ("", "has no token: it needs one in a line"),
            ("# nothing\n \n", "has no token"),
            ("one\ntwo words\n", "has a line 2 that is no token: printable ASCII without spaces"),
            ("naïve\n", "has a line 1 that is no token"),
            (&long, "is longer than 65536 bytes"),
        ] {
            let (_directory, path) = file(text);
            let error = Tokens::of_file("CLIENT_TOKEN_FILE", path.clone()).expect_err(message).to_string();
            assert!(error.starts_with(&format!("CLIENT_TOKEN_FILE {}", path.display())), "{error}");
            assert!(error.contains(message), "{error}");
        }
        let error = Tokens::of_file("AUTH_TOKEN_FILE", "/nonexistent/tokens".into()).expect_err("no file").to_string();
        assert_eq!(error, "failed to read AUTH_TOKEN_FILE /nonexistent/tokens: No such file or directory (os error 2)");
    }

    #[test]
    fn a_file_that_breaks_leaves_what_it_had() {
        let (_directory, path) = file("first\n");
        let tokens = Tokens::of_file("AUTH_TOKEN_FILE", path.clone()).expect("tokens");
        assert!(!tokens.read_again(&path).expect("read"), "nothing changed");
        for broken in ["", "a b\n"] {
            fs::write(&path, broken).expect("written");
            tokens.read_again(&path).expect_err("broken");
            assert!(tokens.accept(b"first") && *tokens.to_show() == ["first".into()]);
        }
        fs::remove_file(&path).expect("removed");
        tokens.read_again(&path).expect_err("gone");
        assert!(tokens.accept(b"first"));
        fs::write(&path, "second\nfirst\n").expect("written");
        assert!(tokens.read_again(&path).expect("read"));
        assert!(tokens.accept(b"first") && *tokens.to_show() == ["second".into(), "first".into()]);
        fs::write(&path, "second\n").expect("written");
        assert!(tokens.read_again(&path).expect("read"));
        assert!(!tokens.accept(b"first") && tokens.accept(b"second"));
    }

    /// A Secret in a pod changes by a link to another directory.
    #[tokio::test(start_paused = true)]
    async fn a_link_to_another_file_is_followed() {
        let directory = tempfile::tempdir().expect("a directory");
        let (data, path) = (directory.path().join("data"), directory.path().join("tokens"));
        for name in ["one", "two"] {
            fs::create_dir(directory.path().join(name)).expect("created");
            fs::write(directory.path().join(name).join("tokens"), name).expect("written");
        }
        let link = |target: &str| {
            let _ = fs::remove_file(&data);
            std::os::unix::fs::symlink(directory.path().join(target), &data).expect("linked");
        };
        link("one");
        std::os::unix::fs::symlink(data.join("tokens"), &path).expect("linked");
        let tokens = Tokens::of_file("AUTH_TOKEN_FILE", path).expect("tokens");
        let follows = tokio::spawn(Tokens::follow(Arc::downgrade(&tokens)));
        link("two");
        while !tokens.accept(b"two") {
            tokio::time::sleep(READ_EVERY).await;
        }
        assert!(!tokens.accept(b"one"));
        drop(tokens);
        follows.await.expect("ends with its tokens");
    }
}
