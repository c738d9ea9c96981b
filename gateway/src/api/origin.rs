//! Whose page sent this request? A browser adds our cookie to requests of any page, so what a cookie alone vouches for
//! needs an Origin of ours.

use axum::http::{HeaderMap, header};

use super::client::{Peer, forwarded, is_secure};
use crate::Settings;

/// What the request says of the page it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// One of ours.
    Ours,
    /// Somebody else's.
    Foreign,
    /// No word of it: no browser, or an old one.
    Unknown,
}

/// Reads Origin, and `Sec-Fetch-Site`, which no script can set.
#[must_use]
pub fn page(settings: &Settings, peer: &Peer, headers: &HeaderMap) -> Page {
    let same_origin = headers.get("sec-fetch-site").is_some_and(|value| value == "same-origin");
    match headers.get(header::ORIGIN) {
        // Which of them would count?
        _ if headers.get_all(header::ORIGIN).iter().count() > 1 => Page::Foreign,
        _ if same_origin => Page::Ours,
        None => Page::Unknown,
        Some(origin) if origin.to_str().is_ok_and(|origin| fits(settings, peer, headers, origin)) => Page::Ours,
        Some(_) => Page::Foreign,
    }
}

/// Is this origin one that may use our cookies: a configured one, or, where none is, the request's own host?
fn fits(settings: &Settings, peer: &Peer, headers: &HeaderMap, origin: &str) -> bool {
    let Some(origin) = Origin::parse(origin) else { return false };
    let configured = |text: &String| Origin::parse(text) == Some(origin.clone());
    if settings.allowed_origins.iter().any(configured) {
        return true;
    }
    if let Some(public) = &settings.public_url {
        return configured(public);
    }
    let host = forwarded(settings, peer, headers, "x-forwarded-host")
        .or_else(|| headers.get(header::HOST).and_then(|host| host.to_str().ok()));
    // A page over plain HTTP is no page of a server that was reached over TLS. The other way round it may well be: a
    // proxy that we were not told of ends the TLS.
    let plain_page_of_tls_server = !origin.secure && is_secure(settings, peer, headers);
    host.is_some_and(|host| origin.is_at(host)) && !plain_page_of_tls_server
}

/// Scheme, host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    secure: bool,
    /// Lower case, without the scheme's own port.
    authority: String,
}

impl Origin {
    /// Reads an origin or the URL of one of its pages.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once("://")?;
        let secure = match scheme.to_ascii_lowercase().as_str() {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return None,
        };
        let authority = rest.split('/').next()?;
        (!authority.is_empty()).then(|| Self { secure, authority: without_port(authority, secure) })
    }

    fn is_at(&self, host: &str) -> bool {
        self.authority == without_port(host, self.secure)
    }
}

fn without_port(authority: &str, secure: bool) -> String {
    let authority = authority.to_ascii_lowercase();
    let own_port = if secure { ":443" } else { ":80" };
    authority.strip_suffix(own_port).map(str::to_owned).unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer { address: format!("{address}:40000").parse().unwrap(), tls: false }
    }

    fn seen(settings: &Settings, from: &str, lines: &[(&'static str, &str)]) -> Page {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        page(settings, &peer(from), &headers)
    }

    #[test]
    fn without_settings_the_origin_must_be_the_host() {
        let with = |host, origin| seen(&Settings::default(), "192.0.2.1", &[("host", host), ("origin", origin)]);
        assert_eq!(with("pb.example", "http://pb.example"), Page::Ours);
        assert_eq!(with("pb.example:3001", "http://PB.example:3001"), Page::Ours);
        assert_eq!(with("pb.example", "https://pb.example:443"), Page::Ours);
        for foreign in
            ["http://evil.example", "http://pb.example:8080", "http://pb.example.evil", "null", "", "file://"]
        {
            assert_eq!(with("pb.example", foreign), Page::Foreign, "{foreign:?}");
        }
    }

    #[test]
    fn the_browsers_own_word_counts_without_an_origin() {
        let with = |site| seen(&Settings::default(), "192.0.2.1", &[("host", "pb.example"), ("sec-fetch-site", site)]);
        assert_eq!(with("same-origin"), Page::Ours);
        for other in ["cross-site", "same-site", "none"] {
            assert_eq!(with(other), Page::Unknown, "{other}");
        }
    }

    #[test]
    fn configured_origins_are_the_only_ones() {
        let settings = Settings {
            public_url: Some("https://pb.example/console".into()),
            allowed_origins: vec!["http://localhost:5173".into()],
            ..Settings::default()
        };
        let with = |origin| seen(&settings, "192.0.2.1", &[("host", "inside:3001"), ("origin", origin)]);
        assert_eq!(with("https://pb.example"), Page::Ours);
        assert_eq!(with("http://localhost:5173"), Page::Ours);
        assert_eq!(with("http://pb.example"), Page::Foreign);
        assert_eq!(with("http://inside:3001"), Page::Foreign);
    }

    #[test]
    fn only_a_trusted_proxy_names_another_host() {
        let settings = Settings { trusted_proxies: vec!["10.0.0.0/8".parse().unwrap()], ..Settings::default() };
        let lines = [
            ("host", "inside:3001"),
            ("x-forwarded-host", "pb.example"),
            ("x-forwarded-proto", "https"),
            ("origin", "https://pb.example"),
        ];
        assert_eq!(seen(&settings, "10.0.0.1", &lines), Page::Ours);
        assert_eq!(seen(&settings, "192.0.2.1", &lines), Page::Foreign);
        let plain = [lines[0], lines[1], lines[2], ("origin", "http://pb.example")];
        assert_eq!(seen(&settings, "10.0.0.1", &plain), Page::Foreign);
    }
}
