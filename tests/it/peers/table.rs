//! The table as ARCHITECTURE.md has it.

/// What a peer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gets {
    /// Nothing: the connection goes on.
    Ignored,
    /// A pong with its payload.
    Pong,
    /// A close frame with this code, then the end.
    Close(u16),
    /// The end, without a close frame to be had.
    End,
}

const PAGE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ARCHITECTURE.md"));
const HEADING: &str = "| peer does | it gets |";

/// All rows. Fails the test where a line cannot be read.
pub fn rows() -> Vec<(String, Gets)> {
    let lines = PAGE.lines().skip_while(|line| *line != HEADING).skip(2);
    lines.take_while(|line| line.starts_with('|')).map(row).collect()
}

fn row(line: &str) -> (String, Gets) {
    let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [does, gets] = cells[..] else { panic!("no row of two cells: {line}") };
    let gets = match (gets, gets.strip_prefix("close ")) {
        ("ignored", _) => Gets::Ignored,
        ("pong", _) => Gets::Pong,
        ("end", _) => Gets::End,
        (_, Some(code)) => Gets::Close(code.parse().unwrap_or_else(|_| panic!("no code: {line}"))),
        _ => panic!("it gets what nobody knows: {line}"),
    };
    (does.to_owned(), gets)
}
