//! Key pairs in the formats that people have, made by ssh-keygen.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::bail;
use parking_lot::Mutex;

/// What encrypted keys open with.
pub const PASSPHRASE: &str = "secret-1";

/// What a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of ssh-keygen")]
pub enum Algorithm {
    Ed25519,
    Ecdsa,
    Rsa,
}

impl Algorithm {
    fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Ecdsa => "ecdsa",
            Self::Rsa => "rsa",
        }
    }
}

/// How a private key is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `BEGIN OPENSSH PRIVATE KEY`
    OpenSsh,
    /// `BEGIN RSA PRIVATE KEY`, `BEGIN EC PRIVATE KEY`
    Pem,
    /// `BEGIN PRIVATE KEY`, `BEGIN ENCRYPTED PRIVATE KEY`
    Pkcs8,
}

/// One kind of private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyKind {
    /// What it is for.
    pub algorithm: Algorithm,
    /// How it is written.
    pub format: Format,
    /// Whether it opens only with [`PASSPHRASE`].
    pub encrypted: bool,
}

impl KeyKind {
    /// All that ssh-keygen writes: for Ed25519 it knows its own format only.
    pub fn all() -> Vec<Self> {
        let formats = [Format::OpenSsh, Format::Pem, Format::Pkcs8];
        let written = |algorithm: Algorithm| {
            let known = if algorithm == Algorithm::Ed25519 { &formats[..1] } else { &formats[..] };
            known.iter().flat_map(move |&format| [false, true].map(|encrypted| Self { algorithm, format, encrypted }))
        };
        [Algorithm::Ed25519, Algorithm::Ecdsa, Algorithm::Rsa].into_iter().flat_map(written).collect()
    }

    /// OpenSSH's own format, not encrypted.
    pub fn plain(algorithm: Algorithm) -> Self {
        Self { algorithm, format: Format::OpenSsh, encrypted: false }
    }
}

/// The key pairs of a server's user: one for each algorithm, written in each format.
pub struct KeyPairs {
    folder: PathBuf,
    /// Those that are let in already.
    made: Mutex<Vec<Algorithm>>,
}

impl KeyPairs {
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), made: Mutex::default() }
    }

    /// The private key, which from now on is let in.
    pub fn text(&self, kind: KeyKind) -> anyhow::Result<String> {
        let mut made = self.made.lock();
        let file = self.folder.join(format!("user_{}", kind.algorithm.name()));
        if !made.contains(&kind.algorithm) {
            generate(kind.algorithm.name(), &file)?;
            let mut allowed = fs::read_to_string(self.folder.join("authorized_keys"))?;
            allowed.push_str(&fs::read_to_string(file.with_extension("pub"))?);
            fs::write(self.folder.join("authorized_keys"), allowed)?;
            made.push(kind.algorithm);
        }
        // ssh-keygen rewrites a key in place.
        let copy = file.with_extension("copy");
        fs::copy(&file, &copy)?;
        let mut rewrite = keygen();
        rewrite.args(["-p", "-P", "", "-N", if kind.encrypted { PASSPHRASE } else { "" }]);
        match kind.format {
            Format::OpenSsh => {}
            Format::Pem => drop(rewrite.args(["-m", "PEM"])),
            Format::Pkcs8 => drop(rewrite.args(["-m", "PKCS8"])),
        }
        run(rewrite.arg("-f").arg(&copy))?;
        let text = fs::read_to_string(&copy)?;
        fs::remove_file(&copy)?;
        Ok(text)
    }
}

/// Makes a pair anew, the public half beside it with `.pub`.
pub fn generate(algorithm: &str, file: &Path) -> anyhow::Result<()> {
    for old in [file.to_owned(), file.with_extension("pub")] {
        if old.exists() {
            fs::remove_file(old)?;
        }
    }
    let mut make = keygen();
    make.args(["-q", "-t", algorithm, "-N", "", "-C", "test"]);
    if algorithm == "rsa" {
        make.args(["-b", "2048"]);
    }
    run(make.arg("-f").arg(file)).map(drop)
}

/// Of a key's public half.
pub fn fingerprint(file: &Path) -> anyhow::Result<String> {
    let said = run(keygen().arg("-l").arg("-f").arg(file.with_extension("pub")))?;
    match said.split_whitespace().nth(1) {
        Some(fingerprint) => Ok(fingerprint.to_owned()),
        None => bail!("ssh-keygen said {said:?}"),
    }
}

fn keygen() -> Command {
    Command::new("ssh-keygen")
}

fn run(command: &mut Command) -> anyhow::Result<String> {
    let done = command.stdin(Stdio::null()).output()?;
    if !done.status.success() {
        bail!("ssh-keygen: {}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
