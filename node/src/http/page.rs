//! The page at `/` for browsers. The files are part of the program and load nothing from elsewhere.

use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::{FollowerSite, LeaderSite, replica};

const LEADER: &str = include_str!("page/leader.html");

const OTHER: &str = include_str!("page/other.html");

/// The files that the pages load, by name.
const FILES: [(&str, &str); 15] = [
    ("style.css", include_str!("page/style.css")),
    ("main.js", include_str!("page/main.js")),
    ("updates.js", include_str!("page/updates.js")),
    ("theory.js", include_str!("page/theory.js")),
    ("stage.js", include_str!("page/stage.js")),
    ("histogram.js", include_str!("page/histogram.js")),
    ("lessons.js", include_str!("page/lessons.js")),
    ("lesson-list.js", include_str!("page/lesson-list.js")),
    ("replicas.js", include_str!("page/replicas.js")),
    ("keys.js", include_str!("page/keys.js")),
    ("measures.js", include_str!("page/measures.js")),
    ("controls.js", include_str!("page/controls.js")),
    ("draw.js", include_str!("page/draw.js")),
    ("tokens.js", include_str!("page/tokens.js")),
    ("other.js", include_str!("page/other.js")),
];

/// No script, style or connection but the node's own, and no frame around the page: another page
/// could lead its visitor to click here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /` at a leader or a standby. A request that does not accept HTML gets `otherwise`.
pub(super) async fn of_leader(State(state): State<LeaderSite>, request: Request) -> Response {
    let elsewhere = state.leader.leads_elsewhere();
    match (wants_page(&request), elsewhere) {
        (true, None) => page(LEADER),
        (true, Some(_)) => page(OTHER),
        (false, None) => ApiError::no_route(request.uri().path()).into_response(),
        (false, Some(leader)) => ApiError::elsewhere(&leader, request.uri()).into_response(),
    }
}

/// `GET /` at a follower.
pub(super) async fn of_follower(state: State<FollowerSite>, request: Request) -> Response {
    if wants_page(&request) {
        return page(OTHER);
    }
    replica::no_route(state, request.uri().clone()).await.into_response()
}

/// A file that the pages load.
pub(super) async fn file(Path(name): Path<String>, request: Request) -> Response {
    let found = FILES.iter().find(|(known, _)| *known == name);
    match found {
        Some((name, text)) => {
            let media_type =
                if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
            answer(media_type, text)
        }
        None => ApiError::no_route(request.uri().path()).into_response(),
    }
}

/// Whether a browser asks for a page. Programs that name no media type, or any, get JSON.
fn wants_page(request: &Request) -> bool {
    let accepted = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|range| range.split(';').next().is_some_and(|range| range.trim().eq_ignore_ascii_case("text/html")))
}

fn page(text: &'static str) -> Response {
    answer("text/html; charset=utf-8", text)
}

fn answer(media_type: &'static str, text: &'static str) -> Response {
    let fixed = |name: HeaderName, value: &'static str| (name, HeaderValue::from_static(value));
    let headers = [
        fixed(header::CONTENT_TYPE, media_type),
        fixed(header::CONTENT_SECURITY_POLICY, POLICY),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        fixed(header::REFERRER_POLICY, "no-referrer"),
        // Another release of the node has other files under the same names.
        fixed(header::CACHE_CONTROL, "no-cache"),
        fixed(header::VARY, "Accept"),
    ];
    (headers, text).into_response()
}
