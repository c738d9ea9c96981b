//! Who may see the dashboard (protocol 4.5): whoever brings the cookie that a ticket was exchanged for, or a Bearer token.
//! Either must lead to a live session of a user who may see dashboards; being there is not enough.

use axum::http::HeaderMap;
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use store::Permission;
use uuid::Uuid;

use crate::{
    App,
    agent::keys,
    api::{
        ApiError,
        allowance::{Allowance, Grounds},
        client::Peer,
        key::random_key,
        origin::{Page, page},
        session::{Caller, Credential, authenticate, live},
    },
};

/// The cookie.
pub const COOKIE: &str = "bull-board-session";
/// Where it is sent to.
const COOKIE_PATH: &str = "/bullboard";
/// How long a dashboard's session lasts, if its login session does.
const LIFETIME_SECS: i64 = 60 * 60;
/// What whoever looks must be allowed to.
pub const NEEDS: Permission = Permission::ViewDashboard;

/// Somebody who may look.
pub struct Entry {
    /// The login session behind it.
    pub session_id: Uuid,
    /// Its user's name.
    pub username: String,
    grounds: Grounds,
}

impl Entry {
    fn of(caller: Caller, ends_at: i64) -> Result<Self, ApiError> {
        if !caller.account.role.may(NEEDS) {
            return Err(refused());
        }
        let (session_id, user_id) = (caller.session_id, caller.account.id);
        let grounds = Grounds { session_id, user_id, host_id: None, needs: NEEDS, ends_at };
        Ok(Self { session_id, username: caller.account.username, grounds })
    }

    /// Has someone watch over it.
    pub fn watch(&self, app: &App) -> Allowance {
        Allowance::watch(app, self.grounds, None)
    }
}

fn refused() -> ApiError {
    ApiError::Unauthorized { error: "Authentication required".to_owned(), reason: None }
}

/// Whatever is wrong with who it is, the answer is the same; our own trouble stays ours.
fn plainly(error: ApiError) -> ApiError {
    match error {
        ApiError::Unauthorized { .. } => refused(),
        other => other,
    }
}

/// For a socket: a page of others may not use a visitor's cookie, nor open one at all.
///
/// # Errors
/// 401, 403 for another's page, 503 when the store is away.
pub async fn enter_socket(app: &App, peer: &Peer, headers: &HeaderMap) -> Result<Entry, ApiError> {
    let from = page(&app.settings, peer, headers);
    let bearer = matches!(Credential::of(headers), Some(Credential::Bearer(_)));
    if from == Page::Foreign || (from == Page::Unknown && !bearer && cookie_of(headers).is_some()) {
        return Err(ApiError::ForeignPage);
    }
    enter(app, headers, false).await
}

/// For a page. `touch`: somebody asked for it, which is activity.
///
/// # Errors
/// 401, 503 when the store is away.
pub async fn enter(app: &App, headers: &HeaderMap, touch: bool) -> Result<Entry, ApiError> {
    if let Some(bearer @ Credential::Bearer(_)) = Credential::of(headers) {
        let caller = authenticate(app, &bearer, touch).await.map_err(plainly)?;
        let ends_at = caller.expires_at;
        return Entry::of(caller, ends_at);
    }
    let digest = cookie_of(headers).and_then(|value| keys::digest(&value)).ok_or_else(refused)?;
    let row = app.store.dashboard(&digest).await?.ok_or_else(refused)?;
    let caller = live(app, row.session_id, touch).await.map_err(plainly)?;
    let ends_at = row.expires_at.min(caller.expires_at);
    Entry::of(caller, ends_at)
}

fn cookie_of(headers: &HeaderMap) -> Option<String> {
    CookieJar::from_headers(headers).get(COOKIE).map(|cookie| cookie.value().to_owned())
}

/// Exchanges a ticket for a dashboard's session; answers its cookie.
///
/// # Errors
/// 401 for a ticket that is none, was taken, is too old, or whose session is over; 503 when the store is away.
pub async fn exchange(app: &App, ticket: &str, secure: bool) -> Result<Cookie<'static>, ApiError> {
    let digest = keys::digest(ticket).ok_or_else(refused)?;
    let taken = app.store.take_ticket(&digest, None).await?.ok_or_else(refused)?;
    let secret = random_key();
    let digest = keys::digest(&secret).ok_or_else(|| ApiError::Internal("a random key has no digest".to_owned()))?;
    app.store.open_dashboard(&digest, taken.session_id, LIFETIME_SECS * 1_000).await?;
    let cookie = Cookie::build((COOKIE, secret))
        .path(COOKIE_PATH)
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(secure)
        .max_age(time::Duration::seconds(LIFETIME_SECS));
    Ok(cookie.build())
}
