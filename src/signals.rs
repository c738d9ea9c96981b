//! SIGTERM and SIGINT: the first asks for a stop in order, the second ends the process at once.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit status after a second signal, as a shell would report SIGINT.
const IMPATIENT: i32 = 130;

/// Listens from now on. `stop` is cancelled by the first signal, or by whoever else wants the process to stop.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn cancel_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::spawn(async move {
        let name = first_of(&mut terminate, &mut interrupt).await;
        if stop.is_cancelled() {
            tracing::info!(signal = name, "already stopping; one more signal ends the process at once");
        } else {
            tracing::info!(signal = name, "stopping; a second signal ends the process at once");
        }
        stop.cancel();
        let name = first_of(&mut terminate, &mut interrupt).await;
        tracing::warn!(signal = name, "second signal: ending at once");
        std::process::exit(IMPATIENT);
    });
    Ok(())
}

async fn first_of(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
