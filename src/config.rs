//! Configuration: environment over an optional TOML file over defaults, read once at start into one [`Config`].
//!
//! `settings.rs` holds the table. A line there is a field of [`Config`], a variable, a key of the file, a paragraph of
//! `patchbay config` and a name that the check for unknown names knows. Values stay text until the field's type parses
//! them: the password `007` is `007`.

mod environment;
mod file;
mod near;
mod printed;
mod setting;
mod settings;
mod urls;
mod values;

use std::{ffi::OsString, fmt, path::Path, time::Duration};

pub use environment::CONFIG_FILE;
pub use near::nearest;
pub use printed::{as_commented_toml, as_json};
pub use settings::Config;
pub use urls::{BusUrl, DatabaseUrl};
pub use values::{Password, Secret};

use setting::Sources;

/// Which part of Patchbay this process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Role {
    /// Gateway and worker in one process.
    Embedded,
    Gateway,
    Worker,
}

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    pub fn lines(&self) -> &[String] {
        &self.0
    }

    fn add(&mut self, line: impl Into<String>) {
        self.0.push(line.into());
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Problems {}

impl Config {
    /// Reads and checks everything; reports all problems at once.
    ///
    /// # Errors
    /// One line for each unknown name, value of a wrong type, or combination that cannot work in this role.
    pub fn load(
        role: Role,
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let environment = environment::known_names(environment, &mut problems);
        let file = file.and_then(|path| file::read(path, &mut problems));
        let config = Self::parse(role, &Sources { environment, file }, &mut problems);
        if let Some(config) = &config {
            config.check_combinations(&mut problems);
        }
        match config {
            Some(config) if problems.0.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }

    /// The database, with the default that depends on the data directory filled in.
    pub fn database(&self) -> DatabaseUrl {
        self.database_url.clone().unwrap_or_else(|| DatabaseUrl::Sqlite(self.data_dir.join("patchbay.db")))
    }

    /// Can other processes use the same database?
    pub fn is_shared(&self) -> bool {
        matches!(self.database(), DatabaseUrl::Postgres(_))
    }

    /// How long closing all sockets may take when this process stops.
    pub fn drain(&self) -> Duration {
        match (self.drain_secs, self.role) {
            (Some(secs), _) => secs.as_secs(),
            (None, Role::Gateway) => Duration::from_secs(30),
            (None, Role::Embedded | Role::Worker) => Duration::ZERO,
        }
    }

    /// Threads that do nothing but bcrypt; at least one.
    pub fn bcrypt_threads(&self) -> usize {
        match self.bcrypt_threads.as_usize() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }

    fn check_combinations(&self, problems: &mut Problems) {
        for (cert, key, name) in [
            (&self.tls_cert, &self.tls_key, "PATCHBAY_TLS"),
            (&self.bus_tls_cert, &self.bus_tls_key, "PATCHBAY_BUS_TLS"),
        ] {
            match (cert, key) {
                (Some(_), None) => problems.add(format!("{name}_CERT is set but {name}_KEY is not; TLS needs both")),
                (None, Some(_)) => problems.add(format!("{name}_KEY is set but {name}_CERT is not; TLS needs both")),
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        self.check_one_login(problems);
        if self.listen == self.internal_listen && self.listen.port() != 0 {
            problems.add(format!(
                "PATCHBAY_LISTEN and PATCHBAY_INTERNAL_LISTEN are both {}; they must differ",
                self.listen
            ));
        }
        match self.role {
            Role::Embedded => {}
            Role::Gateway | Role::Worker => self.check_adapters_are_shared(problems),
        }
    }

    /// NATS takes one login a client.
    fn check_one_login(&self, problems: &mut Problems) {
        let BusUrl::Nats(url) = &self.bus_url else { return };
        let logins = [
            ("a login in PATCHBAY_BUS_URL", url.has_login()),
            ("PATCHBAY_BUS_NKEY_FILE", self.bus_nkey_file.is_some()),
            ("PATCHBAY_BUS_CREDENTIALS_FILE", self.bus_credentials_file.is_some()),
        ];
        let given: Vec<&str> = logins.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        if given.len() > 1 {
            problems.add(format!("{} are set, but NATS takes one login; leave all but one out", given.join(" and ")));
        }
    }

    /// A role that runs beside others needs a bus and a database that other processes can reach.
    fn check_adapters_are_shared(&self, problems: &mut Problems) {
        let (role, other) = match self.role {
            Role::Worker => ("worker", "gateway"),
            Role::Gateway | Role::Embedded => ("gateway", "worker"),
        };
        if let BusUrl::Memory = self.bus_url {
            problems.add(format!(
                "`patchbay {role}` cannot use PATCHBAY_BUS_URL=memory:, because a bus inside this process never reaches \
                 a {other} in another one"
            ));
        }
        if let DatabaseUrl::Sqlite(_) = self.database() {
            problems.add(format!(
                "`patchbay {role}` cannot use DATABASE_URL=sqlite:…, because that file belongs to one process and a \
                 {other} needs the same data"
            ));
        }
        if self.secret.is_none() {
            problems.add(format!(
                "PATCHBAY_SECRET is not set; `patchbay {role}` needs the same secret of at least 32 bytes as all its peers"
            ));
        }
    }
}

#[cfg(test)]
mod tests;
