//! What only the SQLite adapter can show: its file, its locks, its plans.

use std::{path::PathBuf, time::Duration};

use jobs::{Kind, State};
use sqlx::{
    AssertSqlSafe, Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqlitePoolOptions},
};
use store::{
    Accounts, Clock, Commands, Hosts, Keep, Maintenance, StoreError,
    sqlite::{Options, SqliteStore, hot_queries},
};
use tempfile::TempDir;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::store_world::{DAY, batch, connect, new_host};

/// A file that stores are opened on.
struct File {
    dir: TempDir,
    clock: Clock,
}

impl File {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), clock: Clock::default() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("patchbay.db")
    }

    async fn try_open(&self) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(&self.path(), self.clock.clone(), Options::default()).await
    }

    async fn open(&self) -> SqliteStore {
        self.try_open().await.unwrap()
    }

    /// Another program that has the file open.
    async fn other(&self) -> SqlitePool {
        let options = SqliteConnectOptions::new().filename(self.path()).busy_timeout(Duration::from_secs(5));
        SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap()
    }

    async fn execute(&self, sql: &'static str) {
        let other = self.other().await;
        sqlx::query(sql).execute(&other).await.unwrap();
        other.close().await;
    }
}

async fn one_host(store: &SqliteStore) -> Uuid {
    let host = new_host("web");
    store.add_hosts(std::slice::from_ref(&host)).await.unwrap();
    host.id
}

#[tokio::test]
async fn what_was_answered_is_in_the_file() {
    let file = File::new();
    let store = file.open().await;
    let host = one_host(&store).await;
    let made = store.create(&batch(Kind::ReportNow, &[host])).await.unwrap().unwrap();
    // No close: a process that is killed says no goodbye.
    let again = file.open().await;
    assert_eq!(again.command(made.commands[0].id).await.unwrap().unwrap().state, State::Queued);
    assert_eq!(again.roles().await.unwrap().len(), 5, "seeded once");
}

#[tokio::test]
async fn every_connection_writes_through_to_the_disk() {
    let file = File::new();
    let store = file.open().await;
    for (name, expected) in [("journal_mode", "wal"), ("synchronous", "2"), ("foreign_keys", "1")] {
        assert_eq!(store.pragma(name).await.unwrap(), [expected; 2], "{name}, writer and reader");
    }
    assert_eq!(store.pragma("query_only").await.unwrap(), ["0", "1"], "only the writer writes");
    assert_eq!(store.pragma("busy_timeout").await.unwrap(), ["2000"; 2]);
}

#[tokio::test]
async fn a_file_held_by_another_program_is_unavailable_and_then_is_not() {
    let file = File::new();
    let options = Options { patience: Duration::from_millis(200), ..Options::default() };
    let store = SqliteStore::open(&file.path(), file.clock.clone(), options).await.unwrap();
    let host = one_host(&store).await;
    let other = file.other().await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();

    let began = Instant::now();
    let refused = store.create(&batch(Kind::ReportNow, &[host])).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() >= Duration::from_millis(150), "it had some patience");
    let (asked, connects) = (batch(Kind::ReportNow, &[host]), [connect(host)]);
    let (one, two, three) =
        tokio::join!(store.create(&asked), store.touch_host(host, None), store.connect_hosts(&connects));
    assert!(matches!(one, Err(StoreError::Unavailable(_))));
    assert!(matches!(two, Err(StoreError::Unavailable(_))));
    assert!(matches!(three, Err(StoreError::Unavailable(_))));
    assert!(began.elapsed() < Duration::from_secs(20), "nobody hangs");
    store.ping().await.unwrap();
    assert!(store.host(host).await.unwrap().is_some(), "reading goes on");
    assert!(store.claim_due(10).await.unwrap().is_empty());

    drop(lock);
    other.close().await;
    let made = timeout(Duration::from_secs(20), store.create(&batch(Kind::ReportNow, &[host]))).await.unwrap();
    assert_eq!(made.unwrap().unwrap().count, 1, "nothing of the failed ones was left behind");
    assert_eq!(store.counts().await.unwrap(), [(Kind::ReportNow, State::Queued, 1)]);
}

