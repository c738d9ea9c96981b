//! A server's API as its clients use it. Tokens and tickets are part of no error.

use std::{error::Error as _, fmt, time::Duration};

use anyhow::{Context as _, bail};
use reqwest::{
    Certificate, Method, RequestBuilder, Response, StatusCode, Upgraded,
    header::{CONNECTION, LOCATION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE},
    redirect::Policy,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::{client::generate_key, derive_accept_key},
        protocol::{Role, WebSocketConfig},
    },
};

use super::{address::Base, plain};

/// Until the connection is there.
const CONNECT: Duration = Duration::from_secs(15);
/// For a whole request.
const ANSWER: Duration = Duration::from_secs(30);
/// The longest answer, in bytes: a page of hosts is far below it.
const ANSWER_MAX: usize = 16 << 20;
/// The longest message of a socket, in bytes.
const MESSAGE_MAX: usize = 1 << 20;

/// The server understood, and will not.
#[derive(Debug)]
pub struct Refused {
    /// The status of the answer.
    pub status: StatusCode,
    said: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said)
    }
}

impl std::error::Error for Refused {}

/// One server.
#[derive(Debug)]
pub struct Server {
    base: Base,
    http: reqwest::Client,
}

impl Server {
    /// Trusts the authorities of `ca` (PEM), or else the system's. Nothing is sent yet.
    ///
    /// # Errors
    /// When there is no authority to trust.
    pub fn new(base: Base, ca: Option<&str>) -> anyhow::Result<Self> {
        // A redirect would carry a password to wherever it points.
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("patchbay/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT)
            // One that waits while somebody types a password may be dead when it is needed.
            .pool_max_idle_per_host(0)
            .tcp_nodelay(true);
        if let Some(pem) = ca {
            builder = builder.tls_certs_only(authorities(pem)?);
        } else if !base.is_https() {
            // A system without authorities is fine then.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| anyhow::anyhow!("cannot use TLS: {}", cause(error)))?;
        Ok(Self { base, http })
    }

    /// Where it is.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// One request and its answer.
    ///
    /// # Errors
    /// [`Refused`] with the server's words, or why there is no answer.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
        token: Option<&SecretString>,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, self.base.route(path, query)?);
        if let Some(token) = token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let asking = async {
            let mut response = self.send(request).await?;
            let status = response.status();
            let redirected = redirected(&response);
            let text = self.body(&mut response).await?;
            if status.is_success() {
                return serde_json::from_slice(&text).map_err(|_| self.no_patchbay());
            }
            Err(refused(status, redirected, &text).into())
        };
        timeout(ANSWER, asking).await.map_err(|_| self.silent())?
    }

    /// Opens a WebSocket. Through the same client as everything else, so that the same certificates and proxies count.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn socket(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<WebSocketStream<Upgraded>> {
        let key = generate_key();
        let request = self
            .http
            .get(self.base.route(path, query)?)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, "websocket")
            .header(SEC_WEBSOCKET_VERSION, "13")
            .header(SEC_WEBSOCKET_KEY, &key);
        let opening = async {
            let mut response = self.send(request).await?;
            let status = response.status();
            if status != StatusCode::SWITCHING_PROTOCOLS {
                let redirected = redirected(&response);
                let text = self.body(&mut response).await?;
                return Err(refused(status, redirected, &text).into());
            }
            let accepted = response.headers().get(SEC_WEBSOCKET_ACCEPT).map(|value| value.as_bytes().to_vec());
            if accepted.as_deref() != Some(derive_accept_key(key.as_bytes()).as_bytes()) {
                return Err(self.no_patchbay());
            }
            response.upgrade().await.map_err(|error| self.unreachable(error))
        };
        let stream = timeout(ANSWER, opening).await.map_err(|_| self.silent())??;
        let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_MAX)).max_frame_size(Some(MESSAGE_MAX));
        Ok(WebSocketStream::from_raw_socket(stream, Role::Client, Some(config)).await)
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        request.send().await.map_err(|error| self.unreachable(error))
    }

    async fn body(&self, response: &mut Response) -> anyhow::Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            if all.len() + part.len() > ANSWER_MAX {
                bail!("the answer of {} is longer than {} MiB", self.base.as_str(), ANSWER_MAX >> 20);
            }
            all.extend_from_slice(&part);
        }
        Ok(all)
    }

    fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        anyhow::anyhow!("cannot reach {}: {}", self.base.as_str(), cause(error))
    }

    fn silent(&self) -> anyhow::Error {
        anyhow::anyhow!("{} does not answer within {} s", self.base.as_str(), ANSWER.as_secs())
    }

    fn no_patchbay(&self) -> anyhow::Error {
        anyhow::anyhow!("{} does not answer as Patchbay does; is it the right address?", self.base.as_str())
    }
}

/// The certificates of a PEM file.
///
/// # Errors
/// When there is none.
pub fn authorities(pem: &str) -> anyhow::Result<Vec<Certificate>> {
    let all = Certificate::from_pem_bundle(pem.as_bytes()).ok().filter(|all| !all.is_empty());
    all.context("no certificates in PEM form (-----BEGIN CERTIFICATE-----)")
}

fn redirected(response: &Response) -> Option<String> {
    let to = response.headers().get(LOCATION).filter(|_| response.status().is_redirection())?;
    Some(plain(to.to_str().unwrap_or_default()))
}

fn refused(status: StatusCode, redirected: Option<String>, body: &[u8]) -> Refused {
    let said = match (redirected, serde_json::from_slice::<Value>(body)) {
        (Some(to), _) => format!("the server is elsewhere, at {to}"),
        (None, Ok(body)) if body["error"].is_string() => {
            let words = ["error", "message"].map(|key| plain(body[key].as_str().unwrap_or_default()));
            words.iter().filter(|word| !word.is_empty()).map(String::as_str).collect::<Vec<_>>().join(": ")
        }
        _ => format!("the server answers {status}"),
    };
    Refused { status, said }
}

/// The innermost reason, without the address: its parameters may hold a ticket.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut inner = error.source();
    while let Some(error) = inner {
        text = error.to_string();
        inner = error.source();
    }
    plain(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_servers_words_and_no_control_characters() {
        let said = |status, body: &str| refused(status, None, body.as_bytes()).to_string();
        assert_eq!(said(StatusCode::UNAUTHORIZED, r#"{"error":"Invalid credentials"}"#), "Invalid credentials");
        assert_eq!(said(StatusCode::FORBIDDEN, r#"{"error":"No","message":"a\u001b[2J\nb"}"#), "No: a[2J b");
        assert_eq!(said(StatusCode::BAD_GATEWAY, "<html>"), "the server answers 502 Bad Gateway");
        assert_eq!(said(StatusCode::BAD_GATEWAY, "[1]"), "the server answers 502 Bad Gateway");
    }

    #[test]
    fn a_file_without_certificates_names_no_authority() {
        for wrong in ["", "hello", "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n"] {
            assert!(authorities(wrong).is_err(), "{wrong}");
        }
    }
}
