//! Checks the head of every request before a handler sees it.
//!
//! - A web browser sends requests in the name of any page that its user visits. The `Origin` header
//!   names that page. The node serves its own origin and the named ones, and refuses all others.
//! - Images and links of a page cause a GET without `Origin`. `Sec-Fetch-Site` shows that they are of another page.
//! - A page can point its own host name at this node (DNS rebinding), and is then of the same origin.
//!   A node that knows its names refuses requests for other names.
//! - A head with more than one meaning is refused, since a proxy may have read the other one.

use std::future::Future;
use std::net::IpAddr;

use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HOST,
    IF_MATCH, IF_NONE_MATCH, ORIGIN, TRANSFER_ENCODING, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use http_body_util::{Either, Full};
use hyper::Request;
use kvcluster_api::config::ConfigError;

use super::answer::Answer;
use super::error::ApiError;

/// Headers that a request may have once: handlers read only the first of several.
const SINGLE: [HeaderName; 7] =
    [HOST, ORIGIN, AUTHORIZATION, IF_MATCH, IF_NONE_MATCH, HeaderName::from_static("idempotency-key"), SEC_FETCH_SITE];

/// Whether the page that causes the request is of another origin, in the words of the browser.
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether the browser shows the answer in place of the page.
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");

/// Maximum characters of a header that an error repeats.
const SHOWN_CHARS: usize = 100;

/// The origins and the names that a node serves.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    origins: Vec<String>,
    hosts: Vec<String>,
}

impl Gate {
    /// `origins` are the comma-separated origins of pages that may use the node, such as
    /// `https://app.example`. `hosts` are the comma-separated names of the node, without ports; if
    /// it is empty, the node answers to every name.
    ///
    /// # Errors
    /// [`ConfigError`] with one line that names the setting and the value.
    pub fn new(origins: &str, hosts: &str) -> Result<Self, ConfigError> {
        let origins = entries(origins).map(origin).collect::<Result<_, _>>()?;
        let hosts = entries(hosts).map(host_name).collect::<Result<_, _>>()?;
        Ok(Self { origins, hosts })
    }

    /// Passes a request to `handle`, or refuses it. The answer permits a page of a named origin to
    /// read it.
    pub(super) async fn pass<B, F: Future<Output = Answer>>(
        &self,
        request: Request<B>,
        handle: impl FnOnce(Request<B>) -> F,
    ) -> Answer {
        let named = match self.check(&request) {
            Ok(named) => named,
            Err(error) => return error.into(),
        };
        let Some(origin) = named else {
            return handle(request).await;
        };
        let is_preflight =
            request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        let mut answer = if is_preflight { preflight() } else { handle(request).await };
        let headers = answer.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("Allow, ETag, Location, Retry-After"));
        headers.append(VARY, HeaderValue::from_static("Origin"));
        answer
    }

    /// The origin of the request if it is a named one. Most requests pass after three lookups and
    /// without an allocation.
    fn check<B>(&self, request: &Request<B>) -> Result<Option<HeaderValue>, ApiError> {
        let (uri, headers) = (request.uri(), request.headers());
        if headers.len() > headers.keys_len() {
            check_single(headers)?;
        }
        if headers.contains_key(TRANSFER_ENCODING) {
            check_transfer_encoding(headers)?;
        }
        if let Some(query) = uri.query() {
            check_query(query)?;
        }
        if !self.hosts.is_empty() {
            self.check_host(uri, headers)?;
        }
        match headers.get(ORIGIN) {
            Some(origin) => self.check_origin(origin, uri, headers),
            None => check_fetch_site(request).map(|()| None),
        }
    }

    fn check_host(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        // No browser omits `Host`.
        let Some(authority) = authority(uri, headers) else {
            return Ok(());
        };
        let host = without_port(authority).trim_end_matches('.');
        // A page has a name in DNS to rebind. An address cannot be rebound, and a browser resolves
        // `localhost` itself.
        let is_safe = host.eq_ignore_ascii_case("localhost") || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
        if is_safe || self.hosts.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return Ok(());
        }
        let message = format!("this node does not serve the host {}: HOST_NAMES does not list it", shorten(host));
        Err(ApiError::early(StatusCode::MISDIRECTED_REQUEST, message))
    }

    fn check_origin(
        &self,
        origin: &HeaderValue,
        uri: &Uri,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let text = String::from_utf8_lossy(origin.as_bytes());
        if self.origins.iter().any(|named| named.eq_ignore_ascii_case(&text)) {
            return Ok(Some(origin.clone()));
        }
        let own = authority(uri, headers);
        let page = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        if page.zip(own).is_some_and(|(page, own)| page.eq_ignore_ascii_case(own)) {
            return Ok(None);
        }
        let message =
            format!("pages of the origin {} may not use this node: ALLOWED_ORIGINS does not list it", shorten(&text));
        Err(ApiError::early(StatusCode::FORBIDDEN, message))
    }
}

/// The host and port that a request names: those of an absolute URL, otherwise `Host`.
fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let host = || headers.get(HOST).and_then(|host| host.to_str().ok());
    uri.authority().map(|authority| authority.as_str()).or_else(host)
}

fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    }
}

fn shorten(text: &str) -> String {
    text.chars().take(SHOWN_CHARS).collect()
}

