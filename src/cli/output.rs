//! What admin commands print: tables and lines for people. JSON is printed as it comes.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde_json::Value;

/// Prints to stdout; a reader that has seen enough is no error.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| match text.ends_with('\n') {
        true => stdout.flush(),
        false => stdout.write_all(b"\n").and_then(|()| stdout.flush()),
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to stdout"),
    }
}

/// One line on stderr for each thing that is wrong.
pub fn complain(error: &anyhow::Error) {
    for line in format!("{error:#}").lines() {
        eprintln!("patchbay: {line}");
    }
}

/// The columns of `host list`: heading and key. Keys that no row has are left out.
pub const HOST_COLUMNS: &[(&str, &str)] = &[
    ("NAME", "name"),
    ("ID", "id"),
    ("API ID", "api_id"),
    ("CONNECTED", "connected"),
    ("SECURE", "secure"),
    ("AGENT", "agent_version"),
    ("LAST SEEN", "last_seen_at"),
];

/// The columns of `host ssh-keys`.
pub const SSH_KEY_COLUMNS: &[(&str, &str)] =
    &[("PORT", "port"), ("FINGERPRINT", "fingerprint"), ("FIRST SEEN", "first_seen_at"), ("LAST SEEN", "last_seen_at")];

/// A table of the rows in `{"items":[…]}` or `[…]`.
pub fn table(rows: &Value, columns: &[(&str, &str)]) -> String {
    let rows = rows.get("items").unwrap_or(rows).as_array().map_or(&[][..], Vec::as_slice);
    let columns: Vec<_> = columns.iter().filter(|(_, key)| rows.iter().any(|row| row.get(key).is_some())).collect();
    if rows.is_empty() {
        return "none\n".to_owned();
    }
    let mut lines: Vec<Vec<String>> = vec![columns.iter().map(|(heading, _)| (*heading).to_owned()).collect()];
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, key)| cell(row.get(key))).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let padded = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        text.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Some keys of one object, a line each.
pub fn details(object: &Value, keys: &[&str]) -> String {
    let present: Vec<&&str> = keys.iter().filter(|key| object.get(key).is_some()).collect();
    let width = present.iter().map(|key| key.len()).max().unwrap_or(0);
    present.iter().map(|key| format!("  {key:<width$}  {}\n", cell(object.get(key)))).collect()
}

/// One value on one line. Names come from hosts, so nothing in them may steer a terminal.
fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "-".to_owned(),
        Some(Value::Bool(true)) => return "yes".to_owned(),
        Some(Value::Bool(false)) => return "no".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_cells() {
        let rows = json!({"items": [
            {"name": "web", "id": "1", "connected": true},
            {"name": "a-longer-one", "id": "22", "connected": false, "agent_version": null},
        ]});
        let expected = "\
NAME          ID  CONNECTED  AGENT
web           1   yes        -
a-longer-one  22  no         -
";
        assert_eq!(table(&rows, HOST_COLUMNS), expected);
        assert_eq!(table(&json!([]), HOST_COLUMNS), "none\n");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(cell(Some(&json!("a\u{1b}[2Jb\n"))), "a\\u{1b}[2Jb\\n");
    }

    #[test]
    fn details_leave_out_what_is_not_there() {
        assert_eq!(
            details(&json!({"id": "1", "api_key": "k"}), &["id", "api_id", "api_key"]),
            "  id       1\n  api_key  k\n"
        );
    }
}
