//! Every route, every role.

use std::collections::BTreeSet;

use gateway::api::{route::Access, routes::table};
use reqwest::Method;
use store::{
    Permission::{
        self, ManageCompliance, ManageHosts, ManageSettings, ManageSuperusers, ManageUsers, ViewHosts, ViewReports,
    },
    Role,
};
use tests::admin::Admin;

use super::{assert_secrets_kept, start, stranger, token, user};
use crate::harness::Server;

const NOBODY: &str = "0194d0d8-0000-7000-8000-000000000099";

/// What each may beside looking (protocol 4.1), of what routes ask for.
const SEEDED: [(&str, &[Permission]); 5] = [
    ("superadmin", &[ManageHosts, ManageCompliance, ManageUsers, ManageSettings, ManageSuperusers]),
    ("admin", &[ManageHosts, ManageCompliance, ManageUsers, ManageSettings]),
    ("host_manager", &[ManageHosts, ManageCompliance]),
    ("user", &[]),
    ("readonly", &[]),
];
const LOOKING: [Permission; 2] = [ViewHosts, ViewReports];

/// As a client asks for it that puts `/api/v1` before everything.
fn path(pattern: &str) -> String {
    let path =
        pattern.replace("{id}", NOBODY).replace("{api_id}", "patchmon_nobody").replace("{queue}", "agent-commands");
    assert!(!path.contains('{'), "{pattern} has a parameter that this test does not know");
    path.strip_prefix("/api/v1").map_or_else(|| format!("/../..{path}"), str::to_owned)
}

