//! Around terminals: the ticket that opens one, what was done with them, their recordings, and the SSH keys of hosts.

use axum::{
    Json as Answer,
    body::Body,
    extract::{Path, State},
    http::{HeaderName, StatusCode, header},
};
use bytes::Bytes;
use futures_util::stream;
use schemas::timestamp::{parse_rfc3339, rfc3339};
use serde::{Deserialize, Serialize};
use store::{AuditFilter, AuditRow, HostSshKey, NewAudit, NewTicket, RecordingRow, TerminalFilter, TerminalRow};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    automation::TICKET_SECS,
    body::{HostId, Json, NO_HOST, Query},
    client::Client,
    error::ApiError,
    hosts::HostRow,
    key::random_key,
    page::Page,
    session::Caller,
};
use crate::{App, agent::keys, terminal::recorder};

const NO_RECORDING: &str = "Recording not found";

/// Which host.
#[derive(Deserialize, ToSchema)]
pub struct TicketRequest {
    /// The host's id.
    #[serde(rename = "hostId", default)]
    host_id: Option<String>,
}

/// A one-time pass.
#[derive(Serialize, ToSchema)]
pub struct SshTicket {
    /// 64 hex digits, for `GET /ssh-terminal/{hostId}?ticket=…`.
    ticket: String,
    /// Seconds.
    #[serde(rename = "expiresIn")]
    expires_in: i64,
}

/// What was done, by whom. Times are RFC 3339.
#[derive(Serialize, ToSchema)]
pub struct AuditEntry {
    id: Uuid,
    at: String,
    /// `ssh_terminal_access_granted`, `ssh_terminal_access_denied`, `ssh_terminal_opened`, `ssh_terminal_closed`,
    /// `ssh_host_key_changed`, `ssh_host_keys_forgotten`, `terminal_options_changed`, `recording_read`,
    /// `recording_removed`.
    event: String,
    user_id: Option<Uuid>,
    username: Option<String>,
    /// The client's, behind trusted proxies too.
    address: String,
    host_id: Option<Uuid>,
    host_name: Option<String>,
    /// The terminal.
    session_id: Option<Uuid>,
    /// `direct` or `proxy`.
    mode: Option<&'static str>,
    /// `user@host:port`.
    target: Option<String>,
    reason: Option<String>,
    /// Milliseconds.
    duration_ms: Option<i64>,
    /// Typed.
    bytes_in: Option<i64>,
    /// Written by the shell.
    bytes_out: Option<i64>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: rfc3339(row.at),
            event: row.event,
            user_id: row.user_id,
            username: row.username,
            address: row.address,
            host_id: row.host_id,
            host_name: row.host_name,
            session_id: row.session_id,
            mode: row.mode.map(store::TerminalMode::name),
            target: row.target,
            reason: row.reason,
            duration_ms: row.duration_ms,
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
        }
    }
}

/// A terminal, open or ended. Times are RFC 3339.
#[derive(Serialize, ToSchema)]
pub struct Terminal {
    id: Uuid,
    host_id: Uuid,
    host_name: String,
    user_id: Uuid,
    username: String,
    address: String,
    /// `direct` or `proxy`.
    mode: &'static str,
    /// `user@host:port`.
    target: String,
    opened_at: String,
    /// Null: the shell never was there, or is not yet.
    connected_at: Option<String>,
    /// Null: it is open.
    ended_at: Option<String>,
    reason: Option<String>,
    /// Typed.
    bytes_in: i64,
    /// Written by the shell.
    bytes_out: i64,
    /// Of which so many were left out, since the browser did not take them.
    bytes_shed: i64,
    /// Of the shell, in direct mode.
    exit_status: Option<i64>,
    recorded: bool,
}

impl From<TerminalRow> for Terminal {
    fn from(row: TerminalRow) -> Self {
        Self {
            id: row.id,
            host_id: row.host_id,
            host_name: row.host_name,
            user_id: row.user_id,
            username: row.username,
            address: row.address,
            mode: row.mode.name(),
            target: row.target,
            opened_at: rfc3339(row.opened_at),
            connected_at: row.connected_at.map(rfc3339),
            ended_at: row.ended_at.map(rfc3339),
            reason: row.reason,
            bytes_in: row.bytes_in,
            bytes_out: row.bytes_out,
            bytes_shed: row.shed,
            exit_status: row.exit_status,
            recorded: row.recorded,
        }
    }
}

/// A recording.
#[derive(Serialize, ToSchema)]
pub struct Recording {
    #[schema(inline)]
    terminal: Terminal,
    /// Milliseconds.
    duration_ms: i64,
    /// As asciicast.
    bytes: i64,
    /// In the store, compressed.
    stored_bytes: i64,
}

