//! How one gets in: roles, passwords, URLs, and statements of the superuser.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context, bail};

/// Owns the databases of the tests, as a role of production would: no superuser, and makes no databases.
const OWNER: &str = "patchbay";

/// A server's address, and the password that both its roles have.
pub struct Access {
    psql: PathBuf,
    address: Ipv4Addr,
    port: u16,
    password: String,
}

impl std::fmt::Debug for Access {
    /// Without the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("address", &self.address).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Access {
    pub fn new(psql: PathBuf, address: Ipv4Addr, port: u16) -> Self {
        Self { psql, address, port, password: format!("{:032x}", rand::random::<u128>()) }
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// The owner, and hstore in what new databases are copied from.
    pub fn prepare(&self) -> anyhow::Result<()> {
        self.superuser("postgres", &format!("CREATE ROLE {OWNER} LOGIN PASSWORD '{}'", self.password))?;
        self.superuser("template1", "CREATE EXTENSION hstore")?;
        Ok(())
    }

    /// Runs one statement and gives its output, columns between bars.
    pub fn superuser(&self, database: &str, sql: &str) -> anyhow::Result<String> {
        let ran = Command::new(&self.psql)
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"])
            .args(["--dbname", database, "--command", sql])
            .env("PGHOST", self.address.to_string())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGPASSWORD", &self.password)
            .env("PGCONNECT_TIMEOUT", "10")
            .current_dir("/")
            .stdin(Stdio::null())
            .output()
            .context("psql")?;
        if !ran.status.success() {
            bail!("{}", String::from_utf8_lossy(&ran.stderr).trim());
        }
        Ok(String::from_utf8(ran.stdout)?.trim().to_owned())
    }

    fn url(&self, role: &str, database: &str) -> String {
        format!("postgres://{role}:{}@{}:{}/{database}", self.password, self.address, self.port)
    }
}

/// A database of one test. Dropping it removes it, whoever is still connected.
#[derive(Debug)]
pub struct Database {
    access: Arc<Access>,
    name: String,
}

impl Database {
    pub(super) fn create(access: Arc<Access>, name: String, template: &str) -> anyhow::Result<Self> {
        // What stands in the template belongs to the superuser; the schema is the owner's by pg_database_owner (15), or
        // by the right that everybody has (14).
        let sql = format!("CREATE DATABASE {name} TEMPLATE {template} OWNER {OWNER}");
        access.superuser("postgres", &sql)?;
        let database = Self { access, name };
        if template == "template0" {
            // hstore is trusted: whoever may create in a database may add it. Here that must fail.
            database.superuser(&format!("REVOKE CREATE ON DATABASE {} FROM {OWNER}", database.name))?;
        }
        Ok(database)
    }

    /// As the owner, with its password: for `DATABASE_URL`.
    pub fn url(&self) -> String {
        self.access.url(OWNER, &self.name)
    }

    /// As a superuser: for looking in from the side.
    pub fn superuser_url(&self) -> String {
        self.access.url("postgres", &self.name)
    }

    /// Its name, as in `datname`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs one statement as superuser, and gives its output, columns between bars. Blocks as long as it takes.
    pub fn superuser(&self, sql: &str) -> anyhow::Result<String> {
        self.access.superuser(&self.name, sql)
    }
}

impl Drop for Database {
    /// A server that is away takes its databases with it.
    fn drop(&mut self) {
        let _ = self.access.superuser("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}
