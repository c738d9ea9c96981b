//! Gateways that died. Each answers for itself on the bus; one that a hint names and that nobody answers for, twice, is
//! dead, and whom it held is not connected. That holds only while our own way to the bus is sound: after an outage the
//! gateways come back in any order.

use std::{sync::Arc, time::Duration};

use bus::{Bus, BusError, BusStatus, publish_json};
use bytes::Bytes;
use futures_util::future::join_all;
use schemas::{event::Event, subject};
use store::{Store, StoreError};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// How often the gateways are asked.
const EVERY: Duration = Duration::from_secs(3);
/// Between two questions to one that nobody answered for.
const TWICE: Duration = Duration::from_secs(1);
/// How long the bus must have been there without a break.
const SOUND: Duration = Duration::from_secs(10);
/// Questions under way at once.
const AT_ONCE: usize = 32;
/// What is said of terminals that were open on a dead one.
const GONE: &str = "the gateway is gone";

/// Asks until `stopping`.
pub async fn run(store: Arc<dyn Store>, bus: Arc<dyn Bus>, stopping: CancellationToken) {
    let mut sound = Sound::new(bus.status());
    loop {
        tokio::select! {
            () = stopping.cancelled() => return,
            () = sleep(EVERY) => {}
        }
        if let Err(error) = look(store.as_ref(), bus.as_ref(), &mut sound).await {
            tracing::warn!(%error, "dead gateways are looked for when the store is back");
        }
    }
}

async fn look(store: &dyn Store, bus: &dyn Bus, sound: &mut Sound) -> Result<(), StoreError> {
    if !sound.for_long() {
        return Ok(());
    }
    let silent = unanswered(bus, &store.gateways_hinted().await?).await;
    if silent.is_empty() {
        return Ok(());
    }
    sleep(TWICE).await;
    let dead = unanswered(bus, &silent).await;
    // A break in between, and nobody may have been found for reasons of our own.
    if !sound.for_long() {
        return Ok(());
    }
    for gateway in dead {
        let gone = store.clear_hints_of(gateway).await?;
        tracing::warn!(%gateway, hosts = gone.len(), "a gateway is dead: whom it held is not connected");
        let now = store.clock().now_ms();
        for host in gone {
            if let Ok(event) = Event::presence(host, false, false, now) {
                let _ = publish_json(bus, &subject::host_changed(host), &event).await;
            }
        }
        // Should this fail, the gateway is found again by them.
        let ended = store.end_terminals_of(Some(gateway), GONE).await?;
        if ended > 0 {
            tracing::warn!(%gateway, terminals = ended, "terminals of a dead gateway have ended");
        }
    }
    Ok(())
}

/// Those that are known not to be there. Silence is no proof of anything: it may be a gateway that is busy.
async fn unanswered(bus: &dyn Bus, gateways: &[Uuid]) -> Vec<Uuid> {
    let mut silent = Vec::new();
    for some in gateways.chunks(AT_ONCE) {
        let asked = some.iter().map(async |gateway| {
            let asked = bus.ask(&subject::gateway_alive(*gateway), Bytes::from_static(b"{}"), None).await;
            (asked.err() == Some(BusError::NoResponder)).then_some(*gateway)
        });
        silent.extend(join_all(asked).await.into_iter().flatten());
    }
    silent
}

/// Since when the bus is there without a break.
struct Sound {
    status: watch::Receiver<BusStatus>,
    since: Instant,
}

impl Sound {
    fn new(mut status: watch::Receiver<BusStatus>) -> Self {
        status.mark_unchanged();
        Self { status, since: Instant::now() }
    }

    fn for_long(&mut self) -> bool {
        // Seen late, a break counts from now.
        if self.status.has_changed().unwrap_or(true) || *self.status.borrow() != BusStatus::Up {
            self.status.mark_unchanged();
            self.since = Instant::now();
        }
        self.since.elapsed() >= SOUND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_bus_is_sound_after_ten_seconds_without_a_break() {
        let status = watch::Sender::new(BusStatus::Up);
        let mut sound = Sound::new(status.subscribe());
        assert!(!sound.for_long());
        tokio::time::advance(SOUND).await;
        assert!(sound.for_long());
        // A break that is over when it is looked at.
        status.send_replace(BusStatus::Down);
        status.send_replace(BusStatus::Up);
        assert!(!sound.for_long());
        tokio::time::advance(SOUND / 2).await;
        assert!(!sound.for_long());
        tokio::time::advance(SOUND / 2).await;
        assert!(sound.for_long());
        // One that goes on.
        status.send_replace(BusStatus::Down);
        assert!(!sound.for_long());
        tokio::time::advance(SOUND * 2).await;
        assert!(!sound.for_long());
        status.send_replace(BusStatus::Up);
        assert!(!sound.for_long());
        tokio::time::advance(SOUND).await;
        assert!(sound.for_long());
    }
}
