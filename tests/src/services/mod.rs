//! Services of this machine that a suite or a benchmark starts for itself, in temp dirs, and that end with the process.

pub mod nats;
pub mod openssh;
pub mod postgres;
pub mod proxy;
