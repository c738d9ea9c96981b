//! Credentials on their way over the bus: sealed with AES-256-GCM, by a key that is derived from the server's secret. A
//! seal is bound to its terminal, so that it opens nothing else.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use sha2::Sha256;
use uuid::Uuid;

/// It was sealed for something else, with another secret, or it is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("sealed for another terminal, or by a gateway with another secret")]
pub struct BadSeal;

/// Seals and opens.
pub struct Seal(LessSafeKey);

impl Seal {
    /// Derives the key, so that what is sealed with it has to do with nothing else.
    #[must_use]
    pub fn new(secret: &SecretString) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(b"terminal seal");
        let key = UnboundKey::new(&AES_256_GCM, &mac.finalize().into_bytes())
            .unwrap_or_else(|_| unreachable!("SHA-256 is as long as the key"));
        Self(LessSafeKey::new(key))
    }

    /// Seals a value for one terminal, as hex digits.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn seal<T: Serialize>(&self, terminal: Uuid, value: &T) -> Result<String, BadSeal> {
        let mut text = serde_json::to_vec(value).map_err(|_| BadSeal)?;
        // Random: a terminal is opened once.
        let nonce: [u8; NONCE_LEN] = rand::random();
        let aad = Aad::from(*terminal.as_bytes());
        self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut text).map_err(|_| BadSeal)?;
        Ok(nonce.iter().chain(&text).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`BadSeal`].
    pub fn open<T: DeserializeOwned>(&self, terminal: Uuid, sealed: &str) -> Result<T, BadSeal> {
        let mut bytes = from_hex(sealed).ok_or(BadSeal)?;
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(BadSeal)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| BadSeal)?;
        let aad = Aad::from(*terminal.as_bytes());
        let text = self.0.open_in_place(nonce, aad, text).map_err(|_| BadSeal)?;
        serde_json::from_slice(text).map_err(|_| BadSeal)
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(secret: &str) -> Seal {
        Seal::new(&SecretString::from(secret.repeat(32)))
    }

    #[test]
    fn what_was_sealed_is_opened_for_its_terminal_alone() {
        let (ours, id) = (seal("a"), Uuid::from_u128(7));
        let sealed = ours.seal(id, &"hunter2").unwrap();
        assert!(!sealed.contains("hunter2"));
        assert_eq!(ours.open::<String>(id, &sealed).unwrap(), "hunter2");
        assert_eq!(ours.open::<String>(Uuid::from_u128(8), &sealed), Err(BadSeal));
        assert_eq!(seal("b").open::<String>(id, &sealed), Err(BadSeal));
        assert_ne!(ours.seal(id, &"hunter2").unwrap(), sealed, "no two seals are alike");
    }

    #[test]
    fn what_is_no_seal_is_refused() {
        let (ours, id) = (seal("a"), Uuid::from_u128(7));
        let sealed = ours.seal(id, &"hunter2").unwrap();
        let mut changed = sealed.clone();
        changed.replace_range(40..41, if &sealed[40..41] == "0" { "1" } else { "0" });
        for none in ["", "0", "zz", "ä0", &sealed[..23], &sealed[..60], &changed] {
            assert_eq!(ours.open::<String>(id, none), Err(BadSeal), "{none:?}");
        }
    }
}
