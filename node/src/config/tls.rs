//! Settings of TLS.

use std::path::PathBuf;

use clap::Args;
use kvcluster_api::config::ConfigError;

use super::fail;
use crate::tls::TlsFiles;

/// The files of a node's certificate. Each is an environment variable and a flag of the same name.
#[derive(Clone, Debug, Default, Args)]
pub struct TlsSettings {
    /// Certificate of this node and those that lead from it to the CA, as PEM: then every port speaks TLS alone
    #[arg(long, env = "TLS_CERT_FILE")]
    pub tls_cert_file: Option<String>,
    /// Private key of that certificate, as PEM
    #[arg(long, env = "TLS_KEY_FILE")]
    pub tls_key_file: Option<String>,
    /// Certificates of the CA of the nodes, as PEM: who replicates has to show a certificate of it
    #[arg(long, env = "TLS_CA_FILE")]
    pub tls_ca_file: Option<String>,
}

impl TlsSettings {
    /// Where the certificate of this node is; `None` where it speaks without TLS.
    ///
    /// # Errors
    /// If some of the files are set and others are not.
    pub fn files(&self) -> Result<Option<TlsFiles>, ConfigError> {
        let file = |path: &Option<String>| path.as_deref().filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = [
            ("TLS_CERT_FILE", file(&self.tls_cert_file)),
            ("TLS_KEY_FILE", file(&self.tls_key_file)),
            ("TLS_CA_FILE", file(&self.tls_ca_file)),
        ];
        let set = named.iter().find_map(|(name, path)| path.as_ref().map(|path| (*name, path.clone())));
        let missing = named.iter().find_map(|(name, path)| path.is_none().then_some(*name));
        if let (Some((set, path)), Some(missing)) = (set, missing) {
            let path = path.display();
            return fail(format!(
                "{set} ({path}) is set without {missing}: TLS needs a certificate, its key and the CA"
            ));
        }
        let [(_, certificate), (_, key), (_, ca)] = named;
        Ok(certificate.zip(key).zip(ca).map(|((certificate, key), ca)| TlsFiles { certificate, key, ca }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_files_is_refused_with_the_name_of_the_missing_one() {
        let path = |name: &str| Some(name.to_owned());
        for (certificate, key, ca, error) in [
            (path("c"), None, None, "TLS_CERT_FILE (c) is set without TLS_KEY_FILE"),
            (path("c"), path("k"), path(""), "TLS_CERT_FILE (c) is set without TLS_CA_FILE"),
            (None, None, path("a"), "TLS_CA_FILE (a) is set without TLS_CERT_FILE"),
        ] {
            let settings = TlsSettings { tls_cert_file: certificate, tls_key_file: key, tls_ca_file: ca };
            let found = settings.files().expect_err(error).0;
            assert!(found.starts_with(error), "{found}");
        }
        assert_eq!(TlsSettings::default().files().expect("nothing is set"), None);
        let empty = TlsSettings { tls_cert_file: path(""), tls_key_file: path(""), tls_ca_file: path("") };
        assert_eq!(empty.files().expect("nothing is set"), None);
    }
}
