//! Adding, removing and changing hosts. What a change takes away is closed at once, wherever it is held.

use std::collections::HashSet;

use axum::{Json as Answer, extract::State, http::StatusCode};
use bus::publish_json;
use schemas::{ApiId, message::CloseRequest, subject};
use serde::{Deserialize, Serialize};
use store::{AddHost, IntegrationChange, NewKey};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{HostRow, Mode, checked_name};
use crate::{
    App,
    api::{
        body::{HostId, Json, NO_HOST},
        error::ApiError,
        key::{Credentials, kept, kept_as_digest, random_key},
        revocation::revoke,
        session::Caller,
    },
    facts::announce_on,
};

/// Most hosts of one request.
const NAMES_MAX: usize = 1_000;

/// One name, or many.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// One host.
    name: Option<String>,
    /// Up to 1,000.
    names: Option<Vec<String>>,
}

/// A host with its key. The key is shown this once.
#[derive(Serialize, ToSchema)]
pub struct AddedHost {
    pub id: Uuid,
    pub name: String,
    pub api_id: String,
    pub api_key: String,
}

/// What was added: one host for `name`, a list for `names`.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub enum Added {
    /// For `name`.
    One(AddedHost),
    /// For `names`.
    Many {
        /// In the order of the request.
        items: Vec<AddedHost>,
    },
}

/// What to change; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IntegrationsRequest {
    docker_enabled: Option<bool>,
    #[schema(inline)]
    compliance_mode: Option<Mode>,
    openscap_enabled: Option<bool>,
    docker_bench_enabled: Option<bool>,
}

/// `POST /hosts`: all or none.
///
/// # Errors
/// 400, 409 for a name that is taken, 503.
pub async fn add(
    State(app): State<App>,
    caller: Caller,
    Json(request): Json<AddRequest>,
) -> Result<(StatusCode, Answer<Added>), ApiError> {
    let added = match (request.name, request.names) {
        (Some(name), None) => {
            let (name, new) = (checked_name(&name)?, Credentials::generate());
            let key = kept(&app.agents.bcrypt, &new.api_key).await?;
            Added::One(insert(&app, vec![(name, new, key)]).await?.remove(0))
        }
        (None, Some(names)) => Added::Many { items: insert(&app, many(&names)?).await? },
        _ => return Err(ApiError::bad("either name or names must be given")),
    };
    let count = if let Added::Many { items } = &added { items.len() } else { 1 };
    caller.noted("added hosts", count);
    Ok((StatusCode::CREATED, Answer(added)))
}

fn many(names: &[String]) -> Result<Vec<(String, Credentials, NewKey)>, ApiError> {
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(ApiError::bad(format!("names must be 1 to {NAMES_MAX} names")));
    }
    let mut seen = HashSet::with_capacity(names.len());
    let one = |name: &String| {
        let name = checked_name(name)?;
        if !seen.insert(name.to_lowercase()) {
            return Err(ApiError::bad(format!("names holds {name:?} twice")));
        }
        let new = Credentials::generate();
        let key = kept_as_digest(&new.api_key);
        Ok((name, new, key))
    };
    names.iter().map(one).collect()
}

async fn insert(app: &App, hosts: Vec<(String, Credentials, NewKey)>) -> Result<Vec<AddedHost>, ApiError> {
    let mut rows = Vec::with_capacity(hosts.len());
    let mut added = Vec::with_capacity(hosts.len());
    for (name, new, key) in hosts {
        let id = Uuid::now_v7();
        rows.push(AddHost { id, name: name.clone(), api_id: new.api_id.clone(), key });
        added.push(AddedHost { id, name, api_id: new.api_id.into(), api_key: new.api_key });
    }
    app.store.add_hosts(&rows).await?;
    Ok(added)
}

/// `DELETE /hosts/{id}`: its socket is closed, its open commands end.
///
/// # Errors
/// 404, 503.
pub async fn remove(State(app): State<App>, caller: Caller, HostId(id): HostId) -> Result<StatusCode, ApiError> {
    let removed = app.store.remove_host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    close(app.bus.as_ref(), &removed.api_id, "host removed").await;
    revoke(app.bus.as_ref(), "host", id, "host removed").await;
    announce_on(app.bus.as_ref(), &removed.moved).await;
    caller.noted("removed a host", id);
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /hosts/{id}/rotate-key`: the old key is good for nothing, and who is connected with it is closed.
///
/// # Errors
/// 404, 503.
pub async fn rotate_key(
    State(app): State<App>,
    caller: Caller,
    HostId(id): HostId,
) -> Result<Answer<AddedHost>, ApiError> {
    let host = app.store.host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    let api_key = random_key();
    let key = kept(&app.agents.bcrypt, &api_key).await?;
    let api_id = app.store.rotate_key(id, &key).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    close(app.bus.as_ref(), &api_id, "key rotated").await;
    revoke(app.bus.as_ref(), "key", id, "key rotated").await;
    caller.noted("rotated the key of a host", id);
    Ok(Answer(AddedHost { id, name: host.name, api_id: api_id.into(), api_key }))
}

/// Closes the host's live socket, wherever it is. With the bus away the change stands all the same: the socket is
/// checked against the store when the bus is back.
pub async fn close(bus: &dyn bus::Bus, api_id: &ApiId, reason: &str) {
    let request = CloseRequest { reason: reason.to_owned(), connection: None };
    if let Err(error) = publish_json(bus, &subject::agent_close(api_id), &request).await {
        tracing::warn!(%error, %api_id, reason, "a socket was not told to close");
    }
}

/// `PUT /hosts/{id}/integrations`.
///
/// # Errors
/// 400, 404, 503.
pub async fn integrations(
    State(app): State<App>,
    caller: Caller,
    HostId(id): HostId,
    Json(request): Json<IntegrationsRequest>,
) -> Result<Answer<HostRow>, ApiError> {
    let change = IntegrationChange {
        docker_enabled: request.docker_enabled,
        compliance_mode: request.compliance_mode.map(Into::into),
        openscap_enabled: request.openscap_enabled,
        docker_bench_enabled: request.docker_bench_enabled,
    };
    if !app.store.set_integrations(id, &change).await? {
        return Err(ApiError::NotFound(NO_HOST));
    }
    caller.noted("changed the integrations of a host", id);
    let host = app.store.host(id).await?.ok_or(ApiError::NotFound(NO_HOST))?;
    Ok(Answer(host.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_are_checked_as_one_list() {
        let names = |n: &[&str]| n.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let made = many(&names(&["web", " db "])).unwrap();
        assert_eq!(made[1].0, "db");
        assert!(made.iter().all(|(_, _, key)| key.hash.is_empty() && key.digest.is_some()));
        for bad in [names(&[]), names(&["web", "WEB "]), names(&["a\u{1b}b"]), names(&[""]), vec!["x".into(); 1_001]] {
            assert!(many(&bad).is_err());
        }
    }
}
