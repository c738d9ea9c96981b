//! `patchbay ssh`: a shell on a host, through the server, in this terminal.

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode, Upgraded};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::{sync::watch, time::timeout};
use tokio_tungstenite::WebSocketStream;

use super::{
    address::Base,
    credentials::{Entry, Kept},
    hosts::{self, Host},
    http::{Refused, Server},
    identity, plain, prompt,
    session::{self, Connect, End, Local, Size},
    stop::Stop,
    terminal,
};
use crate::cli::{SshArgs, complain};

/// Holds the password, for those who cannot be asked.
pub const PASSWORD: &str = "PATCHBAY_SSH_PASSWORD";
/// The exit status of whatever is not the remote shell's own, as of ssh.
const FAILED: u8 = 255;
/// `TERM` where there is none.
const TERMINAL: &str = "xterm-256color";
/// For the last output, after a session that did not end by itself.
const LAST_OUTPUT: Duration = Duration::from_secs(2);

/// Opens a shell and stays until it ends. Its exit status is that of the shell, or 255 when something went wrong.
pub async fn ssh(args: &SshArgs) -> ExitCode {
    match shell(args).await {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            complain(&error);
            ExitCode::from(FAILED)
        }
    }
}

async fn shell(args: &SshArgs) -> anyhow::Result<u8> {
    let stop = Stop::listen()?;
    let mut sizes = terminal::sizes().context("SIGWINCH")?;
    let (socket, host) = tokio::select! {
        opened = opened(args, &mut sizes) => opened?,
        name = stop.clone().named() => bail!("ended by {name}"),
    };
    let interactive = io::stdin().is_terminal();
    let restore = interactive.then(terminal::Restore::raw).transpose().context("cannot make the terminal raw")?;
    let (screen, written) = terminal::screen()?;
    let local = Local { keys: terminal::keys()?, screen, sizes, interactive };
    let end = session::carry(socket, local, stop.clone().named()).await;
    // What a reader of a pipe has not taken yet is waited for as long as it takes, if that is all of it.
    if matches!(end, End::Closed(_)) {
        tokio::select! {
            _ = written => {}
            _ = stop.named() => {}
        }
    } else {
        let _ = timeout(LAST_OUTPUT, written).await;
    }
    drop(restore);
    let ended = || {
        if interactive {
            eprintln!("Connection to {} closed.", plain(&host.name));
        }
    };
    match end {
        End::Closed(status) => {
            ended();
            Ok(status.map_or(0, |status| u8::try_from(status).unwrap_or(FAILED)))
        }
        End::Left => {
            ended();
            Ok(FAILED)
        }
        End::Stopped(name) => bail!("ended by {name}"),
        End::Failed(said) => bail!("{said}"),
    }
}

/// Everything until the shell is open.
async fn opened(
    args: &SshArgs,
    sizes: &mut watch::Receiver<Size>,
) -> anyhow::Result<(WebSocketStream<Upgraded>, Host)> {
    let (user, name) = target(&args.host, args.user.as_deref())?;
    let named = args.server.as_deref().map(Base::parse).transpose()?;
    let credentials = Kept::locate(|name| std::env::var_os(name))?.read()?;
    let entry = credentials.entry(named.as_ref())?;
    let server = Server::new(Base::parse(&entry.url)?, entry.ca.as_deref())?;
    let key = args.identity.as_deref().map(identity::read).transpose()?;
    let host = hosts::find(&server, &entry.token, name).await.map_err(|error| again(error, entry))?;
    let mut login = Login { password: None, key, passphrase: None };
    let asked_for = args.identity.as_deref().map(|path| format!("Passphrase of {}: ", path.display()));
    match (&login.key, &asked_for, std::env::var(PASSWORD)) {
        (Some(key), Some(question), _) if identity::is_encrypted(key) => {
            login.passphrase = Some(prompt::secret(question.clone()).await?);
        }
        (Some(_), ..) => {}
        (None, _, Ok(password)) if !password.is_empty() => login.password = Some(password.into()),
        (None, ..) => {
            let question = format!("Password of {} at {}: ", plain(user), plain(&host.name));
            let asked = prompt::secret(question).await;
            login.password = Some(asked.with_context(|| format!("use -i FILE or {PASSWORD}"))?);
        }
    }
    let term = std::env::var("TERM").ok().filter(|term| !term.is_empty());
    loop {
        let mut socket = socket(&server, entry, &host).await?;
        let size = *sizes.borrow_and_update();
        let connect = connect(args, user, term.as_deref().unwrap_or(TERMINAL), size, &login);
        match (session::open(&mut socket, &connect).await, &asked_for) {
            (Ok(()), _) => return Ok((socket, host)),
            (Err(error), Some(question))
                if login.passphrase.is_none() && identity::wants_passphrase(&error.to_string()) =>
            {
                login.passphrase = Some(prompt::secret(question.clone()).await?);
            }
            (Err(error), _) => return Err(error),
        }
    }
}