fn check_single(headers: &HeaderMap) -> Result<(), ApiError> {
    match SINGLE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        Some(name) => {
            Err(ApiError::early(StatusCode::BAD_REQUEST, format!("the header {name} appears more than once")))
        }
        None => Ok(()),
    }
}

/// Refuses what another page causes without an `Origin`: a GET by an image or a link, which could start a backup. A
/// browser sends `Origin` with every other method. A link to the page of the node stays usable.
fn check_fetch_site<B>(request: &Request<B>) -> Result<(), ApiError> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Ok(());
    }
    let value = |name| request.headers().get(name).map(HeaderValue::as_bytes);
    let Some(site @ (b"cross-site" | b"same-site")) = value(SEC_FETCH_SITE) else { return Ok(()) };
    if request.uri().path() == "/" && value(SEC_FETCH_MODE) == Some(b"navigate") {
        return Ok(());
    }
    let site = String::from_utf8_lossy(site);
    let message = format!("pages of other origins may not use this node, and Sec-Fetch-Site is {site}");
    Err(ApiError::early(StatusCode::FORBIDDEN, message))
}

/// Hyper decodes `chunked` and passes on the rest, which a handler would take for the body.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let is_chunked = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    if values.next().is_some_and(is_chunked) && values.next().is_none() {
        return Ok(());
    }
    Err(ApiError::early(StatusCode::NOT_IMPLEMENTED, "the only transfer encoding that this node decodes is chunked"))
}

/// Refuses escapes that the parser of queries would leave as they are, and bytes that it would
/// replace.
fn check_query(query: &str) -> Result<(), ApiError> {
    if !query.contains('%') {
        return Ok(());
    }
    let bad = |message: String| Err(ApiError::early(StatusCode::BAD_REQUEST, message));
    let mut bytes = Vec::with_capacity(query.len());
    let mut rest = query.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| char::from(byte).to_digit(16));
        let digits = (digit(rest.next()), digit(rest.next()));
        let (Some(high), Some(low)) = digits else {
            return bad("the query has a % that two hexadecimal digits do not follow".to_owned());
        };
        bytes.push((high * 16 + low) as u8);
    }
    match std::str::from_utf8(&bytes) {
        Ok(_) => Ok(()),
        Err(error) => {
            let byte = bytes.get(error.valid_up_to()).copied().unwrap_or_default();
            bad(format!("the query is not UTF-8: %{byte:02X} begins no character"))
        }
    }
}

/// The answer to a browser that asks whether a page of a named origin may send a request.
fn preflight() -> Answer {
    let mut answer = hyper::Response::new(Either::Left(Full::default()));
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, POST, PATCH"));
    let allowed = "Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match";
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

fn entries(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

/// An origin as browsers write it: without a default port and a slash at the end.
fn origin(entry: &str) -> Result<String, ConfigError> {
    let fail = |reason: &str| {
        Err(ConfigError(format!("ALLOWED_ORIGINS names \"{entry}\", which {reason}: expected https://HOST[:PORT]")))
    };
    let Ok(uri) = entry.parse::<Uri>() else {
        return fail("is not a URL");
    };
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return fail("has no scheme or no host");
    };
    let default_port = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return fail("is neither http nor https"),
    };
    if uri.path_and_query().is_some_and(|path| path.as_str() != "/") {
        return fail("has a path or a query");
    }
    if authority.as_str().contains('@') {
        return fail("has a user");
    }
    Ok(match uri.port_u16() {
        Some(port) if port != default_port => format!("{scheme}://{}:{port}", authority.host()),
        _ => format!("{scheme}://{}", authority.host()),
    })
}

fn host_name(entry: &str) -> Result<String, ConfigError> {
    if entry.contains(|c: char| !c.is_ascii_alphanumeric() && !"-._".contains(c)) {
        return Err(ConfigError(format!("HOST_NAMES names \"{entry}\": expected a host name without scheme and port")));
    }
    Ok(entry.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    //! Goal: the settings are taken as browsers write them, and others are refused in words.
    //! bench/tests/cluster/bad_requests.rs sends requests to real nodes.

    use super::*;

    #[test]
    fn settings_are_normalised_or_refused() {
        let gate =
            Gate::new(" https://app.example:443/, http://localhost:3000 ,", "kv.example., kv-leader").expect("valid");
        assert_eq!(gate.origins, ["https://app.example", "http://localhost:3000"]);
        assert_eq!(gate.hosts, ["kv.example", "kv-leader"]);
        let table = [
            ("*", "", "has no scheme or no host"),
            ("null", "", "has no scheme or no host"),
            ("ftp://a", "", "is neither http nor https"),
            ("https://a/path", "", "has a path or a query"),
            ("https://user@a", "", "has a user"),
            ("https://", "", "is not a URL"),
            ("", "http://kv.example", "expected a host name"),
            ("", "kv.example:8000", "expected a host name"),
        ];
        for (origins, hosts, expected) in table {
            let error = Gate::new(origins, hosts).expect_err(expected).0;
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn a_port_is_not_part_of_a_name() {
        let table = [("kv:8000", "kv"), ("kv", "kv"), ("[::1]:8000", "[::1]"), ("[::1]", "[::1]")];
        for (authority, host) in table {
            assert_eq!(without_port(authority), host);
        }
    }
}
