//! What a gateway says and looks at again, because it may have been missed while the bus or the store was away: whom it
//! holds, and whether it still may.
//!
//! After an outage of the bus, in this order: *claims* with the epochs from before (newer connections elsewhere answer, ours
//! close), *hints* (a worker may have taken us for dead), *wakes* (who asked before our subscriptions were in force found
//! nobody), *keys* (a removal or a new key may have been told meanwhile). After an outage of the store, and once a minute:
//! hints and keys.

use std::{collections::HashSet, time::Duration};

use bus::{BusStatus, publish_json};
use schemas::{
    message::{Claim, CloseRequest},
    subject,
};
use store::StoreError;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use super::{GROUP, Held, Holdings, Parts, tell};
use crate::facts::announce_on;

/// How often it is said without a reason.
const EVERY: Duration = Duration::from_secs(60);
/// How often the store is looked at, so that its return is noticed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What did not work is tried again after this.
const RETRY: Duration = Duration::from_secs(1);

/// What is still to be said.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Owed {
    claims: bool,
    hints: bool,
    wakes: bool,
    keys: bool,
}

impl Owed {
    fn after_bus(&mut self) {
        *self = Self { claims: true, hints: true, wakes: true, keys: true };
    }

    fn after_store(&mut self) {
        self.hints = true;
        self.keys = true;
    }

    fn anything(self) -> bool {
        self != Self::default()
    }
}

/// Until the gateway has closed.
pub(super) async fn run(parts: Parts, held: Holdings) {
    let again = Again { parts, held };
    let mut status = again.parts.bus.status();
    status.mark_unchanged();
    let (mut owed, mut store_was_away) = (Owed::default(), false);
    let (mut due, mut look_at) = (Instant::now() + EVERY, Instant::now() + LOOK_EVERY);
    loop {
        tokio::select! {
            () = again.parts.closing.cancelled() => return,
            () = sleep_until(due) => {
                owed.after_store();
                due = Instant::now() + EVERY;
            }
            () = sleep_until(look_at) => {}
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                // However short it was: what was said in between is lost.
                if *status.borrow_and_update() == BusStatus::Up {
                    owed.after_bus();
                }
            }
        }
        if Instant::now() >= look_at {
            let away = again.parts.store.ping().await.is_err();
            if store_was_away && !away {
                owed.after_store();
            }
            store_was_away = away;
            look_at = Instant::now() + LOOK_EVERY;
        }
        if owed.anything()
            && let Err(error) = again.pay(&mut owed).await
        {
            tracing::warn!(%error, ?owed, "what this gateway holds is said again when the store is back");
            store_was_away = true;
            look_at = look_at.min(Instant::now() + RETRY);
        }
    }
}

struct Again {
    parts: Parts,
    held: Holdings,
}

impl Again {
    /// Pays as far as the store lets it; what is left is tried again.
    async fn pay(&self, owed: &mut Owed) -> Result<(), StoreError> {
        let held: Vec<(Uuid, Held)> = self.held.lock().iter().map(|(id, held)| (*id, held.clone())).collect();
        if std::mem::take(&mut owed.claims) {
            tracing::info!(agents = held.len(), "the bus is back: claiming what this gateway holds");
            self.claim(&held).await;
        }
        if owed.hints {
            self.hint(&held).await?;
            owed.hints = false;
        }
        if owed.wakes {
            for chunk in held.chunks(GROUP) {
                let ids: Vec<Uuid> = chunk.iter().map(|(id, _)| *id).collect();
                let woken = self.parts.store.wake_hosts(&ids).await?;
                announce_on(self.parts.bus.as_ref(), &woken).await;
            }
            owed.wakes = false;
        }
        if owed.keys {
            self.check_keys(&held).await?;
            owed.keys = false;
        }
        Ok(())
    }

    async fn claim(&self, held: &[(Uuid, Held)]) {
        for (_, Held { api_id, epoch, connection, .. }) in held {
            let claim = Claim { epoch: *epoch, gateway: self.parts.gateway_id, connection: *connection };
            if publish_json(self.parts.bus.as_ref(), &subject::agent_claim(api_id), &claim).await.is_err() {
                // Away again: its return begins anew.
                return;
            }
        }
    }

    async fn hint(&self, held: &[(Uuid, Held)]) -> Result<(), StoreError> {
        for chunk in held.chunks(GROUP) {
            let rows: Vec<(Uuid, i64, bool)> = chunk.iter().map(|(id, h)| (*id, h.epoch, h.secure)).collect();
            let changed = self.parts.store.assert_hints(self.parts.gateway_id, &rows).await?;
            let changed: HashSet<Uuid> = changed.into_iter().collect();
            let mut ghosts = Vec::new();
            for (host_id, epoch, secure) in rows.into_iter().filter(|(id, ..)| changed.contains(id)) {
                let still = self.held.lock().get(&host_id).is_some_and(|h| h.epoch == epoch);
                if still {
                    tell(&self.parts, host_id, true, secure).await;
                } else {
                    // It ended after we had looked, and its end was stored before our hint.
                    ghosts.push((host_id, epoch));
                }
            }
            if !ghosts.is_empty() {
                self.parts.store.disconnect_hosts(&ghosts).await?;
            }
        }
        Ok(())
    }

    async fn check_keys(&self, held: &[(Uuid, Held)]) -> Result<(), StoreError> {
        for chunk in held.chunks(GROUP) {
            let rows: Vec<(Uuid, i64)> = chunk.iter().map(|(id, h)| (*id, h.key_version)).collect();
            let stale: HashSet<Uuid> = self.parts.store.stale_keys(&rows).await?.into_iter().collect();
            for (_, Held { api_id, connection, .. }) in chunk.iter().filter(|(id, _)| stale.contains(id)) {
                let reason = "its key is no longer valid".to_owned();
                let request = CloseRequest { reason, connection: Some(*connection) };
                // One that gets lost is sent again in a minute.
                let _ = publish_json(self.parts.bus.as_ref(), &subject::agent_close(api_id), &request).await;
            }
        }
        Ok(())
    }
}
