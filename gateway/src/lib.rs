//! Sockets and HTTP: agents, API clients, browsers. Knows no job's implementation.
//!
//! One router, one table of routes ([`api::routes`]), the pages of [`dashboard`], one place for upgrades ([`socket`]), one accept loop ([`server`]).

pub mod admin;
pub mod agent;
pub mod api;
mod app;
pub mod dashboard;
pub mod facts;
mod limit;
pub mod metrics;
pub mod presence;
pub mod server;
mod settings;
pub mod socket;
pub mod terminal;

pub use app::{App, Shared};
pub use server::Gateway;
pub use settings::{Settings, TerminalSettings};
