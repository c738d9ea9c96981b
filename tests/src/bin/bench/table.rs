//! One table of everything, with ratios. Ratios are the embedded server's figure by the other's.

use std::fmt::Write;

use crate::{
    Results,
    figures::{Memory, Millis, Patchbay, Sockets, Terminals},
};

struct Row {
    what: String,
    goal: &'static str,
    /// One combination's cell.
    show: fn(&Patchbay) -> String,
    /// What others did in the same run, and how we compare.
    beside: Vec<(String, Option<String>)>,
}

/// The rows as Markdown, one line each.
pub fn table(results: &Results) -> String {
    let mut text =
        String::from("| what | to reach | embedded | NATS + PostgreSQL | beside it, in this run | ratio |\n");
    text.push_str("|---|---|---|---|---|---|\n");
    for row in
        [storm(results), idle(results), after_60_kb(results), frame(results), answer(), crowd(results), mid_storm()]
    {
        let cell = |patchbay: &Option<Patchbay>| patchbay.as_ref().map_or_else(|| "–".to_owned(), row.show);
        let beside: Vec<_> = row.beside.iter().map(|(text, _)| text.as_str()).collect();
        let ratios: Vec<_> = row.beside.iter().filter_map(|(_, ratio)| ratio.as_deref()).collect();
        let (one, two) = (cell(&results.embedded), cell(&results.spread));
        let (beside, ratios) = (beside.join("; "), ratios.join("; "));
        let _ = writeln!(text, "| {} | {} | {one} | {two} | {beside} | {ratios} |", row.what, row.goal);
    }
    terminals(results, &mut text);
    text
}

/// Terminals are measured apart.
fn terminals(results: &Results, text: &mut String) {
    let both = [&results.terminals_embedded, &results.terminals_spread];
    let mut row = |what: &str, goal: &str, show: &dyn Fn(&Terminals) -> String, beside: &str| {
        let [one, two] = both.map(|figures| figures.as_ref().map_or_else(|| "–".to_owned(), show));
        let _ = writeln!(text, "| {what} | {goal} | {one} | {two} | {beside} | |");
    };
    let millis = |millis: &Millis| format!("p50 {:.2} ms, p99 {:.2} ms", millis.p50, millis.p99);
    let added = |figures: &Terminals| {
        let (ours, bare) = (&figures.direct, &figures.bare);
        format!("{}; added p99 {:.2} ms", millis(ours), ours.p99 - bare.p99)
    };
    let bare = results
        .terminals_embedded
        .as_ref()
        .map_or_else(String::new, |figures| format!("OpenSSH's client at the same sshd: {}", millis(&figures.bare)));
    row("keystroke → echo, directly", "≤ 2 ms added (p99)", &added, &bare);
    let proxied = |figures: &Terminals| millis(&figures.proxied);
    row("the same through an agent that echoes at once", "≤ 5 ms (p99)", &proxied, "");
    let output = |figures: &Terminals| {
        format!("{:.0} MB/s ({:.0} more left out)", figures.output_mb_per_sec, figures.left_out_mb_per_sec)
    };
    row("output through an agent that writes as fast as it can", "≥ 20 MB/s", &output, "");
    let ctrl_c = |figures: &Terminals| format!("{:.0} ms", figures.ctrl_c_ms);
    row("Ctrl-C in the middle of it", "≤ 200 ms", &ctrl_c, "");
}

fn storm(results: &Results) -> Row {
    let rate = results.embedded.as_ref().map(|ours| ours.storm.handshakes_per_sec);
    let mut beside = Vec::new();
    if let Some(Sockets { storm, .. }) = &results.node_bcrypt {
        let all = results.agents as f64 / storm.handshakes_per_sec;
        let text = format!(
            "Node ws + bcryptjs: {:.1}/s ({} agents; extrapolated to {}: {all:.0} s)",
            storm.handshakes_per_sec, storm.agents, results.agents
        );
        beside.push((text, ratio(rate, storm.handshakes_per_sec, "Node ws + bcryptjs")));
    }
    if let Some(Sockets { storm, .. }) = &results.floor {
        let text = format!("bare fastwebsockets: {:.0}/s", storm.handshakes_per_sec);
        beside.push((text, ratio(rate, storm.handshakes_per_sec, "bare fastwebsockets")));
    }
    Row {
        what: format!("{} agents back at once, keys stored as bcrypt 12 and seen once", results.agents),
        goal: "≤ 5 s, ≥ 2,000/s",
        show: |ours| {
            let storm = &ours.storm;
            format!("{:.1} s, {:.0}/s, {} refused", storm.secs, storm.handshakes_per_sec, storm.refused)
        },
        beside,
    }
}

