//! Identifiers. Hosts, commands, batches, connections and gateways are UUIDs; an agent calls itself by its `api_id`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest `api_id` that is accepted, in bytes.
pub const API_ID_MAX: usize = 64;

/// The id an agent authenticates with (`X-Api-Id`, protocol 1.1): `[A-Za-z0-9_-]{1,64}`.
///
/// Only a value of this type ever becomes part of a bus subject, so no client can smuggle a wildcard or another
/// token into one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ApiId(Box<str>);

/// An `api_id` that is empty, too long, or holds a character outside `[A-Za-z0-9_-]`.
#[derive(Debug, thiserror::Error)]
#[error("an api_id is 1 to 64 characters of A-Z a-z 0-9 _ -")]
pub struct InvalidId;

impl ApiId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// [`InvalidId`] when the text is not `[A-Za-z0-9_-]{1,64}`.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let fits = !text.is_empty()
            && text.len() <= API_ID_MAX
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if fits { Ok(Self(text.into())) } else { Err(InvalidId) }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ApiId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<ApiId> for String {
    fn from(id: ApiId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for ApiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ApiId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_api_id_never_holds_a_subject_separator_or_wildcard() {
        for bad in ["", "a.b", "a*", ">", "a b", "ä", &"x".repeat(65)] {
            assert!(ApiId::parse(bad).is_err(), "{bad:?}");
        }
        for good in ["patchmon_0123456789abcdef", "A-b_9", &"x".repeat(64)] {
            assert!(ApiId::parse(good).is_ok(), "{good:?}");
        }
    }
}