impl From<RecordingRow> for Recording {
    fn from(row: RecordingRow) -> Self {
        Self {
            terminal: row.terminal.into(),
            duration_ms: row.duration_ms,
            bytes: row.raw_bytes,
            stored_bytes: row.stored_bytes,
        }
    }
}

/// The key that a host showed first, and must show from then on.
#[derive(Serialize, ToSchema)]
pub struct SshKey {
    port: u16,
    /// As OpenSSH writes it.
    key: String,
    /// `SHA256:…`.
    fingerprint: String,
    /// RFC 3339.
    first_seen_at: String,
    /// RFC 3339.
    last_seen_at: String,
}

impl From<HostSshKey> for SshKey {
    fn from(key: HostSshKey) -> Self {
        Self {
            port: key.port,
            key: key.key,
            fingerprint: key.fingerprint,
            first_seen_at: rfc3339(key.first_seen_at),
            last_seen_at: rfc3339(key.last_seen_at),
        }
    }
}

/// The keys of a host, by port.
#[derive(Serialize, ToSchema)]
pub struct SshKeys {
    items: Vec<SshKey>,
}

/// How many were forgotten.
#[derive(Serialize, ToSchema)]
pub struct Forgotten {
    forgotten: u64,
}

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OptionsRequest {
    /// Direct mode may use algorithms that are no longer thought safe: SHA-1, CBC.
    legacy_algorithms: Option<bool>,
    /// Record terminals on this host: true, false, or null for the server's default.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<bool>)]
    record: Option<Option<bool>>,
}

/// Null is a value.
fn given<'de, D: serde::Deserializer<'de>>(field: D) -> Result<Option<Option<bool>>, D::Error> {
    Option::<bool>::deserialize(field).map(Some)
}

