//! `POST /commands`.

use std::collections::HashSet;

use axum::{
    Extension, Json as Answer,
    extract::State,
    http::{HeaderMap, StatusCode},
};
use jobs::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use store::{Created, NewBatch, NotCreated, Target};
use utoipa::ToSchema;
use uuid::Uuid;

use super::may_ask;
use crate::{
    App,
    api::{body::Json, edge::Trace, error::ApiError, session::Caller},
};

/// Most hosts a request names. `all` has no such bound.
const HOSTS_MAX: usize = 10_000;

/// Longest time a command may wait to be sent: 30 days, in seconds.
const EXPIRES_MAX_SECS: u64 = 30 * 86_400;

/// Longest time a batch may be spread over: a day, in seconds.
const SPREAD_MAX_SECS: u64 = 86_400;

/// Longest Idempotency-Key, in characters.
const KEY_MAX: usize = 200;

/// Ask hosts for something.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CommandRequest {
    /// `report_now`, `refresh_integration_status`, `settings_update`, `compliance_scan`.
    kind: String,
    /// Up to 10,000 hosts; either this or `all`.
    host_ids: Option<Vec<Uuid>>,
    /// Every host there is now.
    #[serde(default)]
    all: bool,
    /// The kind's own fields.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    payload: Value,
    /// Seconds until what is not sent expires; a day when left out.
    expires_in: Option<u64>,
    /// Spread over this many seconds instead of the fleet's pace.
    spread_secs: Option<u64>,
}

/// What was made.
#[derive(Serialize, ToSchema)]
pub struct CreatedBatch {
    batch_id: Uuid,
    /// New commands.
    count: u64,
    /// The first 1,000, those that serve instead included; `GET /commands?batch_id=` lists all new ones.
    #[schema(value_type = Vec<CreatedCommand>)]
    commands: Vec<store::CreatedCommand>,
    /// Hosts whose identical open command serves instead.
    coalesced: u64,
    /// Hosts left out: too many open commands.
    skipped: Vec<Uuid>,
}

/// One of them.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the store's type of that name")]
pub struct CreatedCommand {
    id: Uuid,
    host_id: Uuid,
    state: String,
}

impl From<Created> for CreatedBatch {
    fn from(created: Created) -> Self {
        Self {
            batch_id: created.batch_id,
            count: created.count,
            commands: created.commands,
            coalesced: created.coalesced,
            skipped: created.skipped,
        }
    }
}

/// A request that can be: what it asks, of whom.
#[derive(Debug)]
struct Asked {
    kind: Kind,
    payload: Value,
    target: Target,
    expires_in_secs: Option<u64>,
    spread_secs: Option<u64>,
}

impl Asked {
    fn read(request: CommandRequest) -> Result<Self, ApiError> {
        let kind = Kind::of_name(&request.kind).ok_or_else(|| {
            let known: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
            ApiError::bad(format!("kind must be one of {}", known.join(", ")))
        })?;
        let payload = kind.spec().check(&request.payload).map_err(|error| ApiError::bad(error.to_string()))?;
        Ok(Self {
            kind,
            payload,
            target: target(request.host_ids, request.all)?,
            expires_in_secs: within("expires_in", request.expires_in, 1, EXPIRES_MAX_SECS)?,
            spread_secs: within("spread_secs", request.spread_secs, 0, SPREAD_MAX_SECS)?,
        })
    }

