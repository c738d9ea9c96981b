//! The fleet simulator: scripted PatchMon agents of both generations, and what they remember of a server.
//!
//! It is the demo of the README, the load of the benchmarks and the peer of the suites in `it/`. It follows the protocol
//! and the recordings in `wire/`, and uses none of our own crates.
//!
//! - [`fleet::Fleet`] starts and stops many agents and waits for what they have done;
//! - [`agent::Agent`] is one host: its start, its socket, its reports and scans, its chosen misbehaviour;
//! - [`log::FrameLog`] is what the hosts really got and really did, for comparing with what a server claims;
//! - [`admin::Admin`] is the other side: a logged-in API client that makes hosts and asks for commands;
//! - [`stream::Stream`] asks for commands at a steady rate, and [`claims`] holds rows against what the hosts saw;
//! - [`raw::Wire`] is a peer by hand, byte for byte, which may break every rule;
//! - [`terminal::Terminal`] is a browser's terminal, with a screen;
//! - [`services`] are the servers of others that ours stands on, started for a suite.

pub mod admin;
pub mod agent;
pub mod backoff;
pub mod claims;
pub mod credentials;
pub mod fleet;
pub mod generation;
pub mod internal;
pub mod log;
pub mod loopback;
pub mod message;
pub mod misbehaviour;
pub mod raw;
pub mod recording;
pub mod server;
pub mod services;
pub mod socket;
#[cfg(test)]
mod standin;
pub mod stream;
pub mod summary;
pub mod terminal;
pub mod timing;
