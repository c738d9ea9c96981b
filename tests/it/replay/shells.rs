//! The browser's side of recorded terminals: for each `ssh_proxy` a socket that asks for it, for each of its frames the
//! keys or the size that bring it, and what the browser has to hear of the agent's answers.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use tests::terminal::{Access, Heard, Terminal};

use super::player::Player;

const PATIENCE: Duration = Duration::from_secs(15);
const LOST: &str = "Agent WebSocket connection lost";
/// What this server refuses itself, though a recorded one did not: then the agent gets no frame.
const REFUSALS: [&str; 4] = [
    "Invalid proxy host format",
    "Invalid proxy port",
    "No authentication method provided",
    "1 open already: an agent before 2.0",
];

/// By the recorded session ids.
#[derive(Default)]
pub struct Shells {
    open: HashMap<String, Shell>,
    /// The ids that this server chose for those that are over.
    over: HashMap<String, Value>,
    /// Those of them that the agent may hold still, because its socket was lost.
    lost: HashSet<String>,
    /// Sockets without a shell.
    sockets: Vec<Terminal>,
}

struct Shell {
    terminal: Terminal,
    /// As this server calls it.
    id: Value,
    connected: bool,
    /// Frames that the server holds back until it is connected.
    held: Vec<Value>,
}

impl Shells {
    /// The agent's message, with the session id that this server chose.
    pub fn translated(&self, message: &Value) -> Value {
        let mut message = message.clone();
        if let Some(id) = message["session_id"].as_str().and_then(|id| self.id(id)) {
            message["session_id"] = id;
        }
        message
    }

    fn id(&self, recorded: &str) -> Option<Value> {
        self.open.get(recorded).map(|shell| &shell.id).or_else(|| self.over.get(recorded)).cloned()
    }

    fn is_over(&mut self, recorded: String, shell: Shell) {
        self.over.insert(recorded, shell.id);
        self.sockets.push(shell.terminal);
    }

    /// The agent's socket is gone: every browser is told.
    pub async fn lost(&mut self) -> anyhow::Result<()> {
        for (recorded, mut shell) in std::mem::take(&mut self.open) {
            heard(&mut shell.terminal, &Heard::Error(LOST.to_owned())).await?;
            if shell.connected {
                heard(&mut shell.terminal, &Heard::Closed).await?;
            }
            self.lost.insert(recorded.clone());
            self.is_over(recorded, shell);
        }
        Ok(())
    }
}

async fn heard(terminal: &mut Terminal, wanted: &Heard) -> anyhow::Result<()> {
    let told = terminal.next(PATIENCE).await;
    ensure!(told.as_ref() == Some(wanted), "the browser heard {told:?}, not {wanted:?}");
    Ok(())
}

/// Output, however it is cut.
async fn heard_data(terminal: &mut Terminal, wanted: &str) -> anyhow::Result<()> {
    let mut rest = wanted;
    while !rest.is_empty() {
        match terminal.next(PATIENCE).await {
            Some(Heard::Data(data)) => {
                rest = rest.strip_prefix(&*data).with_context(|| format!("{data:?} came, not {rest:?}"))?;
            }
            other => bail!("the browser heard {other:?}, not {rest:?}"),
        }
    }
    Ok(())
}

impl Player {
    /// Has a browser bring about the recorded frame, and waits for it. What no browser of this server can bring about is left
    /// out: frames for no shell, a second `ssh_proxy` of one id, and fields that the server itself fills in.
    pub async fn expect_shell(&mut self, frame: &Value) -> anyhow::Result<()> {
        let recorded = frame["session_id"].as_str().unwrap_or_default().to_owned();
        let kind = frame["type"].as_str().unwrap_or_default();
        if kind == "ssh_proxy" {
            let filled_in = frame["host"] == "" || frame["port"].is_null();
            if recorded.is_empty() || filled_in || self.shells.id(&recorded).is_some() {
                return Ok(());
            }
            return self.open_shell(recorded, frame).await;
        }
        let Some(mut shell) = self.shells.open.remove(&recorded) else {
            // One that was lost with its socket is closed by the server itself.
            if kind == "ssh_proxy_disconnect" && self.shells.lost.remove(&recorded) {
                let id = self.shells.over.get(&recorded).cloned();
                return self.wait_frame(&json!({"type": kind, "session_id": id})).await;
            }
            return Ok(());
        };
        let mut wanted = frame.clone();
        wanted["session_id"] = shell.id.clone();
        match kind {
            "ssh_proxy_input" => shell.terminal.input(frame["data"].as_str().unwrap_or_default()).await,
            "ssh_proxy_resize" => {
                let mut resize = frame.clone();
                resize["type"] = json!("resize");
                shell.terminal.send(&resize.to_string()).await;
            }
            "ssh_proxy_disconnect" => {
                shell.terminal.disconnect().await;
                heard(&mut shell.terminal, &Heard::Closed).await?;
                self.shells.is_over(recorded, shell);
                return self.wait_frame(&wanted).await;
            }
            _ => bail!("no browser brings it about"),
        }
        let connected = shell.connected;
        if !connected {
            shell.held.push(wanted.clone());
        }
        self.shells.open.insert(recorded, shell);
        if connected { self.wait_frame(&wanted).await } else { Ok(()) }
    }

