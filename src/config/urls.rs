//! Settings that are URLs: which adapter a URL chooses, and origins as browsers send them.

use std::{fmt, path::PathBuf};

use bus::{NatsUrl, SubjectPrefix};
use secrecy::{ExposeSecret, SecretString};

use super::values::Value;

/// Chooses the store's adapter.
#[derive(Clone, Debug)]
pub enum DatabaseUrl {
    /// The file, created when it isn't there.
    Sqlite(PathBuf),
    Postgres(SecretUrl),
}

impl Value for DatabaseUrl {
    fn expects() -> String {
        "sqlite:<path> or postgres://…".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match path {
                "" => Err("the path is missing; ".to_owned()),
                ":memory:" => Err("a database in memory would lose every command with the process; ".to_owned()),
                _ if path.contains('?') => Err("options behind a ? are not supported; ".to_owned()),
                _ => Ok(Self::Sqlite(path.into())),
            };
        }
        if has_scheme(text, &["postgres", "postgresql"]) {
            return Ok(Self::Postgres(SecretUrl::new(text)));
        }
        Err(String::new())
    }

    fn shown(text: &str) -> Option<String> {
        Some(format!("{:?}", without_password(text)))
    }
}

/// Chooses the bus's adapter.
#[derive(Clone, Debug)]
pub enum BusUrl {
    /// Inside this process.
    Memory,
    /// Printed without its login.
    Nats(NatsUrl),
}

impl Value for BusUrl {
    fn expects() -> String {
        "memory:, or nats://host:port, tls://host:port, or several of these separated by commas".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        if text == "memory:" {
            Ok(Self::Memory)
        } else if has_scheme(text, &["nats", "tls"]) {
            NatsUrl::parse(text).map(Self::Nats).map_err(|reason| format!("{reason}; "))
        } else {
            Err(String::new())
        }
    }

    fn shown(text: &str) -> Option<String> {
        Some(format!("{:?}", without_password(text)))
    }
}

impl Value for SubjectPrefix {
    fn expects() -> String {
        format!("letters, digits, - and _, perhaps in parts between dots, {} characters at most", Self::MAX)
    }

    fn parse(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(String::new)
    }
}

/// A URL that may carry a password; `Debug` and `Display` leave the password out.
#[derive(Clone)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    fn new(text: &str) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&without_password(self.expose()))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// `http` or `https`, a host and perhaps a port, as a browser writes it into `Origin`: lower case, no default port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin(String);

impl Origin {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Origin {
    fn expects() -> String {
        "an origin such as https://patchbay.example or http://192.0.2.7:3001".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        match split_http_url(text) {
            Some((origin, "" | "/")) => Ok(Self(origin)),
            Some((origin, _)) => Err(format!("an origin has no path, so write {origin:?}; ")),
            None => Err(String::new()),
        }
    }
}

/// Where browsers reach this server, perhaps with a path prefix.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl {
    origin: Origin,
    path: String,
}

impl PublicUrl {
    pub fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin.0, self.path)
    }
}

impl Value for PublicUrl {
    fn expects() -> String {
        "a URL such as https://patchbay.example".to_owned()
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (origin, path) = split_http_url(text).ok_or_else(String::new)?;
        if path.contains(['?', '#']) {
            return Err("it must end before any ? or #; ".to_owned());
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { origin: Origin(origin), path })
    }
}

fn has_scheme(text: &str, schemes: &[&str]) -> bool {
    text.split_once("://").is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty())
}

/// The origin in a browser's spelling, and what follows it.
fn split_http_url(text: &str) -> Option<(String, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    let default_port = match scheme.to_ascii_lowercase().as_str() {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let port_at = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    let (host, port) = match port_at {
        Some(colon) => (&authority[..colon], authority[colon + 1..].parse::<u16>().ok()?),
        None => (authority, default_port),
    };
    let host_is_plain = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok()),
        None => host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')),
    };
    if host.is_empty() || !host_is_plain {
        return None;
    }
    let host = host.to_ascii_lowercase();
    let scheme = scheme.to_ascii_lowercase();
    let origin = if port == default_port { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:{port}") };
    Some((origin, path))
}

/// Hides what stands between the user and the host. What is no URL is hidden behind its first `:` if it has an `@`.
fn without_password(text: &str) -> String {
    // A list of NATS servers is separated by commas.
    let hide = |url: &str| {
        let Some(at) = url.rfind('@') else { return url.to_owned() };
        let user_at = url.find("://").map_or(0, |scheme| scheme + 3);
        let user_end = url.get(user_at..at).and_then(|user| user.find(':')).map(|colon| user_at + colon);
        match user_end {
            Some(colon) => format!("{}:***{}", &url[..colon], &url[at..]),
            // A lone user is a token for NATS.
            None => format!("{}***{}", url.get(..user_at).unwrap_or_default(), &url[at..]),
        }
    };
    // A comma or an @ inside a password is hidden with it: from the first colon of the first user to the last @.
    match text.matches("://").count() {
        0 | 1 => hide(text),
        _ => text.split(',').map(hide).collect::<Vec<_>>().join(","),
    }
}
