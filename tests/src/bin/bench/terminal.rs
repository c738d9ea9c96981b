//! Terminals: what a keystroke's echo takes, how much output gets through, and how soon a flood is stopped.

use std::{
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tests::{
    admin::Admin,
    credentials::Credentials,
    raw::{self, WEBSOCKET, Wire},
    server::Server,
    services::openssh::{KeyKind, OpenSsh, Variant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    task::JoinHandle,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::{
    figures::{Millis, Terminals, rounded},
    installation::{Combination, Installation},
    note,
};

const PATIENCE: Duration = Duration::from_secs(30);
/// Keystrokes, and how many before them are not counted.
const KEYS: usize = 2_000;
const WARM_UP: usize = 200;
/// Output that is counted.
const OUTPUT: usize = 200 << 20;
/// As an agent reads from its shell.
const CHUNK: usize = 4_096;

type Socket = WebSocketStream<TcpStream>;

/// All rows of one combination. Directly only where it is asked for: nothing of it depends on bus or store.
pub async fn terminals(combination: Combination, binaries: &Path) -> anyhow::Result<Terminals> {
    let name = combination.name;
    let installation = Installation::start(combination, binaries).await?;
    let admin = installation.admin().await?;
    let gateways = installation.gateways()?;
    let (first, last) = (&gateways[0], &gateways[gateways.len() - 1]);
    let host = admin.add_host("bench-terminal").await?;

    note(&format!("{name}: {KEYS} keystrokes directly, and through OpenSSH's own client"));
    let ssh = OpenSsh::start(Variant::Password);
    let (direct, bare) = (direct(&admin, first, &host, &ssh).await?, bare(&ssh).await?);

    note(&format!("{name}: {KEYS} keystrokes, {} MiB and Ctrl-C through an agent", OUTPUT >> 20));
    let agent = Agent::start(last, &host).await?;
    let mut browser = open(&admin, first, &host).await?;
    say(&mut browser, json!({"type": "connect", "connection_mode": "proxy", "password": "x"})).await?;
    expect(&mut browser, "connected").await?;
    let proxied = keys(&mut browser).await?;
    let (output_mb_per_sec, left_out_mb_per_sec, ctrl_c_ms) = flood(&mut browser).await?;
    agent.0.abort();
    Ok(Terminals { direct, bare, proxied, output_mb_per_sec, left_out_mb_per_sec, ctrl_c_ms })
}

async fn open(admin: &Admin, server: &Server, host: &Credentials) -> anyhow::Result<Socket> {
    let answer = admin.post("/auth/ssh-ticket", &json!({"hostId": host.id})).await?.ok()?;
    let ticket = answer["ticket"].as_str().context("no ticket")?.to_owned();
    let path = format!("/api/v1/ssh-terminal/{}?ticket={ticket}", host.id);
    let headers = [&[("Host", server.host.as_str())], &WEBSOCKET[..]].concat();
    let mut wire = Wire::dial(server, None).await?;
    let reply = wire.call(&raw::request("GET", &path, &headers, "")).await?;
    ensure!(reply.status == 101, "no terminal: {}", reply.status);
    let (stream, rest) = wire.into_parts();
    stream.set_nodelay(true)?;
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, None).await)
}

async fn say(browser: &mut Socket, message: Value) -> anyhow::Result<()> {
    browser.send(Message::text(message.to_string())).await.context("the terminal is gone")
}

/// The next message that is text.
async fn next(socket: &mut Socket) -> anyhow::Result<String> {
    loop {
        match timeout(PATIENCE, socket.next()).await.context("nothing comes")? {
            Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
            Some(Ok(_)) => {}
            other => bail!("the terminal is gone: {other:?}"),
        }
    }
}

async fn expect(browser: &mut Socket, what: &str) -> anyhow::Result<()> {
    loop {
        let text = next(browser).await?;
        if text.contains(what) {
            return Ok(());
        }
        ensure!(!text.contains(r#""type":"error""#), "{text}");
    }
}

/// One keystroke after the other, each until its echo is there.
async fn keys(browser: &mut Socket) -> anyhow::Result<Millis> {
    let key = json!({"type": "input", "data": "x"});
    let mut micros = Vec::with_capacity(KEYS);
    for n in 0..WARM_UP + KEYS {
        let began = Instant::now();
        say(browser, key.clone()).await?;
        expect(browser, r#""data":"x""#).await?;
        if n >= WARM_UP {
            micros.push(u64::try_from(began.elapsed().as_micros())?);
        }
    }
    Ok(Millis::of(micros))
}

const ECHO: &str = "stty raw -echo; echo r''eady; exec cat";

async fn direct(admin: &Admin, server: &Server, host: &Credentials, ssh: &OpenSsh) -> anyhow::Result<Millis> {
    let report = json!({"packages": [], "ip": ssh.address().ip().to_string()});
    let url = format!("http://{}:{}/api/v1/hosts/update", server.address.ip(), server.address.port());
    let request = reqwest::Client::builder().no_proxy().build()?.post(url).json(&report);
    let request =
        raw::credentials(host).into_iter().fold(request, |request, (name, value)| request.header(name, value));
    ensure!(request.send().await?.status() == 200, "the host's report was refused");
    let mut browser = open(admin, server, host).await?;
    let (user, password, port) = (ssh.user(), ssh.password(), ssh.address().port());
    say(&mut browser, json!({"type": "connect", "username": user, "password": password, "port": port})).await?;
    expect(&mut browser, "connected").await?;
    say(&mut browser, json!({"type": "input", "data": format!("{ECHO}\r")})).await?;
    expect(&mut browser, "ready").await?;
    keys(&mut browser).await
}

/// The same keystrokes at the same sshd, through OpenSSH's client and two pipes.
async fn bare(ssh: &OpenSsh) -> anyhow::Result<Millis> {
    let folder = tempfile::tempdir()?;
    let key = folder.path().join("key");
    let kind = KeyKind::all().into_iter().find(|kind| !kind.encrypted).context("no key")?;
    std::fs::write(&key, ssh.key(kind))?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let mut client = Command::new("ssh")
        .args(["-tt", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"])
        .args(["-o", "IdentitiesOnly=yes", "-i", &key.display().to_string(), "-p", &ssh.address().port().to_string()])
        .args([&format!("{}@{}", ssh.user(), ssh.address().ip()), ECHO])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("ssh")?;
    let (mut typed, mut shown) = (client.stdin.take().context("pipe")?, client.stdout.take().context("pipe")?);
    let (mut seen, mut buffer) = (String::new(), [0; 4_096]);
    while !seen.contains("ready") {
        let n = timeout(PATIENCE, shown.read(&mut buffer)).await??;
        ensure!(n > 0, "ssh ended");
        seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    let mut micros = Vec::with_capacity(KEYS);
    for n in 0..WARM_UP + KEYS {
        let began = Instant::now();
        typed.write_all(b"x").await?;
        typed.flush().await?;
        loop {
            let n = timeout(PATIENCE, shown.read(&mut buffer)).await??;
            ensure!(n > 0, "ssh ended");
            if buffer[..n].contains(&b'x') {
                break;
            }
        }
        if n >= WARM_UP {
            micros.push(u64::try_from(began.elapsed().as_micros())?);
        }
    }
    Ok(Millis::of(micros))
}

/// MB/s of output that arrive, and that are left out, and ms until a flood has stopped.
async fn flood(browser: &mut Socket) -> anyhow::Result<(f64, f64, f64)> {
    say(browser, json!({"type": "input", "data": "go"})).await?;
    let (began, mut bytes, mut left_out) = (Instant::now(), 0, 0_u64);
    while bytes < OUTPUT && began.elapsed() < PATIENCE {
        let text = next(browser).await?;
        let message: Value = serde_json::from_str(&text)?;
        let data = message["data"].as_str().unwrap_or_default();
        bytes += data.len();
        // An agent that writes as fast as its socket takes it is faster than any way through: the rest is left out.
        if let Some((_, rest)) = data.split_once("[patchbay: ") {
            left_out += rest.split(' ').next().and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
        }
    }
    let secs = began.elapsed().as_secs_f64();
    let per_sec = |bytes: f64| rounded(bytes / 1e6 / secs);
    let (shown, left_out) = (per_sec(bytes as f64), per_sec(left_out as f64));
    let asked = Instant::now();
    say(browser, json!({"type": "input", "data": "\u{3}"})).await?;
    expect(browser, "^C").await?;
    Ok((shown, left_out, rounded(asked.elapsed().as_secs_f64() * 1_000.0)))
}

/// An agent whose shell echoes, floods on "go", and stops on Ctrl-C.
struct Agent(JoinHandle<()>);

impl Agent {
    async fn start(server: &Server, host: &Credentials) -> anyhow::Result<Self> {
        let (stream, rest) = Wire::agent(server, host).await?.into_parts();
        stream.set_nodelay(true)?;
        let socket = WebSocketStream::from_partially_read(stream, rest, Role::Client, None).await;
        Ok(Self(tokio::spawn(async move {
            if let Err(error) = serve(socket).await {
                note(&format!("the agent ended: {error:#}"));
            }
        })))
    }
}

async fn serve(socket: Socket) -> anyhow::Result<()> {
    let (mut sink, mut stream) = socket.split();
    let mut session = Value::Null;
    let mut floods = false;
    let mut chunk = String::new();
    let data = |session: &Value, data: &str| {
        Message::text(json!({"data": data, "session_id": session, "type": "ssh_proxy_data"}).to_string())
    };
    loop {
        let message = tokio::select! {
            biased;
            message = stream.next() => message.context("the server went away")??,
            () = std::future::ready(()), if floods => {
                sink.feed(Message::text(chunk.clone())).await?;
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Message::Text(text) = message else {
            sink.flush().await?;
            continue;
        };
        let asked: Value = serde_json::from_str(&text)?;
        let answer = match asked["type"].as_str().unwrap_or_default() {
            "ssh_proxy" => {
                session = asked["session_id"].clone();
                chunk = data(&session, &"y\r\n".repeat(CHUNK / 3)).to_text()?.to_owned();
                Message::text(json!({"session_id": session, "type": "ssh_proxy_connected"}).to_string())
            }
            "ssh_proxy_input" if asked["data"] == "go" => {
                floods = true;
                continue;
            }
            "ssh_proxy_input" if asked["data"] == "\u{3}" => {
                floods = false;
                data(&session, "^C")
            }
            "ssh_proxy_input" => data(&session, asked["data"].as_str().unwrap_or_default()),
            "ssh_proxy_disconnect" => {
                Message::text(json!({"session_id": session, "type": "ssh_proxy_closed"}).to_string())
            }
            _ => continue,
        };
        sink.send(answer).await?;
    }
}
