//! Makes the CA of a cluster, and the certificate of its nodes.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, Error, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use super::{BACKDATED, Pair, inspect};
use crate::reconcile::validate::Validated;

/// A new CA for this cluster.
///
/// # Errors
/// When it cannot be made.
pub(super) fn authority(cluster: &Validated, valid: SignedDuration, now: Timestamp) -> Result<Pair, Error> {
    let mut params = lasting(CertificateParams::default(), valid, now);
    // It signs certificates of nodes, and no other CA.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let name = format!("{}/{}", cluster.namespace, cluster.name);
    params.distinguished_name.push(DnType::OrganizationName, "kvcluster");
    // At most 64 characters, as X.509 has it.
    params.distinguished_name.push(DnType::CommonName, name.chars().take(64).collect::<String>());
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok(Pair { certificate: normal(&certificate.pem()), key: key.serialize_pem() })
}

/// A new certificate of this CA, for servers and clients of these names.
///
/// # Errors
/// When it cannot be made.
pub(super) fn node(authority: &Pair, names: &[String], valid: SignedDuration, now: Timestamp) -> Result<Pair, Error> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(&authority.key)?)?;
    let mut params = lasting(CertificateParams::new(names)?, valid, now);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::OrganizationName, "kvcluster");
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Pair { certificate: normal(&certificate.pem()), key: key.serialize_pem() })
}

/// Whether this is a CA with its key.
pub(super) fn is_authority(pair: &Pair) -> bool {
    let Ok(key) = KeyPair::from_pem(&pair.key) else { return false };
    inspect::is_authority_of(&pair.certificate, &key)
}

fn lasting(mut params: CertificateParams, valid: SignedDuration, now: Timestamp) -> CertificateParams {
    let epoch = date_time_ymd(1970, 1, 1);
    let at =
        |time: Timestamp| epoch + std::time::Duration::from_secs(u64::try_from(time.as_second()).unwrap_or_default());
    params.not_before = at(now - BACKDATED);
    params.not_after = at(now + valid);
    params
}

/// One form of PEM, so that a certificate that was read equals the one that was written.
fn normal(pem: &str) -> String {
    inspect::blocks(&pem.replace('\r', "")).collect()
}
