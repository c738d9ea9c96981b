//! The agents' upgrade request, byte for byte but for the key (protocol 1.1).

use std::{net::Ipv4Addr, time::Duration};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};

use super::Socket;
use crate::{loopback, server::Server};

/// A longer head is no answer to an upgrade.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Of a reject's body; the rest is of no interest.
const MAX_BODY_BYTES: usize = 4 * 1024;

/// Who asks, and from where.
#[derive(Debug, Clone, Copy)]
pub struct Upgrade<'a> {
    /// Where to.
    pub server: &'a Server,
    /// `X-Api-Id`.
    pub api_id: &'a str,
    /// `X-Api-Key`.
    pub api_key: &'a str,
    /// A source address of our own.
    pub source: Option<Ipv4Addr>,
    /// For all of it.
    pub deadline: Duration,
}

/// An upgrade that was not answered with 101.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// None when there was no HTTP answer.
    pub status: Option<u16>,
    /// The body of the answer, or why there was none.
    pub error: String,
    /// `Retry-After`, which agents do not read.
    pub retry_after: Option<String>,
}

impl Refused {
    fn no_answer(error: impl ToString) -> Self {
        Self { status: None, error: error.to_string(), retry_after: None }
    }
}

/// Opens a socket, or says how it was refused.
pub async fn upgrade(request: Upgrade<'_>) -> Result<Socket, Refused> {
    match tokio::time::timeout(request.deadline, try_upgrade(request)).await {
        Ok(answer) => answer,
        Err(_) => Err(Refused::no_answer("the upgrade was not answered in time")),
    }
}

async fn try_upgrade(request: Upgrade<'_>) -> Result<Socket, Refused> {
    let mut stream =
        loopback::dial(request.server.address, request.source, request.deadline).await.map_err(Refused::no_answer)?;
    let key = generate_key();
    stream.write_all(head(&request, &key).as_bytes()).await.map_err(Refused::no_answer)?;
    let (head, rest) = read_head(&mut stream).await.map_err(Refused::no_answer)?;
    let answer = Answer::parse(&head)?;
    if answer.status != 101 {
        let body = read_body(&mut stream, rest, answer.content_length).await;
        return Err(Refused {
            status: Some(answer.status),
            error: String::from_utf8_lossy(&body).into_owned(),
            retry_after: answer.retry_after,
        });
    }
    if answer.accept.as_deref() != Some(derive_accept_key(key.as_bytes()).as_str()) {
        return Err(Refused::no_answer("a wrong Sec-WebSocket-Accept"));
    }
    Ok(Socket::new(stream, &rest))
}

/// Order and case as gorilla's client on Go's net/http writes them.
fn head(request: &Upgrade<'_>, key: &str) -> String {
    format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: Go-http-client/1.1\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n\
         X-Api-Id: {}\r\nX-Api-Key: {}\r\n\r\n",
        request.server.socket_path(),
        request.server.host,
        request.api_id,
        request.api_key,
    )
}

/// The head of the answer, and what came behind it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<(String, Vec<u8>)> {
    let mut input = Vec::with_capacity(512);
    loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = input.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&input).into_owned(), rest));
        }
        if input.len() > MAX_HEAD_BYTES {
            return Err(std::io::Error::other("an endless head"));
        }
        if stream.read_buf(&mut input).await? == 0 {
            return Err(std::io::Error::other("closed before an answer"));
        }
    }
}

async fn read_body(stream: &mut TcpStream, mut body: Vec<u8>, length: Option<usize>) -> Vec<u8> {
    let wanted = length.unwrap_or(MAX_BODY_BYTES).min(MAX_BODY_BYTES);
    while body.len() < wanted {
        match stream.read_buf(&mut body).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    body.truncate(wanted);
    body
}

#[derive(Debug)]
struct Answer {
    status: u16,
    accept: Option<String>,
    content_length: Option<usize>,
    retry_after: Option<String>,
}

impl Answer {
    fn parse(head: &str) -> Result<Self, Refused> {
        let mut lines = head.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1."))
            .and_then(|line| line.split(' ').nth(1))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| Refused::no_answer("an answer that is no HTTP"))?;
        let mut answer = Self { status, accept: None, content_length: None, retry_after: None };
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match name.to_ascii_lowercase().as_str() {
                "sec-websocket-accept" => answer.accept = Some(value.to_owned()),
                "content-length" => answer.content_length = value.parse().ok(),
                "retry-after" => answer.retry_after = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::lines;

    #[test]
    fn the_upgrade_has_the_recorded_headers_in_their_order() {
        let server = Server::parse("http://127.0.0.1:3001").unwrap();
        for (file, digits) in [("1.4-startup", "14"), ("2.1-startup", "21")] {
            let api_id = format!("patchmon_{}", digits.repeat(8));
            let api_key = digits.repeat(32);
            let request = Upgrade {
                server: &server,
                api_id: &api_id,
                api_key: &api_key,
                source: None,
                deadline: Duration::from_secs(1),
            };
            let sent = head(&request, "(random)");
            let sent: Vec<_> = sent.trim_end().split("\r\n").skip(1).collect();
            let recorded =
                std::fs::read_to_string(format!("{}/wire/{file}.jsonl", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let line = recorded.lines().find(|line| line.contains("/agents/ws")).unwrap();
            // serde_json's map forgets the order, so it is taken from the text.
            let mut last = 0;
            for header in sent {
                let (name, value) = header.split_once(": ").unwrap();
                let wanted = format!("\"{name}\": \"{value}\"");
                let at = line.find(&wanted).unwrap_or_else(|| panic!("{wanted}"));
                assert!(at > last, "{wanted}");
                last = at;
            }
            assert_eq!(lines(file)[5].0["headers"].as_object().unwrap().len(), 8);
        }
    }
}
