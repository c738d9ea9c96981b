//! The ports: one trait a noun.

pub mod accounts;
pub mod audit;
pub mod commands;
pub mod hosts;
pub mod maintenance;
pub mod recordings;
pub mod reports;
pub mod ssh_keys;
pub mod status;
pub mod terminals;
pub mod tickets;
