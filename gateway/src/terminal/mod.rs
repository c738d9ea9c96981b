//! Terminals: a browser's socket at one end, a shell at the other, directly over SSH or through the host's agent.
//!
//! ```text
//! socket (socket/terminal.rs) ⇄ shell.rs ⇄ direct.rs  ⇄ ssh/
//!                                        ⇄ proxied.rs ⇄ bus terminal.<id>.{in,out} ⇄ line.rs ⇄ the agent's connection
//! ```

mod direct;
pub mod entry;
pub mod line;
pub mod message;
pub mod pieces;
mod proxied;
pub mod recorder;
pub mod seal;
pub mod shell;
pub mod spool;
pub mod ssh;
pub mod target;
pub mod text;
pub mod who;

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::seal::Seal;
use crate::Settings;

/// Ctrl-C, as it is typed.
pub const INTERRUPT: &str = "\u{3}";

/// What the terminals of a gateway share.
pub struct Terminals {
    /// Seals credentials for the bus.
    pub seal: Seal,
    places: Arc<Semaphore>,
}

/// A place among the sockets that may be open.
pub type Place = OwnedSemaphorePermit;

impl Terminals {
    /// None is open.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let places = Arc::new(Semaphore::new(settings.terminals.sockets_max));
        Self { seal: Seal::new(&settings.secret), places }
    }

    /// A place for one more socket, if there is one.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }
}
