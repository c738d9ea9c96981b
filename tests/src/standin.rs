//! A server of a few lines for the simulator's own tests: it answers as the recordings do and hands out its sockets.

use std::{sync::Arc, time::Duration};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use crate::{credentials::Credentials, server::Server};

/// One request, upgrades included.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: Value,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

#[derive(Debug, Default)]
struct Script {
    /// Answers to the next upgrades; after them 101.
    refuse: Vec<u16>,
    /// Answer to the next posts of a result; after them 200.
    scans: Vec<u16>,
    seen: Vec<Seen>,
}

pub(crate) struct StandIn {
    pub(crate) server: Server,
    script: Arc<Mutex<Script>>,
    sockets: mpsc::Receiver<ServerSocket>,
}

/// The server's end of an agent's socket.
pub(crate) struct ServerSocket(pub(crate) WebSocketStream<TcpStream>);

const PATIENCE: Duration = Duration::from_secs(10);

impl StandIn {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let script = Arc::new(Mutex::new(Script::default()));
        let (sockets_in, sockets) = mpsc::channel(64);
        let shared = script.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, shared.clone(), sockets_in.clone()));
            }
        });
        Self { server: Server::parse(&url).unwrap(), script, sockets }
    }

    pub(crate) fn refuse_upgrades(&self, statuses: &[u16]) {
        self.script.lock().refuse = statuses.to_vec();
    }

    pub(crate) fn refuse_results(&self, statuses: &[u16]) {
        self.script.lock().scans = statuses.to_vec();
    }

    pub(crate) fn seen(&self, path_end: &str) -> Vec<Seen> {
        let script = self.script.lock();
        script.seen.iter().filter(|seen| seen.path().ends_with(path_end)).cloned().collect()
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.script.lock().seen.iter().map(|seen| seen.path().to_owned()).collect()
    }

    /// The next socket that an agent opened.
    pub(crate) async fn socket(&mut self) -> ServerSocket {
        tokio::time::timeout(PATIENCE, self.sockets.recv()).await.unwrap().unwrap()
    }
}

impl ServerSocket {
    pub(crate) async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    pub(crate) async fn ping(&mut self, payload: &str) {
        self.0.send(Message::Ping(payload.to_owned().into())).await.unwrap();
    }

    /// The next text, pongs and pings left out.
    pub(crate) async fn text(&mut self) -> Value {
        loop {
            match self.next().await {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    pub(crate) async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.0.next()).await.unwrap().unwrap().unwrap()
    }
}

async fn serve(mut stream: TcpStream, script: Arc<Mutex<Script>>, sockets: mpsc::Sender<ServerSocket>) {
    let Some((head, body)) = read(&mut stream).await else { return };
    let seen = Seen { head: head.clone(), body };
    let path = seen.path().to_owned();
    script.lock().seen.push(seen);
    if path.ends_with("/agents/ws") {
        let refuse = {
            let mut script = script.lock();
            (!script.refuse.is_empty()).then(|| script.refuse.remove(0))
        };
        if let Some(status) = refuse {
            return answer(&mut stream, status, &json!({"error": "refused"})).await;
        }
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = derive_accept_key(key.as_bytes());
        let hello = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        stream.write_all(hello.as_bytes()).await.unwrap();
        let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
        let _ = sockets.send(ServerSocket(socket)).await;
        return;
    }
    let happy = match path.split('?').next().unwrap_or_default().rsplit("/api/v1/").next().unwrap_or_default() {
        "settings/update-interval" => json!({"updateInterval": 30}),
        "hosts/integrations" => json!({"success": true, "integrations": {"docker": false, "compliance": true}}),
        "compliance/scans" => {
            let status = {
                let mut script = script.lock();
                if script.scans.is_empty() { 200 } else { script.scans.remove(0) }
            };
            // 0: no answer at all.
            if status == 0 {
                return;
            }
            return answer(&mut stream, status, &json!({"scans_received": 1})).await;
        }
        _ => json!({"message": "ok"}),
    };
    answer(&mut stream, 200, &happy).await;
}

async fn answer(stream: &mut TcpStream, status: u16, body: &Value) {
    let body = body.to_string();
    let text = format!(
        "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(text.as_bytes()).await;
}

async fn read(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut input = Vec::new();
    let end = loop {
        if let Some(end) = input.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(input[..end].to_vec()).ok()?;
    let length: usize = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    while input.len() < end + length {
        if stream.read_buf(&mut input).await.ok()? == 0 {
            return None;
        }
    }
    Some((head, serde_json::from_slice(&input[end..end + length]).unwrap_or(Value::Null)))
}

pub(crate) fn host(number: u32) -> Credentials {
    Credentials {
        id: format!("id-{number}"),
        name: format!("web-{number}"),
        api_id: format!("patchmon_{number:016x}"),
        api_key: format!("{number:064x}"),
    }
}
