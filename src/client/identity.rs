//! A private key's file: whether it is one, and whether a passphrase is needed.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};

/// The longest file, in bytes: RSA keys of 16,384 bits are below it.
const FILE_MAX: u64 = 64 << 10;
/// How the inside of an OpenSSH key begins whose cipher is `none`: `openssh-key-v1`, a zero, a length of 4, the name.
const NOT_ENCRYPTED: &str = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU";

/// Reads it.
///
/// # Errors
/// When it cannot be read or holds no private key.
pub fn read(path: &Path) -> anyhow::Result<SecretString> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
    file.take(FILE_MAX + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    if text.len() as u64 > FILE_MAX {
        bail!("{shown} is longer than a key");
    }
    if !text.contains("PRIVATE KEY-----") {
        bail!("{shown} holds no private key in OpenSSH or PEM form; the one without .pub is meant");
    }
    Ok(text.into())
}

/// Does it need a passphrase, as far as can be seen?
pub fn is_encrypted(key: &SecretString) -> bool {
    let text = key.expose_secret();
    let inside = text.split("-----BEGIN OPENSSH PRIVATE KEY-----").nth(1);
    let inside = inside.map(|inside| inside.split_whitespace().collect::<String>());
    text.contains("ENCRYPTED") || inside.is_some_and(|inside| !inside.starts_with(NOT_ENCRYPTED))
}

/// Does a server's refusal say that a passphrase is missing?
pub fn wants_passphrase(said: &str) -> bool {
    let said = said.to_lowercase();
    said.contains("passphrase") || said.contains("encrypted")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encrypted(text: &str) -> bool {
        is_encrypted(&text.to_owned().into())
    }

    #[test]
    fn a_key_shows_whether_it_is_encrypted() {
        // As ssh-keygen begins them, with and without -N ''.
        let open = "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZW";
        let shut = "b3BlbnNzaC1rZXktdjEAAAAACmFlczI1Ni1jdHIAAAAGYmNyeXB0AAAAGAAAABDH9uwT3d";
        let openssh = |inside: &str| {
            format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{inside}\n-----END OPENSSH PRIVATE KEY-----\n")
        };
        assert!(!encrypted(&openssh(open)));
        assert!(!encrypted(&openssh(open).replace('\n', "\r\n")));
        assert!(encrypted(&openssh(shut)));
        assert!(encrypted("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIF\n"));
        assert!(encrypted("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"));
        assert!(!encrypted("-----BEGIN PRIVATE KEY-----\nMIIE\n"));
        assert!(!encrypted("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n"));
    }

    #[test]
    fn a_server_may_say_so_too() {
        assert!(wants_passphrase("Failed to parse private key: ssh: this private key is passphrase protected"));
        assert!(wants_passphrase("Failed to parse private key: The key is encrypted"));
        assert!(!wants_passphrase("Failed to connect: the host refused the login; it takes publickey"));
    }

    #[test]
    fn what_is_no_private_key_is_refused() {
        let base = tempfile::tempdir().expect("tempdir");
        let path = base.path().join("id.pub");
        std::fs::write(&path, "ssh-ed25519 AAAA ann").expect("write");
        assert!(read(&path).expect_err("public").to_string().contains("no private key"));
        std::fs::write(&path, "x".repeat(100_000)).expect("write");
        assert!(read(&path).expect_err("long").to_string().contains("longer"));
        assert!(read(&base.path().join("none")).is_err());
    }
}
