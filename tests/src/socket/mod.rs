//! An agent's end of the socket: frames as gorilla's client writes and reads them.
//!
//! Frames are coded by tungstenite; the message layer is ours, because a scripted peer must be able to do what a good
//! library never does: pong late or not at all, stop reading, cut a message where the agents cut it.

mod upgrade;

use std::{io, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tokio_tungstenite::tungstenite::protocol::frame::{
    Frame, FrameHeader,
    coding::{Control, Data, OpCode},
};

pub use upgrade::{Refused, Upgrade, upgrade};

/// The agents' write buffer: a longer message goes out as a frame of this size and continuations (protocol 1.2).
pub const FRAGMENT_BYTES: usize = 4096;
/// The agents' read limit, by message (protocol 1.2).
pub const READ_LIMIT_BYTES: usize = 65_536;

const READ_CHUNK_BYTES: usize = 4096;

/// What can come from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A whole text or binary message; agents take both alike.
    Message(Bytes),
    /// With its payload.
    Ping(Bytes),
    /// With its payload.
    Pong(Bytes),
    /// With its code, if it had one.
    Close(Option<u16>),
}

/// Why nothing more comes.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// FIN.
    #[error("the server closed the connection")]
    Ended,
    /// RST and the like.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A message over [`READ_LIMIT_BYTES`].
    #[error("a message over {READ_LIMIT_BYTES} bytes")]
    TooBig,
    /// Something no server may send.
    #[error("{0}")]
    Protocol(String),
}

