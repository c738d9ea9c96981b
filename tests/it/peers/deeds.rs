//! How each deed of the table is done.

use std::fmt;

use tests::raw::{BINARY, CLOSE, PING, PONG, TEXT, frame, frame_head, unmasked_frame};

/// Longest message of an agent, in bytes.
const LIMIT: usize = 128 << 10;
/// How agents cut what is longer (protocol 1.2).
const FRAGMENT: usize = 4096;
/// A frame without FIN: the opcode alone.
const OPEN_TEXT: u8 = 0x01;
const MIDDLE: u8 = 0x00;
const LAST: u8 = 0x80;

/// What a peer does, once it is connected.
pub enum Deed {
    /// Writes this.
    Send(Vec<u8>),
    /// Pings, with something around it.
    Ping { before: Vec<u8>, payload: Vec<u8>, after: Vec<u8> },
    /// Ends its side.
    Fin,
    /// Is gone, with RST.
    Reset,
    /// Connects once more.
    Newer,
    /// Nothing: its host is removed.
    Removed,
    /// Nothing: its key is replaced.
    Rotated,
}

impl fmt::Debug for Deed {
    /// Long ones shortened.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "Send({} bytes: {:02x?}…)", bytes.len(), &bytes[..bytes.len().min(24)]),
            Self::Ping { payload, .. } => write!(f, "Ping({} bytes)", payload.len()),
            Self::Fin => f.write_str("Fin"),
            Self::Reset => f.write_str("Reset"),
            Self::Newer => f.write_str("Newer"),
            Self::Removed => f.write_str("Removed"),
            Self::Rotated => f.write_str("Rotated"),
        }
    }
}

/// The variants of a row, each for a connection of its own.
type Variants = fn() -> Vec<Deed>;