fn idle(results: &Results) -> Row {
    Row {
        what: "RSS an idle agent".to_owned(),
        goal: "≤ 5 KiB / ≤ 10 KiB",
        show: |ours| {
            let bus = ours.memory.bus_kib.map_or_else(String::new, |kib| format!(" (+ {kib:.1} in nats-server)"));
            format!("{:.1} KiB{bus}", ours.memory.idle_kib)
        },
        beside: memory(results, |memory| memory.idle_kib),
    }
}

fn after_60_kb(results: &Results) -> Row {
    Row {
        what: "the same after each has sent 60 KB".to_owned(),
        goal: "the same",
        show: |ours| format!("{:.1} KiB", ours.memory.after_60_kb_kib),
        beside: memory(results, |memory| memory.after_60_kb_kib),
    }
}

fn memory(results: &Results, figure: fn(&Memory) -> f64) -> Vec<(String, Option<String>)> {
    let ours = results.embedded.as_ref().map(|ours| figure(&ours.memory));
    let others = [("Node ws", &results.node_open), ("bare fastwebsockets", &results.floor)];
    others
        .into_iter()
        .filter_map(|(name, sockets)| {
            let theirs = figure(sockets.as_ref()?.memory.as_ref()?);
            Some((format!("{name}, no bus: {theirs:.1} KiB"), ratio(ours, theirs, name)))
        })
        .collect()
}

fn frame(results: &Results) -> Row {
    let ours = results.embedded.as_ref().map(|ours| ours.latency.frame_ms.p50);
    let beside = results.bullmq.iter().map(|queue| {
        let name = format!("BullMQ × {}", queue.concurrency);
        let text = format!(
            "{name}, to the handler only: p50 {:.1} ms, p99 {:.1} ms",
            queue.handler_ms.p50, queue.handler_ms.p99
        );
        (text, ratio(ours, queue.handler_ms.p50, &format!("{name} (p50)")))
    });
    Row {
        what: "`POST /commands` → frame at an online agent, one at a time".to_owned(),
        goal: "p50 ≤ 5 ms, p99 ≤ 20 ms",
        show: |ours| format!("p50 {:.1} ms, p99 {:.1} ms", ours.latency.frame_ms.p50, ours.latency.frame_ms.p99),
        beside: beside.collect(),
    }
}

fn answer() -> Row {
    Row {
        what: "the answer to that `POST`: the command is durable".to_owned(),
        goal: "–",
        show: |ours| format!("p50 {:.1} ms, p99 {:.1} ms", ours.latency.answer_ms.p50, ours.latency.answer_ms.p99),
        beside: Vec::new(),
    }
}

fn crowd(results: &Results) -> Row {
    let ours = results.embedded.as_ref().map(|ours| ours.crowd.agents as f64 / ours.crowd.delivered_secs);
    let beside = results.bullmq.iter().map(|queue| {
        let name = format!("BullMQ × {}", queue.concurrency);
        (format!("{name}: {:.0} jobs/s", queue.jobs_per_sec), ratio(ours, queue.jobs_per_sec, &name))
    });
    Row {
        what: format!("one `settings_update` to {} online agents, a durable row each", results.agents),
        goal: "≤ 1.5 s",
        show: |ours| {
            let crowd = &ours.crowd;
            let rate = crowd.agents as f64 / crowd.delivered_secs;
            format!("frames {:.2} s, delivered {:.2} s ({rate:.0}/s)", crowd.frames_secs, crowd.delivered_secs)
        },
        beside: beside.collect(),
    }
}

fn mid_storm() -> Row {
    Row {
        what: "one command to agents on their way back, asked 10 s into it".to_owned(),
        goal: "answered ≤ 1 s, 0 lost",
        show: |ours| {
            let it = &ours.mid_storm;
            format!(
                "{} of {} were back; answered in {:.0} ms; {} delivered, {} lost, the last after {:.1} s",
                it.back_when_asked, it.agents, it.answer_ms, it.delivered, it.lost, it.last_secs
            )
        },
        beside: Vec::new(),
    }
}

fn ratio(ours: Option<f64>, theirs: f64, name: &str) -> Option<String> {
    let ratio = ours? / theirs;
    let digits = if ratio < 10.0 { 2 } else { 0 };
    Some(format!("{ratio:.digits$} × {name}"))
}
