//! Source addresses: all of 127.0.0.0/8 is ours, so every agent can come from an address of its own, as in a real fleet.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::net::{TcpSocket, TcpStream};

/// 127.1.1.1 to 127.254.254.254, without the zeros and 255s that look like networks.
const ADDRESSES: usize = 254 * 254 * 254;

/// The address of agent number `index` when `spread` addresses are shared out in turn (0: one each).
pub fn source(index: usize, spread: usize) -> Ipv4Addr {
    let spread = if spread == 0 { ADDRESSES } else { spread.min(ADDRESSES) };
    let place = index % spread;
    let byte = |place: usize| u8::try_from(place % 254).unwrap_or(0) + 1;
    Ipv4Addr::new(127, byte(place / (254 * 254)), byte(place / 254), byte(place))
}

/// Connects from `source`, where there is one and the target is an IPv4 loopback address.
pub async fn dial(target: SocketAddr, source: Option<Ipv4Addr>, deadline: Duration) -> io::Result<TcpStream> {
    let socket = match target.ip() {
        IpAddr::V4(_) => TcpSocket::new_v4()?,
        IpAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let (Some(source), true) = (source, target.ip().is_loopback() && target.is_ipv4()) {
        // A loopback port that lingers in TIME_WAIT would otherwise refuse an agent that flaps.
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((source, 0)))?;
    }
    let stream = tokio::time::timeout(deadline, socket.connect(target))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ten_thousand_agents_come_from_ten_thousand_addresses() {
        let all: HashSet<_> = (0..10_000).map(|index| source(index, 0)).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().all(|address| address.is_loopback()));
        assert_eq!(source(0, 0), Ipv4Addr::new(127, 1, 1, 1));
    }

    #[test]
    fn a_small_spread_is_shared_in_turn() {
        let all: HashSet<_> = (0..100).map(|index| source(index, 3)).collect();
        assert_eq!(all.len(), 3);
    }
}
