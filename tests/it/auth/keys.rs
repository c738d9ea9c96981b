//! Keys in every form in which a store may hold them, and the bounded pool that the slow ones need.

use tests::{
    credentials::Credentials,
    internal,
    log::sha256_hex,
    raw::{self, Wire},
};
use tokio::time::{Duration, Instant, sleep};

use super::{assert_refused, assert_says_when, knock, knock_as};
use crate::{cli::patchbay, database::Database, harness::Server};

const RANDOM: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";
const SPOKEN: &str = "a-key-of-the-old-days";

/// Each with its key: bcrypt as three libraries spell it, a key that may be guessed, plaintext of both kinds.
const IMPORTED: [(&str, &str, &str); 6] = [
    ("2a", RANDOM, "$2a$10$abcdefghijklmnopqrstuuY.SN/6LWQwq.rm0EEdDOVQF4XA93eay"),
    ("2b", RANDOM, "$2b$10$bcdefghijklmnopqrstuvub337Hca.IQZfPrvbyp9k7IlyACbg7ua"),
    ("2y", RANDOM, "$2y$10$cdefghijklmnopqrstuvwu1PNjTcfEuYqtM20rL7iuOd8UvqWwZNG"),
    ("spoken", SPOKEN, "$2b$10$defghijklmnopqrstuvwxuyih47rP/iY0otq1WHFqvYN54Myybb0K"),
    ("plain-random", RANDOM, RANDOM),
    ("plain-spoken", SPOKEN, SPOKEN),
];

/// Half a second of work.
const SLOW: &str = "$2b$13$defghijklmnopqrstuvwxugwKngKe5ZXqPNQaazgXtnYYWO66/tXK";

fn host(number: usize, name: &str, key: &str) -> Credentials {
    Credentials {
        id: format!("0194d0d8-0000-7000-8000-{number:012}"),
        name: name.to_owned(),
        api_id: format!("patchmon_{name}"),
        api_key: key.to_owned(),
    }
}

async fn auths(server: &Server, path: &str) -> f64 {
    let series = format!("patchbay_agent_auth_total{{path=\"{path}\"}}");
    internal::value(&server.internal_url(), &series).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_keys_are_checked_slowly_once_and_by_their_digest_from_then_on() {
    let mut server = Server::prepare(&[]);
    patchbay(&server, &["migrate"]).await;
    let mut database = Database::open(&server).await;
    let mut hosts = Vec::new();
    for (number, (name, key, hash)) in IMPORTED.into_iter().enumerate() {
        let host = host(number, name, key);
        database.import_host(&host.id, name, &host.api_id, hash, None).await;
        hosts.push(host);
    }
    let digest_only = host(90, "digest", RANDOM);
    let digest = sha256_hex(RANDOM.as_bytes());
    database.import_host(&digest_only.id, "digest", &digest_only.api_id, "", Some(&digest)).await;
    let nothing = host(91, "nothing", "");
    database.import_host(&nothing.id, "nothing", &nothing.api_id, "", None).await;
    server.restart().await;
    let target = server.target();

    for host in hosts.iter().chain([&digest_only, &nothing]) {
        // Also what is stored is no key.
        let hash = IMPORTED.iter().find(|(name, ..)| *name == host.name && !name.starts_with("plain")).map(|row| row.2);
        for wrong in ["wrong", &RANDOM.replace('5', "6"), hash.unwrap_or("x"), &digest] {
            assert_refused(&knock(&target, &host.api_id, wrong).await, 401, "Invalid credentials", &host.name);
        }
    }
    for host in hosts.iter().chain([&digest_only]) {
        Wire::agent(&target, host).await.unwrap_or_else(|error| panic!("{}: {error}", host.name));
    }
    // Nobody waits for the digest to be stored.
    let deadline = Instant::now() + Duration::from_secs(15);
    for host in &hosts {
        let column = |column: &str| format!("SELECT {column} FROM hosts WHERE name = '{}'", host.name);
        let expected = (host.api_key == RANDOM).then(|| digest.clone());
        loop {
            let stored = database.text(&column("key_digest")).await;
            let hash = database.text(&column("key_hash")).await.unwrap();
            if stored == expected && hash.starts_with("$2") {
                break;
            }
            assert!(Instant::now() < deadline, "{}: {stored:?} {hash}", host.name);
            sleep(Duration::from_millis(20)).await;
        }
    }
    let (slow, fast) = (auths(&server, "bcrypt").await, auths(&server, "digest").await);
    for host in hosts.iter().chain([&digest_only]) {
        Wire::agent(&target, host).await.unwrap_or_else(|error| panic!("{} again: {error}", host.name));
    }
    // Keys that may be guessed keep their slow hash; nobody is plaintext any more.
    assert_eq!(auths(&server, "bcrypt").await - slow, 2.0);
    assert_eq!(auths(&server, "digest").await - fast, 5.0);
    assert!(!server.logs().iter().any(|line| line.contains(RANDOM) || line.contains(SPOKEN)), "a key was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_is_503_at_once_while_known_hosts_still_connect() {
    let settings = [("PATCHBAY_BCRYPT_THREADS", "1"), ("PATCHBAY_BCRYPT_QUEUE", "1")];
    let server = Server::start_with(&settings).await;
    let target = server.target();
    let known = server.add_hosts("known", 1).await.remove(0);
    let mut database = Database::open(&server).await;
    let slow: Vec<_> = (0..3).map(|n| host(n, &format!("slow-{n}"), SPOKEN)).collect();
    for host in &slow {
        database.import_host(&host.id, &host.name, &host.api_id, SLOW, None).await;
    }
    // One that runs and one that waits.
    let mut inside = Vec::new();
    for (n, host) in slow[..2].iter().enumerate() {
        let mut wire = Wire::dial(&target, None).await.unwrap();
        wire.write(&raw::upgrade_request(super::PATH, &raw::credentials(host), &[])).await.unwrap();
        inside.push(wire);
        let queued = n as f64 + 1.0;
        internal::wait(&server.internal_url(), "patchbay_bcrypt_queued", |n| n >= queued).await.unwrap();
    }
    let refused = knock_as(&target, &slow[2]).await;
    assert_refused(&refused, 503, "Too many authentications at once", "a full pool");
    assert_says_when(&refused);
    Wire::agent(&target, &known).await.unwrap().ping(b"digest").await.unwrap();
    // Those inside get their sockets, and there is room again.
    for mut wire in inside {
        let reply = wire.call(b"").await.unwrap();
        assert_eq!(reply.status, 101, "{reply:?}");
        wire.greeting().await.unwrap();
    }
    Wire::agent(&target, &slow[2]).await.unwrap();
}