    /// What a retry with the same key must repeat. The order of hosts and fields makes no difference.
    fn hash(&self) -> String {
        let hosts = match &self.target {
            Target::All => json!("all"),
            Target::Hosts(ids) => {
                let mut ids = ids.clone();
                ids.sort_unstable();
                json!(ids)
            }
        };
        let asked = json!([self.kind.name(), self.payload, hosts, self.expires_in_secs, self.spread_secs]);
        Sha256::digest(asked.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn target(host_ids: Option<Vec<Uuid>>, all: bool) -> Result<Target, ApiError> {
    match (host_ids, all) {
        (None, true) => Ok(Target::All),
        (Some(ids), false) if ids.is_empty() => Err(ApiError::bad("host_ids must name a host")),
        (Some(ids), false) if ids.len() > HOSTS_MAX => {
            Err(ApiError::bad(format!("host_ids takes at most {HOSTS_MAX} hosts")))
        }
        (Some(mut ids), false) => {
            let mut seen = HashSet::with_capacity(ids.len());
            ids.retain(|id| seen.insert(*id));
            Ok(Target::Hosts(ids))
        }
        _ => Err(ApiError::bad("either host_ids or all must be given")),
    }
}

fn within(name: &str, value: Option<u64>, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
    match value {
        Some(n) if !(min..=max).contains(&n) => Err(ApiError::bad(format!("{name} must be {min} to {max} seconds"))),
        _ => Ok(value),
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let key = value.to_str().unwrap_or_default().trim();
    if key.is_empty() || key.len() > KEY_MAX {
        return Err(ApiError::bad(format!("Idempotency-Key must be 1 to {KEY_MAX} printable ASCII characters")));
    }
    Ok(Some(key.to_owned()))
}

/// Answers once all commands are durable.
///
/// # Errors
/// 400 for what cannot be asked; 403 by the kind; 404 with `missingIds`, nothing made; 422 for an Idempotency-Key that
/// was used for another request; 429 when no host takes one more; 503.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Extension(Trace(trace)): Extension<Trace>,
    headers: HeaderMap,
    Json(request): Json<CommandRequest>,
) -> Result<(StatusCode, Answer<CreatedBatch>), ApiError> {
    let asked = Asked::read(request)?;
    may_ask(&caller.account, asked.kind)?;
    let idempotency = idempotency_key(&headers)?.map(|key| (key, asked.hash()));
    let millis = |secs: u64| i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000);
    let batch = NewBatch {
        id: Uuid::now_v7(),
        kind: asked.kind,
        payload: asked.payload,
        target: asked.target,
        expires_in_ms: millis(asked.expires_in_secs.unwrap_or_else(|| app.settings.command_expires.as_secs())),
        spread_ms: asked.spread_secs.map(millis),
        requested_by: caller.account.username.clone(),
        traceparent: trace.map(|trace| trace.as_str().to_owned()),
        idempotency,
    };
    let created = app.store.create(&batch).await?.map_err(|why| match why {
        NotCreated::UnknownHosts(ids) => ApiError::MissingHosts(ids),
        NotCreated::AllFull(ids) => ApiError::AllFull(ids),
        NotCreated::OtherRequest => ApiError::OtherRequest,
    })?;
    caller.noted("asked for commands", format_args!("{} x {}", created.count, batch.kind.name()));
    Ok((StatusCode::ACCEPTED, Answer(created.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(body: Value) -> Result<Asked, String> {
        let request: CommandRequest = serde_json::from_value(body).map_err(|e| e.to_string())?;
        Asked::read(request).map_err(|e| e.to_string())
    }

    #[test]
    fn a_request_names_a_kind_and_its_hosts() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let some = asked(json!({"kind": "report_now", "host_ids": [b, a, b]})).unwrap();
        assert_eq!(some.target, Target::Hosts(vec![b, a]));
        assert_eq!(asked(json!({"kind": "report_now", "all": true})).unwrap().target, Target::All);
    }

    #[test]
    fn what_cannot_be_asked_is_named() {
        let why = |body: Value| asked(body).unwrap_err();
        let id = Uuid::nil();
        assert!(why(json!({"kind": "reboot", "all": true})).contains("report_now"));
        assert!(why(json!({"kind": "report_now"})).contains("host_ids or all"));
        assert!(why(json!({"kind": "report_now", "all": true, "host_ids": [id]})).contains("host_ids or all"));
        assert!(why(json!({"kind": "report_now", "host_ids": []})).contains("host_ids"));
        assert!(why(json!({"kind": "report_now", "host_ids": vec![id; 10_001]})).contains("10000"));
        assert!(why(json!({"kind": "report_now", "all": true, "expires_in": 0})).contains("expires_in"));
        assert!(why(json!({"kind": "report_now", "all": true, "spread_secs": 90_000})).contains("spread_secs"));
        assert!(why(json!({"kind": "report_now", "all": true, "expires": 5})).contains("`expires`"));
        assert!(why(json!({"kind": "report_now", "all": true, "payload": {"x": 1}})).contains('x'));
    }

    #[test]
    fn a_retry_is_the_same_request_in_any_order() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let hash = |body: Value| asked(body).unwrap().hash();
        let first = hash(json!({"kind": "compliance_scan", "host_ids": [a, b]}));
        assert_eq!(
            first,
            hash(json!({"kind": "compliance_scan", "host_ids": [b, a], "payload": {"profile_type": "all"}}))
        );
        assert_ne!(first, hash(json!({"kind": "compliance_scan", "host_ids": [a]})));
        assert_ne!(first, hash(json!({"kind": "compliance_scan", "host_ids": [a, b], "expires_in": 60})));
        assert_ne!(first, hash(json!({"kind": "compliance_scan", "all": true})));
    }

    #[test]
    fn an_idempotency_key_is_short_text() {
        let with = |key: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("idempotency-key", key.parse().unwrap());
            idempotency_key(&headers)
        };
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
        assert_eq!(with("abc").unwrap().as_deref(), Some("abc"));
        assert!(with("").is_err() && with("ä").is_err() && with(&"x".repeat(201)).is_err());
    }
}
