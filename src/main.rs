//! Patchbay: one binary with roles. This crate has the configuration, the command line, and the order of start and stop;
//! what a server does is in `gateway/`, `worker/` and the crates below them.

mod admin;
mod check;
mod cli;
mod client;
mod config;
mod data_dir;
mod limits;
mod logging;
mod parts;
mod password;
mod serve;
mod signals;
mod telemetry;
mod version;
mod wiring;

use std::process::ExitCode;

use clap::Parser as _;

/// A fleet that comes back at once needs 200 MB for a moment; glibc would keep most of it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    // Before anything can ask rustls for the process's provider. Only a second call fails.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.into()),
    };
    match runtime.block_on(cli::run(cli)) {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

/// Says what is wrong, and exit code 1.
fn failed(error: &anyhow::Error) -> ExitCode {
    cli::complain(error);
    ExitCode::FAILURE
}
