//! Plays the agent's side of one recording. Pauses are left out; pings are answered whenever they come.

use std::{collections::VecDeque, future::Future, net::Ipv4Addr, time::Duration};

use anyhow::{Context, bail, ensure};
use reqwest::{Body, Method};
use serde_json::Value;
use tests::{
    admin::Admin,
    credentials::Credentials,
    loopback,
    server::Server,
    socket::{Incoming, Socket, Upgrade, upgrade},
};

use super::{
    list::Session,
    script::{brief, lines, path, scan_ends, status, target},
    shells::Shells,
    wanted::{check_body, command_for, frame_fits},
};

const PATIENCE: Duration = Duration::from_secs(15);

/// A command that the recording made necessary, and what has to become of it.
struct Asked {
    id: String,
    kind: &'static str,
    ends: &'static [&'static str],
}

pub struct Player {
    pub(super) admin: Admin,
    pub(super) target: Server,
    source: Ipv4Addr,
    http: reqwest::Client,
    pub(super) host: Credentials,
    pub(super) socket: Option<Socket>,
    /// Messages that came before they were waited for.
    pub(super) messages: VecDeque<Value>,
    pongs: usize,
    asked: Vec<Asked>,
    /// The scan whose result has not been posted yet.
    open_scan: Option<String>,
    /// Browsers with terminals on the host.
    pub(super) shells: Shells,
}

impl Player {
    /// Plays all of it on a new host, from an address of its own.
    pub async fn play(session: &Session, number: usize, admin: Admin, target: Server) -> anyhow::Result<()> {
        let source = loopback::source(60_000 + number, 0);
        let http = reqwest::Client::builder()
            .local_address(std::net::IpAddr::V4(source))
            .http1_title_case_headers()
            .timeout(PATIENCE)
            .no_proxy()
            .build()?;
        let host = admin.add_host(&format!("replay-{}", session.file)).await?;
        let mut player = Self {
            admin,
            target,
            source,
            http,
            host,
            socket: None,
            messages: VecDeque::new(),
            pongs: 0,
            asked: Vec::new(),
            open_scan: None,
            shells: Shells::default(),
        };
        let lines = lines(session)?;
        for (index, (number, line)) in lines.iter().enumerate() {
            let rest = lines[index + 1..].iter().map(|(_, line)| line);
            player.step(line, rest).await.with_context(|| format!("line {number}: {}", brief(line)))?;
        }
        player.finish().await
    }

