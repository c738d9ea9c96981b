use std::{os::unix::fs::PermissionsExt as _, path::PathBuf, sync::Arc};

use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::*;

#[derive(Default)]
struct Echo {
    started: Notify,
    go_on: Notify,
}

impl Executor for Echo {
    async fn run(&self, request: Value) -> Result<Value, String> {
        match request["op"].as_str() {
            Some("slow") => {
                self.started.notify_one();
                self.go_on.notified().await;
                Ok(json!("done"))
            }
            Some("echo") => Ok(request),
            _ => Err("no such operation".to_owned()),
        }
    }
}

struct Running {
    dir: TempDir,
    echo: Arc<Echo>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn start() -> Running {
    start_with(PEER_TIMEOUT)
}

fn start_with(peer_timeout: Duration) -> Running {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut server = Server::bind(dir.path()).expect("bind");
    server.peer_timeout = peer_timeout;
    let (echo, stop) = (Arc::new(Echo::default()), CancellationToken::new());
    let task = tokio::spawn(server.serve(Arc::clone(&echo), stop.clone()));
    Running { dir, echo, stop, task }
}

impl Running {
    fn socket(&self) -> PathBuf {
        self.dir.path().join(SOCKET)
    }

    /// What the server says to these bytes, until it closes.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(self.socket()).await.expect("connect");
        // It may close before it has read all.
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).expect("UTF-8")
    }
}

#[tokio::test]
async fn a_request_gets_its_answer_and_a_refusal_is_an_error() {
    let running = start();
    let request = json!({"op": "echo", "name": "a\nb"});
    assert_eq!(call(running.dir.path(), &request).await.expect("answered"), Some(request));
    let refused = call(running.dir.path(), &json!({"op": "x"})).await.expect_err("refused");
    assert_eq!(refused.to_string(), "no such operation");
}

#[tokio::test]
async fn nobody_listening_is_no_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    assert_eq!(call(dir.path(), &json!({"op": "echo"})).await.expect("no socket"), None);
    let server = Server::bind(dir.path()).expect("bind");
    // Dropping a plain listener leaves its file behind, as kill -9 would.
    let stale = std::fs::hard_link(dir.path().join(SOCKET), dir.path().join("kept"));
    drop(server);
    stale.and_then(|()| std::fs::rename(dir.path().join("kept"), dir.path().join(SOCKET))).expect("left behind");
    assert_eq!(call(dir.path(), &json!({"op": "echo"})).await.expect("refused connection"), None);
    Server::bind(dir.path()).expect("binds over what is left");
}

#[tokio::test]
async fn the_socket_is_private_and_gone_afterwards() {
    let running = start();
    let mode = std::fs::metadata(running.socket()).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    running.stop.cancel();
    running.task.await.expect("ends");
    assert!(!running.dir.path().join(SOCKET).exists());
}

#[tokio::test]
async fn one_connection_takes_many_lines() {
    let running = start();
    let answers = running.raw(b"{\"op\":\"echo\"}\nnonsense\n{\"op\":\"echo\"}").await;
    let lines: Vec<&str> = answers.lines().collect();
    assert_eq!(lines.len(), 3, "{answers}");
    assert!(lines[1].contains("not JSON"));
}

#[tokio::test]
async fn a_line_without_end_is_cut_off() {
    let running = start();
    let answer = running.raw(&vec![b'x'; MAX_LINE_BYTES * 2]).await;
    assert!(answer.is_empty() || answer.contains("at most 65536 bytes"), "{answer}");
    assert!(call(running.dir.path(), &json!({"op": "echo"})).await.is_ok());
}

#[tokio::test]
async fn stopping_waits_for_what_runs() {
    let running = start();
    let dir = running.dir.path().to_owned();
    let caller = tokio::spawn(async move { call(&dir, &json!({"op": "slow"})).await });
    running.echo.started.notified().await;
    running.stop.cancel();
    running.echo.go_on.notify_one();
    assert_eq!(caller.await.expect("no panic").expect("answered"), Some(json!("done")));
    running.task.await.expect("ends");
}

#[tokio::test]
async fn a_silent_client_is_dropped() {
    let running = start_with(Duration::from_millis(50));
    let mut silent = UnixStream::connect(running.socket()).await.expect("connect");
    let mut rest = Vec::new();
    silent.read_to_end(&mut rest).await.expect("closed by the server");
    assert!(rest.is_empty());
}
