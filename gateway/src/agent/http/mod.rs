//! The HTTP calls of agents (protocol 3), under any version segment. Success is exactly 200 with a JSON body: agents take
//! anything else for a failure (protocol 6-10).
//!
//! They share `/api/v1/hosts/…` with the API, so they are not a router of their own: the server asks [`handles`] first and
//! hands what is an agent's to [`handle`].

mod body;
mod integration_status;
mod ping;
mod refusal;
mod report;
mod route;
mod scans;
mod settings;
mod version;

use std::sync::Arc;

use axum::{
    Json,
    extract::Request,
    http::{Method, request::Parts},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use store::StoreError;
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tracing::Instrument;

use self::{body::Posted, refusal::Refusal, route::Call};
use super::{
    auth::authenticate,
    hold::{HELD, patiently},
};
use crate::{
    App,
    api::{
        client::{Peer, client_address},
        edge::Served,
    },
    metrics::Metrics,
};

/// Is this a call of an agent? The path may have leading slashes and a prefix.
#[must_use]
pub fn handles(method: &Method, path: &str) -> bool {
    *method != Method::OPTIONS && is_agent_path(path)
}

/// Is this the path of a call, whatever the method?
#[must_use]
pub fn is_agent_path(path: &str) -> bool {
    Call::of(path).is_some()
}

/// Answers a call of an agent. The request carries its [`Peer`] as an extension.
pub async fn handle(app: App, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(call) = Call::of(parts.uri.path()) else {
        return Refusal::NotFound("Route not found").into_response();
    };
    let mut posted = Posted::new(&parts.headers, body);
    let mut response = match answer(&app, call, &parts, &mut posted).await {
        Ok(body) => Json(body).into_response(),
        Err(refusal) => {
            // An answer before the end of the body would be lost with the connection, and an agent that saw no answer
            // sends it all again, three times (protocol 6-10).
            posted.discard().await;
            refusal.into_response()
        }
    };
    response.extensions_mut().insert(Served(call.pattern()));
    response
}

async fn answer(app: &App, call: Call, parts: &Parts, posted: &mut Posted) -> Result<Value, Refusal> {
    if parts.method != call.method() {
        return Err(Refusal::Method(call.method()));
    }
    let client = client_address(&app.settings, &Peer::of(&parts.extensions), &parts.headers);
    let until = Instant::now() + HELD;
    let who = if call.is_posted_once() {
        patiently(until, &app.stopping, || authenticate(app, &parts.headers, client)).await?
    } else {
        authenticate(app, &parts.headers, client).await?
    };
    match call {
        Call::UpdateInterval => settings::update_interval(app, &who).await,
        Call::Integrations => settings::integrations(app, &who).await,
        Call::Ping => ping::post(app, &who, posted).await,
        Call::Update => report::post(app, &who, posted, until).await,
        Call::IntegrationStatus => integration_status::post(app, &who, posted, until).await,
        Call::Scans => scans::post(app, &who, posted, until).await,
        Call::Version => Ok(version::get(&parts.uri)),
        Call::Download => Err(Refusal::NotFound("Agent binary not found")),
    }
}

/// Stores what is posted only once, for as long as it may be held. A post that has arrived is stored even if its agent
/// does not wait for the answer, and its room is taken until then.
///
/// `save` is one attempt. Facts that came by the socket before the post go first: a `started` must be known before its
/// result (protocol 1.4).
async fn store_held<T, S, F>(app: &App, until: Instant, room: OwnedSemaphorePermit, mut save: S) -> Result<T, Refusal>
where
    T: Send + 'static,
    S: FnMut(App) -> F + Send + 'static,
    F: Future<Output = Result<(T, Vec<store::Applied>), StoreError>> + Send,
{
    let app = app.clone();
    let tasks = app.tasks.clone();
    let storing = async move {
        let metrics = Arc::clone(&app.metrics);
        let bytes = i64::try_from(room.num_permits()).unwrap_or(0) << 10;
        let (mut attempts, mut waiting) = (0_u32, None);
        let saved = patiently(until, &app.stopping, || {
            attempts += 1;
            if attempts == 2 {
                waiting = Some(Waiting::new(Arc::clone(&metrics), bytes));
            }
            let save = save(Arc::clone(&app));
            let app = &app;
            async move {
                app.facts.flush().await;
                save.await
            }
        });
        let (value, applied) = saved.await?;
        crate::facts::announce(&app, &applied).await;
        drop((room, waiting));
        Ok(value)
    };
    tasks.spawn(storing.in_current_span()).await.unwrap_or(Err(Refusal::Internal))
}

/// Bytes that wait for a store that is away, as long as they do.
struct Waiting {
    metrics: Arc<Metrics>,
    bytes: i64,
}

impl Waiting {
    fn new(metrics: Arc<Metrics>, bytes: i64) -> Self {
        metrics.results_held(bytes);
        Self { metrics, bytes }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.metrics.results_held(-self.bytes);
    }
}
