//! What the NATS adapter must be told, and how its URL is read. Logins are taken out of the URL here, so that nothing
//! behind this module can print them.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use secrecy::SecretString;

/// How to reach NATS.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The servers, and the login if the URL has one.
    pub url: NatsUrl,
    /// A login that stands in a file.
    pub login_file: Option<LoginFile>,
    /// Whom to trust, PEM. Unset: the system's certificates.
    pub tls_ca: Option<PathBuf>,
    /// Our own certificate chain and its key, PEM.
    pub tls_client: Option<(PathBuf, PathBuf)>,
    /// Stands before every subject, so that several installations can share one NATS.
    pub prefix: SubjectPrefix,
    /// Connections that the agents' subscriptions are spread over, beside the one for everything else. Each is at most
    /// one core's work.
    pub agent_connections: usize,
    /// What the server's lists of clients show.
    pub name: String,
    /// How long logins may be refused after an outage before the bus counts as closed for good.
    pub refused_for: Duration,
    /// How long the first connection may take.
    pub start_within: Duration,
}

impl NatsOptions {
    /// The defaults for a URL.
    #[must_use]
    pub fn new(url: NatsUrl) -> Self {
        Self {
            url,
            login_file: None,
            tls_ca: None,
            tls_client: None,
            prefix: SubjectPrefix::default(),
            agent_connections: 1,
            name: "patchbay".to_owned(),
            refused_for: Duration::from_secs(10),
            start_within: Duration::from_secs(10),
        }
    }

    /// Whoever names certificates wants TLS, whatever the server offers.
    pub(super) fn wants_tls(&self) -> bool {
        self.tls_ca.is_some() || self.tls_client.is_some()
    }
}

/// A login that stands in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginFile {
    /// The seed of an nkey.
    Nkey(PathBuf),
    /// JWT and seed, as `nsc` writes them.
    Credentials(PathBuf),
}

/// A login that stands in the URL.
#[derive(Debug, Clone)]
pub(super) enum UrlLogin {
    Password { user: String, password: SecretString },
    Token(SecretString),
}

/// `nats://user:password@host:4222,nats://other:4222`: one or more servers that have the same login. `tls://` insists on
/// TLS. A lone user is a token. Printed without the login.
#[derive(Debug, Clone)]
pub struct NatsUrl {
    /// Each as `scheme://host` or `scheme://host:port`.
    servers: Vec<String>,
    login: Option<UrlLogin>,
}

impl NatsUrl {
    /// Reads a URL.
    ///
    /// # Errors
    /// What is wrong with it, without repeating any of it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut url = Self { servers: Vec::new(), login: None };
        let mut logins = Vec::new();
        for one in text.split(',').map(str::trim).filter(|one| !one.is_empty()) {
            let (scheme, rest) = one.split_once("://").unwrap_or(("nats", one));
            if !matches!(scheme, "nats" | "tls") {
                return Err("the scheme of each server must be nats or tls");
            }
            let (login, host) = match rest.rsplit_once('@') {
                Some((login, host)) => (Some(login), host),
                None => (None, rest),
            };
            let host = host.strip_suffix('/').unwrap_or(host);
            let server = format!("{scheme}://{host}");
            let plain = !host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '?' | '#' | '@'));
            let read = server.parse::<async_nats::ServerAddr>();
            if !plain || read.is_err() || read.is_ok_and(|server| server.host().is_empty()) {
                return Err("each server must be a host and perhaps a port, nothing behind it");
            }
            url.servers.push(server);
            logins.extend(login);
        }
        logins.dedup();
        match logins[..] {
            _ if url.servers.is_empty() => Err("there is no server in it"),
            [] => Ok(url),
            [login] => {
                url.login = Some(match login.split_once(':') {
                    Some((user, password)) => {
                        UrlLogin::Password { user: decoded(user), password: decoded(password).into() }
                    }
                    None => UrlLogin::Token(decoded(login).into()),
                });
                Ok(url)
            }
            _ => Err("all servers must have the same login; a comma within a password is written %2C"),
        }
    }

    /// Does the URL itself have a login?
    #[must_use]
    pub fn has_login(&self) -> bool {
        self.login.is_some()
    }

    pub(super) fn login(&self) -> Option<&UrlLogin> {
        self.login.as_ref()
    }

    pub(super) fn servers(&self) -> &[String] {
        &self.servers
    }
}

