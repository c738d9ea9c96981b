//! Reads frames from a stream and keeps no buffer while idle: what arrives goes into an array on the stack, and only an
//! unfinished frame or message stays. Cancel-safe: nothing is lost when a read is dropped half-way.
//!
//! Limit, masks, fragments and UTF-8 are checked here, by message (RFC 6455 sections 5 to 8).

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use fastwebsockets::OpCode;
use tokio::io::{AsyncRead, ReadBuf};

/// What one read takes from the socket at most.
const CHUNK: usize = 4_096;

/// What came in.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text message.
    Text(String),
    /// A whole binary message, of so many bytes.
    Binary(usize),
    /// A frame of a message that goes on: a sign of life.
    Fragment,
    /// A ping, to be answered with the same payload.
    Ping(Vec<u8>),
    /// A pong.
    Pong(Vec<u8>),
    /// The peer closes; with a code, if it gave one.
    Close(Option<u16>),
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The stream ended without a close frame.
    #[error("the connection ended")]
    Eof,
    /// The stream broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// The peer broke the protocol; it is told the code.
    #[error("{why}")]
    Protocol {
        /// Close code: 1002, 1007 or 1009.
        code: u16,
        /// Why, for the log and the close frame.
        why: &'static str,
    },
}

fn broken(why: &'static str) -> ReadError {
    ReadError::Protocol { code: 1002, why }
}

const TOO_BIG: ReadError = ReadError::Protocol { code: 1009, why: "message too big" };

const NO_UTF8: ReadError = ReadError::Protocol { code: 1007, why: "text is not UTF-8" };

/// The reading side of one connection.
#[derive(Debug)]
pub struct Reader {
    /// Longest message, in bytes.
    limit: usize,
    /// Raw bytes of frames that are not read yet.
    raw: Vec<u8>,
    /// A message of which fragments are missing. Boxed: few ever send one.
    open: Option<Box<Open>>,
}

/// The fragments so far.
#[derive(Debug)]
struct Open {
    /// What the first one was.
    opcode: OpCode,
    /// Their payloads.
    payload: Vec<u8>,
}

fn is_control(opcode: OpCode) -> bool {
    matches!(opcode, OpCode::Close | OpCode::Ping | OpCode::Pong)
}

struct Head {
    fin: bool,
    opcode: OpCode,
    mask: [u8; 4],
    payload_at: usize,
    len: usize,
}

