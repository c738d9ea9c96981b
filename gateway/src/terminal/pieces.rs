//! Input in pieces. Agents read frames of 64 KiB at most and hang up on a longer one (protocol 6-2); escaped as JSON, a
//! piece of control characters takes six times its length.

/// Longest piece, in bytes: 48 KiB at worst as JSON.
pub const MAX: usize = 8 << 10;

/// Cuts text into pieces, between characters.
pub fn of(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut at = rest.len().min(MAX);
        while !rest.is_char_boundary(at) {
            at -= 1;
        }
        let (piece, left) = rest.split_at(at);
        rest = left;
        (!piece.is_empty()).then_some(piece)
    })
}

#[cfg(test)]
mod tests {
    use schemas::agent::{AGENT_READ_LIMIT, TerminalFrame};

    use super::*;

    #[test]
    fn pieces_make_the_whole_and_their_frames_are_read_whatever_they_hold() {
        for unit in ["\u{1}", "a", "ä", "€", "🦀", "\"", "\u{7f}"] {
            let text = unit.repeat(100_000 / unit.len());
            let pieces: Vec<&str> = of(&text).collect();
            assert_eq!(pieces.concat(), text);
            for data in pieces {
                let frame = TerminalFrame::SshProxyInput { session_id: &"f".repeat(64), data }.encode();
                assert!(frame.len() < AGENT_READ_LIMIT - 8_192, "{} bytes of {unit:?}", frame.len());
            }
        }
        assert_eq!(of("").count(), 0);
    }
}
