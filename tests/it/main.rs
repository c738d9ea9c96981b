//! The suites that run the real binary. `harness` starts it; every other module is one suite.

#![allow(clippy::unwrap_used, reason = "a test fails where its ground gives way")]

mod api;
mod auth;
mod check;
#[allow(dead_code, reason = "each suite takes what it needs")]
mod cli;
mod commands;
mod contract;
mod dashboard;
#[allow(dead_code, reason = "each suite takes what it needs")]
mod database;
mod events;
mod faults;
#[allow(dead_code, reason = "each suite takes what it needs")]
mod harness;
mod interleavings;
mod kills;
mod peers;
mod replay;
mod roles;
mod rules;
mod services;
mod startup;
mod telemetry;
mod terminals;
mod terminals_proxied;
mod tls;
