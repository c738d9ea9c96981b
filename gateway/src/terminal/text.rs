//! Bytes of a shell as text: a character that is split over two reads is put together, and what is none becomes U+FFFD.

/// Longest beginning of a character that is not whole yet.
const OPEN_MAX: usize = 3;

/// Puts text together.
#[derive(Debug, Default)]
pub struct Decoder {
    open: Vec<u8>,
}

impl Decoder {
    /// The text of these bytes and of what was left of those before.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.open);
        all.extend_from_slice(bytes);
        let mut text = String::with_capacity(all.len());
        let mut rest = &all[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    return text;
                }
                Err(error) => {
                    let (whole, wrong) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(whole));
                    match error.error_len() {
                        Some(length) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            rest = &wrong[length..];
                        }
                        None => {
                            debug_assert!(wrong.len() <= OPEN_MAX);
                            self.open = wrong.to_vec();
                            return text;
                        }
                    }
                }
            }
        }
    }

    /// Nothing more comes: what is left is no character.
    pub fn end(&mut self) -> String {
        let left = std::mem::take(&mut self.open);
        if left.is_empty() { String::new() } else { char::REPLACEMENT_CHARACTER.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn however_it_is_cut_the_text_is_the_same(text in any::<String>(), cuts in proptest::collection::vec(1_usize..7, 0..64)) {
            let (mut decoder, mut came) = (Decoder::default(), String::new());
            let mut rest = text.as_bytes();
            for cut in cuts {
                let (head, tail) = rest.split_at(cut.min(rest.len()));
                came.push_str(&decoder.push(head));
                rest = tail;
            }
            came.push_str(&decoder.push(rest));
            came.push_str(&decoder.end());
            prop_assert_eq!(came, text);
        }

        #[test]
        fn any_bytes_become_what_the_standard_library_makes_of_them(bytes in any::<Vec<u8>>(), at in 0_usize..200) {
            let (head, tail) = bytes.split_at(at.min(bytes.len()));
            let mut decoder = Decoder::default();
            let came = decoder.push(head) + &decoder.push(tail) + &decoder.end();
            prop_assert_eq!(came, String::from_utf8_lossy(&bytes).into_owned());
        }
    }
}
