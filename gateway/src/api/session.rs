//! Who asks. A token comes as `Authorization: Bearer` or in the cookie `token`; where both are there the header counts,
//! because somebody wrote it on purpose. The session and the role behind it are read from the store each time.

use std::fmt::Display;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use axum_extra::extract::cookie::{Cookie, CookieJar, SameSite};
use store::{Account, SessionRow};
use uuid::Uuid;

use super::error::ApiError;
use crate::App;

/// The cookie.
pub const COOKIE: &str = "token";

/// How long a session lasts.
pub const LIFETIME_SECS: i64 = 12 * 60 * 60;

/// How long nothing may be heard of it.
pub const IDLE_SECS: i64 = 30 * 60;

/// A user with a live session.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The user, with the role as it is now.
    pub account: Account,
    /// The session.
    pub session_id: Uuid,
    /// When it ends at the latest, milliseconds since the Unix epoch.
    pub expires_at: i64,
}

impl Caller {
    /// Writes down what the user did, and to what.
    pub fn noted(&self, did: &'static str, what: impl Display) {
        let user = &self.account.username;
        tracing::info!(user, user_id = %self.account.id, %what, "{user} {did}");
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let found = parts.extensions.get::<Self>().cloned();
        found.ok_or_else(|| ApiError::Internal("a handler asks for the caller of a public route".to_owned()))
    }
}

/// A token, and how it came.
pub enum Credential {
    /// In the header: no browser adds it by itself.
    Bearer(String),
    /// In the cookie: a browser adds it to requests of any page.
    Cookie(String),
}

impl Credential {
    /// What the request brings, unchecked.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
        });
        match bearer {
            Some(token) => Some(Self::Bearer(token)),
            None => CookieJar::from_headers(headers).get(COOKIE).map(|cookie| Self::Cookie(cookie.value().to_owned())),
        }
    }

    fn token(&self) -> &str {
        match self {
            Self::Bearer(token) | Self::Cookie(token) => token,
        }
    }
}

/// The user behind a token. `touch`: this request is activity.
///
/// # Errors
/// 401 with the string of the protocol; 503 when the store is away.
pub async fn authenticate(app: &App, credential: &Credential, touch: bool) -> Result<Caller, ApiError> {
    let invalid = |error: super::token::TokenError| unauthorized(error.to_string(), None);
    let claims = app.api.tokens.verify(credential.token(), app.store.clock().now_ms()).map_err(invalid)?;
    let caller = live(app, claims.session_id, touch).await?;
    if caller.account.id != claims.sub {
        return Err(unauthorized("Invalid token", Some("Token mismatch")));
    }
    Ok(caller)
}

/// The user of a session, if it still is one.
///
/// # Errors
/// As [`authenticate`].
pub async fn live(app: &App, session_id: Uuid, touch: bool) -> Result<Caller, ApiError> {
    let row = app.store.session(session_id, touch).await?;
    check(row, app.store.clock().now_ms())
}

fn check(row: Option<SessionRow>, now: i64) -> Result<Caller, ApiError> {
    let Some(row) = row else {
        return Err(unauthorized("Session not found", Some("Session not found")));
    };
    if row.revoked_at.is_some() {
        return Err(unauthorized("Session has been revoked", Some("Session revoked")));
    }
    if now >= row.expires_at {
        return Err(unauthorized("Session has expired", Some("Session expired")));
    }
    if now >= row.idle_at {
        let minutes = IDLE_SECS / 60;
        let error = format!("Session timed out after {minutes} minutes of inactivity");
        return Err(unauthorized(error, Some("Session inactive")));
    }
    if !row.account.active {
        return Err(unauthorized("User account is inactive", Some("User inactive")));
    }
    Ok(Caller { account: row.account, session_id: row.id, expires_at: row.expires_at })
}

/// 401 for who brings no token.
#[must_use]
pub fn no_token() -> ApiError {
    unauthorized("Access token required", None)
}

fn unauthorized(error: impl Into<String>, reason: Option<&'static str>) -> ApiError {
    ApiError::Unauthorized { error: error.into(), reason }
}

/// The cookie with a token, or the one that removes it.
#[must_use]
pub fn cookie(token: Option<String>, secure: bool) -> Cookie<'static> {
    let max_age = time::Duration::seconds(if token.is_some() { LIFETIME_SECS } else { 0 });
    Cookie::build((COOKIE, token.unwrap_or_default()))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(secure)
        .max_age(max_age)
        .build()
}

#[cfg(test)]
mod tests {
    use store::Role;

    use super::*;

    fn row() -> SessionRow {
        let account = Account {
            id: Uuid::from_u128(1),
            username: "admin".into(),
            role: Role { name: "admin".into(), permissions: Vec::new() },
            active: true,
            created_at: 0,
            last_login_at: None,
        };
        SessionRow { id: Uuid::from_u128(2), account, expires_at: 1_000, idle_at: 500, revoked_at: None }
    }

    fn why(row: Option<SessionRow>, now: i64) -> Option<&'static str> {
        match check(row, now) {
            Ok(_) => None,
            Err(ApiError::Unauthorized { reason, .. }) => reason,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn each_end_of_a_session_has_its_reason() {
        assert_eq!(why(Some(row()), 499), None);
        assert_eq!(why(None, 0), Some("Session not found"));
        assert_eq!(why(Some(row()), 500), Some("Session inactive"));
        assert_eq!(why(Some(SessionRow { idle_at: 2_000, ..row() }), 1_000), Some("Session expired"));
        assert_eq!(why(Some(SessionRow { revoked_at: Some(1), ..row() }), 1_000), Some("Session revoked"));
        let mut inactive = row();
        inactive.account.active = false;
        assert_eq!(why(Some(inactive), 0), Some("User inactive"));
    }

    #[test]
    fn a_header_goes_before_the_cookie() {
        let with = |lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            match Credential::of(&headers) {
                Some(Credential::Bearer(token)) => format!("bearer {token}"),
                Some(Credential::Cookie(token)) => format!("cookie {token}"),
                None => "none".to_owned(),
            }
        };
        let cookie = ("cookie", "other=1; token=abc");
        assert_eq!(with(&[]), "none");
        assert_eq!(with(&[cookie]), "cookie abc");
        assert_eq!(with(&[cookie, ("authorization", "Bearer def")]), "bearer def");
        assert_eq!(with(&[cookie, ("authorization", "bearer  def")]), "bearer def");
        assert_eq!(with(&[cookie, ("authorization", "Basic dTpw")]), "cookie abc", "a proxy's own");
    }

    #[test]
    fn the_cookie_is_out_of_reach_of_scripts_and_other_sites() {
        let set = cookie(Some("abc".into()), true).to_string();
        assert_eq!(set, "token=abc; HttpOnly; SameSite=Strict; Secure; Path=/; Max-Age=43200");
        let plain = cookie(Some("abc".into()), false).to_string();
        assert!(!plain.contains("Secure"), "{plain}");
        assert!(cookie(None, true).to_string().contains("Max-Age=0"));
    }
}
