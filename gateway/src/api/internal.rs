//! The other listener: for who runs this, not for who uses it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use axum::{
    Json as Answer, Router,
    extract::{ConnectInfo, State},
    http::{Extensions, HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::health::Health;
use super::{client::Peer, error::ApiError};
use crate::metrics::Metrics;

/// What probes look at.
#[derive(Clone)]
pub struct Probes {
    /// Which build this is.
    pub version: &'static str,
    /// How the process is.
    pub health: Arc<Health>,
    /// Its instruments.
    pub metrics: Arc<Metrics>,
    /// Cancelled when it drains; `/drain` cancels it.
    pub draining: CancellationToken,
}

/// `/livez`, `/readyz`, `/metrics`, `/drain`.
pub fn internal_router(probes: Probes) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/drain", post(drain))
        .fallback(async || ApiError::NotFound("Route not found"))
        .method_not_allowed_fallback(async || ApiError::Method)
        .with_state(probes)
}

async fn livez(State(probes): State<Probes>) -> Response {
    health(&probes, probes.health.dead())
}

async fn readyz(State(probes): State<Probes>) -> Response {
    health(&probes, probes.health.not_ready(probes.draining.is_cancelled()))
}

fn health(probes: &Probes, wrong: Option<&'static str>) -> Response {
    let version = probes.version;
    match wrong {
        None => Answer(json!({"status": "ok", "version": version})).into_response(),
        Some(reason) => {
            let body = json!({"status": "unavailable", "reason": reason, "version": version});
            (StatusCode::SERVICE_UNAVAILABLE, Answer(body)).into_response()
        }
    }
}

async fn metrics(State(probes): State<Probes>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], probes.metrics.render()).into_response()
}

/// Asked for from this machine alone, and by no browser: a page could send this request too.
async fn drain(State(probes): State<Probes>, extensions: Extensions, headers: HeaderMap) -> Response {
    let by_page = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site");
    if by_page || !peer_address(&extensions).is_some_and(|address| address.is_loopback()) {
        let body = json!({"error": "Draining is asked for from this machine, or by SIGTERM"});
        return (StatusCode::FORBIDDEN, Answer(body)).into_response();
    }
    tracing::info!("draining was asked for");
    probes.draining.cancel();
    (StatusCode::ACCEPTED, Answer(json!({"status": "draining"}))).into_response()
}

fn peer_address(extensions: &Extensions) -> Option<IpAddr> {
    let marked = extensions.get::<Peer>().map(|peer| peer.address);
    let address = marked.or_else(|| extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0))?;
    Some(address.ip().to_canonical())
}
