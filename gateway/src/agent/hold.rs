//! What agents post only once is held while the store is away: they do not try a 503 again (protocol 6-10), so a
//! result that is refused is lost until the next one.
//!
//! Room is taken before a body is read: who finds none waits unread, in the kernel's buffers, not in memory.

use std::{sync::Arc, time::Duration};

use store::StoreError;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// How long a post waits for the store. Agents themselves give up after 30 s (protocol 6-10).
pub(super) const HELD: Duration = Duration::from_secs(20);

/// First and longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Room for bodies that are read, being stored, or waiting to be.
pub(super) struct Hold {
    /// One permit a KiB.
    room: Arc<Semaphore>,
    whole_kib: u32,
}

impl Hold {
    /// Room for so many bytes.
    pub(super) fn new(bytes: usize) -> Self {
        let whole_kib = kib(bytes).min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        let room = Arc::new(Semaphore::new(usize::try_from(whole_kib).unwrap_or(1)));
        Self { room, whole_kib }
    }

    /// Waits for room for a body of so many bytes; one larger than all there is takes all of it. `None` when there was
    /// none in time.
    pub(super) async fn room_for(&self, bytes: usize, until: Instant) -> Option<OwnedSemaphorePermit> {
        let room = Arc::clone(&self.room).acquire_many_owned(kib(bytes).min(self.whole_kib));
        tokio::time::timeout_at(until, room).await.ok()?.ok()
    }
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).max(1)
}

/// Does an error pass by itself?
pub(super) trait Passing {
    /// Is it worth another attempt?
    fn passing(&self) -> bool;
}

impl Passing for StoreError {
    fn passing(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Attempts until it is done, fails for good, or the time is over. The last error is the answer.
pub(super) async fn patiently<T, E, F, A>(until: Instant, stopping: &CancellationToken, mut attempt: A) -> Result<T, E>
where
    E: Passing,
    F: Future<Output = Result<T, E>>,
    A: FnMut() -> F,
{
    let mut pause = PAUSES.0;
    loop {
        let error = match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if !error.passing() || Instant::now() + pause > until {
            return Err(error);
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSES.1),
            () = stopping.cancelled() => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn away() -> StoreError {
        StoreError::Unavailable("test".into())
    }

    fn within(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[tokio::test]
    async fn a_store_that_comes_back_in_time_loses_nothing() {
        let attempts = AtomicU32::new(0);
        let done = patiently(within(10_000), &CancellationToken::new(), || {
            let n = attempts.fetch_add(1, Ordering::Relaxed);
            async move { if n < 3 { Err(away()) } else { Ok(n) } }
        })
        .await;
        assert_eq!(done.ok(), Some(3));
    }

    #[tokio::test]
    async fn one_that_stays_away_is_waited_for_so_long_and_no_longer() {
        let begun = Instant::now();
        let failed: Result<(), _> = patiently(within(300), &CancellationToken::new(), || async { Err(away()) }).await;
        assert!(failed.is_err_and(|e| e.passing()));
        assert!(begun.elapsed() >= PAUSES.0 * 2);
        assert!(begun.elapsed() < Duration::from_secs(5), "paced by its end, not by its pauses");
    }

    #[tokio::test]
    async fn what_does_not_pass_is_not_tried_again() {
        let attempts = AtomicU32::new(0);
        let failed: Result<(), _> = patiently(within(10_000), &CancellationToken::new(), || {
            attempts.fetch_add(1, Ordering::Relaxed);
            async { Err(StoreError::Corrupt("test".into())) }
        })
        .await;
        assert!(failed.is_err());
        assert_eq!(attempts.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn stopping_ends_the_wait() {
        let stopping = CancellationToken::new();
        stopping.cancel();
        let begun = Instant::now();
        let failed: Result<(), _> = patiently(within(60_000), &stopping, || async { Err(away()) }).await;
        assert!(failed.is_err());
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn room_is_bounded_and_waited_for() {
        let hold = Hold::new(10 << 10);
        let first = hold.room_for(9 << 10, within(100)).await;
        assert!(first.is_some());
        assert!(hold.room_for(2 << 10, within(100)).await.is_none());
        assert!(hold.room_for(0, within(100)).await.is_some());
        let next = hold.room_for(2 << 10, within(10_000));
        let (next, ()) = tokio::join!(next, async { drop(first) });
        assert!(next.is_some());
        drop(next);
        assert!(hold.room_for(1 << 30, within(10_000)).await.is_some(), "a body larger than all takes all");
    }
}
