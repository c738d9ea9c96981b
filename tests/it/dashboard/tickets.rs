//! Tickets: one look at the dashboard's page each, and what it leaves in the browser.

use serde_json::json;
use tests::admin::Admin;

use super::peer::{Dashboard, OWN_PAGE, cookie_for, get, ticket};
use crate::{cli::patchbay_with, database::Database, harness::Server};

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_the_dashboard_once() {
    let server = Server::start_with(&[("RUST_LOG", "debug,sqlx=info,hyper=info")]).await;
    let admin = server.admin().await;
    let answer = admin.post("/automation/bullboard-ticket", &json!({})).await.unwrap().ok().unwrap();
    let ticket = answer["ticket"].as_str().unwrap().to_owned();
    assert_eq!((ticket.len(), &answer["expiresIn"]), (64, &json!(30)), "{answer}");
    assert!(ticket.bytes().all(|b| b.is_ascii_hexdigit()));
    let path = format!("/bullboard?ticket={ticket}");

    // A look at the headers alone, and a socket, use nothing up.
    let head = reqwest::Client::builder().no_proxy().build().unwrap().head(format!("{}{path}", server.url()));
    assert_eq!(head.send().await.unwrap().status(), 401);
    assert!(Dashboard::try_open(&server, &path, &[OWN_PAGE]).await.is_err());
    let reply = get(&server, &path, &[]).await;
    assert_eq!((reply.status, reply.header("location")), (303, Some("/bullboard")), "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let set = reply.header("set-cookie").unwrap().to_owned();
    for part in ["bull-board-session=", "HttpOnly", "SameSite=Strict", "Path=/bullboard", "Max-Age=3600"] {
        assert!(set.contains(part), "{part}: {set}");
    }
    assert!(!set.contains("Secure"), "it could not come back: {set}");
    let cookie = set.split(';').next().unwrap().to_owned();
    let value = cookie.split_once('=').unwrap().1.to_owned();
    assert!(value != ticket && value.len() == 64);
    let mut dashboard = Dashboard::open_by_cookie(&server, &cookie).await;
    dashboard.shown().await;

    let again = get(&server, &path, &[]).await;
    assert_eq!((again.status, again.header("set-cookie")), (401, None), "{again:?}");
    for none in [ticket.to_uppercase(), ticket[1..].to_owned(), format!("{ticket}0"), "x".to_owned(), "0".repeat(64)] {
        assert_eq!(get(&server, &format!("/bullboard?ticket={none}"), &[]).await.status, 401, "{none}");
    }
    // An old cookie does not help a ticket that is none, and a new ticket needs none.
    assert_eq!(get(&server, &path, &[("Cookie", &cookie)]).await.status, 401);

    for line in server.logs() {
        for secret in [&ticket, &value] {
            assert!(!line.contains(secret.as_str()), "a secret in the log: {line}");
        }
    }
    // Nor in the store as it is.
    let mut database = Database::open(&server).await;
    let kept = database.number("SELECT COUNT(*) FROM dashboard_sessions").await;
    let plain = format!("SELECT COUNT(*) FROM dashboard_sessions WHERE digest = '{value}'");
    assert_eq!((kept, database.number(&plain).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_bring_one_ticket_one_gets_in() {
    let server = Server::start().await;
    let admin = server.admin().await;
    for _ in 0..5 {
        let ticket = ticket(&admin).await;
        let all = futures_util::future::join_all((0..8).map(|_| cookie_for(&server, &ticket))).await;
        assert_eq!(all.iter().flatten().count(), 1, "{all:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_ends_with_its_time_its_session_and_its_user() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let mut database = Database::open(&server).await;
    let late = ticket(&admin).await;
    database.run("UPDATE tickets SET expires_at = expires_at - 30001").await;
    assert_eq!(cookie_for(&server, &late).await, None, "too late");

    let args = ["user", "add", "ann", "--role", "readonly", "--password-stdin"];
    assert_eq!(patchbay_with(&server, &args, "watching-all-day").await.code, Some(0));
    let ann = Admin::login(&server.url(), "ann", "watching-all-day").await.unwrap();
    let out = ticket(&ann).await;
    assert_eq!(ann.post("/auth/logout", &json!({})).await.unwrap().status, 200);
    assert_eq!(cookie_for(&server, &out).await, None, "logged out");

    let ann = Admin::login(&server.url(), "ann", "watching-all-day").await.unwrap();
    let disabled = ticket(&ann).await;
    database.run("UPDATE users SET active = 0 WHERE username = 'ann'").await;
    assert_eq!(cookie_for(&server, &disabled).await, None, "disabled");
    database.run("UPDATE users SET active = 1 WHERE username = 'ann'").await;
    assert!(cookie_for(&server, &disabled).await.is_some(), "a refusal uses nothing up");

    // Who may not see the dashboard gets no ticket.
    database.run("DELETE FROM roles WHERE name = 'readonly' AND permission = 'can_view_dashboard'").await;
    let refused = ann.post("/automation/bullboard-ticket", &json!({})).await.unwrap();
    assert_eq!((refused.status.as_u16(), &refused.body["error"]), (403, &json!("Insufficient permissions")));
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_the_cookie_stays_on_tls() {
    let server = Server::start_with(&[("PATCHBAY_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let admin = server.admin().await;
    let path = format!("/bullboard?ticket={}", ticket(&admin).await);
    let reply = get(&server, &path, &[("X-Forwarded-Proto", "https")]).await;
    assert!(reply.header("set-cookie").unwrap().contains("; Secure"), "{reply:?}");
}
