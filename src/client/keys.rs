//! From the bytes that are typed to the texts that are sent: whole characters, no piece too long, and the escapes of
//! ssh taken out.

use gateway::terminal::text::Decoder;

/// The longest text of one message, in bytes.
pub const PIECE_MAX: usize = 8 << 10;

/// What became of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// To be sent.
    pub text: String,
    /// `~.` was typed: the session ends.
    pub leave: bool,
}

/// Where in a line the typing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// At its beginning, where `~` is special.
    Beginning,
    /// Behind such a `~`, which is held back.
    Tilde,
    Within,
}

/// Reads what is typed.
#[derive(Debug)]
pub struct Keys {
    decoder: Decoder,
    /// `None`: nothing is special.
    at: Option<At>,
}

impl Keys {
    /// With escapes, which only a person types.
    pub fn new(escapes: bool) -> Self {
        Self { decoder: Decoder::default(), at: escapes.then_some(At::Beginning) }
    }

    /// Some more bytes. A character that is not whole yet is held back.
    pub fn typed(&mut self, bytes: &[u8]) -> Typed {
        let text = self.decoder.push(bytes);
        let Some(mut at) = self.at else { return Typed { text, leave: false } };
        let mut sent = String::with_capacity(text.len() + 1);
        for c in text.chars() {
            at = match (at, c) {
                (At::Beginning, '~') => At::Tilde,
                (At::Tilde, '.') => return Typed { text: sent, leave: true },
                (At::Tilde, '~') => {
                    sent.push('~');
                    At::Within
                }
                (before, c) => {
                    if before == At::Tilde {
                        sent.push('~');
                    }
                    sent.push(c);
                    if matches!(c, '\r' | '\n') { At::Beginning } else { At::Within }
                }
            };
        }
        self.at = Some(at);
        Typed { text: sent, leave: false }
    }

    /// Nothing more comes: what was held back.
    pub fn end(&mut self) -> String {
        let tilde = if self.at == Some(At::Tilde) { "~" } else { "" };
        tilde.to_owned() + &self.decoder.end()
    }
}

/// Cut between characters.
pub fn pieces(mut text: &str) -> Vec<String> {
    let mut pieces = Vec::with_capacity(text.len() / PIECE_MAX + 1);
    while !text.is_empty() {
        let (piece, rest) = text.split_at(text.floor_char_boundary(PIECE_MAX));
        pieces.push(piece.to_owned());
        text = rest;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is sent of some bytes that come one at a time, and whether the session ended.
    fn typed(keys: &mut Keys, bytes: &[u8]) -> (String, bool) {
        let mut sent = String::new();
        for byte in bytes {
            let typed = keys.typed(&[*byte]);
            sent.push_str(&typed.text);
            if typed.leave {
                return (sent, true);
            }
        }
        (sent, false)
    }

    #[test]
    fn tilde_and_dot_after_a_newline_leave() {
        for (bytes, sent, leave) in [
            ("~.", "", true),
            ("ls\r~.", "ls\r", true),
            ("ls\n~.rest", "ls\n", true),
            ("ls ~.", "ls ~.", false),
            ("~~.", "~.", false),
            ("\r~~", "\r~", false),
            ("~a~.", "~a~.", false),
            ("~\r~.", "~\r", true),
            ("a\r~/b~/c\r", "a\r~/b~/c\r", false),
        ] {
            assert_eq!(typed(&mut Keys::new(true), bytes.as_bytes()), (sent.to_owned(), leave), "{bytes:?}");
            let at_once = Keys::new(true).typed(bytes.as_bytes());
            assert_eq!(at_once, Typed { text: sent.to_owned(), leave }, "{bytes:?} at once");
        }
    }

    #[test]
    fn a_pipe_has_no_escapes() {
        assert_eq!(typed(&mut Keys::new(false), b"~.\n~~\n"), ("~.\n~~\n".to_owned(), false));
    }

    #[test]
    fn a_character_is_sent_whole_and_what_is_none_is_replaced() {
        let mut keys = Keys::new(true);
        assert_eq!(keys.typed(&[b'a', 0xe2, 0x82]).text, "a");
        assert_eq!(keys.typed(&[0xac]).text, "€");
        assert_eq!(keys.typed(&[0xff, b'b', 0xf0, 0x9f]).text, "\u{fffd}b");
        assert_eq!(keys.end(), "\u{fffd}");
        assert_eq!(keys.end(), "");
    }

    #[test]
    fn pieces_are_short_and_whole() {
        assert!(pieces("").is_empty());
        let text = "€".repeat(PIECE_MAX);
        let cut = pieces(&text);
        assert!(cut.len() == 4 && cut.iter().all(|piece| piece.len() <= PIECE_MAX), "{}", cut.len());
        assert_eq!(cut.concat(), text);
        assert_eq!(pieces("ls\r"), ["ls\r"]);
    }
}
