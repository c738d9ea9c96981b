//! The store away: 503, never 401, and everything as before once it is back.

use serde_json::json;
use tests::{
    admin::Admin,
    raw::{self, Wire},
};

use super::{assert_refused, assert_says_when, http_ping, knock, knock_as, status};
use crate::{
    database::Database,
    harness::{PASSWORD, Server},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_503_and_never_401() {
    let server = Server::start().await;
    let (admin, target) = (server.admin().await, server.target());
    let hosts = server.add_hosts("host", 3).await;
    let mut connected = Wire::agent(&target, &hosts[0]).await.unwrap();
    let mut database = Database::open(&server).await;
    // Reads and writes of hosts and users fail from here on.
    database.run("ALTER TABLE hosts RENAME TO hosts_away; ALTER TABLE users RENAME TO users_away").await;

    for (what, id, key) in [
        ("a known host", hosts[1].api_id.as_str(), hosts[1].api_key.as_str()),
        ("a wrong key", &hosts[1].api_id, "wrong"),
        ("an unknown id", "patchmon_nobody", "wrong"),
    ] {
        let reply = knock(&target, id, key).await;
        assert_refused(&reply, 503, "The store is unavailable", what);
        assert_says_when(&reply);
    }
    // What needs no store still answers what it always did.
    assert_refused(&knock(&target, "", "").await, 401, "Missing or invalid credentials", "no credentials");
    assert_refused(&knock(&target, "a.b", "x").await, 401, "Invalid credentials", "an id that cannot be");
    let mut wire = Wire::dial(&target, None).await.unwrap();
    let reply = http_ping(&mut wire, raw::credentials(&hosts[1])).await;
    assert_eq!(reply.status, 503, "{reply:?}");
    assert_says_when(&reply);
    let nobody = Admin::new(&server.url()).unwrap();
    for path in ["/auth/login", "/hosts"] {
        let body = json!({"username": "admin", "password": PASSWORD, "name": "x"});
        let client = if path == "/hosts" { &admin } else { &nobody };
        let response = client.request(reqwest::Method::POST, path).json(&body).send().await.unwrap();
        assert_eq!(response.status(), 503, "{path}");
        assert!(response.headers().contains_key("retry-after"), "{path}");
        assert!(response.text().await.unwrap().contains("\"error\""), "{path}");
    }
    // A socket that is there stays, and the process is as ready as it was.
    connected.ping(b"undisturbed").await.unwrap();
    assert_eq!(tests::internal::readyz(&server.internal_url()).await.unwrap(), 200);

    database.run("ALTER TABLE hosts_away RENAME TO hosts; ALTER TABLE users_away RENAME TO users").await;
    Wire::agent(&target, &hosts[1]).await.unwrap().ping(b"as before").await.unwrap();
    assert_refused(&knock(&target, &hosts[2].api_id, "wrong").await, 401, "Invalid credentials", "as before");
    assert_eq!(knock_as(&target, &hosts[2]).await.status, 101);
    assert_eq!(server.admin().await.get("/auth/me").await.unwrap().status, 200);
    connected.ping(b"still the same").await.unwrap();
    assert_eq!(status(&admin, &hosts[0].api_id).await["connected"], true);
}
