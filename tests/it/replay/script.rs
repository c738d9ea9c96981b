//! A recording as something to play: its lines, and what they say about the end of a scan.

use anyhow::Context;
use serde_json::Value;

use super::list::Session;

/// What the rest of the recording makes of a scan that starts here.
pub fn scan_ends<'a>(rest: impl Iterator<Item = &'a Value>) -> &'static [&'static str] {
    let mut cancelled = false;
    for line in rest {
        if line["payload"]["type"] == "compliance_scan_cancel" {
            cancelled = true;
        }
        if line["dir"] == "http" && path(line).ends_with("/compliance/scans") {
            let good = line["body"]["scans"][0]["status"] == "completed";
            return match (good, cancelled) {
                (true, _) => &["succeeded"],
                (false, true) => &["cancelled"],
                (false, false) => &["failed"],
            };
        }
        // Completed without a result: no scanner ran (protocol 1.4).
        if ["completed", "failed"].iter().any(|phase| line["payload"]["phase"] == *phase) {
            return &["failed"];
        }
    }
    &["unconfirmed"]
}

/// The lines to play, with their numbers.
pub fn lines(session: &Session) -> anyhow::Result<Vec<(usize, Value)>> {
    let path = format!("{}/wire/{}.jsonl", env!("CARGO_MANIFEST_DIR"), session.file);
    let text = std::fs::read_to_string(&path).with_context(|| path)?;
    let mut lines = Vec::new();
    let mut left_out = None;
    for (index, line) in text.lines().enumerate() {
        let line: Value = serde_json::from_str(line)?;
        if line["dir"] == "note" {
            let note = line["text"].as_str().unwrap_or_default();
            let starts = session.leave_out.iter().find(|(start, _)| note.starts_with(start));
            match (starts, left_out) {
                (Some((start, _)), _) => left_out = Some(*start),
                // Notes about one connection head nothing, and inside a part only the next part does.
                (None, Some(start))
                    if line["conn"].is_null() && (!start.starts_with("part: ") || note.starts_with("part: ")) =>
                {
                    left_out = None;
                }
                _ => {}
            }
        }
        if left_out.is_none() {
            lines.push((index + 1, line));
        }
    }
    Ok(lines)
}

pub fn path(line: &Value) -> &str {
    line["path"].as_str().unwrap_or_default()
}

/// Path and query.
pub fn target(line: &Value) -> String {
    match line["query"].as_str() {
        Some(query) => format!("{}?{query}", path(line)),
        None => path(line).to_owned(),
    }
}

pub fn status(line: &Value) -> u16 {
    line["answer"]["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(0)
}

/// A line short enough for a failure.
pub fn brief(line: &Value) -> String {
    let what = match line["dir"].as_str() {
        Some("http") => format!("{} {}", line["method"], target(line)),
        _ => line["payload"].to_string(),
    };
    format!("{} {}", line["dir"], what.chars().take(200).collect::<String>())
}
