//! Someone who watches over a session for a socket that it opened: what is revoked ends the socket at once, what nobody
//! told of within a minute.

use std::time::Duration;

use store::Permission;
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::AbortHandle,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{error::ApiError, revocation::Revocation, session};
use crate::App;

/// How often the store is asked again.
const RECHECK: Duration = Duration::from_secs(60);

/// What a socket was opened with.
#[derive(Debug, Clone, Copy)]
pub struct Grounds {
    /// The login session.
    pub session_id: Uuid,
    /// Its user.
    pub user_id: Uuid,
    /// What the user's role must have.
    pub needs: Permission,
    /// When it is over whatever else happens, milliseconds since the Unix epoch.
    pub ends_at: i64,
}

/// Watches until it is dropped.
pub struct Allowance {
    ended: CancellationToken,
    watcher: AbortHandle,
}

impl Allowance {
    /// Begins to watch. What was revoked before is found by a first look at the store.
    #[must_use]
    pub fn watch(app: &App, grounds: Grounds) -> Self {
        let ended = CancellationToken::new();
        let revoked = app.api.revocations.subscribe();
        let (watching, told) = (app.clone(), ended.clone());
        let watcher = app.tasks.spawn(async move {
            tokio::select! {
                () = watch(&watching, grounds, revoked) => told.cancel(),
                // Whoever is watched over ends by itself.
                () = watching.stopping.cancelled() => {}
            }
        });
        Self { ended, watcher: watcher.abort_handle() }
    }

    /// Waits until it is no longer allowed.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Returns when it is no longer allowed.
async fn watch(app: &App, grounds: Grounds, mut revoked: Receiver<Revocation>) {
    let left = grounds.ends_at - app.store.clock().now_ms();
    let over = Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0));
    let mut recheck = Instant::now();
    loop {
        tokio::select! {
            biased;
            heard = revoked.recv() => match heard {
                Ok(Revocation::Session(id)) if id == grounds.session_id => return,
                Ok(Revocation::User(id)) if id == grounds.user_id => return,
                Ok(Revocation::Session(_) | Revocation::User(_) | Revocation::Host(_)) => {}
                Ok(Revocation::Role | Revocation::Any) | Err(RecvError::Lagged(_)) => recheck = Instant::now(),
                Err(RecvError::Closed) => return,
            },
            () = sleep_until(over) => return,
            () = sleep_until(recheck) => {
                recheck = Instant::now() + RECHECK;
                match session::live(app, grounds.session_id, false).await {
                    Ok(caller) if caller.account.role.may(grounds.needs) => {}
                    Ok(_) | Err(ApiError::Unauthorized { .. }) => return,
                    // The store is away and says neither: what was allowed a minute ago goes on.
                    Err(_) => {}
                }
            }
        }
    }
}
