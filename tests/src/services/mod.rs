//! Servers that a suite needs beside ours, each a real one in a folder and on an address of its own. One that is not
//! installed fails the test: `scripts/setup` brings it.

pub mod nats;
pub mod proxy;
