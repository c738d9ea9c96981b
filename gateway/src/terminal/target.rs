//! Where the gateway may dial in direct mode. The host's address comes from its agent's report, so an agent could name any:
//! what only this machine or its cloud can reach is refused unless the operator allows it.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{net::lookup_host, time::timeout};

/// How long a name may take to become addresses.
const LOOKUP_WAIT: Duration = Duration::from_secs(5);
/// Addresses of a name that are looked at.
const ADDRESSES_MAX: usize = 16;

/// One entry of the list: `CIDR[:port[-port]]`, no port is all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    net: IpNet,
    first: u16,
    last: u16,
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |what: &str| format!("{text:?} is no CIDR[:port[-port]]: {what}");
        // Brackets are how IPv6 and a port go together; without them what follows the prefix length is the port.
        let (net, ports) = match text.strip_prefix('[') {
            Some(rest) => {
                let (net, rest) = rest.split_once(']').ok_or_else(|| wrong("the bracket is not closed"))?;
                match rest.strip_prefix(':') {
                    Some(ports) => (net, Some(ports)),
                    None if rest.is_empty() => (net, None),
                    None => return Err(wrong("after the bracket comes a colon")),
                }
            }
            None => match text.split_once('/') {
                Some((_, rest)) => match rest.split_once(':') {
                    Some((_, ports)) => (&text[..text.len() - ports.len() - 1], Some(ports)),
                    None => (text, None),
                },
                None if text.matches(':').count() == 1 => {
                    text.split_once(':').map_or((text, None), |(net, ports)| (net, Some(ports)))
                }
                None => (text, None),
            },
        };
        let net = match net.parse::<IpNet>() {
            Ok(net) => net,
            Err(_) => net.parse::<IpAddr>().map(IpNet::from).map_err(|_| wrong("the network is none"))?,
        };
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let (first, last) = match ports {
            None => (1, u16::MAX),
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let first = port(first).ok_or_else(|| wrong("a port is 1 to 65535"))?;
                let last = port(last).ok_or_else(|| wrong("a port is 1 to 65535"))?;
                if last < first {
                    return Err(wrong("the last port is before the first"));
                }
                (first, last)
            }
        };
        Ok(Self { net: net.trunc(), first, last })
    }
}

impl Allowed {
    /// Is the net special from end to end? One that is not, such as 0.0.0.0/0, opens nothing that is.
    fn is_special(&self) -> bool {
        self.net.prefix_len() >= 8 && special(self.net.network()).is_some() && special(self.net.broadcast()).is_some()
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (1, u16::MAX) => write!(f, "{}", self.net),
            (first, last) if first == last => write!(f, "{}:{first}", self.net),
            (first, last) => write!(f, "{}:{first}-{last}", self.net),
        }
    }
}

/// Why it is not dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host has never reported.
    #[error("The host's address is not known yet: its agent has not reported. Connect through the agent instead")]
    Unknown,
    /// No address.
    #[error("Failed to connect: the name {0:?} has no address")]
    NoAddress(String),
    /// An address that it must not be.
    #[error("Failed to connect: {0} is {1}, which the server does not dial unless PATCHBAY_SSH_ALLOW names it")]
    Special(IpAddr, &'static str),
    /// A port that it must not be.
    #[error("Failed to connect: the server does not dial port {1} of {0}; PATCHBAY_SSH_ALLOW says which")]
    Port(IpAddr, u16),
}

/// May it be dialled?
///
/// # Errors
/// Why not.
pub fn check(allowed: &[Allowed], address: IpAddr, port: u16) -> Result<(), TargetError> {
    let address = address.to_canonical();
    let covering = |entry: &&Allowed| match special(address) {
        Some(_) => entry.net.contains(&address) && entry.is_special(),
        None => entry.net.contains(&address),
    };
    let covering: Vec<_> = allowed.iter().filter(covering).collect();
    if covering.iter().any(|entry| (entry.first..=entry.last).contains(&port)) {
        return Ok(());
    }
    match special(address) {
        Some(_) if !covering.is_empty() => Err(TargetError::Port(address, port)),
        Some(what) => Err(TargetError::Special(address, what)),
        None if covering.is_empty() => Ok(()),
        None => Err(TargetError::Port(address, port)),
    }
}

/// What is special about it, if anything is.
fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => special_v4(v4),
        IpAddr::V6(v6) => special_v6(v6),
    }
}

fn special_v4(v4: Ipv4Addr) -> Option<&'static str> {
    /// Where clouds keep what a machine may know of itself, beside the link-local one.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
    if v4.is_loopback() {
        Some("a loopback address")
    } else if v4.is_link_local() {
        Some("a link-local or metadata address")
    } else if METADATA.contains(&v4) {
        Some("a metadata address")
    } else if v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast() {
        Some("no address of a host")
    } else {
        None
    }
}

