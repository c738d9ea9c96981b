//! The command line's side of the socket.

use std::{io, path::Path};

use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{PEER_TIMEOUT, RUN_TIMEOUT, SOCKET};

/// Answers are ours, so this bounds only what a stranger on that socket could make us read.
const MAX_ANSWER_BYTES: u64 = 256 * 1024 * 1024;

/// Asks the server that runs on this data directory; `None` when none listens.
///
/// # Errors
/// The operation's own refusal, or a server that cannot be asked.
pub async fn call(data_dir: &Path, request: &Value) -> anyhow::Result<Option<Value>> {
    let path = data_dir.join(SOCKET);
    let stream = match UnixStream::connect(&path).await {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            bail!("{} is not yours to use; run this as the user that the server runs as", path.display());
        }
        Err(error) => return Err(error).with_context(|| format!("cannot connect to {}", path.display())),
    };
    let answer = timeout(PEER_TIMEOUT + RUN_TIMEOUT, ask(stream, request))
        .await
        .map_err(|_| anyhow!("the server does not answer"))?
        .context("the server went away before it answered")?;
    let mut answer: Value = serde_json::from_slice(&answer).context("the server's answer is not JSON")?;
    match answer.get("error") {
        Some(Value::String(error)) => bail!("{error}"),
        Some(error) => bail!("{error}"),
        None => Ok(Some(answer["ok"].take())),
    }
}

async fn ask(mut stream: UnixStream, request: &Value) -> io::Result<Vec<u8>> {
    let mut line = request.to_string().into_bytes();
    line.push(b'\n');
    stream.write_all(&line).await?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_ANSWER_BYTES)).read_until(b'\n', &mut answer).await?;
    match answer.last() {
        Some(b'\n') => Ok(answer),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
