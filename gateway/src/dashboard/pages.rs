//! The pages: a login at `/`, the dashboard at `/bullboard`, and the files of both. Built in, and checked by browsers with
//! an ETag. No script and no style but these files, in nobody's frame.

use std::sync::LazyLock;

use axum::{
    Router,
    extract::{Path, State},
    http::{
        Extensions, HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, SET_COOKIE},
    },
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use sha2::{Digest as _, Sha256};

use super::entry::{enter, exchange};
use crate::{
    App,
    api::{
        ApiError,
        body::Query,
        client::{Peer, is_secure},
        edge::Served,
    },
};

/// What the pages may load and talk to: this server, and nothing written into them.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the pages.
struct File {
    name: &'static str,
    kind: &'static str,
    body: &'static [u8],
    /// Its digest, in quotes.
    tag: HeaderValue,
}

macro_rules! file {
    ($name:literal, $kind:expr) => {
        File::new($name, $kind, include_bytes!(concat!("../../console/", $name)))
    };
}

static LOGIN: LazyLock<File> = LazyLock::new(|| file!("login.html", HTML));
static DASHBOARD: LazyLock<File> = LazyLock::new(|| file!("dashboard.html", HTML));
static REFUSED: LazyLock<File> = LazyLock::new(|| file!("refused.html", HTML));

/// What they load.
static FILES: LazyLock<[File; 4]> = LazyLock::new(|| {
    [
        file!("login.js", SCRIPT),
        file!("dashboard.js", SCRIPT),
        file!("style.css", "text/css; charset=utf-8"),
        file!("icon.svg", "image/svg+xml"),
    ]
});

impl File {
    fn new(name: &'static str, kind: &'static str, body: &'static [u8]) -> Self {
        let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let tag = HeaderValue::from_str(&format!("\"{}\"", &digest[..32])).unwrap_or(HeaderValue::from_static("\"\""));
        Self { name, kind, body, tag }
    }

    /// The file, unless the browser has it.
    fn answer(&self, headers: &HeaderMap) -> Response {
        let has_it = headers
            .get_all(IF_NONE_MATCH)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|tag| tag.trim().trim_start_matches("W/").as_bytes() == self.tag.as_bytes());
        let mut response = if has_it { StatusCode::NOT_MODIFIED.into_response() } else { self.whole() };
        let headers = response.headers_mut();
        headers.insert(ETAG, self.tag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        // On a 304 too: a browser puts its headers in the place of those that it has.
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }

    fn whole(&self) -> Response {
        let mut response = self.body.into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        response
    }
}

/// The pages' routes. They are no part of the API, so its table does not have them.
pub fn router() -> Router<App> {
    Router::new()
        .route("/", get(login).fallback(async || ApiError::NotFound("Route not found")))
        .route("/bullboard", get(dashboard))
        .route("/bullboard/", get(dashboard))
        .route("/console/{file}", get(file))
}

/// An agent whose server's address ends in a query asks here for everything, with its path behind that query. It is told
/// what every path that is none is told, and not a page.
async fn login(uri: Uri, headers: HeaderMap) -> Response {
    let response = match uri.query() {
        Some(query) if query.contains("/api/") => ApiError::NotFound("Route not found").into_response(),
        _ => LOGIN.answer(&headers),
    };
    served("/", response)
}

async fn file(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let found = FILES.iter().find(|file| file.name == name);
    let response = match found {
        Some(file) => file.answer(&headers),
        None => ApiError::NotFound("Route not found").into_response(),
    };
    served("/console/{file}", response)
}

async fn dashboard(
    State(app): State<App>,
    method: Method,
    uri: Uri,
    extensions: Extensions,
    headers: HeaderMap,
    query: Query,
) -> Response {
    let shown = match show(&app, &method, &extensions, &headers, query).await {
        Ok(response) => response,
        Err(ApiError::Unauthorized { .. }) if wants_a_page(&headers) => {
            (StatusCode::UNAUTHORIZED, REFUSED.whole()).into_response()
        }
        Err(error) => error.into_response(),
    };
    // Without its query: a ticket must not be logged.
    tracing::debug!(path = uri.path(), status = shown.status().as_u16(), "the dashboard's page");
    served("/bullboard", shown)
}

async fn show(
    app: &App,
    method: &Method,
    extensions: &Extensions,
    headers: &HeaderMap,
    mut query: Query,
) -> Result<Response, ApiError> {
    // A look at the headers alone must not use a ticket up.
    if let Some(ticket) = query.text("ticket").filter(|_| method == Method::GET) {
        let secure = is_secure(&app.settings, &Peer::of(extensions), headers);
        let cookie = exchange(app, &ticket, secure).await?;
        let value = HeaderValue::from_str(&cookie.to_string()).map_err(|e| ApiError::Internal(e.to_string()))?;
        // Away from the address that holds the ticket.
        return Ok(([(SET_COOKIE, value)], Redirect::to("/bullboard")).into_response());
    }
    enter(app, headers, true).await?;
    let mut response = DASHBOARD.whole();
    // Not from a cache: without a session there is none.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn wants_a_page(headers: &HeaderMap) -> bool {
    headers.get(ACCEPT).and_then(|value| value.to_str().ok()).is_some_and(|accept| accept.contains("text/html"))
}

fn served(route: &'static str, mut response: Response) -> Response {
    response.extensions_mut().insert(Served(route));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(file: &File) -> &'static str {
        std::str::from_utf8(file.body).unwrap()
    }

    #[test]
    fn the_pages_load_only_files_there_are_and_have_nothing_written_in() {
        for page in [&LOGIN, &DASHBOARD, &REFUSED] {
            let html = text(page);
            for attribute in ["src=\"", "href=\""] {
                for address in html.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()) {
                    let there = address == "/"
                        || address.starts_with('#')
                        || FILES.iter().any(|file| address == format!("/console/{}", file.name));
                    assert!(there, "{}: {address}", page.name);
                }
            }
            assert!(html.contains("<html lang=\"en\">") && html.contains("<title>"), "{}", page.name);
            assert_eq!(html.matches("<script").count(), html.matches("<script src=").count(), "{}", page.name);
            for refused in ["<style", " style=", " onclick=", " onload=", " onsubmit=", "javascript:"] {
                assert!(!html.contains(refused), "{}: {refused}", page.name);
            }
        }
    }

    #[test]
    fn a_browser_that_has_a_file_is_told_so() {
        let file = &FILES[0];
        let with = |value: Option<HeaderValue>| {
            let mut headers = HeaderMap::new();
            headers.extend(value.map(|value| (IF_NONE_MATCH, value)));
            let response = file.answer(&headers);
            assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY);
            response.status().as_u16()
        };
        assert_eq!(with(None), 200);
        assert_eq!(with(Some(HeaderValue::from_static("\"another\""))), 200);
        assert_eq!(with(Some(file.tag.clone())), 304);
        let listed = format!("\"another\", W/{}", file.tag.to_str().unwrap());
        assert_eq!(with(Some(HeaderValue::from_str(&listed).unwrap())), 304);
    }
}
