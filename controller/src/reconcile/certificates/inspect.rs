//! What nodes and clients will say of a certificate: by the checks of the library that they use.

use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use rcgen::{KeyPair, PublicKeyData};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys, RootCertStore};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

const BEGIN: &str = "-----BEGIN CERTIFICATE-----";

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: Timestamp,
    pub(super) not_after: Timestamp,
}

/// Why a certificate is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// One word.
    pub(super) reason: &'static str,
    /// A part of a sentence, without its consequences.
    pub(super) message: String,
}

fn problem(reason: &'static str, message: impl Into<String>) -> Problem {
    Problem { reason, message: message.into() }
}

/// Checks a certificate as nodes and clients do now, who connect by these names. All in PEM.
///
/// # Errors
/// Why they would refuse it.
pub(super) fn inspect(
    certificate: &[u8],
    key: &[u8],
    ca: &[u8],
    names: &[String],
    now: Timestamp,
) -> Result<Validity, Problem> {
    let malformed = |part: &str, why: &dyn std::fmt::Display| problem("Malformed", format!("{part} {why}"));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| malformed("tls.crt is not PEM:", &error))?;
    let (first, others) = chain.split_first().ok_or_else(|| malformed("tls.crt", &"has no certificate in PEM"))?;
    let private = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| malformed("tls.key", &"has no private key in PEM, or an encrypted one"))?;
    let roots = Arc::new(authorities(ca)?);
    let provider = Arc::new(ring::default_provider());
    match CertifiedKey::from_der(chain.clone(), private, &provider) {
        Ok(_) => {}
        Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            return Err(problem("KeyMismatch", "tls.key is not the key of the certificate in tls.crt"));
        }
        Err(error) => return Err(malformed("tls.key cannot be used:", &error)),
    }
    let validity = of_der(first).ok_or_else(|| malformed("tls.crt", &"is not a certificate of X.509"))?;
    let parsed = ParsedCertificate::try_from(first).map_err(|error| malformed("tls.crt cannot be used:", &error))?;
    check_use(&parsed, first, others, &roots, &provider, now).map_err(|error| refused(error, &validity))?;
    for name in names {
        let as_name = ServerName::try_from(name.as_str()).map_err(|error| malformed(name, &error))?;
        if verify_server_name(&parsed, &as_name).is_err() {
            return Err(problem("NameMissing", format!("the certificate does not name {name}")));
        }
    }
    Ok(validity)
}

/// Nodes are servers to all and clients of each other.
fn check_use(
    parsed: &ParsedCertificate<'_>,
    first: &CertificateDer<'_>,
    others: &[CertificateDer<'_>],
    roots: &Arc<RootCertStore>,
    provider: &Arc<CryptoProvider>,
    now: Timestamp,
) -> Result<(), Error> {
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let algorithms = provider.signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(parsed, roots, others, now, algorithms)?;
    let as_client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build();
    let as_client = as_client.map_err(|error| Error::General(error.to_string()))?;
    as_client.verify_client_cert(first, others, now).map(drop)
}

fn refused(error: Error, validity: &Validity) -> Problem {
    let Validity { not_before, not_after } = validity;
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            problem("Expired", format!("the certificate expired at {not_after}"))
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            problem("NotValidYet", format!("the certificate is not valid before {not_before}"))
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            problem("UnknownIssuer", "the certificate is not of a CA in ca.crt")
        }
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => problem("WrongUsage", "the certificate is not for servers and clients: nodes need both usages"),
        error => problem("Refused", format!("the certificate is refused: {error}")),
    }
}

/// The CAs in a file.
///
/// # Errors
/// When it has none, or what is no certificate.
pub(super) fn authorities(pem: &[u8]) -> Result<RootCertStore, Problem> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| problem("Malformed", format!("ca.crt is not PEM: {error}")))?;
        roots.add(certificate).map_err(|error| problem("Malformed", format!("ca.crt cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(problem("Malformed", "ca.crt has no certificate in PEM"));
    }
    Ok(roots)
}

/// From when to when the first certificate of a file is valid.
pub(super) fn validity(pem: &str) -> Option<Validity> {
    of_der(&CertificateDer::from_pem_slice(pem.as_bytes()).ok()?)
}

fn of_der(certificate: &CertificateDer<'_>) -> Option<Validity> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
    Some(Validity { not_before: at(parsed.validity().not_before)?, not_after: at(parsed.validity().not_after)? })
}

/// Whether a certificate has these names and no others.
pub(super) fn has_names(pem: &str, names: &[String]) -> bool {
    let found = || -> Option<Vec<String>> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        let alternatives = parsed.subject_alternative_name().ok()??;
        Some(alternatives.value.general_names.iter().map(text_of).collect())
    };
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    found().map(sorted) == Some(sorted(names.to_vec()))
}

fn text_of(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress(bytes) => match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
            (Ok(four), _) => std::net::IpAddr::from(four).to_string(),
            (_, Ok(sixteen)) => std::net::IpAddr::from(sixteen).to_string(),
            _ => String::new(),
        },
        _ => String::new(),
    }
}

/// Whether a certificate is one of a CA, and this its key.
pub(super) fn is_authority_of(pem: &str, key: &KeyPair) -> bool {
    let found = || -> Option<bool> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let (_, parsed) = X509Certificate::from_der(&certificate).ok()?;
        Some(parsed.is_ca() && parsed.public_key().raw == key.subject_public_key_info())
    };
    found().unwrap_or(false)
}

/// The certificates of a file, each as PEM.
pub(super) fn blocks(pem: &str) -> impl Iterator<Item = String> + '_ {
    pem.split(BEGIN).skip(1).map(|rest| format!("{BEGIN}{}\n", rest.trim_end()))
}
