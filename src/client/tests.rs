//! The client against a server of a few lines: what it sends, frame by frame, and what it makes of the answers.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use reqwest::Upgraded;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{
    address::Base,
    credentials::Entry,
    hosts::{self, Host},
    http::Server,
    login::log_in,
    session::{self, Connect, End, Local, Size},
    ssh,
};

const PATIENCE: Duration = Duration::from_secs(30);
const ID: &str = "7f3d0c52-6f5e-4b8c-9c53-4f3f1f6f3a11";
const SIZE: Size = Size { cols: 132, rows: 43 };

/// One request: its head, and its body or null.
type Seen = Arc<Mutex<Vec<(String, Value)>>>;

/// A server below the path `/ops`.
struct Fake {
    url: String,
    seen: Seen,
    sockets: mpsc::Receiver<ServerEnd>,
}

/// The server's end of a terminal.
struct ServerEnd(WebSocketStream<TcpStream>);

impl Fake {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/ops", listener.local_addr().expect("an address"));
        let (opened, sockets) = mpsc::channel(4);
        let seen = Seen::default();
        let shared = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&shared), opened.clone()));
            }
        });
        Self { url, seen, sockets }
    }

    fn server(&self) -> Server {
        Server::new(Base::parse(&self.url).expect("an address"), None).expect("a client")
    }

    fn entry(&self) -> Entry {
        Entry { url: self.url.clone(), username: "ann".to_owned(), token: token(), ca: None }
    }

    /// Both ends of a terminal.
    async fn terminal(&mut self) -> (WebSocketStream<Upgraded>, ServerEnd) {
        let host = Host { id: ID.parse().expect("an id"), name: "web".to_owned() };
        let socket = ssh::socket(&self.server(), &self.entry(), &host).await.expect("a socket");
        (socket, self.sockets.recv().await.expect("the other end"))
    }
}

fn token() -> SecretString {
    "the-token".to_owned().into()
}

async fn serve(mut stream: TcpStream, seen: Seen, opened: mpsc::Sender<ServerEnd>) {
    let mut peeked = [0; 64];
    let length = stream.peek(&mut peeked).await.expect("a request");
    if peeked[..length].starts_with(b"GET /ops/api/v1/ssh-terminal/") {
        #[expect(clippy::result_large_err, reason = "the library's own type of a refusal")]
        let note = |request: &Request, response: Response| {
            seen.lock().push((request.uri().to_string(), Value::Null));
            Ok(response)
        };
        let socket = accept_hdr_async(stream, note).await.expect("an upgrade");
        let _ = opened.send(ServerEnd(socket)).await;
        return;
    }
    let mut all = Vec::new();
    let (head, body) = loop {
        assert_ne!(stream.read_buf(&mut all).await.expect("a request"), 0, "cut off");
        let text = String::from_utf8(all.clone()).expect("text");
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
        if body.len() == length.unwrap_or(0) {
            break (head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null));
        }
    };
    let (status, answer) = answer(&head, &body);
    seen.lock().push((head, body));
    let answer = answer.to_string();
    let text = format!(
        "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nConnection: close\r\nLocation: https://other\r\n\r\n{answer}",
        answer.len()
    );
    stream.write_all(text.as_bytes()).await.expect("an answer");
}

fn answer(head: &str, body: &Value) -> (u16, Value) {
    let line = head.lines().next().unwrap_or_default();
    let line = line.trim_end_matches(" HTTP/1.1");
    let logged_in = head.lines().any(|line| line.eq_ignore_ascii_case("authorization: bearer the-token"));
    match line {
        "POST /ops/api/v1/auth/login" => match body["password"].as_str() {
            Some("right") => (200, json!({"token": "the-token", "user": {"username": "Ann"}})),
            Some("often") => (429, json!({"error": "Too many requests, please try again later", "retryAfter": 60})),
            Some("away") => (503, json!({"error": "The store is unavailable, please try again"})),
            Some("moved") => (308, Value::Null),
            _ => (401, json!({"error": "Invalid credentials\u{1b}[2J"})),
        },
        _ if !logged_in => (401, json!({"error": "Token expired"})),
        "POST /ops/api/v1/auth/ssh-ticket" => (200, json!({"ticket": "the/ticket", "expiresIn": 30})),
        "GET /ops/api/v1/hosts?search=web&limit=1000" => (
            200,
            json!({
                "items": [{"id": uuid::Uuid::nil(), "name": "a-web"}], "next_cursor": "a-web",
            }),
        ),
        "GET /ops/api/v1/hosts?search=web&limit=1000&cursor=a-web" => (
            200,
            json!({
                "items": [{"id": ID, "name": "web", "connected": true}], "next_cursor": "web",
            }),
        ),
        line if line == format!("GET /ops/api/v1/hosts/{ID}") => (200, json!({"id": ID, "name": "web"})),
        _ => (404, json!({"error": "Host not found"})),
    }
}

