//! Admin commands over a Unix socket in the data directory: JSON lines, one request and one answer each.
//!
//! `{"op":"host_add","name":"web"}` is answered `{"ok":{…}}` or `{"error":"…"}`. Who may open the socket (mode 0600) may
//! do everything. What an operation does is the [`Executor`]'s; the same one runs without a socket when no server does.

mod client;
mod internal;
mod server;

use std::{future::Future, time::Duration};

use serde_json::Value;

pub use client::call;
pub use internal::drain;
pub use server::Server;

pub const SOCKET: &str = "admin.sock";

/// A line may be this long, its end included.
const MAX_LINE_BYTES: usize = 64 * 1024;
/// How long a client may take to send its request, and to read the answer.
const PEER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an operation may take.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);
/// Clients served side by side; further ones wait in the kernel's queue.
const MAX_CLIENTS: usize = 16;

/// Runs operations.
pub trait Executor: Send + Sync + 'static {
    /// `Err` is a line for people.
    fn run(&self, request: Value) -> impl Future<Output = Result<Value, String>> + Send;
}

#[cfg(test)]
mod tests;
