//! Terminals through the host's agent: a browser at one end, a real sshd at the other, and between them one process, or two
//! gateways with a real NATS and a real PostgreSQL.

mod bulk;
mod losses;
mod refusals;
mod scene;
mod secrets;
mod shells;
