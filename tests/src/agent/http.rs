//! The agents' HTTP calls (protocol 3): their headers, what counts as success, when they try again (protocol 6-10).

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Method, Request,
    client::conn::http1::{self, SendRequest},
    header::{HeaderMap, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;

use crate::{
    credentials::Credentials,
    generation::Generation,
    log::{FrameLog, What},
    loopback,
    server::Server,
    timing::Timing,
};

/// One try and three more (protocol 6-10).
const TRIES: u32 = 4;
/// The version check and all other calls have a limit of their own for reading an answer; no happy one is near it.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// One call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call<'a> {
    pub(crate) method: &'static str,
    /// Behind `/api/{v}/`.
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) body: Body<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body<'a> {
    /// A GET.
    None,
    /// A POST with nothing in it: `Content-Length: 0` in 1.4, chunked in 2.1 (protocol 3).
    Empty,
    Json(&'a str),
}

/// What came back, if anything did.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) is_json: bool,
    pub(crate) body: Bytes,
}

impl Answer {
    /// 200 and nothing else.
    pub(crate) fn is_success(&self) -> bool {
        self.status == 200
    }

    /// The body, which agents only parse when the type is JSON.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        (self.is_success() && self.is_json).then(|| serde_json::from_slice(&self.body).ok()).flatten()
    }
}

/// One host's HTTP client.
#[derive(Debug)]
pub(crate) struct Http {
    pub(crate) server: Arc<Server>,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) generation: Generation,
    pub(crate) timing: Arc<Timing>,
    pub(crate) source: Option<Ipv4Addr>,
    pub(crate) log: FrameLog,
    pub(crate) agent: Arc<str>,
    /// Leaves the connection of the last call open, as the agents do.
    pub(crate) keep_open: bool,
    pub(crate) idle: Mutex<Option<SendRequest<BoxBody<Bytes, Infallible>>>>,
}

impl Http {
    /// Calls, and tries again only when there was no answer at all. `None` when there was none after all tries.
    pub(crate) async fn call(&self, conn: u32, call: Call<'_>) -> Option<Answer> {
        let path = self.server.http_path(call.path);
        for attempt in 1..=TRIES {
            if attempt > 1 {
                tokio::time::sleep(self.timing.http_retry).await;
            }
            let began = Instant::now();
            let result = match tokio::time::timeout(self.timing.http_timeout, self.once(&path, call)).await {
                Ok(result) => result,
                Err(_) => Err("no answer in time".to_owned()),
            };
            self.log.record(
                &self.agent,
                conn,
                What::Http {
                    method: call.method,
                    path: path.clone(),
                    status: result.as_ref().ok().map(|answer| answer.status),
                    error: result.as_ref().err().cloned(),
                    attempt,
                    millis: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
                },
            );
            if let Ok(answer) = result {
                return Some(answer);
            }
        }
        None
    }

    async fn once(&self, path: &str, call: Call<'_>) -> Result<Answer, String> {
        // A connection that the server closed meanwhile is no failed try: Go's transport dials anew.
        let mut kept = self.idle.lock().await.take();
        if let Some(sender) = kept.as_mut()
            && sender.ready().await.is_err()
        {
            kept = None;
        }
        let mut sender = match kept {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let request = self.request(path, call)?;
        let response = sender.send_request(request).await.map_err(reason)?;
        let status = response.status().as_u16();
        let is_json = response
            .headers()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("json"));
        let body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| error.to_string())?
            .to_bytes();
        if self.keep_open && !sender.is_closed() {
            *self.idle.lock().await = Some(sender);
        }
        Ok(Answer { status, is_json, body })
    }

    async fn connect(&self) -> Result<SendRequest<BoxBody<Bytes, Infallible>>, String> {
        let deadline = Duration::from_secs(10).min(self.timing.http_timeout);
        let stream =
            loopback::dial(self.server.address, self.source, deadline).await.map_err(|error| error.to_string())?;
        let (sender, connection) =
            http1::Builder::new().title_case_headers(true).handshake(TokioIo::new(stream)).await.map_err(reason)?;
        // Ends by itself when the sender is dropped or the server hangs up.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, path: &str, call: Call<'_>) -> Result<Request<BoxBody<Bytes, Infallible>>, String> {
        let target = if call.query.is_empty() { path.to_owned() } else { format!("{path}?{}", call.query) };
        let method = if call.method == "POST" { Method::POST } else { Method::GET };
        let body = match (call.body, self.generation) {
            (Body::None, _) | (Body::Empty, Generation::V1) => Full::new(Bytes::new()).boxed(),
            (Body::Empty, Generation::V2) => BoxBody::new(StreamBody::new(futures_util::stream::empty())),
            (Body::Json(text), _) => Full::new(Bytes::copy_from_slice(text.as_bytes())).boxed(),
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = target.parse().map_err(|_| format!("no URI: {target}"))?;
        *request.headers_mut() = self.headers(call)?;
        Ok(request)
    }

    fn headers(&self, call: Call<'_>) -> Result<HeaderMap, String> {
        let mut headers = HeaderMap::with_capacity(8);
        let mut add = |name: &'static str, text: &str| {
            let value = HeaderValue::from_str(text).map_err(|_| format!("no header value: {name}"))?;
            headers.append(name, value);
            Ok::<_, String>(())
        };
        add("host", &self.server.host)?;
        let own_agent = call.path.starts_with("hosts/agent/");
        if own_agent {
            add("user-agent", &format!("patchmon-agent/{}", self.generation.agent_version()))?;
        } else {
            add("user-agent", self.generation.http_user_agent())?;
        }
        match (call.body, self.generation) {
            (Body::None, _) => {}
            (Body::Empty, Generation::V1) => add("content-length", "0")?,
            (Body::Empty, Generation::V2) => add("transfer-encoding", "chunked")?,
            (Body::Json(text), _) => add("content-length", &text.len().to_string())?,
        }
        if !own_agent {
            add("accept", "application/json")?;
            add("content-type", "application/json")?;
        }
        add("x-api-id", &self.credentials.api_id)?;
        add("x-api-key", &self.credentials.api_key)?;
        add("accept-encoding", "gzip")?;
        Ok(headers)
    }
}

fn reason(error: hyper::Error) -> String {
    use std::error::Error;
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
