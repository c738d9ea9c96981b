//! The file that keeps what logins gave: a token for each server. Nobody else may read it, and one that others can
//! read is not used.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize, Serializer};

use super::address::Base;

/// Names another file.
pub const VARIABLE: &str = "PATCHBAY_CREDENTIALS";
/// The longest file that is read, in bytes.
const FILE_MAX: u64 = 4 << 20;

/// One login.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// The server, as [`Base`] writes it.
    pub url: String,
    /// As whom.
    pub username: String,
    /// For `Authorization: Bearer`.
    #[serde(serialize_with = "exposed")]
    pub token: SecretString,
    /// PEM: the authorities to trust instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
}

fn exposed<S: Serializer>(token: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(token.expose_secret())
}

/// All logins, the last one at the end.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Credentials {
    /// The server that is meant where none is named.
    #[serde(default)]
    default: Option<String>,
    #[serde(default)]
    servers: Vec<Entry>,
}

impl Credentials {
    /// The login at this server, or at the default one.
    ///
    /// # Errors
    /// When there is none.
    pub fn entry(&self, server: Option<&Base>) -> anyhow::Result<&Entry> {
        let url = server.map(Base::as_str).or(self.default.as_deref());
        match (self.servers.iter().find(|entry| Some(entry.url.as_str()) == url), server) {
            (Some(entry), _) => Ok(entry),
            (None, Some(server)) => {
                bail!("not logged in to {0}; log in with `patchbay login {0}`", server.as_str())
            }
            (None, None) => bail!("not logged in; log in with `patchbay login URL`"),
        }
    }

    /// Keeps a login, which becomes the default.
    pub fn add(&mut self, entry: Entry) {
        self.servers.retain(|kept| kept.url != entry.url);
        self.default = Some(entry.url.clone());
        self.servers.push(entry);
    }

    /// Forgets a login. If it was the default, the one before it becomes that.
    pub fn remove(&mut self, url: &str) {
        self.servers.retain(|kept| kept.url != url);
        if self.default.as_deref() == Some(url) {
            self.default = self.servers.last().map(|entry| entry.url.clone());
        }
    }
}

/// Where they are kept.
#[derive(Debug)]
pub struct Kept {
    path: PathBuf,
}

