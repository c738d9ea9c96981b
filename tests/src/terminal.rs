//! The browser's end of a terminal (protocol 2.2 to 2.4): opens the socket, types, and draws what comes on a screen.
//!
//! A task reads the socket and answers pings, as browsers do, whatever the test does meanwhile.

use std::time::Duration;

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, Role},
    },
};

use crate::{
    raw::{self, Reply, WEBSOCKET, Wire},
    server::Server,
};

/// For the upgrade, and for each message that is sent.
const PATIENCE: Duration = Duration::from_secs(15);
/// Messages that are read and not looked at yet; more wait in the socket.
const UNSEEN: usize = 256;
/// Lines that have left the screen.
const SCROLLBACK: usize = 1000;

/// How a browser or a program shows who it is.
#[derive(Clone, Copy)]
pub enum Access<'a> {
    /// Not at all.
    Nobody,
    /// `?ticket=`, which the UI has from `auth/ssh-ticket`.
    Ticket(&'a str),
    /// `?token=`
    TokenQuery(&'a str),
    /// `Authorization: Bearer`
    Bearer(&'a str),
    /// The login's cookie, from a page of this origin.
    Cookie {
        /// Its value.
        token: &'a str,
        /// Such as `http://patchbay.test`; None sends none.
        origin: Option<&'a str>,
    },
}

/// What the server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// `connected`: the shell is open.
    Connected,
    /// `data`: it wrote.
    Data(String),
    /// `error`, with its message.
    Error(String),
    /// `closed`: the shell is gone.
    Closed,
    /// Anything else, which no server should say.
    Other(String),
    /// The socket is gone.
    Ended(End),
}

/// How a socket went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Of the close frame. A browser shows 1006 when there was none.
    pub code: Option<u16>,
    /// Of the close frame.
    pub reason: String,
}

/// A terminal that did not open.
#[derive(Debug, thiserror::Error)]
#[error("{status} {body}")]
pub struct Rejected {
    /// Of the answer.
    pub status: u16,
    /// Its body.
    pub body: String,
}

/// What was waited for did not come.
#[derive(Debug, thiserror::Error)]
#[error("{why}; until then: {seen:?}")]
pub struct NeverCame {
    /// What came instead, or that it was too late.
    pub why: String,
    /// What the shell had written.
    pub seen: String,
}

type Stream = WebSocketStream<TcpStream>;

/// An open socket. Dropped, it is gone without a close frame.
pub struct Terminal {
    sink: SplitSink<Stream, Message>,
    heard: mpsc::Receiver<Heard>,
    paused: watch::Sender<bool>,
    reading: JoinHandle<()>,
    screen: vt100::Parser,
    end: Option<End>,
}

