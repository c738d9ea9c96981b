//! New keys of agents. A key is shown once, in the answer that makes it; what is kept of it is a digest and a hash.

use std::fmt::Write as _;

use schemas::ApiId;
use store::NewKey;

use crate::agent::{BcryptPool, PoolFull, keys};

/// An api_id and its key, as agents are told them (protocol 1.1).
pub struct Credentials {
    /// `patchmon_` and 16 hex digits.
    pub api_id: ApiId,
    /// 64 hex digits.
    pub api_key: String,
}

impl Credentials {
    /// Random ones.
    #[must_use]
    pub fn generate() -> Self {
        let api_id = format!("patchmon_{}", hex::<8>());
        let api_id = ApiId::parse(&api_id).unwrap_or_else(|_| unreachable!("hex digits fit into an api_id"));
        Self { api_id, api_key: random_key() }
    }
}

/// A random key: 64 hex digits.
#[must_use]
pub fn random_key() -> String {
    hex::<32>()
}

/// What is kept of a key.
///
/// # Errors
/// [`PoolFull`].
pub async fn kept(pool: &BcryptPool, key: &str) -> Result<NewKey, PoolFull> {
    let hash = pool.hash_key(key.to_owned()).await?;
    Ok(NewKey { hash, digest: keys::digest(key) })
}

/// What is kept of a key that many others are made with: the digest alone, since a thousand bcrypt hashes would take a
/// minute. An empty hash fits no key.
#[must_use]
pub fn kept_as_digest(key: &str) -> NewKey {
    NewKey { hash: String::new(), digest: keys::digest(key) }
}

fn hex<const BYTES: usize>() -> String {
    let mut bytes = [0_u8; BYTES];
    rand::fill(&mut bytes);
    bytes.iter().fold(String::with_capacity(BYTES * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_look_as_agents_expect_them() {
        let (one, other) = (Credentials::generate(), Credentials::generate());
        assert_ne!(one.api_id, other.api_id);
        assert_ne!(one.api_key, other.api_key);
        assert_eq!(one.api_id.as_str().len(), "patchmon_".len() + 16);
        assert_eq!(one.api_key.len(), 64);
        assert!(one.api_key.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
        assert!(kept_as_digest(&one.api_key).digest.is_some());
    }
}
