//! Who gets in. Being there with something in the right place is not enough.

use serde_json::json;
use tests::admin::Admin;

use super::peer::{Dashboard, OWN_PAGE, cookie, get, ticket};
use crate::{
    cli::patchbay_with,
    database::Database,
    harness::{PASSWORD, Server},
};

const PATHS: [&str; 5] = ["/bullboard", "/bullboard/", "/bullboard/api/queues", "/bullboardx", "//bullboard?x=1"];

async fn refused(server: &Server, what: &str, headers: &[(&str, &str)], status: u16) {
    for path in PATHS {
        let Err(reply) = Dashboard::try_open(server, path, headers).await else { panic!("{what} passed at {path}") };
        let error = if status == 403 { "CORS policy violation" } else { "Authentication required" };
        assert_eq!((reply.status, reply.json()), (status, json!({"error": error})), "{what} at {path}");
        assert_eq!(reply.header("connection"), Some("close"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_session_opens_nothing() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let token = admin.token().unwrap();
    let good = cookie(&server, &admin).await;
    let unused = ticket(&admin).await;
    let other = Server::start().await;
    let elsewhere = format!("Bearer {}", other.admin().await.token().unwrap());
    let with_login_cookie = format!("token={token}");
    let as_dashboard = format!("bull-board-session={token}");
    let ticket_as_cookie = format!("bull-board-session={unused}");
    let ticket_as_bearer = format!("Bearer {unused}");
    let cookie_as_bearer = format!("Bearer {}", good.split_once('=').unwrap().1);
    let forged = format!("bull-board-session={}", "ab".repeat(32));
    let longer = format!("{good}0");
    let other_name = good.replace("bull-board-session", "bull-board-auth");
    let [head, claims, _] = token.split('.').collect::<Vec<_>>()[..] else { panic!("no JWT") };
    let unsigned = format!("Bearer {head}.{claims}.");
    for (what, name, value) in [
        ("a forged cookie", "Cookie", forged.as_str()),
        ("any cookie", "Cookie", "bull-board-session=1"),
        ("an empty cookie", "Cookie", "bull-board-session="),
        ("a cookie and more", "Cookie", &longer),
        ("a cookie of another name", "Cookie", &other_name),
        ("the login's cookie", "Cookie", &with_login_cookie),
        ("the login's token as a dashboard's cookie", "Cookie", &as_dashboard),
        ("a ticket as a cookie", "Cookie", &ticket_as_cookie),
        ("any Authorization", "Authorization", "x"),
        ("any Bearer", "Authorization", "Bearer x"),
        ("an empty Bearer", "Authorization", "Bearer "),
        ("Basic", "Authorization", "Basic YWRtaW46YWRtaW4="),
        ("another server's token", "Authorization", &elsewhere),
        ("a ticket as a token", "Authorization", &ticket_as_bearer),
        ("a cookie as a token", "Authorization", &cookie_as_bearer),
        ("a token without its signature", "Authorization", &unsigned),
        ("nothing", "X-Nothing", "1"),
    ] {
        refused(&server, what, &[(name, value), OWN_PAGE], 401).await;
    }
    // A header that is no token is not helped by a cookie that is one.
    refused(&server, "a bad header beside", &[("Authorization", "Bearer x"), ("Cookie", &good), OWN_PAGE], 401).await;
    for (what, query) in [("a ticket in the address", &unused), ("a token in the address", &token.to_owned())] {
        for name in ["ticket", "token"] {
            let path = format!("/bullboard?{name}={query}");
            let reply = Dashboard::try_open(&server, &path, &[OWN_PAGE]).await.err().expect("refused");
            assert_eq!(reply.status, 401, "{what} as {name}");
        }
    }
    // All the while the right ones are let in, at every path.
    let bearer = format!("Bearer {token}");
    for path in PATHS {
        assert!(Dashboard::try_open(&server, path, &[("Cookie", &good), OWN_PAGE]).await.is_ok(), "{path}");
        assert!(Dashboard::try_open(&server, path, &[("Authorization", &bearer)]).await.is_ok(), "{path}");
    }
    let basic = [("Authorization", "Basic YWRtaW46YWRtaW4="), ("Cookie", good.as_str()), OWN_PAGE];
    assert!(Dashboard::try_open(&server, "/bullboard", &basic).await.is_ok(), "a proxy's own header");
    // No socket is opened anywhere else by it.
    let reply = Dashboard::try_open(&server, "/elsewhere", &[("Authorization", &bearer)]).await.err().unwrap();
    assert_eq!(reply.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_others_opens_nothing() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let good = cookie(&server, &admin).await;
    let bearer = format!("Bearer {}", admin.token().unwrap());
    let by_cookie = ("Cookie", good.as_str());
    let by_header = ("Authorization", bearer.as_str());
    for origin in ["http://evil.example", "null", "http://patchbay.test:8080", "http://patchbay.test.evil.example", ""]
    {
        refused(&server, origin, &[by_cookie, ("Origin", origin)], 403).await;
        refused(&server, origin, &[by_header, ("Origin", origin)], 403).await;
    }
    // No word of the page: a browser would have said it.
    refused(&server, "no Origin", &[by_cookie], 403).await;
    refused(&server, "same-site", &[by_cookie, ("Sec-Fetch-Site", "same-site")], 403).await;
    assert!(Dashboard::try_open(&server, "/bullboard", &[by_cookie, ("Sec-Fetch-Site", "same-origin")]).await.is_ok());
    assert!(Dashboard::try_open(&server, "/bullboard", &[by_header]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_a_session_opens_nothing_any_more() {
    let server = Server::start().await;
    let mut database = Database::open(&server).await;
    for (name, end) in [
        ("out", ""),
        (
            "expired",
            "UPDATE sessions SET expires_at = 1 WHERE user_id = (SELECT id FROM users WHERE username = 'expired')",
        ),
        (
            "idle",
            "UPDATE sessions SET last_activity_at = 1 WHERE user_id = (SELECT id FROM users WHERE username = 'idle')",
        ),
        ("disabled", "UPDATE users SET active = 0 WHERE username = 'disabled'"),
        ("demoted", "UPDATE users SET role = 'nothing' WHERE username = 'demoted'"),
        ("gone", "DELETE FROM sessions WHERE user_id = (SELECT id FROM users WHERE username = 'gone')"),
    ] {
        let args = ["user", "add", name, "--role", "readonly", "--password-stdin"];
        assert_eq!(patchbay_with(&server, &args, "watching-all-day").await.code, Some(0));
        let client = Admin::login(&server.url(), name, "watching-all-day").await.unwrap();
        let dashboard = cookie(&server, &client).await;
        let bearer = format!("Bearer {}", client.token().unwrap());
        let (by_cookie, by_header) = ([("Cookie", dashboard.as_str()), OWN_PAGE], [("Authorization", bearer.as_str())]);
        assert!(Dashboard::try_open(&server, "/bullboard", &by_cookie).await.is_ok(), "{name}");
        assert!(Dashboard::try_open(&server, "/bullboard", &by_header).await.is_ok(), "{name}");
        assert_eq!(get(&server, "/bullboard", &by_cookie).await.status, 200, "{name}");
        match end {
            "" => assert_eq!(client.post("/auth/logout", &json!({})).await.unwrap().status, 200),
            sql => database.run(sql).await,
        }
        refused(&server, name, &by_cookie, 401).await;
        refused(&server, name, &by_header, 401).await;
        assert_eq!(get(&server, "/bullboard", &by_cookie).await.status, 401, "{name}");
    }
    // The dashboard's own hour is over, and its login's twelve are not.
    let admin = server.admin().await;
    let over = cookie(&server, &admin).await;
    database.run("UPDATE dashboard_sessions SET expires_at = 1").await;
    refused(&server, "an hour ago", &[("Cookie", &over), OWN_PAGE], 401).await;
    assert_eq!(admin.get("/auth/me").await.unwrap().status, 200);
}

/// 401 would send people to look for what is wrong with their login.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_not_the_callers_fault() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let good = cookie(&server, &admin).await;
    let bearer = format!("Bearer {}", admin.token().unwrap());
    let mut database = Database::open(&server).await;
    // As good as away: what is asked for cannot be read.
    database.run("ALTER TABLE sessions RENAME TO sessions_away").await;
    for headers in [&[("Cookie", good.as_str()), OWN_PAGE][..], &[("Authorization", bearer.as_str())]] {
        let reply = Dashboard::try_open(&server, "/bullboard", headers).await.err().expect("refused");
        assert_eq!(reply.status, 503, "{reply:?}");
        assert!(reply.header("retry-after").is_some(), "{reply:?}");
        assert_eq!(get(&server, "/bullboard", headers).await.status, 503);
    }
    database.run("ALTER TABLE sessions_away RENAME TO sessions").await;
    assert!(Dashboard::try_open(&server, "/bullboard", &[("Cookie", &good), OWN_PAGE]).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_is_for_who_may_look_and_tells_others_where_to_log_in() {
    let server = Server::start().await;
    let admin = server.admin().await;
    let good = cookie(&server, &admin).await;
    let html = ("Accept", "text/html,application/xhtml+xml");
    let refused = get(&server, "/bullboard", &[html]).await;
    assert_eq!(refused.status, 401);
    assert!(String::from_utf8_lossy(&refused.body).contains("href=\"/\""), "{refused:?}");
    let program = get(&server, "/bullboard", &[]).await;
    assert_eq!((program.status, program.json()), (401, json!({"error": "Authentication required"})));
    let page = get(&server, "/bullboard", &[("Cookie", &good), html]).await;
    assert_eq!(page.status, 200);
    let login = get(&server, "/", &[html]).await;
    assert_eq!(login.status, 200);
    for (what, reply) in [("refused", &refused), ("page", &page), ("login", &login)] {
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"), "{what}");
        let policy = reply.header("content-security-policy").unwrap();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{what}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{what}: {policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{what}");
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"), "{what}");
    }
    assert_eq!(page.header("cache-control"), Some("no-store"));
    // The files of the pages are everybody's, and come once.
    for file in ["/console/login.js", "/console/dashboard.js", "/console/style.css", "/console/icon.svg"] {
        let first = get(&server, file, &[]).await;
        let tag = first.header("etag").unwrap();
        assert!(first.status == 200 && !first.body.is_empty(), "{file}");
        let again = get(&server, file, &[("If-None-Match", tag)]).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{file}");
    }
    assert_eq!(get(&server, "/console/none.js", &[]).await.status, 404);
    assert!(!String::from_utf8_lossy(&page.body).contains(PASSWORD));
}
