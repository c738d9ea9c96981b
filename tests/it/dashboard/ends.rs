//! When a dashboard's socket ends: with what it was opened with, and with the server.

use std::time::Duration;

use serde_json::json;
use tests::{admin::Admin, raw::PATIENCE};
use tokio::time::timeout;

use super::peer::{Dashboard, cookie, get};
use crate::{
    cli::{patchbay, patchbay_with},
    database::Database,
    harness::Server,
};

/// What is taken away is gone within this: a second, and what a busy machine adds.
const AT_ONCE: Duration = Duration::from_secs(5);
const ENDED: Option<u16> = Some(4401);

async fn user(server: &Server, name: &str) -> Admin {
    let args = ["user", "add", name, "--role", "readonly", "--password-stdin"];
    assert_eq!(patchbay_with(server, &args, "watching-all-day").await.code, Some(0));
    Admin::login(&server.url(), name, "watching-all-day").await.unwrap()
}

/// One by its cookie, one by its token, both shown something.
async fn both(server: &Server, client: &Admin) -> [Dashboard; 2] {
    let cookie = cookie(server, client).await;
    let mut both = [Dashboard::open_by_cookie(server, &cookie).await, Dashboard::open(server, client).await];
    for dashboard in &mut both {
        dashboard.shown().await;
    }
    both
}

async fn closed(dashboards: [Dashboard; 2], patience: Duration) {
    for mut dashboard in dashboards {
        let code = timeout(patience, async {
            loop {
                // Snapshots come every few seconds; a read that waits longer than the wire's own patience is no end.
                let frame = dashboard.0.frame_answering_pings().await.unwrap();
                if frame.first == tests::raw::CLOSE {
                    return frame.close_code();
                }
            }
        });
        assert_eq!(code.await.expect("the socket is still open"), ENDED);
        assert!(dashboard.0.ended(PATIENCE).await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_ends_its_sockets_at_once_and_no_others() {
    let server = Server::start().await;
    let (ann, bob) = (user(&server, "ann").await, user(&server, "bob").await);
    let anns_other = Admin::login(&server.url(), "ann", "watching-all-day").await.unwrap();
    let leaving = both(&server, &ann).await;
    let other = both(&server, &anns_other).await;
    let mut beside = both(&server, &bob).await;

    assert_eq!(ann.post("/auth/logout", &json!({})).await.unwrap().status, 200);
    closed(leaving, AT_ONCE).await;
    assert_eq!(patchbay(&server, &["user", "passwd", "ann"]).await.code, Some(0));
    closed(other, AT_ONCE).await;
    for dashboard in &mut beside {
        dashboard.shown().await;
    }
}

/// Nobody tells of it: the store is asked again once a minute.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_told_of_is_found_within_a_minute() {
    let server = Server::start().await;
    let (ann, bob) = (user(&server, "ann").await, user(&server, "bob").await);
    let (disabled, demoted) = (both(&server, &ann).await, both(&server, &bob).await);
    let mut database = Database::open(&server).await;
    database.run("UPDATE users SET active = 0 WHERE username = 'ann'").await;
    database.run("UPDATE users SET role = 'nothing' WHERE username = 'bob'").await;
    let patience = Duration::from_secs(90);
    tokio::join!(closed(disabled, patience), closed(demoted, patience));
}

#[tokio::test(flavor = "multi_thread")]
async fn its_hour_ends_it() {
    let mut server = Server::start().await;
    let admin = server.admin().await;
    let cookie = cookie(&server, &admin).await;
    // Some seconds before its hour is over.
    let mut database = Database::open(&server).await;
    database.run("UPDATE dashboard_sessions SET expires_at = expires_at - 3600000 + 6000").await;
    let mut dashboard = Dashboard::open_by_cookie(&server, &cookie).await;
    dashboard.shown().await;
    assert_eq!(dashboard.closed().await, ENDED);
    assert_eq!(get(&server, "/bullboard", &[("Cookie", &cookie)]).await.status, 401);
    assert_eq!(admin.get("/auth/me").await.unwrap().status, 200, "the login lives on");
    assert!(server.stop(PATIENCE).await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_says_so() {
    let mut server = Server::start().await;
    let admin = server.admin().await;
    let mut dashboards = both(&server, &admin).await;
    server.terminate();
    for dashboard in &mut dashboards {
        assert_eq!(dashboard.closed().await, Some(1001));
    }
    drop(dashboards);
    assert!(server.wait_exit(PATIENCE).await.success());
}