/// By the words of the table.
pub const DEEDS: &[(&str, Variants)] = &[
    ("malformed JSON", || {
        texts(&["nope", r#"{"type":"#, r#"{"type":"hello"} {"type":"hello"}"#, "{\"type\":\"a\u{0}\"}", "{'type':'x'}"])
    }),
    ("JSON that is no object", || texts(&["[1,2]", "7", "\"text\"", "null", "true"])),
    ("wrong type of `type`", || texts(&[r#"{"type":7}"#, r#"{"type":null}"#, r#"{"type":["hello"]}"#, "{}"])),
    ("wrong types in fields", || {
        texts(&[
            r#"{"type":"compliance_scan_progress","phase":3}"#,
            r#"{"type":"compliance_scan_progress","phase":"started","progress":"five"}"#,
            r#"{"type":"compliance_scan_progress","phase":"started","message":{}}"#,
            r#"{"type":"compliance_scan_progress","phase":"dreaming","progress":5}"#,
        ])
    }),
    ("unknown type", || texts(&[r#"{"type":"hello"}"#, r#"{"type":"COMPLIANCE_SCAN_PROGRESS"}"#, r#"{"type":""}"#])),
    ("known type without use", || {
        texts(&[
            r#"{"type":"docker_status","container_id":"c","event":{"type":"container_start"},"status":"running"}"#,
            r#"{"type":"ssh_proxy_data","session_id":"nobody's","data":"x"}"#,
        ])
    }),
    ("empty text", || sends([frame(TEXT, b"")])),
    ("binary frame", || sends([frame(BINARY, br#"{"type":"hello"}"#), frame(BINARY, b"\xff\x00"), frame(BINARY, b"")])),
    ("ping", || pings([b"".to_vec(), b"12345678".to_vec(), vec![b'x'; 125]])),
    ("pong without a ping", || sends([frame(PONG, b""), frame(PONG, &u64::MAX.to_be_bytes()), frame(PONG, &[7; 125])])),
    ("ping between fragments", || {
        let (before, after) = (frame(OPEN_TEXT, br#"{"type":"#), frame(LAST, br#""hello"}"#));
        vec![Deed::Ping { before, payload: b"between".to_vec(), after }]
    }),
    ("message of 128 KiB in fragments", || sends([fragments(&padded(LIMIT))])),
    ("message over 128 KiB at once", || sends([frame(TEXT, &padded(LIMIT + 1)), frame(BINARY, &vec![0; LIMIT * 64])])),
    ("message over 128 KiB in fragments", || sends([fragments(&padded(LIMIT + 1))])),
    ("announced length over the limit", || {
        sends([
            frame_head(TEXT, true, LIMIT as u64 + 1),
            frame_head(BINARY, true, 1 << 40),
            [fragments_open(LIMIT), frame_head(LAST, true, u64::MAX >> 1)].concat(),
        ])
    }),
    ("text that is not UTF-8", || {
        sends([
            frame(TEXT, b"\xff\xfe"),
            frame(TEXT, b"{\"type\":\"\xed\xa0\x80\"}"),
            [frame(OPEN_TEXT, b"\xc3"), frame(LAST, b"x")].concat(),
        ])
    }),
    ("UTF-8 cut between fragments", || {
        let text = r#"{"type":"grüße 🚀"}"#.as_bytes();
        (1..text.len()).step_by(3).map(|cut| Deed::Send(cut_at(text, cut))).collect()
    }),
    ("unmasked frame", || sends([unmasked_frame(TEXT, br#"{"type":"hello"}"#), unmasked_frame(PING, b"")])),
    ("reserved bit set", || sends([frame(TEXT | 0x40, b"x"), frame(TEXT | 0x20, b"x"), frame(PING | 0x10, b"")])),
    ("unknown opcode", || sends([frame(0x83, b"x"), frame(0x8b, b"")])),
    ("continuation of nothing", || {
        sends([frame(LAST, b"x"), [frame(OPEN_TEXT, b"{"), frame(LAST, b"}"), frame(MIDDLE, b"x")].concat()])
    }),
    ("message within a message", || {
        sends([
            [frame(OPEN_TEXT, b"{"), frame(TEXT, b"{}")].concat(),
            [frame(OPEN_TEXT, b"{"), frame(BINARY, b"x")].concat(),
        ])
    }),
    ("fragmented ping", || sends([frame(0x09, b"x")])),
    ("ping over 125 bytes", || sends([frame(PING, &[b'x'; 126])])),
    ("close 1000", || sends([closing(&1000_u16.to_be_bytes()), closing(b"\x03\xe8good bye")])),
    ("close 4321", || sends([closing(&4321_u16.to_be_bytes())])),
    ("close without a code", || sends([closing(b"")])),
    ("close with a forbidden code", || {
        [0_u16, 999, 1004, 1005, 1006, 1015, 2999, 5000].map(|code| Deed::Send(closing(&code.to_be_bytes()))).into()
    }),
    ("FIN", || vec![Deed::Fin]),
    ("RST", || vec![Deed::Reset]),
    ("a newer connection of the same id", || vec![Deed::Newer]),
    ("host removed", || vec![Deed::Removed]),
    ("key rotated", || vec![Deed::Rotated]),
];

fn sends<const N: usize>(all: [Vec<u8>; N]) -> Vec<Deed> {
    all.map(Deed::Send).into()
}

fn texts(all: &[&str]) -> Vec<Deed> {
    all.iter().map(|text| Deed::Send(frame(TEXT, text.as_bytes()))).collect()
}

fn pings<const N: usize>(payloads: [Vec<u8>; N]) -> Vec<Deed> {
    payloads.map(|payload| Deed::Ping { before: Vec::new(), payload, after: Vec::new() }).into()
}

fn closing(payload: &[u8]) -> Vec<u8> {
    frame(CLOSE, payload)
}

/// A message that is good JSON and exactly so long.
fn padded(length: usize) -> Vec<u8> {
    let (before, after) = (r#"{"pad":""#, r#"","type":"hello"}"#);
    format!("{before}{}{after}", "x".repeat(length - before.len() - after.len())).into_bytes()
}

/// As agents cut it.
fn fragments(message: &[u8]) -> Vec<u8> {
    let mut bytes = fragments_without_end(message);
    bytes.extend(frame(LAST, b""));
    bytes
}

fn fragments_without_end(message: &[u8]) -> Vec<u8> {
    let first_bytes = std::iter::once(OPEN_TEXT).chain(std::iter::repeat(MIDDLE));
    message.chunks(FRAGMENT).zip(first_bytes).flat_map(|(chunk, first)| frame(first, chunk)).collect()
}

/// A message of so many bytes that goes on.
fn fragments_open(length: usize) -> Vec<u8> {
    fragments_without_end(&padded(length))
}

fn cut_at(text: &[u8], at: usize) -> Vec<u8> {
    [frame(OPEN_TEXT, &text[..at]), frame(LAST, &text[at..])].concat()
}