/// `POST /auth/ssh-ticket`.
///
/// # Errors
/// 400, 404 for a host that is none, 503 when the store is away.
pub async fn ticket(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<TicketRequest>,
) -> Result<Answer<SshTicket>, ApiError> {
    let host_id = request.host_id.filter(|id| !id.is_empty()).ok_or_else(|| ApiError::bad("Host ID is required"))?;
    let host_id = host_id.parse().map_err(|_| ApiError::NotFound(NO_HOST))?;
    app.store.host(host_id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    let ticket = random_key();
    let digest = keys::digest(&ticket).ok_or_else(|| ApiError::Internal("a random key has no digest".to_owned()))?;
    let kept = NewTicket {
        digest,
        user_id: caller.account.id,
        session_id: caller.session_id,
        host_id: Some(host_id),
        lifetime_ms: TICKET_SECS * 1_000,
    };
    app.store.issue_ticket(&kept).await?;
    Ok(Answer(SshTicket { ticket, expires_in: TICKET_SECS }))
}

/// `GET /audit`.
///
/// # Errors
/// 400 for a query that cannot be, 503 when the store is away.
pub async fn audit(State(app): State<App>, mut query: Query) -> Result<Answer<Page<AuditEntry>>, ApiError> {
    let filter = AuditFilter {
        event: query.text("event"),
        user_id: query.uuid("user_id")?,
        host_id: query.uuid("host_id")?,
        session_id: query.uuid("session_id")?,
        from_ms: query.read("from", "a time as in RFC 3339", parse_rfc3339)?,
        until_ms: query.read("until", "a time as in RFC 3339", parse_rfc3339)?,
        cursor: query.cursor()?,
        limit: query.limit()?,
    };
    query.end()?;
    Ok(Answer(Page::of(app.store.audits(&filter).await?, AuditEntry::from)))
}

fn filter(mut query: Query) -> Result<TerminalFilter, ApiError> {
    let filter = TerminalFilter {
        host_id: query.uuid("host_id")?,
        user_id: query.uuid("user_id")?,
        open: query.read("open", "true or false", |text| text.parse().ok())?,
        cursor: query.cursor()?,
        limit: query.limit()?,
    };
    query.end()?;
    Ok(filter)
}

/// `GET /terminals`.
///
/// # Errors
/// 400 for a query that cannot be, 503 when the store is away.
pub async fn list(State(app): State<App>, query: Query) -> Result<Answer<Page<Terminal>>, ApiError> {
    Ok(Answer(Page::of(app.store.terminals(&filter(query)?).await?, Terminal::from)))
}

/// `GET /recordings`.
///
/// # Errors
/// 400 for a query that cannot be, 503 when the store is away.
pub async fn recordings(State(app): State<App>, query: Query) -> Result<Answer<Page<Recording>>, ApiError> {
    Ok(Answer(Page::of(app.store.recordings(&filter(query)?).await?, Recording::from)))
}

/// Somebody's deed, for the audit log.
fn deed(caller: &Caller, client: &Client, event: &'static str) -> NewAudit {
    NewAudit {
        event,
        user_id: Some(caller.account.id),
        username: Some(caller.account.username.clone()),
        address: client.0.to_string(),
        ..NewAudit::default()
    }
}

fn recording_id(id: &str) -> Result<Uuid, ApiError> {
    id.parse().map_err(|_| ApiError::NotFound(NO_RECORDING))
}

type Cast = ([(HeaderName, String); 2], Body);

/// `GET /recordings/{id}`: asciicast v2, a chunk of the store at a time.
///
/// # Errors
/// 404, 503 when the store is away.
pub async fn recording(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Path(id): Path<String>,
) -> Result<Cast, ApiError> {
    let id = recording_id(&id)?;
    let row = app.store.recording(id).await?.ok_or(ApiError::NotFound(NO_RECORDING))?;
    let entry = NewAudit {
        host_id: Some(row.terminal.host_id),
        host_name: Some(row.terminal.host_name),
        session_id: Some(id),
        ..deed(&caller, &client, "recording_read")
    };
    app.store.audit(&entry).await?;
    let chunks = stream::unfold((app, 0), move |(app, number)| async move {
        let expanded = match app.store.recording_chunk(id, number).await {
            Ok(Some(chunk)) => recorder::expand(&chunk),
            Ok(None) => return None,
            Err(error) => Err(std::io::Error::other(error)),
        };
        // An answer that breaks off is seen to; what would follow is not sent.
        let next = if expanded.is_ok() { number + 1 } else { i64::MAX };
        Some((expanded.map(Bytes::from), (app, next)))
    });
    let named = format!("attachment; filename=\"{id}.cast\"");
    let headers = [(header::CONTENT_TYPE, "application/x-asciicast".to_owned()), (header::CONTENT_DISPOSITION, named)];
    Ok((headers, Body::from_stream(chunks)))
}

/// `DELETE /recordings/{id}`.
///
/// # Errors
/// 404, 503 when the store is away.
pub async fn remove_recording(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let id = recording_id(&id)?;
    if !app.store.delete_recording(id).await? {
        return Err(ApiError::NotFound(NO_RECORDING));
    }
    app.store.audit(&NewAudit { session_id: Some(id), ..deed(&caller, &client, "recording_removed") }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `GET /hosts/{id}/ssh-keys`.
///
/// # Errors
/// 404, 503 when the store is away.
pub async fn ssh_keys(State(app): State<App>, HostId(id): HostId) -> Result<Answer<SshKeys>, ApiError> {
    app.store.host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    let keys = app.store.ssh_keys(id).await?;
    Ok(Answer(SshKeys { items: keys.into_iter().map(SshKey::from).collect() }))
}

/// `DELETE /hosts/{id}/ssh-keys?port=22`: the next key that is shown is trusted. Without a port: of all ports.
///
/// # Errors
/// 400, 404, 503 when the store is away.
pub async fn forget_ssh_keys(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    HostId(id): HostId,
    mut query: Query,
) -> Result<Answer<Forgotten>, ApiError> {
    let port = query.read("port", "1 to 65535", |text| text.parse().ok().filter(|port| *port > 0))?;
    query.end()?;
    let host = app.store.host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    let forgotten = app.store.forget_ssh_keys(id, port).await?;
    let entry = NewAudit {
        host_id: Some(id),
        host_name: Some(host.name),
        target: port.map(|port| format!("port {port}")),
        ..deed(&caller, &client, "ssh_host_keys_forgotten")
    };
    app.store.audit(&entry).await?;
    Ok(Answer(Forgotten { forgotten }))
}

/// `PUT /hosts/{id}/terminals`.
///
/// # Errors
/// 400, 404, 503 when the store is away.
pub async fn options(
    State(app): State<App>,
    caller: Caller,
    client: Client,
    HostId(id): HostId,
    Json(request): Json<OptionsRequest>,
) -> Result<Answer<HostRow>, ApiError> {
    let change = store::TerminalOptions { legacy_algorithms: request.legacy_algorithms, record: request.record };
    if !app.store.set_terminal_options(id, &change).await? {
        return Err(ApiError::NotFound(NO_HOST));
    }
    let host = app.store.host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    let (legacy, record) = (host.ssh_legacy_algorithms, host.record_terminals);
    let entry = NewAudit {
        host_id: Some(id),
        host_name: Some(host.name.clone()),
        reason: Some(format!("legacy_algorithms {legacy}, record {record:?}")),
        ..deed(&caller, &client, "terminal_options_changed")
    };
    app.store.audit(&entry).await?;
    Ok(Answer(host.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_is_the_servers_default_and_nothing_is_no_change() {
        let read = |text: &str| serde_json::from_str::<OptionsRequest>(text).unwrap().record;
        assert_eq!(read("{}"), None);
        assert_eq!(read(r#"{"record":null}"#), Some(None));
        assert_eq!(read(r#"{"record":true}"#), Some(Some(true)));
    }
}
