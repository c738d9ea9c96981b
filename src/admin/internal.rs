//! Draining a process that has no socket in a data directory: over its internal port, which only this machine may ask.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const WAIT: Duration = Duration::from_secs(10);
const ANSWER_MAX: u64 = 64 << 10;

/// Asks for it. False when nobody listens there.
///
/// # Errors
/// When there is another answer than yes, or none in time.
pub async fn drain(internal: SocketAddr) -> anyhow::Result<bool> {
    let address = SocketAddr::new(of_this_machine(internal.ip()), internal.port());
    let asked = timeout(WAIT, ask(address)).await.with_context(|| format!("no answer from {address} in time"))?;
    let Some(answer) = asked.with_context(|| format!("cannot ask {address} (PATCHBAY_INTERNAL_LISTEN)"))? else {
        return Ok(false);
    };
    let status = answer.split_whitespace().nth(1).unwrap_or("no status");
    if status != "202" {
        bail!("{address} (PATCHBAY_INTERNAL_LISTEN) answers {status} to POST /drain; is it Patchbay's internal port?");
    }
    Ok(true)
}

/// Where one listens that listens everywhere.
fn of_this_machine(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(all) if all.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(all) if all.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        one => one,
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<Option<String>> {
    let mut stream = match TcpStream::connect(address).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => return Ok(None),
        connected => connected?,
    };
    let request = format!("POST /drain HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(Some(String::from_utf8_lossy(&answer).into_owned()))
}
