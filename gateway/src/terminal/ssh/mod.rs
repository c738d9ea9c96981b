//! A shell on a host over SSH, and the only module that names russh.

mod pem;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bus::trace;
use russh::{
    ChannelMsg, Disconnect, MethodKind, Preferred, Pty, Sig, cipher,
    client::{self, AuthResult, Handle, KeyboardInteractiveAuthResponse},
    kex,
    keys::{
        Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey, PublicKeyOrCertificate, decode_secret_key,
    },
    mac,
};
use secrecy::{ExposeSecret, SecretString};
use tokio::{net::TcpStream, sync::mpsc, time::timeout};
use tracing::{Instrument as _, Span};

use super::message::Size;

/// Until the shell is open.
const OPEN: Duration = Duration::from_secs(20);
/// A server that is not heard for four of these is gone.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What the server may send unasked: little that is stale follows Ctrl-C.
const WINDOW: u32 = 256 << 10;
/// Questions of one login, such as those for codes.
const ROUNDS_MAX: usize = 4;
/// How long an end may take to be said.
const GOODBYE: Duration = Duration::from_secs(2);
/// How long one of several addresses may take.
const DIAL_ONE: Duration = Duration::from_secs(5);
/// Messages that wait in each direction.
const WAITING: usize = 64;

/// Why there is no shell.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// No TCP connection.
    #[error("Failed to connect: {0}")]
    Connect(String),
    /// Too slow.
    #[error("Failed to connect: no shell within {} s", OPEN.as_secs())]
    Slow,
    /// The host shows another key than it did.
    #[error(
        "The host's key has changed. Known: {known}; shown: {shown}. Somebody may be in between; if not, an administrator resets the known key"
    )]
    KeyChanged {
        /// Fingerprint.
        known: String,
        /// Fingerprint.
        shown: String,
    },
    /// A certificate, which nothing here can vouch for.
    #[error("Failed to connect: the host shows a certificate instead of a key")]
    Certificate,
    /// Whether the key is known could not be found out.
    #[error("Failed to connect: the host's key cannot be checked now")]
    KeysAway,
    /// Neither password nor key.
    #[error("No authentication method provided (password or private key required)")]
    NoLogin,
    /// Not a key, or another passphrase.
    #[error("Failed to parse private key: {0}")]
    Key(String),
    /// It is not let in.
    #[error("Failed to connect: the host refused the login; it takes {0}")]
    Refused(String),
    /// No PTY, no shell.
    #[error("Failed to start shell: {0}")]
    Shell(String),
    /// SSH broke.
    #[error("SSH connection error: {0}")]
    Broken(#[from] russh::Error),
}

/// As whom.
pub struct Login {
    /// The user.
    pub username: String,
    /// A password,
    pub password: Option<SecretString>,
    /// or a private key: OpenSSH, PEM or PKCS#8,
    pub private_key: Option<SecretString>,
    /// and what it is encrypted with.
    pub passphrase: Option<SecretString>,
}

/// What is known of a host's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// This one, or it is from now on.
    Same,
    /// Another one, with this fingerprint.
    Other(String),
}

/// Remembers the key of a host: the first that is shown is trusted.
#[async_trait]
pub trait HostKeys: Send + Sync {
    /// The one that is known, as OpenSSH writes it: of several that the host has, it is asked to show this kind.
    async fn known(&self) -> Option<String>;

    /// Is it the one? `None`: that cannot be found out.
    async fn check(&self, key: &str, fingerprint: &str) -> Option<Known>;
}

/// What a shell is told.
#[derive(Debug)]
pub enum Input {
    /// Keystrokes.
    Keys(Vec<u8>),
    /// Another size.
    Resize(Size),
}

/// What a shell tells.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// It wrote.
    Data(Vec<u8>),
    /// It ended, with its status where it told one.
    Exit(Option<u32>),
}

/// An open shell. Dropped, it ends.
pub struct Shell {
    /// To it. Full: it does not read.
    pub input: mpsc::Sender<Input>,
    /// From it. Whoever does not take it makes the host wait.
    pub output: mpsc::Receiver<Output>,
}

struct Check {
    keys: Arc<dyn HostKeys>,
    /// Why the key was not taken.
    why: Arc<parking_lot::Mutex<Option<SshError>>>,
}