/// Everybody who may ask, and nobody.
async fn clients(server: &Server) -> Vec<(Option<Role>, Admin)> {
    let mut clients = vec![(None, stranger(server))];
    for (name, may) in SEEDED {
        let client = user(server, &format!("a-{name}"), name).await;
        let told = client.get("/auth/me").await.unwrap().ok().unwrap();
        let told: Vec<_> =
            told["user"]["permissions"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
        for asked in [LOOKING.as_slice(), SEEDED[0].1].concat() {
            let expected = LOOKING.contains(&asked) || may.contains(&asked);
            assert_eq!(told.contains(&asked.name()), expected, "{name} {}", asked.name());
        }
        let permissions = told.into_iter().filter_map(Permission::of_name).collect();
        clients.push((Some(Role { name: name.to_owned(), permissions }), client));
    }
    clients
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_lets_in_exactly_who_the_table_says() {
    let server = start(&[]).await;
    let clients = clients(&server).await;
    let mut routes: Vec<_> = table().iter().collect();
    // The last one ends the sessions.
    routes.sort_by_key(|route| route.path.ends_with("/auth/logout"));
    let mut wrong = Vec::new();
    for route in routes {
        for (role, client) in &clients {
            let expected = match (route.access, role) {
                (Access::Public, _) => None,
                (_, None) => Some(401),
                (access, Some(role)) => access.lacks(role).map(|_| 403),
            };
            let method: Method = route.verb.name().parse().unwrap();
            let mut request = client.request(method, &path(route.path));
            if route.verb.is_unsafe() {
                request = request.header("content-type", "application/json").body("{}");
            }
            let status = request.send().await.unwrap().status().as_u16();
            let right = match expected {
                Some(refused) => status == refused,
                None => !matches!(status, 401 | 403 | 500..),
            };
            if !right {
                let who = role.as_ref().map_or("nobody", |role| &role.name);
                wrong.push(format!("{} {} as {who}: {status}, not {expected:?}", route.verb.name(), route.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let secrets: Vec<_> = clients.iter().filter_map(|(_, client)| client.token()).collect();
    assert_secrets_kept(&server, &secrets);
}

/// By hand, so that a table that says something silly does not pass.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_look_changes_nothing() {
    let server = start(&[]).await;
    let admin = server.admin().await;
    let host = admin.add_host("host").await.unwrap();
    let reader = user(&server, "ann", "readonly").await;
    let manager = user(&server, "bob", "host_manager").await;
    let command = serde_json::json!({"kind": "report_now", "host_ids": [host.id]});
    let one = format!("/hosts/{}", host.id);
    for (method, path, body) in [
        ("POST", "/hosts", serde_json::json!({"name": "another"})),
        ("POST", "/commands", command.clone()),
        ("POST", &format!("{one}/rotate-key"), serde_json::json!({})),
        ("PUT", &format!("{one}/integrations"), serde_json::json!({"docker_enabled": true})),
        ("DELETE", &one, serde_json::json!({})),
    ] {
        let answer = reader.call(method.parse().unwrap(), path, Some(&body)).await.unwrap();
        assert_eq!(answer.status, 403, "{method} {path}: {answer:?}");
        assert_eq!(answer.body["error"], "Insufficient permissions", "{answer:?}");
        assert!(answer.body["message"].as_str().unwrap().starts_with("You don't have permission to "), "{answer:?}");
    }
    assert_eq!(reader.get(&one).await.unwrap().status, 200);
    assert_eq!(reader.get("/commands").await.unwrap().ok().unwrap()["items"], serde_json::json!([]));
    assert_eq!(manager.post("/commands", &command).await.unwrap().status, 202);
    assert_secrets_kept(&server, &[token(&reader), &host.api_key]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_route_is_told_so_in_json_and_every_answer_has_its_headers() {
    let server = start(&[]).await;
    let (admin, stranger) = (server.admin().await, stranger(&server));
    let mut answers = Vec::new();
    for (client, method, path, status) in [
        (&stranger, "GET", "/nothing", 404),
        (&admin, "GET", "/nothing", 404),
        (&admin, "POST", "/hosts/x/y/z", 404),
        (&admin, "GET", "/hosts/../../../etc/passwd", 404),
        (&admin, "DELETE", "/", 404),
        (&admin, "GET", "/hosts/not-an-id", 404),
        (&admin, "GET", &format!("/hosts/{NOBODY}"), 404),
        (&admin, "GET", &format!("/commands/{NOBODY}"), 404),
        (&stranger, "GET", "/hosts", 401),
        (&admin, "PATCH", "/hosts", 405),
        (&admin, "GET", "/auth/login", 405),
        (&stranger, "DELETE", "/commands", 405),
        (&admin, "POST", "/hosts", 400),
        (&admin, "GET", "/hosts?limit=0", 400),
        (&admin, "GET", "/hosts", 200),
        (&stranger, "GET", "/openapi.json", 200),
    ] {
        let response = client.request(method.parse().unwrap(), path).send().await.unwrap();
        assert_eq!(response.status(), status, "{method} {path}");
        assert_eq!(response.headers()["content-type"], "application/json", "{method} {path}");
        if status == 405 {
            let allow = response.headers()["allow"].to_str().unwrap().to_owned();
            let expected = if path == "/auth/login" { "POST" } else { "GET" };
            assert!(allow.contains(expected) && !allow.contains(method), "{method} {path}: {allow}");
        }
        answers.push((format!("{status} {path}"), response));
    }
    for (path, response) in answers {
        let headers = response.headers().clone();
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(headers.get(name).map(|value| value.to_str().unwrap()), Some(value), "{path}: {name}");
        }
        assert!(headers.contains_key("x-request-id") && !headers.contains_key("server"), "{path}: {headers:?}");
        let body: serde_json::Value = response.json().await.unwrap();
        assert_eq!(body["error"].is_string(), !path.starts_with("200 "), "{path}: {body}");
    }
    assert_secrets_kept(&server, &[token(&admin)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_route() {
    let server = start(&[]).await;
    let document = stranger(&server).get("/openapi.json").await.unwrap().ok().unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."), "{document}");
    let documented: BTreeSet<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |m| format!("{} {path}", m.to_uppercase()))
        })
        .collect();
    let served: BTreeSet<_> = table().iter().map(|route| format!("{} {}", route.verb.name(), route.path)).collect();
    assert_eq!(documented, served);
    // Each is really there.
    let admin = server.admin().await;
    for route in table().iter().filter(|route| !route.verb.is_unsafe()) {
        let response = admin.request(Method::HEAD, &path(route.path)).send().await.unwrap();
        assert_ne!(response.status(), 405, "{}", route.path);
    }
}
