//! The dashboard: who gets in, what its socket shows and bears, when it ends, and which worker speaks.

mod access;
mod automation;
mod ends;
mod peer;
mod shows;
mod tickets;
mod workers;
