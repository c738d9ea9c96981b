//! Someone who watches over a session for a socket that it opened: what is revoked ends the socket at once, what nobody
//! told of within a minute.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

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

/// The login session's time is over.
const OVER: &str = "Your session has expired";

/// How often the store is asked again.
const RECHECK: Duration = Duration::from_secs(60);

/// What a socket was opened with.
#[derive(Debug, Clone, Copy)]
pub struct Grounds {
    /// The login session.
    pub session_id: Uuid,
    /// Its user.
    pub user_id: Uuid,
    /// The host it is about, if it is about one.
    pub host_id: Option<Uuid>,
    /// What the user's role must have.
    pub needs: Permission,
    /// When it is over whatever else happens, milliseconds since the Unix epoch.
    pub ends_at: i64,
}

/// Watches until it is dropped.
pub struct Allowance {
    ended: CancellationToken,
    why: Arc<OnceLock<&'static str>>,
    watcher: AbortHandle,
}

impl Allowance {
    /// Begins to watch. What was revoked before is found by a first look at the store. `active`: is set when somebody did
    /// something, which keeps the login session alive.
    #[must_use]
    pub fn watch(app: &App, grounds: Grounds, active: Option<Arc<AtomicBool>>) -> Self {
        let (ended, why) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let revoked = app.api.revocations.subscribe();
        let (watching, told, said) = (app.clone(), ended.clone(), Arc::clone(&why));
        let watcher = app.tasks.spawn(async move {
            tokio::select! {
                because = watch(&watching, grounds, active, revoked) => {
                    let _ = said.set(because);
                    told.cancel();
                }
                // Whoever is watched over ends by itself.
                () = watching.stopping.cancelled() => {}
            }
        });
        Self { ended, why, watcher: watcher.abort_handle() }
    }

    /// Waits until it is no longer allowed, and says why.
    pub async fn ended(&self) -> &'static str {
        self.ended.cancelled().await;
        self.why.get().copied().unwrap_or(OVER)
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

/// Returns when it is no longer allowed, with why.
async fn watch(
    app: &App,
    grounds: Grounds,
    active: Option<Arc<AtomicBool>>,
    mut revoked: Receiver<Revocation>,
) -> &'static str {
    let left = grounds.ends_at - app.store.clock().now_ms();
    let over = Instant::now() + Duration::from_millis(u64::try_from(left).unwrap_or(0));
    let mut recheck = Instant::now();
    loop {
        tokio::select! {
            biased;
            heard = revoked.recv() => match heard {
                Ok(Revocation::Session(id)) if id == grounds.session_id => return "You have logged out",
                Ok(Revocation::User(id)) if id == grounds.user_id => return "Your account was changed or disabled",
                Ok(Revocation::Host(id)) if Some(id) == grounds.host_id => return "The host was removed",
                Ok(Revocation::Key(id)) if Some(id) == grounds.host_id => return "The host's key was replaced",
                Ok(Revocation::Session(_) | Revocation::User(_) | Revocation::Host(_) | Revocation::Key(_)) => {}
                Ok(Revocation::Role | Revocation::Any) | Err(RecvError::Lagged(_)) => recheck = Instant::now(),
                Err(RecvError::Closed) => return OVER,
            },
            () = sleep_until(over) => return OVER,
            () = sleep_until(recheck) => {
                recheck = Instant::now() + RECHECK;
                let touch = active.as_ref().is_some_and(|active| active.swap(false, Ordering::Relaxed));
                match session::live(app, grounds.session_id, touch).await {
                    Ok(caller) if caller.account.role.may(grounds.needs) => {}
                    Ok(_) => return "You may no longer do this",
                    Err(ApiError::Unauthorized { reason, .. }) => return match reason {
                        Some("Session revoked") => "You have logged out",
                        Some("Session inactive") => "Your session timed out",
                        Some("User inactive") => "Your account was disabled",
                        _ => OVER,
                    },
                    // The store is away and says neither: what was allowed a minute ago goes on.
                    Err(_) => {}
                }
                if let Some(host) = grounds.host_id && matches!(app.store.host(host).await, Ok(None)) {
                    return "The host was removed";
                }
            }
        }
    }
}
