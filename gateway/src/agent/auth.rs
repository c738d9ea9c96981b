//! Who is calling: `X-Api-Id` and `X-Api-Key` (protocol 1.1), for the socket and for HTTP alike.
//!
//! A digest makes right and wrong keys cost a microsecond; ids that do not exist cost the same. Only hosts of which none
//! is stored yet need bcrypt, and only they can be refused because others failed: a correct digest always passes.

use std::net::IpAddr;

use axum::http::HeaderMap;
use schemas::ApiId;
use secrecy::zeroize::Zeroizing;
use store::{HostAuth, NewKey};

use super::{
    Agents,
    bcrypt::PASSWORD_MAX_BYTES,
    keys::{self, Stored},
    reject::Reject,
};
use crate::{
    App,
    limit::{Limit, whose},
};

const API_ID: &str = "x-api-id";
const API_KEY: &str = "x-api-key";

/// An agent that has proved who it is.
pub struct Authenticated {
    /// What is known of its host.
    pub host: HostAuth,
    /// What it calls itself.
    pub api_id: ApiId,
}

/// Checks a caller's credentials.
///
/// # Errors
/// [`Reject`]; nothing in it tells an unknown id from a wrong key.
pub async fn authenticate(app: &App, headers: &HeaderMap, client: IpAddr) -> Result<Authenticated, Reject> {
    let agents = &app.agents;
    let Some((id, key)) = credentials(headers)? else { return Err(agents.failed(client)) };
    let Ok(api_id) = ApiId::parse(id) else { return Err(agents.failed(client)) };
    let Some(host) = app.store.host_auth(&api_id).await? else {
        // The work of a wrong key, its outcome unused.
        std::hint::black_box(keys::digest_matches(keys::NOBODYS_DIGEST, key));
        agents.metrics.auth_path("unknown");
        return Err(agents.failed(client));
    };
    let stored = Stored::of(&host);
    agents.metrics.auth_path(stored.path());
    if let Stored::Digest(digest) = stored {
        if !keys::digest_matches(digest, key) {
            return Err(agents.failed(client));
        }
    } else {
        agents.check_slowly(stored, key, client).await?;
        keep(app, &host, key);
    }
    Ok(Authenticated { host, api_id })
}

/// The two headers; `None` when what they hold is no text. Empty ones are missing.
fn credentials(headers: &HeaderMap) -> Result<Option<(&str, &str)>, Reject> {
    let given = |name| headers.get(name).filter(|value| !value.is_empty()).ok_or(Reject::Missing);
    let (id, key) = (given(API_ID)?, given(API_KEY)?);
    Ok(id.to_str().ok().zip(key.to_str().ok()))
}

impl Agents {
    /// Counts a failure. Whoever has too many is told so.
    fn failed(&self, client: IpAddr) -> Reject {
        match self.failures.take(&whose(client)) {
            Ok(()) => Reject::Invalid,
            Err(wait) => Reject::too_many(wait),
        }
    }

    /// Checks a key of which no digest is stored. It counts as a failure from the start, so that many at once are
    /// bounded too, and no longer when it proves right or is not checked at all. A caller that goes away during the
    /// check gets none for free.
    async fn check_slowly(&self, stored: Stored<'_>, key: &str, client: IpAddr) -> Result<(), Reject> {
        let mut charge = Charge::take(&self.failures, whose(client))?;
        let right = match stored {
            Stored::Bcrypt(hash) => {
                let turn = self.bcrypt.turn().await?;
                charge.stays = true;
                turn.verify(Zeroizing::new(key.to_owned()), hash.to_owned()).await?
            }
            Stored::Plaintext(plaintext) => keys::plaintext_matches(plaintext, key),
            Stored::Digest(_) | Stored::Nothing => false,
        };
        charge.stays = !right;
        if right { Ok(()) } else { Err(Reject::Invalid) }
    }
}

/// A failure that is counted before it is one. Dropped, it counts only if it stays.
struct Charge<'a> {
    limit: &'a Limit<IpAddr>,
    client: IpAddr,
    stays: bool,
}

impl<'a> Charge<'a> {
    fn take(limit: &'a Limit<IpAddr>, client: IpAddr) -> Result<Self, Reject> {
        limit.take(&client).map_err(Reject::too_many)?;
        Ok(Self { limit, client, stays: false })
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        if !self.stays {
            self.limit.give_back(&self.client);
        }
    }
}

