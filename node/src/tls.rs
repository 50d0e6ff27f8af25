//! TLS on every port of a node, where the files of a certificate are set.
//!
//! - A [`Tls`] has the certificate of this node and the CA of the cluster, and takes over what changes in their files.
//! - [`identity`] makes sessions of them: for the ports, and for connections to other nodes.
//! - [`stream`] is a connection with or without TLS.
//! - [`local`] asks the node of this machine.
//!
//! Clients need no certificate. A node that replicates shows its own: other nodes accept those of the same CA.

mod identity;
mod local;
mod stream;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::{ClientConfig, ServerConfig};
use thiserror::Error;
use tracing::{info, warn};

use self::identity::Identity;
pub(crate) use self::local::ask;
pub(crate) use self::stream::{Greeting, HANDSHAKE, ReadHalf, Stream, WriteHalf, answer_plainly, connect, greet};

/// How often the files are compared with what is in force.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The longest file, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The setting that stands for all three in the status and in metrics.
pub(crate) const SETTING: &str = "TLS_CERT_FILE";

/// Where the certificate of a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and those that lead from it to the CA, as PEM. `TLS_CERT_FILE`.
    pub certificate: PathBuf,
    /// The private key of the certificate, as PEM. `TLS_KEY_FILE`.
    pub key: PathBuf,
    /// The certificates of the CA, as PEM. `TLS_CA_FILE`.
    pub ca: PathBuf,
}

/// Why files give no certificate to use.
#[derive(Debug, Error)]
pub enum TlsError {
    /// One cannot be read.
    #[error("failed to read {setting} {}: {source}", path.display())]
    Read {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// One has not what it is for.
    #[error("{setting} {} has no {what} in PEM", path.display())]
    Missing {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What it should have.
        what: &'static str,
    },
    /// The key is that of another certificate.
    #[error("TLS_KEY_FILE {} is not the key of the certificate in TLS_CERT_FILE {}", key.display(), certificate.display())]
    Mismatch {
        /// The file of the key.
        key: PathBuf,
        /// The file of the certificate.
        certificate: PathBuf,
    },
    /// Other nodes would not accept the certificate.
    #[error("the certificate in TLS_CERT_FILE {} {reason}", certificate.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file has something that TLS cannot use.
    #[error("{setting} {}: {reason}", path.display())]
    Invalid {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The contents of the files.
#[derive(PartialEq, Eq)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
}

struct InForce {
    identity: Identity,
    contents: Contents,
}

/// The certificate of this node, and whom it trusts.
pub struct Tls {
    files: TlsFiles,
    in_force: RwLock<Arc<InForce>>,
    /// Why what is in the files now cannot be used.
    trouble: Mutex<Option<String>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`] if one cannot be used, or other nodes would refuse the certificate.
    pub fn new(files: TlsFiles) -> Result<Arc<Self>, TlsError> {
        let contents = Contents::read(&files)?;
        let identity = Identity::new(&files, &contents)?;
        identity.check(&files)?;
        let in_force = RwLock::new(Arc::new(InForce { identity, contents }));
        Ok(Arc::new(Self { files, in_force, trouble: Mutex::default() }))
    }

    /// For connections that others open.
    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        self.in_force.read().identity.server.clone()
    }

    /// For connections to other nodes.
    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.in_force.read().identity.client.clone()
    }

    /// Why what is in the files now cannot be used, in one sentence.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// Takes over what changes in the files, for as long as a node uses them.
    pub(crate) async fn follow(tls: Weak<Self>) {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let Some(tls) = tls.upgrade() else { return };
            // A file system that hangs must not hold up the node.
            if tokio::task::spawn_blocking(move || tls.read_again()).await.is_err() {
                return;
            }
        }
    }

    /// Reads the files again. What they had stays in force where they cannot be used.
    fn read_again(&self) {
        let trouble = match self.take_over() {
            Ok(true) => {
                info!("the certificate changed: new connections use it");
                None
            }
            Ok(false) => None,
            Err(error) => Some(error),
        };
        let before = std::mem::replace(&mut *self.trouble.lock(), trouble.clone());
        match trouble {
            // Once for each cause: the files are read every second.
            Some(trouble) if before.as_ref() != Some(&trouble) => warn!("{trouble}"),
            None if before.is_some() => info!("the certificate can be used again"),
            _ => {}
        }
    }

    /// Returns whether the files changed. The error says whether what was in force stays.
    fn take_over(&self) -> Result<bool, String> {
        let kept = |error: TlsError| format!("{error}. the certificate that it had before stays in use");
        let contents = Contents::read(&self.files).map_err(kept)?;
        let in_force = self.in_force.read().clone();
        if contents == in_force.contents {
            // Time passes: nodes refuse it from now on.
            return in_force.identity.check(&self.files).map(|()| false).map_err(|error| error.to_string());
        }
        let identity = Identity::new(&self.files, &contents).map_err(kept)?;
        identity.check(&self.files).map_err(kept)?;
        *self.in_force.write() = Arc::new(InForce { identity, contents });
        Ok(true)
    }
}

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let TlsFiles { certificate, key, ca } = files;
        Ok(Self {
            certificate: read("TLS_CERT_FILE", certificate)?,
            key: read("TLS_KEY_FILE", key)?,
            ca: read("TLS_CA_FILE", ca)?,
        })
    }
}

fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map(|_| bytes)
        .map_err(|source| TlsError::Read { setting, path: path.to_owned(), source })
}