#[tokio::test]
async fn a_caller_that_gives_up_leaves_nothing_behind() {
    let file = File::new();
    let store = file.open().await;
    let hosts: Vec<_> = (0..200).map(|n| new_host(&format!("host-{n}"))).collect();
    store.add_hosts(&hosts).await.unwrap();
    let ids: Vec<Uuid> = hosts.iter().map(|h| h.id).collect();
    for n in 0..40 {
        // Dropped at a different point each time.
        let _ = timeout(Duration::from_micros(n * 150), store.create(&batch(Kind::ReportNow, &ids))).await;
    }
    let made = store.create(&batch(Kind::ReportNow, &ids)).await.unwrap().unwrap();
    assert_eq!(made.count + made.coalesced, 200);
    assert_eq!(store.counts().await.unwrap(), [(Kind::ReportNow, State::Queued, 200)], "all of a batch or nothing");
}

#[tokio::test]
async fn a_file_that_needs_a_newer_program_is_refused() {
    let file = File::new();
    file.open().await.close().await;
    file.execute("UPDATE schema_floor SET oldest_version = '99.1.0'").await;
    let Err(StoreError::Corrupt(why)) = file.try_open().await else { panic!("opened") };
    assert!(why.contains("99.1.0") && why.contains(env!("CARGO_PKG_VERSION")), "{why}");
    assert!(why.contains("newer patchbay"), "{why}");
}

#[tokio::test]
async fn a_newer_file_that_this_program_can_live_with_is_opened() {
    let file = File::new();
    file.open().await.close().await;
    file.execute(
        "INSERT INTO _patchbay_migrations (version, description, success, checksum, execution_time) \
         VALUES (9001, 'later', TRUE, x'00', 0)",
    )
    .await;
    let store = file.open().await;
    one_host(&store).await;
}

#[tokio::test]
async fn a_file_that_is_no_database_is_an_error() {
    let file = File::new();
    std::fs::write(file.path(), "plain text, and more of it than a header has: ".repeat(50)).unwrap();
    assert!(file.try_open().await.is_err());
    assert!(SqliteStore::open(file.dir.path(), Clock::default(), Options::default()).await.is_err(), "a folder");
}

#[tokio::test]
async fn recovery_hands_back_what_a_dead_process_had_in_hand() {
    let file = File::new();
    let store = file.open().await;
    let host = one_host(&store).await;
    for kind in [Kind::ReportNow, Kind::SettingsUpdate, Kind::ComplianceScan] {
        store.create(&batch(kind, &[host])).await.unwrap().unwrap();
    }
    file.execute(
        "UPDATE Jobs SET status = CASE rowid WHEN 1 THEN 'Running' WHEN 2 THEN 'Queued' ELSE 'Done' END, lock_at = 1",
    )
    .await;
    store.recover().await.unwrap();
    let other = file.other().await;
    let rows = sqlx::query("SELECT status, lock_at FROM Jobs ORDER BY rowid").fetch_all(&other).await.unwrap();
    let jobs: Vec<(String, Option<i64>)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let pending = ("Pending".to_owned(), None);
    assert_eq!(jobs, [pending.clone(), pending, ("Done".to_owned(), Some(1))]);
}

#[tokio::test]
async fn finished_tasks_go_and_others_stay() {
    let file = File::new();
    let store = file.open().await;
    let host = one_host(&store).await;
    for kind in [Kind::ReportNow, Kind::SettingsUpdate, Kind::ComplianceScan, Kind::RefreshIntegrationStatus] {
        store.create(&batch(kind, &[host])).await.unwrap().unwrap();
    }
    file.execute(
        "UPDATE Jobs SET done_at = strftime('%s', 'now'), \
         status = CASE rowid WHEN 1 THEN 'Done' WHEN 2 THEN 'Failed' WHEN 3 THEN 'Killed' ELSE 'Running' END",
    )
    .await;
    assert_eq!(store.retire(&Keep::default()).await.unwrap().tasks, 0, "they stay a day");
    file.clock.advance(DAY + 2_000);
    assert_eq!(store.retire(&Keep::default()).await.unwrap().tasks, 3);
    assert_eq!(store.retire(&Keep::default()).await.unwrap().tasks, 0);
}

