//! What only NATS can show: logins, certificates, prefixes, servers and networks that fail, listeners that are not ours.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use bus::{
    Bus, BusError, BusStatus, LoginFile, MAILBOX, NatsBus, NatsError, NatsOptions, NatsUrl, SubjectPrefix, Subscribe,
};
use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tests::services::{
    nats::NatsServer,
    proxy::{Network, Proxy},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// How long anything may take that must happen.
const SOON: Duration = Duration::from_secs(30);
const NEVER: Duration = Duration::from_millis(60);

fn options(url: &str) -> NatsOptions {
    NatsOptions { start_within: Duration::from_millis(500), ..NatsOptions::new(NatsUrl::parse(url).unwrap()) }
}

async fn connect(url: &str) -> Arc<NatsBus> {
    Arc::new(NatsBus::connect(&options(url)).await.unwrap())
}

async fn refusal(options: &NatsOptions) -> NatsError {
    match timeout(SOON, NatsBus::connect(options)).await.expect("it must not hang") {
        Ok(_) => panic!("it connected"),
        Err(error) => error,
    }
}

async fn becomes(bus: &NatsBus, wanted: BusStatus) {
    timeout(SOON, bus.status().wait_for(|status| *status == wanted)).await.expect("the status stays").unwrap();
}

async fn say(bus: &dyn Bus, subject: &str, n: u64) -> Result<(), BusError> {
    bus::publish_json(bus, subject, &n).await
}

/// Answers everything with the same number, until it is dropped.
fn answering(bus: &Arc<NatsBus>, mut requests: bus::Subscription, n: u64) -> tokio::task::JoinHandle<()> {
    let bus = bus.clone();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            if let Some(reply) = request.reply {
                let _ = say(&*bus, &reply, n).await;
            }
        }
    })
}

async fn ask(bus: &dyn Bus, subject: &str) -> Result<u64, BusError> {
    let answer = bus::request_json(bus, subject, &1, None, Duration::from_secs(2)).await?;
    Ok(answer.parse().unwrap())
}

