//! The agent's end of SSH: a shell on the host that an `ssh_proxy` frame names, and the agents' words when there is none.
//!
//! It offers what Go's library offers and takes any host key, as agents do without a known_hosts (protocol 2.5). The other
//! end is OpenSSH.

use std::{borrow::Cow, io, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use russh::{
    ChannelMsg, ChannelReadHalf, ChannelWriteHalf, Preferred, Pty,
    client::{self, AuthResult, Config, Handle},
    kex,
    keys::{Error as KeyError, PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate, decode_secret_key},
    mac,
};
use tokio::{
    net::{TcpStream, lookup_host},
    time::timeout,
};

/// Of TCP alone: a peer that accepts and says nothing is waited for without end (protocol 2.5).
const DIAL: Duration = Duration::from_secs(20);

const KEX: &[kex::Name] = &[
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_G14_SHA256,
    kex::DH_G14_SHA1,
    kex::EXTENSION_SUPPORT_AS_CLIENT,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_CLIENT,
];

const MAC: &[mac::Name] =
    &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512, mac::HMAC_SHA1];

/// What is to be opened.
pub(super) struct Request {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) username: String,
    pub(super) secret: Secret,
    pub(super) terminal: String,
    pub(super) cols: u32,
    pub(super) rows: u32,
}

/// What lets the user in.
pub(super) enum Secret {
    Password(String),
    Key { key: String, passphrase: Option<String> },
}

/// What the shell writes.
pub(super) struct Reader {
    channel: ChannelReadHalf,
    /// What has come and is not read yet; bounded by a packet more than a read.
    unread: BytesMut,
    ended: bool,
}

/// What the shell reads. Dropped, the connection ends, and the shell with it.
pub(super) struct Writer {
    channel: ChannelWriteHalf<client::Msg>,
    _connection: Handle<AnyKey>,
}

struct AnyKey;

impl client::Handler for AnyKey {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// Opens a shell, or says why there is none as agents do.
pub(super) async fn open(request: Request) -> Result<(Reader, Writer), String> {
    let login = Login::new(request.secret)?;
    let stream = dial(&request.host, request.port).await.map_err(failed_to("connect"))?;
    let handshake = |error| format!("Failed to connect: ssh: handshake failed: {error}");
    let mut connection = client::connect_stream(Arc::new(config()), stream, AnyKey)
        .await
        .map_err(|error| handshake(error.to_string()))?;
    login.authenticate(&mut connection, &request.username).await.map_err(handshake)?;
    let mut channel = connection.channel_open_session().await.map_err(failed_to("create session"))?;
    let modes = [(Pty::ECHO, 1), (Pty::TTY_OP_ISPEED, 14_400), (Pty::TTY_OP_OSPEED, 14_400)];
    let asked = channel.request_pty(true, &request.terminal, request.cols, request.rows, 0, 0, &modes).await;
    asked.map_err(failed_to("request PTY"))?;
    granted(&mut channel, "pty-req failed").await.map_err(failed_to("request PTY"))?;
    channel.request_shell(true).await.map_err(failed_to("start shell"))?;
    granted(&mut channel, "could not start shell").await.map_err(failed_to("start shell"))?;
    let (reader, channel) = channel.split();
    Ok((Reader::new(reader), Writer { channel, _connection: connection }))
}

fn failed_to<E: ToString>(what: &str) -> impl Fn(E) -> String {
    move |error| format!("Failed to {what}: {}", error.to_string())
}

fn config() -> Config {
    let preferred = Preferred { kex: Cow::Borrowed(KEX), mac: Cow::Borrowed(MAC), ..Preferred::DEFAULT };
    Config { preferred, nodelay: true, ..Config::default() }
}

async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let connect = async {
        let mut addresses = lookup_host((host, port)).await.map_err(|_| format!("lookup {host}: no such host"))?;
        let address = addresses.next().ok_or_else(|| format!("lookup {host}: no such host"))?;
        TcpStream::connect(address).await.map_err(|error| match error.kind() {
            io::ErrorKind::ConnectionRefused => format!("{address}: connect: connection refused"),
            _ => format!("{address}: connect: {error}"),
        })
    };
    let stream = match timeout(DIAL, connect).await {
        Ok(connected) => connected,
        Err(_) => Err(format!("{host}:{port}: i/o timeout")),
    };
    // A name's failure stands behind a colon, an address's does not.
    stream.map_err(|why| if why.starts_with("lookup") { format!("dial tcp: {why}") } else { format!("dial tcp {why}") })
}

