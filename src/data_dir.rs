//! The data directory: made, locked, and the small files in it that are ours rather than the store's.
//!
//! Everything in it is private to its user, whatever the umask.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};

use crate::config::Secret;

/// Makes an empty private file unless there is one, for a library that would make it with the umask's mode. SQLite gives
/// its journals the mode of the database.
///
/// # Errors
/// When it cannot be made or written to.
pub fn private_file(path: &Path) -> anyhow::Result<()> {
    let made = private().create(true).truncate(false).open(path);
    made.map(drop).with_context(|| format!("cannot write {}", path.display()))
}

/// The data directory, held by this process until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Closing it gives the lock back.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// One line when it cannot be made or written to; [`Held`] when another process has it.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        make(path).with_context(|| format!("cannot create the data directory {shown} (PATCHBAY_DATA_DIR)"))?;
        let lock_path = path.join("patchbay.lock");
        let mut lock = private()
            .read(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .with_context(|| format!("cannot write to the data directory {shown} (PATCHBAY_DATA_DIR)"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(anyhow!(Held { path: path.to_owned(), holder: holder.trim().to_owned() }));
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", lock_path.display()));
            }
        }
        // For people who look; the lock is what counts.
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .with_context(|| format!("cannot write to {}", lock_path.display()))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The secret of an embedded server that was given none: generated at the first start.
    ///
    /// # Errors
    /// When the file cannot be read or written, or holds less than a secret.
    pub fn secret(&self) -> anyhow::Result<Secret> {
        let path = self.path.join("secret");
        let shown = path.display();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let generated = random_hex();
                self.write("secret", &generated)?;
                generated
            }
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        let secret = Secret::new(text.trim());
        secret.with_context(|| {
            format!(
                "{shown} holds less than {} bytes; remove it to get a new one, which logs everybody out",
                Secret::MIN_BYTES
            )
        })
    }

    /// Writes a private file so that a crash leaves either nothing or all of it.
    ///
    /// # Errors
    /// When the directory doesn't take it.
    pub fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path.join(name);
        let unfinished = self.path.join(format!(".{name}.new"));
        let write = || {
            let mut file = private().create(true).truncate(true).open(&unfinished)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Removes a file of [`Self::write`]; one that isn't there is removed already.
    ///
    /// # Errors
    /// When it is there and stays there.
    pub fn remove(&self, name: &str) -> anyhow::Result<()> {
        let path = self.path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Another process has the data directory.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    holder: String,
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "another Patchbay holds the data directory {}", self.path.display())?;
        if !self.holder.is_empty() {
            write!(f, " (process {})", self.holder)?;
        }
        Ok(())
    }
}

impl std::error::Error for Held {}

fn make(path: &Path) -> anyhow::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_dir() => return Ok(()),
        Ok(_) => bail!("a file of that name is in the way"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    Ok(())
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

/// 256 random bits.
fn random_hex() -> String {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes[..]);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").permissions().mode() & 0o777
    }

    #[test]
    fn it_is_made_private_with_its_parents() {
        let base = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(&base.path().join("a/b")).expect("opens");
        assert_eq!(mode(dir.path()), 0o700);
        assert_eq!(mode(&dir.path().join("patchbay.lock")), 0o600);
    }

    #[test]
    fn a_second_holder_is_refused_until_the_first_is_gone() {
        let base = tempfile::tempdir().expect("tempdir");
        let first = DataDir::open(base.path()).expect("opens");
        let error = DataDir::open(base.path()).expect_err("held");
        assert!(error.is::<Held>());
        assert!(error.to_string().ends_with(&format!("(process {})", std::process::id())), "{error}");
        drop(first);
        DataDir::open(base.path()).expect("free again");
    }

    #[test]
    fn a_file_in_its_place_is_one_line() {
        let base = tempfile::tempdir().expect("tempdir");
        let file = base.path().join("data");
        fs::write(&file, "").expect("write");
        for path in [file.clone(), file.join("below")] {
            let line = format!("{:#}", DataDir::open(&path).expect_err("a file is in the way"));
            assert!(line.starts_with("cannot create the data directory") && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn the_secret_is_made_once_and_kept() {
        let base = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(base.path()).expect("opens");
        let secret = dir.secret().expect("made");
        assert_eq!(secret.expose().len(), 64);
        assert_eq!(mode(&base.path().join("secret")), 0o600);
        assert_eq!(dir.secret().expect("read").expose(), secret.expose());
    }

    #[test]
    fn a_secret_that_was_cut_short_is_refused() {
        let base = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(base.path()).expect("opens");
        fs::write(base.path().join("secret"), "short\n").expect("write");
        assert!(dir.secret().is_err());
    }

    #[test]
    fn a_private_file_keeps_what_it_holds() {
        let base = tempfile::tempdir().expect("tempdir");
        let path = base.path().join("patchbay.db");
        private_file(&path).expect("made");
        assert_eq!(mode(&path), 0o600);
        fs::write(&path, "rows").expect("write");
        private_file(&path).expect("there");
        assert_eq!(fs::read_to_string(&path).expect("read"), "rows");
    }

    #[test]
    fn removing_what_is_not_there_is_fine() {
        let base = tempfile::tempdir().expect("tempdir");
        let dir = DataDir::open(base.path()).expect("opens");
        let path = dir.write("admin-password", "x").expect("written");
        assert_eq!(fs::read_to_string(path).expect("read"), "x\n");
        dir.remove("admin-password").expect("removed");
        dir.remove("admin-password").expect("already gone");
    }
}
