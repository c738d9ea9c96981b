//! What only the PostgreSQL adapter can show: several processes on one database, a server that goes away or is deaf, its
//! plans.

use std::{sync::Arc, time::Duration};

use jobs::{Kind, Queue, State};
use serde_json::Value;
use sqlx::{AssertSqlSafe, PgPool, Row};
use store::{
    Accounts, Clock, Commands, Hosts, Keep, Maintenance, Store, StoreError,
    postgres::{Options, PostgresStore, hot_queries},
};
use tests::services::postgres::{Database, Durability, Postgres};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use uuid::Uuid;

use super::store_world::{DAY, TAKE, api_id, batch, connect, epoch, new_host, postgres};

const SOON: Duration = Duration::from_secs(30);

async fn database() -> Database {
    Postgres::shared().await.database().await
}

async fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, Clock::default(), postgres::options()).await.unwrap()
}

/// One that does not wait for long.
fn brisk() -> Options {
    Options {
        patience: Duration::from_millis(500),
        statement: Duration::from_millis(500),
        connections: 3,
        start: Duration::from_secs(20),
        ..Options::default()
    }
}

async fn hosts(store: &dyn Store, count: usize) -> Vec<Uuid> {
    let hosts: Vec<_> = (0..count).map(|n| new_host(&format!("host-{n}"))).collect();
    store.add_hosts(&hosts).await.unwrap();
    hosts.iter().map(|host| host.id).collect()
}

