//! Who is at the other end: the peer of the connection, or the client that a trusted proxy names. What X-Forwarded-*
//! headers say counts only when the peer is a configured proxy; anyone else could write anything there.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use axum::{
    extract::FromRequestParts,
    http::{Extensions, HeaderMap, request::Parts},
};

use crate::{App, Settings};

/// The other end of the connection. The accept loop puts it into every request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// It came over our own TLS.
    pub tls: bool,
}

impl Peer {
    /// The peer of a request. One that no accept loop has marked is nobody: plain, and trusted with nothing.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        let nobody = Self { address: (Ipv4Addr::UNSPECIFIED, 0).into(), tls: false };
        extensions.get().copied().unwrap_or(nobody)
    }
}

/// The client of a request, for handlers.
pub struct Client(pub IpAddr);

impl FromRequestParts<App> for Client {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        Ok(Self(client_address(&app.settings, &Peer::of(&parts.extensions), &parts.headers)))
    }
}

/// The client's address: the peer's, or behind trusted proxies the last address in X-Forwarded-For that none of them
/// has. What stands before it was written by the client.
#[must_use]
pub fn client_address(settings: &Settings, peer: &Peer, headers: &HeaderMap) -> IpAddr {
    let mut client = peer.address.ip().to_canonical();
    let hops: Vec<&str> = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .collect();
    for hop in hops.iter().rev() {
        if !settings.trusts(client) {
            break;
        }
        let Some(address) = hop_address(hop.trim()) else { break };
        client = address;
    }
    client
}

/// Did it come over TLS: ours, or a trusted proxy's? Proxies write `https` or `wss`, alone or first of a list.
#[must_use]
pub fn is_secure(settings: &Settings, peer: &Peer, headers: &HeaderMap) -> bool {
    peer.tls
        || forwarded(settings, peer, headers, "x-forwarded-proto")
            .is_some_and(|proto| proto.eq_ignore_ascii_case("https") || proto.eq_ignore_ascii_case("wss"))
}

/// First element of a header that only a trusted proxy may set.
pub(super) fn forwarded<'h>(
    settings: &Settings,
    peer: &Peer,
    headers: &'h HeaderMap,
    name: &'static str,
) -> Option<&'h str> {
    if !settings.trusts(peer.address.ip()) {
        return None;
    }
    let first = headers.get(name)?.to_str().ok()?.split(',').next()?.trim();
    (!first.is_empty()).then_some(first)
}

/// An address as proxies write it: bare, with a port, in brackets.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    let address = bare.parse().or_else(|_| bare.parse().map(|address: SocketAddr| address.ip())).ok()?;
    Some(IpAddr::to_canonical(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() }
    }

    fn peer(address: &str) -> Peer {
        Peer { address: format!("{address}:40000").parse().unwrap(), tls: false }
    }

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let behind = |from: &str, lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|value| ("x-forwarded-for", *value)).collect();
            client_address(&settings(), &peer(from), &headers(&lines)).to_string()
        };
        assert_eq!(behind("192.0.2.1", &["198.51.100.9"]), "192.0.2.1", "not a proxy");
        assert_eq!(behind("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(behind("10.0.0.1", &["198.51.100.9"]), "198.51.100.9");
        assert_eq!(behind("10.0.0.1", &["1.1.1.1, 198.51.100.9, 10.2.3.4"]), "198.51.100.9", "1.1.1.1 is invented");
        assert_eq!(behind("10.0.0.1", &["1.1.1.1", "198.51.100.9"]), "198.51.100.9", "lines are one list");
        assert_eq!(behind("10.0.0.1", &["198.51.100.9:1234"]), "198.51.100.9");
        assert_eq!(behind("10.0.0.1", &["[2001:db8::1]:99"]), "2001:db8::1");
        assert_eq!(behind("10.0.0.1", &["[2001:db8::1]"]), "2001:db8::1");
        assert_eq!(behind("10.0.0.1", &["unknown"]), "10.0.0.1");
        assert_eq!(behind("10.0.0.1", &["9.9.9.9, unknown, 10.1.1.1"]), "10.1.1.1");
        assert_eq!(behind("[::ffff:10.0.0.1]", &["198.51.100.9"]), "198.51.100.9");
    }

    #[test]
    fn only_a_trusted_proxy_can_say_that_it_was_tls() {
        let says =
            |from: &str, proto: &str| is_secure(&settings(), &peer(from), &headers(&[("x-forwarded-proto", proto)]));
        for yes in ["https", "wss", "HTTPS", "https, http"] {
            assert!(says("10.0.0.1", yes), "{yes}");
            assert!(!says("192.0.2.1", yes), "{yes} from a stranger");
        }
        for no in ["http", "ws", "http, https", ""] {
            assert!(!says("10.0.0.1", no), "{no}");
        }
        let own = Peer { tls: true, ..peer("192.0.2.1") };
        assert!(is_secure(&settings(), &own, &HeaderMap::new()));
    }
}
