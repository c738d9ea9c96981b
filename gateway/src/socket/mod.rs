//! WebSockets: the one place where upgrades are routed, and the only module that names fastwebsockets.
//!
//! fastwebsockets does the handshake and encodes frames; [`reader`] reads them, [`connection`] is the loop that alone
//! touches a socket, and a session ([`agent_session`], [`dashboard_session`], [`terminal_session`]) decides without IO what to do.

mod agent_session;
pub mod client;
mod connection;
mod dashboard;
mod dashboard_session;
mod outbox;
mod reader;
mod session;
mod terminal;
mod terminal_session;
mod upgrade;

pub use outbox::Outbox;
pub use upgrade::{is_upgrade, upgrade};