impl Reader {
    /// For messages of at most `limit` bytes in all their fragments.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { limit, raw: Vec::new(), open: None }
    }

    /// The next frame or message.
    ///
    /// # Errors
    /// [`ReadError`]; nothing may be read after one.
    pub fn poll_next<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Incoming, ReadError>> {
        loop {
            if let Some(incoming) = self.parse()? {
                return Poll::Ready(Ok(incoming));
            }
            let mut chunk = [0; CHUNK];
            let mut buf = ReadBuf::new(&mut chunk);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                return Poll::Ready(Err(ReadError::Eof));
            }
            self.raw.extend_from_slice(buf.filled());
        }
    }

    /// Reads away what still comes, to the end. Closing over bytes that nobody has read resets the connection, and a reset
    /// may overtake the close frame.
    pub fn poll_discard<S: AsyncRead + Unpin>(stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let mut chunk = [0; CHUNK];
            let mut buf = ReadBuf::new(&mut chunk);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            if read.is_err() || buf.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Incoming>, ReadError> {
        let Some(head) = self.head()? else {
            return Ok(None);
        };
        let end = head.payload_at + head.len;
        if self.raw.len() < end {
            return Ok(None);
        }
        let mut payload = self.raw[head.payload_at..end].to_vec();
        for (i, byte) in payload.iter_mut().enumerate() {
            *byte ^= head.mask[i & 3];
        }
        if self.raw.len() == end {
            self.raw = Vec::new();
        } else {
            self.raw.drain(..end);
        }
        self.take(&head, payload).map(Some)
    }

    /// Reads and checks a frame's head; `None` while it is not all there.
    fn head(&self) -> Result<Option<Head>, ReadError> {
        let [first, second, ..] = self.raw[..] else {
            return Ok(None);
        };
        if first & 0x70 != 0 {
            return Err(broken("reserved bits are set"));
        }
        let opcode = OpCode::try_from(first & 0x0f).map_err(|_| broken("unknown opcode"))?;
        if second & 0x80 == 0 {
            return Err(broken("frame is not masked"));
        }
        let fin = first & 0x80 != 0;
        let short = usize::from(second & 0x7f);
        if is_control(opcode) && (!fin || short > 125) {
            return Err(broken("control frame is fragmented or too long"));
        }
        let (len, mask_at) = match short {
            126 => match self.raw.get(2..4) {
                Some(&[a, b]) => (usize::from(u16::from_be_bytes([a, b])), 4),
                _ => return Ok(None),
            },
            127 => match self.raw.get(2..10).and_then(|b| <[u8; 8]>::try_from(b).ok()) {
                Some(bytes) => (usize::try_from(u64::from_be_bytes(bytes)).unwrap_or(usize::MAX), 10),
                None => return Ok(None),
            },
            short => (short, 2),
        };
        match (opcode, &self.open) {
            (OpCode::Continuation, None) => return Err(broken("continuation of nothing")),
            (OpCode::Text | OpCode::Binary, Some(_)) => return Err(broken("message begins within another")),
            _ => {}
        }
        // By what is announced: a message that cannot fit is refused before its bytes are taken.
        let before = self.open.as_ref().map_or(0, |open| open.payload.len());
        if !is_control(opcode) && len > self.limit.saturating_sub(before) {
            return Err(TOO_BIG);
        }
        let Some(mask) = self.raw.get(mask_at..mask_at + 4).and_then(|m| <[u8; 4]>::try_from(m).ok()) else {
            return Ok(None);
        };
        Ok(Some(Head { fin, opcode, mask, payload_at: mask_at + 4, len }))
    }

    fn take(&mut self, head: &Head, payload: Vec<u8>) -> Result<Incoming, ReadError> {
        match head.opcode {
            OpCode::Ping => Ok(Incoming::Ping(payload)),
            OpCode::Pong => Ok(Incoming::Pong(payload)),
            OpCode::Close => close(&payload),
            OpCode::Text | OpCode::Binary if head.fin => whole(head.opcode, payload),
            OpCode::Text | OpCode::Binary => {
                self.open = Some(Box::new(Open { opcode: head.opcode, payload }));
                Ok(Incoming::Fragment)
            }
            OpCode::Continuation => {
                let Some(mut open) = self.open.take() else { return Err(broken("continuation of nothing")) };
                open.payload.extend_from_slice(&payload);
                if head.fin {
                    return whole(open.opcode, open.payload);
                }
                self.open = Some(open);
                Ok(Incoming::Fragment)
            }
        }
    }
}

fn whole(opcode: OpCode, payload: Vec<u8>) -> Result<Incoming, ReadError> {
    if opcode == OpCode::Text {
        String::from_utf8(payload).map(Incoming::Text).map_err(|_| NO_UTF8)
    } else {
        Ok(Incoming::Binary(payload.len()))
    }
}

/// Checks a close payload (RFC 6455 sections 5.5.1 and 7.4).
fn close(payload: &[u8]) -> Result<Incoming, ReadError> {
    match payload {
        [] => Ok(Incoming::Close(None)),
        [_] => Err(broken("close frame of one byte")),
        [a, b, reason @ ..] => {
            let code = u16::from_be_bytes([*a, *b]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(broken("close code is not allowed"));
            }
            std::str::from_utf8(reason).map_err(|_| NO_UTF8)?;
            Ok(Incoming::Close(Some(code)))
        }
    }
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
