//! What a server's rows claim, held against what the hosts saw and did. A row may know less than its host; never more.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    credentials::Credentials,
    log::{Event, FrameLog, What},
};

/// Everything in the rows that the log does not bear out, and every frame that came twice on one connection or that no
/// row asked for. `rows` must be all rows of these hosts.
pub fn contradictions(events: &[Event], hosts: &[Credentials], rows: &[Value]) -> Vec<String> {
    let mut seen: HashMap<&str, Vec<&Event>> = HashMap::new();
    for event in events {
        seen.entry(&event.agent).or_default().push(event);
    }
    let mut asked: HashMap<&str, Vec<&Value>> = HashMap::new();
    for row in rows {
        asked.entry(row["host_id"].as_str().unwrap_or_default()).or_default().push(row);
    }
    let mut wrong = Vec::new();
    for host in hosts {
        let story = Story {
            name: &host.name,
            events: seen.remove(host.api_id.as_str()).unwrap_or_default(),
            rows: asked.remove(host.id.as_str()).unwrap_or_default(),
        };
        story.frames(&mut wrong);
        for row in &story.rows {
            if let Err(why) = story.claim(row) {
                wrong.push(format!("{}: {why}: {row}", host.name));
            }
        }
    }
    wrong
}

/// The same in two: what came twice on one connection, and all others.
pub fn duplicates_and_others(events: &[Event], hosts: &[Credentials], rows: &[Value]) -> (Vec<String>, Vec<String>) {
    let wrong = contradictions(events, hosts, rows);
    wrong.into_iter().partition(|wrong| wrong.contains(" times on connection "))
}

/// One host.
struct Story<'a> {
    name: &'a str,
    events: Vec<&'a Event>,
    rows: Vec<&'a Value>,
}

/// Is this the frame of that row? What the payload leaves open is the host's own setting, and settings are what its owner
/// wants when they are sent.
pub fn is_frame_of(row: &Value, frame: &Value) -> bool {
    frame["type"] == row["kind"] && (row["kind"] == "settings_update" || is_in(&row["payload"], frame))
}

fn is_in(payload: &Value, frame: &Value) -> bool {
    payload.as_object().is_some_and(|asked| asked.iter().all(|(name, value)| frame[name] == *value))
}

