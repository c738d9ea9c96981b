//! The server's database, opened beside it: to write what an import would have written, to change what only another
//! program would change, and to look at what was stored.

use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::harness::Server;

/// A connection of our own, on whichever engine the server is.
pub enum Database {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// The same on either engine.
macro_rules! on_either {
    ($database:expr, $connection:ident => $run:expr) => {
        match $database {
            Database::Sqlite($connection) => $run,
            Database::Postgres($connection) => $run,
        }
    };
}

impl Database {
    pub async fn open(server: &Server) -> Self {
        if let Some(url) = server.postgres_url() {
            return Self::Postgres(PgConnection::connect(&url).await.unwrap());
        }
        let options = SqliteConnectOptions::new()
            .filename(server.data_dir().join("patchbay.db"))
            .busy_timeout(Duration::from_secs(15));
        Self::Sqlite(options.connect().await.unwrap())
    }

    /// Runs one or more statements.
    pub async fn run(&mut self, sql: &str) {
        let done =
            on_either!(self, connection => sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.map(drop));
        done.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of the first row, as text; None when there is no row or it is null.
    pub async fn text(&mut self, sql: &str) -> Option<String> {
        let select = format!("SELECT CAST(({sql}) AS TEXT)");
        let read = on_either!(self, connection => {
            sqlx::query_scalar(AssertSqlSafe(select.as_str())).fetch_one(connection).await
        });
        read.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The first column of the first row, as a number.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let text = self.text(sql).await.unwrap_or_else(|| panic!("{sql}: no row"));
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text:?}"))
    }

    /// A host as an import writes it: its key in whatever form the old server kept it.
    pub async fn import_host(&mut self, id: &str, name: &str, api_id: &str, key_hash: &str, digest: Option<&str>) {
        const INSERT: &str =
            "INSERT INTO hosts (id, name, api_id, key_hash, key_digest, created_at) VALUES ($1, $2, $3, $4, $5, 0)";
        let done = on_either!(self, connection => {
            let insert = sqlx::query(INSERT).bind(id).bind(name).bind(api_id).bind(key_hash).bind(digest);
            insert.execute(connection).await.map(drop)
        });
        done.unwrap();
    }

    pub async fn close(self) {
        on_either!(self, connection => connection.close().await).unwrap();
    }
}
