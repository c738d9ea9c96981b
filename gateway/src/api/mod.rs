//! The HTTP API (protocol 4, and our own beside it), for users and their programs. Agents have calls of their own
//! ([`crate::agent::http`]).
//!
//! *Adding a route*: a row in [`routes`], a handler, the types of its bodies. Access, OpenAPI and metrics follow from the
//! row.

pub mod allowance;
mod auth;
mod automation;
pub mod body;
pub mod client;
mod commands;
pub mod edge;
mod error;
mod events;
mod guard;
mod health;
pub(crate) mod hosts;
mod internal;
pub(crate) mod key;
mod openapi;
pub mod origin;
mod page;
pub mod revocation;
pub mod route;
pub mod routes;
pub mod session;
mod status;
mod terminals;
mod token;

use std::{any::Any, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware::from_fn_with_state,
    response::{IntoResponse, Response},
};
use bus::BusError;
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use self::token::Tokens;
pub use self::{
    edge::harden,
    error::ApiError,
    events::EventLog,
    health::Health,
    internal::{Probes, internal_router},
    revocation::Revocations,
};
use crate::{App, Settings, dashboard, limit::Limit, metrics::Metrics};

/// What the API's handlers share.
pub struct ApiState {
    /// Is this gateway fit for work?
    pub health: Arc<Health>,
    /// What was taken away, for every live socket and stream of this gateway.
    pub revocations: Revocations,
    /// The window of events.
    pub events: EventLog,
    tokens: Tokens,
    logins: Limit<IpAddr>,
}

impl ApiState {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new(settings: &Settings, gateway_id: Uuid, metrics: Arc<Metrics>) -> Self {
        Self {
            health: Arc::default(),
            revocations: Revocations::default(),
            events: EventLog::new(gateway_id, settings.events_window, metrics),
            tokens: Tokens::new(&settings.secret),
            logins: Limit::new(settings.login_failures_per_min, Duration::from_secs(60)),
        }
    }
}

/// Begins to listen to what the API tells: events, revocations, the state of the queues and of the bus. From then on the gateway is ready.
///
/// # Errors
/// When the bus is away.
pub async fn start(app: &App) -> Result<(), BusError> {
    revocation::start(app).await?;
    events::start(app).await?;
    dashboard::start(app).await?;
    app.metrics.observe_bus(Arc::clone(&app.bus));
    app.api.health.started();
    Ok(())
}

/// All routes of the API, the pages, and the answers to what is neither.
pub fn router(app: App) -> Router {
    routes::mount(&app)
        .merge(dashboard::router())
        .fallback(async || ApiError::NotFound("Route not found"))
        .method_not_allowed_fallback(async || ApiError::Method)
        .layer(DefaultBodyLimit::max(body::BODY_MAX))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(app.clone(), edge::edge))
        .with_state(app)
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    ApiError::Internal(format!("a handler panicked: {}", text.unwrap_or("no text"))).into_response()
}
