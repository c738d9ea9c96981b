//! The server's side of the socket.

use std::{
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Executor, MAX_CLIENTS, MAX_LINE_BYTES, PEER_TIMEOUT, RUN_TIMEOUT, SOCKET};

/// A bound socket. Dropping it removes the file.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
    pub(super) peer_timeout: Duration,
}

impl Server {
    /// Binds the socket in a data directory that this process holds, so a file that is left there is a dead server's.
    ///
    /// # Errors
    /// One line, also when the path is too long for a Unix socket.
    pub fn bind(data_dir: &Path) -> anyhow::Result<Self> {
        let path = data_dir.join(SOCKET);
        let shown = path.display();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove the old socket {shown}"));
            }
            _ => {}
        }
        // Nobody is accepted before the mode is right.
        let listener = UnixListener::bind(&path).with_context(|| format!("cannot listen on {shown}"))?;
        fs::set_permissions(&path, Permissions::from_mode(0o600)).with_context(|| format!("cannot protect {shown}"))?;
        Ok(Self { listener, path, peer_timeout: PEER_TIMEOUT })
    }

    /// Serves until `stop`, then lets running operations end.
    pub async fn serve(self, executor: Arc<impl Executor>, stop: CancellationToken) {
        let clients = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(MAX_CLIENTS));
        loop {
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, self.listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (executor, stop, peer_timeout) = (Arc::clone(&executor), stop.clone(), self.peer_timeout);
                    clients.spawn(async move {
                        let _permit = permit;
                        if let Err(error) = serve_client(stream, &*executor, &stop, peer_timeout).await {
                            tracing::debug!(%error, "an admin client went away");
                        }
                    });
                }
                Err(error) => {
                    // Out of file descriptors, most likely: neither end nor spin.
                    tracing::warn!(%error, "cannot accept an admin client");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        }
        clients.close();
        clients.wait().await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

async fn serve_client(
    stream: UnixStream,
    executor: &impl Executor,
    stop: &CancellationToken,
    peer_timeout: Duration,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    loop {
        let line = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            line = timeout(peer_timeout, read_line(&mut reader)) => line??,
        };
        let (answer, last) = match line {
            Line::End => return Ok(()),
            Line::TooLong => (json!({"error": format!("a request has at most {MAX_LINE_BYTES} bytes")}), true),
            Line::Whole(bytes) => (answer(&bytes, executor).await, false),
        };
        let mut bytes = answer.to_string().into_bytes();
        bytes.push(b'\n');
        timeout(peer_timeout, writer.write_all(&bytes)).await??;
        if last {
            return Ok(());
        }
    }
}

async fn answer(line: &[u8], executor: &impl Executor) -> Value {
    let request: Value = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return json!({"error": format!("not JSON: {error}")}),
    };
    // The name alone: a request can carry a password.
    let op = request.get("op").and_then(Value::as_str).unwrap_or("?").to_owned();
    match timeout(RUN_TIMEOUT, executor.run(request)).await {
        Ok(Ok(result)) => {
            tracing::info!(op, "admin command done");
            json!({"ok": result})
        }
        Ok(Err(error)) => {
            tracing::info!(op, error, "admin command refused");
            json!({"error": error})
        }
        Err(_) => {
            tracing::error!(op, timeout_secs = RUN_TIMEOUT.as_secs(), "admin command took too long");
            json!({"error": format!("no result after {} s; it may still have happened", RUN_TIMEOUT.as_secs())})
        }
    }
}

enum Line {
    Whole(Vec<u8>),
    TooLong,
    End,
}

async fn read_line(reader: &mut BufReader<OwnedReadHalf>) -> io::Result<Line> {
    let mut line = Vec::new();
    let read = reader.take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut line).await?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole(line),
        Some(_) if read == MAX_LINE_BYTES => Line::TooLong,
        // The client closed its side instead of ending its line.
        Some(_) => Line::Whole(line),
    })
}