impl ServerEnd {
    /// The next message, or null for the end.
    async fn next(&mut self) -> Value {
        loop {
            match timeout(PATIENCE, self.0.next()).await.expect("a message in time") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).expect("JSON"),
                Some(Ok(Message::Close(frame))) => {
                    return json!({"closed with": frame.map(|frame| u16::from(frame.code))});
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Value::Null,
            }
        }
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("sent");
    }
}

/// A session under way, and the ends of what is around it.
struct Running {
    keys: Option<mpsc::Sender<Vec<u8>>>,
    screen: mpsc::Receiver<Vec<u8>>,
    size: watch::Sender<Size>,
    stop: Option<tokio::sync::oneshot::Sender<&'static str>>,
    end: JoinHandle<End>,
}

impl Running {
    async fn start(interactive: bool) -> (Self, ServerEnd) {
        let (socket, server) = Fake::start().await.terminal().await;
        let (keys, typed) = mpsc::channel(4);
        let (shown, screen) = mpsc::channel(1);
        let (size, sizes) = watch::channel(SIZE);
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let local = Local { keys: typed, screen: shown, sizes, interactive };
        let stopped = async {
            match stopped.await {
                Ok(name) => name,
                Err(_) => pending().await,
            }
        };
        let end = tokio::spawn(session::carry(socket, local, stopped));
        (Self { keys: Some(keys), screen, size, stop: Some(stop), end }, server)
    }

    async fn types(&self, bytes: &[u8]) {
        self.keys.as_ref().expect("open").send(bytes.to_vec()).await.expect("read");
    }

    async fn shows(&mut self) -> String {
        let shown = timeout(PATIENCE, self.screen.recv()).await.expect("output in time");
        String::from_utf8(shown.expect("output")).expect("text")
    }

    async fn end(self) -> End {
        timeout(PATIENCE, self.end).await.expect("an end in time").expect("no panic")
    }
}

fn connect() -> Connect<'static> {
    Connect {
        connection_mode: "direct",
        username: "ann",
        port: 2222,
        terminal: "screen",
        size: SIZE,
        password: Some("pw"),
        private_key: None,
        passphrase: None,
        proxy_host: None,
        proxy_port: None,
    }
}

#[tokio::test]
async fn a_login_gives_a_token_or_the_servers_words() {
    let fake = Fake::start().await;
    let server = fake.server();
    let logged_in = async |password: &str| log_in(&server, "ann", &password.to_owned().into()).await;
    let (token, username) = logged_in("right").await.expect("logged in");
    assert_eq!((token.expose_secret(), username.as_str()), ("the-token", "Ann"));
    assert_eq!(fake.seen.lock()[0].1, json!({"username": "ann", "password": "right"}));
    for (password, said) in [
        ("wrong", "Invalid credentials[2J"),
        ("often", "Too many requests, please try again later"),
        ("away", "The store is unavailable, please try again"),
        ("moved", "the server is elsewhere, at https://other"),
    ] {
        assert_eq!(logged_in(password).await.expect_err(password).to_string(), said);
    }
}

#[tokio::test]
async fn a_server_that_is_not_there_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    drop(listener);
    let server = Server::new(Base::parse(&url).expect("an address"), None).expect("a client");
    let error = log_in(&server, "ann", &token()).await.expect_err("nobody").to_string();
    assert!(error.starts_with(&format!("cannot reach {url}: ")) && error.contains("refused"), "{error}");
    let error = server.socket("/x", &[("ticket", "the-ticket")]).await.expect_err("nobody").to_string();
    assert!(!error.contains("the-ticket"), "{error}");
}

#[tokio::test]
async fn a_host_is_found_by_name_over_pages_and_by_id() {
    let fake = Fake::start().await;
    let find = async |wanted: &str| hosts::find(&fake.server(), &token(), wanted).await;
    assert_eq!(find("web").await.expect("found").id.to_string(), ID);
    assert_eq!(find(ID).await.expect("found").name, "web");
    assert_eq!(find("db").await.expect_err("none").to_string(), "Host not found");
}

