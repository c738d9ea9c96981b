//! Private keys in PEM with a passphrase of the old kind (RFC 1421 headers, as OpenSSL and `ssh-keygen -m PEM` write them):
//! brought into the form without one, which the library reads for every algorithm.

use aws_lc_rs::{
    cipher::{AES_128, AES_192, AES_256, Algorithm, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey},
    iv::FixedLength,
};
use data_encoding::{BASE64, HEXUPPER_PERMISSIVE};
use md5::{Digest as _, Md5};
use secrecy::SecretString;

/// Why it stays encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Its form is not what its headers say.
    #[error("the encrypted key cannot be read")]
    Malformed,
    /// Another cipher than AES in CBC mode.
    #[error("it is encrypted with a cipher that is not AES-CBC; ssh-keygen -p rewrites it")]
    Cipher,
    /// None was given.
    #[error("The key is encrypted")]
    NoPassphrase,
    /// Another one.
    #[error("the passphrase is wrong")]
    Passphrase,
}

/// The key without its passphrase. `None`: it has none of this kind.
///
/// # Errors
/// [`PemError`].
pub fn decrypted(text: &str, passphrase: Option<&str>) -> Option<Result<SecretString, PemError>> {
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.starts_with("-----BEGIN "));
    let begin = lines.next()?;
    let rest: Vec<&str> = lines.collect();
    if !rest.contains(&"Proc-Type: 4,ENCRYPTED") {
        return None;
    }
    Some(decrypt(begin, &rest, passphrase))
}

fn decrypt(begin: &str, rest: &[&str], passphrase: Option<&str>) -> Result<SecretString, PemError> {
    let info = rest.iter().find_map(|line| line.strip_prefix("DEK-Info: ")).ok_or(PemError::Malformed)?;
    let (name, iv) = info.split_once(',').ok_or(PemError::Malformed)?;
    let (algorithm, length): (&'static Algorithm, usize) = match name {
        "AES-128-CBC" => (&AES_128, 16),
        "AES-192-CBC" => (&AES_192, 24),
        "AES-256-CBC" => (&AES_256, 32),
        _ => return Err(PemError::Cipher),
    };
    let iv = HEXUPPER_PERMISSIVE.decode(iv.as_bytes()).map_err(|_| PemError::Malformed)?;
    let iv: [u8; 16] = iv.try_into().map_err(|_| PemError::Malformed)?;
    let body = rest.iter().skip_while(|line| !line.is_empty()).take_while(|line| !line.starts_with("-----END "));
    let mut bytes = BASE64.decode(body.copied().collect::<String>().as_bytes()).map_err(|_| PemError::Malformed)?;
    let key = derive(passphrase.ok_or(PemError::NoPassphrase)?.as_bytes(), &iv[..8], length);
    let key = UnboundCipherKey::new(algorithm, &key).and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
    let key = key.map_err(|_| PemError::Malformed)?;
    let context = DecryptionContext::Iv128(FixedLength::from(iv));
    // Whatever the passphrase, something comes out: a wrong one shows at the padding, or where the key begins.
    let plain = key.decrypt(&mut bytes, context).map_err(|_| PemError::Passphrase)?;
    if plain.first() != Some(&0x30) {
        return Err(PemError::Passphrase);
    }
    let end = begin.replace("BEGIN", "END");
    Ok(format!("{begin}\n{}\n{end}\n", wrapped(&BASE64.encode(plain))).into())
}

/// As OpenSSL's EVP_BytesToKey with MD5, once.
fn derive(passphrase: &[u8], salt: &[u8], length: usize) -> Vec<u8> {
    let (mut key, mut last) = (Vec::new(), Vec::new());
    while key.len() < length {
        last = Md5::new().chain_update(&last).chain_update(passphrase).chain_update(salt).finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(length);
    key
}

fn wrapped(text: &str) -> String {
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    /// Made by `ssh-keygen -t ecdsa -m PEM -N hunter2`, for this test alone.
    const EC: &str = include_str!("pem_tests/ecdsa");
    /// The same by `openssl ec -aes256`.
    const EC_256: &str = include_str!("pem_tests/ecdsa256");

    fn read(text: &str, passphrase: Option<&str>) -> Result<SecretString, PemError> {
        decrypted(text, passphrase).unwrap()
    }

    #[test]
    fn a_key_comes_out_of_its_passphrase() {
        for text in [EC, EC_256] {
            let plain = read(text, Some("hunter2")).unwrap();
            let key = russh::keys::decode_secret_key(plain.expose_secret(), None).unwrap();
            assert!(matches!(key.algorithm(), russh::keys::Algorithm::Ecdsa { .. }));
            assert_eq!(read(text, None).unwrap_err(), PemError::NoPassphrase);
            assert_eq!(read(text, Some("hunter3")).unwrap_err(), PemError::Passphrase);
        }
    }

    #[test]
    fn what_cannot_be_decrypted_says_why_and_what_has_no_passphrase_is_left_alone() {
        let with = |info: &str| EC.replace(EC.lines().nth(2).unwrap(), info);
        for (info, why) in [
            ("DEK-Info: DES-EDE3-CBC,0011223344556677", PemError::Cipher),
            ("DEK-Info: AES-128-CBC,00", PemError::Malformed),
            ("DEK-Info: AES-128-CBC", PemError::Malformed),
            ("X: y", PemError::Malformed),
        ] {
            assert_eq!(read(&with(info), Some("hunter2")).unwrap_err(), why, "{info}");
        }
        assert!(decrypted("no key", None).is_none());
        assert!(decrypted("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n", None).is_none());
    }
}