impl Kept {
    /// The file that the environment names: `PATCHBAY_CREDENTIALS`, or `patchbay/credentials.json` below
    /// `XDG_CONFIG_HOME` or `~/.config`.
    ///
    /// # Errors
    /// When it names none.
    pub fn locate(variable: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<Self> {
        let path = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(path) = path(VARIABLE) {
            return Ok(Self { path });
        }
        // A relative one is to be ignored, says the specification.
        let config = path("XDG_CONFIG_HOME").filter(|path| path.is_absolute());
        let config = config.or_else(|| path("HOME").map(|home| home.join(".config")));
        let config = config.with_context(|| format!("no place for credentials: set HOME, or {VARIABLE} to a file"))?;
        Ok(Self { path: config.join("patchbay/credentials.json") })
    }

    /// What is kept; nothing when there is no file.
    ///
    /// # Errors
    /// When it cannot be read, is none of ours, or can be read by others.
    pub fn read(&self) -> anyhow::Result<Credentials> {
        let shown = self.path.display();
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Credentials::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {shown}")),
        };
        let about = file.metadata().with_context(|| format!("cannot read {shown}"))?;
        if about.mode() & 0o077 != 0 {
            bail!("others can use {shown}, which holds your logins: chmod 600 {shown}");
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
        serde_json::from_str(&text).map_err(|error| {
            // Only where it is wrong: the text of the error may repeat a value.
            let (line, column) = (error.line(), error.column());
            anyhow::anyhow!("{shown} does not hold logins (line {line}, column {column}); remove it and log in again")
        })
    }

    /// Replaces what is kept, so that a crash leaves the old or the new and nobody else can read either at any moment.
    ///
    /// # Errors
    /// When the directory doesn't take it.
    pub fn write(&self, credentials: &Credentials) -> anyhow::Result<()> {
        let directory = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = self.path.file_name().with_context(|| format!("{} is no file", self.path.display()))?;
        let unfinished = directory.join(format!(".{}.{:08x}", name.to_string_lossy(), rand::random::<u32>()));
        let text = serde_json::to_string_pretty(credentials)?;
        let write = || {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
            writeln!(file, "{text}")?;
            file.sync_all()?;
            fs::rename(&unfinished, &self.path)?;
            File::open(directory)?.sync_all()
        };
        write()
            .inspect_err(|_| drop(fs::remove_file(&unfinished)))
            .with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn entry(url: &str, token: &str) -> Entry {
        Entry { url: url.to_owned(), username: "ann".to_owned(), token: token.to_owned().into(), ca: None }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("metadata").mode() & 0o777
    }

    fn kept(base: &Path) -> Kept {
        let home = base.as_os_str().to_owned();
        Kept::locate(|name| (name == "HOME").then(|| home.clone())).expect("a place")
    }

    #[test]
    fn file_and_folder_are_private() {
        let base = tempfile::tempdir().expect("tempdir");
        let kept = kept(base.path());
        assert!(kept.read().expect("none yet").entry(None).is_err());
        let mut credentials = Credentials::default();
        credentials.add(entry("https://a", "one"));
        kept.write(&credentials).expect("written");
        let folder = base.path().join(".config/patchbay");
        assert_eq!((mode(&folder), mode(&folder.join("credentials.json"))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&folder).expect("a folder").count(), 1, "nothing unfinished stays");
        let read = kept.read().expect("read");
        assert_eq!(read.entry(None).expect("kept").token.expose_secret(), "one");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let base = tempfile::tempdir().expect("tempdir");
        let kept = kept(base.path());
        kept.write(&Credentials::default()).expect("written");
        for (mode, is_fine) in [(0o640, false), (0o604, false), (0o620, false), (0o610, false), (0o400, true)] {
            fs::set_permissions(&kept.path, fs::Permissions::from_mode(mode)).expect("chmod");
            let read = kept.read();
            assert_eq!(read.is_ok(), is_fine, "{mode:o}");
            if let Err(error) = read {
                assert!(error.to_string().ends_with(&format!("chmod 600 {}", kept.path.display())), "{error}");
            }
        }
        // What is written next is private again.
        fs::set_permissions(&kept.path, fs::Permissions::from_mode(0o644)).expect("chmod");
        kept.write(&Credentials::default()).expect("written");
        assert_eq!(mode(&kept.path), 0o600);
    }

    #[test]
    fn a_file_that_cannot_be_replaced_leaves_nothing_behind() {
        let base = tempfile::tempdir().expect("tempdir");
        let path = base.path().join("credentials.json");
        fs::create_dir_all(path.join("in-the-way")).expect("a folder");
        let kept = Kept { path };
        assert!(kept.write(&Credentials::default()).is_err());
        assert_eq!(fs::read_dir(base.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn what_is_no_json_is_refused_without_its_text() {
        let base = tempfile::tempdir().expect("tempdir");
        let kept = Kept { path: base.path().join("c.json") };
        kept.write(&Credentials::default()).expect("written");
        fs::write(&kept.path, r#"{"servers": "hunter2"}"#).expect("write");
        let error = format!("{:#}", kept.read().expect_err("not ours"));
        assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_last_login_is_the_default() {
        let mut all = Credentials::default();
        all.add(entry("https://a", "one"));
        all.add(entry("https://b", "two"));
        all.add(entry("https://a", "three"));
        let token = |all: &Credentials, server: Option<&str>| {
            let server = server.map(|url| Base::parse(url).expect("an address"));
            all.entry(server.as_ref()).map(|entry| entry.token.expose_secret().to_owned()).ok()
        };
        assert_eq!(all.servers.len(), 2);
        assert_eq!(token(&all, None).as_deref(), Some("three"));
        assert_eq!(token(&all, Some("https://b/")).as_deref(), Some("two"));
        assert_eq!(token(&all, Some("https://c")), None);
        all.remove("https://a");
        assert_eq!(token(&all, None).as_deref(), Some("two"));
        all.remove("https://b");
        assert_eq!(token(&all, None), None);
    }

    #[test]
    fn the_environment_names_the_file() {
        let path = |set: &[(&str, &str)]| {
            let variable =
                |name: &str| set.iter().find(|(one, _)| *one == name).map(|(_, value)| OsString::from(value));
            Kept::locate(variable).map(|kept| kept.path.to_string_lossy().into_owned()).ok()
        };
        let home = ("HOME", "/home/ann");
        assert_eq!(path(&[home]).as_deref(), Some("/home/ann/.config/patchbay/credentials.json"));
        assert_eq!(path(&[home, ("XDG_CONFIG_HOME", "/c")]).as_deref(), Some("/c/patchbay/credentials.json"));
        assert_eq!(path(&[home, ("XDG_CONFIG_HOME", "c")]), path(&[home]));
        assert_eq!(path(&[home, (VARIABLE, "mine.json")]).as_deref(), Some("mine.json"));
        assert_eq!(path(&[home, (VARIABLE, "")]), path(&[home]));
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn a_token_is_not_shown() {
        assert!(!format!("{:?}", entry("https://a", "hunter2")).contains("hunter2"));
    }
}
