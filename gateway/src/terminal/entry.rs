//! Who may open a terminal's socket on which host (protocol 2.2): whoever brings a ticket for it, a Bearer token, or the
//! cookie from a page of ours. All of them lead to a live session of a user who may use remote access.

use std::sync::{Arc, atomic::AtomicBool};

use axum::http::{StatusCode, request::Parts};
use bus::trace;
use store::Permission;
use uuid::Uuid;

use super::who::Who;
use crate::{
    App,
    agent::keys,
    api::{
        ApiError,
        allowance::{Allowance, Grounds},
        client::{Peer, client_address},
        origin::{Page, page},
        session::{Caller, Credential, authenticate, live},
    },
};

/// What whoever opens a terminal must be allowed to.
pub const NEEDS: Permission = Permission::UseRemoteAccess;

/// Somebody who may.
pub struct Entry {
    /// Who.
    pub who: Arc<Who>,
    grounds: Grounds,
}

impl Entry {
    /// Has someone watch over it.
    #[must_use]
    pub fn watch(&self, app: &App) -> Allowance {
        Allowance::watch(app, self.grounds, Some(Arc::clone(&self.who.typed)))
    }
}

/// Why not.
#[derive(Debug)]
pub enum Refused {
    /// With this status, and upstream's string.
    With(StatusCode, &'static str),
    /// Our own trouble.
    Trouble(ApiError),
}

const TICKET: Refused = Refused::With(StatusCode::UNAUTHORIZED, "Invalid or expired ticket");
const NOBODY: Refused = Refused::With(StatusCode::UNAUTHORIZED, "Authentication required");
const DENIED: Refused = Refused::With(StatusCode::FORBIDDEN, "Access denied");
const FOREIGN: Refused = Refused::With(StatusCode::FORBIDDEN, "CORS policy violation");
const NO_HOST: Refused = Refused::With(StatusCode::NOT_FOUND, "Host not found");

/// In upstream's words; what is our own trouble stays that.
fn plainly(error: ApiError, token: &'static str) -> Refused {
    match error {
        ApiError::Unauthorized { reason: Some("User inactive"), .. } => {
            Refused::With(StatusCode::UNAUTHORIZED, "User not found or inactive")
        }
        ApiError::Unauthorized { reason: Some(_), .. } => {
            Refused::With(StatusCode::UNAUTHORIZED, "Invalid or expired session")
        }
        ApiError::Unauthorized { .. } => Refused::With(StatusCode::UNAUTHORIZED, token),
        other => Refused::Trouble(other),
    }
}

/// A parameter of the query, decoded.
fn parameter(request: &Parts, name: &str) -> Option<String> {
    let query = request.uri.query()?;
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let value = pairs.find(|(key, _)| *key == name)?.1;
    // Tickets and tokens are made of letters that need no escapes.
    (!value.is_empty()).then(|| value.to_owned())
}

/// Who asks. `true`: by something that no browser adds by itself.
async fn caller(app: &App, request: &Parts, host: Option<Uuid>) -> Result<(Caller, bool), Refused> {
    if let Some(ticket) = parameter(request, "ticket") {
        let (digest, host) = (keys::digest(&ticket).ok_or(TICKET)?, host.ok_or(TICKET)?);
        let taken = app.store.take_ticket(&digest, Some(host)).await.map_err(|error| Refused::Trouble(error.into()))?;
        let taken = taken.ok_or(TICKET)?;
        let caller =
            live(app, taken.session_id, true).await.map_err(|error| plainly(error, "Invalid or expired ticket"))?;
        return Ok((caller, true));
    }
    let credential = match Credential::of(&request.headers) {
        Some(bearer @ Credential::Bearer(_)) => Some(bearer),
        other => {
            let token = app.settings.terminals.allow_token_query.then(|| parameter(request, "token")).flatten();
            token.map(Credential::Bearer).or(other)
        }
    };
    let credential = credential.ok_or(NOBODY)?;
    let caller = authenticate(app, &credential, true).await;
    let caller = caller.map_err(|error| plainly(error, "Invalid or expired token"))?;
    Ok((caller, matches!(credential, Credential::Bearer(_))))
}

/// Finds out who it is, and whether they may. What is denied to somebody is in the audit log.
///
/// # Errors
/// [`Refused`].
pub async fn enter(app: &App, peer: &Peer, request: &Parts, host_id: &str) -> Result<Entry, Refused> {
    let host_id = Uuid::try_parse(host_id).ok();
    let (caller, on_purpose) = caller(app, request, host_id).await?;
    let host = match host_id {
        Some(id) => app.store.host(id).await.map_err(|error| Refused::Trouble(error.into()))?,
        None => None,
    };
    let host = host.ok_or(NO_HOST)?;
    let who = Who {
        user_id: caller.account.id,
        username: caller.account.username.clone(),
        session_id: caller.session_id,
        address: client_address(&app.settings, peer, &request.headers),
        trace: trace::current(),
        typed: Arc::new(AtomicBool::new(false)),
        host,
    };
    // A page of others may open none, and a visitor's cookie alone is no word of the visitor's.
    let from = page(&app.settings, peer, &request.headers);
    let denied = if from == Page::Foreign || (from == Page::Unknown && !on_purpose) {
        Some((FOREIGN, "the request comes from another page"))
    } else if !caller.account.role.may(NEEDS) {
        Some((DENIED, "the role may not use remote access"))
    } else {
        None
    };
    if let Some((refused, reason)) = denied {
        tracing::warn!(user = who.username, host = who.host.name, client = %who.address, reason, "a terminal was denied");
        note(app, &who, "ssh_terminal_access_denied", Some(reason)).await?;
        return Err(refused);
    }
    // What nobody could look up later is not granted.
    note(app, &who, "ssh_terminal_access_granted", None).await?;
    let grounds = Grounds {
        session_id: who.session_id,
        user_id: who.user_id,
        host_id: Some(who.host.facts.id),
        needs: NEEDS,
        ends_at: caller.expires_at,
    };
    Ok(Entry { who: Arc::new(who), grounds })
}

async fn note(app: &App, who: &Who, event: &'static str, reason: Option<&str>) -> Result<(), Refused> {
    let entry = who.audit(event, reason.map(str::to_owned));
    app.store.audit(&entry).await.map_err(|error| Refused::Trouble(error.into()))
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    #[test]
    fn parameters_are_read_off_the_query() {
        let of = |uri: &str| parameter(&Request::get(uri).body(()).unwrap().into_parts().0, "ticket");
        assert_eq!(of("/api/v1/ssh-terminal/x?a=1&ticket=ab&token=c").as_deref(), Some("ab"));
        for none in ["/x", "/x?", "/x?ticket", "/x?ticket=", "/x?tickets=a"] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
