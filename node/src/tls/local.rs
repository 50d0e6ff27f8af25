//! A request of this machine to its own node, for health checks: by address, which no certificate has to name.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::http::uri::InvalidUri;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;

use super::{Contents, Stream, TlsFiles, connect, identity};

/// Asks a node of this machine. Returns the status and the body of its answer.
///
/// # Errors
/// Why there is none.
pub(crate) async fn ask(url: &str, files: Option<&TlsFiles>) -> io::Result<(StatusCode, String)> {
    let uri: Uri = url.parse().map_err(|error: InvalidUri| io::Error::other(error))?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_tls = uri.scheme_str() == Some("https");
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 }))).await?;
    let stream = match files {
        Some(files) if is_tls => {
            let contents = Contents::read(files).map_err(io::Error::other)?;
            connect(stream, of_any_name(files, &contents)?, host).await?
        }
        None if is_tls => return Err(io::Error::other("TLS_CA_FILE is not set, which https:// needs")),
        _ => Stream::Plain(stream),
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    // Ends with the connection.
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = Request::get(path).header(HOST, uri.authority().map_or("", |authority| authority.as_str()));
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let answer = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// Accepts every certificate of the CA, whatever it names.
fn of_any_name(files: &TlsFiles, contents: &Contents) -> io::Result<Arc<ClientConfig>> {
    let roots = Arc::new(identity::roots("TLS_CA_FILE", &files.ca, &contents.ca).map_err(io::Error::other)?);
    let provider = identity::provider();
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OfTheCa(verifier.map_err(io::Error::other)?)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct OfTheCa(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for OfTheCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.0.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