impl client::Handler for Check {
    type Error = russh::Error;

    async fn check_server_key(&mut self, shown: &PublicKeyOrCertificate) -> Result<bool, russh::Error> {
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            *self.why.lock() = Some(SshError::Certificate);
            return Ok(false);
        };
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let text = key.to_openssh().unwrap_or_default();
        let why = match self.keys.check(&text, &fingerprint).await {
            Some(Known::Same) => return Ok(true),
            Some(Known::Other(known)) => SshError::KeyChanged { known, shown: fingerprint },
            None => SshError::KeysAway,
        };
        *self.why.lock() = Some(why);
        Ok(false)
    }
}

/// What to open.
pub struct Ask<'a> {
    /// Where, each address checked; the first that answers counts.
    pub addresses: &'a [SocketAddr],
    /// As whom.
    pub login: &'a Login,
    /// `TERM`.
    pub terminal: &'a str,
    /// The window.
    pub size: Size,
    /// Algorithms that are no longer thought safe may be used too.
    pub legacy: bool,
    /// Knows the host's key.
    pub keys: Arc<dyn HostKeys>,
}

/// Opens a shell.
///
/// # Errors
/// [`SshError`], within 20 s.
pub async fn open(ask: Ask<'_>) -> Result<Shell, SshError> {
    timeout(OPEN, open_slowly(ask)).await.map_err(|_| SshError::Slow)?
}

fn step(name: &'static str) -> Span {
    tracing::info_span!(target: trace::TARGET, "ssh", otel.name = name, otel.kind = "client")
}

async fn dial(addresses: &[SocketAddr]) -> Result<TcpStream, SshError> {
    let mut why = None;
    for (at, address) in addresses.iter().enumerate() {
        // One that swallows what is sent to it must not use up the time of the others.
        let most = if at + 1 < addresses.len() { DIAL_ONE } else { OPEN };
        let dialled = timeout(most, TcpStream::connect(address)).await;
        match dialled.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| SshError::Connect(error.to_string()))?;
                return Ok(stream);
            }
            Err(error) => why = why.or(Some(error)),
        }
    }
    Err(SshError::Connect(why.map_or_else(|| "no address".to_owned(), |error| error.to_string())))
}

/// What may be agreed on. SHA-1 and CBC are left to hosts that know nothing better, and that the operator has named.
fn preferred(legacy: bool, known: Option<&str>) -> Preferred {
    let mut preferred = Preferred::DEFAULT;
    let mut kinds: Vec<Algorithm> = preferred.key.iter().cloned().collect();
    if legacy {
        let with = |list: &[kex::Name], more: &[kex::Name]| [list, more].concat();
        preferred.kex = with(&preferred.kex, &[kex::DH_GEX_SHA1, kex::DH_G14_SHA1, kex::DH_G1_SHA1]).into();
        let more = [cipher::AES_256_CBC, cipher::AES_192_CBC, cipher::AES_128_CBC];
        preferred.cipher = [&preferred.cipher[..], &more].concat().into();
        preferred.mac = [&preferred.mac[..], &[mac::HMAC_SHA1_ETM, mac::HMAC_SHA1]].concat().into();
    } else {
        kinds.retain(|kind| !matches!(kind, Algorithm::Rsa { hash: None }));
    }
    // A host that has been given another kind of key since still has the one that we know.
    if let Some(known) = known.and_then(|text| PublicKey::from_openssh(text).ok()) {
        let known = known.algorithm();
        let same = |kind: &Algorithm| *kind == known || (kind.clone().is_rsa() && known.clone().is_rsa());
        kinds.sort_by_key(|kind| !same(kind));
    }
    preferred.key = kinds.into();
    preferred
}

async fn open_slowly(ask: Ask<'_>) -> Result<Shell, SshError> {
    let Ask { addresses, login, terminal, size, legacy, keys } = ask;
    let key = private_key(login)?;
    let stream = dial(addresses).instrument(step("ssh dial")).await?;
    let config = client::Config {
        preferred: preferred(legacy, keys.known().await.as_deref()),
        window_size: WINDOW,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..client::Config::default()
    };
    let why = Arc::default();
    let check = Check { keys, why: Arc::clone(&why) };
    let connected = client::connect_stream(Arc::new(config), stream, check).instrument(step("ssh handshake")).await;
    let mut handle = match connected {
        Ok(handle) => handle,
        Err(error) => return Err(why.lock().take().unwrap_or_else(|| SshError::Connect(error.to_string()))),
    };
    authenticate(&mut handle, login, key).instrument(step("ssh authenticate")).await?;
    start_shell(handle, terminal, size).instrument(step("ssh shell")).await
}

