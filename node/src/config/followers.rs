//! `FOLLOWERS`: how a leader finds its followers.

use reqwest::Url;

use super::{ConfigError, fail};

/// How a leader finds its followers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followers {
    /// By URL. The URL identifies the follower.
    Urls(Vec<String>),
    /// By every address of a DNS name. The name that a follower reports identifies it.
    Dns {
        /// The name.
        host: String,
        /// The port of every follower.
        port: u16,
    },
}

/// Parses `FOLLOWERS`.
///
/// # Errors
/// [`ConfigError`] that names the invalid part.
pub fn parse_followers(text: &str) -> Result<Followers, ConfigError> {
    if let Some(service) = text.trim().strip_prefix("dns://") {
        let Some((host, port)) = service.trim_end_matches('/').rsplit_once(':') else {
            return fail(format!("FOLLOWERS={text} has no port: expected dns://SERVICE:PORT"));
        };
        return match port.parse() {
            Ok(port) if port > 0 && !host.is_empty() => Ok(Followers::Dns { host: host.to_owned(), port }),
            _ => fail(format!("FOLLOWERS={text} is not dns://SERVICE:PORT (port {port:?}, service {host:?})")),
        };
    }
    let mut urls: Vec<String> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let url = part.trim_end_matches('/');
        let is_served = |url: &Url| matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
        let Some(parsed) = Url::parse(url).ok().filter(is_served) else {
            return fail(format!("FOLLOWERS names {part:?}, which is not an http:// or https:// URL"));
        };
        if let Some(surplus) = surplus(&parsed) {
            return fail(format!("FOLLOWERS names {part:?}, which has a {surplus}: expected http://HOST:PORT"));
        }
        if urls.iter().any(|known| known == url) {
            return fail(format!("FOLLOWERS names {url} twice: one follower cannot confirm a write twice"));
        }
        urls.push(url.to_owned());
    }
    if urls.is_empty() {
        return fail(
            "FOLLOWERS is empty: a leader needs at least one follower (URLs, or dns://SERVICE:PORT)".to_owned(),
        );
    }
    Ok(Followers::Urls(urls))
}

impl Followers {
    /// Every port of a cluster speaks TLS, or none does.
    pub(super) fn check_scheme(&self, is_tls: bool) -> Result<(), ConfigError> {
        let Self::Urls(urls) = self else { return Ok(()) };
        let (wanted, why) =
            if is_tls { ("https://", "TLS_CERT_FILE is set") } else { ("http://", "TLS_CERT_FILE is not set") };
        match urls.iter().find(|url| !url.starts_with(wanted)) {
            Some(url) => fail(format!("FOLLOWERS names {url}, but {why}: expected {wanted}HOST:PORT")),
            None => Ok(()),
        }
    }
}

/// The name of the follower with this URL. It is the same with and without TLS, since a cluster that begins to use TLS
/// has the same followers.
pub(crate) fn name_of(url: &str) -> String {
    url.strip_prefix("https://").map_or_else(|| url.to_owned(), |rest| format!("http://{rest}"))
}

/// The part of a URL that a leader would ignore.
fn surplus(url: &Url) -> Option<&'static str> {
    if !url.username().is_empty() || url.password().is_some() {
        Some("user")
    } else if url.path() != "/" {
        Some("path")
    } else if url.query().is_some() {
        Some("query")
    } else if url.fragment().is_some() {
        Some("fragment")
    } else {
        None
    }
}
