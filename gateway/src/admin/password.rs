//! Passwords: how long one is, how one is made up, how it is hashed.

use super::AdminError;
use crate::agent::bcrypt::PASSWORD_MAX_BYTES;

/// Cost of passwords.
pub(super) const PASSWORD_COST: u32 = 12;

/// Shortest password that somebody chose, in characters.
pub const PASSWORD_MIN_CHARS: usize = 12;

/// Characters of a generated password: 24 of 56 are 139 random bits.
const GENERATED: usize = 24;

/// Nothing that looks like something else, and nothing that a shell or a URL would read otherwise.
const ALPHABET: &[u8; 56] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ2345679";

/// Hashes a password, which takes a fifth of a second: not on an async thread. None is ever cut.
///
/// # Errors
/// What bcrypt says of one that is too long.
pub fn hash_password(password: &str) -> Result<String, bcrypt::BcryptError> {
    bcrypt::non_truncating_hash(password, PASSWORD_COST)
}

/// The password, and once more when it was made up: then the answer carries it.
pub(super) fn choose(given: Option<String>) -> Result<(String, Option<String>), AdminError> {
    let Some(password) = given else {
        let password = generate();
        return Ok((password.clone(), Some(password)));
    };
    if password.chars().count() < PASSWORD_MIN_CHARS {
        return Err(AdminError::Invalid(format!("a password has at least {PASSWORD_MIN_CHARS} characters")));
    }
    if password.len() > PASSWORD_MAX_BYTES {
        // bcrypt would not read the rest, so any other rest would do as well.
        return Err(AdminError::Invalid(format!("a password has at most {PASSWORD_MAX_BYTES} bytes")));
    }
    Ok((password, None))
}

fn generate() -> String {
    (0..GENERATED).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chosen_password_has_bounds_and_a_generated_one_is_answered() {
        assert!(choose(Some("eleven char".into())).is_err());
        assert!(choose(Some("x".repeat(PASSWORD_MAX_BYTES + 1))).is_err());
        assert_eq!(choose(Some("correct horse".into())).unwrap(), ("correct horse".to_owned(), None));
        let (password, shown) = choose(None).unwrap();
        assert_eq!(shown.as_deref(), Some(password.as_str()));
        assert_eq!(password.len(), GENERATED);
        assert_ne!(generate(), generate());
    }
}
