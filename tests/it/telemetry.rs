//! Telemetry as a collector gets it: a command is one story over three processes, the figures are those of `/metrics`, and
//! a collector that is away harms nobody.

mod collector;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    time::Duration,
};

use collector::{Collector, Told};
use reqwest::Method;
use serde_json::{Value, json};
use tests::{
    admin::Admin,
    credentials::Credentials,
    raw::{self, PATIENCE, Wire},
    services::openssh::{OpenSsh, Variant},
    terminal::{Access, Terminal},
};
use tokio::net::TcpListener;

use crate::{
    cli::run,
    harness::{PASSWORD, Server, own_address},
};

/// Another gateway of the same installation, until it is dropped.
struct Gateway {
    process: std::process::Child,
    url: String,
}

impl Gateway {
    async fn start(server: &Server) -> Self {
        let address = own_address();
        let mut command = server.command();
        command
            .arg("gateway")
            .env("PATCHBAY_LISTEN", format!("{address}:3001"))
            .env("PATCHBAY_INTERNAL_LISTEN", format!("{address}:3002"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let gateway = Self { process, url: format!("http://{address}:3001") };
        let ready = async {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            while !client.get(format!("http://{address}:3002/readyz")).send().await.is_ok_and(|a| a.status() == 200) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE * 4, ready).await.expect("no second gateway");
        gateway
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What an agent posts once it has read `report_now`.
async fn report(url: &str, host: &Credentials) {
    let request = Admin::new(url).unwrap().request(Method::POST, "/hosts/update").json(&json!({"packages": []}));
    let request =
        raw::credentials(host).into_iter().fold(request, |request, (name, value)| request.header(name, value));
    assert_eq!(request.send().await.unwrap().status(), 200);
}

fn exporting(to: &str) -> Vec<(&'static str, String)> {
    vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", to.to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "100".to_owned()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500".to_owned()),
    ]
}

fn borrowed<'a>(env: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    env.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_one_story_over_two_gateways_and_a_worker() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let collector = Collector::start().await;
    let mut server = Server::spread_out(&borrowed(&exporting(&collector.url)));
    server.restart().await;
    let other = Gateway::start(&server).await;
    let host = server.add_hosts("web", 1).await.remove(0);
    let mut agent = Wire::agent(&raw_target(&other.url), &host).await.unwrap();

    let admin = server.admin().await;
    let asked = admin
        .request(Method::POST, "/commands")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .json(&json!({"kind": "report_now", "host_ids": [host.id]}))
        .send()
        .await
        .unwrap();
    assert_eq!(asked.status(), 202);
    let asked: Value = asked.json().await.unwrap();
    let command = asked["commands"][0]["id"].as_str().unwrap().to_owned();
    let frame = agent.frame_answering_pings().await.unwrap();
    assert!(String::from_utf8_lossy(&frame.payload).contains("report_now"), "{frame:?}");
    // The pong that proves it is written by whoever reads on.
    let reading = tokio::spawn(async move {
        let _ = agent.frame_answering_pings().await;
    });
    report(&other.url, &host).await;

    let named = |service: &'static str, name: &'static str| {
        move |told: &Told| told.service == service && told.span.name == name
    };
    let request = collector.span("the request", named("gateway", "POST /api/v1/commands")).await;
    assert_eq!(hex(&request.span.trace_id), TRACE);
    assert_eq!(hex(&request.span.parent_span_id), "00f067aa0ba902b7");
    assert_eq!(request.number("http.response.status_code"), Some(202));

    let row = collector.span("the row", |told| told.span.name == "INSERT commands").await;
    assert!(row.is_child_of(&request), "{row:?}");

    // A root, linked: it may run tomorrow.
    let task = collector.span("the task", named("worker", "process agent-commands")).await;
    assert!(task.span.parent_span_id.is_empty() && task.links_to(&request), "{task:?}");

    let asked_over_the_bus = collector.span("the bus request", named("worker", "deliver report_now")).await;
    assert!(asked_over_the_bus.is_child_of(&task) && asked_over_the_bus.links_to(&request), "{asked_over_the_bus:?}");
    assert_eq!(asked_over_the_bus.text("patchbay.command.id").as_deref(), Some(command.as_str()));

    let frame = collector.span("the frame", named("gateway", "write frame")).await;
    assert!(frame.is_child_of(&asked_over_the_bus), "{frame:?}");
    assert_ne!(frame.instance, request.instance, "the agent is on the other gateway");
    assert_eq!(frame.text("patchbay.command.id").as_deref(), Some(command.as_str()));
    assert_eq!(frame.text("patchbay.reply").as_deref(), Some("delivered"));

    let answer = collector.span("the host's answer", |told| told.span.name.ends_with("/hosts/update")).await;
    assert!(answer.instance == frame.instance && answer.links_to(&request), "{answer:?}");

    let upgrade = |told: &Told| told.span.name == "GET /api/{version}/agents/ws";
    assert_eq!(collector.span("the upgrade", upgrade).await.number("http.response.status_code"), Some(101));
    let secrets = [host.api_key.as_str(), PASSWORD, admin.token().unwrap()];
    for told in collector.spans() {
        let text = format!("{told:?}");
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "a secret is in {}", told.span.name);
    }
    server.wait_log(&format!("\"trace_id\":\"{TRACE}\""), PATIENCE).await;
    let page = reqwest::get(other.url.replace(":3001", ":3002") + "/metrics").await.unwrap().text().await.unwrap();
    let told = ["delivered", "sent"].map(|word| format!("patchbay_command_replies_total{{outcome=\"{word}\"}} 1"));
    assert!(told.iter().any(|told| page.contains(told)), "{page}");
    reading.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exporter_and_the_metrics_page_have_the_same_figures() {
    let collector = Collector::start().await;
    let mut server = Server::spread_out(&borrowed(&exporting(&collector.url)));
    server.restart().await;
    let host = server.add_hosts("web", 1).await.remove(0);
    let _agent = Wire::agent(&server.target(), &host).await.unwrap();
    let page = reqwest::get(format!("{}/metrics", server.internal_url())).await.unwrap().text().await.unwrap();
    for (name, shown) in [
        ("patchbay.agents.connected", "patchbay_agents_connected{scheme=\"plain\"} 1"),
        ("patchbay.agent.upgrades", "patchbay_agent_upgrades_total{outcome=\"accepted\"} 1"),
        ("patchbay.handshake.duration", "patchbay_handshake_duration_seconds_count 1"),
        ("patchbay.frames.size", "patchbay_frames_size_bytes_total{direction=\"out\"}"),
        ("http.server.request.duration", "http_server_request_duration_seconds_bucket"),
        ("patchbay.draining", "patchbay_draining 0"),
    ] {
        assert!(page.contains(shown), "{shown} is not in\n{page}");
        collector.metric("gateway", name).await;
    }
    for name in ["patchbay.queue.depth", "patchbay.queue.oldest_age", "patchbay.workers.alive"] {
        collector.metric("worker", name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_or_silent_harms_nobody() {
    // It takes connections and never answers.
    let silent = TcpListener::bind((own_address(), 0)).await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            held.push(stream);
        }
    });
    let away = format!("http://{}:9", own_address());
    for url in [&silent_url, &away] {
        let env = exporting(url);
        let mut server = Server::embedded(&borrowed(&env));
        server.restart().await;
        let admin = server.admin().await;
        let ask = async |times: usize| {
            for _ in 0..times {
                assert_eq!(admin.get("/hosts").await.unwrap().status, 200);
            }
        };
        ask(1_000).await;
        let before = resident_kib(server.pid().unwrap());
        // More spans than its queue holds by far.
        ask(4_000).await;
        let grown = resident_kib(server.pid().unwrap()).saturating_sub(before);
        assert!(grown < 24 << 10, "{grown} KiB more");
        let mut said: BTreeMap<String, usize> = BTreeMap::new();
        for line in server.logs().iter().filter(|line| line.contains("\"target\":\"opentelemetry")) {
            let line: Value = serde_json::from_str(line).unwrap();
            *said.entry(line["name"].as_str().unwrap_or_else(|| panic!("{line}")).to_owned()).or_default() += 1;
        }
        assert!(said.contains_key("BatchSpanProcessor.SpanDroppingStarted"), "that spans are lost is told: {said:?}");
        // Each of its sentences once a minute.
        assert!(said.values().all(|times| *times <= 2), "{said:?}");
        assert_eq!(server.stop(Duration::from_secs(40)).await.code(), Some(0));
    }
    holding.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_exported_is_one_line_at_the_start() {
    for (name, value, said) in [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere.pem", "/nowhere.pem"),
        ("OTEL_TRACES_SAMPLER", "often", "parentbased_always_on"),
    ] {
        let server = Server::embedded(&[]);
        let mut command = server.command();
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318").env(name, value);
        let line = run(command, "").await.refusal().to_owned();
        assert!(line.contains(said), "{line}");
    }
}

#[test]
fn every_metric_is_in_the_runbook_and_every_one_there_exists() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
    let sources = ["gateway/src/metrics.rs", "worker/src/figures.rs", "store/src/measure.rs"].map(read).concat();
    let made: BTreeSet<String> = sources
        .split('"')
        .filter(|text| text.starts_with("patchbay.") || text.starts_with("http.server."))
        // The meters' own names.
        .filter(|text| text.split('.').count() > 2 || *text == "patchbay.draining" || *text == "patchbay.logins")
        .map(|text| text.replace('.', "_"))
        .collect();
    let runbook = read("docs/operating.md");
    let rows = runbook.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeSet<String> = rows
        .flat_map(|row| row.split(" |").next().unwrap_or_default().split('`'))
        .filter(|text| text.starts_with("patchbay_") || text.starts_with("http_server_"))
        .map(|text| {
            ["_total", "_seconds", "_bytes"].iter().fold(text, |name, unit| name.trim_end_matches(unit)).to_owned()
        })
        .collect();
    // A unit that is part of the name is appended by nobody.
    let made: BTreeSet<String> = made.iter().map(|name| name.trim_end_matches("_bytes").to_owned()).collect();
    assert!(made.len() > 20, "{made:?}");
    assert_eq!(made, listed);
}

fn raw_target(url: &str) -> tests::server::Server {
    tests::server::Server::parse(url).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_one_story_from_its_socket_to_its_shell() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let collector = Collector::start().await;
    let ssh = OpenSsh::start(Variant::Password);
    let allow = ssh.address().to_string();
    let exporting = exporting(&collector.url);
    let env = [borrowed(&exporting), vec![("PATCHBAY_SSH_ALLOW", allow.as_str())]].concat();
    let server = Server::start_with(&env).await;
    let host = server.add_hosts("web", 1).await.remove(0);
    let request = Admin::new(&server.url()).unwrap().request(Method::POST, "/hosts/update");
    let request = request.json(&json!({"packages": [], "ip": ssh.address().ip().to_string()}));
    let request =
        raw::credentials(&host).into_iter().fold(request, |request, (name, value)| request.header(name, value));
    assert_eq!(request.send().await.unwrap().status(), 200);

    let admin = server.admin().await;
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let access = Access::Bearer(admin.token().unwrap());
    let parent = [("traceparent", traceparent.as_str())];
    let mut terminal = Terminal::open_with(&server.target(), &host.id, access, &parent).await.unwrap();
    let login = json!({"username": ssh.user(), "password": ssh.password(), "port": ssh.address().port()});
    terminal.connect(login).await;
    terminal.connected(PATIENCE).await.unwrap();
    terminal.until("$ ", PATIENCE).await.unwrap();
    terminal.input("exit\r").await;
    terminal.until_closed(PATIENCE).await.unwrap();

    let named = |name: &'static str| move |told: &Told| told.span.name == name;
    let upgrade = collector.span("the upgrade", named("GET /api/{version}/ssh-terminal/{host_id}")).await;
    assert_eq!(hex(&upgrade.span.trace_id), TRACE);
    assert_eq!(upgrade.number("http.response.status_code"), Some(101));
    let opening = collector.span("the opening", named("open terminal")).await;
    assert!(opening.is_child_of(&upgrade), "{opening:?}");
    assert_eq!(opening.text("patchbay.outcome").as_deref(), Some("opened"));
    for step in ["ssh dial", "ssh handshake", "ssh authenticate", "ssh shell"] {
        let step = collector.span(step, named(step)).await;
        assert!(step.is_child_of(&opening), "{step:?}");
    }
    let closing = collector.span("the end", named("close terminal")).await;
    assert!(closing.is_child_of(&upgrade), "{closing:?}");
    assert_eq!(closing.text("patchbay.terminal.id"), opening.text("patchbay.terminal.id"));
    let secrets = [ssh.password(), host.api_key.as_str(), admin.token().unwrap()];
    for told in collector.spans() {
        let text = format!("{told:?}");
        assert!(!secrets.iter().any(|secret| text.contains(secret)), "a secret is in {}", told.span.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_through_an_agent_is_one_story_over_two_gateways() {
    let collector = Collector::start().await;
    let mut server = Server::spread_out(&borrowed(&exporting(&collector.url)));
    server.restart().await;
    let other = Gateway::start(&server).await;
    let host = server.add_hosts("web", 1).await.remove(0);
    let mut agent = Wire::agent(&raw_target(&other.url), &host).await.unwrap();
    let admin = server.admin().await;
    let access = Access::Bearer(admin.token().unwrap());
    let mut terminal = Terminal::open(&server.target(), &host.id, access).await.unwrap();
    terminal.connect(json!({"connection_mode": "proxy", "password": "hunter2-on-the-way"})).await;
    let frame = agent.frame_answering_pings().await.unwrap();
    let asked: Value = serde_json::from_slice(&frame.payload).unwrap();
    assert_eq!((&asked["type"], &asked["password"]), (&json!("ssh_proxy"), &json!("hunter2-on-the-way")));
    let answer = json!({"session_id": asked["session_id"], "type": "ssh_proxy_connected"}).to_string();
    agent.write(&raw::frame(raw::TEXT, answer.as_bytes())).await.unwrap();
    terminal.connected(PATIENCE).await.unwrap();

    let opening = collector.span("the opening", |told| told.span.name == "open terminal").await;
    let line = collector.span("the agent's side", |told| told.span.name == "open shell").await;
    assert!(line.is_child_of(&opening) && line.instance != opening.instance, "{line:?}");
    assert_eq!(line.text("patchbay.terminal.id"), opening.text("patchbay.terminal.id"));
    for told in collector.spans() {
        assert!(!format!("{told:?}").contains("hunter2-on-the-way"), "a secret is in {}", told.span.name);
    }
}
