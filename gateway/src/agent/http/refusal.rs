//! What an agent is told when it does not get what it wants: the one place where an error becomes an HTTP status here.

use axum::{
    Json,
    http::{
        HeaderValue, Method, StatusCode,
        header::{ALLOW, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use store::StoreError;

use super::super::reject::{Reject, again_secs};

/// Why a call is refused.
#[derive(Debug, PartialEq)]
pub(super) enum Refusal {
    /// No credentials.
    NoCredentials,
    /// Wrong ones.
    WrongCredentials,
    /// Too many wrong ones from the same address; seconds until the next may come.
    TooManyFailures(u64),
    /// Too many keys are being checked.
    Busy,
    /// Nothing here.
    NotFound(&'static str),
    /// The path takes another method.
    Method(Method),
    /// The body is over its limit.
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    /// The body is compressed.
    Encoded,
    /// The body makes no sense.
    Bad(&'static str),
    /// Fields of a report make no sense (protocol 3).
    Fields(Vec<Value>),
    /// Too many results within a minute; seconds until the next may come.
    TooManyScans(u64),
    /// The store is away, or there was no room to wait for it.
    Away,
    /// Our own fault.
    Internal,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        match reject {
            Reject::Missing => Self::NoCredentials,
            Reject::Invalid => Self::WrongCredentials,
            Reject::TooMany { retry_after_secs } => Self::TooManyFailures(retry_after_secs),
            Reject::Busy => Self::Busy,
            Reject::Unavailable => {
                tracing::warn!("an agent's call is refused: the store is away");
                Self::Away
            }
        }
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                tracing::warn!(%error, "an agent's call is refused");
                Self::Away
            }
            StoreError::Gone => Self::WrongCredentials,
            StoreError::Conflict(_) | StoreError::Corrupt(_) => {
                tracing::error!(%error, "an agent's call failed");
                Self::Internal
            }
        }
    }
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NoCredentials | Self::WrongCredentials => StatusCode::UNAUTHORIZED,
            Self::NotFound(_) => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Encoded => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Bad(_) | Self::Fields(_) => StatusCode::BAD_REQUEST,
            Self::TooManyFailures(_) | Self::TooManyScans(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Away => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn retry_after_secs(&self) -> Option<u64> {
        match self {
            Self::TooManyFailures(secs) | Self::TooManyScans(secs) => Some(*secs),
            Self::Busy | Self::Away => Some(again_secs()),
            _ => None,
        }
    }

    fn error(&self) -> &'static str {
        match self {
            Self::NoCredentials => "API credentials required",
            Self::WrongCredentials => "Invalid API credentials",
            Self::TooManyFailures(_) => "Too many failed attempts, please try again later",
            Self::Busy => "Too busy, please try again later",
            Self::Away => "Service unavailable, please try again later",
            Self::NotFound(error) | Self::Bad(error) => error,
            Self::Method(_) => "Method not allowed",
            Self::TooLarge => "Request body too large",
            Self::TooSlow => "Request body took too long",
            Self::Encoded => "Content-Encoding is not supported",
            Self::Fields(_) => "Invalid report",
            Self::TooManyScans(_) => "Too many scan submissions, please try again later",
            Self::Internal => "Internal server error",
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = match &self {
            Self::Fields(errors) => json!({ "errors": errors }),
            other => json!({ "error": other.error() }),
        };
        let mut response = (self.status(), Json(body)).into_response();
        if let Some(secs) = self.retry_after_secs() {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
        }
        if let Self::Method(method) = &self
            && let Ok(allow) = HeaderValue::from_str(method.as_str())
        {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shown(refusal: Refusal) -> (u16, Option<String>, Value) {
        let response = refusal.into_response();
        let retry = response.headers().get(RETRY_AFTER).map(|v| v.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
        (status, retry, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn texts_are_those_of_the_protocol() {
        for (refusal, status, error) in [
            (Refusal::NoCredentials, 401, "API credentials required"),
            (Refusal::WrongCredentials, 401, "Invalid API credentials"),
            (Refusal::TooManyScans(6), 429, "Too many scan submissions, please try again later"),
            (Refusal::TooLarge, 413, "Request body too large"),
        ] {
            let (is, _, body) = shown(refusal).await;
            assert_eq!((is, body), (status, json!({ "error": error })));
        }
    }

    #[tokio::test]
    async fn who_may_come_back_is_told_when() {
        for refusal in [Refusal::Away, Refusal::Busy, Refusal::TooManyFailures(3), Refusal::TooManyScans(6)] {
            assert!(shown(refusal).await.1.is_some());
        }
        let away = || StoreError::Unavailable("test".into());
        assert_eq!(Refusal::from(away()), Refusal::Away);
        assert_eq!(Refusal::from(Reject::from(away())), Refusal::Away);
        assert_eq!(shown(Refusal::Away).await.0, 503);
    }

    #[test]
    fn another_method_names_the_right_one() {
        let response = Refusal::Method(Method::POST).into_response();
        assert_eq!(response.status(), 405);
        assert_eq!(response.headers()[ALLOW], "POST");
    }
}
