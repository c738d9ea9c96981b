//! A client of server-sent events that shows what came, block by block.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;
use tests::{admin::Admin, raw::PATIENCE};
use tokio::time::timeout;

/// One event.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Block {
    pub id: String,
    pub event: String,
    pub data: Value,
}

/// An open stream.
pub struct Stream {
    response: reqwest::Response,
    input: Vec<u8>,
    last_id: String,
    heartbeats: usize,
}

impl Stream {
    /// Opens it, from behind this id if there is one, and reads its greeting.
    pub async fn open(client: &Admin, query: &str, last: Option<&str>) -> Self {
        // Beyond any time-out of the client's own.
        let mut request = client.request(Method::GET, &format!("/events{query}")).timeout(Duration::from_secs(600));
        if let Some(id) = last {
            request = request.header("last-event-id", id);
        }
        let response = timeout(PATIENCE, request.send()).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        for (name, value) in [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-cache, no-store"),
            ("x-accel-buffering", "no"),
        ] {
            assert_eq!(response.headers()[name], value);
        }
        let mut stream = Self { response, input: Vec::new(), last_id: String::new(), heartbeats: 0 };
        let greeting = timeout(PATIENCE, stream.block()).await.unwrap().unwrap();
        let retry =
            greeting.lines().find_map(|line| line.strip_prefix("retry: ")).unwrap_or_else(|| panic!("{greeting}"));
        assert!((1_000..=10_000).contains(&retry.parse::<u32>().unwrap()), "{greeting}");
        stream.read(&greeting);
        stream
    }

    /// The id with which to come back.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// The next event.
    pub async fn next(&mut self) -> Block {
        timeout(PATIENCE, async {
            loop {
                let text = self.block().await.expect("the stream has ended");
                if let Some(block) = self.read(&text) {
                    return block;
                }
            }
        })
        .await
        .expect("no event in time")
    }

    /// All events up to the one that fits.
    pub async fn until(&mut self, fits: impl Fn(&Block) -> bool) -> Vec<Block> {
        let mut seen = Vec::new();
        loop {
            let block = self.next().await;
            let last = fits(&block);
            seen.push(block);
            if last {
                return seen;
            }
        }
    }

    /// Waits for a sign that the stream lives although nothing happens.
    pub async fn heartbeat(&mut self, patience: Duration) {
        let before = self.heartbeats;
        timeout(patience, async {
            while self.heartbeats == before {
                let text = self.block().await.expect("the stream has ended");
                assert_eq!(self.read(&text), None, "nothing was to happen");
            }
        })
        .await
        .expect("no heartbeat");
    }

    /// Waits for the end, whatever comes before it.
    pub async fn end(&mut self, patience: Duration) {
        timeout(patience, async { while self.block().await.is_some() {} }).await.expect("the stream goes on");
    }

    /// Text up to the next empty line; None at the end.
    async fn block(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.input.windows(2).position(|window| window == b"\n\n") {
                let block: Vec<u8> = self.input.drain(..at + 2).collect();
                return Some(String::from_utf8(block).unwrap());
            }
            let chunk = self.response.chunk().await.ok()??;
            self.input.extend_from_slice(&chunk);
        }
    }

    fn read(&mut self, text: &str) -> Option<Block> {
        let mut block = Block::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            match line.split_once(": ").unwrap_or_else(|| panic!("no line of a stream: {line:?}")) {
                ("id", id) => id.clone_into(&mut block.id),
                ("event", event) => event.clone_into(&mut block.event),
                ("data", data) => block.data = serde_json::from_str(data).unwrap(),
                ("retry", _) => {}
                ("", _) => self.heartbeats += 1,
                _ => panic!("no line of a stream: {line:?}"),
            }
        }
        if !block.id.is_empty() {
            self.last_id.clone_from(&block.id);
        }
        (!block.event.is_empty()).then_some(block)
    }
}
