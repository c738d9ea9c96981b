//! HTTP and WebSocket by hand, byte for byte: for peers that break rules which no library lets them break, and for tests
//! that look at an answer as it is on the wire.

mod frame;

use std::{io, time::Duration};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub use frame::{BINARY, CLOSE, PING, PONG, ServerFrame, TEXT, frame, frame_head, unmasked_frame};

use crate::{credentials::Credentials, loopback, server::Server};
use frame::parse;

/// How long anything may take that ought to be there at once.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// The headers that make a GET an upgrade. The key is that of RFC 6455 section 1.3.
pub const WEBSOCKET: [(&str, &str); 4] = [
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ("Sec-WebSocket-Version", "13"),
    ("Upgrade", "websocket"),
];

/// What the server makes of that key.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// An answer as it came.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
}

impl Reply {
    /// A header, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A request's text: the lines and the empty one, then the body.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// An agent's upgrade with more headers than it would send.
pub fn upgrade_request(path: &str, credentials: &[(&str, &str)], more: &[(&str, &str)]) -> Vec<u8> {
    let host = [("Host", "patchbay.test")];
    let headers: Vec<_> = [&host, &WEBSOCKET[..], credentials, more].concat();
    request("GET", path, &headers, "")
}

/// `X-Api-Id` and `X-Api-Key`.
pub fn credentials(host: &Credentials) -> [(&str, &str); 2] {
    [("X-Api-Id", &host.api_id), ("X-Api-Key", &host.api_key)]
}

/// A connection, and what was read of it but not looked at yet.
#[derive(Debug)]
pub struct Wire<S = TcpStream> {
    stream: S,
    input: Vec<u8>,
}

impl Wire {
    /// Connects, from an address of its own if one is given.
    pub async fn dial(server: &Server, source: Option<std::net::Ipv4Addr>) -> io::Result<Self> {
        Ok(Self::new(loopback::dial(server.address, source, PATIENCE).await?))
    }

    /// An agent's open socket, its greeting read.
    pub async fn agent(server: &Server, host: &Credentials) -> anyhow::Result<Self> {
        let mut wire = Self::dial(server, None).await?;
        wire.upgrade(&upgrade_request("/api/v1/agents/ws", &credentials(host), &[])).await?;
        wire.greeting().await?;
        Ok(wire)
    }

    /// The connection, and what was read of it but not looked at: for whoever goes on with a library.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.input)
    }

    /// Ends with RST instead of FIN.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// On a stream of any kind.
    pub fn new(stream: S) -> Self {
        Self { stream, input: Vec::new() }
    }

    /// Writes all of it.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, write).await?
    }

    /// Ends our side: FIN.
    pub async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Writes a request and reads its answer.
    pub async fn call(&mut self, request: &[u8]) -> anyhow::Result<Reply> {
        self.write(request).await?;
        timeout(PATIENCE, self.reply()).await.context("no answer in time")?
    }

    /// Upgrades; the error has the answer that was none.
    pub async fn upgrade(&mut self, request: &[u8]) -> anyhow::Result<()> {
        let reply = self.call(request).await?;
        ensure!(reply.status == 101, "{} {}", reply.status, String::from_utf8_lossy(&reply.body));
        ensure!(reply.header("sec-websocket-accept") == Some(ACCEPT), "a wrong accept key: {reply:?}");
        Ok(())
    }

    /// Reads the frame that says hello.
    pub async fn greeting(&mut self) -> anyhow::Result<()> {
        let frame = self.frame().await?;
        let text: Value = serde_json::from_slice(&frame.payload).unwrap_or(Value::Null);
        ensure!(frame.first == TEXT && text["type"] == "connected", "no greeting: {frame:?}");
        Ok(())
    }

    /// The next frame that is no ping of the server's own.
    pub async fn frame(&mut self) -> anyhow::Result<ServerFrame> {
        let next = async {
            loop {
                let frame = self.any_frame().await?;
                if frame.first != PING {
                    return Ok(frame);
                }
            }
        };
        timeout(PATIENCE, next).await.context("no frame in time")?
    }

    /// The next frame that is no ping, each of which is answered as browsers do.
    pub async fn frame_answering_pings(&mut self) -> anyhow::Result<ServerFrame> {
        let next = async {
            loop {
                let frame = self.any_frame().await?;
                if frame.first != PING {
                    return Ok(frame);
                }
                // The other side may have closed behind its ping: what it sent is read all the same.
                let _ = self.write(&self::frame(PONG, &frame.payload)).await;
            }
        };
        timeout(PATIENCE, next).await.context("no frame in time")?
    }

    /// Sends a ping and demands its pong as the next frame: the connection works, and nothing else has come.
    pub async fn ping(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        self.write(&frame(PING, payload)).await?;
        let answer = self.frame().await?;
        ensure!(answer == ServerFrame { first: PONG, payload: payload.to_vec() }, "no pong: {answer:?}");
        Ok(())
    }

    /// Reads until the close frame and gives its code; everything before it is an error.
    pub async fn closed(&mut self) -> anyhow::Result<Option<u16>> {
        let frame = self.frame().await?;
        ensure!(frame.first == CLOSE, "no close frame: {frame:?}");
        Ok(frame.close_code())
    }

    /// Waits until the other side has ended the connection, whatever it sends before. True after FIN, false after RST.
    pub async fn ended(&mut self, patience: Duration) -> anyhow::Result<bool> {
        let end = async {
            let mut scrap = [0; 4096];
            loop {
                match self.stream.read(&mut scrap).await {
                    Ok(0) => return true,
                    Ok(_) => {}
                    Err(_) => return false,
                }
            }
        };
        timeout(patience, end).await.context("the connection is still open")
    }

    async fn any_frame(&mut self) -> anyhow::Result<ServerFrame> {
        loop {
            if let Some((frame, used)) = parse(&self.input)? {
                self.input.drain(..used);
                return Ok(frame);
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> anyhow::Result<()> {
        ensure!(self.stream.read_buf(&mut self.input).await? > 0, "the connection ended");
        Ok(())
    }

    async fn reply(&mut self) -> anyhow::Result<Reply> {
        let end = loop {
            if let Some(at) = self.input.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head: Vec<u8> = self.input.drain(..end).collect();
        let head = String::from_utf8(head)?;
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).context("no status line")?;
        let headers: Vec<(String, String)> =
            lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let mut reply = Reply { status, headers, body: Vec::new() };
        let length: usize = match reply.header("content-length") {
            Some(length) => length.parse()?,
            None if matches!(status, 101 | 204 | 304) => 0,
            None => bail!("an answer of unknown length: {head}"),
        };
        while self.input.len() < length {
            self.more().await?;
        }
        reply.body = self.input.drain(..length).collect();
        Ok(reply)
    }
}