impl fmt::Display for NatsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.servers.join(","))
    }
}

/// `%40` is `@`. What is no such sequence stays as it is.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.bytes().next() {
        let hex = rest.get(1..3).filter(|hex| first == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[3..];
            }
            None => {
                let end = rest.chars().next().map_or(rest.len(), char::len_utf8);
                bytes.extend_from_slice(&rest.as_bytes()[..end]);
                rest = &rest[end..];
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The first tokens of every subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPrefix(Arc<str>);

impl SubjectPrefix {
    /// Longest prefix, in bytes.
    pub const MAX: usize = 64;

    /// Tokens of `[A-Za-z0-9_-]` between dots; `None` for anything else: a wildcard or a blank would change what we listen
    /// to.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let token = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        let fits = text.len() <= Self::MAX && text.split('.').all(token);
        fits.then(|| Self(format!("{text}.").into()))
    }

    /// The whole subject for one of ours.
    pub(super) fn before(&self, subject: &str) -> String {
        format!("{}{subject}", self.0)
    }

    /// Our subject within a whole one; `None` when it is somebody else's.
    pub(super) fn strip<'a>(&self, subject: &'a str) -> Option<&'a str> {
        subject.strip_prefix(&*self.0)
    }
}

impl Default for SubjectPrefix {
    fn default() -> Self {
        Self("patchbay.".into())
    }
}

impl fmt::Display for SubjectPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn login(url: &str) -> (String, Option<String>) {
        match NatsUrl::parse(url).unwrap().login {
            Some(UrlLogin::Password { user, password }) => (user, Some(password.expose_secret().to_owned())),
            Some(UrlLogin::Token(token)) => (token.expose_secret().to_owned(), None),
            None => (String::new(), None),
        }
    }

    #[test]
    fn a_url_names_servers_and_perhaps_a_login() {
        assert_eq!(login("nats://ann:p%40ss%2C%@h:4222"), ("ann".into(), Some("p@ss,%".into())));
        assert_eq!(login("nats://s3cr3t@h"), ("s3cr3t".into(), None));
        assert_eq!(login("tls://a:1,nats://[::1]:2/, b"), (String::new(), None));
        let several = NatsUrl::parse("nats://u:pw@a:1,nats://u:pw@b,tls://c").unwrap();
        assert_eq!(several.servers, ["nats://a:1", "nats://b", "tls://c"]);
        assert_eq!(several.to_string(), "nats://a:1,nats://b,tls://c");
        assert!(!format!("{several:?}").contains("pw"), "{several:?}");
    }

    #[test]
    fn what_is_no_url_of_nats_is_refused_without_being_repeated() {
        for wrong in [
            "",
            ",",
            "nats://",
            "http://h",
            "nats://h:port",
            "nats://h/path",
            "nats://h?x",
            "nats://u:hunter2@a,nats://u:hunter3@b",
            "nats://u:hun,ter2@a",
            "nats://a b",
        ] {
            let reason = NatsUrl::parse(wrong).expect_err(wrong);
            assert!(!reason.contains("hunter"), "{reason}");
        }
    }

    #[test]
    fn a_prefix_has_no_wildcards() {
        assert_eq!(SubjectPrefix::parse("patchbay"), Some(SubjectPrefix::default()));
        let prefix = SubjectPrefix::parse("site-1.patchbay").unwrap();
        assert_eq!(prefix.before("agent.a.*"), "site-1.patchbay.agent.a.*");
        assert_eq!(prefix.strip("site-1.patchbay.agent.a.command"), Some("agent.a.command"));
        assert_eq!(prefix.strip("site-1.patchbayx.agent"), None);
        for wrong in ["", ".", "a.", ".a", "a..b", "a.*", ">", "a b", "ä", &"x".repeat(65)] {
            assert_eq!(SubjectPrefix::parse(wrong), None, "{wrong:?}");
        }
    }
}
