//! Tokens: JWT, HS256, and only that. A token names a session and its user; what the user may do is read from the store
//! at each request. Times are compared by the store's clock, without leeway.

use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The user.
    pub sub: Uuid,
    /// The session.
    #[serde(rename = "sessionId")]
    pub session_id: Uuid,
    /// Made, seconds since the Unix epoch.
    pub iat: i64,
    /// Good before, seconds since the Unix epoch.
    pub exp: i64,
}

/// Why a token is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not ours, or not a token.
    #[error("Invalid token")]
    Invalid,
    /// Was one.
    #[error("Token expired")]
    Expired,
}

/// Signs and checks.
pub struct Tokens {
    sign: EncodingKey,
    check: DecodingKey,
    validation: Validation,
}

impl Tokens {
    /// Derives the key from the server's secret, so that what is signed with it vouches for nothing else.
    #[must_use]
    pub fn new(secret: &SecretString) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(b"jwt");
        let key = mac.finalize().into_bytes();
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        // Compared below, by the store's clock.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        Self { sign: EncodingKey::from_secret(&key), check: DecodingKey::from_secret(&key), validation }
    }

    /// A token for these claims; `None` when it cannot be made.
    #[must_use]
    pub fn issue(&self, claims: &Claims) -> Option<String> {
        encode(&Header::new(Algorithm::HS256), claims, &self.sign).ok()
    }

    /// What the token says.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn verify(&self, token: &str, now_ms: i64) -> Result<Claims, TokenError> {
        let claims: Claims = decode(token, &self.check, &self.validation).map_err(|_| TokenError::Invalid)?.claims;
        if now_ms >= claims.exp.saturating_mul(1_000) { Err(TokenError::Expired) } else { Ok(claims) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_767_225_600;

    fn tokens(secret: &str) -> Tokens {
        Tokens::new(&SecretString::from(secret.to_owned()))
    }

    fn claims() -> Claims {
        Claims { sub: Uuid::from_u128(1), session_id: Uuid::from_u128(2), iat: NOW, exp: NOW + 60 }
    }

    #[test]
    fn a_token_is_good_until_its_last_millisecond() {
        let tokens = tokens("one");
        let token = tokens.issue(&claims()).unwrap();
        assert_eq!(tokens.verify(&token, (NOW + 60) * 1_000 - 1), Ok(claims()));
        assert_eq!(tokens.verify(&token, (NOW + 60) * 1_000), Err(TokenError::Expired));
    }

    #[test]
    fn a_token_of_another_secret_or_algorithm_is_none() {
        let ours = tokens("one");
        let theirs = tokens("two").issue(&claims()).unwrap();
        assert_eq!(ours.verify(&theirs, NOW * 1_000), Err(TokenError::Invalid));
        let hs512 = encode(&Header::new(Algorithm::HS512), &claims(), &ours.sign).unwrap();
        assert_eq!(ours.verify(&hs512, NOW * 1_000), Err(TokenError::Invalid));
        // {"alg":"none","typ":"JWT"}
        let body = ours.issue(&claims()).unwrap();
        let body = body.split('.').nth(1).unwrap();
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
        assert_eq!(ours.verify(&unsigned, NOW * 1_000), Err(TokenError::Invalid));
        for garbage in ["", ".", "..", "a.b.c", &"x".repeat(10_000)] {
            assert_eq!(ours.verify(garbage, NOW * 1_000), Err(TokenError::Invalid), "{garbage:.20}");
        }
    }

    #[test]
    fn the_key_is_not_the_secret_itself() {
        let raw = EncodingKey::from_secret(b"one");
        let token = encode(&Header::new(Algorithm::HS256), &claims(), &raw).unwrap();
        assert_eq!(tokens("one").verify(&token, NOW * 1_000), Err(TokenError::Invalid));
    }

    #[test]
    fn claims_have_the_names_of_the_protocol() {
        let json = serde_json::to_value(claims()).unwrap();
        let names: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["exp", "iat", "sessionId", "sub"]);
    }
}
