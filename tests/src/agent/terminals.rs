//! Terminals: the shells that the server asked for, by their session ids, and what is said of them (protocol 2.5).
//!
//! A shell belongs to the process and outlives the socket that asked for it. What it writes goes to that socket and is lost
//! with it; it still reads what comes on the next one (protocol 6-5).

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{
    Control,
    process::Process,
    service::Message,
    shell::{self, Reader, Request, Secret, Writer},
};
use crate::{
    message::{self, Inbound, SSH_PROXY_DISABLED, SshProxy},
    misbehaviour::Misbehaviour,
};

/// What waits for a socket; a shell that writes more waits, and so does its host.
const UPLINK: usize = 8;
/// Input that waits for a shell; more blocks the service loop, as a write to a shell does.
const ORDERS: usize = 64;
/// The agents' read buffer (protocol 6-6).
const READ_BYTES: usize = 4096;
const MAX_HOST_BYTES: usize = 255;
const MAX_LABEL_BYTES: usize = 63;

/// The way to one socket. Closed when that is gone.
pub(super) type Uplink = mpsc::Sender<Box<Message>>;

/// For a new socket.
pub(super) fn uplink() -> (Uplink, mpsc::Receiver<Box<Message>>) {
    mpsc::channel(UPLINK)
}

/// The shells that can be reached.
#[derive(Debug, Default)]
pub(super) struct Terminals {
    open: Mutex<HashMap<String, Terminal>>,
    opened: AtomicU64,
    writing: AtomicUsize,
}

#[derive(Debug)]
struct Terminal {
    number: u64,
    orders: mpsc::Sender<Order>,
}

#[derive(Debug)]
enum Order {
    Input(String),
    Resize { cols: u32, rows: u32 },
    Disconnect(Uplink),
}

impl Terminals {
    /// One of the same id can no longer be reached, and lives on.
    fn add(&self, id: &str, orders: mpsc::Sender<Order>) -> u64 {
        let number = self.opened.fetch_add(1, Ordering::Relaxed);
        self.open.lock().insert(id.to_owned(), Terminal { number, orders });
        number
    }

    fn remove(&self, id: &str, number: u64) {
        let mut open = self.open.lock();
        if open.get(id).is_some_and(|terminal| terminal.number == number) {
            open.remove(id);
        }
    }

    fn orders(&self, id: &str) -> Option<mpsc::Sender<Order>> {
        self.open.lock().get(id).map(|terminal| terminal.orders.clone())
    }

    /// The same, and it cannot be found again.
    fn take(&self, id: &str) -> Option<mpsc::Sender<Order>> {
        self.open.lock().remove(id).map(|terminal| terminal.orders)
    }
}

/// `ssh_proxy`: checked at once, opened beside the service loop (protocol 6-7).
pub(super) async fn open(process: &Arc<Process>, message: Inbound) {
    let uplink = process.uplink.lock().clone();
    let id = message.session_id.clone().unwrap_or_default();
    if !process.host.config.ssh_proxy {
        return say(&uplink, &SshProxy::error(&id, SSH_PROXY_DISABLED)).await;
    }
    if id.is_empty() {
        return;
    }
    match request(message) {
        Ok(request) => process.spawn(run(process.clone(), id, request, uplink)),
        Err(text) => say(&uplink, &SshProxy::error(&id, text)).await,
    }
}

/// The other frames. Those for nobody get no answer.
pub(super) async fn tell(process: &Arc<Process>, message: Inbound) {
    let id = message.session_id.as_deref().unwrap_or_default();
    let terminals = &process.terminals;
    let (orders, order) = match message.kind() {
        "ssh_proxy_input" => (terminals.orders(id), Order::Input(message.data.unwrap_or_default())),
        "ssh_proxy_resize" => {
            let (cols, rows) = (columns(message.cols), lines(message.rows));
            (terminals.orders(id), Order::Resize { cols, rows })
        }
        _ => (terminals.take(id), Order::Disconnect(process.uplink.lock().clone())),
    };
    if let Some(orders) = orders {
        // Fails when the shell has just ended by itself.
        let _ = orders.send(order).await;
    }
}

async fn run(process: Arc<Process>, id: String, request: Request, uplink: Uplink) {
    let (mut reader, mut writer) = match shell::open(request).await {
        Ok(shell) => shell,
        Err(text) => return say(&uplink, &SshProxy::error(&id, &text)).await,
    };
    let (orders, mut told) = mpsc::channel(ORDERS);
    let number = process.terminals.add(&id, orders);
    say(&uplink, &SshProxy::connected(&id)).await;
    let to = tokio::select! {
        to = obey(&mut writer, &mut told) => to,
        () = read(&process, &mut reader, &id, &uplink) => uplink,
    };
    process.terminals.remove(&id, number);
    drop((reader, writer));
    say(&to, &SshProxy::closed(&id)).await;
}

