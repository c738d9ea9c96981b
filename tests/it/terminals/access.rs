//! The way in: tickets, tokens, cookies, and everything that is refused before the 101 (protocol 2.1, 2.2).

use serde_json::json;
use tests::{
    admin::Admin,
    terminal::{Access, Rejected, Terminal},
};

use super::scene::{Scene, report, ticket};
use crate::{cli::patchbay_with, database::Database, harness::Server};

async fn server_with_host(env: &[(&str, &str)]) -> (Server, Admin, String) {
    let server = Server::start_with(env).await;
    let admin = server.admin().await;
    let host = admin.add_host("web-1").await.unwrap();
    report(&server, &host, "192.0.2.1").await;
    (server, admin, host.id)
}

async fn refused(server: &Server, host: &str, access: Access<'_>) -> (u16, String) {
    refused_with(server, host, access, &[]).await
}

async fn refused_with(server: &Server, host: &str, access: Access<'_>, more: &[(&str, &str)]) -> (u16, String) {
    match Terminal::open_with(&server.target(), host, access, more).await {
        Ok(_) => panic!("it was let in"),
        Err(Rejected { status, body }) => (status, body),
    }
}

fn error(text: &str) -> String {
    json!({ "error": text }).to_string()
}

async fn user(server: &Server, name: &str, role: &str) -> Admin {
    let password = "typing-all-day-long";
    let ran = patchbay_with(server, &["user", "add", name, "--role", role, "--password-stdin"], password).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    Admin::login(&server.url(), name, password).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_for_users_who_may_and_hosts_that_are() {
    let (server, admin, host) = server_with_host(&[]).await;
    let ask = async |client: &Admin, body: serde_json::Value| {
        let answer = client.post("/auth/ssh-ticket", &body).await.unwrap();
        (answer.status.as_u16(), answer.body)
    };
    let (status, body) = ask(&admin, json!({"hostId": host})).await;
    assert_eq!((status, &body["expiresIn"]), (200, &json!(30)));
    let ticket = body["ticket"].as_str().unwrap();
    assert!(ticket.len() == 64 && ticket.bytes().all(|b| b.is_ascii_hexdigit()));
    assert_eq!(ask(&admin, json!({})).await, (400, json!({"error": "Host ID is required"})));
    assert_eq!(ask(&admin, json!({"hostId": ""})).await, (400, json!({"error": "Host ID is required"})));
    for none in ["web-1", "00000000-0000-0000-0000-000000000000"] {
        assert_eq!(ask(&admin, json!({"hostId": none})).await, (404, json!({"error": "Host not found"})));
    }
    let nobody = Admin::new(&server.url()).unwrap();
    assert_eq!(ask(&nobody, json!({"hostId": host})).await.0, 401);
    assert_eq!(ask(&user(&server, "ann", "readonly").await, json!({"hostId": host})).await.0, 403);
    let denied = admin.get("/audit?event=ssh_terminal_access_denied").await.unwrap().ok().unwrap();
    assert_eq!(denied["items"][0]["username"], "ann", "{denied}");
    assert_eq!(denied["items"][0]["reason"], "the role lacks can_use_remote_access");
    assert_eq!(ask(&user(&server, "bob", "host_manager").await, json!({"hostId": host})).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_hears_why_before_the_101() {
    let (server, admin, host) = server_with_host(&[]).await;
    let other = admin.add_host("web-2").await.unwrap().id;
    let token = admin.token().unwrap().to_owned();
    let bad_ticket = (401, error("Invalid or expired ticket"));
    assert_eq!(refused(&server, &host, Access::Nobody).await, (401, error("Authentication required")));
    assert_eq!(refused(&server, &host, Access::Ticket("x")).await, bad_ticket);
    assert_eq!(refused(&server, &host, Access::Ticket(&"0".repeat(64))).await, bad_ticket);
    let for_other = ticket(&admin, &other).await;
    assert_eq!(refused(&server, &host, Access::Ticket(&for_other)).await, bad_ticket, "for another host");
    assert!(
        Terminal::open(&server.target(), &other, Access::Ticket(&for_other)).await.is_ok(),
        "which used nothing up"
    );
    assert_eq!(refused(&server, &other, Access::Ticket(&for_other)).await, bad_ticket, "used");
    assert_eq!(refused(&server, &host, Access::Bearer("x.y.z")).await, (401, error("Invalid or expired token")));
    let nowhere = "00000000-0000-0000-0000-000000000000";
    assert_eq!(refused(&server, nowhere, Access::Bearer(&token)).await, (404, error("Host not found")));
    assert_eq!(refused(&server, "web-1", Access::Bearer(&token)).await, (404, error("Host not found")));
    assert_eq!(refused(&server, "", Access::Bearer(&token)).await, (400, error("Host ID required")));
    // The legacy way is closed unless it was opened.
    assert_eq!(refused(&server, &host, Access::TokenQuery(&token)).await, (401, error("Authentication required")));
    assert!(Terminal::open(&server.target(), &host, Access::Bearer(&token)).await.is_ok());
    assert_eq!(admin.post("/auth/logout", &json!({})).await.unwrap().status, 200);
    assert_eq!(refused(&server, &host, Access::Bearer(&token)).await, (401, error("Invalid or expired session")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_counts_on_a_page_of_ours_alone() {
    let (server, admin, host) = server_with_host(&[("PATCHBAY_ALLOWED_ORIGINS", "https://ours.example")]).await;
    let token = admin.token().unwrap().to_owned();
    let foreign = (403, error("CORS policy violation"));
    for origin in [None, Some("https://theirs.example"), Some("null")] {
        assert_eq!(refused(&server, &host, Access::Cookie { token: &token, origin }).await, foreign, "{origin:?}");
    }
    let ours = Access::Cookie { token: &token, origin: Some("https://ours.example") };
    assert!(Terminal::open(&server.target(), &host, ours).await.is_ok());
    // Nor does a foreign page open one with what it could have stolen.
    let origin = [("Origin", "https://theirs.example")];
    assert_eq!(refused_with(&server, &host, Access::Bearer(&token), &origin).await, foreign);
    let ticket = ticket(&admin, &host).await;
    assert_eq!(refused_with(&server, &host, Access::Ticket(&ticket), &origin).await, foreign);
    let denied = admin.get("/audit?event=ssh_terminal_access_denied").await.unwrap().ok().unwrap();
    let denied = denied["items"].as_array().unwrap();
    assert_eq!(denied.len(), 5);
    assert!(denied.iter().all(|entry| entry["username"] == "admin" && entry["host_name"] == "web-1"), "{denied:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_refused_and_written_down() {
    let (server, admin, host) = server_with_host(&[("PATCHBAY_TRUSTED_PROXIES", "127.0.0.0/8")]).await;
    let ann = user(&server, "ann", "readonly").await;
    let behind = [("X-Forwarded-For", "198.51.100.7")];
    let answer = refused_with(&server, &host, Access::Bearer(ann.token().unwrap()), &behind).await;
    assert_eq!(answer, (403, error("Access denied")));
    let read = admin.get("/audit?event=ssh_terminal_access_denied").await.unwrap().ok().unwrap();
    let entry = &read["items"][0];
    assert_eq!((&entry["username"], &entry["address"]), (&json!("ann"), &json!("198.51.100.7")), "{entry}");
    assert_eq!(entry["reason"], "the role may not use remote access");
    let bob = user(&server, "bob", "host_manager").await;
    let open = Terminal::open_with(&server.target(), &host, Access::Bearer(bob.token().unwrap()), &behind).await;
    assert!(open.is_ok(), "can_manage_hosts brings it");
    let granted = admin.get("/audit?event=ssh_terminal_access_granted").await.unwrap().ok().unwrap();
    assert_eq!((&granted["items"][0]["username"], &granted["items"][0]["host_id"]), (&json!("bob"), &json!(host)));
    assert_eq!(ann.get("/audit").await.unwrap().status, 403);
    assert_eq!(bob.get("/audit").await.unwrap().status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_legacy_token_works_where_it_is_allowed_and_is_never_logged() {
    let env = [("PATCHBAY_ALLOW_TOKEN_QUERY", "true"), ("RUST_LOG", "debug,sqlx=info,hyper=info,russh=info")];
    let (server, admin, host) = server_with_host(&env).await;
    let token = admin.token().unwrap().to_owned();
    let ticket = ticket(&admin, &host).await;
    assert!(Terminal::open(&server.target(), &host, Access::TokenQuery(&token)).await.is_ok());
    assert!(Terminal::open(&server.target(), &host, Access::Ticket(&ticket)).await.is_ok());
    refused(&server, &host, Access::TokenQuery("x.y.z")).await;
    for line in server.logs() {
        assert!(!line.contains(&token) && !line.contains(&ticket), "a secret in the log: {line}");
    }
    // Nor in the store as it is.
    let mut database = Database::open(&server).await;
    let again = self::ticket(&admin, &host).await;
    let plain = format!("SELECT COUNT(*) FROM tickets WHERE digest = '{again}'");
    assert_eq!(database.number(&plain).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_that_bring_one_ticket_one_gets_in() {
    let scene = Scene::new().await;
    let ticket = scene.ticket().await;
    let target = scene.server.target();
    let attempts = (0..100).map(|_| Terminal::open(&target, &scene.host.id, Access::Ticket(&ticket)));
    let all = futures_util::future::join_all(attempts).await;
    let (open, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!((open.len(), refused.len()), (1, 99));
    for rejected in refused.into_iter().filter_map(Result::err) {
        assert_eq!((rejected.status, rejected.body), (401, error("Invalid or expired ticket")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_on_two_gateways_one_gets_in() {
    let mut server = Server::spread_out(&[]);
    server.restart().await;
    let second = server.second_gateway().await;
    let admin = server.admin().await;
    let host = admin.add_host("web-1").await.unwrap().id;
    let ticket = ticket(&admin, &host).await;
    let targets = [server.target(), second.target()];
    let attempts = (0..100).map(|n| Terminal::open(&targets[n % 2], &host, Access::Ticket(&ticket)));
    let all = futures_util::future::join_all(attempts).await;
    assert_eq!(all.iter().filter(|open| open.is_ok()).count(), 1);
    for rejected in all.into_iter().filter_map(Result::err) {
        assert_eq!((rejected.status, rejected.body), (401, error("Invalid or expired ticket")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_holds_so_many_terminals_and_no_more() {
    let (server, admin, host) = server_with_host(&[("PATCHBAY_TERMINALS_MAX", "2")]).await;
    let token = admin.token().unwrap().to_owned();
    let open = async || Terminal::open(&server.target(), &host, Access::Bearer(&token)).await;
    let (_first, second) = (open().await.unwrap(), open().await.unwrap());
    let kept = ticket(&admin, &host).await;
    let (status, body) = refused(&server, &host, Access::Ticket(&kept)).await;
    assert_eq!((status, body), (503, error("Too many terminals are open on this gateway")));
    second.close().await;
    assert!(Terminal::open(&server.target(), &host, Access::Ticket(&kept)).await.is_ok(), "the ticket was not used up");
}
