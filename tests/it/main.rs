//! The suites that run the real binary. `harness` starts it; every other module is one suite.

#![allow(clippy::unwrap_used, reason = "a test fails where its ground gives way")]

mod contract;
#[allow(dead_code, reason = "each suite takes what it needs")]
mod harness;
mod replay;
mod rules;
