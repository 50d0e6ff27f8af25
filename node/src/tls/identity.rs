//! What a node shows to others, and what it accepts of them.

use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig};

use super::{Contents, TlsError, TlsFiles};
use crate::http::{HTTP1, HTTP2};

/// A certificate with its key and its CA.
pub(super) struct Identity {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// The certificate first.
    chain: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    /// What other nodes do with the certificate of this one.
    as_client: Arc<dyn ClientCertVerifier>,
    provider: Arc<CryptoProvider>,
}

impl Identity {
    /// # Errors
    /// If the files do not have what they are for, or do not belong together.
    pub(super) fn new(files: &TlsFiles, contents: &Contents) -> Result<Self, TlsError> {
        let TlsFiles { certificate, key, ca } = files;
        let chain = certificates("TLS_CERT_FILE", certificate, &contents.certificate)?;
        let private = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| TlsError::Missing {
            setting: "TLS_KEY_FILE",
            path: key.clone(),
            what: "private key",
        })?;
        let roots = Arc::new(roots("TLS_CA_FILE", ca, &contents.ca)?);
        let provider = provider();
        let of_ca = |error: &dyn std::fmt::Display| invalid("TLS_CA_FILE", ca, error);
        let pair = |error| match error {
            Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                TlsError::Mismatch { key: key.clone(), certificate: certificate.clone() }
            }
            error => invalid("TLS_KEY_FILE", key, &error),
        };
        // Clients show no certificate. Who replicates has to, which the route of replication checks.
        let as_client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .allow_unauthenticated()
            .build()
            .map_err(|error| of_ca(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| of_ca(&error))?
            .with_client_cert_verifier(as_client.clone())
            .with_single_cert(chain.clone(), private.clone_key())
            .map_err(pair)?;
        // A session that is resumed would not have its certificate checked again.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        server.alpn_protocols = [HTTP2, HTTP1].map(<[u8]>::to_vec).to_vec();
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| of_ca(&error))?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), private)
            .map_err(pair)?;
        Ok(Self { server: Arc::new(server), client: Arc::new(client), chain, roots, as_client, provider })
    }

    /// Checks the certificate as other nodes do now.
    ///
    /// # Errors
    /// Why they would refuse it.
    pub(super) fn check(&self, files: &TlsFiles) -> Result<(), TlsError> {
        let unusable = |reason: String| TlsError::Unusable { certificate: files.certificate.clone(), reason };
        let ca = files.ca.display();
        let (first, others) = self.chain.split_first().ok_or_else(|| unusable("is missing".to_owned()))?;
        let now = UnixTime::now();
        let algorithms = self.provider.signature_verification_algorithms.all;
        let as_server = ParsedCertificate::try_from(first)
            .and_then(|first| verify_server_cert_signed_by_trust_anchor(&first, &self.roots, others, now, algorithms));
        let as_client = self.as_client.verify_client_cert(first, others, now);
        let refused = as_server.err().map(|error| ("server", error));
        let refused = refused.or_else(|| as_client.err().map(|error| ("client", error)));
        let Some((role, error)) = refused else { return Ok(()) };
        Err(unusable(match error {
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
                "has expired".to_owned()
            }
            Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                "is not valid yet".to_owned()
            }
            Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
                format!("is not of the CA in TLS_CA_FILE {ca}")
            }
            Error::InvalidCertificate(
                CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
            ) => format!("may not be used by a {role}: nodes need both uses"),
            error => format!("is refused by a {role}: {error}"),
        }))
    }
}

/// The cryptography of all sessions.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn invalid(setting: &'static str, path: &Path, error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Invalid { setting, path: path.to_owned(), reason: error.to_string() }
}

/// The certificates of a file.
fn certificates(setting: &'static str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(TlsError::Missing { setting, path: path.to_owned(), what: "certificate" }),
        Err(error) => Err(invalid(setting, path, &error)),
    }
}

pub(super) fn roots(setting: &'static str, path: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(setting, path, pem)? {
        roots.add(certificate).map_err(|error| invalid(setting, path, &error))?;
    }
    Ok(roots)
}
