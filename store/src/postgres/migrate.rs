//! Migrations, by whoever comes first, while others wait.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection,
    migrate::{MigrateError, Migrator},
    postgres::PgConnectOptions,
};
use tokio::time::{Instant, sleep, timeout};

use super::queue;
use crate::StoreError;

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/postgres");

/// The number under which processes queue up to migrate: "patchbay" in ASCII.
const LOCK: i64 = 0x7061_7463_6862_6179;
/// How long others' migrations may take.
const WAIT: Duration = Duration::from_secs(600);

/// Our own table of migrations, so that the queue's cannot be taken for ours.
fn ours() -> Migrator {
    let mut ours = Migrator { migrations: MIGRATIONS.migrations.clone(), ..Migrator::DEFAULT };
    ours.dangerous_set_table_name("_patchbay_migrations");
    ours.set_ignore_missing(true);
    ours
}

/// Brings the tables up to date on a connection of its own, whose statements may take as long as they need.
pub async fn run(connect: &PgConnectOptions, start: Duration) -> Result<(), StoreError> {
    let mut conn = first_connection(connect, start).await?;
    let locked = timeout(WAIT, sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(&mut conn)).await;
    locked
        .map_err(|_| StoreError::Unavailable("another process has been migrating for too long".to_owned()))?
        .map_err(said)?;
    ours().run(&mut conn).await.map_err(migrating)?;
    hstore(&mut conn).await?;
    queue::migrations().run(&mut conn).await.map_err(migrating)?;
    conn.execute(sqlx::raw_sql(queue::DONE)).await.map_err(said)?;
    // The lock ends with the connection.
    let _ = timeout(Duration::from_secs(2), conn.close()).await;
    Ok(())
}

/// Are the tables there, and as this version wants them? Changes nothing.
pub async fn look(connect: &PgConnectOptions, start: Duration) -> Result<(), StoreError> {
    let mut conn = first_connection(connect, start).await?;
    let made = sqlx::query_scalar::<_, i64>("SELECT COALESCE(MAX(version), 0) FROM _patchbay_migrations WHERE success");
    let made = match made.fetch_one(&mut conn).await {
        Ok(made) => made,
        // 42P01: there is no such table.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => 0,
        Err(error) => return Err(said(error)),
    };
    let _ = timeout(Duration::from_secs(2), conn.close()).await;
    let wanted = ours().iter().map(|migration| migration.version).max().unwrap_or(0);
    if made >= wanted {
        return Ok(());
    }
    let how = if made == 0 { "has no tables of Patchbay" } else { "has tables of an older version" };
    Err(StoreError::Unavailable(format!(
        "the database {how}; `patchbay migrate` makes them, or a gateway or worker that starts"
    )))
}

/// Connects, waiting for a server that is not there yet; not for one that refuses us.
async fn first_connection(connect: &PgConnectOptions, start: Duration) -> Result<PgConnection, StoreError> {
    let until = Instant::now() + start;
    loop {
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        let error = match timeout(left, connect.connect()).await {
            Ok(Ok(conn)) => return Ok(conn),
            Ok(Err(error)) if refused(&error) => return Err(said(error)),
            Ok(Err(error)) => said(error),
            Err(_) => StoreError::Unavailable(format!("no answer within {} s", start.as_secs())),
        };
        if Instant::now() + Duration::from_millis(250) > until {
            return Err(error);
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Would the same try fail again? A wrong password, an unknown database or user, a certificate that does not fit.
fn refused(error: &sqlx::Error) -> bool {
    match error {
        // 57P03: the server starts; 53300: too many connections just now.
        sqlx::Error::Database(error) => !matches!(error.code().as_deref(), Some("57P03" | "53300" | "57P01" | "57P02")),
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => true,
        _ => false,
    }
}

fn said(error: sqlx::Error) -> StoreError {
    StoreError::Unavailable(error.to_string())
}

fn migrating(error: MigrateError) -> StoreError {
    StoreError::Unavailable(format!("the tables cannot be brought up to date: {error}"))
}

/// The queue's tables need an extension that only some users may install.
async fn hstore(conn: &mut PgConnection) -> Result<(), StoreError> {
    let there = sqlx::query("SELECT 1 FROM pg_extension WHERE extname = 'hstore'").fetch_optional(&mut *conn).await;
    if there.map_err(said)?.is_some() {
        return Ok(());
    }
    conn.execute(sqlx::raw_sql("CREATE EXTENSION hstore")).await.map(drop).map_err(|error| {
        StoreError::Unavailable(format!(
            "the extension hstore is missing and cannot be made by this user ({error}): run CREATE EXTENSION hstore in \
             this database as a superuser; Debian's package is postgresql-contrib"
        ))
    })
}
