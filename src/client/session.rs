//! One shell over the socket of a browser's terminal, from `connect` to `closed`. Knows no terminal: keys, screen and
//! size are channels, so that each side waits for the other and nothing piles up.

use std::{collections::VecDeque, future::Future, pin::pin, time::Duration};

use anyhow::{anyhow, bail};
use futures_util::{SinkExt as _, Stream, StreamExt as _};
use serde::Serialize;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{
    keys::{Keys, pieces},
    plain,
};

/// Until the shell is open; the server gives up after 20 s.
const OPEN: Duration = Duration::from_secs(60);
/// After a change of size the next one waits this long, and only the last of those meanwhile is sent.
const SETTLE: Duration = Duration::from_millis(100);
/// After an error that neither an end nor any output follows.
const GRACE: Duration = Duration::from_secs(5);
/// For goodbyes.
const GOODBYE: Duration = Duration::from_secs(2);
/// Messages that wait for the socket before keys are left where they are. So many that `~.` is read even when the
/// server reads nothing.
const WAITING: usize = 256;
/// End of transmission: what a terminal makes of Ctrl-D.
const EOT: &str = "\u{4}";
/// Between two of them, once stdin has ended.
const EOT_AGAIN: Duration = Duration::from_secs(1);

/// A window's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Columns.
    pub cols: u16,
    /// Rows.
    pub rows: u16,
}

/// Where to, as whom, and from what terminal.
#[derive(Serialize)]
pub struct Connect<'a> {
    /// `direct` or `proxy`.
    pub connection_mode: &'a str,
    /// The user.
    pub username: &'a str,
    /// The host's port.
    pub port: u16,
    /// `TERM`.
    pub terminal: &'a str,
    /// The window.
    #[serde(flatten)]
    pub size: Size,
    /// A password, or
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<&'a str>,
    /// a private key,
    #[serde(rename = "privateKey", skip_serializing_if = "Option::is_none")]
    pub private_key: Option<&'a str>,
    /// and what it is encrypted with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<&'a str>,
    /// Whom the agent connects to, in proxy mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_host: Option<&'a str>,
    /// And at which port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy_port: Option<u16>,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum ToServer<'a> {
    Connect(&'a Connect<'a>),
    Input { data: &'a str },
    Resize(Size),
    Disconnect,
}

impl ToServer<'_> {
    fn message(&self) -> Message {
        Message::text(serde_json::to_string(self).unwrap_or_default())
    }
}

#[derive(Debug, PartialEq, Eq)]
enum FromServer {
    Connected,
    Data(String),
    Error(String),
    Closed(Option<u32>),
}

impl FromServer {
    /// `None` for whatever is none of these.
    fn read(text: &str) -> Option<Self> {
        let mut message: Value = serde_json::from_str(text).ok()?;
        let mut text = |key: &str| match message.get_mut(key).map(Value::take) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        match text("type")?.as_str() {
            "connected" => Some(Self::Connected),
            "data" => text("data").map(Self::Data),
            "error" => Some(Self::Error(plain(&text("message").unwrap_or_default()))),
            "closed" => {
                let status = message["exit_status"].as_u64();
                Some(Self::Closed(status.map(|status| u32::try_from(status).unwrap_or(u32::MAX))))
            }
            _ => None,
        }
    }
}

/// This side of a session.
pub struct Local {
    /// What is typed.
    pub keys: mpsc::Receiver<Vec<u8>>,
    /// What is shown. Full: the server waits.
    pub screen: mpsc::Sender<Vec<u8>>,
    /// The window.
    pub sizes: watch::Receiver<Size>,
    /// A person types: `~.` leaves, and the end of the keys is the end of the terminal. Otherwise it is the end of a
    /// pipe, which the shell is told as Ctrl-D.
    pub interactive: bool,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The shell ended, with its status where it told one.
    Closed(Option<u32>),
    /// By `~.`, or the terminal went away.
    Left,
    /// By a signal.
    Stopped(&'static str),
    /// By an error, or the socket went away.
    Failed(String),
}

/// Has the shell opened.
///
/// # Errors
/// In the server's words, when there is one; or when there is none within 60 s.
pub async fn open<S>(socket: &mut WebSocketStream<S>, connect: &Connect<'_>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let opening = async {
        socket.send(ToServer::Connect(connect).message()).await.map_err(|error| anyhow!(lost(&error)))?;
        loop {
            match next(socket).await {
                Ok(Some(FromServer::Connected)) => return Ok(()),
                Ok(Some(FromServer::Error(said))) => bail!("{said}"),
                Ok(Some(FromServer::Closed(_))) => bail!("the host closed before a shell was open"),
                Ok(Some(FromServer::Data(_)) | None) => {}
                Err(lost) => bail!("{lost}"),
            }
        }
    };
    let opened = timeout(OPEN, opening).await;
    let opened = opened.unwrap_or_else(|_| Err(anyhow!("no shell is open after {} s", OPEN.as_secs())));
    if opened.is_err() {
        let _ = timeout(GOODBYE, socket.send(goodbye())).await;
    }
    opened
}

