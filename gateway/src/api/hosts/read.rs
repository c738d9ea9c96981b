//! Reading hosts and what their agents posted.

use axum::{Json as Answer, extract::State};
use schemas::timestamp::rfc3339;
use serde::Serialize;
use serde_json::Value;
use store::HostFilter;
use utoipa::ToSchema;
use uuid::Uuid;

use super::HostRow;
use crate::{
    App,
    api::{
        body::{HostId, NO_HOST, Query},
        error::ApiError,
        page::Page,
    },
};

/// The state of one integration, as the agent posted it last.
#[derive(Serialize, ToSchema)]
pub struct IntegrationStatus {
    /// `docker`, `compliance`.
    integration: String,
    /// RFC 3339.
    received_at: String,
    #[schema(value_type = Object)]
    body: Value,
}

/// The states of a host's integrations.
#[derive(Serialize, ToSchema)]
pub struct IntegrationStatuses {
    items: Vec<IntegrationStatus>,
}

/// The result of one scan.
#[derive(Serialize, ToSchema)]
pub struct Scan {
    id: Uuid,
    host_id: Uuid,
    /// `openscap`, `docker-bench`.
    profile_type: String,
    profile_name: String,
    /// `completed`, `failed`, `in_progress`.
    status: String,
    /// Percent.
    score: Option<f64>,
    /// RFC 3339.
    received_at: String,
    /// The whole result as it came, with its rules.
    #[schema(value_type = Object)]
    body: Value,
}

/// The newest results.
#[derive(Serialize, ToSchema)]
pub struct Scans {
    items: Vec<Scan>,
}

/// `GET /hosts`.
///
/// # Errors
/// 400 for a query that cannot be, 503 when the store is away.
pub async fn list(State(app): State<App>, mut query: Query) -> Result<Answer<Page<HostRow>>, ApiError> {
    let (limit, cursor) = (query.limit()?, query.cursor()?);
    let filter = HostFilter {
        connected: query.read("connected", "true or false", |text| text.parse().ok())?,
        search: query.text("search"),
    };
    query.end()?;
    let page = app.store.list_hosts(&filter, cursor.as_deref(), limit).await?;
    Ok(Answer(Page::of(page, HostRow::from)))
}

/// `GET /hosts/{id}`.
///
/// # Errors
/// 404, 503.
pub async fn get(State(app): State<App>, HostId(id): HostId) -> Result<Answer<HostRow>, ApiError> {
    let host = app.store.host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    Ok(Answer(host.into()))
}

/// `GET /hosts/{id}/report`: the latest report as its agent sent it.
///
/// # Errors
/// 404 also while there is none, 503.
pub async fn report(State(app): State<App>, HostId(id): HostId) -> Result<Answer<Value>, ApiError> {
    if let Some(report) = app.store.report(id).await? {
        return Ok(Answer(report));
    }
    exists(&app, id).await?;
    Err(ApiError::NotFound("No report yet"))
}

/// `GET /hosts/{id}/integration-status`.
///
/// # Errors
/// 404, 503.
pub async fn integration_status(
    State(app): State<App>,
    HostId(id): HostId,
) -> Result<Answer<IntegrationStatuses>, ApiError> {
    let stored = app.store.integration_status(id).await?;
    if stored.is_empty() {
        exists(&app, id).await?;
    }
    let shown = |status: store::StoredStatus| IntegrationStatus {
        integration: status.integration,
        received_at: rfc3339(status.received_at),
        body: status.body,
    };
    Ok(Answer(IntegrationStatuses { items: stored.into_iter().map(shown).collect() }))
}

/// `GET /hosts/{id}/scans`: newest first.
///
/// # Errors
/// 400, 404, 503.
pub async fn scans(State(app): State<App>, HostId(id): HostId, mut query: Query) -> Result<Answer<Scans>, ApiError> {
    let limit = query.limit_or(10)?;
    query.end()?;
    let stored = app.store.scans(id, limit).await?;
    if stored.is_empty() {
        exists(&app, id).await?;
    }
    let shown = |scan: store::ScanRow| Scan {
        id: scan.id,
        host_id: scan.host_id,
        profile_type: scan.profile_type,
        profile_name: scan.profile_name,
        status: scan.status,
        score: scan.score,
        received_at: rfc3339(scan.received_at),
        body: scan.body,
    };
    Ok(Answer(Scans { items: stored.into_iter().map(shown).collect() }))
}

async fn exists(app: &App, id: Uuid) -> Result<(), ApiError> {
    app.store.host(id).await?.map(drop).ok_or(ApiError::NotFound(NO_HOST))
}
