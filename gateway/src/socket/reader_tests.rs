use std::future::poll_fn;

use proptest::prelude::*;
use tokio::io::{AsyncWriteExt, duplex};

use super::*;

fn frame(fin: bool, opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [7, 1, 200, 33];
    let mut bytes = vec![u8::from(fin) << 7 | opcode];
    match payload.len() {
        n if n < 126 => bytes.push(0x80 | n as u8),
        n if n < 65_536 => {
            bytes.push(0x80 | 126);
            bytes.extend((n as u16).to_be_bytes());
        }
        n => {
            bytes.push(0x80 | 127);
            bytes.extend((n as u64).to_be_bytes());
        }
    }
    bytes.extend(mask);
    bytes.extend(payload.iter().enumerate().map(|(i, b)| b ^ mask[i & 3]));
    bytes
}

/// Feeds the bytes cut at the given places; between the cuts the reader is polled once and dropped.
async fn feed(bytes: &[u8], cuts: &[usize], limit: usize) -> Vec<Result<Incoming, ReadError>> {
    let (mut near, mut far) = duplex(1 << 20);
    let mut reader = Reader::new(limit);
    let mut got = Vec::new();
    let mut ends: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    let mut at = 0;
    for end in ends {
        near.write_all(&bytes[at..end]).await.expect("write");
        at = end;
        loop {
            // One poll that may be pending: what a select! arm does when another arm wins.
            let polled = poll_fn(|cx| Poll::Ready(reader.poll_next(&mut far, cx))).await;
            match polled {
                Poll::Ready(Ok(incoming)) => got.push(Ok(incoming)),
                Poll::Ready(Err(error)) => {
                    got.push(Err(error));
                    return got;
                }
                Poll::Pending => break,
            }
        }
    }
    assert!(reader.raw.capacity() == 0 || !reader.raw.is_empty(), "keeps a buffer while idle");
    got
}

fn code(got: &[Result<Incoming, ReadError>]) -> Option<u16> {
    match got.last() {
        Some(Err(ReadError::Protocol { code, .. })) => Some(*code),
        _ => None,
    }
}

#[tokio::test]
async fn messages_survive_every_cut() {
    let long = "ä".repeat(3_000);
    let mut bytes = frame(true, 1, b"hello");
    bytes.extend(frame(false, 1, &long.as_bytes()[..4_096 - 1]));
    bytes.extend(frame(true, 9, b"ping between"));
    bytes.extend(frame(true, 0, &long.as_bytes()[4_096 - 1..]));
    bytes.extend(frame(true, 10, &7u64.to_be_bytes()));
    bytes.extend(frame(true, 8, &1001u16.to_be_bytes()));
    for step in [1, 2, 3, 7, 100, 4_096] {
        let cuts: Vec<usize> = (0..bytes.len()).step_by(step).collect();
        let got: Vec<Incoming> = feed(&bytes, &cuts, 128 << 10).await.into_iter().map(|r| r.expect("frame")).collect();
        assert_eq!(
            got,
            vec![
                Incoming::Text("hello".into()),
                Incoming::Fragment,
                Incoming::Ping(b"ping between".to_vec()),
                Incoming::Text(long.clone()),
                Incoming::Pong(7u64.to_be_bytes().to_vec()),
                Incoming::Close(Some(1001)),
            ],
            "step {step}"
        );
    }
}

#[tokio::test]
async fn what_the_protocol_forbids_is_told_by_code() {
    let mut unmasked = frame(true, 1, b"x");
    unmasked[1] &= 0x7f;
    let mut reserved = frame(true, 1, b"x");
    reserved[0] |= 0x40;
    let twice = [frame(false, 1, b"a"), frame(true, 1, b"b")].concat();
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", unmasked, 1002),
        ("reserved bit", reserved, 1002),
        ("unknown opcode", frame(true, 3, b""), 1002),
        ("continuation of nothing", frame(true, 0, b"x"), 1002),
        ("message within a message", twice, 1002),
        ("fragmented ping", frame(false, 9, b""), 1002),
        ("long ping", frame(true, 9, &[0; 126]), 1002),
        ("close of one byte", frame(true, 8, b"x"), 1002),
        ("close code 1005", frame(true, 8, &1005u16.to_be_bytes()), 1002),
        ("text is no UTF-8", frame(true, 1, &[0xff, 0xfe]), 1007),
        ("close reason is no UTF-8", frame(true, 8, &[3, 232, 0xff]), 1007),
        ("too big at once", frame(true, 1, &[b'x'; 1_001]), 1009),
        ("too big in all fragments", [frame(false, 1, &[b'x'; 600]), frame(true, 0, &[b'x'; 600])].concat(), 1009),
    ];
    for (name, bytes, wanted) in cases {
        assert_eq!(code(&feed(&bytes, &[], 1_000).await), Some(wanted), "{name}");
    }
}

#[tokio::test]
async fn an_announced_length_over_the_limit_is_refused_before_its_bytes_come() {
    let head = [0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert_eq!(code(&feed(&head, &[], 1_000).await), Some(1009));
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..400), cuts in proptest::collection::vec(0usize..400, 0..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(feed(&bytes, &cuts, 1_000));
    }
}