async fn start_shell(handle: Handle<Check>, terminal: &str, size: Size) -> Result<Shell, SshError> {
    let shell_error = |error: russh::Error| SshError::Shell(error.to_string());
    let mut channel = handle.channel_open_session().await.map_err(shell_error)?;
    let modes = [(Pty::ECHO, 1), (Pty::TTY_OP_ISPEED, 14_400), (Pty::TTY_OP_OSPEED, 14_400)];
    channel.request_pty(true, terminal, size.cols, size.rows, 0, 0, &modes).await.map_err(shell_error)?;
    granted(&mut channel, "PTY").await?;
    channel.request_shell(true).await.map_err(shell_error)?;
    granted(&mut channel, "shell").await?;
    let (input, from_browser) = mpsc::channel(WAITING);
    let (to_browser, output) = mpsc::channel(WAITING);
    tokio::spawn(run(handle, channel, from_browser, to_browser));
    Ok(Shell { input, output })
}

type Channel = russh::Channel<client::Msg>;

/// Waits for the answer to a request.
async fn granted(channel: &mut Channel, what: &str) -> Result<(), SshError> {
    loop {
        match channel.wait().await {
            Some(ChannelMsg::Success) => return Ok(()),
            Some(ChannelMsg::Failure) => return Err(SshError::Shell(format!("the host grants no {what}"))),
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => {
                return Err(SshError::Shell(format!("the host closed before it granted a {what}")));
            }
            Some(_) => {}
        }
    }
}

fn private_key(login: &Login) -> Result<Option<PrivateKey>, SshError> {
    let Some(text) = &login.private_key else { return Ok(None) };
    let passphrase = login.passphrase.as_ref().map(ExposeSecret::expose_secret);
    let decoded = match pem::decrypted(text.expose_secret(), passphrase) {
        Some(plain) => decode_secret_key(plain.map_err(|e| SshError::Key(e.to_string()))?.expose_secret(), None),
        None => decode_secret_key(text.expose_secret(), passphrase),
    };
    decoded.map(Some).map_err(|error| SshError::Key(error.to_string()))
}

async fn authenticate(handle: &mut Handle<Check>, login: &Login, key: Option<PrivateKey>) -> Result<(), SshError> {
    let user = login.username.as_str();
    let mut takes = String::new();
    if let Some(key) = key {
        // SHA-1 is no option, whatever the server says.
        let hash = match handle.best_supported_rsa_hash().await? {
            Some(Some(hash)) => Some(hash),
            Some(None) | None => Some(HashAlg::Sha512),
        };
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        match handle.authenticate_publickey(user, key).await? {
            AuthResult::Success => return Ok(()),
            AuthResult::Failure { remaining_methods, .. } => takes = methods(&remaining_methods),
        }
    }
    if let Some(password) = &login.password {
        let password = password.expose_secret();
        match handle.authenticate_password(user, password).await? {
            AuthResult::Success => return Ok(()),
            AuthResult::Failure { remaining_methods, .. } => {
                takes = methods(&remaining_methods);
                let offers = |kind| remaining_methods.contains(&kind);
                // Where PAM asks for the password itself. Where the host takes it unasked too it was wrong, and once is
                // enough.
                let asks = offers(MethodKind::KeyboardInteractive) && !offers(MethodKind::Password);
                if asks && answer_questions(handle, user, password).await? {
                    return Ok(());
                }
            }
        }
    } else if login.private_key.is_none() {
        return Err(SshError::NoLogin);
    }
    Err(SshError::Refused(takes))
}