/// Keeps the digest of a key that has just proved right, and a bcrypt hash instead of plaintext. The caller does not
/// wait for it; if it fails, the next success tries again.
fn keep(app: &App, host: &HostAuth, key: &str) {
    let digest = keys::digest(key);
    let plaintext = matches!(Stored::of(host), Stored::Plaintext(_)) && key.len() <= PASSWORD_MAX_BYTES;
    if digest.is_none() && !plaintext {
        return;
    }
    let (app, host, key) = (app.clone(), host.clone(), Zeroizing::new(key.to_owned()));
    app.clone().tasks.spawn(async move {
        let hash = if plaintext {
            match app.agents.bcrypt.hash_key(key.to_string()).await {
                Ok(hash) => hash,
                Err(error) => return tracing::debug!(host_id = %host.id, %error, "a plaintext key stays for now"),
            }
        } else {
            host.key_hash
        };
        if let Err(error) = app.store.keep_digest(host.id, host.key_version, &NewKey { hash, digest }).await {
            tracing::debug!(host_id = %host.id, %error, "the digest of a key was not kept");
        }
    });
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, sync::Arc};

    use axum::http::HeaderValue;

    use super::*;
    use crate::{Settings, metrics::Metrics};

    fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_bytes(value).unwrap())).collect()
    }

    #[test]
    fn credentials_are_missing_when_either_header_is_missing_or_empty() {
        let found = headers(&[(API_ID, b"a"), (API_KEY, b"k")]);
        assert_eq!(credentials(&found).ok(), Some(Some(("a", "k"))));
        for missing in [
            headers(&[]),
            headers(&[(API_ID, b"a")]),
            headers(&[(API_KEY, b"k")]),
            headers(&[(API_ID, b""), (API_KEY, b"k")]),
            headers(&[(API_ID, b"a"), (API_KEY, b"")]),
        ] {
            assert!(matches!(credentials(&missing), Err(Reject::Missing)));
        }
    }

    #[test]
    fn credentials_that_are_no_text_are_wrong_not_missing() {
        let found = headers(&[(API_ID, b"a"), (API_KEY, b"\xff\xfe")]);
        assert!(matches!(credentials(&found), Ok(None)));
    }

    fn agents(failures: u32) -> Agents {
        let settings =
            Settings { agent_failures_per_min: failures, bcrypt_queue: 0, bcrypt_threads: 1, ..Settings::default() };
        Agents::new(&settings, Arc::new(Metrics::new().unwrap()))
    }

    const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

    #[tokio::test]
    async fn only_failures_count_and_too_many_are_told_so() {
        let agents = agents(2);
        for _ in 0..10 {
            assert!(agents.check_slowly(Stored::Plaintext("key"), "key", CLIENT).await.is_ok());
        }
        assert!(matches!(agents.failed(CLIENT), Reject::Invalid));
        assert!(matches!(agents.check_slowly(Stored::Plaintext("key"), "kex", CLIENT).await, Err(Reject::Invalid)));
        assert!(matches!(agents.failed(CLIENT), Reject::TooMany { retry_after_secs: 30.. }));
        let right = agents.check_slowly(Stored::Plaintext("key"), "key", CLIENT).await;
        assert!(matches!(right, Err(Reject::TooMany { .. })), "without a digest, failures stand in the way");
        let other = IpAddr::V4(Ipv4Addr::LOCALHOST);
        assert!(agents.check_slowly(Stored::Plaintext("key"), "key", other).await.is_ok());
    }

    #[tokio::test]
    async fn a_full_pool_is_no_failure_of_the_caller() {
        let agents = agents(1);
        let turn = agents.bcrypt.turn().await.unwrap();
        let hash = bcrypt::hash("key", 4).unwrap();
        for _ in 0..3 {
            let refused = agents.check_slowly(Stored::Bcrypt(&hash), "key", CLIENT).await;
            assert!(matches!(refused, Err(Reject::Busy)));
        }
        drop(turn);
        assert!(agents.check_slowly(Stored::Bcrypt(&hash), "key", CLIENT).await.is_ok());
        assert!(matches!(agents.check_slowly(Stored::Bcrypt(&hash), "kex", CLIENT).await, Err(Reject::Invalid)));
        assert!(matches!(agents.check_slowly(Stored::Bcrypt(&hash), "key", CLIENT).await, Err(Reject::TooMany { .. })));
    }
}