// --- Logins ------------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_taken_and_a_wrong_one_refused_at_once_without_showing_it() {
    let server = NatsServer::start_with("authorization { user: ann, password: \"p@ss,word\" }");
    let bus = connect(&format!("nats://ann:p%40ss%2Cword@{}", server.address())).await;
    say(&*bus, "hello", 1).await.unwrap();
    for login in ["ann:hunter2@", "hunter2@", ""] {
        let error = refusal(&options(&format!("nats://{login}{}", server.address()))).await;
        assert!(matches!(error, NatsError::Refused(_)), "{login}: {error:?}");
        let line = format!("{error} {error:?}");
        assert!(line.contains(&server.url()) && !line.contains("hunter2"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_a_lone_user() {
    let server = NatsServer::start_with("authorization { token: \"t0ken:with/odd\" }");
    connect(&format!("nats://t0ken%3Awith%2Fodd@{}", server.address())).await;
    let error = refusal(&options(&format!("nats://other@{}", server.address()))).await;
    assert!(matches!(error, NatsError::Refused(_)), "{error:?}");
}

/// The pair of NATS' own documentation.
const NKEY: &str = "UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4";
const NKEY_SEED: &str = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";

#[tokio::test(flavor = "multi_thread")]
async fn an_nkey_is_read_from_its_file() {
    let server = NatsServer::start_with(&format!("authorization {{ users = [ {{ nkey: {NKEY} }} ] }}"));
    let file = |name: &str, text: &str| {
        let path = server.folder().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let with = |login: LoginFile| NatsOptions { login_file: Some(login), ..options(&server.url()) };
    let seed = file("seed", &format!("# ours\n{NKEY_SEED}\n"));
    let bus = NatsBus::connect(&with(LoginFile::Nkey(seed))).await.unwrap();
    say(&bus, "hello", 1).await.unwrap();

    let no_seed = file("none", "hunter2\n");
    let broken = file("broken", "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VX\n");
    let missing = server.folder().join("missing");
    for login in [
        LoginFile::Nkey(no_seed.clone()),
        LoginFile::Nkey(broken),
        LoginFile::Nkey(missing.clone()),
        LoginFile::Credentials(no_seed),
        LoginFile::Credentials(missing),
    ] {
        let error = refusal(&with(login.clone())).await;
        let (LoginFile::Nkey(path) | LoginFile::Credentials(path)) = login;
        let line = error.to_string();
        assert!(matches!(error, NatsError::File { .. }) && line.contains(path.to_str().unwrap()), "{error:?}");
        assert!(!line.contains("hunter2") && !line.contains("SUACS"), "{line}");
    }
}

/// A token as `nsc` makes them.
fn jwt(issuer: &nkeys::KeyPair, subject: &nkeys::KeyPair, nats: &serde_json::Value) -> String {
    let encode = |value: serde_json::Value| data_encoding::BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let claims = serde_json::json!({
        "jti": subject.public_key(), "iat": 1_700_000_000, "iss": issuer.public_key(), "sub": subject.public_key(),
        "name": "test", "nats": nats,
    });
    let text = format!("{}.{}", encode(serde_json::json!({"typ": "JWT", "alg": "ed25519-nkey"})), encode(claims));
    let signature = data_encoding::BASE64URL_NOPAD.encode(&issuer.sign(text.as_bytes()).unwrap());
    format!("{text}.{signature}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credentials_file_logs_in() {
    let (operator, account, user) =
        (nkeys::KeyPair::new_operator(), nkeys::KeyPair::new_account(), nkeys::KeyPair::new_user());
    let limits = serde_json::json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1,
    });
    let of_operator = jwt(&operator, &operator, &serde_json::json!({"type": "operator", "version": 2}));
    let of_account = jwt(&operator, &account, &serde_json::json!({"type": "account", "version": 2, "limits": limits}));
    let of_user = |issuer| {
        let nats = serde_json::json!({
            "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        jwt(issuer, &user, &nats)
    };
    let server = NatsServer::start_with(&format!(
        "operator: {of_operator}\nresolver: MEMORY\nresolver_preload: {{ {}: {of_account} }}",
        account.public_key()
    ));
    let with = |name: &str, jwt: String| {
        let path = server.folder().join(name);
        let seed = user.seed().unwrap();
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        std::fs::write(&path, text).unwrap();
        NatsOptions { login_file: Some(LoginFile::Credentials(path)), ..options(&server.url()) }
    };
    let bus = NatsBus::connect(&with("good", of_user(&account))).await.unwrap();
    say(&bus, "hello", 1).await.unwrap();
    let stranger = nkeys::KeyPair::new_account();
    let error = refusal(&with("bad", of_user(&stranger))).await;
    assert!(matches!(error, NatsError::Refused(_)), "{error:?}");
    refusal(&options(&server.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_after_an_outage_closes_the_bus_for_good() {
    let server = NatsServer::start_with("authorization { user: ann, password: one }");
    let url = format!("nats://ann:one@{}", server.address());
    let bus =
        NatsBus::connect(&NatsOptions { refused_for: Duration::from_millis(300), ..options(&url) }).await.unwrap();
    let patient = connect(&url).await;
    server.kill();
    server.configure("authorization { user: ann, password: two }");
    server.start_again();
    becomes(&bus, BusStatus::Closed).await;
    assert_eq!(say(&bus, "hello", 1).await, Err(BusError::Disconnected));
    // One that is given more time finds its way back when the old login counts again.
    server.kill();
    server.configure("authorization { user: ann, password: one }");
    server.start_again();
    becomes(&patient, BusStatus::Up).await;
    assert_eq!(*bus.status().borrow(), BusStatus::Closed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_without_permissions_is_told_at_start() {
    let user = |allow: &str| {
        format!(
            "authorization {{ users = [ {{ user: ann, password: one, permissions: {{ publish: \"{allow}\", subscribe: \
             \"{allow}\" }} }} ] }}"
        )
    };
    let server = NatsServer::start_with(&user("other.>"));
    let url = format!("nats://ann:one@{}", server.address());
    let error = refusal(&options(&url)).await;
    let line = error.to_string();
    assert!(matches!(error, NatsError::Forbidden { .. }), "{error:?}");
    assert!(line.contains("patchbay.>") && line.contains("Permissions Violation"), "{line}");
    server.kill();
    // What the documentation says is enough.
    server.configure(&user("patchbay.>"));
    server.start_again();
    let bus = connect(&url).await;
    let holder = bus.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    let _holder = answering(&bus, holder, 7);
    assert_eq!(ask(&*bus, "agent.a.status").await, Ok(7));
    assert_eq!(ask(&*bus, "agent.b.status").await, Err(BusError::NoResponder));
}

// --- Where it is -------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_one_clear_line() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let web_at = web.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = web.accept().await {
            let _ = client.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    for (at, says) in
        [(nobody.to_string(), "refused"), ("nowhere.invalid".to_owned(), "reached"), (web_at.to_string(), "no NATS")]
    {
        let error = refusal(&options(&format!("nats://ann:hunter2@{at}"))).await;
        let line = error.to_string();
        assert!(matches!(error, NatsError::Unreachable { .. }), "{error:?}");
        assert!(line.contains(&at) && line.contains(says) && !line.contains("hunter2"), "{line}");
        assert_eq!(line.lines().count(), 1, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_comes_a_little_later_is_waited_for() {
    let server = NatsServer::start();
    server.kill();
    let url = server.url();
    let connecting =
        tokio::spawn(
            async move { NatsBus::connect(&NatsOptions { start_within: SOON, ..options(&url) }).await.map(drop) },
        );
    tokio::task::yield_now().await;
    server.start_again();
    timeout(SOON, connecting).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_one_is_enough() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = NatsServer::start();
    let bus = connect(&format!("nats://{nobody},{}", server.address())).await;
    say(&*bus, "hello", 1).await.unwrap();
}

// --- TLS ---------------------------------------------------------------------------------------------------------------

/// An authority, with certificates for a server on an address and for a client.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Self { issuer, dir: tempfile::tempdir().unwrap() };
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Chain and key.
    fn issue(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let (chain, file) = (self.dir.path().join(format!("{name}.pem")), self.dir.path().join(format!("{name}.key")));
        std::fs::write(&chain, made.pem()).unwrap();
        std::fs::write(&file, key.serialize_pem()).unwrap();
        (chain, file)
    }
}

/// A server that speaks TLS alone, and asks for a certificate when `verify`.
fn tls_server(authority: &Authority, verify: bool) -> NatsServer {
    let server = NatsServer::start();
    let (chain, key) = authority.issue(&server.address().ip().to_string());
    server.kill();
    let ca = authority.ca();
    server.configure(&format!("tls {{ cert_file: {chain:?}, key_file: {key:?}, ca_file: {ca:?}, verify: {verify} }}"));
    server.start_again();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_trusts_the_authority_that_was_named_and_no_other() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = tls_server(&authority, false);
    for scheme in ["nats", "tls"] {
        let options = options(&format!("{scheme}://{}", server.address()));
        let trusting = NatsOptions { tls_ca: Some(authority.ca()), ..options.clone() };
        say(&NatsBus::connect(&trusting).await.unwrap(), "hello", 1).await.unwrap();
        for tls_ca in [Some(other.ca()), None] {
            let error = refusal(&NatsOptions { tls_ca, ..options.clone() }).await;
            assert!(matches!(error, NatsError::Tls { .. }), "{error:?}");
            assert!(error.to_string().contains("certificate"), "{error}");
        }
    }
    let nonsense = server.folder().join("nats.conf");
    for tls_ca in [nonsense, "/nowhere/ca.pem".into()] {
        let error = refusal(&NatsOptions { tls_ca: Some(tls_ca.clone()), ..options(&server.url()) }).await;
        assert!(error.to_string().contains(tls_ca.to_str().unwrap()), "{error}");
    }
    // Whoever asks for TLS does not get a plain connection instead.
    let plain = NatsServer::start();
    refusal(&options(&format!("tls://{}", plain.address()))).await;
    refusal(&NatsOptions { tls_ca: Some(authority.ca()), ..options(&plain.url()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_a_certificate_gets_ours() {
    let authority = Authority::new();
    let server = tls_server(&authority, true);
    let with = |tls_client| NatsOptions { tls_ca: Some(authority.ca()), tls_client, ..options(&server.url()) };
    let bus = NatsBus::connect(&with(Some(authority.issue("client")))).await.unwrap();
    let holder = bus.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    let bus = Arc::new(bus);
    let _holder = answering(&bus, holder, 3);
    assert_eq!(ask(&*bus, "agent.a.status").await, Ok(3));
    refusal(&with(None)).await;
    // It comes back by itself, with TLS.
    server.kill();
    becomes(&bus, BusStatus::Down).await;
    server.start_again();
    becomes(&bus, BusStatus::Up).await;
    assert_eq!(ask(&*bus, "agent.a.status").await, Ok(3));
}

// --- Who else is there -------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn installations_with_other_prefixes_hear_nothing_of_each_other() {
    let server = NatsServer::start();
    let with = |prefix: &str| NatsOptions { prefix: SubjectPrefix::parse(prefix).unwrap(), ..options(&server.url()) };
    let one = Arc::new(NatsBus::connect(&with("one")).await.unwrap());
    let two = Arc::new(NatsBus::connect(&with("site-2.patchbay")).await.unwrap());
    let mut all = two.subscribe(">", Subscribe::all(16)).await.unwrap();
    let holder = one.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    let _holder = answering(&one, holder, 1);
    assert_eq!(ask(&*one, "agent.a.status").await, Ok(1));
    let asked = bus::request_json(&*two, "agent.a.status", &1, None, NEVER).await;
    assert_eq!(asked.err(), Some(BusError::Timeout), "only the listener to everything of its own got it");
    say(&*one, "host.1.changed", 5).await.unwrap();
    say(&*two, "host.1.changed", 6).await.unwrap();
    loop {
        let message = timeout(SOON, all.next()).await.unwrap().unwrap();
        if &*message.subject == "host.1.changed" {
            assert_eq!(message.parse::<u64>().unwrap(), 6, "that of the other installation");
            break;
        }
    }
}

/// A client by hand that listens to everything and never answers, as `nats sub '>'` does.
async fn eavesdropper(server: SocketAddr) -> BufReader<TcpStream> {
    let mut stream = BufReader::new(TcpStream::connect(server).await.unwrap());
    stream.get_mut().write_all(b"CONNECT {\"verbose\":false}\r\nSUB > 1\r\nPING\r\n").await.unwrap();
    let mut line = String::new();
    while line.trim_end() != "PONG" {
        line.clear();
        timeout(SOON, stream.read_line(&mut line)).await.unwrap().unwrap();
    }
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_listener_to_everything_turns_nobody_into_silence() {
    let server = NatsServer::start();
    let bus = connect(&server.url()).await;
    assert_eq!(ask(&*bus, "agent.a.status").await, Err(BusError::NoResponder));
    let listener = eavesdropper(server.address()).await;
    let asked = bus::request_json(&*bus, "agent.a.status", &1, None, NEVER).await;
    assert_eq!(asked.err(), Some(BusError::Timeout), "somebody listens, so it is not known that nobody holds it");
    drop(listener);
    timeout(SOON, async { while ask(&*bus, "agent.a.status").await != Err(BusError::NoResponder) {} }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_by_somebody_else_is_not_answered_outside_of_our_subjects() {
    let server = NatsServer::start();
    let bus = connect(&server.url()).await;
    let mut holder = bus.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    let mut stranger = eavesdropper(server.address()).await;
    let request = b"PUB patchbay.agent.a.status _INBOX.x 2\r\n{}\r\n";
    stranger.get_mut().write_all(request).await.unwrap();
    let message = timeout(SOON, holder.next()).await.unwrap().unwrap();
    assert_eq!((&*message.subject, message.reply), ("agent.a.status", None));
}

// --- What fails --------------------------------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_swallows_everything_is_noticed_and_nobody_hangs() {
    let server = NatsServer::start();
    let proxy = Proxy::start(server.address()).await.unwrap();
    let bus = connect(&format!("nats://{}", proxy.address())).await;
    let beside = connect(&server.url()).await;
    let mut holder = bus.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    proxy.set(Network::Silent);
    // What waits for the server is told soon, one way or the other.
    let asked = timeout(SOON, bus.ask("agent.a.status", Bytes::from_static(b"1"), None)).await.unwrap();
    assert!(matches!(asked, Err(BusError::Timeout | BusError::Disconnected)));
    let subscribed = timeout(SOON, bus.subscribe("agent.b.*", Subscribe::all(MAILBOX))).await.unwrap();
    assert!(matches!(subscribed, Err(BusError::Disconnected)));
    becomes(&bus, BusStatus::Down).await;
    assert_eq!(say(&*bus, "x", 1).await, Err(BusError::Disconnected));
    proxy.set(Network::Sound);
    becomes(&bus, BusStatus::Up).await;
    // Up means that it is heard again, by and from others.
    assert!(beside.ask("agent.a.status", Bytes::from_static(b"2"), None).await.is_ok());
    timeout(SOON, async { while holder.next().await.unwrap().parse::<u64>().unwrap() != 2 {} }).await.unwrap();
    assert_eq!(ask(&*beside, "agent.b.status").await, Err(BusError::NoResponder), "given up is given up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_frozen_is_away_until_it_goes_on() {
    let server = NatsServer::start();
    let bus = connect(&server.url()).await;
    server.set_frozen(true);
    becomes(&bus, BusStatus::Down).await;
    assert_eq!(say(&*bus, "x", 1).await, Err(BusError::Disconnected));
    server.set_frozen(false);
    becomes(&bus, BusStatus::Up).await;
    say(&*bus, "x", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_outage_is_seen_by_who_looks_later() {
    let server = NatsServer::start();
    let bus = connect(&server.url()).await;
    let mut status = bus.status();
    status.borrow_and_update();
    server.kill();
    server.start_again();
    timeout(SOON, status.changed()).await.unwrap().unwrap();
    becomes(&bus, BusStatus::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_full_mailbox_loses_the_newest_and_is_counted() {
    let server = NatsServer::start();
    let bus = connect(&server.url()).await;
    let mut slow = bus.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    let more = 20;
    for n in 0..MAILBOX as u64 + more {
        say(&*bus, "agent.a.command", n).await.unwrap();
    }
    timeout(SOON, async {
        while bus.dropped() < more {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    for n in 0..MAILBOX as u64 {
        assert_eq!(slow.try_next().unwrap().parse::<u64>().unwrap(), n);
    }
    assert!(slow.try_next().is_none());
    assert_eq!(bus.dropped(), more);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_time_out_leave_nothing_behind() {
    let server = NatsServer::start();
    let bus = connect(&server.url()).await;
    let _silent = bus.subscribe("agent.a.*", Subscribe::all(MAILBOX)).await.unwrap();
    for _ in 0..50 {
        let asked = (0..100).map(|_| bus::request_json(&*bus, "agent.a.status", &1, None, Duration::from_millis(1)));
        for asked in futures_util::future::join_all(asked).await {
            assert_eq!(asked.err(), Some(BusError::Timeout));
        }
        assert_eq!(bus.requests_under_way(), 0);
    }
    let kept: Vec<_> = [ask(&*bus, "agent.b.status").await].into();
    assert_eq!((kept, bus.requests_under_way()), (vec![Err(BusError::NoResponder)], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_subscribe_at_once_are_all_heard_when_told_so() {
    let server = NatsServer::start();
    let options = NatsOptions { agent_connections: 3, ..options(&server.url()) };
    let bus = Arc::new(NatsBus::connect(&options).await.unwrap());
    let beside = connect(&server.url()).await;
    let agents = (0..5_000).map(|n| {
        let (bus, beside) = (bus.clone(), beside.clone());
        tokio::spawn(async move {
            let agent = bus.subscribe(&format!("agent.a-{n}.*"), Subscribe::all(MAILBOX)).await.unwrap();
            // Whoever is told that it is subscribed is found at once, by anybody.
            beside.ask(&format!("agent.a-{n}.status"), Bytes::from_static(b"1"), None).await.unwrap();
            agent
        })
    });
    let agents = timeout(SOON, futures_util::future::join_all(agents)).await.unwrap();
    for agent in agents {
        assert!(agent.unwrap().next().await.is_some());
    }
    assert_eq!(bus.dropped(), 0);
}