/// Until it is to end, and whom that is to be told.
async fn obey(writer: &mut Writer, orders: &mut mpsc::Receiver<Order>) -> Uplink {
    loop {
        match orders.recv().await {
            Some(Order::Input(keys)) => writer.write(keys).await,
            Some(Order::Resize { cols, rows }) => writer.resize(cols, rows).await,
            Some(Order::Disconnect(to)) => return to,
            // Its id is another one's: nobody can end it any more.
            None => std::future::pending().await,
        }
    }
}

/// Until it ends. What a lost socket does not take is thrown away.
async fn read(process: &Process, reader: &mut Reader, id: &str, uplink: &Uplink) {
    while let Some(bytes) = reader.read(READ_BYTES).await {
        let _writes = Writing::begin(process);
        say(uplink, &SshProxy::data(id, &message::lossy(&bytes))).await;
    }
}

/// Counts the shells whose output waits for the socket: some agents do not survive two.
struct Writing<'a>(&'a Terminals);

impl<'a> Writing<'a> {
    fn begin(process: &'a Process) -> Self {
        let (host, terminals) = (&process.host, &process.terminals);
        let others = terminals.writing.fetch_add(1, Ordering::Relaxed);
        let habit = host.state.lock().misbehaviour;
        if let Some(habit @ Misbehaviour::ConcurrentWrite) = habit
            && others > 0
        {
            host.misbehaved(habit);
            // Full: it has other orders, and dies at the next occasion.
            let _ = host.control.try_send(Control::Restart);
        }
        Self(terminals)
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.writing.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn say(uplink: &Uplink, what: &SshProxy<'_>) {
    if let Ok(text) = message::encode(what) {
        // Fails when the socket is gone.
        let _ = uplink.send(Box::new(Message { kind: what.kind.to_owned(), phase: None, text })).await;
    }
}

/// The agents' checks, with their words.
fn request(message: Inbound) -> Result<Request, &'static str> {
    let host = message.host.unwrap_or_default();
    if host.is_empty() {
        return Err("Invalid host: host is required");
    }
    if !is_host(&host) {
        return Err("Invalid host: invalid host format");
    }
    let port = message.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    let port = port.ok_or("Invalid port (must be 1-65535)")?;
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let secret = match (given(message.private_key), given(message.password)) {
        (Some(key), _) => Secret::Key { key, passphrase: given(message.passphrase) },
        (None, Some(password)) => Secret::Password(password),
        (None, None) => return Err("No authentication method provided (password or private key required)"),
    };
    Ok(Request {
        host,
        port,
        username: given(message.username).unwrap_or_else(|| "root".to_owned()),
        secret,
        terminal: given(message.terminal).unwrap_or_else(|| "xterm-256color".to_owned()),
        cols: columns(message.cols),
        rows: lines(message.rows),
    })
}

/// RFC 1123 labels or an IPv4 address (protocol 2.5).
fn is_host(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= MAX_HOST_BYTES && text.split('.').all(is_label)
}

fn columns(given: Option<i64>) -> u32 {
    size(given, 80)
}

fn lines(given: Option<i64>) -> u32 {
    size(given, 24)
}

fn size(given: Option<i64>, otherwise: u32) -> u32 {
    given.and_then(|size| u32::try_from(size).ok()).filter(|size| *size > 0).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(json: &str) -> Result<Request, &'static str> {
        request(Inbound::decode(json.as_bytes()).unwrap())
    }

    #[test]
    fn requests_are_refused_as_recorded() {
        // ssh-proxy-errors.
        for (json, words) in [
            (r#"{"port":22,"password":"x"}"#, "Invalid host: host is required"),
            (r#"{"host":"bad_host","port":22,"password":"x"}"#, "Invalid host: invalid host format"),
            (r#"{"host":"::1","port":22,"password":"x"}"#, "Invalid host: invalid host format"),
            (r#"{"host":"a","port":0,"password":"x"}"#, "Invalid port (must be 1-65535)"),
            (r#"{"host":"a","port":70000,"password":"x"}"#, "Invalid port (must be 1-65535)"),
            (r#"{"host":"a","password":"x"}"#, "Invalid port (must be 1-65535)"),
            (r#"{"host":"a","port":22}"#, "No authentication method provided (password or private key required)"),
        ] {
            assert_eq!(asked(json).err(), Some(words), "{json}");
        }
    }

    #[test]
    fn what_is_left_out_has_the_agents_defaults() {
        let request = asked(r#"{"host":"web-1.example.org","port":22,"private_key":"k","cols":0}"#).unwrap();
        assert_eq!((request.username.as_str(), request.terminal.as_str()), ("root", "xterm-256color"));
        assert_eq!((request.cols, request.rows), (80, 24));
        assert!(matches!(request.secret, Secret::Key { passphrase: None, .. }));
    }
}
