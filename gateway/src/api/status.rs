//! Who is connected (protocol 4.2). One agent is asked for over the bus: whoever holds it answers, and nobody answering
//! is an answer that cannot be stale. Lists and sums read the hint that the store keeps.

use std::{collections::HashMap, time::Duration};

use axum::{
    Json as Answer,
    extract::{Path, State},
};
use bus::{BusError, request_json};
use schemas::{ApiId, message::StatusReply, subject};
use serde::Serialize;
use serde_json::json;
use store::Presence;
use utoipa::ToSchema;

use super::{body::Query, error::ApiError};
use crate::App;

/// Most ids of one request.
const IDS_MAX: usize = 1_000;

/// Longest `apiIds`, in characters.
const IDS_CHARS_MAX: usize = 20_000;

/// How long whoever holds the agent may take to say so.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// One agent's socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Status {
    connected: bool,
    /// Over TLS.
    secure: bool,
    /// Since the last connection ended; null while connected, and for who never was.
    disconnected_seconds_ago: Option<i64>,
}

/// Many agents' sockets by api_id.
#[derive(Serialize, ToSchema)]
pub struct Statuses {
    success: bool,
    data: HashMap<String, Status>,
}

/// One agent's socket.
#[derive(Serialize, ToSchema)]
pub struct OneStatus {
    success: bool,
    data: Status,
}

/// How many are connected.
#[derive(Serialize, ToSchema)]
pub struct StatusSummary {
    connected: u64,
}

impl Status {
    fn of_hint(hint: &Presence, now: i64) -> Self {
        let ago = |at: i64| (now - at).max(0) / 1_000;
        Self {
            connected: hint.connected,
            secure: hint.connected && hint.secure,
            disconnected_seconds_ago: hint.disconnected_at.filter(|_| !hint.connected).map(ago),
        }
    }
}

/// `GET /ws/status?apiIds=a,b`.
///
/// # Errors
/// 400 above the caps, 503 when the store is away.
pub async fn bulk(State(app): State<App>, mut query: Query) -> Result<Answer<Statuses>, ApiError> {
    let ids = query.list("apiIds");
    query.end()?;
    if ids.iter().map(|id| id.len() + 1).sum::<usize>() > IDS_CHARS_MAX {
        return Err(ApiError::bad("apiIds query is too large"));
    }
    if ids.len() > IDS_MAX {
        return Err(ApiError::bad("too many apiIds requested"));
    }
    let known: Vec<ApiId> = ids.iter().filter_map(|id| ApiId::parse(id).ok()).collect();
    let hints = if known.is_empty() { Vec::new() } else { app.store.presence(&known).await? };
    let now = app.store.clock().now_ms();
    let mut data: HashMap<String, Status> = ids.into_iter().map(|id| (id, Status::default())).collect();
    data.extend(hints.iter().map(|hint| (hint.api_id.clone(), Status::of_hint(hint, now))));
    Ok(Answer(Statuses { success: true, data }))
}

/// `GET /ws/status/summary`.
///
/// # Errors
/// 503 when the store is away.
pub async fn summary(State(app): State<App>) -> Result<Answer<StatusSummary>, ApiError> {
    Ok(Answer(StatusSummary { connected: app.store.connected_count().await? }))
}

/// `GET /ws/status/{api_id}`. An id that is nobody's is not connected.
///
/// # Errors
/// 503 when the store is away.
pub async fn one(State(app): State<App>, Path(api_id): Path<String>) -> Result<Answer<OneStatus>, ApiError> {
    let Ok(api_id) = ApiId::parse(&api_id) else {
        return Ok(Answer(OneStatus { success: true, data: Status::default() }));
    };
    // Only ids of the store become part of a subject.
    let hint = app.store.presence(std::slice::from_ref(&api_id)).await?.into_iter().next();
    let data = match hint {
        None => Status::default(),
        Some(hint) => ask(&app, &api_id, &hint).await,
    };
    Ok(Answer(OneStatus { success: true, data }))
}

async fn ask(app: &App, api_id: &ApiId, hint: &Presence) -> Status {
    let subject = subject::agent_status(api_id);
    let answer = request_json(app.bus.as_ref(), &subject, &json!({}), None, ANSWER_WAIT).await;
    app.metrics.bus_request(outcome(&answer));
    let hinted = Status::of_hint(hint, app.store.clock().now_ms());
    match answer.map(|message| message.parse::<StatusReply>()) {
        Ok(Ok(reply)) => Status { connected: true, secure: reply.secure, disconnected_seconds_ago: None },
        Err(BusError::NoResponder) => Status { connected: false, secure: false, ..hinted },
        Ok(Err(_)) | Err(_) => hinted,
    }
}

fn outcome<T>(answer: &Result<T, BusError>) -> &'static str {
    match answer {
        Ok(_) => "answered",
        Err(BusError::NoResponder) => "no_responder",
        Err(BusError::Timeout) => "timeout",
        Err(BusError::Disconnected) => "disconnected",
        Err(BusError::TooLarge) => "too_large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint(connected: bool, disconnected_at: Option<i64>) -> Presence {
        Presence { api_id: "a".into(), connected, secure: true, disconnected_at }
    }

    #[test]
    fn a_hint_says_since_when_nobody_is_there() {
        let gone = Status::of_hint(&hint(false, Some(1_000)), 6_500);
        assert_eq!(gone, Status { connected: false, secure: false, disconnected_seconds_ago: Some(5) });
        let back = Status::of_hint(&hint(true, Some(1_000)), 6_500);
        assert_eq!(back, Status { connected: true, secure: true, disconnected_seconds_ago: None });
        let never = Status::of_hint(&hint(false, None), 6_500);
        assert_eq!(never, Status::default());
    }
}
