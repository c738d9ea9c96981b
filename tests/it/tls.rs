//! TLS of our own: agents over wss, a certificate that is replaced while the server runs, and what is no TLS at all.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tempfile::TempDir;
use tests::{
    credentials::Credentials,
    loopback,
    raw::{self, PATIENCE, Wire},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    cli::{patchbay, run},
    harness::{PASSWORD, Server},
};

const PATH: &str = "/api/v1/agents/ws";
const NAME: &str = "patchbay.test";
/// The files are looked at every 10 s.
const RENEWAL: Duration = Duration::from_secs(40);

/// A certificate in a folder of its own.
struct Certificate {
    dir: TempDir,
    der: CertificateDer<'static>,
}

impl Certificate {
    fn make() -> Self {
        let mut certificate = Self { dir: tempfile::tempdir().unwrap(), der: CertificateDer::from(vec![]) };
        certificate.renew();
        certificate
    }

    /// Another one in the same files.
    fn renew(&mut self) {
        let key = KeyPair::generate().unwrap();
        let made = CertificateParams::new(vec![NAME.to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(self.key(), key.serialize_pem()).unwrap();
        std::fs::write(self.chain(), made.pem()).unwrap();
        self.der = made.der().clone();
    }

    fn chain(&self) -> PathBuf {
        self.dir.path().join("chain.pem")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    fn prepare(&self) -> Server {
        let (chain, key) = (self.chain(), self.key());
        Server::prepare(&[("PATCHBAY_TLS_CERT", text(&chain)), ("PATCHBAY_TLS_KEY", text(&key))])
    }

    /// A client that trusts this certificate and no other, and offers what agents offer: nothing (protocol 1.1).
    fn connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        TlsConnector::from(Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()))
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn handshake(server: &Server, certificate: &Certificate) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = loopback::dial(server.target().address, None, PATIENCE).await?;
    let name = ServerName::try_from(NAME).unwrap();
    tokio::time::timeout(PATIENCE, certificate.connector().connect(name, stream)).await?
}

async fn agent(server: &Server, certificate: &Certificate, host: &Credentials) -> Wire<TlsStream<TcpStream>> {
    let mut wire = Wire::new(handshake(server, certificate).await.unwrap());
    wire.upgrade(&raw::upgrade_request(PATH, &raw::credentials(host), &[])).await.unwrap();
    wire.greeting().await.unwrap();
    wire
}

/// A host, made as an operator makes it: the API is behind the certificate too.
async fn add_host(server: &Server, name: &str) -> Credentials {
    serde_json::from_value(patchbay(server, &["host", "add", name, "--json"]).await.json()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_come_over_wss_and_what_is_no_tls_harms_nobody() {
    let certificate = Certificate::make();
    let mut server = certificate.prepare();
    server.restart().await;
    let host = add_host(&server, "secure").await;
    let mut wire = agent(&server, &certificate, &host).await;

    let address = server.target().address;
    let trusted = reqwest::Certificate::from_der(&certificate.der).unwrap();
    let builder = reqwest::Client::builder().tls_certs_only([trusted]).resolve(NAME, address).no_proxy();
    let client = builder.timeout(PATIENCE).build().unwrap();
    let url = format!("https://{NAME}:{}/api/v1", address.port());
    let body = serde_json::json!({"username": "admin", "password": PASSWORD});
    let login = client.post(format!("{url}/auth/login")).json(&body).send().await.unwrap();
    let cookie = login.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("Secure") && login.headers().contains_key("strict-transport-security"), "{cookie}");
    let token = login.json::<serde_json::Value>().await.unwrap()["token"].as_str().unwrap().to_owned();
    let shown = client.get(format!("{url}/ws/status/{}", host.api_id)).bearer_auth(token).send().await.unwrap();
    let shown: serde_json::Value = shown.json().await.unwrap();
    assert_eq!((&shown["data"]["connected"], &shown["data"]["secure"]), (&true.into(), &true.into()), "{shown}");

    let target = server.target();
    let plain = raw::upgrade_request(PATH, &raw::credentials(&host), &[]);
    let endless = [vec![22, 3, 1, 0xff, 0xff], vec![0; 1 << 17]].concat();
    for garbage in [&plain[..], b"\x16\x03\x01", &[0xff; 4096], &endless, b"\x80\x2e\x01\x00\x02"] {
        let mut stranger = Wire::dial(&target, None).await.unwrap();
        let _ = stranger.write(garbage).await;
        let _ = stranger.finish().await;
        stranger.ended(PATIENCE).await.unwrap_or_else(|e| panic!("{:x?}: {e}", &garbage[..3]));
    }
    // In the middle of its handshake one falls silent and one dies.
    let silent = Wire::dial(&target, None).await.unwrap();
    Wire::dial(&target, None).await.unwrap().reset();
    wire.ping(b"undisturbed").await.unwrap();
    agent(&server, &certificate, &add_host(&server, "another").await).await.ping(b"served").await.unwrap();
    drop(silent);
    // 64 KiB in one message, so that a record does not hold it.
    wire.write(&raw::frame(raw::TEXT, &[b'x'; 65_536])).await.unwrap();
    wire.ping(b"after a long one").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_certificate_is_served_without_a_restart() {
    let mut certificate = Certificate::make();
    let mut server = certificate.prepare();
    server.restart().await;
    let host = add_host(&server, "host").await;
    let mut wire = agent(&server, &certificate, &host).await;
    let old = Certificate { dir: tempfile::tempdir().unwrap(), der: certificate.der.clone() };

    // Half-written: the old one is served on.
    std::fs::write(certificate.chain(), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    let deadline = Instant::now() + RENEWAL;
    while !server.logs().iter().any(|line| line.contains("the new TLS certificate cannot be used")) {
        assert!(Instant::now() < deadline, "nobody looked");
        handshake(&server, &old).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    handshake(&server, &old).await.unwrap();

    certificate.renew();
    let deadline = Instant::now() + RENEWAL;
    while handshake(&server, &certificate).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is not served");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(handshake(&server, &old).await.is_err(), "the old one is served still");
    wire.ping(b"connected through it all").await.unwrap();
    agent(&server, &certificate, &host).await.ping(b"the new one").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_cannot_be_used_is_one_line_at_the_start() {
    let certificate = Certificate::make();
    let other = Certificate::make();
    let missing = certificate.dir.path().join("missing.pem");
    let broken = certificate.dir.path().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n").unwrap();
    let empty = certificate.dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let (chain, key) = (certificate.chain(), certificate.key());
    for (chain, key, named) in [
        (&missing, &key, &missing),
        (&chain, &missing, &missing),
        (&broken, &key, &broken),
        (&empty, &key, &empty),
        (&chain, &empty, &empty),
        (&chain, &chain, &chain),
        (&chain, &other.key(), &other.key()),
        (&certificate.dir.path().to_owned(), &key, &certificate.dir.path().to_owned()),
    ] {
        let server = Server::prepare(&[("PATCHBAY_TLS_CERT", text(chain)), ("PATCHBAY_TLS_KEY", text(key))]);
        let ran = run(server.command(), "").await;
        let line = ran.refusal();
        assert!(line.contains(text(named)), "{line}");
        assert!(line.len() > text(named).len() + 10, "no reason: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_that_serves_tls_is_checked_over_it() {
    let certificate = Certificate::make();
    let (chain, key) = (certificate.chain(), certificate.key());
    let mut server = Server::spread_out(&[("PATCHBAY_TLS_CERT", text(&chain)), ("PATCHBAY_TLS_KEY", text(&key))]);
    server.restart().await;
    let url = server.url().replace("http://", "https://");
    let told = patchbay(&server, &["--json", "check", &url]).await.json();
    assert!(told["delivered_ms"].is_u64(), "{told}");
}
