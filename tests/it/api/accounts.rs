//! What is changed of a user counts at the next request.

use std::time::Duration;

use serde_json::json;

use super::{assert_secrets_kept, password_of, start, stranger, token, user};
use crate::{
    cli::{patchbay, patchbay_with},
    database::Database,
};

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_read_at_each_request() {
    let server = start(&[]).await;
    let ann = user(&server, "ann", "host_manager").await;
    let mut database = Database::open(&server).await;
    let names = |n: u32| json!({"name": format!("host-{n}")});
    assert_eq!(ann.post("/hosts", &names(1)).await.unwrap().status, 201);
    // Another role.
    database.run("UPDATE users SET role = 'readonly' WHERE username = 'ann'").await;
    assert_eq!(ann.post("/hosts", &names(2)).await.unwrap().status, 403);
    assert_eq!(ann.get("/hosts").await.unwrap().status, 200);
    // Another idea of that role.
    database.run("DELETE FROM roles WHERE name = 'readonly' AND permission = 'can_view_hosts'").await;
    assert_eq!(ann.get("/hosts").await.unwrap().status, 403);
    // No such role at all: nothing, but oneself.
    database.run("UPDATE users SET role = 'gone' WHERE username = 'ann'").await;
    assert_eq!(ann.get("/commands").await.unwrap().status, 403);
    assert_eq!(ann.get("/auth/me").await.unwrap().status, 200);
    // No such user any more.
    database.run("UPDATE users SET active = 0 WHERE username = 'ann'").await;
    let answer = ann.get("/auth/me").await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body["reason"]), (401, &"User inactive".into()));
    let body = json!({"username": "ann", "password": password_of("ann")});
    assert_eq!(stranger(&server).post("/auth/login", &body).await.unwrap().status, 401);
    assert_secrets_kept(&server, &[token(&ann)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_ends_all_sessions_of_its_user() {
    let server = start(&[]).await;
    let ann = user(&server, "ann", "readonly").await;
    let again = super::login(&server, "ann").await;
    let bob = user(&server, "bob", "readonly").await;
    let mut stream = ann.request(reqwest::Method::GET, "/events").send().await.unwrap();
    assert_eq!(stream.status(), 200);

    let made = patchbay(&server, &["user", "passwd", "Ann", "--json"]).await.json();
    let password = made["password"].as_str().unwrap();
    for client in [&ann, &again] {
        let answer = client.get("/auth/me").await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body["reason"]), (401, &"Session revoked".into()), "{answer:?}");
    }
    assert_eq!(bob.get("/auth/me").await.unwrap().status, 200);
    // Live streams end too.
    let ended = async { while stream.chunk().await.is_ok_and(|chunk| chunk.is_some()) {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("the stream goes on");

    let old = json!({"username": "ann", "password": password_of("ann")});
    assert_eq!(stranger(&server).post("/auth/login", &old).await.unwrap().status, 401);
    let new = json!({"username": "ann", "password": password});
    assert_eq!(stranger(&server).post("/auth/login", &new).await.unwrap().status, 200);
    let chosen = "a-password-of-her-own";
    let ran = patchbay_with(&server, &["user", "passwd", "ann", "--password-stdin"], chosen).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(!ran.out.contains(chosen), "it is known already: {ran:?}");
    let own = json!({"username": "ann", "password": chosen});
    assert_eq!(stranger(&server).post("/auth/login", &own).await.unwrap().status, 200);
    let unknown = patchbay(&server, &["user", "passwd", "nobody"]).await;
    assert!(unknown.refusal().contains("nobody"), "{unknown:?}");
    assert_secrets_kept(&server, &[token(&ann), token(&bob), password, chosen]);
}
