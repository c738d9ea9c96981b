//! A request as a span of its trace (OpenTelemetry's semantic conventions for HTTP servers), and as a figure.

use std::time::Instant;

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, Response, StatusCode},
};
use bus::trace;
use schemas::TraceContext;
use tracing::{Span, field::Empty};

use crate::{api::edge::Served, metrics::Metrics};

/// A request under way.
pub struct Story {
    method: &'static str,
    began: Instant,
    /// What the request belongs to.
    pub span: Span,
}

impl Story {
    pub fn begin(request: &Request<Body>) -> Self {
        let method = known(request.method());
        let span = tracing::info_span!(
            target: trace::TARGET,
            "http",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = Empty,
            http.request.method = method,
            http.route = Empty,
            http.response.status_code = Empty,
            // The path alone: queries can carry what no trace may.
            url.path = request.uri().path(),
        );
        if let Some(parent) = traceparent(request.headers()) {
            trace::set_parent(&span, &parent);
        }
        Self { method, began: Instant::now(), span }
    }

    pub fn end(self, response: &Response<Body>, metrics: &Metrics) {
        let route = response.extensions().get::<Served>().map(|served| served.0);
        let status = response.status();
        if let Some(route) = route {
            trace::rename(&self.span, format!("{} {route}", self.method));
            self.span.record("http.route", route);
        }
        self.span.record("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            self.span.record("otel.status_code", "ERROR");
        }
        // A socket's upgrade has figures of its own.
        if status != StatusCode::SWITCHING_PROTOCOLS {
            metrics.http_request(self.method, route.unwrap_or("none"), status.as_u16(), self.began.elapsed());
        }
    }
}

/// What the client says it belongs to.
pub fn traceparent(headers: &HeaderMap) -> Option<TraceContext> {
    TraceContext::parse(headers.get("traceparent")?.to_str().ok()?)
}

/// A label from a short list: methods are the client's words.
pub fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "_OTHER",
    }
}
