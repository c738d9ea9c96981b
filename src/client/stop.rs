//! Signals that end a command: heard instead of ending the process, so that the terminal is as it was afterwards.

use anyhow::Context as _;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

/// Whether one has come.
#[derive(Debug, Clone)]
pub struct Stop(watch::Receiver<Option<&'static str>>);

impl Stop {
    /// Listens from now on.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn listen() -> anyhow::Result<Self> {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mut quit = signal(SignalKind::quit()).context("SIGQUIT")?;
        let (came, watched) = watch::channel(None);
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = hangup.recv() => "SIGHUP",
                _ = interrupt.recv() => "SIGINT",
                _ = quit.recv() => "SIGQUIT",
            };
            let _ = came.send(Some(name));
            came.closed().await;
        });
        Ok(Self(watched))
    }

    /// Waits for one, and gives its name.
    pub async fn named(mut self) -> &'static str {
        match self.0.wait_for(Option::is_some).await.ok().and_then(|name| *name) {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}
