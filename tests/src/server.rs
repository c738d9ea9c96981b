//! The server's address as an agent's config.yml has it (`patchmon_server`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where agents go. Only loopback, or wherever a network leads that has no way out: the simulator opens thousands of
/// connections and posts invented reports, which nobody wants on a machine that is not his.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// The socket address of `Host`.
    pub address: SocketAddr,
    /// `Host` as the URL spells it.
    pub host: String,
    /// What an HTTP call puts before `/api/…`: nothing is trimmed, so `http://h/` gives `//api/…` (protocol 1.1).
    pub http_prefix: String,
    /// What the upgrade puts before `/api/…`: trailing slashes are trimmed, a path is kept (protocol 1.1).
    pub socket_prefix: String,
    /// `api_version` of config.yml, normally v1.
    pub api_version: String,
}

impl Server {
    /// Reads `http://host[:port][/prefix]`.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let Some(rest) = url.strip_prefix("http://") else {
            anyhow::bail!("{url:?}: the simulator speaks http:// only");
        };
        let (host, prefix) = match rest.find('/') {
            None => (rest, ""),
            Some(at) => rest.split_at(at),
        };
        Ok(Self {
            address: loopback_address(host).map_err(|reason| anyhow::anyhow!("{url:?}: {reason}"))?,
            host: host.to_owned(),
            http_prefix: prefix.to_owned(),
            socket_prefix: prefix.trim_end_matches('/').to_owned(),
            api_version: "v1".to_owned(),
        })
    }

    /// The same server under another `api_version`.
    pub fn with_api_version(mut self, version: &str) -> Self {
        self.api_version = version.to_owned();
        self
    }

    /// Path of an HTTP call, `call` without a slash in front.
    pub fn http_path(&self, call: &str) -> String {
        // The version check goes to v1 whatever api_version says (protocol 3).
        let version = if call.starts_with("hosts/agent/") { "v1" } else { &self.api_version };
        format!("{}/api/{version}/{call}", self.http_prefix)
    }

    /// Path of the upgrade.
    pub fn socket_path(&self) -> String {
        format!("{}/api/{}/agents/ws", self.socket_prefix, self.api_version)
    }
}

/// Does no route of this network namespace (`/proc/net/route`) lead to everywhere?
fn is_closed(routes: &str) -> bool {
    let mut lines = routes.lines();
    lines.next().is_some_and(|head| head.starts_with("Iface"))
        && lines.all(|line| line.split_whitespace().nth(1).is_some_and(|to| to != "00000000"))
}

fn loopback_address(host: &str) -> Result<SocketAddr, String> {
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.ends_with(']') || host.starts_with('[') => {
            let port = port.parse().map_err(|_| format!("no port: {port:?}"))?;
            (name, port)
        }
        _ => (host, 80),
    };
    let address = match name {
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        "[::1]" => IpAddr::V6(Ipv6Addr::LOCALHOST),
        name => name.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(|_| format!("{name:?} is not a loopback address"))?,
    };
    if !address.is_loopback() && !is_closed(&std::fs::read_to_string("/proc/net/route").unwrap_or_default()) {
        return Err(format!("{address} is not a loopback address, and this network leads elsewhere"));
    }
    Ok(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_with_a_way_out_is_not_closed() {
        let head = "Iface\tDestination\tGateway\n";
        assert!(is_closed(&format!("{head}cni0\t0000F40A\t00000000\n")));
        assert!(!is_closed(&format!("{head}cni0\t0000F40A\t00000000\neth0\t00000000\t010011AC\n")));
        assert!(!is_closed(""));
    }

    #[test]
    fn http_calls_trim_nothing_and_the_socket_trims_slashes() {
        // urls: url-trailing-slash, url-two-slashes, url-prefix, url-api-v2.
        for (url, ping, socket) in [
            ("http://127.0.0.1:3001", "/api/v1/hosts/ping", "/api/v1/agents/ws"),
            ("http://127.0.0.1:3001/", "//api/v1/hosts/ping", "/api/v1/agents/ws"),
            ("http://127.0.0.1:3001//", "///api/v1/hosts/ping", "/api/v1/agents/ws"),
            ("http://localhost:3001/base/path", "/base/path/api/v1/hosts/ping", "/base/path/api/v1/agents/ws"),
        ] {
            let server = Server::parse(url).unwrap();
            assert_eq!(server.http_path("hosts/ping"), ping);
            assert_eq!(server.socket_path(), socket);
        }
        let server = Server::parse("http://[::1]:3001").unwrap().with_api_version("v2");
        assert_eq!(server.http_path("hosts/ping"), "/api/v2/hosts/ping");
        assert_eq!(server.http_path("hosts/agent/version"), "/api/v1/hosts/agent/version");
        assert_eq!(server.socket_path(), "/api/v2/agents/ws");
    }

    #[test]
    fn anything_but_loopback_is_refused() {
        for url in [
            "http://192.0.2.1:3001",
            "http://patchbay.example",
            "https://127.0.0.1:3001",
            "127.0.0.1:3001",
            "http://127.0.0.1:port",
            "http://0.0.0.0:3001",
        ] {
            assert!(Server::parse(url).is_err(), "{url}");
        }
    }
}
