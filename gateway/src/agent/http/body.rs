//! What an agent posts, read within bounds of size and time. Agents never compress it (protocol 3), so the bytes that are
//! counted are the bytes that are read.

use std::time::Duration;

use axum::{
    body::Body,
    http::{
        HeaderMap,
        header::{CONTENT_ENCODING, CONTENT_LENGTH},
    },
};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, timeout},
};

use super::{super::hold::Hold, refusal::Refusal};

/// How long a body may take: as long as agents wait themselves (protocol 6-10).
const READ_TIME: Duration = Duration::from_secs(30);

/// How much of a refused body is read away, and for how long.
const DISCARDED: (usize, Duration) = (16 << 20, Duration::from_secs(5));

/// Bodies above this are parsed off the async threads: half a megabyte takes milliseconds.
const PARSED_INLINE: usize = 128 << 10;

/// A body that is not read yet.
pub(super) struct Posted {
    body: Body,
    declared: Option<usize>,
    encoded: bool,
}

impl Posted {
    /// Wraps a request's body.
    pub(super) fn new(headers: &HeaderMap, body: Body) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            body,
            declared: text(CONTENT_LENGTH).and_then(|n| n.parse().ok()),
            encoded: headers.get(CONTENT_ENCODING).is_some_and(|value| value != "identity"),
        }
    }

    /// Reads it.
    pub(super) async fn read(&mut self, limit: usize) -> Result<Bytes, Refusal> {
        self.read_within(limit, READ_TIME).await
    }

    async fn read_within(&mut self, limit: usize, time: Duration) -> Result<Bytes, Refusal> {
        if self.encoded {
            return Err(Refusal::Encoded);
        }
        if self.declared.is_some_and(|n| n > limit) {
            return Err(Refusal::TooLarge);
        }
        let reading = Limited::new(&mut self.body, limit).collect();
        match timeout(time, reading).await {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge),
            Ok(Err(_)) => Err(Refusal::Bad("Incomplete body")),
            Err(_) => Err(Refusal::TooSlow),
        }
    }

    /// Reads it once there is room to hold it. Answers also until when it may be held: the time it took to arrive does
    /// not count.
    pub(super) async fn read_to_hold(
        &mut self,
        limit: usize,
        hold: &Hold,
        until: Instant,
    ) -> Result<(Bytes, OwnedSemaphorePermit, Instant), Refusal> {
        if self.declared.is_some_and(|n| n > limit) {
            return Err(Refusal::TooLarge);
        }
        let room = hold.room_for(self.declared.unwrap_or(limit), until).await.ok_or(Refusal::Away)?;
        let begun = Instant::now();
        let bytes = self.read(limit).await?;
        Ok((bytes, room, until + begun.elapsed()))
    }

    /// Reads the rest away, within bounds.
    pub(super) async fn discard(mut self) {
        let (most, time) = DISCARDED;
        if self.declared.is_some_and(|n| n > most) {
            return;
        }
        let rest = async {
            let mut read = 0;
            while let Some(Ok(frame)) = self.body.frame().await {
                read += frame.data_ref().map_or(0, Bytes::len);
                if read > most {
                    return;
                }
            }
        };
        let _ = timeout(time, rest).await;
    }
}

/// Parses a body, off the async threads when it is big.
pub(super) async fn parsed<T: Send + 'static>(
    bytes: Bytes,
    parse: impl FnOnce(&[u8]) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    if bytes.len() <= PARSED_INLINE {
        return parse(&bytes);
    }
    tokio::task::spawn_blocking(move || parse(&bytes)).await.unwrap_or(Err(Refusal::Internal))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use futures_util::stream;

    use super::*;

    fn posted(declared: Option<usize>, chunks: &[&'static str]) -> Posted {
        let mut headers = HeaderMap::new();
        if let Some(n) = declared {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(n));
        }
        let chunks: Vec<Result<Bytes, std::io::Error>> = chunks.iter().map(|c| Ok(Bytes::from(*c))).collect();
        Posted::new(&headers, Body::from_stream(stream::iter(chunks)))
    }

    #[tokio::test]
    async fn the_limit_holds_with_and_without_a_declared_length() {
        assert_eq!(posted(Some(4), &["ab", "cd"]).read(4).await, Ok(Bytes::from("abcd")));
        assert_eq!(posted(None, &["ab", "cd"]).read(4).await, Ok(Bytes::from("abcd")));
        assert_eq!(posted(Some(5), &["abcde"]).read(4).await, Err(Refusal::TooLarge));
        assert_eq!(posted(None, &["ab", "cde"]).read(4).await, Err(Refusal::TooLarge));
        assert_eq!(posted(None, &[]).read(4).await, Ok(Bytes::new()));
    }

    #[tokio::test]
    async fn a_body_that_never_ends_is_given_up() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut posted = Posted::new(&HeaderMap::new(), never);
        assert_eq!(posted.read_within(4, Duration::from_millis(20)).await, Err(Refusal::TooSlow));
    }

    #[tokio::test]
    async fn a_compressed_body_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(Posted::new(&headers, Body::from("x")).read(4).await, Err(Refusal::Encoded));
    }

    #[tokio::test]
    async fn without_room_nothing_is_read() {
        let hold = Hold::new(1024);
        let soon = || Instant::now() + Duration::from_millis(100);
        let (_, room, _) = posted(Some(2), &["ab"]).read_to_hold(1024, &hold, soon()).await.unwrap();
        let refused = posted(Some(2), &["ab"]).read_to_hold(1024, &hold, soon()).await;
        assert_eq!(refused.err(), Some(Refusal::Away));
        drop(room);
        assert!(posted(None, &["ab"]).read_to_hold(1 << 20, &hold, soon()).await.is_ok());
    }
}
