//! bcrypt takes a fifth of a second: it runs here, a few at a time and off the async threads, or not at all.

use std::sync::Arc;

use secrecy::zeroize::Zeroizing;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics::Metrics;

/// Cost of passwords.
const PASSWORD_COST: u32 = 12;
/// Cost of agents' keys, as the servers that agents know use it (protocol 1.1): 256 random bits need no more.
const KEY_COST: u32 = 10;

/// Longest password that is hashed whole, in bytes. bcrypt reads 72, of which the last ends the text.
pub const PASSWORD_MAX_BYTES: usize = 71;

/// Everything is busy and the queue is full: nothing was done. Callers answer 503.
#[derive(Debug, thiserror::Error)]
#[error("the bcrypt pool is full")]
pub struct PoolFull;

/// A bounded number of bcrypt runs at once, and a bounded number that wait.
pub struct BcryptPool {
    /// One permit for each that runs or waits.
    places: Arc<Semaphore>,
    /// One permit for each that runs.
    threads: Arc<Semaphore>,
    capacity: (usize, usize),
    metrics: Arc<Metrics>,
}

/// A thread that is free for one run. Whoever drops it instead has cost nothing.
pub(super) struct Turn {
    _place: Place,
    _thread: OwnedSemaphorePermit,
}

/// A place in the pool, running or waiting.
struct Place {
    _permit: OwnedSemaphorePermit,
    metrics: Arc<Metrics>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.bcrypt_queued(-1);
    }
}

impl BcryptPool {
    /// `threads` run at once (one at least), `queue` more may wait.
    #[must_use]
    pub fn new(threads: usize, queue: usize, metrics: Arc<Metrics>) -> Self {
        let threads = threads.max(1);
        let places = threads.saturating_add(queue).min(Semaphore::MAX_PERMITS);
        Self {
            places: Arc::new(Semaphore::new(places)),
            threads: Arc::new(Semaphore::new(threads)),
            capacity: (places, threads),
            metrics,
        }
    }

    /// Is this the secret behind the hash? A malformed hash is nobody's: false.
    ///
    /// # Errors
    /// [`PoolFull`], before any work.
    pub async fn verify(&self, secret: String, hash: String) -> Result<bool, PoolFull> {
        let secret = Zeroizing::new(secret);
        self.turn().await?.verify(secret, hash).await
    }

    /// Hashes a password. The caller refuses those above [`PASSWORD_MAX_BYTES`]; none is ever cut.
    ///
    /// # Errors
    /// [`PoolFull`], before any work, and for what cannot be hashed.
    pub async fn hash(&self, secret: String) -> Result<String, PoolFull> {
        self.hash_at(secret, PASSWORD_COST).await
    }

    /// Hashes an agent's key, at the lower cost of keys.
    ///
    /// # Errors
    /// As [`Self::hash`].
    pub async fn hash_key(&self, key: String) -> Result<String, PoolFull> {
        self.hash_at(key, KEY_COST).await
    }

    /// How many wait for a thread now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        let (places, threads) = self.capacity;
        let inside = places.saturating_sub(self.places.available_permits());
        inside.saturating_sub(threads.saturating_sub(self.threads.available_permits()))
    }

    async fn hash_at(&self, secret: String, cost: u32) -> Result<String, PoolFull> {
        let secret = Zeroizing::new(secret);
        let turn = self.turn().await?;
        let hashed = turn.run(move || ::bcrypt::non_truncating_hash(secret.as_bytes(), cost)).await?;
        hashed.map_err(|error| {
            tracing::error!(%error, "a secret could not be hashed");
            PoolFull
        })
    }

    /// Waits for a thread. A caller that goes away meanwhile frees its place.
    pub(super) async fn turn(&self) -> Result<Turn, PoolFull> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| PoolFull)?;
        self.metrics.bcrypt_queued(1);
        let place = Place { _permit: permit, metrics: Arc::clone(&self.metrics) };
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| PoolFull)?;
        Ok(Turn { _place: place, _thread: thread })
    }
}

