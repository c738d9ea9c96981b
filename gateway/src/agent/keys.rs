//! How a key is compared with what is stored of it. Pure, and in constant time wherever the key itself takes part.

use sha2::{Digest, Sha256};
use store::HostAuth;
use subtle::ConstantTimeEq;

/// Length of a key that is random enough for a fast hash: 64 hex digits are 256 bits.
const RANDOM_KEY_LEN: usize = 64;

/// Nobody's digest: what unknown ids are compared with, so that they cost what a wrong key costs.
pub const NOBODYS_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What is stored of a host's key, in the order in which it counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Stored<'a> {
    /// SHA-256 in hex. Where there is one, nothing else is asked.
    Digest(&'a str),
    /// bcrypt, which takes long.
    Bcrypt(&'a str),
    /// The key itself, of a host that was imported.
    Plaintext(&'a str),
    /// Nothing: no key fits.
    Nothing,
}

impl<'a> Stored<'a> {
    /// Reads a host's row.
    #[must_use]
    pub fn of(host: &'a HostAuth) -> Self {
        match (host.key_digest.as_deref(), host.key_hash.as_str()) {
            (Some(digest), _) if !digest.is_empty() => Self::Digest(digest),
            (_, "") => Self::Nothing,
            (_, hash) if looks_like_bcrypt(hash) => Self::Bcrypt(hash),
            (_, plaintext) => Self::Plaintext(plaintext),
        }
    }

    /// How metrics name it.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Digest(_) => "digest",
            Self::Bcrypt(_) => "bcrypt",
            Self::Plaintext(_) => "plaintext",
            Self::Nothing => "unknown",
        }
    }
}

/// SHA-256 of the key in lower-case hex, only for keys of exactly 64 hex digits: others may be guessed, and need a slow
/// hash.
#[must_use]
pub fn digest(key: &str) -> Option<String> {
    let random = key.len() == RANDOM_KEY_LEN && key.bytes().all(|b| b.is_ascii_hexdigit());
    random.then(|| sha256_hex(key))
}

/// Is it the key behind the digest?
#[must_use]
pub fn digest_matches(stored: &str, key: &str) -> bool {
    bool::from(stored.as_bytes().ct_eq(sha256_hex(key).as_bytes()))
}

/// Is it the stored key? Keys of another length are not compared at all. An empty one fits nobody.
#[must_use]
pub fn plaintext_matches(stored: &str, key: &str) -> bool {
    !stored.is_empty() && bool::from(stored.as_bytes().ct_eq(key.as_bytes()))
}

fn looks_like_bcrypt(stored: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|version| stored.starts_with(version))
}

fn sha256_hex(text: &str) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(RANDOM_KEY_LEN);
    for byte in Sha256::digest(text.as_bytes()) {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    hex
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "1414141414141414141414141414141414141414141414141414141414141414";

    fn host(key_hash: &str, key_digest: Option<&str>) -> HostAuth {
        HostAuth {
            id: uuid::Uuid::nil(),
            name: "web".into(),
            key_hash: key_hash.into(),
            key_digest: key_digest.map(str::to_owned),
            key_version: 1,
            flapping_until: 0,
        }
    }

    #[test]
    fn only_keys_of_64_hex_digits_have_a_digest() {
        assert!(digest(KEY).is_some_and(|d| d.len() == 64 && d != KEY));
        assert!(digest(&KEY.replace('1', "A")).is_some());
        for weak in ["", "secret", &KEY[1..], &format!("{KEY}0"), &KEY.replace('1', "g"), &"ä".repeat(32)] {
            assert_eq!(digest(weak), None, "{weak:?}");
        }
    }

    #[test]
    fn the_digest_is_sha_256_of_the_text_in_hex() {
        assert_eq!(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn a_digest_fits_its_own_key_only() {
        let stored = digest(KEY).unwrap();
        assert!(digest_matches(&stored, KEY));
        for wrong in ["", &KEY[1..], &KEY.replace('1', "2"), &stored] {
            assert!(!digest_matches(&stored, wrong), "{wrong:?}");
        }
        assert!(!digest_matches("", KEY));
        assert!(!digest_matches(NOBODYS_DIGEST, KEY));
    }

    #[test]
    fn legacy_plaintext_fits_only_the_whole_key() {
        assert!(plaintext_matches("legacy-key", "legacy-key"));
        for wrong in ["", "legacy-ke", "legacy-keys", "Legacy-key"] {
            assert!(!plaintext_matches("legacy-key", wrong), "{wrong:?}");
        }
        assert!(!plaintext_matches("", ""));
    }

    #[test]
    fn a_digest_goes_before_a_hash_and_nothing_stored_fits_nobody() {
        let bcrypt = "$2b$10$0123456789012345678901uGZLCTX1XH1fyx9AZQyrGXUqlWW0Kxe";
        assert!(Stored::of(&host(bcrypt, Some("d"))) == Stored::Digest("d"));
        assert!(Stored::of(&host("", Some("d"))) == Stored::Digest("d"));
        assert!(Stored::of(&host(bcrypt, None)) == Stored::Bcrypt(bcrypt));
        assert!(Stored::of(&host("$2y$broken", None)) == Stored::Bcrypt("$2y$broken"));
        assert!(Stored::of(&host(KEY, None)) == Stored::Plaintext(KEY));
        assert!(Stored::of(&host("", None)) == Stored::Nothing);
        assert!(Stored::of(&host("", Some(""))) == Stored::Nothing);
    }
}