    async fn open_shell(&mut self, recorded: String, frame: &Value) -> anyhow::Result<()> {
        let mut terminal = match self.shells.sockets.pop() {
            Some(terminal) => terminal,
            None => {
                let (target, host, admin) = (self.target.clone(), self.host.id.clone(), self.admin.clone());
                let opened = async move {
                    Terminal::open(&target, &host, Access::Bearer(admin.token().unwrap_or_default())).await
                };
                self.meanwhile(opened).await??
            }
        };
        let mut connect = frame.clone();
        connect["connection_mode"] = json!("proxy");
        for (theirs, ours) in [("host", "proxy_host"), ("port", "proxy_port"), ("private_key", "privateKey")] {
            connect[ours] = frame[theirs].clone();
        }
        terminal.connect(connect).await;
        let mut wanted = frame.clone();
        if let Some(fields) = wanted.as_object_mut() {
            fields.remove("session_id");
        }
        loop {
            if let Some(at) = self.messages.iter().position(|message| message["type"] == "ssh_proxy") {
                let id = self.messages[at]["session_id"].clone();
                self.wait_frame(&wanted).await?;
                self.shells.open.insert(recorded, Shell { terminal, id, connected: false, held: Vec::new() });
                return Ok(());
            }
            let incoming = tokio::select! {
                told = terminal.next(PATIENCE) => match told {
                    Some(Heard::Error(text)) if REFUSALS.iter().any(|refusal| text.starts_with(refusal)) => {
                        self.shells.sockets.push(terminal);
                        return Ok(());
                    }
                    other => bail!("the browser heard {other:?}, and the agent got nothing"),
                },
                incoming = async { self.socket.as_mut().context("no socket")?.next().await.map_err(Into::into) } => {
                    incoming.map_err(|error: anyhow::Error| error)?
                }
            };
            self.take(incoming).await?;
        }
    }

    /// Waits until the browser has heard what the agent has just said.
    pub async fn shell_said(&mut self, message: &Value) -> anyhow::Result<()> {
        let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
        let recorded = text("session_id");
        let Some(mut shell) = self.shells.open.remove(&recorded) else { return Ok(()) };
        let kind = text("type");
        let (was_connected, data, error) = (shell.connected, text("data"), text("message"));
        let hears = async move {
            let terminal = &mut shell.terminal;
            let result = match kind.as_str() {
                // A second one, of another shell by that id, changes nothing.
                "ssh_proxy_connected" if was_connected => Ok(false),
                "ssh_proxy_connected" => heard(terminal, &Heard::Connected).await.map(|()| false),
                "ssh_proxy_data" => heard_data(terminal, &data).await.map(|()| false),
                "ssh_proxy_error" => heard(terminal, &Heard::Error(error)).await.map(|()| true),
                "ssh_proxy_closed" => heard(terminal, &Heard::Closed).await.map(|()| true),
                other => Err(anyhow::anyhow!("{other} is no word of a shell")),
            };
            shell.connected |= kind == "ssh_proxy_connected";
            (shell, result)
        };
        let (mut shell, is_over) = self.meanwhile(hears).await?;
        let held = if shell.connected { std::mem::take(&mut shell.held) } else { Vec::new() };
        if is_over? {
            self.shells.is_over(recorded, shell);
        } else {
            self.shells.open.insert(recorded, shell);
        }
        for wanted in held {
            self.wait_frame(&wanted).await.context("held back until the shell was open")?;
        }
        Ok(())
    }
}
