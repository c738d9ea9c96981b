//! A dashboard's socket by hand, and the cookie that opens it.

use serde_json::{Value, json};
use tests::{
    admin::Admin,
    raw::{self, Reply, WEBSOCKET, Wire},
};

use crate::harness::Server;

/// What every request calls the server, and so the page that is its own.
pub const HOST: &str = "patchbay.test";
pub const OWN_PAGE: (&str, &str) = ("Origin", "http://patchbay.test");

/// An open socket.
pub struct Dashboard(pub Wire);

impl Dashboard {
    /// Opens `/bullboard` with these headers, or gives the answer that refused it.
    pub async fn try_open(server: &Server, path: &str, headers: &[(&str, &str)]) -> Result<Self, Reply> {
        let mut wire = Wire::dial(&server.target(), None).await.unwrap();
        let headers = [&[("Host", HOST)], &WEBSOCKET[..], headers].concat();
        let reply = wire.call(&raw::request("GET", path, &headers, "")).await.unwrap();
        if reply.status == 101 { Ok(Self(wire)) } else { Err(reply) }
    }

    /// Opens one as a program does that has a token.
    pub async fn open(server: &Server, client: &Admin) -> Self {
        let bearer = format!("Bearer {}", client.token().unwrap());
        Self::try_open(server, "/bullboard", &[("Authorization", &bearer)]).await.unwrap()
    }

    /// Opens one as a page does.
    pub async fn open_by_cookie(server: &Server, cookie: &str) -> Self {
        Self::try_open(server, "/bullboard", &[("Cookie", cookie), OWN_PAGE]).await.unwrap()
    }

    /// The next frame's text; pings are answered.
    pub async fn text(&mut self) -> String {
        let frame = self.0.frame_answering_pings().await.unwrap();
        assert_eq!(frame.first, raw::TEXT, "{frame:?}");
        String::from_utf8(frame.payload).unwrap()
    }

    /// The next thing shown.
    pub async fn shown(&mut self) -> Value {
        let shown: Value = serde_json::from_str(&self.text().await).unwrap();
        assert_eq!(shown["type"], "status", "{shown}");
        shown
    }

    /// Reads on until what is shown fits.
    pub async fn until(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let read = async {
            loop {
                let shown = self.shown().await;
                if fits(&shown["status"]) {
                    return shown["status"].clone();
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(60), read).await.unwrap_or_else(|_| panic!("never {what}"))
    }

    /// Waits for the close frame, whatever is shown before it, and gives its code.
    pub async fn closed(&mut self) -> Option<u16> {
        loop {
            let frame = self.0.frame_answering_pings().await.unwrap();
            if frame.first == raw::CLOSE {
                return frame.close_code();
            }
        }
    }
}

/// A command's number in one state of a queue.
pub fn count(status: &Value, queue: &str, state: &str) -> u64 {
    let queues = status["queues"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = queues.iter().find(|one| one["name"] == queue).unwrap_or(&Value::Null);
    found["counts"][state].as_u64().unwrap_or(0)
}

/// A ticket for this user.
pub async fn ticket(client: &Admin) -> String {
    let answer = client.post("/automation/bullboard-ticket", &json!({})).await.unwrap().ok().unwrap();
    answer["ticket"].as_str().unwrap().to_owned()
}

/// A plain GET of a page, with these headers.
pub async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut wire = Wire::dial(&server.target(), None).await.unwrap();
    let headers = [&[("Host", HOST)], headers].concat();
    wire.call(&raw::request("GET", path, &headers, "")).await.unwrap()
}

/// Exchanges a ticket: the cookie as it is sent back, `name=value`.
pub async fn cookie_for(server: &Server, ticket: &str) -> Option<String> {
    let reply = get(server, &format!("/bullboard?ticket={ticket}"), &[]).await;
    let cookie = reply.header("set-cookie")?.split(';').next()?.to_owned();
    assert_eq!((reply.status, reply.header("location")), (303, Some("/bullboard")), "{reply:?}");
    Some(cookie)
}

/// The cookie of a dashboard of this user.
pub async fn cookie(server: &Server, client: &Admin) -> String {
    cookie_for(server, &ticket(client).await).await.expect("a ticket that was just made")
}