    async fn step<'a>(&mut self, line: &Value, rest: impl Iterator<Item = &'a Value>) -> anyhow::Result<()> {
        match (line["dir"].as_str().unwrap_or_default(), line["op"].as_str().unwrap_or_default()) {
            ("http", _) if target(line).ends_with("/agents/ws") => self.upgrade(line).await,
            ("http", _) => self.call(line).await,
            ("agent→server", "text") => self.send(line).await,
            ("agent→server", "ping") => {
                self.socket()?.send_ping(PATIENCE).await?;
                self.wait_pong().await
            }
            ("agent→server", "close") => {
                let code = line["code"].as_u64().and_then(|code| u16::try_from(code).ok());
                self.socket()?.send_close(code, PATIENCE).await?;
                self.lose_socket().await
            }
            ("server→agent", "text") => self.expect(line, rest).await,
            // Notes; the server's own pings and closes, which come when it likes; pongs, which answer those.
            _ => Ok(()),
        }
    }

    async fn upgrade(&mut self, line: &Value) -> anyhow::Result<()> {
        self.lose_socket().await?;
        let mut server = self.target.clone();
        let asked = target(line);
        let (prefix, version) = asked
            .strip_suffix("/agents/ws")
            .and_then(|path| path.rsplit_once("/api/"))
            .context("no path of an agent")?;
        server.socket_prefix = prefix.to_owned();
        server.api_version = version.to_owned();
        let (api_id, api_key) = self.credentials(line);
        let request = Upgrade {
            server: &server,
            api_id: &api_id,
            api_key: &api_key,
            source: Some(self.source),
            deadline: PATIENCE,
        };
        match upgrade(request).await {
            Ok(socket) => {
                ensure!(status(line) == 101, "accepted, recorded was {}", line["answer"]);
                self.socket = Some(socket);
                Ok(())
            }
            Err(refused) => {
                // A path that is none has two answers of equal right (protocol 1.1); agents read neither.
                if status(line) == 404 && refused.status == Some(400) {
                    return Ok(());
                }
                ensure!(refused.status == Some(status(line)), "{refused:?}, recorded was {}", line["answer"]);
                check_body(&line["answer"]["body"], &serde_json::from_str(&refused.error)?)
            }
        }
    }

    async fn call(&mut self, line: &Value) -> anyhow::Result<()> {
        let url = format!("http://{}{}", self.target.host, target(line));
        let method = Method::from_bytes(line["method"].as_str().unwrap_or_default().as_bytes())?;
        let mut request = self.http.request(method.clone(), url);
        let mut chunked = false;
        for (name, value) in line["headers"].as_object().into_iter().flatten() {
            match name.as_str() {
                "Host" | "Content-Length" | "X-Api-Id" | "X-Api-Key" => {}
                "Transfer-Encoding" => chunked = true,
                _ => request = request.header(name, value.as_str().unwrap_or_default()),
            }
        }
        let (api_id, api_key) = self.credentials(line);
        request = request.header("X-Api-Id", api_id).header("X-Api-Key", api_key);
        let empty = futures_util::stream::empty::<Result<Vec<u8>, std::io::Error>>();
        request = match &line["body"] {
            Value::Null if chunked => request.body(Body::wrap_stream(empty)),
            Value::Null if method == Method::POST => request.body(Vec::new()),
            Value::Null => request,
            body => request.header("Content-Type", "application/json").body(body.to_string()),
        };
        let answered = async {
            let answer = request.send().await?;
            let kind = answer.headers().get("content-type").cloned();
            anyhow::Ok((answer.status().as_u16(), kind, answer.bytes().await?))
        };
        let (real, kind, body) = self.meanwhile(answered).await??;
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        ensure!(real == status(line), "{real} {body}, recorded was {}", line["answer"]);
        let is_json = kind.is_some_and(|kind| kind.to_str().is_ok_and(|kind| kind.starts_with("application/json")));
        ensure!(is_json, "no JSON type: agents would not read it");
        check_body(&line["answer"]["body"], &body)?;
        if path(line).ends_with("/compliance/scans") {
            self.open_scan = None;
        }
        Ok(())
    }

    /// The new host's; what was recorded as 401 needs a wrong key here, too.
    fn credentials(&self, line: &Value) -> (String, String) {
        let api_key = if status(line) == 401 { "0".repeat(64) } else { self.host.api_key.clone() };
        (self.host.api_id.clone(), api_key)
    }

    async fn send(&mut self, line: &Value) -> anyhow::Result<()> {
        let text = match &line["payload"] {
            Value::Null => line["raw"].as_str().unwrap_or_default().to_owned(),
            payload => self.shells.translated(payload).to_string(),
        };
        self.socket()?.send_text(&text, PATIENCE).await?;
        if line["payload"]["type"].as_str().is_some_and(|kind| kind.starts_with("ssh_proxy")) {
            return self.shell_said(&line["payload"]).await;
        }
        if line["payload"]["type"] == "compliance_scan_progress" {
            // Its pong comes once the server has read the progress: a result that is posted at once, where the recording
            // had minutes, does not overtake it.
            self.socket()?.send_ping(PATIENCE).await?;
            self.wait_pong().await?;
        }
        Ok(())
    }

    /// Causes the recorded frame, if anything can, and waits for it.
    async fn expect<'a>(&mut self, line: &Value, rest: impl Iterator<Item = &'a Value>) -> anyhow::Result<()> {
        let frame = &line["payload"];
        if frame["type"] == "connected" {
            return self.wait_frame(frame).await;
        }
        if frame["type"].as_str().is_some_and(|kind| kind.starts_with("ssh_proxy")) {
            return self.expect_shell(frame).await;
        }
        if frame["type"] == "compliance_scan_cancel" {
            let Some(scan) = self.open_scan.clone() else { return Ok(()) };
            let admin = self.admin.clone();
            let asked = async move { admin.post(&format!("/commands/{scan}/cancel"), &Value::Null).await?.ok() };
            self.meanwhile(asked).await??;
            return self.wait_frame(frame).await;
        }
        let Some((kind, payload)) = command_for(frame) else { return Ok(()) };
        let odd = frame["profile_id"].as_str().is_some_and(|id| id.contains(' '));
        if odd {
            let answer = self.admin.command(kind, &[&self.host.id], payload).await?;
            ensure!(answer.status == 400, "a profile_id that agents ignore was taken: {answer:?}");
            return Ok(());
        }
        let id = self.ask(kind, payload).await?;
        let ends: &[_] = match kind {
            "settings_update" => &["delivered"],
            "compliance_scan" => {
                self.open_scan = Some(id.clone());
                scan_ends(rest)
            }
            _ => &["succeeded"],
        };
        self.asked.push(Asked { id, kind, ends });
        self.wait_frame(frame).await
    }

    /// Asks until a command of its own was made: one that is still being sent takes an identical one in.
    async fn ask(&mut self, kind: &'static str, payload: Option<Value>) -> anyhow::Result<String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let (admin, host, payload) = (self.admin.clone(), self.host.id.clone(), payload.clone());
            let asked = async move { admin.command(kind, &[&host], payload).await?.ok() };
            let answer = self.meanwhile(asked).await??;
            let id = answer["commands"][0]["id"].as_str().with_context(|| answer.to_string())?.to_owned();
            if self.asked.iter().all(|asked| asked.id != id) {
                return Ok(id);
            }
            ensure!(tokio::time::Instant::now() < deadline, "{kind} was never taken anew");
            self.meanwhile(tokio::time::sleep(Duration::from_millis(20))).await?;
        }
    }

    pub(super) async fn wait_frame(&mut self, wanted: &Value) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.messages.iter().position(|message| frame_fits(wanted, message)) {
                self.messages.remove(at);
                return Ok(());
            }
            self.read(deadline).await.with_context(|| format!("no {wanted}; unread: {:?}", self.messages))?;
        }
    }

    async fn wait_pong(&mut self) -> anyhow::Result<()> {
        let (before, deadline) = (self.pongs, tokio::time::Instant::now() + PATIENCE);
        while self.pongs == before {
            self.read(deadline).await.context("no pong")?;
        }
        Ok(())
    }

    async fn read(&mut self, deadline: tokio::time::Instant) -> anyhow::Result<()> {
        let incoming = tokio::time::timeout_at(deadline, self.socket()?.next()).await??;
        self.take(incoming).await
    }

    pub(super) async fn take(&mut self, incoming: Incoming) -> anyhow::Result<()> {
        match incoming {
            Incoming::Ping(payload) => Ok(self.socket()?.send_pong(payload, PATIENCE).await?),
            Incoming::Pong(payload) => {
                ensure!(payload.is_empty(), "a pong with another payload than the ping's: {payload:?}");
                self.pongs += 1;
                Ok(())
            }
            Incoming::Message(message) => {
                self.messages.push_back(serde_json::from_slice(&message)?);
                Ok(())
            }
            Incoming::Close(code) => bail!("the server closed the socket: {code:?}"),
        }
    }

    /// Does `work`, and reads the socket while it takes.
    pub(super) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> anyhow::Result<T> {
        tokio::pin!(work);
        loop {
            let Some(socket) = &mut self.socket else { return Ok(work.await) };
            tokio::select! {
                done = &mut work => return Ok(done),
                incoming = socket.next() => self.take(incoming?).await?,
            }
        }
    }

    /// Ends the connection as a process that dies, and waits until the server has seen it: newcomers that come sooner
    /// would count as clones.
    async fn lose_socket(&mut self) -> anyhow::Result<()> {
        if self.socket.take().is_none() {
            return Ok(());
        }
        self.messages.clear();
        let (path, deadline) = (format!("/ws/status/{}", self.host.api_id), tokio::time::Instant::now() + PATIENCE);
        while self.admin.get(&path).await?.ok()?["data"]["connected"] == true {
            ensure!(tokio::time::Instant::now() < deadline, "the server did not notice a lost socket");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.shells.lost().await
    }

    /// The socket still lives, and every command came to the end that the recording means.
    async fn finish(&mut self) -> anyhow::Result<()> {
        if self.socket.is_some() {
            self.socket()?.send_ping(PATIENCE).await?;
            self.wait_pong().await.context("at the end")?;
        }
        for Asked { id, kind, ends } in std::mem::take(&mut self.asked) {
            let admin = self.admin.clone();
            let row = self.meanwhile(async move { admin.wait_final(&id, PATIENCE).await }).await??;
            let state = row["state"].as_str().unwrap_or_default();
            ensure!(ends.contains(&state), "{kind} ended as {state}, not {ends:?}: {row}");
        }
        Ok(())
    }

    fn socket(&mut self) -> anyhow::Result<&mut Socket> {
        self.socket.as_mut().context("no socket")
    }
}