impl Terminal {
    /// Opens the terminal of a host.
    ///
    /// # Errors
    /// The answer that was no upgrade.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn open(server: &Server, host_id: &str, access: Access<'_>) -> Result<Self, Rejected> {
        Self::open_with(server, host_id, access, &[]).await
    }

    /// The same with more headers.
    ///
    /// # Errors
    /// As [`Terminal::open`].
    ///
    /// # Panics
    /// As [`Terminal::open`].
    pub async fn open_with(
        server: &Server,
        host_id: &str,
        access: Access<'_>,
        more: &[(&str, &str)],
    ) -> Result<Self, Rejected> {
        let mut path = format!("{}/api/v1/ssh-terminal/{host_id}", server.socket_prefix);
        let mut headers = vec![("Host", server.host.as_str())];
        headers.extend(WEBSOCKET);
        let shown;
        match access {
            Access::Nobody => {}
            Access::Ticket(ticket) => path.push_str(&format!("?ticket={ticket}")),
            Access::TokenQuery(token) => path.push_str(&format!("?token={token}")),
            Access::Bearer(token) => {
                shown = format!("Bearer {token}");
                headers.push(("Authorization", &shown));
            }
            Access::Cookie { token, origin } => {
                shown = format!("token={token}");
                headers.push(("Cookie", &shown));
                headers.extend(origin.map(|origin| ("Origin", origin)));
            }
        }
        headers.extend(more);
        let mut wire = Wire::dial(server, None).await.expect("the server takes connections");
        let reply: Reply = wire.call(&raw::request("GET", &path, &headers, "")).await.expect("an answer");
        if reply.status != 101 {
            return Err(Rejected { status: reply.status, body: String::from_utf8_lossy(&reply.body).into_owned() });
        }
        let (stream, rest) = wire.into_parts();
        Ok(Self::on(WebSocketStream::from_partially_read(stream, rest, Role::Client, None).await))
    }

    /// On a socket that is open.
    fn on(stream: Stream) -> Self {
        let (sink, stream) = stream.split();
        let (heard_in, heard) = mpsc::channel(UNSEEN);
        let paused = watch::Sender::new(false);
        let reading = tokio::spawn(read(stream, paused.subscribe(), heard_in));
        let screen = vt100::Parser::new(24, 80, SCROLLBACK);
        Self { sink, heard, paused, reading, screen, end: None }
    }

    /// Sends `connect` with these fields, `type` left out. Its `cols` and `rows` are the screen's from now on.
    pub async fn connect(&mut self, fields: Value) {
        let mut message = fields;
        message["type"] = json!("connect");
        let size =
            |name: &str| message[name].as_u64().and_then(|size| u16::try_from(size).ok()).filter(|size| *size > 0);
        self.screen.screen_mut().set_size(size("rows").unwrap_or(24), size("cols").unwrap_or(80));
        self.send(&message.to_string()).await;
    }

    /// Types.
    pub async fn input(&mut self, keys: &str) {
        self.send(&json!({"type": "input", "data": keys}).to_string()).await;
    }

    /// Another size, of the screen too.
    pub async fn resize(&mut self, cols: u16, rows: u16) {
        self.screen.screen_mut().set_size(rows, cols);
        self.send(&json!({"type": "resize", "cols": cols, "rows": rows}).to_string()).await;
    }

    /// Sends `disconnect`; the socket stays.
    pub async fn disconnect(&mut self) {
        self.send(r#"{"type":"disconnect"}"#).await;
    }

    /// Sends a text of the test's own. To a socket that is gone it is lost, as [`Terminal::next`] will tell.
    pub async fn send(&mut self, text: &str) {
        let _ = timeout(PATIENCE, self.sink.send(Message::text(text))).await;
    }

    /// Closes the socket as a page that is left (1001), and waits for the answer.
    pub async fn close(mut self) {
        let frame = CloseFrame { code: 1001.into(), reason: "".into() };
        let _ = timeout(PATIENCE, self.sink.send(Message::Close(Some(frame)))).await;
        while !matches!(self.next(PATIENCE).await, None | Some(Heard::Ended(_))) {}
    }

    /// Reads nothing more from the socket, pings included, until [`Terminal::resume`]. What was read before is still heard.
    pub fn stop_reading(&self) {
        self.paused.send_replace(true);
    }

    /// Reads again.
    pub fn resume(&self) {
        self.paused.send_replace(false);
    }

    /// The next thing that is heard. `None` when there is nothing in time; a socket that is gone is told every time.
    pub async fn next(&mut self, patience: Duration) -> Option<Heard> {
        if let Some(end) = &self.end {
            return Some(Heard::Ended(end.clone()));
        }
        let none = End { code: None, reason: String::new() };
        let heard = timeout(patience, self.heard.recv()).await.ok()?.unwrap_or(Heard::Ended(none));
        match &heard {
            Heard::Data(data) => self.screen.process(data.as_bytes()),
            Heard::Ended(end) => self.end = Some(end.clone()),
            _ => {}
        }
        Some(heard)
    }

    /// Waits for `connected`, which has to come first.
    ///
    /// # Errors
    /// What came instead.
    pub async fn connected(&mut self, patience: Duration) -> Result<(), NeverCame> {
        match self.next(patience).await {
            Some(Heard::Connected) => Ok(()),
            other => Err(NeverCame { why: came(other), seen: String::new() }),
        }
    }

    /// Reads what the shell writes until `text` stands in it, and gives all of that.
    ///
    /// # Errors
    /// When something else is heard before, or it does not come in time.
    pub async fn until(&mut self, text: &str, patience: Duration) -> Result<String, NeverCame> {
        self.until_seen(|seen| seen.contains(text), patience).await
    }

    /// The same until what the shell has written fits.
    ///
    /// # Errors
    /// As [`Terminal::until`].
    pub async fn until_seen(&mut self, fits: impl Fn(&str) -> bool, patience: Duration) -> Result<String, NeverCame> {
        let deadline = Instant::now() + patience;
        let mut seen = String::new();
        while !fits(&seen) {
            match self.next(deadline.saturating_duration_since(Instant::now())).await {
                Some(Heard::Data(data)) => seen.push_str(&data),
                other => return Err(NeverCame { why: came(other), seen }),
            }
        }
        Ok(seen)
    }

    /// Reads on, whatever is written, until the screen has this text.
    ///
    /// # Errors
    /// As [`Terminal::until`], with the screen.
    pub async fn until_screen(&mut self, text: &str, patience: Duration) -> Result<(), NeverCame> {
        let deadline = Instant::now() + patience;
        while !self.screen_contains(text) {
            match self.next(deadline.saturating_duration_since(Instant::now())).await {
                Some(Heard::Data(_)) => {}
                other => return Err(NeverCame { why: came(other), seen: self.screen() }),
            }
        }
        Ok(())
    }

    /// Reads on until the shell is gone (`closed`), and gives what it wrote before.
    ///
    /// # Errors
    /// As [`Terminal::until`].
    pub async fn until_closed(&mut self, patience: Duration) -> Result<String, NeverCame> {
        let deadline = Instant::now() + patience;
        let mut seen = String::new();
        loop {
            match self.next(deadline.saturating_duration_since(Instant::now())).await {
                Some(Heard::Data(data)) => seen.push_str(&data),
                Some(Heard::Closed) => return Ok(seen),
                other => return Err(NeverCame { why: came(other), seen }),
            }
        }
    }

    /// Reads on until the socket is gone, whatever is said before.
    ///
    /// # Errors
    /// When it stays open.
    pub async fn ended(&mut self, patience: Duration) -> Result<End, NeverCame> {
        let read = async {
            loop {
                if let Some(Heard::Ended(end)) = self.next(PATIENCE).await {
                    return end;
                }
            }
        };
        let ended = timeout_at(Instant::now() + patience, read).await;
        ended.map_err(|_| NeverCame { why: "the socket is still open".to_owned(), seen: self.screen() })
    }

    /// Whether this stands on the screen.
    pub fn screen_contains(&self, text: &str) -> bool {
        self.screen().contains(text)
    }

    /// What stands on the screen, a line a row.
    pub fn screen(&self) -> String {
        self.screen.screen().contents()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

fn came(heard: Option<Heard>) -> String {
    heard.map_or_else(|| "nothing more came in time".to_owned(), |heard| format!("{heard:?} came"))
}

async fn read(mut stream: SplitStream<Stream>, mut paused: watch::Receiver<bool>, heard: mpsc::Sender<Heard>) {
    let mut end = End { code: None, reason: String::new() };
    loop {
        if paused.wait_for(|paused| !*paused).await.is_err() {
            return;
        }
        let message = tokio::select! {
            biased;
            _ = paused.wait_for(|paused| *paused) => continue,
            message = stream.next() => message,
        };
        let told = match message {
            Some(Ok(Message::Text(text))) => said(&text),
            Some(Ok(Message::Binary(bytes))) => Heard::Other(format!("{} binary bytes", bytes.len())),
            // The close goes on until TCP has ended, so that its answer is on its way.
            Some(Ok(Message::Close(frame))) => {
                if let Some(frame) = frame {
                    end = End { code: Some(frame.code.into()), reason: frame.reason.to_string() };
                }
                continue;
            }
            Some(Ok(_)) => continue,
            Some(Err(_)) | None => {
                let _ = heard.send(Heard::Ended(end)).await;
                return;
            }
        };
        if heard.send(told).await.is_err() {
            return;
        }
    }
}

/// A message as the UI reads it (protocol 2.4).
fn said(text: &str) -> Heard {
    let message: Value = serde_json::from_str(text).unwrap_or_default();
    let field = |name: &str| message[name].as_str().map(str::to_owned);
    match (message["type"].as_str(), field("data"), field("message")) {
        (Some("connected"), ..) => Heard::Connected,
        (Some("closed"), ..) => Heard::Closed,
        (Some("data"), Some(data), _) => Heard::Data(data),
        (Some("error"), _, Some(message)) => Heard::Error(message),
        _ => Heard::Other(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    struct Gateway {
        listener: TcpListener,
        server: Server,
    }

    impl Gateway {
        async fn start() -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let server = Server::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
            Self { listener, server }
        }

        /// The next request's head, and the socket that it asked for.
        async fn accept(&self) -> (String, Stream) {
            let (mut stream, head) = self.request().await;
            stream
                .write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
                )
                .await
                .unwrap();
            (head, WebSocketStream::from_raw_socket(stream, Role::Server, None).await)
        }

        async fn request(&self) -> (TcpStream, String) {
            use tokio::io::AsyncReadExt;
            let (mut stream, _) = self.listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut head).await.unwrap() > 0);
            }
            (stream, String::from_utf8(head).unwrap())
        }

        async fn open(&self, access: Access<'_>) -> (String, Stream, Terminal) {
            let opening = Terminal::open(&self.server, "h-1", access);
            let ((head, stream), terminal) = tokio::join!(self.accept(), opening);
            (head, stream, terminal.unwrap())
        }
    }

    async fn sent(stream: &mut Stream) -> Value {
        serde_json::from_str(stream.next().await.unwrap().unwrap().to_text().unwrap()).unwrap()
    }

    async fn say(stream: &mut Stream, message: Value) {
        stream.send(Message::text(message.to_string())).await.unwrap();
    }

    #[tokio::test]
    async fn each_access_is_shown_where_the_server_looks() {
        let gateway = Gateway::start().await;
        let cookie = |origin| Access::Cookie { token: "t", origin };
        for (access, path, line) in [
            (Access::Ticket("a1"), "GET /api/v1/ssh-terminal/h-1?ticket=a1 HTTP/1.1", None),
            (Access::TokenQuery("t"), "GET /api/v1/ssh-terminal/h-1?token=t HTTP/1.1", None),
            (Access::Bearer("t"), "GET /api/v1/ssh-terminal/h-1 HTTP/1.1", Some("Authorization: Bearer t")),
            (cookie(None), "GET /api/v1/ssh-terminal/h-1 HTTP/1.1", Some("Cookie: token=t")),
            (cookie(Some("http://x")), "GET /api/v1/ssh-terminal/h-1 HTTP/1.1", Some("Origin: http://x")),
        ] {
            let (head, _stream, _terminal) = gateway.open(access).await;
            assert_eq!(head.lines().next(), Some(path));
            assert!(line.is_none_or(|line| head.contains(&format!("\r\n{line}\r\n"))), "{head}");
            assert_eq!(head.contains("Origin"), line.is_some_and(|line| line.starts_with("Origin")));
        }
    }

    #[tokio::test]
    async fn a_refusal_has_its_status_and_body() {
        let gateway = Gateway::start().await;
        let answer = async {
            let (mut stream, _) = gateway.request().await;
            let body = r#"{"error":"Invalid or expired ticket"}"#;
            let text = format!("HTTP/1.1 401 x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.unwrap();
        };
        let opening = Terminal::open(&gateway.server, "h-1", Access::Nobody);
        let ((), refused) = tokio::join!(answer, opening);
        let refused = refused.err().unwrap();
        assert_eq!((refused.status, refused.body.as_str()), (401, r#"{"error":"Invalid or expired ticket"}"#));
    }

    #[tokio::test]
    async fn what_is_written_is_collected_and_drawn() {
        let gateway = Gateway::start().await;
        let (_, mut stream, mut terminal) = gateway.open(Access::Ticket("a1")).await;
        terminal.connect(json!({"cols": 20, "rows": 5, "password": "x"})).await;
        assert_eq!(sent(&mut stream).await, json!({"type": "connect", "cols": 20, "rows": 5, "password": "x"}));
        say(&mut stream, json!({"type": "connected"})).await;
        terminal.connected(SOON).await.unwrap();
        terminal.input("ls\r").await;
        assert_eq!(sent(&mut stream).await, json!({"type": "input", "data": "ls\r"}));
        for data in ["\u{1b}[2J\u{1b}[2;3Ha", "b", "\u{1b}[1;1Htop"] {
            say(&mut stream, json!({"type": "data", "data": data})).await;
        }
        let seen = terminal.until("top", SOON).await.unwrap();
        assert!(seen.starts_with("\u{1b}[2J"));
        assert_eq!(terminal.screen(), "top\n  ab");
        assert!(terminal.screen_contains("ab") && !terminal.screen_contains("top\nab"));
        terminal.resize(40, 10).await;
        assert_eq!(sent(&mut stream).await, json!({"type": "resize", "cols": 40, "rows": 10}));
        say(&mut stream, json!({"type": "error", "message": "no"})).await;
        let never = terminal.until("more", Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(never.why, r#"Error("no") came"#);
        terminal.disconnect().await;
        assert_eq!(sent(&mut stream).await, json!({"type": "disconnect"}));
        say(&mut stream, json!({"type": "data", "data": "bye"})).await;
        say(&mut stream, json!({"type": "closed"})).await;
        assert_eq!(terminal.until_closed(SOON).await.unwrap(), "bye");
        say(&mut stream, json!({"type": "news"})).await;
        assert_eq!(terminal.next(SOON).await, Some(Heard::Other(r#"{"type":"news"}"#.to_owned())));
        let frame = CloseFrame { code: 1008.into(), reason: "moved".into() };
        stream.close(Some(frame)).await.unwrap();
        tokio::spawn(async move { while stream.next().await.is_some() {} });
        let end = End { code: Some(1008), reason: "moved".to_owned() };
        assert_eq!(terminal.next(SOON).await, Some(Heard::Ended(end.clone())));
        assert_eq!(terminal.ended(SOON).await.unwrap(), end);
    }

    #[tokio::test]
    async fn a_terminal_that_does_not_read_answers_no_ping_and_goes_on_later() {
        let gateway = Gateway::start().await;
        let (_, mut stream, mut terminal) = gateway.open(Access::Ticket("a1")).await;
        stream.send(Message::Ping("1".into())).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap(), Message::Pong("1".into()));
        terminal.stop_reading();
        // More than the socket's buffers take: the server has to wait.
        let flood = async move {
            for _ in 0..2_000 {
                say(&mut stream, json!({"type": "data", "data": "x".repeat(8_192)})).await;
            }
            stream
        };
        let mut flood = tokio::spawn(flood);
        assert!(timeout(Duration::from_millis(300), &mut flood).await.is_err());
        assert_eq!(terminal.next(Duration::from_millis(1)).await, None);
        terminal.resume();
        let all = terminal.until_seen(|seen| seen.len() == 2_000 * 8_192, SOON).await.unwrap();
        assert!(all.bytes().all(|byte| byte == b'x'));
        drop(flood.await.unwrap());
        assert_eq!(terminal.ended(SOON).await.unwrap(), End { code: None, reason: String::new() });
    }
}
