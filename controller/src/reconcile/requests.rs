//! Requests to nodes, with and without TLS.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Serialize;
use thiserror::Error;
use tokio::time::timeout;

/// How long a node may take to answer.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// Only a timeout would reveal that an unused connection leads to a pod that no longer exists.
const UNUSED_MAX: Duration = Duration::from_secs(10);
/// The longest answer, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// Why there was no answer.
#[derive(Debug, Error)]
pub enum RequestError {
    /// Not in time.
    #[error("no answer within {} ms", TIMEOUT.as_millis())]
    Timeout,
    /// The request or the answer did not get through.
    #[error("{}", innermost(&**.0))]
    Connection(#[source] Box<dyn StdError + Send + Sync>),
}

/// The innermost cause says what happened. The outer ones name a URL that the reader knows.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Sends requests.
#[derive(Clone, Debug)]
pub(super) struct Requests {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    scheme: &'static str,
}

impl Requests {
    /// To nodes without TLS.
    ///
    /// # Errors
    /// When the client cannot be made.
    pub(super) fn plain() -> Result<Self, rustls::Error> {
        let builder = HttpsConnectorBuilder::new().with_tls_config(config("")?).https_or_http();
        Ok(Self::new("http", builder.enable_http1().wrap_connector(tcp())))
    }

    /// To nodes with certificates of these CAs, as PEM, that have this name: their URLs have addresses.
    ///
    /// # Errors
    /// When the CAs or the name cannot be used.
    pub(super) fn over_tls(trusted: &str, name: &str) -> Result<Self, rustls::Error> {
        let name = ServerName::try_from(name.to_owned()).map_err(|error| rustls::Error::General(error.to_string()))?;
        let builder = HttpsConnectorBuilder::new().with_tls_config(config(trusted)?).https_only();
        let builder = builder.with_server_name_resolver(FixedServerNameResolver::new(name));
        Ok(Self::new("https", builder.enable_http1().wrap_connector(tcp())))
    }

    fn new(scheme: &'static str, connector: HttpsConnector<HttpConnector>) -> Self {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(UNUSED_MAX);
        Self { client: builder.build(connector), scheme }
    }

    /// How URLs begin.
    pub(super) fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// # Errors
    /// When there is no answer.
    pub(super) async fn get(&self, url: &str, token: Option<&str>) -> Result<Answer, RequestError> {
        self.send(request(Method::GET, url, token, Bytes::new())).await
    }

    /// # Errors
    /// When there is no answer.
    pub(super) async fn patch(&self, url: &str, token: &str, body: &impl Serialize) -> Result<Answer, RequestError> {
        let body = serde_json::to_vec(body).map_err(|error| RequestError::Connection(error.into()))?;
        self.send(request(Method::PATCH, url, Some(token), body.into())).await
    }

    /// Opens an answer that does not end. It has to begin in time.
    ///
    /// # Errors
    /// When no answer begins.
    pub(super) async fn open(&self, url: &str) -> Result<Response<Incoming>, RequestError> {
        let begun = self.begin(request(Method::GET, url, None, Bytes::new()));
        timeout(TIMEOUT, begun).await.unwrap_or(Err(RequestError::Timeout))
    }

    async fn send(&self, request: http::Result<Request<Full<Bytes>>>) -> Result<Answer, RequestError> {
        let answered = async {
            let (head, body) = self.begin(request).await?.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await.map_err(RequestError::Connection)?;
            Ok(Answer { status: head.status, body: body.to_bytes() })
        };
        timeout(TIMEOUT, answered).await.unwrap_or(Err(RequestError::Timeout))
    }

    /// Sends a request and waits for the head of its answer.
    async fn begin(&self, request: http::Result<Request<Full<Bytes>>>) -> Result<Response<Incoming>, RequestError> {
        let request = request.map_err(|error| RequestError::Connection(error.into()))?;
        self.client.request(request).await.map_err(|error| RequestError::Connection(error.into()))
    }
}

fn request(method: Method, url: &str, token: Option<&str>, body: Bytes) -> http::Result<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(method).uri(url);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {token}"));
    }
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    request.body(Full::new(body))
}

fn tcp() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(TIMEOUT));
    tcp
}

fn config(trusted: &str) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(trusted.as_bytes()) {
        roots.add(certificate.map_err(|error| rustls::Error::General(error.to_string()))?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