fn methods(left: &russh::MethodSet) -> String {
    let names: Vec<String> = left.iter().map(|method| String::from(<&'static str>::from(method))).collect();
    if names.is_empty() { "nothing more".to_owned() } else { names.join(", ") }
}

/// Answers each question that is not echoed with the password.
async fn answer_questions(handle: &mut Handle<Check>, user: &str, password: &str) -> Result<bool, SshError> {
    let mut said = handle.authenticate_keyboard_interactive_start(user, None).await?;
    for _ in 0..ROUNDS_MAX {
        match said {
            KeyboardInteractiveAuthResponse::Success => return Ok(true),
            KeyboardInteractiveAuthResponse::Failure { .. } => return Ok(false),
            KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => {
                let answer = |echo| if echo { String::new() } else { password.to_owned() };
                let answers = prompts.iter().map(|prompt| answer(prompt.echo)).collect();
                said = handle.authenticate_keyboard_interactive_respond(answers).await?;
            }
        }
    }
    Ok(false)
}

/// 128 and the signal's number, as shells tell it; 255 for one without a number of its own.
fn status_of(signal: &Sig) -> u32 {
    match signal {
        Sig::HUP => 129,
        Sig::INT => 130,
        Sig::QUIT => 131,
        Sig::ILL => 132,
        Sig::ABRT => 134,
        Sig::FPE => 136,
        Sig::KILL => 137,
        Sig::SEGV => 139,
        Sig::PIPE => 141,
        Sig::ALRM => 142,
        Sig::TERM => 143,
        _ => 255,
    }
}

/// Carries both directions until either ends, or whoever carries the shell is gone. Output that nobody takes stops the
/// reading, and so the host.
async fn run(handle: Handle<Check>, channel: Channel, mut input: mpsc::Receiver<Input>, output: mpsc::Sender<Output>) {
    let (mut from_host, to_host) = channel.split();
    let writing = async {
        while let Some(told) = input.recv().await {
            let done = match told {
                Input::Keys(keys) => to_host.data_bytes(keys).await,
                Input::Resize(size) => to_host.window_change(size.cols, size.rows, 0, 0).await,
            };
            if done.is_err() {
                break;
            }
        }
        let _ = to_host.close().await;
    };
    let reading = async {
        let mut status = None;
        loop {
            let told = match from_host.wait().await {
                Some(ChannelMsg::Data { data } | ChannelMsg::ExtendedData { data, .. }) => Output::Data(data.to_vec()),
                Some(ChannelMsg::ExitStatus { exit_status }) => {
                    status = Some(exit_status);
                    continue;
                }
                Some(ChannelMsg::ExitSignal { signal_name, .. }) => {
                    status = Some(status_of(&signal_name));
                    continue;
                }
                Some(ChannelMsg::Close) | None => break,
                Some(_) => continue,
            };
            if output.send(told).await.is_err() {
                return;
            }
        }
        let _ = output.send(Output::Exit(status)).await;
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
        // A host that takes no input, or says nothing, is not waited for.
        () = output.closed() => {}
    }
    let _ = timeout(GOODBYE, handle.disconnect(Disconnect::ByApplication, "", "")).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_longer_safe_is_left_to_hosts_that_were_named() {
        let (safe, legacy) = (preferred(false, None), preferred(true, None));
        let sha1 = Algorithm::Rsa { hash: None };
        assert!(!safe.kex.contains(&kex::DH_G14_SHA1) && legacy.kex.contains(&kex::DH_G14_SHA1));
        assert!(!safe.cipher.contains(&cipher::AES_128_CBC) && legacy.cipher.contains(&cipher::AES_128_CBC));
        assert!(!safe.mac.contains(&mac::HMAC_SHA1) && legacy.mac.contains(&mac::HMAC_SHA1));
        assert!(!safe.key.contains(&sha1) && legacy.key.contains(&sha1));
        assert_eq!(safe.kex[0], legacy.kex[0], "the best goes first all the same");
    }

    #[test]
    fn a_host_is_asked_for_the_kind_of_key_that_is_known_of_it() {
        let known = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBDbthbEFH7pX1sbZcvKZgV33oJKIWrxxmuaGQY/nhg9DXEvU/sB/CnDcGe3KwZQyHxGCHxOZhdCArPOtdnELAXQ=";
        let first = |known| preferred(false, known).key[0].clone();
        assert_eq!(first(None), Algorithm::Ed25519);
        assert!(matches!(first(Some(known)), Algorithm::Ecdsa { .. }), "{:?}", first(Some(known)));
        assert_eq!(first(Some("no key")), Algorithm::Ed25519);
    }
}
