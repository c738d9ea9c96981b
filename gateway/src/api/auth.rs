//! Logging in and out (protocol 4.1).

use axum::{
    Json as Answer,
    extract::State,
    http::{Extensions, HeaderMap, HeaderName, HeaderValue, header},
};
use axum_extra::extract::cookie::Cookie;
use schemas::timestamp::rfc3339;
use serde::{Deserialize, Serialize};
use store::{Account, NewSession};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    body::Json,
    client::{Peer, client_address, is_secure},
    error::ApiError,
    revocation::revoke,
    session::{Caller, IDLE_SECS, LIFETIME_SECS, cookie},
    token::Claims,
};
use crate::{App, limit::whose};

/// Nobody's hash, at the cost of passwords: a login for an unknown name takes as long as one with a wrong password.
const NOBODYS_HASH: &str = "$2b$12$.....................................................";

/// Longest User-Agent kept with a session, in characters.
const USER_AGENT_MAX: usize = 256;

/// Name and password.
#[derive(Deserialize, ToSchema)]
pub struct LoginRequest {
    /// Whatever its case.
    username: String,
    password: String,
    /// Answer without the token: the cookie alone carries it, out of reach of scripts.
    #[serde(default)]
    cookie_only: bool,
}

/// A session was opened.
#[derive(Serialize, ToSchema)]
pub struct LoggedIn {
    /// For `Authorization: Bearer`; left out when the cookie alone was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    user: User,
}

/// A user.
#[derive(Serialize, ToSchema)]
pub struct User {
    id: Uuid,
    username: String,
    role: String,
    /// Names of what the role may do.
    permissions: Vec<&'static str>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    last_login_at: Option<String>,
}

impl User {
    fn of(account: Account) -> Self {
        Self {
            id: account.id,
            username: account.username,
            role: account.role.name,
            permissions: account.role.permissions.into_iter().map(store::Permission::name).collect(),
            created_at: rfc3339(account.created_at),
            last_login_at: account.last_login_at.map(rfc3339),
        }
    }
}

/// The user of this request, and until when at most.
#[derive(Serialize, ToSchema)]
pub struct Me {
    user: User,
    /// RFC 3339.
    session_expires_at: String,
}

/// Words for people.
#[derive(Serialize, ToSchema)]
pub struct Said {
    message: &'static str,
}

/// A header that sets or removes the cookie.
type SetCookie = [(HeaderName, HeaderValue); 1];

fn set_cookie(cookie: &Cookie<'static>) -> Result<SetCookie, ApiError> {
    let value = HeaderValue::from_str(&cookie.to_string()).map_err(|e| ApiError::Internal(e.to_string()))?;
    Ok([(header::SET_COOKIE, value)])
}

/// `POST /auth/login`.
///
/// # Errors
/// 401 for a wrong name or password alike, 429 after too many of them from an address, 503 when the store is away or the
/// bcrypt pool is full; never 401 for our own trouble.
pub async fn login(
    State(app): State<App>,
    extensions: Extensions,
    headers: HeaderMap,
    Json(request): Json<LoginRequest>,
) -> Result<(SetCookie, Answer<LoggedIn>), ApiError> {
    let peer = Peer::of(&extensions);
    let address = client_address(&app.settings, &peer, &headers);
    app.api.logins.take(&whose(address)).map_err(|wait| {
        app.metrics.login("rate_limited");
        ApiError::TooMany(wait)
    })?;
    let checked = check(&app, &request.username, request.password).await;
    if !matches!(checked, Ok(None)) {
        app.api.logins.give_back(&whose(address));
    }
    let outcome = match &checked {
        Ok(Some(_)) => "accepted",
        Ok(None) => "refused",
        Err(ApiError::Busy(_)) => "pool_full",
        Err(_) => "store_unavailable",
    };
    app.metrics.login(outcome);
    let Some(account) = checked? else {
        tracing::warn!(%address, "a login was refused");
        return Err(ApiError::Unauthorized { error: "Invalid credentials".to_owned(), reason: None });
    };
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let token = open(&app, &account, address.to_string(), agent).await?;
    tracing::info!(user = account.username, %address, "logged in");
    let cookie = cookie(Some(token.clone()), is_secure(&app.settings, &peer, &headers));
    let token = (!request.cookie_only).then_some(token);
    Ok((set_cookie(&cookie)?, Answer(LoggedIn { token, user: User::of(account) })))
}

/// The user, if name and password are right and the user may log in.
async fn check(app: &App, username: &str, password: String) -> Result<Option<Account>, ApiError> {
    let row = app.store.login(username.trim()).await?;
    let hash = row.as_ref().map_or(NOBODYS_HASH, |row| &row.password_hash).to_owned();
    let fits = app.agents.bcrypt.verify(password, hash).await?;
    Ok(row.filter(|row| fits && row.account.active).map(|row| row.account))
}

/// Opens a session and makes its token.
async fn open(app: &App, account: &Account, address: String, user_agent: &str) -> Result<String, ApiError> {
    let session = NewSession {
        id: Uuid::new_v4(),
        user_id: account.id,
        lifetime_ms: LIFETIME_SECS * 1_000,
        idle_ms: IDLE_SECS * 1_000,
        address,
        user_agent: user_agent.chars().take(USER_AGENT_MAX).collect(),
    };
    app.store.open_session(&session).await?;
    let iat = app.store.clock().now_ms() / 1_000;
    let claims = Claims { sub: account.id, session_id: session.id, iat, exp: iat + LIFETIME_SECS };
    app.api.tokens.issue(&claims).ok_or_else(|| ApiError::Internal("a token cannot be signed".to_owned()))
}

/// `POST /auth/logout`: the session ends, here and in every live socket of it.
///
/// # Errors
/// 503 when the store is away.
pub async fn logout(
    State(app): State<App>,
    caller: Caller,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<(SetCookie, Answer<Said>), ApiError> {
    app.store.revoke_session(caller.session_id).await?;
    revoke(app.bus.as_ref(), "session", caller.session_id, "logged out").await;
    let secure = is_secure(&app.settings, &Peer::of(&extensions), &headers);
    Ok((set_cookie(&cookie(None, secure))?, Answer(Said { message: "Logged out successfully" })))
}

/// `GET /auth/me`.
pub async fn me(caller: Caller) -> Answer<Me> {
    Answer(Me { session_expires_at: rfc3339(caller.expires_at), user: User::of(caller.account) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobodys_hash_costs_what_a_password_does_and_fits_nobody() {
        assert_eq!(NOBODYS_HASH.len(), 60);
        // `Err` would be answered without any work.
        assert!(!bcrypt::verify("", NOBODYS_HASH).unwrap());
    }

    #[test]
    fn a_login_needs_name_and_password_only() {
        let read =
            serde_json::from_str::<LoginRequest>(r#"{"username":"a","password":"b","remember_me":true}"#).unwrap();
        assert!(!read.cookie_only);
        assert!(serde_json::from_str::<LoginRequest>(r#"{"username":"a"}"#).is_err());
    }
}
