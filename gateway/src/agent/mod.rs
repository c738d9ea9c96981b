//! Agents: how they prove who they are, and what they ask and post over HTTP (protocol 1.1 and 3).
//!
//! The socket and every HTTP call authenticate by the same function, [`authenticate`]. The HTTP calls are told apart in
//! one place, [`http`]; the server asks [`handles`] before any other router.

mod auth;
pub mod bcrypt;
mod hold;
pub mod http;
pub mod keys;
mod reject;

use std::{net::IpAddr, sync::Arc, time::Duration};

use uuid::Uuid;

pub use auth::{Authenticated, authenticate};
pub use bcrypt::{BcryptPool, PoolFull};
pub use http::{handle, handles, is_agent_path};
pub use reject::Reject;

use self::hold::Hold;
use crate::{Settings, limit::Limit, metrics::Metrics};

/// Results a host may post a minute (protocol 3).
const SCANS_PER_MIN: u32 = 10;

/// What authentication and the agents' calls share.
pub struct Agents {
    /// Where bcrypt runs, for keys and passwords alike.
    pub bcrypt: BcryptPool,
    failures: Limit<IpAddr>,
    scans: Limit<Uuid>,
    hold: Hold,
    metrics: Arc<Metrics>,
}

impl Agents {
    /// Nobody has called yet.
    #[must_use]
    pub fn new(settings: &Settings, metrics: Arc<Metrics>) -> Self {
        let minute = Duration::from_secs(60);
        Self {
            bcrypt: BcryptPool::new(settings.bcrypt_threads, settings.bcrypt_queue, Arc::clone(&metrics)),
            failures: Limit::new(settings.agent_failures_per_min, minute),
            scans: Limit::new(SCANS_PER_MIN, minute),
            hold: Hold::new(settings.result_hold_bytes),
            metrics,
        }
    }
}