/// `<name>_at` in milliseconds.
pub fn at(row: &Value, name: &str) -> Option<i64> {
    let time = OffsetDateTime::parse(row[format!("{name}_at")].as_str()?, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

fn millis(event: &Event) -> i64 {
    i64::try_from(event.time_ms).unwrap_or(i64::MAX)
}

impl Story<'_> {
    /// Each frame was asked for, belongs to an attempt, and none came twice on one connection.
    fn frames(&self, wrong: &mut Vec<String>) {
        let mut counts: BTreeMap<(u32, &str), (usize, Value)> = BTreeMap::new();
        let mut of_kind: BTreeMap<&str, u64> = BTreeMap::new();
        for event in &self.events {
            if let What::Frame { kind, sha256, .. } = &event.what
                && kind != "connected"
            {
                let payload = event.payload().unwrap_or_default();
                counts.entry((event.conn, sha256)).or_insert((0, payload)).0 += 1;
                *of_kind.entry(kind).or_default() += 1;
            }
        }
        for (kind, came) in of_kind.into_iter().filter(|(kind, _)| *kind != "compliance_scan_cancel") {
            let rows = self.rows.iter().filter(|row| row["kind"] == kind);
            let attempts: u64 = rows.filter_map(|row| row["attempt"].as_u64()).sum();
            if came > attempts {
                wrong.push(format!("{}: {came} frames of {kind} in {attempts} attempts", self.name));
            }
        }
        for ((conn, _), (count, frame)) in counts {
            let asked = if frame["type"] == "compliance_scan_cancel" {
                self.rows.iter().filter(|row| !row["cancel_requested_at"].is_null()).count()
            } else {
                self.rows.iter().filter(|row| is_frame_of(row, &frame)).count()
            };
            if count > asked {
                let name = self.name;
                wrong.push(format!("{name}: {count} times on connection {conn}, asked for {asked} times: {frame}"));
            }
        }
    }

    fn claim(&self, row: &Value) -> Result<(), String> {
        let got = self.first(|event| event.payload().is_some_and(|frame| is_frame_of(row, &frame)));
        // Whether that frame can only have been this row's.
        let frame = got.and_then(Event::payload);
        let alone = frame.is_none_or(|f| self.rows.iter().filter(|other| is_frame_of(other, &f)).count() == 1);
        if let Some(delivered) = at(row, "delivered") {
            let got = got.ok_or("delivered, and never came")?;
            require(millis(got) <= delivered, "delivered before it came")?;
        }
        if let Some(running) = at(row, "running") {
            let began = self.first(|event| matches!(event.what, What::ScanStarted { .. }));
            require(began.is_some_and(|began| millis(began) <= running), "running, and no scan began before")?;
        }
        match row["state"].as_str().unwrap_or_default() {
            "succeeded" | "failed" => self.deed(row, got),
            "cancelled" => {
                let stopped = self.events.iter().any(|event| event.is_frame("compliance_scan_cancel"));
                require(at(row, "running").is_none() || stopped, "stopped, and no cancel frame came")?;
                // Who was called off after a loss, or with its host, says so.
                let silent = row["cancel_requested_at"].is_null() && row["error"].is_null();
                require(got.is_none() || !alone || !silent, "cancelled as if it had never been sent")
            }
            "expired" => require(got.is_none() || !alone, "expired though it was sent"),
            "queued" | "waiting" if row["attempt"] == 0 => require(got.is_none() || !alone, "sent before it was taken"),
            _ => Ok(()),
        }
    }

    /// The deed that ended it was done, after the frame had come.
    fn deed(&self, row: &Value, got: Option<&Event>) -> Result<(), String> {
        let after = |fits: &dyn Fn(&Event) -> bool| {
            let got = got.ok_or("ended by a deed of the host, and never came")?;
            let done = self.events.iter().any(|event| event.seq > got.seq && fits(event));
            require(done, "the host did not do that after it came")
        };
        match row["evidence"]["deed"].as_str() {
            // A post whose answer was lost was made all the same.
            Some(path @ ("hosts/update" | "hosts/integration-status" | "compliance/scans")) => after(&|event| {
                matches!(&event.what, What::Http { path: called, status, .. }
                    if called.ends_with(path) && status.is_none_or(|status| status == 200))
            }),
            Some("compliance_scan_progress") if row["state"] == "failed" => after(&|event| {
                matches!(&event.what, What::Sent { phase: Some(phase), .. } if phase == "failed" || phase == "completed")
                    || matches!(&event.what, What::Sent { phase: None, kind, .. } if kind == "compliance_scan_progress")
            }),
            Some("none") | None if got.is_none() && row["attempt"] == 0 => Ok(()),
            other => Err(format!("ended by {other:?}")),
        }
    }

    fn first(&self, fits: impl Fn(&Event) -> bool) -> Option<&Event> {
        self.events.iter().copied().find(|event| fits(event))
    }
}

fn require(holds: bool, why: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(why.to_owned()) }
}

/// A post that found no server four times, or one that would not have it: neither is tried again (protocol 6-10).
pub fn gave_up(event: &Event) -> bool {
    match &event.what {
        What::Http { method: "POST", status: None, attempt, .. } => *attempt == 4,
        What::Http { method: "POST", status: Some(status), .. } => *status != 200,
        _ => false,
    }
}

/// Rows that are not final though their host could still tell its deed.
pub fn stuck<'a>(rows: &'a [Value], hosts: &[Credentials], log: &FrameLog) -> Vec<&'a Value> {
    let silent: HashSet<_> = log.select(gave_up).into_iter().map(|event| event.agent).collect();
    let excused = |row: &Value| {
        let host = hosts.iter().find(|host| row["host_id"] == host.id.as_str());
        host.is_some_and(|host| silent.contains(host.api_id.as_str()))
    };
    rows.iter().filter(|row| row["final"] == false && !excused(row)).collect()
}

/// Accepted and not there.
pub fn lost<'a>(ids: impl IntoIterator<Item = &'a String>, rows: &[Value]) -> Vec<String> {
    let there: HashSet<_> = rows.iter().filter_map(|row| row["id"].as_str()).collect();
    ids.into_iter().filter(|id| !there.contains(id.as_str())).map(|id| format!("{id}: accepted and lost")).collect()
}

/// How the rows stand: `12 expired, 40 succeeded`. Of those that are not final only their hosts could tell more.
pub fn states<'a>(rows: impl Iterator<Item = &'a Value>) -> String {
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows {
        let state = row["state"].as_str().unwrap_or_default();
        let state = if row["final"] == true { state.to_owned() } else { format!("{state} (silent)") };
        *states.entry(state).or_default() += 1;
    }
    let states: Vec<_> = states.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    states.join(", ")
}
