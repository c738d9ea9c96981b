//! Sessions and their tokens: how they begin, what they carry, how they end.

use serde_json::{Value, json};
use tests::admin::Admin;

use super::{add_user, assert_secrets_kept, login, password_of, start, stranger, token};
use crate::harness::{PASSWORD, Server};

/// `GET /auth/me` with a token that may be none.
async fn me(server: &Server, token: &str) -> (u16, Value) {
    let request = stranger(server).request(reqwest::Method::GET, "/auth/me").bearer_auth(token);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_with_a_login_and_ends_with_its_logout() {
    let server = start(&[]).await;
    let credentials = json!({"username": " ADMIN ", "password": PASSWORD});
    let request = stranger(&server).request(reqwest::Method::POST, "/auth/login").json(&credentials);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    let body: Value = response.json().await.unwrap();
    let token = body["token"].as_str().unwrap().to_owned();
    assert!(cookie.starts_with(&format!("token={token}; ")), "another token in the cookie");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(part), "{part} is missing: {cookie}");
    }
    assert!(!cookie.contains("Secure"), "it could not come back: {cookie}");
    assert_eq!((&body["user"]["username"], &body["user"]["role"]), (&"admin".into(), &"superadmin".into()));
    assert!(body["user"]["permissions"].as_array().unwrap().contains(&"can_manage_superusers".into()), "{body}");
    assert!(body["user"].get("password_hash").is_none());

    let (status, shown) = me(&server, &token).await;
    assert_eq!((status, &shown["user"]["id"]), (200, &body["user"]["id"]), "{shown}");
    assert!(shown["session_expires_at"].is_string(), "{shown}");
    // The cookie is as good, and another header's scheme does not hide it.
    for authorization in [None, Some("Basic dTpw")] {
        let mut request =
            stranger(&server).request(reqwest::Method::GET, "/auth/me").header("cookie", format!("a=b; token={token}"));
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        assert_eq!(request.send().await.unwrap().status(), 200, "{authorization:?}");
    }
    // For browsers the token stays out of reach of scripts.
    let only = json!({"username": "admin", "password": PASSWORD, "cookie_only": true});
    let answer = stranger(&server).post("/auth/login", &only).await.unwrap().ok().unwrap();
    assert!(answer.get("token").is_none() && answer["user"].is_object(), "{answer}");

    let request = stranger(&server).request(reqwest::Method::POST, "/auth/logout").bearer_auth(&token);
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let removed = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(removed.starts_with("token=;") && removed.contains("Max-Age=0"), "{removed}");
    let (status, body) = me(&server, &token).await;
    assert_eq!((status, &body["reason"]), (401, &"Session revoked".into()), "{body}");
    assert_secrets_kept(&server, &[&token]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_none_are_refused() {
    let server = start(&[]).await;
    let other = start(&[]).await;
    let admin = server.admin().await;
    let good = token(&admin);
    let [head, claims, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("no JWT") };
    let foreign = other.admin().await;
    // {"alg":"none","typ":"JWT"} and {"alg":"HS512","typ":"JWT"}
    let (none, hs512) = ("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0", "eyJhbGciOiJIUzUxMiIsInR5cCI6IkpXVCJ9");
    let first = if signature.starts_with('A') { "B" } else { "A" };
    for (what, bad, error) in [
        ("nothing", String::new(), "Access token required"),
        ("a word", "true".to_owned(), "Invalid token"),
        ("no signature", format!("{none}.{claims}."), "Invalid token"),
        ("no algorithm", format!("{none}.{claims}.{signature}"), "Invalid token"),
        ("another algorithm", format!("{hs512}.{claims}.{signature}"), "Invalid token"),
        ("another signature", format!("{head}.{claims}.{first}{}", &signature[1..]), "Invalid token"),
        ("another server's", token(&foreign).to_owned(), "Invalid token"),
        ("a session's id", "0194d0d8-0000-7000-8000-000000000001".to_owned(), "Invalid token"),
    ] {
        let (status, body) = me(&server, &bad).await;
        assert_eq!((status, &body["error"]), (401, &error.into()), "{what}: {body}");
    }
    let answer = stranger(&server).get("/auth/me").await.unwrap();
    assert_eq!((answer.status.as_u16(), &answer.body["error"]), (401, &"Access token required".into()));
    // In a URL it is worth nothing: URLs are logged.
    let answer = stranger(&server).get(&format!("/auth/me?token={good}")).await.unwrap();
    assert_eq!(answer.status, 401);
    assert_eq!(me(&server, good).await.0, 200);
    assert_secrets_kept(&server, &[signature]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_the_server_but_not_its_time() {
    let mut server = start(&[]).await;
    let admin = server.admin().await;
    let minutes = |n: u64| (n * 60_000).to_string();
    server.stop(std::time::Duration::from_secs(20)).await;
    server.restart().await;
    assert_eq!(me(&server, token(&admin)).await.0, 200, "after a restart");
    for (ahead, error) in
        [(minutes(31), "Session timed out after 30 minutes of inactivity"), (minutes(13 * 60), "Token expired")]
    {
        server.kill();
        server.set_env("PATCHBAY_TEST_CLOCK_AHEAD_MS", Some(&ahead));
        server.restart().await;
        let (status, body) = me(&server, token(&admin)).await;
        assert_eq!((status, &body["error"]), (401, &error.into()), "{body}");
    }
    // A new secret logs everybody out.
    let fresh = server.admin().await;
    server.kill();
    server.set_env("PATCHBAY_SECRET", Some("another-secret-of-thirty-two-bytes-or-more"));
    server.restart().await;
    assert_eq!(me(&server, token(&fresh)).await.1["error"], "Invalid token");
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_logins_are_alike_and_limited_by_address() {
    let server = start(&[("PATCHBAY_LOGIN_FAILURES_PER_MIN", "4")]).await;
    add_user(&server, "ann", "user").await;
    let attempt = |username: &str, password: &str| {
        let body = json!({"username": username, "password": password});
        let stranger = stranger(&server);
        async move { stranger.post("/auth/login", &body).await.unwrap() }
    };
    // What is right does not count.
    for _ in 0..6 {
        login(&server, "ann").await;
    }
    let wrong = attempt("ann", "a wrong password").await;
    let unknown = attempt("nobody", "a wrong password").await;
    let long = attempt("ann", &format!("{}{}", password_of("ann"), "x".repeat(100))).await;
    assert_eq!((wrong.status.as_u16(), &wrong.body["error"]), (401, &"Invalid credentials".into()));
    assert_eq!(wrong, unknown);
    assert_eq!(wrong, long);
    // What cannot be a login is no failure.
    let malformed = stranger(&server).post("/auth/login", &json!({"username": "ann"})).await.unwrap();
    assert_eq!(malformed.status, 400);
    assert_eq!(attempt("ann", "").await.status, 401);
    let limited = attempt("ann", &password_of("ann")).await;
    assert_eq!(limited.status, 429, "{limited:?}");
    assert!(limited.body["retryAfter"].as_u64().is_some_and(|secs| secs > 0), "{limited:?}");
    // From elsewhere one gets in.
    let elsewhere =
        reqwest::Client::builder().local_address("127.5.5.9".parse::<std::net::IpAddr>().unwrap()).no_proxy();
    let body = json!({"username": "ann", "password": password_of("ann")});
    let url = format!("{}/api/v1/auth/login", server.url());
    let response = elsewhere.build().unwrap().post(url).json(&body).send().await.unwrap();
    assert_eq!(response.status(), 200);
    // Nobody's names or guesses are kept either: people type passwords into the wrong field.
    assert_secrets_kept(&server, &["a wrong password"]);
    let admin = Admin::new(&server.url()).unwrap();
    assert_eq!(admin.get("/auth/me").await.unwrap().status, 401);
}
