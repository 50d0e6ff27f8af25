//! Authorities and certificates for tests.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// An authority that signs certificates, and its file.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate.
    pub(crate) file: PathBuf,
    directory: PathBuf,
}

/// What is to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// For both ends of a connection, valid.
    Node,
    /// The same, of long ago.
    Expired,
    /// The same, of a time to come.
    Early,
    /// For servers alone.
    Server,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(directory: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let file = directory.join(format!("{name}.pem"));
        fs::write(&file, issuer.pem()).expect("written");
        Self { issuer, file, directory: directory.to_owned() }
    }

    /// A certificate for this machine, in files of this name.
    pub(crate) fn sign(&self, name: &str, kind: Kind) -> Pair {
        let names = ["localhost", "127.0.0.1"].map(str::to_owned);
        let mut params = CertificateParams::new(names).expect("names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if kind != Kind::Server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        match kind {
            Kind::Expired => params.not_after = date_time_ymd(2020, 1, 1),
            Kind::Early => params.not_before = date_time_ymd(4000, 1, 1),
            Kind::Node | Kind::Server => {}
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        let pair = Pair {
            certificate: self.directory.join(format!("{name}.crt")),
            key: self.directory.join(format!("{name}.key")),
        };
        fs::write(&pair.certificate, certificate.pem()).expect("written");
        fs::write(&pair.key, key.serialize_pem()).expect("written");
        pair
    }
}

impl Pair {
    /// The settings of a node with this certificate.
    pub(crate) fn settings(&self, authority: &Authority) -> Vec<(&'static str, String)> {
        let text = |path: &Path| path.display().to_string();
        vec![
            ("TLS_CERT_FILE", text(&self.certificate)),
            ("TLS_KEY_FILE", text(&self.key)),
            ("TLS_CA_FILE", text(&authority.file)),
        ]
    }

    /// Replaces one file after the other: a reader never sees half of one.
    pub(crate) fn replace_by(&self, other: &Self) {
        for (file, new) in [(&self.key, &other.key), (&self.certificate, &other.certificate)] {
            let copy = file.with_extension("new");
            fs::copy(new, &copy).expect("copied");
            fs::rename(copy, file).expect("renamed");
        }
    }
}
