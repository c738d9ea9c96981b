//! Much at once: a paste, long output, and output that nobody reads.

use serde_json::json;
use tests::{
    log::{What, sha256_hex},
    terminal::Heard,
};

use super::scene::{AT_ONCE, PATIENCE, Scene, open, writes};

/// What an agent reads in one frame (protocol 6-2).
const AGENT_READS: usize = 64 << 10;
const PASTE: usize = 200_000;
const LAST: usize = 150_000;
/// Bytes of output that a browser does not read: many times what may wait anywhere.
const UNREAD: u64 = 40 << 20;

/// Lines of text without control characters, in characters of one to four bytes.
fn paste() -> String {
    let mut text = String::with_capacity(PASTE);
    for n in 0.. {
        let line = format!("{n}: \"na\u{ef}ve\" \\ \u{20ac} \u{1f980} <&>\n");
        if text.len() + line.len() > PASTE {
            break;
        }
        text.push_str(&line);
    }
    text.push_str(&"x".repeat(PASTE - text.len()));
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_paste_arrives_whole_in_frames_that_agents_read() {
    let scene = Scene::on_two(&open(), 1).await;
    let mut terminal = scene.shell(0).await;
    let text = paste();
    // Line by line a terminal takes no more than 4095 bytes.
    let read = format!("stty -icanon -echo; echo re''ady; head -c {PASTE} > pasted; stty sane; echo do''ne");
    writes(&mut terminal, &read, "ready").await;
    terminal.input(&text).await;
    terminal.until("done\r\n", PATIENCE).await.unwrap();
    let sum = sha256_hex(text.as_bytes());
    writes(&mut terminal, "wc -c < pasted; sha256sum < pasted", &format!("{PASTE}\r\n{sum}  -")).await;
    let frames = scene.log().frames(&scene.hosts[0].api_id, "ssh_proxy_input");
    let sizes = frames.iter().map(|frame| match &frame.what {
        What::Frame { bytes, .. } => *bytes,
        _ => 0,
    });
    let longest = sizes.max().unwrap();
    assert!(longest < AGENT_READS, "{longest}");
    assert!(frames.len() > PASTE / AGENT_READS, "{}", frames.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn long_output_comes_in_order_and_whole() {
    for scene in [Scene::on_one(&open(), 1).await, Scene::on_two(&open(), 1).await] {
        let mut terminal = scene.shell(0).await;
        terminal.input(&format!("seq 1 {LAST}; echo do''ne\r")).await;
        let ended =
            |seen: &str| seen.get(seen.len().saturating_sub(500)..).is_none_or(|tail| tail.contains("done\r\n"));
        let seen = terminal.until_seen(ended, PATIENCE).await.unwrap_or_else(|error| panic!("{}", error.why));
        let numbers: Vec<usize> =
            seen.lines().filter_map(|line| line.trim_start_matches("\u{1b}[?2004l\r").parse().ok()).collect();
        let wrong = numbers.iter().zip(1..).find(|(number, wanted)| *number != wanted);
        assert_eq!((wrong, numbers.len()), (None, LAST), "{} bytes", seen.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_nobody_reads_is_left_out_and_neither_fills_the_memory_nor_holds_up_the_agent() {
    for scene in [Scene::on_one(&open(), 1).await, Scene::on_two(&open(), 1).await] {
        let mut terminal = scene.shell(0).await;
        terminal.input("yes\r").await;
        terminal.until("y\r\ny\r\n", PATIENCE).await.unwrap();
        terminal.stop_reading();
        let servers = [Some(&scene.browsers), scene.second.as_ref()];
        let resident = || servers.map(|server| server.map_or(0, |server| resident_kib(server.pid().unwrap())));
        let before = resident();
        let sent = scene.fleet.counts().bytes_sent;
        scene.log().wait_counts(PATIENCE * 2, |counts| counts.bytes_sent >= sent + UNREAD).await.expect("yes goes on");
        let id = scene.ask("settings_update", 0, Some(json!({"update_interval": 35}))).await;
        scene.got_settings(0).await;
        scene.admin.wait_state(&id, PATIENCE, "delivered").await.unwrap();
        for (now, before) in resident().iter().zip(before) {
            assert!(*now < before + (32 << 10), "{before} KiB became {now} KiB");
        }
        terminal.resume();
        terminal.until(" bytes of output left out]", PATIENCE).await.unwrap_or_else(|error| panic!("{}", error.why));
        terminal.input("\u{3}").await;
        let stopped = |seen: &str| seen.get(seen.len().saturating_sub(200)..).is_none_or(|tail| tail.contains("$ "));
        terminal.until_seen(stopped, AT_ONCE).await.unwrap_or_else(|error| panic!("^C: {}", error.why));
        writes(&mut terminal, "echo aw''ake", "awake").await;
        assert_eq!(scene.fleet.counts().disconnects, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_waits_for_the_end_of_a_terminal_and_other_commands_do_not() {
    for scene in [Scene::on_one(&open(), 1).await, Scene::on_two(&open(), 1).await] {
        let mut terminal = scene.shell(0).await;
        let report = scene.ask("report_now", 0, None).await;
        let tried = |row: &serde_json::Value| row["attempt"].as_i64() > Some(0);
        scene.admin.wait_command(&report, PATIENCE, tried).await.unwrap();
        terminal.input("yes\r").await;
        terminal.until("y\r\ny\r\n", PATIENCE).await.unwrap();
        // The browser reads on meanwhile.
        let reading = async {
            loop {
                match terminal.next(PATIENCE).await {
                    Some(Heard::Data(_)) => {}
                    other => return other,
                }
            }
        };
        let asked = async {
            let id = scene.ask("settings_update", 0, Some(json!({"update_interval": 25}))).await;
            scene.got_settings(0).await;
            id
        };
        let settings = tokio::select! {
            came = reading => panic!("{came:?}"),
            id = asked => id,
        };
        assert_eq!(scene.log().frames(&scene.hosts[0].api_id, "report_now").len(), 0);
        let row = scene.admin.command_row(&report).await.unwrap();
        assert_eq!(row["final"], false, "{row}");
        terminal.disconnect().await;
        // Its pong is behind what the kernel holds of the output.
        scene.admin.wait_state(&settings, PATIENCE, "delivered").await.unwrap();
        scene.admin.wait_state(&report, PATIENCE, "succeeded").await.unwrap();
        assert_eq!(scene.log().frames(&scene.hosts[0].api_id, "report_now").len(), 1);
    }
}

/// Memory of a process, from /proc.
fn resident_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