fn special_v6(v6: Ipv6Addr) -> Option<&'static str> {
    const METADATA: [Ipv6Addr; 2] =
        [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];
    let s = v6.segments();
    let low = Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
    if v6.is_loopback() {
        Some("a loopback address")
    } else if v6.is_unicast_link_local() {
        Some("a link-local address")
    } else if METADATA.contains(&v6) {
        Some("a metadata address")
    } else if v6.is_unspecified() || v6.is_multicast() {
        Some("no address of a host")
    } else if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || s[..6] == [0; 6] {
        // A translator, or an old stack, takes these for the IPv4 address within.
        special_v4(low)
    } else if s[0] == 0x2002 {
        special_v4(Ipv4Addr::from((u32::from(s[1]) << 16) | u32::from(s[2])))
    } else {
        None
    }
}

/// The addresses to dial, each checked. What is dialled is one of them, so that a name that means something else a moment
/// later changes nothing.
///
/// # Errors
/// Why there is none; of several reasons the first.
pub async fn resolve(allowed: &[Allowed], ip: &str, hostname: &str, port: u16) -> Result<Vec<SocketAddr>, TargetError> {
    let name = [ip.trim(), hostname.trim()].into_iter().find(|name| !name.is_empty()).ok_or(TargetError::Unknown)?;
    let found: Vec<SocketAddr> = match name.parse::<IpAddr>() {
        Ok(address) => vec![(address.to_canonical(), port).into()],
        Err(_) => match timeout(LOOKUP_WAIT, lookup_host((name, port))).await {
            Ok(Ok(found)) => found.take(ADDRESSES_MAX).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        },
    };
    if found.is_empty() {
        return Err(TargetError::NoAddress(name.chars().take(255).collect()));
    }
    let (may, may_not): (Vec<_>, Vec<_>) =
        found.into_iter().map(|at| check(allowed, at.ip(), at.port()).map(|()| at)).partition(Result::is_ok);
    let may: Vec<_> = may.into_iter().flatten().collect();
    match may_not.into_iter().find_map(Result::err) {
        Some(why) if may.is_empty() => Err(why),
        _ => Ok(may),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &str) -> Vec<Allowed> {
        text.split(',').filter(|entry| !entry.is_empty()).map(|entry| entry.parse().unwrap()).collect()
    }

    fn may(allowed: &str, address: &str, port: u16) -> bool {
        check(&list(allowed), address.parse().unwrap(), port).is_ok()
    }

    #[test]
    fn entries_are_networks_with_ports() {
        for (text, plain) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("127.0.0.1:2222", "127.0.0.1/32:2222"),
            ("127.0.0.0/8:22-80", "127.0.0.0/8:22-80"),
            ("::1", "::1/128"),
            ("fd00::/8:22", "fd00::/8:22"),
            ("[::1]:22", "::1/128:22"),
            ("[fe80::/10]", "fe80::/10"),
        ] {
            assert_eq!(text.parse::<Allowed>().map(|entry| entry.to_string()).as_deref(), Ok(plain));
        }
        for bad in
            ["", "x", "10.0.0.0/33", "10.0.0.0/8:", "10.0.0.0/8:0", "1.2.3.4:80-22", "[::1", "[::1]22", "1.2.3.4:70000"]
        {
            assert!(bad.parse::<Allowed>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_only_this_machine_or_its_cloud_reaches_is_refused() {
        for ordinary in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "fd00::1", "100.64.0.1"] {
            assert!(may("", ordinary, 22) && may("", ordinary, 2222), "{ordinary}");
        }
        for special in [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "169.254.1.1",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            assert!(!may("", special, 22), "{special}");
            assert!(!may("0.0.0.0/0,::/0", special, 22), "a net of everything does not mean {special}");
        }
    }

    #[test]
    fn the_list_opens_what_is_special_and_narrows_what_is_not() {
        assert!(may("127.0.0.0/8:22", "127.0.0.1", 22));
        assert!(!may("127.0.0.0/8:22", "127.0.0.1", 80));
        assert!(may("127.0.0.1:2000-3000", "::ffff:127.0.0.1", 2222));
        assert!(may("::1", "::1", 1));
        assert!(!may("127.0.0.0/8", "169.254.169.254", 80));
        assert!(may("169.254.0.0/16", "169.254.7.7", 22));
        assert!(may("10.0.0.0/8:22", "10.1.1.1", 22) && !may("10.0.0.0/8:22", "10.1.1.1", 5432));
        assert!(may("10.0.0.0/8:22", "192.0.2.1", 5432), "another network");
        assert!(may("10.0.0.0/8:22,10.0.0.0/24", "10.0.0.9", 5432), "one entry is enough");
    }

    #[tokio::test]
    async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
        let of = async |ip: &str, hostname: &str| resolve(&list("127.0.0.0/8:2222"), ip, hostname, 2222).await;
        assert_eq!(of(" 192.0.2.7 ", "web").await.unwrap(), ["192.0.2.7:2222".parse().unwrap()]);
        assert_eq!(of("", "").await, Err(TargetError::Unknown));
        assert_eq!(of("::ffff:127.0.0.1", "").await.unwrap(), ["127.0.0.1:2222".parse().unwrap()]);
        assert!(matches!(of("169.254.169.254", "").await, Err(TargetError::Special(..))));
        let local = of("", "localhost").await.unwrap();
        assert!(local.iter().all(|at| at.ip().is_ipv4()), "::1 is not on the list: {local:?}");
        assert!(matches!(of("", "no.such.name.invalid").await, Err(TargetError::NoAddress(_))));
    }
}