/// An open socket. While it is idle it holds no buffer, so that ten thousand of them stay small.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    input: BytesMut,
    /// A message of which fragments are missing.
    partial: Option<BytesMut>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, first_bytes: &[u8]) -> Self {
        Self { stream, input: BytesMut::from(first_bytes), partial: None }
    }

    /// The next message or control frame. Cancel-safe.
    pub async fn next(&mut self) -> Result<Incoming, SocketError> {
        loop {
            if let Some(incoming) = self.parse()? {
                return Ok(incoming);
            }
            self.stream.readable().await?;
            self.input.reserve(READ_CHUNK_BYTES);
            match self.stream.try_read_buf(&mut self.input) {
                Ok(0) => return Err(SocketError::Ended),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn parse(&mut self) -> Result<Option<Incoming>, SocketError> {
        while let Some((header, payload)) = self.parse_frame()? {
            match header.opcode {
                OpCode::Control(Control::Ping) => return Ok(Some(Incoming::Ping(payload))),
                OpCode::Control(Control::Pong) => return Ok(Some(Incoming::Pong(payload))),
                OpCode::Control(Control::Close) => {
                    let code = (payload.len() >= 2).then(|| u16::from_be_bytes([payload[0], payload[1]]));
                    return Ok(Some(Incoming::Close(code)));
                }
                OpCode::Data(Data::Continue) => {
                    let Some(mut message) = self.partial.take() else {
                        return Err(SocketError::Protocol("a continuation of nothing".into()));
                    };
                    message.extend_from_slice(&payload);
                    if header.is_final {
                        return Ok(Some(Incoming::Message(message.freeze())));
                    }
                    self.partial = Some(message);
                }
                OpCode::Data(_) if self.partial.is_some() => {
                    return Err(SocketError::Protocol("a message inside a message".into()));
                }
                OpCode::Data(_) if header.is_final => return Ok(Some(Incoming::Message(payload))),
                OpCode::Data(_) => self.partial = Some(BytesMut::from(&payload[..])),
                OpCode::Control(Control::Reserved(_)) => {
                    return Err(SocketError::Protocol("a reserved opcode".into()));
                }
            }
        }
        Ok(None)
    }

    fn parse_frame(&mut self) -> Result<Option<(FrameHeader, Bytes)>, SocketError> {
        let mut cursor = io::Cursor::new(&self.input[..]);
        let Some((header, length)) =
            FrameHeader::parse(&mut cursor).map_err(|error| SocketError::Protocol(error.to_string()))?
        else {
            return Ok(None);
        };
        let header_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
        if header.mask.is_some() || header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(SocketError::Protocol("a masked or compressed frame".into()));
        }
        // The limit counts the whole message: this frame and the fragments before it.
        let before = match header.opcode {
            OpCode::Data(_) => self.partial.as_ref().map_or(0, BytesMut::len),
            OpCode::Control(_) => 0,
        };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if length.saturating_add(before) > READ_LIMIT_BYTES {
            return Err(SocketError::TooBig);
        }
        if self.input.len() < header_bytes + length {
            return Ok(None);
        }
        self.input.advance(header_bytes);
        let payload = Bytes::copy_from_slice(&self.input[..length]);
        self.input.advance(length);
        if self.input.is_empty() {
            self.input = BytesMut::new();
        }
        Ok(Some((header, payload)))
    }

    /// Sends a text message, cut as the agents cut it.
    pub async fn send_text(&mut self, text: &str, deadline: Duration) -> io::Result<()> {
        let mut output = Vec::with_capacity(text.len() + 16);
        for frame in fragments(text.as_bytes()) {
            write_masked(frame, &mut output)?;
        }
        self.write(&output, deadline).await
    }

    /// Sends an empty ping.
    pub async fn send_ping(&mut self, deadline: Duration) -> io::Result<()> {
        self.send(Frame::ping(Bytes::new()), deadline).await
    }

    /// Sends a pong.
    pub async fn send_pong(&mut self, payload: Bytes, deadline: Duration) -> io::Result<()> {
        self.send(Frame::pong(payload), deadline).await
    }

    /// Sends a close frame without a reason, as the agents do.
    pub async fn send_close(&mut self, code: Option<u16>, deadline: Duration) -> io::Result<()> {
        let payload = code.map_or_else(Bytes::new, |code| Bytes::copy_from_slice(&code.to_be_bytes()));
        let header = FrameHeader { opcode: OpCode::Control(Control::Close), ..FrameHeader::default() };
        self.send(Frame::from_payload(header, payload), deadline).await
    }

    /// Sends a frame as it is, masked: for peers that break the rules on purpose.
    pub async fn send(&mut self, frame: Frame, deadline: Duration) -> io::Result<()> {
        let mut output = Vec::new();
        write_masked(frame, &mut output)?;
        self.write(&output, deadline).await
    }

    async fn write(&mut self, output: &[u8], deadline: Duration) -> io::Result<()> {
        tokio::time::timeout(deadline, self.stream.write_all(output))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Hangs up with RST instead of FIN.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// The raw connection: for peers that break the rules on purpose.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}

/// A message as frames of at most [`FRAGMENT_BYTES`].
fn fragments(message: &[u8]) -> Vec<Frame> {
    if message.is_empty() {
        return vec![Frame::message(Bytes::new(), OpCode::Data(Data::Text), true)];
    }
    let count = message.len().div_ceil(FRAGMENT_BYTES);
    message
        .chunks(FRAGMENT_BYTES)
        .enumerate()
        .map(|(index, chunk)| {
            let opcode = if index == 0 { Data::Text } else { Data::Continue };
            Frame::message(chunk.to_vec(), OpCode::Data(opcode), index + 1 == count)
        })
        .collect()
}

fn write_masked(mut frame: Frame, output: &mut Vec<u8>) -> io::Result<()> {
    frame.header_mut().mask = Some(rand::random());
    frame.format(output).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    fn shape(message: &[u8]) -> Vec<(usize, bool)> {
        fragments(message).iter().map(|frame| (frame.payload().len(), frame.header().is_final)).collect()
    }

    #[test]
    fn long_messages_are_cut_at_4096_bytes() {
        // ssh-proxy-big-output: frames [4096, 317].
        assert_eq!(shape(&[b'x'; 4413]), [(4096, false), (317, true)]);
        assert_eq!(shape(&[b'x'; 4096]), [(4096, true)]);
        assert_eq!(shape(&[b'x'; 8193]), [(4096, false), (4096, false), (1, true)]);
        assert_eq!(shape(b""), [(0, true)]);
    }

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (Socket::new(client, b""), server)
    }

    fn unmasked(payload: &[u8], opcode: OpCode, is_final: bool) -> Vec<u8> {
        let mut output = Vec::new();
        let header = FrameHeader { is_final, opcode, ..FrameHeader::default() };
        Frame::from_payload(header, Bytes::copy_from_slice(payload)).format(&mut output).unwrap();
        output
    }

    #[tokio::test]
    async fn fragments_are_joined_and_pings_may_come_between() {
        let (mut socket, mut server) = pair().await;
        for frame in [
            unmasked(b"{\"a\":", OpCode::Data(Data::Text), false),
            unmasked(b"7", OpCode::Control(Control::Ping), true),
            unmasked(b"1}", OpCode::Data(Data::Continue), true),
            unmasked(&1001_u16.to_be_bytes(), OpCode::Control(Control::Close), true),
        ] {
            server.write_all(&frame).await.unwrap();
        }
        drop(server);
        assert_eq!(socket.next().await.unwrap(), Incoming::Ping("7".into()));
        assert_eq!(socket.next().await.unwrap(), Incoming::Message("{\"a\":1}".into()));
        assert_eq!(socket.next().await.unwrap(), Incoming::Close(Some(1001)));
        assert!(matches!(socket.next().await, Err(SocketError::Ended)));
    }

    #[tokio::test]
    async fn the_read_limit_is_65536_bytes_in_all_fragments() {
        for (first, second, passes) in [(65_536, 0, true), (65_537, 0, false), (65_000, 537, false)] {
            let (mut socket, mut server) = pair().await;
            let whole = second == 0;
            let mut bytes = unmasked(&vec![b'x'; first], OpCode::Data(Data::Text), whole);
            if !whole {
                bytes.extend(unmasked(&vec![b'x'; second], OpCode::Data(Data::Continue), true));
            }
            tokio::spawn(async move {
                let _ = server.write_all(&bytes).await;
            });
            match socket.next().await {
                Ok(Incoming::Message(message)) => assert!(passes, "{}", message.len()),
                Err(SocketError::TooBig) => assert!(!passes),
                other => panic!("{other:?}"),
            }
        }
    }
}
