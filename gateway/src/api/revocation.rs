//! What was taken away, told to every live socket and stream of this gateway. One subscription of the bus feeds them all.

use std::sync::Arc;

use bus::{BusError, BusStatus, Subscribe, publish_json};
use schemas::{message::Revoked, subject};
use tokio::sync::broadcast;
use uuid::Uuid;

use crate::App;

/// Revocations a listener may be behind; one that is further behind asks the store.
const CAPACITY: usize = 256;

/// Something was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// This session ended.
    Session(Uuid),
    /// Everything of this user.
    User(Uuid),
    /// This host was removed.
    Host(Uuid),
    /// This host's key was replaced.
    Key(Uuid),
    /// A role lost permissions: ask the store.
    Role,
    /// Some may have been missed while the bus was away: ask the store.
    Any,
}

impl Revocation {
    /// Reads `revoked.<what>.<id>`.
    fn of_subject(subject: &str) -> Option<Self> {
        let mut tokens = subject.split('.').skip(1);
        let (what, id) = (tokens.next()?, tokens.next()?.parse().ok());
        match what {
            "session" => id.map(Self::Session),
            "user" => id.map(Self::User),
            "host" => id.map(Self::Host),
            "key" => id.map(Self::Key),
            "role" => Some(Self::Role),
            _ => None,
        }
    }
}

/// Tells this gateway's listeners.
pub struct Revocations(broadcast::Sender<Revocation>);

impl Default for Revocations {
    fn default() -> Self {
        Self(broadcast::Sender::new(CAPACITY))
    }
}

impl Revocations {
    /// Listens from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Revocation> {
        self.0.subscribe()
    }

    /// Tells who listens here; over the bus it is [`revoke`] that tells all gateways.
    pub fn tell(&self, revocation: Revocation) {
        // Nobody may be listening.
        let _ = self.0.send(revocation);
    }
}

/// Tells every gateway, this one included: `what` is `user`, `session`, `role`, `host` or `key`. With the bus away the change
/// stands all the same, and live sockets find out when they look at the store again.
pub async fn revoke(bus: &dyn bus::Bus, what: &'static str, id: Uuid, reason: &str) {
    let revoked = Revoked { reason: reason.to_owned() };
    if let Err(error) = publish_json(bus, &subject::revoked(what, id), &revoked).await {
        tracing::warn!(%error, what, %id, "a revocation was not told; live sockets find out within a minute");
    }
}

/// Listens to the bus, until the process ends.
///
/// # Errors
/// When the bus is away.
pub(super) async fn start(app: &App) -> Result<(), BusError> {
    let mut heard = app.bus.subscribe(subject::ALL_REVOKED, Subscribe::all(CAPACITY * 16)).await?;
    let mut status = app.bus.status();
    let app = Arc::clone(app);
    let tasks = app.tasks.clone();
    tasks.spawn(async move {
        app.api.health.bus(*status.borrow_and_update());
        loop {
            tokio::select! {
                () = app.stopping.cancelled() => return,
                message = heard.next() => {
                    let Some(message) = message else { return };
                    match Revocation::of_subject(&message.subject) {
                        Some(revocation) => app.api.revocations.tell(revocation),
                        None => tracing::warn!(subject = %message.subject, "a revocation of an unknown kind"),
                    }
                }
                changed = status.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let is = *status.borrow_and_update();
                    app.api.health.bus(is);
                    // It was away in between, perhaps too briefly to be seen.
                    if is == BusStatus::Up {
                        app.api.revocations.tell(Revocation::Any);
                        app.api.events.gap();
                    }
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_say_what_was_revoked() {
        let id = Uuid::from_u128(5);
        let of = |what| Revocation::of_subject(&subject::revoked(what, id));
        assert_eq!(of("session"), Some(Revocation::Session(id)));
        assert_eq!(of("user"), Some(Revocation::User(id)));
        assert_eq!(of("host"), Some(Revocation::Host(id)));
        assert_eq!(of("key"), Some(Revocation::Key(id)));
        assert_eq!(of("role"), Some(Revocation::Role));
        assert_eq!(of("planet"), None);
        assert_eq!(Revocation::of_subject("revoked.session.x"), None);
        assert_eq!(Revocation::of_subject("revoked"), None);
    }
}
