//! A client that does not read costs a position, not a queue.

use serde_json::json;
use tests::raw::{self, PATIENCE, Wire};
use tokio::{io::AsyncReadExt, net::TcpSocket};

use super::{come, progress, stream::Stream};
use crate::harness::Server;

/// What the events are made of: far more than the kernel takes for a client that does not read.
const MESSAGE: usize = 60_000;
const EVENTS: u32 = 400;

const RESET: &[u8] = b"event: reset";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_loses_events_instead_of_filling_the_memory() {
    let server = Server::start_with(&[("PATCHBAY_EVENTS_WINDOW", "16")]).await;
    let admin = server.admin().await;
    let hosts = server.add_hosts("host", 10).await;
    // Asks, and reads nothing.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8192).unwrap();
    let mut stalled = socket.connect(server.target().address).await.unwrap();
    let bearer = format!("Bearer {}", admin.token().unwrap());
    let request = raw::request("GET", "/api/v1/events", &[("Host", "patchbay.test"), ("Authorization", &bearer)], "");
    tokio::io::AsyncWriteExt::write_all(&mut stalled, &request).await.unwrap();

    let mut reader = Stream::open(&admin, "?types=scan_progress", None).await;
    let mut agents = Vec::new();
    for host in &hosts {
        agents.push(come(&server, host).await);
    }
    let message = "x".repeat(MESSAGE);
    let mut half_way = 0;
    for n in 0..EVENTS {
        if n == EVENTS / 2 {
            half_way = resident_kib(&server);
        }
        let agent: &mut Wire = &mut agents[n as usize % hosts.len()];
        agent.write(&progress("evaluating", n, &message)).await.unwrap();
        // In step with a client that reads: it misses none.
        let block = reader.next().await;
        assert_eq!((block.event.as_str(), &block.data["progress"]), ("scan_progress", &json!(f64::from(n))));
    }
    // By then everything has found its size.
    let grown = resident_kib(&server).saturating_sub(half_way);
    let sent = MESSAGE * EVENTS as usize;
    assert!(grown < sent / 1024 / 4, "{grown} KiB more for {} KiB of events", sent / 1024 / 2);

    // Reading again, it gets what the kernel had, is told what it has lost, and goes on.
    let told = async {
        let (mut chunk, mut tail, mut kept) = (vec![0; 1 << 16], Vec::new(), 0);
        loop {
            let n = stalled.read(&mut chunk).await.unwrap();
            assert!(n > 0, "the stream has ended");
            kept += n;
            tail.extend_from_slice(&chunk[..n]);
            if tail.windows(RESET.len()).any(|window| window == RESET) {
                return kept;
            }
            tail.drain(..tail.len().saturating_sub(RESET.len()));
        }
    };
    let kept = tokio::time::timeout(PATIENCE, told).await.expect("it is never told that it has lost something");
    assert!(kept < sent / 2, "{kept} of {sent} bytes were kept for it");
    for agent in &mut agents {
        agent.ping(b"undisturbed").await.unwrap();
    }
}

/// Memory of the server, from /proc.
fn resident_kib(server: &Server) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().unwrap())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