fn unavailable<T>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable(why)) => why,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it was there"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_that_start_at_once_migrate_once() {
    let database = database().await;
    let url = database.url();
    let opened = futures_util::future::join_all((0..6).map(|_| open(&url))).await;
    let ids: Vec<Uuid> = (0..6).map(|_| Uuid::now_v7()).collect();
    let firsts = opened.iter().zip(&ids).map(|(store, id)| store.add_first_user(*id, "admin", "hash", "superadmin"));
    let won = futures_util::future::join_all(firsts).await;
    assert_eq!(won.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1, "the first who asks wins");
    assert_eq!(opened[0].roles().await.unwrap().len(), 5, "seeded once");
    let ticks = opened.iter().map(|store| store.tick(&jobs::queue::RETENTION));
    let ticked = futures_util::future::join_all(ticks).await;
    assert_eq!(ticked.into_iter().filter(|won| *won.as_ref().unwrap()).count(), 1, "a tick is one process's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hstore_the_error_says_what_to_run() {
    let database = Postgres::shared().await.database_without_hstore().await;
    let refused = PostgresStore::open(&database.url(), Clock::default(), postgres::options()).await;
    let why = unavailable(refused);
    assert!(why.contains("CREATE EXTENSION hstore") && why.contains("postgresql-contrib"), "{why}");
    database.superuser("CREATE EXTENSION hstore").unwrap();
    // For the schema of the queue's tables.
    database.superuser(&format!("GRANT CREATE ON DATABASE {} TO patchbay", database.name())).unwrap();
    open(&database.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_told_at_once_and_without_the_password() {
    let database = database().await;
    let right = database.url();
    let (begins, ends) = right.split_once("://patchbay:").unwrap();
    let (password, rest) = ends.split_once('@').unwrap();
    let began = Instant::now();
    for wrong in [
        format!("{begins}://patchbay:hunter2hunter2@{rest}"),
        format!("{begins}://nobody:{password}@{rest}"),
        format!("{begins}://patchbay:{password}@{}", rest.replace(database.name(), "missing")),
    ] {
        let options = Options { start: Duration::from_secs(600), ..postgres::options() };
        let why = unavailable(PostgresStore::open(&wrong, Clock::default(), options).await);
        assert!(!why.contains("hunter2") && !why.contains(password), "{why}");
    }
    assert!(began.elapsed() < SOON, "no use waiting for another answer");
    // Nobody listens there: it may come up yet.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = Options { start: Duration::from_millis(600), ..postgres::options() };
    let began = Instant::now();
    unavailable(PostgresStore::open(&format!("postgres://u:p@{gone}/d"), Clock::default(), options).await);
    assert!(began.elapsed() >= Duration::from_millis(300), "it was given some time to come up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_needs_a_newer_program_is_refused() {
    let database = database().await;
    open(&database.url()).await.close().await;
    database.superuser("UPDATE schema_floor SET oldest_version = '99.1.0'").unwrap();
    let refused = PostgresStore::open(&database.url(), Clock::default(), postgres::options()).await;
    let Err(StoreError::Corrupt(why)) = refused else { panic!("opened") };
    assert!(why.contains("99.1.0") && why.contains("newer patchbay"), "{why}");
    database
        .superuser(
            "UPDATE schema_floor SET oldest_version = '0.1.0'; INSERT INTO _patchbay_migrations \
             (version, description, success, checksum, execution_time) VALUES (9001, 'later', TRUE, '\\x00', 0)",
        )
        .unwrap();
    open(&database.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_one_takes_each_command() {
    let database = database().await;
    let (one, two) = (open(&database.url()).await, open(&database.url()).await);
    let ids = hosts(&one, 40).await;
    let scan = batch(Kind::ComplianceScan, &ids);
    let report = batch(Kind::ReportNow, &ids);
    // The same asked of both at once: scans and reports coalesce whoever comes second.
    let (scan_too, report_too) = (again(&scan), again(&report));
    let (a, b, c, d) =
        tokio::join!(one.create(&scan), two.create(&scan_too), one.create(&report), two.create(&report_too));
    let made: Vec<_> = [a, b, c, d].into_iter().map(|made| made.unwrap().unwrap()).collect();
    assert_eq!(made[0].count + made[1].count, 40, "one scan a host");
    assert_eq!(made[2].count + made[3].count, 40, "one report a host");
    let commands: Vec<Uuid> = made.iter().flat_map(|made| &made.commands).map(|c| c.id).collect();
    let takes: Vec<_> = commands.iter().map(|id| (*id, TAKE)).collect();
    let (first, second) = tokio::join!(one.apply(&takes), two.apply(&takes));
    let began = |applied: Vec<store::Applied>| applied.iter().filter(|a| a.step.asks.command.is_some()).count();
    assert_eq!(began(first.unwrap()) + began(second.unwrap()), 80, "each is asked for once");
    assert_eq!(one.counts().await.unwrap(), two.counts().await.unwrap());
}

/// Another request for the same.
fn again(batch: &store::NewBatch) -> store::NewBatch {
    store::NewBatch { id: Uuid::now_v7(), ..batch.clone() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_idempotency_key_at_two_processes_is_one_batch() {
    let database = database().await;
    let (one, two) = (open(&database.url()).await, open(&database.url()).await);
    let ids = hosts(&one, 3).await;
    for n in 0..20 {
        let asked = store::NewBatch {
            idempotency: Some((format!("key-{n}"), "hash".to_owned())),
            // Not one that coalesces: a second batch would show.
            ..batch(Kind::ComplianceScan, &ids[..1])
        };
        let second = again(&asked);
        let (a, b) = tokio::join!(one.create(&asked), two.create(&second));
        assert_eq!(a.unwrap().unwrap(), b.unwrap().unwrap(), "both got the first's answer");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_that_take_one_host_at_once_get_epochs_of_their_own() {
    let database = database().await;
    let (one, two) = (open(&database.url()).await, open(&database.url()).await);
    let ids = hosts(&one, 30).await;
    let (there, back): (Vec<_>, Vec<_>) =
        (ids.iter().map(|id| connect(*id)).collect(), ids.iter().rev().map(|id| connect(*id)).collect());
    for turn in 0..10 {
        let (a, b) = tokio::join!(one.connect_hosts(&there), two.connect_hosts(&back));
        let (a, mut b) = (a.unwrap().0, b.unwrap().0);
        b.reverse();
        for (a, b) in a.iter().zip(&b) {
            let mut epochs = [epoch(a), epoch(b)];
            epochs.sort_unstable();
            assert_eq!(epochs, [2 * turn + 1, 2 * turn + 2]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sweeps_of_two_processes_find_each_row_once() {
    let database = database().await;
    let clock = Clock::default();
    let one = PostgresStore::open(&database.url(), clock.clone(), postgres::options()).await.unwrap();
    let two = PostgresStore::open(&database.url(), clock.clone(), postgres::options()).await.unwrap();
    let ids = hosts(&one, 200).await;
    one.create(&batch(Kind::ReportNow, &ids)).await.unwrap().unwrap();
    clock.advance(DAY / 2);
    let (a, b) = tokio::join!(one.claim_due(1_000), two.claim_due(1_000));
    let mut found: Vec<Uuid> = a.unwrap().iter().chain(&b.unwrap()).map(|due| due.applied.command.id).collect();
    let all = found.len();
    found.sort_unstable();
    found.dedup();
    assert_eq!((found.len(), all), (200, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nothing_behind() {
    let database = database().await;
    let store = open(&database.url()).await;
    let ids = hosts(&store, 200).await;
    for n in 0..40 {
        // Dropped at a different point each time.
        let _ = timeout(Duration::from_micros(n * 250), store.create(&batch(Kind::ReportNow, &ids))).await;
    }
    // What was in the middle of an answer was closed; the connections in the pool are good.
    let made = timeout(SOON, store.create(&batch(Kind::ReportNow, &ids))).await.unwrap().unwrap().unwrap();
    assert_eq!(made.count + made.coalesced, 200);
    assert_eq!(store.counts().await.unwrap(), [(Kind::ReportNow, State::Queued, 200)], "all of a batch or nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_stay_right_while_they_are_folded() {
    let database = database().await;
    let (one, two) = (open(&database.url()).await, open(&database.url()).await);
    let ids = hosts(&one, 50).await;
    let folding = async {
        for _ in 0..60 {
            let (a, b) = tokio::join!(one.fold_counts(), two.fold_counts());
            a.unwrap();
            b.unwrap();
            let n: u64 = one.counts().await.unwrap().iter().map(|(_, _, n)| n).sum();
            assert!(n.is_multiple_of(50), "a batch is counted whole: {n}");
        }
    };
    let making = async {
        for kind in [Kind::ReportNow, Kind::SettingsUpdate, Kind::ComplianceScan, Kind::RefreshIntegrationStatus] {
            two.create(&batch(kind, &ids)).await.unwrap().unwrap();
        }
    };
    tokio::join!(folding, making);
    one.fold_counts().await.unwrap();
    let pool = postgres::pool(&database.superuser_url()).await;
    let left: i64 = sqlx::query("SELECT COUNT(*) FROM command_changes").fetch_one(&pool).await.unwrap().get(0);
    assert_eq!(left, 0);
    assert_eq!(one.counts().await.unwrap().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_with_a_zero_in_it_is_stored() {
    let database = database().await;
    let store = open(&database.url()).await;
    let id = hosts(&store, 1).await[0];
    store.touch_host(id, Some("2.1\0x")).await.unwrap();
    assert_eq!(store.host(id).await.unwrap().unwrap().agent_version.as_deref(), Some("2.1\u{fffd}x"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_were_cut_are_made_again() {
    let server = Postgres::start_own(Durability::None).await;
    let database = server.database().await;
    let store = open(&database.url()).await;
    let id = hosts(&store, 1).await[0];
    for _ in 0..3 {
        server.terminate_backends("usename = 'patchbay'").await;
        timeout(SOON, async { while store.host(id).await.is_err() {} }).await.unwrap();
    }
    store.create(&batch(Kind::ReportNow, &[id])).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_killed_is_missed_and_found_again() {
    let mut server = Postgres::start_own(Durability::Full).await;
    let database = server.database().await;
    let store = PostgresStore::open(&database.url(), Clock::default(), brisk()).await.unwrap();
    let id = hosts(&store, 1).await[0];
    let made = store.create(&batch(Kind::ReportNow, &[id])).await.unwrap().unwrap();
    server.kill();
    unavailable(timeout(SOON, store.host(id)).await.unwrap());
    unavailable(timeout(SOON, store.create(&batch(Kind::ReportNow, &[id]))).await.unwrap());
    server.restart().await;
    timeout(SOON, async { while store.ping().await.is_err() {} }).await.unwrap();
    let row = store.command(made.commands[0].id).await.unwrap().unwrap();
    assert_eq!(row.state, State::Queued, "what was answered is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_other_processes_ring_here_also_after_the_line_was_cut() {
    let server = Postgres::start_own(Durability::None).await;
    let database = server.database().await;
    let (one, two) = (open(&database.url()).await, open(&database.url()).await);
    let ids = hosts(&one, 2).await;
    let listening = two.listen();
    let rung = async |before: u64| {
        timeout(SOON, async {
            while two.bell().rings_for(Queue::AgentCommands) <= before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("nobody rang");
    };
    // It rings for all when it begins to listen.
    rung(0).await;
    let before = two.bell().rings_for(Queue::AgentCommands);
    one.create(&batch(Kind::ReportNow, &ids[..1])).await.unwrap().unwrap();
    rung(before).await;
    assert_eq!(two.bell().rings_for(Queue::Maintenance), 1, "only who has something to fetch is rung for");
    let before = two.bell().rings_for(Queue::AgentCommands);
    assert!(server.terminate_backends("query LIKE 'LISTEN%'").await > 0);
    rung(before).await;
    let before = two.bell().rings_for(Queue::AgentCommands);
    one.create(&batch(Kind::ReportNow, &ids[1..])).await.unwrap().unwrap();
    rung(before).await;
    listening.abort();
}

/// A line to the server that can go deaf: connected, and nothing passes.
struct Line {
    address: std::net::SocketAddr,
    deaf: tokio::sync::watch::Sender<bool>,
}

impl Line {
    async fn to(server: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (deaf, is_deaf) = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let is_deaf = is_deaf.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((mut from, mut to), (mut back_from, mut back_to)) = (client.into_split(), server.into_split());
                    let there = pass(&mut from, &mut back_to, is_deaf.clone());
                    let back = pass(&mut back_from, &mut to, is_deaf);
                    tokio::join!(there, back);
                });
            }
        });
        Self { address, deaf }
    }
}

async fn pass(
    from: &mut (impl tokio::io::AsyncRead + Unpin),
    to: &mut (impl tokio::io::AsyncWrite + Unpin),
    mut deaf: tokio::sync::watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n) = tokio::io::AsyncReadExt::read(from, &mut buffer).await {
        if n == 0 || deaf.wait_for(|deaf| !deaf).await.is_err() || to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_that_goes_deaf_keeps_nobody_waiting() {
    let database = database().await;
    let url = database.url();
    let (head, rest) = url.split_once('@').unwrap();
    let (server, name) = rest.split_once('/').unwrap();
    let line = Line::to(server.parse().unwrap()).await;
    let through = format!("{head}@{}/{name}", line.address);
    let store = Arc::new(PostgresStore::open(&through, Clock::default(), brisk()).await.unwrap());
    let id = hosts(store.as_ref(), 1).await[0];
    line.deaf.send_replace(true);
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.connect_hosts(&[connect(id)]).await.map(drop) })
        })
        .collect();
    for asked in asked {
        unavailable(timeout(SOON, asked).await.expect("it hangs").unwrap());
    }
    line.deaf.send_replace(false);
    timeout(SOON, async { while store.ping().await.is_err() {} }).await.expect("the pool is used up");
    store.connect_hosts(&[connect(id)]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finished_tasks_go_and_others_stay() {
    let database = database().await;
    let clock = Clock::default();
    let store = PostgresStore::open(&database.url(), clock.clone(), postgres::options()).await.unwrap();
    let id = hosts(&store, 1).await[0];
    for kind in [Kind::ReportNow, Kind::SettingsUpdate, Kind::ComplianceScan, Kind::RefreshIntegrationStatus] {
        store.create(&batch(kind, &[id])).await.unwrap().unwrap();
    }
    database
        .superuser(
            "UPDATE apalis.jobs j SET done_at = now(), status = (ARRAY['Done', 'Failed', 'Killed', 'Running'])[n] \
             FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM apalis.jobs) AS v WHERE v.id = j.id",
        )
        .unwrap();
    assert_eq!(store.retire(&Keep::default()).await.unwrap().tasks, 0, "they stay a day");
    clock.advance(DAY + 2_000);
    assert_eq!(store.retire(&Keep::default()).await.unwrap().tasks, 3);
    assert_eq!(store.retire(&Keep::default()).await.unwrap().tasks, 0);
}

/// A statement's plan for whatever values it is given.
async fn plan(pool: &PgPool, name: &str, sql: &str) -> Value {
    let mut conn = pool.acquire().await.unwrap();
    let run = async |conn: &mut sqlx::PgConnection, text: String| {
        sqlx::raw_sql(AssertSqlSafe(text)).execute(conn).await.unwrap_or_else(|error| panic!("{name}: {error}\n{sql}"));
    };
    run(&mut conn, "SET plan_cache_mode = force_generic_plan".to_owned()).await;
    let types = types(&mut conn, sql).await;
    run(&mut conn, format!("PREPARE asked{types} AS {sql}")).await;
    let count: i32 =
        sqlx::query("SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'asked'")
            .fetch_one(&mut *conn)
            .await
            .unwrap()
            .get(0);
    let nulls = vec!["NULL"; usize::try_from(count).unwrap()].join(", ");
    let values = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let explain = format!("EXPLAIN (FORMAT JSON) EXECUTE asked{values}");
    let row = sqlx::raw_sql(AssertSqlSafe(explain)).fetch_one(&mut *conn).await.unwrap();
    run(&mut conn, "DEALLOCATE asked".to_owned()).await;
    row.get(0)
}

/// The types of a VALUES list, which the server cannot guess: those of the columns that it sets.
async fn types(conn: &mut sqlx::PgConnection, sql: &str) -> String {
    let Some((sets, _)) = sql.strip_prefix("UPDATE commands SET ").and_then(|rest| rest.split_once(" FROM (VALUES"))
    else {
        return String::new();
    };
    let mut types = vec!["text".to_owned()];
    for set in sets.split(", ") {
        let column = set.split(' ').next().unwrap();
        let row = sqlx::query(
            "SELECT data_type FROM information_schema.columns WHERE table_name = 'commands' AND column_name = $1",
        );
        types.push(row.bind(column).fetch_one(&mut *conn).await.unwrap().get(0));
    }
    let rows = sql.matches(", ($").count() + 1;
    format!("({})", vec![types.join(", "); rows].join(", "))
}

/// Steps that read every row of a table of ours. A partial index holds only the rows it is about.
fn walks(step: &Value, found: &mut Vec<String>) {
    // One row a worker, a schedule, a minute of the last hour; a second's changes.
    const SMALL: [&str; 14] = [
        "hosts_held",
        "commands_due",
        "commands_open",
        "commands_one_scan",
        "commands_ended",
        "terminal_sessions_open",
        "terminal_sessions_open_gateway",
        "command_totals",
        "command_changes",
        "command_end_totals",
        "command_end_changes",
        "workers",
        "worker_processes",
        "schedule_ticks",
    ];
    let text = |name: &str| step.get(name).and_then(Value::as_str).unwrap_or_default();
    let whole = match text("Node Type") {
        "Seq Scan" => !SMALL.contains(&text("Relation Name")),
        "Index Scan" | "Index Only Scan" | "Bitmap Index Scan" => {
            step.get("Index Cond").is_none() && !SMALL.contains(&text("Index Name"))
        }
        _ => false,
    };
    if whole {
        found.push(format!("{} on {}{}", text("Node Type"), text("Relation Name"), text("Index Name")));
    }
    for part in step.get("Plans").and_then(Value::as_array).into_iter().flatten() {
        walks(part, found);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hot_statements_walk_through_no_table_of_a_million_rows() {
    let database = database().await;
    let store = open(&database.url()).await;
    let ids = hosts(&store, 2).await;
    assert_eq!(api_id(ids[0]).as_str().len(), api_id(ids[1]).as_str().len());
    store.create(&batch(Kind::ReportNow, &ids)).await.unwrap().unwrap();
    for many in [
        "INSERT INTO hosts (id, name, api_id, key_hash, created_at) \
         SELECT gen_random_uuid(), 'many-' || i, 'patchmon_many_' || i, 'x', 0 FROM generate_series(1, 20000) AS i",
        // Most are over, as in a database that has been used for a month.
        "INSERT INTO commands (id, host_id, batch_id, kind, payload, state, final, exclusive, not_before, expires_at, \
         next_check_at, ended_at, requested_by) \
         SELECT gen_random_uuid(), h.id, md5((i / 1000)::text), (ARRAY['report_now', 'compliance_scan'])[1 + i % 2], '{}', \
         CASE WHEN i % 50 = 0 THEN 'queued' ELSE 'succeeded' END, CASE WHEN i % 50 = 0 THEN 0 ELSE 1 END, i % 2, i, i + 9, \
         CASE WHEN i % 50 = 0 THEN i END, CASE WHEN i % 50 <> 0 THEN i END, 'admin' \
         FROM generate_series(1, 1000000) AS i JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM hosts) AS h \
         ON h.n = 1 + i % 20000",
        "INSERT INTO apalis.jobs (id, job, job_type, status, run_at, done_at) \
         SELECT 'done-' || i, '\\x00', 'agent-commands', 'Done', now(), now() FROM generate_series(1, 1000000) AS i",
        "INSERT INTO users (id, username, name_key, password_hash, role, created_at) VALUES ('u', 'u', 'u', 'x', 'admin', 0)",
        "INSERT INTO sessions (id, user_id, created_at, expires_at, idle_ms, last_activity_at, address, user_agent) \
         SELECT gen_random_uuid(), 'u', 0, i, 0, 0, '', '' FROM generate_series(1, 1000000) AS i",
        "INSERT INTO idempotency_keys (username, key, request_hash, answer, created_at) \
         SELECT 'u', i::text, '', '', i FROM generate_series(1, 1000000) AS i",
        "INSERT INTO tickets (digest, user_id, session_id, expires_at) \
         SELECT md5(id), 'u', id, expires_at FROM sessions",
        "INSERT INTO dashboard_sessions (digest, session_id, expires_at) \
         SELECT md5(id), id, expires_at FROM sessions",
        "INSERT INTO terminal_sessions (id, host_id, host_name, user_id, username, address, gateway_id, mode, target, \
         opened_at, ended_at, at_agent, recorded, chunks) \
         SELECT gen_random_uuid(), h.id, '', md5((i % 100)::text), '', '', md5((i % 3)::text), 'proxy', '', i, \
         CASE WHEN i % 1000 <> 0 THEN i END, CASE WHEN i % 500 = 0 THEN 1 ELSE 0 END, i % 2, 1 \
         FROM generate_series(1, 200000) AS i JOIN (SELECT id, row_number() OVER (ORDER BY id) AS n FROM hosts) AS h \
         ON h.n = 1 + i % 20000",
        "INSERT INTO recording_chunks (terminal_id, number, chunk) \
         SELECT id, n, '\\x00' FROM terminal_sessions, generate_series(0, 7) AS n WHERE recorded = 1",
        "INSERT INTO audit_log (id, at, event, user_id, address, host_id, session_id) \
         SELECT gen_random_uuid(), opened_at, (ARRAY['ssh_terminal_opened', 'ssh_terminal_closed'])[n], user_id, '', host_id, id \
         FROM terminal_sessions, generate_series(1, 2) AS n",
        "INSERT INTO ssh_host_keys (host_id, port, key, fingerprint, first_seen_at, last_seen_at) \
         SELECT id, 22, id, '', 0, 0 FROM hosts",
        "VACUUM ANALYZE",
    ] {
        database.superuser(many).unwrap();
    }
    let pool = postgres::pool(&database.superuser_url()).await;
    let queries = hot_queries();
    assert!(queries.len() >= 10);
    let mut faults = Vec::new();
    for (name, sql) in &queries {
        let plan = plan(&pool, name, sql).await;
        let mut found = Vec::new();
        walks(&plan[0]["Plan"], &mut found);
        if !found.is_empty() {
            faults.push(format!("{name}: {}\n{sql}\n{plan:#}", found.join(", ")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n\n"));
    // And what the checker would see of a statement that is wrong.
    let mut found = Vec::new();
    walks(&plan(&pool, "wrong", "SELECT id FROM commands WHERE requested_by = $1").await[0]["Plan"], &mut found);
    assert_eq!(found.len(), 1, "{found:?}");
}
