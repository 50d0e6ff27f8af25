//! The way to nodes that speak TLS: addresses of this machine, where each connection leads to a session with a node.
//!
//! What speaks HTTP or Redis' protocol here (clients, the load's engine) needs no TLS of its own.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::output::WrongUsage;

/// Which authority, as an option of a command line.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct TlsArguments {
    /// Certificates of the CA of nodes that speak TLS (https://), as PEM
    #[arg(long, env = "TLS_CA_FILE", value_name = "FILE", help_heading = "Cluster")]
    pub tls_ca_file: Option<PathBuf>,
}

impl TlsArguments {
    /// For these URLs; nothing where none begins with `https://`.
    ///
    /// # Errors
    /// When no authority is given, or its file has no certificate.
    pub(crate) fn passage<'a>(&self, mut urls: impl Iterator<Item = &'a str>) -> Result<Option<Passage>> {
        let Some(url) = urls.find(|url| url.starts_with("https://")) else { return Ok(None) };
        match self.tls_ca_file.as_ref().filter(|path| !path.as_os_str().is_empty()) {
            Some(ca) => Passage::new(ca).map(Some),
            None => Err(WrongUsage::error(format!("{url} needs the certificates of the nodes' CA: --tls-ca-file"))),
        }
    }
}

/// Ways to nodes. They end with this value.
pub struct Passage {
    connector: TlsConnector,
    ways: JoinSet<()>,
}

/// Where a way leads.
#[derive(Clone)]
struct Destination {
    host: String,
    port: u16,
    /// What its certificate has to name.
    name: String,
}

impl Passage {
    /// To nodes with certificates of the authority in this file.
    ///
    /// # Errors
    /// When the file has no certificate.
    pub fn new(ca: &Path) -> Result<Self> {
        let pem = std::fs::read(ca).with_context(|| format!("failed to read {}", ca.display()))?;
        Self::of_pem(&pem, &ca.display().to_string())
    }

    /// To nodes with certificates of these authorities, as PEM, read from `whence`.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn of_pem(pem: &[u8], whence: &str) -> Result<Self> {
        let context = || format!("failed to read certificates from {whence}");
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.with_context(context)?).with_context(context)?;
        }
        if roots.is_empty() {
            bail!("{}: there is none in PEM", context());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.context("failed to set up TLS")?.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), ways: JoinSet::new() })
    }

    /// The address of this machine in place of `https://host:port`; any other URL stays as it is.
    ///
    /// # Errors
    /// When there is no session with the node, in words.
    pub async fn url(&mut self, url: &str) -> Result<String> {
        let Some(authority) = url.strip_prefix("https://") else { return Ok(url.to_owned()) };
        let authority = if reqwest::Url::parse(url).is_ok_and(|url| url.port().is_some()) {
            authority.to_owned()
        } else {
            format!("{authority}:443")
        };
        Ok(format!("http://{}", self.address(&authority).await?))
    }

    /// The address of this machine in place of `host:port`.
    ///
    /// # Errors
    /// When there is no session with the node, in words.
    pub async fn address(&mut self, authority: &str) -> Result<SocketAddr> {
        let (host, port) = authority.rsplit_once(':').with_context(|| format!("{authority} is not HOST:PORT"))?;
        let port = port.parse().with_context(|| format!("{authority} is not HOST:PORT"))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let to = Destination { name: host.clone(), host, port };
        // The reason would be lost in a connection that only ends.
        session(&self.connector, &to).await?;
        self.lead_to(to).await
    }

    /// The address of this machine in place of `host:port`, where a node has to show a certificate of `name`. Whether there is
    /// a node shows in the first connection.
    ///
    /// # Errors
    /// When this machine has no port.
    #[cfg(feature = "kubernetes")]
    pub(crate) async fn named(&mut self, authority: &str, name: &str) -> Result<SocketAddr> {
        let (host, port) = authority.rsplit_once(':').with_context(|| format!("{authority} is not HOST:PORT"))?;
        let port = port.parse().with_context(|| format!("{authority} is not HOST:PORT"))?;
        self.lead_to(Destination { host: host.to_owned(), port, name: name.to_owned() }).await
    }

    /// What has to be kept for as long as the ways are used.
    #[cfg(feature = "kubernetes")]
    pub(crate) fn into_ways(self) -> JoinSet<()> {
        self.ways
    }

    async fn lead_to(&mut self, to: Destination) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("failed to listen on this machine")?;
        let address = listener.local_addr().context("failed to listen on this machine")?;
        self.ways.spawn(lead(listener, self.connector.clone(), to));
        Ok(address)
    }
}

async fn lead(listener: TcpListener, connector: TlsConnector, to: Destination) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((mut near, _)) = listener.accept() => {
                let (connector, to) = (connector.clone(), to.clone());
                connections.spawn(async move {
                    // Answers are small and must not wait for more to be sent.
                    let _ = near.set_nodelay(true);
                    match session(&connector, &to).await {
                        // How it ends is between the client and the node.
                        Ok(mut far) => drop(tokio::io::copy_bidirectional(&mut near, &mut far).await),
                        Err(error) => eprintln!("{error:#}"),
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn session(connector: &TlsConnector, to: &Destination) -> Result<TlsStream<TcpStream>> {
    let Destination { host, port, name } = to;
    let stream = TcpStream::connect((host.as_str(), *port)).await;
    let stream = stream.with_context(|| format!("failed to connect to {host}:{port}"))?;
    stream.set_nodelay(true).context("failed to set up a connection")?;
    let name = ServerName::try_from(name.clone()).with_context(|| format!("{name} is no name for a certificate"))?;
    connector.connect(name, stream).await.with_context(|| format!("failed to open a session of TLS with {host}:{port}"))
}
