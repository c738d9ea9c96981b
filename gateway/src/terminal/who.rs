//! Whose terminal it is.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use schemas::TraceContext;
use store::{Host, NewAudit};
use uuid::Uuid;

/// A user with a terminal's socket on a host.
pub struct Who {
    /// The user.
    pub user_id: Uuid,
    /// The user's name.
    pub username: String,
    /// The login session.
    pub session_id: Uuid,
    /// Where the user is.
    pub address: IpAddr,
    /// The host, as it was when the socket was opened.
    pub host: Host,
    /// The request that opened the socket: what follows is part of its story.
    pub trace: Option<TraceContext>,
    /// Something was typed since this was asked last.
    pub typed: Arc<AtomicBool>,
}

impl Who {
    /// Somebody is there.
    pub fn types(&self) {
        self.typed.store(true, Ordering::Relaxed);
    }

    /// An entry of the audit log.
    #[must_use]
    pub fn audit(&self, event: &'static str, reason: Option<String>) -> NewAudit {
        NewAudit {
            event,
            user_id: Some(self.user_id),
            username: Some(self.username.clone()),
            address: self.address.to_string(),
            host_id: Some(self.host.facts.id),
            host_name: Some(self.host.name.clone()),
            session_id: None,
            mode: None,
            target: None,
            reason,
            duration_ms: None,
            bytes_in: None,
            bytes_out: None,
        }
    }
}
