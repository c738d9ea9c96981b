//! Where a server is: what stands before `/api` in each of its addresses.

use std::net::IpAddr;

use anyhow::{Context as _, bail};
use reqwest::Url;

/// `https://HOST[:PORT][/PREFIX]`, without a slash at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    url: Url,
    text: String,
}

impl Base {
    /// Brings an address to the form in which it is kept. What was given is not part of the errors: it may hold a
    /// password.
    ///
    /// # Errors
    /// When it is no address of a server.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        const EXPECTED: &str = "the server's address must look like https://patchbay.example or http://localhost:3001";
        let url = Url::parse(text.trim()).context(EXPECTED)?;
        if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none_or(str::is_empty) {
            bail!(EXPECTED);
        }
        if !url.username().is_empty() || url.password().is_some() {
            bail!("the server's address holds no user name and no password; use --username, the password is asked for");
        }
        if url.query().is_some() || url.fragment().is_some() {
            bail!("the server's address ends with its path: no ?query and no #fragment");
        }
        let text = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { url, text })
    }

    /// As it is kept and shown.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Over TLS.
    pub fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Passwords would go over a network as they are.
    pub fn is_exposed(&self) -> bool {
        let host = self.url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = match bare.parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host == "localhost" || host.ends_with(".localhost"),
        };
        !self.is_https() && !is_loopback
    }

    /// The address of a route such as `/api/v1/hosts`, with these parameters.
    ///
    /// # Errors
    /// When it is no address.
    pub fn route(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Url> {
        let mut url = Url::parse(&format!("{}{path}", self.text))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_at_the_end_go_and_a_prefix_stays() {
        let kept = |text| Base::parse(text).expect("an address").as_str().to_owned();
        assert_eq!(kept("https://Patchbay.example"), "https://patchbay.example");
        assert_eq!(kept("https://patchbay.example:443//"), "https://patchbay.example");
        assert_eq!(kept(" http://[::1]:3001/ops/patchbay/ "), "http://[::1]:3001/ops/patchbay");
        let base = Base::parse("http://localhost/ops/").expect("an address");
        let route = base.route("/api/v1/hosts", &[("search", "a b&c")]).expect("a route");
        assert_eq!(route.as_str(), "http://localhost/ops/api/v1/hosts?search=a+b%26c");
    }

    #[test]
    fn what_is_no_servers_address_is_refused_without_being_repeated() {
        for wrong in [
            "patchbay.example",
            "patchbay:3001",
            "ftp://patchbay",
            "wss://patchbay",
            "https://",
            "",
            "https://ann:hunter2@patchbay",
            "https://hunter2@patchbay",
            "https://hunter2@patchbay:99999",
            "https://patchbay/?token=hunter2",
            "https://patchbay/?",
            "https://patchbay/#hunter2",
        ] {
            let error = format!("{:#}", Base::parse(wrong).expect_err(wrong));
            assert!(error.contains("address") && !error.contains("hunter2"), "{wrong}: {error}");
        }
    }

    #[test]
    fn only_plain_http_over_a_network_is_exposed() {
        let exposed = |text| Base::parse(text).expect("an address").is_exposed();
        for yes in ["http://patchbay", "http://10.0.0.1", "http://[2001:db8::1]:3001", "http://localhost.example"] {
            assert!(exposed(yes), "{yes}");
        }
        for no in [
            "https://patchbay",
            "http://localhost:3001",
            "http://a.localhost",
            "http://127.1.2.3",
            "http://[::1]",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(!exposed(no), "{no}");
        }
    }
}