/// Waits for the answer to a request.
async fn granted(channel: &mut russh::Channel<client::Msg>, otherwise: &str) -> Result<(), String> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::Failure | ChannelMsg::Close) => return Err(format!("ssh: {otherwise}")),
            None => return Err("EOF".to_owned()),
            Some(_) => {}
        }
    }
}

/// What the user shows, read.
enum Login {
    Password(String),
    Key(Box<PrivateKey>),
}

impl Login {
    fn new(secret: Secret) -> Result<Self, String> {
        let (key, passphrase) = match secret {
            Secret::Password(password) => return Ok(Self::Password(password)),
            Secret::Key { key, passphrase } => (key, passphrase),
        };
        let why = match decode_secret_key(&key, passphrase.as_deref()) {
            Ok(key) => return Ok(Self::Key(Box::new(key))),
            Err(_) if !key.contains("-----BEGIN ") => "ssh: no key found".to_owned(),
            Err(_) if passphrase.is_some() => "x509: decryption password incorrect".to_owned(),
            Err(KeyError::KeyIsEncrypted) => "ssh: this private key is passphrase protected".to_owned(),
            Err(_) if key.contains("ENCRYPTED") => "ssh: this private key is passphrase protected".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(format!("Failed to parse private key: {why}"))
    }

    /// Asks with nothing first, and then only for what the server takes.
    async fn authenticate(self, connection: &mut Handle<AnyKey>, user: &str) -> Result<(), String> {
        let ended = |error: russh::Error| error.to_string();
        let mut tried = "none".to_owned();
        let AuthResult::Failure { remaining_methods, .. } = connection.authenticate_none(user).await.map_err(ended)?
        else {
            return Ok(());
        };
        let name = match &self {
            Self::Password(_) => "password",
            Self::Key(_) => "publickey",
        };
        if remaining_methods.iter().any(|method| <&'static str>::from(method) == name) {
            let answer = match self {
                Self::Password(password) => connection.authenticate_password(user, password).await,
                Self::Key(key) => {
                    let hash = connection.best_supported_rsa_hash().await.map_err(ended)?.flatten();
                    let key = PrivateKeyWithHashAlg::new(Arc::new(*key), hash);
                    connection.authenticate_publickey(user, key).await
                }
            };
            if answer.map_err(ended)?.success() {
                return Ok(());
            }
            tried = format!("none {name}");
        }
        Err(format!("ssh: unable to authenticate, attempted methods [{tried}], no supported methods remain"))
    }
}

impl Reader {
    fn new(channel: ChannelReadHalf) -> Self {
        Self { channel, unread: BytesMut::new(), ended: false }
    }

    /// What it wrote next, stdout and stderr alike: all that has come, up to this many bytes, wherever that cuts. `None`
    /// when it has ended.
    pub(super) async fn read(&mut self, at_most: usize) -> Option<Bytes> {
        while self.unread.is_empty() && !self.ended {
            let message = self.channel.wait().await;
            self.take(message);
        }
        while self.unread.len() < at_most
            && !self.ended
            && let Some(message) = self.channel.wait().now_or_never()
        {
            self.take(message);
        }
        let length = self.unread.len().min(at_most);
        (length > 0).then(|| self.unread.split_to(length).freeze())
    }

    fn take(&mut self, message: Option<ChannelMsg>) {
        match message {
            Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => {
                self.unread.extend_from_slice(&data)
            }
            Some(ChannelMsg::Close) | None => self.ended = true,
            Some(_) => {}
        }
    }
}

impl Writer {
    /// Types. What a shell that has ended does not take is lost.
    pub(super) async fn write(&mut self, keys: String) {
        let _ = self.channel.data_bytes(keys.into_bytes()).await;
    }

    /// Another size.
    pub(super) async fn resize(&mut self, cols: u32, rows: u32) {
        let _ = self.channel.window_change(cols, rows, 0, 0).await;
    }
}
