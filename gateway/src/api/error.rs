//! What went wrong, and the one place that makes an answer of it: a status and `{"error": …}`, with upstream's strings
//! where it has them (protocol 4).

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use store::{Permission, StoreError};
use uuid::Uuid;

use crate::agent::PoolFull;

/// Seconds until a client should try again what the store or the bcrypt pool could not take.
const AGAIN_SECS: u64 = 2;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// 400: the request says something that cannot be.
    #[error("{0}")]
    BadRequest(String),
    /// 400: there is no such queue, in upstream's words.
    #[error("Invalid queue name")]
    NoQueue,
    /// 401: nobody, or nobody any more.
    #[error("{error}")]
    Unauthorized {
        /// What the client is told.
        error: String,
        /// Which check of the session failed.
        reason: Option<&'static str>,
    },
    /// 403: the user may not.
    #[error("Insufficient permissions")]
    Forbidden(Permission),
    /// 403: the page may not.
    #[error("CORS policy violation")]
    ForeignPage,
    /// 404: there is no such thing.
    #[error("{0}")]
    NotFound(&'static str),
    /// 404: some hosts of many do not exist.
    #[error("Some hosts not found")]
    MissingHosts(Vec<Uuid>),
    /// 405.
    #[error("Method not allowed")]
    Method,
    /// 409: it exists already.
    #[error("{0} exists already")]
    Exists(&'static str),
    /// 413.
    #[error("Request body too large")]
    TooLarge,
    /// 422: the key was used for something else.
    #[error("This Idempotency-Key was used for another request")]
    OtherRequest,
    /// 429: not so often.
    #[error("Too many requests, please try again later")]
    TooMany(Duration),
    /// 429: every host that was asked for has too many open commands.
    #[error("All hosts have too many open commands")]
    AllFull(Vec<Uuid>),
    /// 500: our own fault; the text goes to the log only.
    #[error("Internal server error")]
    Internal(String),
    /// 503: the store is away.
    #[error("The store is unavailable, please try again")]
    Store(StoreError),
    /// 503: no room, or no time.
    #[error("{0}")]
    Busy(&'static str),
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(what) => Self::Exists(what),
            StoreError::Gone => Self::NotFound("Host not found"),
            StoreError::Corrupt(what) => Self::Internal(what),
            away @ StoreError::Unavailable(_) => Self::Store(away),
        }
    }
}

impl From<PoolFull> for ApiError {
    fn from(_: PoolFull) -> Self {
        Self::Busy("Too many password checks at once, please try again")
    }
}

impl ApiError {
    /// A 400 with this text.
    pub fn bad(text: impl Into<String>) -> Self {
        Self::BadRequest(text.into())
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self {
            Self::BadRequest(_) | Self::NoQueue => StatusCode::BAD_REQUEST,
            Self::Unauthorized { .. } => StatusCode::UNAUTHORIZED,
            Self::Forbidden(_) | Self::ForeignPage => StatusCode::FORBIDDEN,
            Self::NotFound(_) | Self::MissingHosts(_) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Exists(_) => StatusCode::CONFLICT,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::OtherRequest => StatusCode::UNPROCESSABLE_ENTITY,
            Self::TooMany(_) | Self::AllFull(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Store(_) | Self::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn retry_after_secs(&self) -> Option<u64> {
        match self {
            Self::TooMany(wait) => Some(wait.as_secs() + 1),
            Self::AllFull(_) => Some(60),
            Self::Store(_) | Self::Busy(_) => Some(AGAIN_SECS),
            _ => None,
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({"error": self.to_string()});
        match self {
            Self::Unauthorized { reason: Some(reason), .. } => body["reason"] = (*reason).into(),
            Self::Forbidden(permission) => {
                let what = permission.name().trim_start_matches("can_").replace('_', " ");
                body["message"] = format!("You don't have permission to {what}").into();
            }
            Self::NoQueue => body["success"] = false.into(),
            Self::MissingHosts(ids) => body["missingIds"] = json!(ids),
            Self::AllFull(ids) => body["skipped"] = json!(ids),
            Self::TooMany(_) => body["retryAfter"] = json!(self.retry_after_secs()),
            _ => {}
        }
        body
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        match &self {
            Self::Internal(what) => tracing::error!(error = what, "a request failed by our own fault"),
            Self::Store(error) => tracing::error!(%error, "a request was answered 503"),
            Self::Busy(what) => tracing::warn!(reason = what, "a request was answered 503"),
            _ => {}
        }
        let mut response = (self.status(), Json(self.body())).into_response();
        if let Some(secs) = self.retry_after_secs() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_is_away_is_never_the_clients_fault() {
        let response = ApiError::from(StoreError::Unavailable("locked".into())).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn bodies_carry_the_strings_of_the_protocol() {
        assert_eq!(
            ApiError::Forbidden(Permission::ManageHosts).body(),
            json!({"error": "Insufficient permissions", "message": "You don't have permission to manage hosts"})
        );
        let id = Uuid::nil();
        assert_eq!(
            ApiError::MissingHosts(vec![id]).body(),
            json!({"error": "Some hosts not found", "missingIds": [id]})
        );
        let wait = ApiError::TooMany(Duration::from_secs(5));
        assert_eq!(wait.body()["retryAfter"], 6);
        assert_eq!(ApiError::Internal("secret detail".into()).body(), json!({"error": "Internal server error"}));
    }
}