/// Carries both directions of an open shell until it ends, and says goodbye.
pub async fn carry<S>(socket: WebSocketStream<S>, local: Local, stop: impl Future<Output = &'static str>) -> End
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sink, mut stream) = socket.split();
    let (outgoing, mut queue) = mpsc::channel(1);
    let writing = async {
        while let Some(message) = queue.recv().await {
            if let Err(error) = sink.send(message).await {
                return End::Failed(lost(&error));
            }
        }
        std::future::pending().await
    };
    let end = tokio::select! {
        end = reading(&mut stream, local, outgoing, stop) => end,
        end = writing => end,
    };
    let leaving = async {
        if matches!(end, End::Left | End::Stopped(_)) {
            let _ = sink.send(ToServer::Disconnect.message()).await;
        }
        let _ = sink.send(goodbye()).await;
        let _ = sink.flush().await;
    };
    let _ = timeout(GOODBYE, leaving).await;
    end
}

/// Everything but the writing, which the server may hold up while it goes on telling things.
async fn reading(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
    mut local: Local,
    outgoing: mpsc::Sender<Message>,
    stop: impl Future<Output = &'static str>,
) -> End {
    let mut stop = pin!(stop);
    let mut keys = Keys::new(local.interactive);
    let (mut more_keys, mut more_sizes) = (true, true);
    let mut settled = Instant::now();
    let mut waiting = VecDeque::new();
    let mut shown = None;
    let mut trouble: Option<String> = None;
    let mut until = None;
    let mut ends_at = None;
    loop {
        let resized = async {
            sleep_until(settled).await;
            local.sizes.changed().await
        };
        tokio::select! {
            name = &mut stop => return End::Stopped(name),
            came = next(stream), if shown.is_none() => match came {
                Ok(Some(FromServer::Data(data))) => {
                    until = None;
                    shown = (!data.is_empty()).then(|| data.into_bytes());
                }
                Ok(Some(FromServer::Error(said))) => {
                    trouble.get_or_insert(said);
                    until = Some(Instant::now() + GRACE);
                }
                Ok(Some(FromServer::Closed(status))) => return trouble.map_or(End::Closed(status), End::Failed),
                Ok(Some(FromServer::Connected) | None) => {}
                Err(lost) => return End::Failed(trouble.unwrap_or(lost)),
            },
            room = local.screen.reserve(), if shown.is_some() => match room {
                Ok(room) => room.send(shown.take().unwrap_or_default()),
                Err(_) => return End::Failed("cannot write to stdout".to_owned()),
            },
            room = outgoing.reserve(), if !waiting.is_empty() => match (room, waiting.pop_front()) {
                (Ok(room), Some(message)) => room.send(message),
                _ => return End::Failed("the socket is closed".to_owned()),
            },
            bytes = local.keys.recv(), if more_keys && waiting.len() < WAITING => match bytes {
                Some(bytes) => {
                    let typed = keys.typed(&bytes);
                    if typed.leave {
                        return End::Left;
                    }
                    waiting.extend(inputs(&typed.text));
                }
                None if local.interactive => return End::Left,
                None => {
                    more_keys = false;
                    waiting.extend(inputs(&keys.end()));
                    ends_at = Some(Instant::now());
                }
            },
            // A shell that was not ready yet for what it is told loses it, so it is told until it ends.
            () = sleep_until(ends_at.unwrap_or(settled)), if ends_at.is_some() && waiting.is_empty() => {
                waiting.extend(inputs(EOT));
                ends_at = Some(Instant::now() + EOT_AGAIN);
            }
            changed = resized, if more_sizes => match changed {
                Ok(()) => {
                    waiting.push_back(ToServer::Resize(*local.sizes.borrow_and_update()).message());
                    settled = Instant::now() + SETTLE;
                }
                Err(_) => more_sizes = false,
            },
            () = sleep_until(until.unwrap_or(settled)), if until.is_some() => {
                return End::Failed(trouble.unwrap_or_default());
            }
        }
    }
}

fn inputs(text: &str) -> Vec<Message> {
    pieces(text).iter().map(|data| ToServer::Input { data }.message()).collect()
}

/// The next message; `None` for one that means nothing here. Pings are answered.
async fn next(
    stream: &mut (impl Stream<Item = Result<Message, tungstenite::Error>> + Unpin),
) -> Result<Option<FromServer>, String> {
    match stream.next().await {
        Some(Ok(Message::Text(text))) => Ok(FromServer::read(&text)),
        Some(Ok(Message::Close(Some(frame)))) if !frame.reason.is_empty() => {
            Err(format!("the server closed the connection: {}", plain(&frame.reason)))
        }
        Some(Ok(Message::Close(_))) | None => Err("the server closed the connection".to_owned()),
        Some(Ok(_)) => Ok(None),
        Some(Err(error)) => Err(lost(&error)),
    }
}

fn lost(error: &tungstenite::Error) -> String {
    format!("the connection to the server broke: {}", plain(&error.to_string()))
}

fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))
}
