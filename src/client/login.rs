//! `patchbay login` and `patchbay logout`.

use std::{fs, path::Path};

use anyhow::{Context as _, bail};
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    address::Base,
    credentials::{Entry, Kept},
    http::{Refused, Server, authorities},
    plain, prompt,
    stop::Stop,
};

/// The longest file of authorities, in bytes: the system's own bundle fits.
const CA_MAX: u64 = 1 << 20;

/// Logs in and keeps what that gives. Answers `url` and `username`.
///
/// # Errors
/// In the server's words where it refuses.
pub async fn login(url: &str, username: Option<String>, ca: Option<&Path>) -> anyhow::Result<Value> {
    let base = Base::parse(url)?;
    let kept = Kept::locate(|name| std::env::var_os(name))?;
    let known = kept.read()?;
    let ca = match ca {
        Some(_) if !base.is_https() => bail!("--ca is for https:// only"),
        Some(path) => Some(authorities_of(path)?),
        None => known.entry(Some(&base)).ok().and_then(|entry| entry.ca.clone()),
    };
    let server = Server::new(base, ca.as_deref())?;
    let shown = server.base().as_str();
    if server.base().is_exposed() {
        eprintln!("patchbay: warning: the password goes to {shown} unencrypted; use https:// if you can");
    }
    let going = async {
        let username = match username {
            Some(username) => username,
            None => prompt::name("User name: ", "--username NAME").await?,
        };
        let password = prompt::password(format!("Password of {} at {shown}: ", plain(&username))).await?;
        log_in(&server, &username, &password).await
    };
    let stop = Stop::listen()?;
    let (token, username) = tokio::select! {
        logged_in = going => logged_in?,
        name = stop.named() => bail!("ended by {name}"),
    };
    let url = shown.to_owned();
    let done = json!({"url": url, "username": username});
    // As it is now: the password took its time.
    let mut credentials = kept.read()?;
    credentials.add(Entry { url, username, token, ca });
    kept.write(&credentials)?;
    Ok(done)
}

/// Asks for a token. Answers it, and the user's name as the server has it.
///
/// # Errors
/// As [`login`].
pub async fn log_in(
    server: &Server,
    username: &str,
    password: &SecretString,
) -> anyhow::Result<(SecretString, String)> {
    let body = json!({"username": username, "password": password.expose_secret()});
    let mut answer = server.call(Method::POST, "/api/v1/auth/login", &[], None, Some(&body)).await?;
    let Value::String(token) = answer["token"].take() else {
        bail!("{} answers the login without a token; is it the right address?", server.base().as_str());
    };
    let username = answer["user"]["username"].as_str().unwrap_or(username);
    Ok((token.into(), plain(username)))
}

/// Ends a login, the default one where no server is named. Answers `url`, whether the server was `told`, and if not
/// `why`.
///
/// # Errors
/// When there is no login, or it cannot be forgotten.
pub async fn logout(url: Option<&str>) -> anyhow::Result<Value> {
    let named = url.map(Base::parse).transpose()?;
    let kept = Kept::locate(|name| std::env::var_os(name))?;
    let mut credentials = kept.read()?;
    let entry = credentials.entry(named.as_ref())?.clone();
    let told = tell(&entry).await;
    credentials.remove(&entry.url);
    kept.write(&credentials)?;
    Ok(match told {
        Ok(()) => json!({"url": entry.url, "told": true}),
        Err(error) => json!({"url": entry.url, "told": false, "why": format!("{error:#}")}),
    })
}

async fn tell(entry: &Entry) -> anyhow::Result<()> {
    let server = Server::new(Base::parse(&entry.url)?, entry.ca.as_deref())?;
    match server.call(Method::POST, "/api/v1/auth/logout", &[], Some(&entry.token), None).await {
        // It has ended already.
        Err(error) if error.downcast_ref::<Refused>().is_some_and(|refused| refused.status == 401) => Ok(()),
        told => told.map(drop),
    }
}

fn authorities_of(path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let length = fs::metadata(path).with_context(|| format!("cannot read {shown}"))?.len();
    if length > CA_MAX {
        bail!("{shown} is longer than {} MiB", CA_MAX >> 20);
    }
    let pem = fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    authorities(&pem).with_context(|| shown.to_string())?;
    Ok(pem)
}