#[tokio::test]
async fn a_terminal_costs_a_ticket() {
    let mut fake = Fake::start().await;
    let (_socket, _server) = fake.terminal().await;
    let seen = fake.seen.lock().clone();
    assert_eq!(seen[0].1, json!({"hostId": ID}));
    assert_eq!(seen[1].0, format!("/ops/api/v1/ssh-terminal/{ID}?ticket=the%2Fticket"));
    let host = Host { id: ID.parse().expect("an id"), name: "web".to_owned() };
    let late = Entry { token: "old".to_owned().into(), ..fake.entry() };
    let error = ssh::socket(&fake.server(), &late, &host).await.expect_err("no session").to_string();
    assert_eq!(error, format!("Token expired; log in again with `patchbay login {}`", fake.url));
}

#[tokio::test]
async fn a_shell_is_asked_for_and_refused_in_the_servers_words() {
    let mut fake = Fake::start().await;
    let (mut socket, mut server) = fake.terminal().await;
    let asked = tokio::spawn(async move { session::open(&mut socket, &connect()).await.map(|()| socket) });
    assert_eq!(
        server.next().await,
        json!({
            "type": "connect", "connection_mode": "direct", "username": "ann", "port": 2222, "terminal": "screen",
            "cols": 132, "rows": 43, "password": "pw",
        })
    );
    server.say(json!({"type": "later", "data": 1})).await;
    server.say(json!({"type": "connected"})).await;
    asked.await.expect("no panic").expect("open");

    let (mut socket, mut server) = fake.terminal().await;
    let asked = tokio::spawn(async move {
        let connect = Connect {
            connection_mode: "proxy",
            password: None,
            private_key: Some("key"),
            passphrase: Some("pass"),
            proxy_host: Some("localhost"),
            proxy_port: Some(22),
            ..connect()
        };
        session::open(&mut socket, &connect).await
    });
    let sent = server.next().await;
    assert_eq!((&sent["privateKey"], &sent["passphrase"]), (&json!("key"), &json!("pass")));
    assert_eq!((&sent["proxy_host"], &sent["proxy_port"]), (&json!("localhost"), &json!(22)));
    assert!(sent.get("password").is_none(), "{sent}");
    server.say(json!({"type": "error", "message": "Failed to connect:\n\u{1b}]0;x\u{7}no"})).await;
    assert_eq!(server.next().await, json!({"closed with": 1000}));
    assert_eq!(asked.await.expect("no panic").expect_err("refused").to_string(), "Failed to connect: ]0;xno");
}

#[tokio::test]
async fn keys_go_out_and_output_comes_in_as_it_is_until_the_shell_ends() {
    let (mut running, mut server) = Running::start(true).await;
    running.types(b"ls\r").await;
    assert_eq!(server.next().await, json!({"type": "input", "data": "ls\r"}));
    // A character in two halves.
    running.types(&[b'a', 0xe2, 0x82]).await;
    assert_eq!(server.next().await, json!({"type": "input", "data": "a"}));
    running.types(&[0xac]).await;
    assert_eq!(server.next().await, json!({"type": "input", "data": "€"}));
    server.say(json!({"type": "data", "data": "\u{1b}[1mweb\u{1b}[m\r\n"})).await;
    assert_eq!(running.shows().await, "\u{1b}[1mweb\u{1b}[m\r\n");
    for ignored in [json!({"type": "data"}), json!({"type": 7}), json!([1]), json!({"type": "news"})] {
        server.say(ignored).await;
    }
    server.say(json!({"type": "closed", "exit_status": 3})).await;
    assert_eq!(server.next().await, json!({"closed with": 1000}));
    assert_eq!(running.end().await, End::Closed(Some(3)));
}

#[tokio::test]
async fn a_shell_that_tells_no_status_has_ended_all_the_same() {
    let (running, mut server) = Running::start(true).await;
    server.say(json!({"type": "closed"})).await;
    assert_eq!(running.end().await, End::Closed(None));
}

#[tokio::test]
async fn an_error_is_the_end_with_the_servers_words() {
    let (running, mut server) = Running::start(true).await;
    server.say(json!({"type": "error", "message": "SSH connection error: \u{1b}[31mgone"})).await;
    server.say(json!({"type": "closed"})).await;
    assert_eq!(running.end().await, End::Failed("SSH connection error: [31mgone".to_owned()));

    let (running, mut server) = Running::start(true).await;
    server.say(json!({"type": "error", "message": "no"})).await;
    drop(server);
    assert_eq!(running.end().await, End::Failed("no".to_owned()));
}

