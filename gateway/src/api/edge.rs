//! Around every request of the API: its id, its trace, its headers, and what the log says of it.

use std::time::Instant;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};
use schemas::TraceContext;
use tracing::Instrument as _;
use uuid::Uuid;

use super::client::{Peer, is_secure};
use crate::{
    App,
    server::{known, traceparent},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id that is taken over from the client.
const REQUEST_ID_MAX: usize = 128;

/// The trace that the request belongs to, in its extensions.
#[derive(Debug, Clone)]
pub struct Trace(pub Option<TraceContext>);

/// The pattern of the route that answered, in the answer's extensions.
#[derive(Debug, Clone, Copy)]
pub struct Served(pub &'static str);

/// An answer is never a page, never in a frame, never kept, and its type is never guessed.
const HEADERS: [(HeaderName, &str); 5] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::CACHE_CONTROL, "no-store"),
];

/// The outermost layer of the API.
pub async fn edge(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let method = known(request.method());
    let id = request_id(request.headers());
    let secure = is_secure(&app.settings, &Peer::of(request.extensions()), request.headers());
    // What is made for this request belongs to its span; without one, to the client's.
    let trace = bus::trace::current().or_else(|| traceparent(request.headers()));
    request.extensions_mut().insert(Trace(trace));
    // The path alone: queries can carry what no log may.
    let path = request.uri().path();
    let span = tracing::info_span!("request", method, path, request_id = id.to_str().unwrap_or_default());
    let mut response = async {
        let response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), took_ms = began.elapsed().as_millis(), "answered");
        response
    }
    .instrument(span)
    .await;
    let headers = response.headers_mut();
    harden(headers);
    if secure {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    headers.insert(REQUEST_ID, id);
    response
}

/// Adds the headers that every answer has, whoever asked: a browser can send what only agents are meant to.
pub fn harden(headers: &mut HeaderMap) {
    for (name, value) in HEADERS {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}

/// The client's id where it is one, else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        let bytes = value.as_bytes();
        (1..=REQUEST_ID_MAX).contains(&bytes.len())
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    };
    headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        let id = Uuid::new_v4().to_string();
        HeaderValue::from_str(&id).unwrap_or_else(|_| unreachable!("a UUID is ASCII"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_taken_over_only_when_it_is_sane() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, value.parse().unwrap());
            request_id(&headers)
        };
        assert_eq!(with("abc-1.2_X"), "abc-1.2_X");
        for odd in ["", "a b", "a\"b", "x;y", &"x".repeat(129)] {
            assert_eq!(with(odd).len(), 36, "{odd:?}");
        }
    }
}