impl Turn {
    /// As [`BcryptPool::verify`].
    pub(super) async fn verify(self, secret: Zeroizing<String>, hash: String) -> Result<bool, PoolFull> {
        self.run(move || ::bcrypt::verify(secret.as_bytes(), &hash).unwrap_or(false)).await
    }

    /// Once begun, a run cannot be stopped: it keeps its turn to its end, whether or not the caller still waits.
    async fn run<T: Send + 'static>(self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, PoolFull> {
        let run = tokio::task::spawn_blocking(move || {
            let _turn = self;
            work()
        });
        run.await.map_err(|error| {
            tracing::error!(%error, "a bcrypt run did not end");
            PoolFull
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    fn pool(queue: usize) -> BcryptPool {
        BcryptPool::new(1, queue, Arc::new(Metrics::new().unwrap()))
    }

    async fn run(pool: &BcryptPool, work: impl FnOnce() + Send + 'static) -> bool {
        match pool.turn().await {
            Ok(turn) => turn.run(work).await.is_ok(),
            Err(PoolFull) => false,
        }
    }

    fn cheap(secret: &str) -> String {
        ::bcrypt::hash(secret, 4).unwrap()
    }

    /// A run that lasts until the sender is dropped.
    fn blocker() -> (mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (hold, wait) = mpsc::channel::<()>();
        (hold, move || _ = wait.recv())
    }

    async fn until(mut met: impl FnMut() -> bool) {
        tokio::time::timeout(Duration::from_secs(10), async {
            while !met() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn every_spelling_of_the_version_is_verified() {
        let pool = pool(4);
        let hash = cheap("right");
        for version in ["$2a$", "$2b$", "$2x$", "$2y$"] {
            let spelt = format!("{version}{}", &hash[4..]);
            assert!(pool.verify("right".into(), spelt.clone()).await.unwrap(), "{version}");
            assert!(!pool.verify("wrong".into(), spelt).await.unwrap(), "{version}");
        }
    }

    #[tokio::test]
    async fn a_malformed_hash_is_nobodys() {
        let pool = pool(4);
        for hash in ["", "$2b$", "$2b$10$short", "plaintext", &"ä".repeat(30), &format!("$2z${}", &cheap("x")[4..])] {
            assert!(!pool.verify("x".into(), hash.into()).await.unwrap(), "{hash:?}");
        }
    }

    #[tokio::test]
    async fn what_it_hashes_it_verifies_and_what_is_too_long_is_never_cut() {
        let pool = pool(4);
        let longest = "p".repeat(PASSWORD_MAX_BYTES);
        let hash = pool.hash_key(longest.clone()).await.unwrap();
        assert!(hash.starts_with("$2b$10$"));
        assert!(pool.verify(longest.clone(), hash).await.unwrap());
        assert!(pool.hash_key(longest + "p").await.is_err());
    }

    #[tokio::test]
    async fn a_full_pool_refuses_at_once() {
        let pool = Arc::new(pool(1));
        let mut held = Vec::new();
        let mut runs = Vec::new();
        for _ in 0..2 {
            let (hold, work) = blocker();
            held.push(hold);
            let pool = Arc::clone(&pool);
            runs.push(tokio::spawn(async move { run(&pool, work).await }));
        }
        until(|| pool.places.available_permits() == 0).await;
        assert_eq!(pool.waiting(), 1);
        assert!(pool.verify("x".into(), cheap("x")).await.is_err());
        drop(held);
        for run in runs {
            assert!(run.await.unwrap());
        }
        until(|| pool.places.available_permits() == 2).await;
        assert!(pool.verify("x".into(), cheap("x")).await.unwrap());
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_while_it_waits_frees_its_place() {
        let pool = Arc::new(pool(1));
        let (hold, work) = blocker();
        let running = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { run(&pool, work).await }
        });
        until(|| pool.threads.available_permits() == 0).await;
        let waiting = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { run(&pool, || ()).await }
        });
        until(|| pool.waiting() == 1).await;
        waiting.abort();
        until(|| pool.waiting() == 0).await;
        drop(hold);
        assert!(running.await.unwrap());
    }
}
