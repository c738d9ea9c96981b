//! The server's SQLite file, opened beside it: to write what an import would have written, to change what only another
//! program would change, and to look at what was stored.

use std::time::Duration;

use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::harness::Server;

/// A connection of our own.
pub struct Database(SqliteConnection);

impl Database {
    pub async fn open(server: &Server) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(server.data_dir().join("patchbay.db"))
            .busy_timeout(Duration::from_secs(15));
        Self(options.connect().await.unwrap())
    }

    /// Runs one or more statements.
    pub async fn run(&mut self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// The first column of the first row, as text; None when there is no row or it is null.
    pub async fn text(&mut self, sql: &str) -> Option<String> {
        let select = format!("SELECT CAST(({sql}) AS TEXT)");
        sqlx::query_scalar(AssertSqlSafe(select.as_str()))
            .fetch_one(&mut self.0)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The first column of the first row, as a number.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let text = self.text(sql).await.unwrap_or_else(|| panic!("{sql}: no row"));
        text.parse().unwrap_or_else(|_| panic!("{sql}: {text:?}"))
    }

    /// A host as an import writes it: its key in whatever form the old server kept it.
    pub async fn import_host(&mut self, id: &str, name: &str, api_id: &str, key_hash: &str, digest: Option<&str>) {
        sqlx::query("INSERT INTO hosts (id, name, api_id, key_hash, key_digest, created_at) VALUES (?, ?, ?, ?, ?, 0)")
            .bind(id)
            .bind(name)
            .bind(api_id)
            .bind(key_hash)
            .bind(digest)
            .execute(&mut self.0)
            .await
            .unwrap();
    }

    pub async fn close(self) {
        self.0.close().await.unwrap();
    }
}
