//! A shell over SSH from the gateway to the host.

use std::sync::Arc;

use async_trait::async_trait;
use store::{HostSshKey, KeyCheck, NewAudit};
use tracing::Instrument as _;

use super::{
    message::Connect,
    shell::{Carried, Ended, Input, Typed},
    ssh::{self, Ask, HostKeys, Known, Login, Output, Shell, SshError},
    target,
    text::Decoder,
    who::Who,
};
use crate::App;

/// What the store knows of a host's key.
struct KeyBook {
    app: App,
    who: Arc<Who>,
    port: u16,
}

#[async_trait]
impl HostKeys for KeyBook {
    async fn known(&self) -> Option<String> {
        let keys = self.app.store.ssh_keys(self.who.host.facts.id).await.ok()?;
        keys.into_iter().find(|key: &HostSshKey| key.port == self.port).map(|key| key.key)
    }

    async fn check(&self, key: &str, fingerprint: &str) -> Option<Known> {
        let host = &self.who.host;
        match self.app.store.check_ssh_key(host.facts.id, self.port, key, fingerprint).await {
            Ok(KeyCheck::Same { first }) => {
                if first {
                    tracing::info!(
                        host = host.name,
                        port = self.port,
                        fingerprint,
                        "a host's SSH key is trusted from now on"
                    );
                }
                Some(Known::Same)
            }
            Ok(KeyCheck::Other { fingerprint: known }) => {
                tracing::warn!(
                    host = host.name,
                    port = self.port,
                    known,
                    shown = fingerprint,
                    "a host shows another SSH key"
                );
                let reason = format!("known {known}, shown {fingerprint}");
                let entry = NewAudit {
                    target: Some(format!("port {}", self.port)),
                    ..self.who.audit("ssh_host_key_changed", Some(reason))
                };
                if let Err(error) = self.app.store.audit(&entry).await {
                    tracing::error!(%error, "an audit entry is not stored");
                }
                Some(Known::Other(known))
            }
            Err(error) => {
                tracing::error!(%error, "a host's SSH key cannot be checked");
                None
            }
        }
    }
}

fn outcome(error: &SshError) -> &'static str {
    match error {
        SshError::Connect(_) | SshError::Broken(_) => "unreachable",
        SshError::Slow => "timeout",
        SshError::KeyChanged { .. } | SshError::Certificate => "host_key",
        SshError::KeysAway => "store_unavailable",
        SshError::NoLogin | SshError::Key(_) | SshError::Refused(_) => "refused",
        SshError::Shell(_) => "no_shell",
    }
}

async fn open(carried: &Carried, connect: &Connect, port: u16, legacy: bool) -> Result<Shell, Ended> {
    let report = carried.host.report.as_ref();
    let (ip, hostname) = report.map_or(("", ""), |report| (report.ip.as_str(), report.hostname.as_str()));
    let allowed = &carried.app.settings.terminals.ssh_allow;
    let addresses = target::resolve(allowed, ip, hostname, port).await;
    let addresses = addresses.map_err(|error| Ended::wrong("not_allowed", error.to_string()))?;
    let login = Login {
        username: connect.username.clone(),
        password: connect.password.clone(),
        private_key: connect.private_key.clone(),
        passphrase: connect.passphrase.clone(),
    };
    let keys = Arc::new(KeyBook { app: carried.app.clone(), who: Arc::clone(&carried.who), port });
    let (terminal, size) = (connect.terminal.as_str(), connect.size);
    let ask = Ask { addresses: &addresses, login: &login, terminal, size, legacy, keys };
    ssh::open(ask).await.map_err(|error| Ended::wrong(outcome(&error), error.to_string()))
}

/// Opens the shell and carries it until it ends.
pub async fn carry(carried: &mut Carried, connect: &Connect, port: u16, legacy: bool) -> Ended {
    let stop = carried.stop.clone();
    let shell = tokio::select! {
        shell = open(carried, connect, port, legacy).instrument(carried.story()) => shell,
        why = stop.wait() => return Ended::well(why, None),
    };
    let mut shell = match shell {
        Ok(shell) => shell,
        Err(ended) => return ended,
    };
    carried.opened().await;
    let mut text = Decoder::default();
    let mut waiting: Option<Typed> = None;
    loop {
        tokio::select! {
            // Reading pauses while the browser gets on, and goes on at the cost of older output when it stalls.
            told = async { carried.spool.room().await; shell.output.recv().await } => match told {
                Some(Output::Data(bytes)) => carried.output(&text.push(&bytes)),
                Some(Output::Exit(status)) => {
                    carried.output(&text.end());
                    return Ended::well("the shell ended", status);
                }
                None => {
                    carried.output(&text.end());
                    return Ended::wrong("broken", "SSH connection error");
                }
            },
            // A shell that does not read holds up what is typed, and nothing else.
            typed = carried.input.recv(), if waiting.is_none() => match typed {
                Some(typed) => waiting = Some(typed),
                None => return Ended::well(stop.why().unwrap_or_default(), None),
            },
            permit = shell.input.reserve(), if waiting.is_some() => match (permit, waiting.take()) {
                (Ok(permit), Some(typed)) => {
                    carried.typed(&typed);
                    permit.send(match typed.input {
                        Input::Keys(keys) => ssh::Input::Keys(keys.into_bytes()),
                        Input::Resize(size) => ssh::Input::Resize(size),
                    });
                }
                // What it told last comes first.
                (Err(_), _) | (_, None) => {}
            },
            why = stop.wait() => return Ended::well(why, None),
        }
    }
}
