//! What a client shows to the nodes of a cluster.

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use kv_node::tokens::Tokens;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The token of administrators, as options of a command line.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AdministratorArguments {
    /// Bearer token for changing settings, backup and restore, where the cluster asks for one
    #[arg(long, env = "AUTH_TOKEN", hide_env_values = true, value_name = "TOKEN", help_heading = "Cluster")]
    pub auth_token: Option<String>,

    /// File of such tokens, one in a line, in place of --auth-token: the first is shown
    #[arg(long, env = "AUTH_TOKEN_FILE", value_name = "FILE", conflicts_with = "auth_token", help_heading = "Cluster")]
    pub auth_token_file: Option<PathBuf>,
}

/// The token of clients, as options of a command line.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ClientArguments {
    /// Bearer token of a client, for writes and reads, where the cluster asks for one
    #[arg(long, env = "CLIENT_TOKEN", hide_env_values = true, value_name = "TOKEN", help_heading = "Cluster")]
    pub client_token: Option<String>,

    /// File of such tokens, one in a line, in place of --client-token: the first is shown
    #[arg(
        long,
        env = "CLIENT_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "client_token",
        help_heading = "Cluster"
    )]
    pub client_token_file: Option<PathBuf>,
}

impl AdministratorArguments {
    /// The token, if there is one.
    ///
    /// # Errors
    /// When the file has none.
    pub(crate) fn token(&self) -> Result<Option<String>> {
        token("--auth-token-file", self.auth_token.as_deref(), self.auth_token_file.as_ref())
    }
}

impl ClientArguments {
    /// The token, if there is one.
    ///
    /// # Errors
    /// When the file has none.
    pub(crate) fn token(&self) -> Result<Option<String>> {
        token("--client-token-file", self.client_token.as_deref(), self.client_token_file.as_ref())
    }
}

/// An empty value is none, as it is for a node: compose files and shells pass such variables through.
fn token(setting: &'static str, given: Option<&str>, file: Option<&PathBuf>) -> Result<Option<String>> {
    match file.filter(|path| !path.as_os_str().is_empty()) {
        Some(path) => Ok(Tokens::of_file(setting, path.clone())?.to_show().first().map(ToString::to_string)),
        None => Ok(given.filter(|token| !token.is_empty()).map(str::to_owned)),
    }
}

/// What a client shows to the nodes of a cluster. Without tokens, nothing.
#[derive(Clone, Default)]
pub struct Credentials {
    /// For writes and reads.
    pub client_token: Option<String>,
    /// For settings, backup and restore.
    pub auth_token: Option<String>,
}

impl Credentials {
    /// What nodes with these settings ask for.
    ///
    /// # Errors
    /// When a file of tokens has none.
    pub(crate) fn of_nodes(environment: &[(String, String)]) -> Result<Self> {
        let setting = |name: &str| environment.iter().rfind(|(set, _)| set == name).map(|(_, value)| value.as_str());
        let file = |name: &str| setting(name).map(PathBuf::from);
        let client_token = token("CLIENT_TOKEN_FILE", None, file("CLIENT_TOKEN_FILE").as_ref())?;
        let auth_token = token("AUTH_TOKEN_FILE", setting("AUTH_TOKEN"), file("AUTH_TOKEN_FILE").as_ref())?;
        Ok(Self { client_token, auth_token })
    }

    /// An HTTP client that keeps one connection for each of `connections` concurrent requests, and shows the client's token
    /// with each.
    ///
    /// # Errors
    /// When the token cannot be sent in a header.
    pub fn http(&self, connections: usize) -> Result<reqwest::Client> {
        self.builder()?.pool_max_idle_per_host(connections).build().context("failed to build the HTTP client")
    }

    /// The same, to be adapted.
    ///
    /// # Errors
    /// When the token cannot be sent in a header.
    pub(crate) fn builder(&self) -> Result<reqwest::ClientBuilder> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.client_token {
            let value = HeaderValue::try_from(format!("Bearer {token}"));
            let mut value =
                value.context("failed to show the client's token: it has characters that no header may have")?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        Ok(reqwest::Client::builder().no_proxy().default_headers(headers).connect_timeout(CONNECT_TIMEOUT))
    }
}

/// Without the secrets.
impl fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_token, auth_token } = self;
        formatter
            .debug_struct("Credentials")
            .field("client_token", &client_token.is_some())
            .field("auth_token", &auth_token.is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_token_of_a_file_is_shown_and_an_empty_value_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("tokens");
        fs::write(&path, "# of Monday\nnew\nold\n").expect("written");
        let arguments = ClientArguments { client_token_file: Some(path.clone()), ..ClientArguments::default() };
        assert_eq!(arguments.token().expect("tokens").as_deref(), Some("new"));
        let empty = ClientArguments { client_token: Some(String::new()), client_token_file: Some(PathBuf::new()) };
        assert_eq!(empty.token().expect("nothing"), None);
        fs::write(&path, "two words\n").expect("written");
        let error = arguments.token().expect_err("no token").to_string();
        assert!(
            error.starts_with("--client-token-file ") && error.contains("has a line 1 that is no token"),
            "{error}"
        );
    }

    #[test]
    fn a_token_that_no_header_may_have_is_refused_and_none_is_printed() {
        let credentials = Credentials { client_token: Some("a\nb".to_owned()), auth_token: Some("secret".to_owned()) };
        let error = credentials.http(1).expect_err("a line break").to_string();
        assert!(error.contains("characters that no header may have") && !error.contains('\n'), "{error}");
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
