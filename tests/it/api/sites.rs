//! Requests that pages of other sites send: a cookie alone moves nothing.

use serde_json::json;

use super::{assert_secrets_kept, start, stranger, token};
use crate::harness::{PASSWORD, Server};

/// Adds a host with these headers, and gives the status.
async fn add(server: &Server, name: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = stranger(server).request(reqwest::Method::POST, "/hosts").json(&json!({"name": name}));
    for (header, value) in headers {
        request = request.header(*header, *value);
    }
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_changes_something_only_from_a_page_of_ours() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let cookie = format!("token={}", token(&admin));
    let bearer = format!("Bearer {}", token(&admin));
    let own = server.url();
    let other_port = own.replace(":3001", ":3002");
    let with_cookie = ("cookie", cookie.as_str());
    let with_bearer = ("authorization", bearer.as_str());
    let cases = [
        ("no-origin", vec![with_cookie], 403),
        ("foreign", vec![with_cookie, ("origin", "https://evil.example")], 403),
        ("null", vec![with_cookie, ("origin", "null")], 403),
        ("port", vec![with_cookie, ("origin", &other_port)], 403),
        ("cross-site", vec![with_cookie, ("sec-fetch-site", "cross-site")], 403),
        ("same-site", vec![with_cookie, ("sec-fetch-site", "same-site")], 403),
        ("own", vec![with_cookie, ("origin", &own)], 201),
        ("same-origin", vec![with_cookie, ("sec-fetch-site", "same-origin")], 201),
        ("bearer", vec![with_bearer], 201),
        ("bearer-from-afar", vec![with_bearer, ("origin", "https://evil.example")], 201),
        ("both", vec![with_bearer, with_cookie], 201),
        ("bad-bearer", vec![("authorization", "Bearer x"), with_cookie, ("origin", &own)], 401),
        // Any cookie is no session.
        ("any-cookie", vec![("cookie", "token=1"), ("origin", &own)], 401),
        ("other-cookie", vec![("cookie", "session=1"), ("origin", &own)], 401),
    ];
    for (name, headers, expected) in &cases {
        let (status, body) = add(&server, name, headers).await;
        assert_eq!(status, *expected, "{name}: {body}");
        if *expected == 403 {
            assert!(body.contains("CORS policy violation"), "{name}: {body}");
        }
    }
    let made = cases.iter().filter(|(.., status)| *status == 201).count();
    let listed = admin.get("/hosts").await.unwrap().ok().unwrap();
    assert_eq!(listed["items"].as_array().unwrap().len(), made, "{listed}");
    // Reading moves nothing.
    let read = stranger(&server).request(reqwest::Method::GET, "/hosts").header("cookie", &cookie);
    assert_eq!(read.send().await.unwrap().status(), 200);
    // No page is told that it may read our answers.
    let foreign =
        stranger(&server).request(reqwest::Method::OPTIONS, "/hosts").header("origin", "https://evil.example");
    let response = foreign.header("access-control-request-method", "POST").send().await.unwrap();
    assert!(!response.status().is_success(), "{response:?}");
    assert!(!response.headers().contains_key("access-control-allow-origin"), "{response:?}");
    // A foreign page cannot log its visitor in as somebody else, nor out.
    let login = stranger(&server).request(reqwest::Method::POST, "/auth/login");
    let login =
        login.header("origin", "https://evil.example").json(&json!({"username": "admin", "password": PASSWORD}));
    assert_eq!(login.send().await.unwrap().status(), 403);
    let logout = stranger(&server).request(reqwest::Method::POST, "/auth/logout").header("cookie", &cookie);
    assert_eq!(logout.send().await.unwrap().status(), 403);
    assert_eq!(admin.get("/auth/me").await.unwrap().status, 200);
    assert_secrets_kept(&server, &[token(&admin)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_origins_are_configured_they_are_the_only_ones() {
    let server = start(&[
        ("PATCHBAY_PUBLIC_URL", "https://patchbay.example/console"),
        ("PATCHBAY_ALLOWED_ORIGINS", "http://localhost:5173"),
    ])
    .await;
    let admin = server.admin().await;
    let cookie = format!("token={}", token(&admin));
    let own = server.url();
    for (name, origin, expected) in [
        ("public", "https://patchbay.example", 201),
        ("allowed", "http://localhost:5173", 201),
        ("host", own.as_str(), 403),
        ("plain", "http://patchbay.example", 403),
        ("longer", "https://patchbay.example.evil.example", 403),
    ] {
        let (status, body) = add(&server, name, &[("cookie", &cookie), ("origin", origin)]).await;
        assert_eq!(status, expected, "{name}: {body}");
    }
}
