//! Why an agent is not let in, and what that is in HTTP.

use std::time::Duration;

use axum::http::StatusCode;
use store::StoreError;

use super::{PoolFull, hold::Passing};

/// Why somebody is not let in. The texts are the caller's: the socket's and HTTP's differ (protocol 1.1 and 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// No credentials at all.
    #[error("no credentials")]
    Missing,
    /// The id is none, is unknown, or the key is another: not told apart.
    #[error("wrong credentials")]
    Invalid,
    /// Too many failures from this address.
    #[error("too many failures from this address")]
    TooMany {
        /// When the next attempt is allowed.
        retry_after_secs: u64,
    },
    /// Too many keys are being checked.
    #[error("too many keys are being checked")]
    Busy,
    /// The store does not answer: our own trouble, never the caller's.
    #[error("the store is away")]
    Unavailable,
}

impl Reject {
    /// Its status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Invalid => StatusCode::UNAUTHORIZED,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Busy | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// `Retry-After` in seconds, for those that have one. After our own trouble a little different for each, so that
    /// those refused together do not come back together.
    #[must_use]
    pub fn retry_after_secs(self) -> Option<u64> {
        match self {
            Self::Missing | Self::Invalid => None,
            Self::TooMany { retry_after_secs } => Some(retry_after_secs),
            Self::Busy | Self::Unavailable => Some(again_secs()),
        }
    }

    pub(super) fn too_many(wait: Duration) -> Self {
        Self::TooMany { retry_after_secs: wait.as_secs() + 1 }
    }
}

/// When to try again after trouble of ours.
pub(super) fn again_secs() -> u64 {
    5 + u64::from(rand::random::<u8>() % 8)
}

impl From<PoolFull> for Reject {
    fn from(PoolFull: PoolFull) -> Self {
        Self::Busy
    }
}

impl From<StoreError> for Reject {
    fn from(error: StoreError) -> Self {
        match error {
            // Told once by whoever gives up; a held post asks many times.
            StoreError::Unavailable(_) => tracing::debug!(%error, "an agent could not be looked up"),
            StoreError::Conflict(_) | StoreError::Gone | StoreError::Corrupt(_) => {
                tracing::error!(%error, "an agent could not be looked up");
            }
        }
        Self::Unavailable
    }
}

impl Passing for Reject {
    fn passing(&self) -> bool {
        matches!(self, Self::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_trouble_is_never_401_and_says_when_to_come_back() {
        let lost = Reject::from(StoreError::Unavailable("test".into()));
        for ours in [Reject::from(PoolFull), lost, Reject::from(StoreError::Corrupt("test".into()))] {
            assert_eq!(ours.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(ours.retry_after_secs().is_some());
        }
        assert!(lost.passing());
        assert!(!Reject::Busy.passing() && !Reject::Invalid.passing());
        assert_eq!((Reject::Invalid.status(), Reject::Invalid.retry_after_secs()), (StatusCode::UNAUTHORIZED, None));
        let limited = Reject::too_many(Duration::from_millis(200));
        assert_eq!((limited.status().as_u16(), limited.retry_after_secs()), (429, Some(1)));
    }
}