/// With many rows and the planner's statistics, and without any: no hot statement walks through a whole table.
#[tokio::test]
async fn hot_statements_walk_through_no_table() {
    let file = File::new();
    let store = file.open().await;
    let hosts: Vec<_> = (0..2_000).map(|n| new_host(&format!("host-{n}"))).collect();
    store.add_hosts(&hosts).await.unwrap();
    let ids: Vec<Uuid> = hosts.iter().map(|h| h.id).collect();
    for kind in Kind::ALL {
        store.create(&batch(kind, &ids)).await.unwrap().unwrap();
    }
    let other = file.other().await;
    file.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO Jobs (id, job, job_type, status, run_at, done_at) \
         SELECT 'done-' || i, x'00', 'agent-commands', 'Done', 0, i FROM n",
    )
    .await;
    file.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) \
         INSERT INTO terminal_sessions (id, host_id, host_name, user_id, username, address, gateway_id, mode, target, \
         opened_at, ended_at, at_agent, recorded, chunks) \
         SELECT 'terminal-' || i, 'host-' || (i % 50), '', 'user-' || (i % 20), '', '', 'g', 'proxy', '', i, \
         CASE WHEN i % 50 = 0 THEN NULL ELSE i END, i % 100 = 0, i % 2, 1 FROM n",
    )
    .await;
    file.execute("INSERT INTO recording_chunks SELECT id, 0, x'00' FROM terminal_sessions WHERE recorded = 1").await;
    file.execute(
        "INSERT INTO audit_log (id, at, event, user_id, address, host_id, session_id) \
         SELECT id, opened_at, 'ssh_terminal_opened', user_id, '', host_id, id FROM terminal_sessions",
    )
    .await;
    file.execute("INSERT INTO ssh_host_keys SELECT id, 22, id, '', 0, 0 FROM hosts").await;
    let queries = hot_queries();
    assert!(queries.len() >= 10);
    for analysed in [false, true] {
        if analysed {
            sqlx::query("ANALYZE").execute(&other).await.unwrap();
        }
        for (name, sql) in &queries {
            let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"))).fetch_all(&other).await.unwrap();
            let plan: Vec<String> = plan.iter().map(|row| row.get("detail")).collect();
            assert!(!plan.is_empty(), "{name}");
            let of_a_kind = ["newest commands of a queue", "newest commands of a kind"].contains(name);
            let walk = plan.iter().find(|step| walks(step) || (goes_by_kind(step) && !of_a_kind));
            assert!(walk.is_none(), "{name} (analysed: {analysed}): {plan:#?}\n{sql}");
        }
    }
}

/// Does this step go through the commands of a kind, ended ones too? Nearly all there are may be of one.
fn goes_by_kind(step: &str) -> bool {
    step.contains("INDEX commands_kind")
}

/// Does this step look at every row of a table of ours? A partial index holds only the rows it is about.
fn walks(step: &str) -> bool {
    let mut words = step.split_whitespace();
    let tables = [
        "commands",
        "c",
        "hosts",
        "h",
        "sessions",
        "s",
        "idempotency_keys",
        "Jobs",
        "command_counts",
        "command_ends",
        "schedule_ticks",
        "tickets",
        "dashboard_sessions",
        "terminal_sessions",
        "t",
        "recording_chunks",
        "audit_log",
        "a",
        "ssh_host_keys",
    ];
    let partial = [
        "hosts_held",
        "commands_due",
        "commands_open",
        "commands_ended",
        "terminal_sessions_open",
        "terminal_sessions_open_gateway",
    ];
    words.next() == Some("SCAN")
        && words.next().is_some_and(|table| tables.contains(&table))
        && !words.next_back().is_some_and(|index| partial.contains(&index))
}