#[tokio::test]
async fn a_lost_socket_is_the_end() {
    let (running, server) = Running::start(true).await;
    drop(server);
    assert!(matches!(running.end().await, End::Failed(said) if said.contains("connection")));

    let (running, mut server) = Running::start(true).await;
    let frame = CloseFrame { code: CloseCode::Away, reason: "draining\u{1b}".into() };
    server.0.close(Some(frame)).await.expect("closed");
    assert_eq!(running.end().await, End::Failed("the server closed the connection: draining".to_owned()));
}

#[tokio::test]
async fn tilde_and_dot_end_the_session_in_order() {
    let (running, mut server) = Running::start(true).await;
    running.types(b"exit\r~").await;
    assert_eq!(server.next().await, json!({"type": "input", "data": "exit\r"}));
    running.types(b".").await;
    assert_eq!(server.next().await, json!({"type": "disconnect"}));
    assert_eq!(server.next().await, json!({"closed with": 1000}));
    assert_eq!(running.end().await, End::Left);
}

#[tokio::test]
async fn a_signal_ends_the_session_in_order() {
    let (mut running, mut server) = Running::start(true).await;
    running.stop.take().expect("running").send("SIGHUP").expect("heard");
    assert_eq!(server.next().await, json!({"type": "disconnect"}));
    assert_eq!(server.next().await, json!({"closed with": 1000}));
    assert_eq!(running.end().await, End::Stopped("SIGHUP"));
}

#[tokio::test]
async fn the_end_of_a_pipe_is_ctrl_d() {
    let (mut running, mut server) = Running::start(false).await;
    running.types(&[&b"uptime\n~.\n"[..], &[0xe2]].concat()).await;
    running.keys = None;
    assert_eq!(server.next().await, json!({"type": "input", "data": "uptime\n~.\n"}));
    assert_eq!(server.next().await, json!({"type": "input", "data": "\u{fffd}"}));
    assert_eq!(server.next().await, json!({"type": "input", "data": "\u{4}"}));
    server.say(json!({"type": "data", "data": "up\r\n"})).await;
    assert_eq!(running.shows().await, "up\r\n");
    server.say(json!({"type": "closed", "exit_status": 0})).await;
    assert_eq!(running.end().await, End::Closed(Some(0)));
}

#[tokio::test]
async fn a_new_size_is_sent_at_once_and_then_only_the_last() {
    let (running, mut server) = Running::start(true).await;
    running.size.send(Size { cols: 100, rows: 30 }).expect("heard");
    assert_eq!(server.next().await, json!({"type": "resize", "cols": 100, "rows": 30}));
    for cols in 101..150 {
        running.size.send(Size { cols, rows: 30 }).expect("heard");
    }
    let mut last = server.next().await;
    let mut sent = 1;
    while last["cols"] != 149 {
        last = server.next().await;
        sent += 1;
    }
    assert!(sent < 49, "{sent}");
}

#[tokio::test]
async fn pings_are_answered_and_keys_sent_while_nobody_reads_the_output() {
    let (mut running, mut server) = Running::start(true).await;
    // One is shown, one waits in the channel, one is held; from there on the server waits.
    for n in 0..3 {
        server.say(json!({"type": "data", "data": n.to_string()})).await;
    }
    running.types(b"\x03").await;
    assert_eq!(server.next().await, json!({"type": "input", "data": "\u{3}"}));
    for n in 0..3 {
        assert_eq!(running.shows().await, n.to_string());
    }
    server.0.send(Message::Ping("x".into())).await.expect("sent");
    let pong = timeout(PATIENCE, server.0.next()).await.expect("in time").expect("open").expect("a frame");
    assert_eq!(pong, Message::Pong("x".into()));
    running.types(b"~.").await;
    assert_eq!(server.next().await, json!({"type": "input", "data": "~."}), "Ctrl-C begins no line");
    running.types(b"\r~.").await;
    assert_eq!(running.end().await, End::Left);
}

#[tokio::test]
async fn a_server_that_reads_nothing_can_be_left() {
    let (running, server) = Running::start(true).await;
    // More than the kernel keeps for it; the session stops taking keys, so what is left of them is not waited for.
    let typing = async {
        for _ in 0..(WAITING_KEYS) {
            running.types(&[b'x'; 4 << 10]).await;
        }
        running.types(b"\r~.").await;
    };
    timeout(PATIENCE, typing).await.expect("keys are taken");
    assert_eq!(running.end().await, End::Left);
    drop(server);
}

/// Reads of the keyboard that the session takes, whatever the server does.
const WAITING_KEYS: usize = 200;