/// What the host is shown.
struct Login {
    password: Option<SecretString>,
    key: Option<SecretString>,
    passphrase: Option<SecretString>,
}

fn connect<'a>(args: &'a SshArgs, user: &'a str, terminal: &'a str, size: Size, login: &'a Login) -> Connect<'a> {
    fn shown(secret: &Option<SecretString>) -> Option<&str> {
        secret.as_ref().map(ExposeSecret::expose_secret)
    }
    Connect {
        connection_mode: if args.proxy { "proxy" } else { "direct" },
        username: user,
        port: args.port,
        terminal,
        size,
        password: shown(&login.password),
        private_key: shown(&login.key),
        passphrase: shown(&login.passphrase),
        proxy_host: args.proxy.then_some(args.proxy_host.as_str()),
        proxy_port: args.proxy.then_some(args.port),
    }
}

/// The user and the host of `[USER@]HOST` and `-l`; root where nobody is named.
fn target<'a>(host: &'a str, user: Option<&'a str>) -> anyhow::Result<(&'a str, &'a str)> {
    let (before, host) = match host.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, host),
    };
    if before.is_some_and(|before| user.is_some_and(|user| user != before)) {
        bail!("two users are named: {} and {}", plain(before.unwrap_or_default()), plain(user.unwrap_or_default()));
    }
    let user = user.or(before).unwrap_or("root");
    if host.is_empty() || user.is_empty() {
        bail!("expected HOST or USER@HOST");
    }
    Ok((user, host))
}

/// The socket of a host's terminal. It costs a ticket, good once and for a short time.
///
/// # Errors
/// In the server's words where it refuses.
pub async fn socket(server: &Server, entry: &Entry, host: &Host) -> anyhow::Result<WebSocketStream<Upgraded>> {
    let body = json!({"hostId": host.id});
    let ticket = server.call(Method::POST, "/api/v1/auth/ssh-ticket", &[], Some(&entry.token), Some(&body)).await;
    let mut ticket = ticket.map_err(|error| again(error, entry))?;
    let Value::String(ticket) = ticket["ticket"].take() else {
        bail!("{} gives no tickets for terminals", server.base().as_str());
    };
    server.socket(&format!("/api/v1/ssh-terminal/{}", host.id), &[("ticket", &ticket)]).await
}

/// A login that has ended is said to be one.
fn again(error: anyhow::Error, entry: &Entry) -> anyhow::Error {
    match error.downcast_ref::<Refused>() {
        Some(refused) if refused.status == StatusCode::UNAUTHORIZED => {
            anyhow::anyhow!("{refused}; log in again with `patchbay login {}`", entry.url)
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_stands_before_the_host_or_behind_l() {
        let read = |host, user| target(host, user).map(|(user, host)| format!("{user} {host}")).ok();
        assert_eq!(read("web", None).as_deref(), Some("root web"));
        assert_eq!(read("ann@web", None).as_deref(), Some("ann web"));
        assert_eq!(read("web", Some("ann")).as_deref(), Some("ann web"));
        assert_eq!(read("ann@web", Some("ann")).as_deref(), Some("ann web"));
        assert_eq!(read("ann@example@web", None).as_deref(), Some("ann@example web"));
        for wrong in ["", "@web", "ann@"] {
            assert_eq!(read(wrong, None), None, "{wrong}");
        }
        assert_eq!(read("ann@web", Some("bob")), None);
    }
}
