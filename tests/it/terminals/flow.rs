//! Much output, to browsers that read and to those that do not.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use tests::terminal::{Heard, Terminal};

use super::scene::{PATIENCE, Scene};

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// What a shell writes from here to a mark, hashed; how many bytes, and how many marks of output that was left out.
async fn hashed(terminal: &mut Terminal, end: &str) -> (String, usize, usize) {
    let (mut hash, mut bytes, mut left_out, mut tail) = (Sha256::new(), 0, 0, String::new());
    loop {
        match terminal.next(PATIENCE).await {
            Some(Heard::Data(data)) => {
                left_out += data.matches("bytes of output left out").count();
                tail.push_str(&data);
            }
            other => panic!("{other:?} after {bytes} bytes"),
        }
        let ended = tail.find(end);
        // What could be the beginning of the mark waits.
        let mut whole = ended.unwrap_or(tail.len().saturating_sub(end.len()));
        while !tail.is_char_boundary(whole) {
            whole -= 1;
        }
        hash.update(&tail.as_bytes()[..whole]);
        bytes += whole;
        tail.drain(..whole);
        if ended.is_some() {
            let digest = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return (digest, bytes, left_out);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_megabytes_arrive_as_they_are() {
    let scene = Scene::new().await;
    // Characters of every length, so that reads cut through them.
    let letters: Vec<char> = "aZ0 äßéñ€漢字かな🦀🎛".chars().collect();
    let mut text = String::with_capacity(51 << 20);
    let mut seed: u64 = 88_172_645_463_325_252;
    while text.len() < 50_000_000 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let letter = usize::try_from(seed % letters.len() as u64).unwrap();
        text.push(letters[letter]);
    }
    std::fs::write(scene.ssh.home().join("text"), &text).unwrap();
    let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut terminal = scene.shell().await;
    terminal.input("stty -echo; echo B''EGIN; read go; cat text; echo E''ND\r").await;
    terminal.until("BEGIN\r\n", PATIENCE).await.unwrap();
    terminal.input("\r").await;
    let (came, bytes, left_out) = hashed(&mut terminal, "END\r\n").await;
    assert_eq!((bytes, left_out), (text.len(), 0));
    assert_eq!(came, digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_that_does_not_read_costs_little_and_sees_what_is_new_when_it_does() {
    let scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    let pid = scene.server.pid().unwrap();
    let before = resident(pid);
    terminal.stop_reading();
    terminal.input("seq 1 4000000; echo d''one > finished; echo E''ND\r").await;
    // The host is not held up by who does not read.
    let (finished, deadline) = (scene.ssh.home().join("finished"), Instant::now() + PATIENCE);
    while !finished.exists() {
        assert!(Instant::now() < deadline, "the shell is held up");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let grown = resident(pid).saturating_sub(before);
    assert!(grown < 32 << 20, "{} KiB more", grown >> 10);
    terminal.resume();
    let seen = terminal.until("END\r\n", PATIENCE).await.unwrap();
    assert!(seen.contains("bytes of output left out"), "nothing was left out of 30 MB?");
    assert!(seen.contains("\r\n4000000\r\n"), "the newest is there");
    terminal.input("exit\r").await;
    terminal.until_closed(PATIENCE).await.unwrap();
    let row = scene.row(|row| row["ended_at"].is_string()).await;
    assert!(row["bytes_shed"].as_i64().unwrap() > 10_000_000, "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_stops_a_flood() {
    let scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    terminal.input("yes\r").await;
    terminal.until("y\r\ny\r\ny\r\n", PATIENCE).await.unwrap();
    let asked = Instant::now();
    terminal.input("\u{3}").await;
    terminal.until("^C", PATIENCE).await.unwrap();
    // 200 ms are promised.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    terminal.input("echo a''fter\r").await;
    terminal.until("after\r\n", PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_paste_arrives_whole_while_the_host_reads_slowly() {
    let scene = Scene::new().await;
    let mut terminal = scene.shell().await;
    let text: String = (0..60_000).map(|n| format!("{n:05},")).collect();
    terminal
        .input(&format!("stty raw -echo; echo r''eady; head -c {} > pasted; stty sane; echo d''one\r", text.len()))
        .await;
    terminal.until("ready", PATIENCE).await.unwrap();
    terminal.input(&text).await;
    terminal.until("done", PATIENCE).await.unwrap();
    assert_eq!(std::fs::read_to_string(scene.ssh.home().join("pasted")).unwrap(), text);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_hosts_have_so_many_terminals_and_no_more() {
    let scene = Scene::with(
        tests::services::openssh::Variant::Password,
        &[("PATCHBAY_TERMINALS_PER_USER", "2"), ("PATCHBAY_TERMINALS_PER_HOST", "3")],
    )
    .await;
    let (_first, second) = (scene.shell().await, scene.shell().await);
    let mut third = scene.open().await;
    let error = scene.refusal(&mut third, &scene.login()).await;
    assert_eq!(error, "You have 2 terminals open already, which is as many as you may");
    second.close().await;
    scene.ssh.wait_sessions(1).await;
    scene.row(|row| row["ended_at"].is_string() || row["reason"].is_string()).await;
    // The end is stored a moment after it happened.
    let opened = async {
        loop {
            third.connect(scene.login()).await;
            match third.next(PATIENCE).await {
                Some(Heard::Connected) => return,
                Some(Heard::Error(error)) if error.contains("2 terminals") => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.unwrap();
    let rows = scene.admin.get("/terminals?open=true").await.unwrap().ok().unwrap();
    assert_eq!(rows["items"].as_array().unwrap().len(), 2, "{rows}");
}
