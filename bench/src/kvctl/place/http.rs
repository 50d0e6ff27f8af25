//! HTTP and TLS for the client of the store: hyper with rustls and ring, as the client of Kubernetes has them. The library's
//! own way would bring a second implementation of cryptography.

use std::{env, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector as Tcp},
    rt::TokioExecutor,
};
use object_store::{
    ClientOptions, RetryConfig,
    client::{
        HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
        HttpResponseBody, HttpService,
    },
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject},
};
use tokio::time::timeout;

/// How long a connection may take to open.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a store may take to begin its answer, which is one after it has read a part.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// How often a request that failed for the moment is sent again, and for how long.
pub(super) fn retries() -> RetryConfig {
    RetryConfig { max_retries: 4, retry_timeout: Duration::from_secs(60), ..RetryConfig::default() }
}

/// One client for all requests.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    client: Client<HttpsConnector<Tcp>, HttpRequestBody>,
}

impl Connector {
    /// It trusts the authorities of the machine, or those in the file that AWS_CA_BUNDLE names.
    ///
    /// # Errors
    /// When there are none.
    pub(super) fn new() -> Result<Self> {
        let provider = ring::default_provider();
        let https = match env::var_os("AWS_CA_BUNDLE").filter(|file| !file.is_empty()) {
            None => HttpsConnectorBuilder::new()
                .with_provider_and_native_roots(provider)
                .context("failed to find certificates of authorities on this machine")?,
            Some(file) => {
                let roots = authorities(Path::new(&file))
                    .with_context(|| format!("failed to read AWS_CA_BUNDLE {}", Path::new(&file).display()))?;
                let config =
                    ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions();
                let config =
                    config.context("failed to set up TLS")?.with_root_certificates(roots).with_no_client_auth();
                HttpsConnectorBuilder::new().with_tls_config(config)
            }
        };
        let mut tcp = Tcp::new();
        tcp.set_connect_timeout(Some(CONNECT_MAX));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let https = https.https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(https) })
    }
}

fn authorities(file: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file)? {
        roots.add(certificate?)?;
    }
    Ok(roots)
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}

#[async_trait]
impl HttpService for Connector {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let response = timeout(ANSWER_MAX, self.client.request(request)).await;
        let response = response.map_err(|late| HttpError::new(HttpErrorKind::Timeout, late))?.map_err(|error| {
            let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Interrupted };
            HttpError::new(kind, error)
        })?;
        let (head, body) = response.into_parts();
        let body = body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error));
        Ok(HttpResponse::from_parts(head, HttpResponseBody::new(body)))
    }
}
