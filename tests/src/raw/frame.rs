//! Frames by hand (RFC 6455 section 5).

use anyhow::ensure;

/// FIN and an opcode: the first byte of a frame.
pub const TEXT: u8 = 0x81;
/// The same of a binary message.
pub const BINARY: u8 = 0x82;
/// Of a close frame.
pub const CLOSE: u8 = 0x88;
/// Of a ping.
pub const PING: u8 = 0x89;
/// Of a pong.
pub const PONG: u8 = 0x8a;

const MASK: [u8; 4] = [0x5a, 0x00, 0xff, 0x31];

/// A frame of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFrame {
    /// FIN and opcode.
    pub first: u8,
    /// Its payload.
    pub payload: Vec<u8>,
}

impl ServerFrame {
    /// The code of a close frame that has one.
    pub fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>()?;
        (self.first == CLOSE).then(|| u16::from_be_bytes(*code))
    }
}

/// A masked frame.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_head(first, true, payload.len() as u64);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

/// A frame as only servers may send it.
pub fn unmasked_frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame_head(first, false, payload.len() as u64);
    bytes.extend_from_slice(payload);
    bytes
}

/// The head alone, with a length of which nothing need follow.
pub fn frame_head(first: u8, masked: bool, len: u64) -> Vec<u8> {
    let bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ 0..126), _) => bytes.push(bit | short),
        (_, Ok(medium)) => {
            bytes.push(bit | 126);
            bytes.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            bytes.push(bit | 127);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
    }
    if masked {
        bytes.extend_from_slice(&MASK);
    }
    bytes
}

/// The first frame and its length, when it is all there.
pub(super) fn parse(input: &[u8]) -> anyhow::Result<Option<(ServerFrame, usize)>> {
    let [first, second, ..] = input[..] else { return Ok(None) };
    ensure!(first & 0x70 == 0 && second & 0x80 == 0, "no frame of a server: {first:#x} {second:#x}");
    let (length, at) = match second {
        126 => (input.get(2..4).map(|b| b.iter().fold(0, |n, b| n << 8 | usize::from(*b))), 4),
        127 => (input.get(2..10).map(|b| b.iter().fold(0, |n, b| n << 8 | usize::from(*b))), 10),
        short => (Some(usize::from(short)), 2),
    };
    let Some(payload) = length.and_then(|length| input.get(at..at + length)) else { return Ok(None) };
    Ok(Some((ServerFrame { first, payload: payload.to_vec() }, at + payload.len())))
}
