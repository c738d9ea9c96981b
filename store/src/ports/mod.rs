//! The ports: one trait a noun.

pub mod accounts;
pub mod commands;
pub mod hosts;
pub mod maintenance;
pub mod reports;
pub mod status;
pub mod tickets;
