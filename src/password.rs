//! Passwords that Patchbay makes up or reads: for the first admin, and for `user add` and `user passwd`.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Context as _, bail};

use crate::{
    config::{Config, Password},
    data_dir::DataDir,
};

/// Nothing that looks like something else, and nothing that a shell or a double click would cut.
const ALPHABET: &[u8] = b"abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const LENGTH: usize = 24;
const FILE: &str = "admin-password";

/// 24 characters, 139 random bits.
pub fn generate() -> Password {
    let text: String = (0..LENGTH).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect();
    Password::new(&text).unwrap_or_else(|| unreachable!("{LENGTH} characters are a password"))
}

/// The first line of a reader, without its end.
///
/// # Errors
/// When there is none, or it is no password.
pub fn read_line(input: impl io::Read) -> anyhow::Result<Password> {
    let mut line = String::new();
    io::BufReader::new(input.take(4096)).read_line(&mut line).context("cannot read the password from stdin")?;
    let text = line.trim_end_matches(['\n', '\r']);
    match Password::new(text) {
        Some(password) => Ok(password),
        None if text.is_empty() => bail!("--password-stdin was given, but there is no password on stdin"),
        None => bail!(
            "the password on stdin has {} bytes; expected {} to {}",
            text.len(),
            Password::MIN_BYTES,
            Password::MAX_BYTES
        ),
    }
}

/// The password of the first admin, before that user is in the database.
pub struct FirstAdmin<'a> {
    data_dir: &'a DataDir,
    password: Password,
    how: How,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Given,
    OnTerminal,
    InFile,
}

impl<'a> FirstAdmin<'a> {
    /// Takes the configured password or generates one. Without a terminal it is written down here, before the user
    /// exists, so that no crash leaves a user whose password nobody knows.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prepare(config: &Config, data_dir: &'a DataDir) -> anyhow::Result<Self> {
        Self::choose(config.admin_password.clone(), data_dir, io::stderr().is_terminal())
    }

    fn choose(given: Option<Password>, data_dir: &'a DataDir, terminal: bool) -> anyhow::Result<Self> {
        let (password, how) = match given {
            Some(password) => (password, How::Given),
            None if terminal => (generate(), How::OnTerminal),
            None => (generate(), How::InFile),
        };
        if how == How::InFile {
            data_dir.write(FILE, password.expose())?;
        }
        Ok(Self { data_dir, password, how })
    }

    pub fn password(&self) -> &Password {
        &self.password
    }

    /// The user is in the database now: say where its password is.
    pub fn created(self, username: &str) {
        match self.how {
            How::Given => tracing::info!(username, "created the first user, with PATCHBAY_ADMIN_PASSWORD"),
            How::OnTerminal => {
                eprintln!(
                    "\n  First start. User: {username}  Password: {}\n  It is shown this once.\n",
                    self.password.expose()
                );
            }
            How::InFile => {
                let path = self.data_dir.path().join(FILE);
                tracing::info!(username, path = %path.display(), "created the first user; its password is in this file");
            }
        }
    }

    /// Somebody else created the user first: forget what was written down.
    ///
    /// # Errors
    /// When the file stays.
    pub fn not_needed(self) -> anyhow::Result<()> {
        if self.how == How::InFile { self.data_dir.remove(FILE) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_passwords_differ_and_fit() {
        let (one, two) = (generate(), generate());
        assert_ne!(one.expose(), two.expose());
        assert_eq!(one.expose().len(), LENGTH);
    }

    #[test]
    fn a_password_is_the_first_line_of_stdin() {
        assert_eq!(read_line(&b"001234567890 \r\nmore"[..]).expect("a password").expose(), "001234567890 ");
        for wrong in ["", "\n", "short\n", &"x".repeat(73)] {
            assert!(read_line(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn without_a_terminal_the_first_password_is_in_a_private_file() {
        let base = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(base.path()).expect("opens");
        let first = FirstAdmin::choose(None, &dir, false).expect("written");
        let text = std::fs::read_to_string(base.path().join(FILE)).expect("the file");
        assert_eq!(text.trim(), first.password().expose());
        first.not_needed().expect("removed");
        assert!(!base.path().join(FILE).exists());
    }

    #[test]
    fn a_given_or_shown_password_is_written_nowhere() {
        let base = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(base.path()).expect("opens");
        let given = FirstAdmin::choose(Password::new("correct horse"), &dir, false).expect("given");
        assert_eq!(given.password().expose(), "correct horse");
        given.created("admin");
        FirstAdmin::choose(None, &dir, true).expect("shown");
        assert!(!base.path().join(FILE).exists());
    }
}
