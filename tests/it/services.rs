//! The services that suites start for themselves: what a suite leans on has to hold.

use std::path::Path;

use sqlx::{Connection, PgConnection};
use tests::services::postgres::{Durability, Postgres};

async fn connect(url: &str) -> PgConnection {
    PgConnection::connect(url).await.unwrap()
}

async fn number(connection: &mut PgConnection, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let server = Postgres::shared().await;
    let (one, two) = (server.database().await, server.database().await);
    let (mut in_one, mut in_two) = (connect(&one.url()).await, connect(&two.url()).await);
    for connection in [&mut in_one, &mut in_two] {
        sqlx::query("CREATE TABLE things (n BIGINT)").execute(connection).await.unwrap();
    }
    sqlx::query("INSERT INTO things VALUES (1)").execute(&mut in_one).await.unwrap();
    assert_eq!(number(&mut in_one, "SELECT count(*) FROM things").await, 1);
    assert_eq!(number(&mut in_two, "SELECT count(*) FROM things").await, 0);
}

#[tokio::test]
async fn a_dropped_database_is_gone_though_somebody_is_connected() {
    let server = Postgres::shared().await;
    let (kept, dropped) = (server.database().await, server.database().await);
    let name = dropped.name().to_owned();
    let mut connection = connect(&dropped.url()).await;
    drop(dropped);
    assert!(connection.ping().await.is_err());
    let left = kept.superuser(&format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'")).unwrap();
    assert_eq!(left, "0");
}

#[tokio::test]
async fn hstore_is_there_or_cannot_be_had() {
    let server = Postgres::shared().await;
    let with = server.database().await;
    let mut connection = connect(&with.url()).await;
    assert_eq!(number(&mut connection, "SELECT count(*) FROM each('a=>1, b=>2'::hstore)").await, 2);
    let without = server.database_without_hstore().await;
    let mut connection = connect(&without.url()).await;
    sqlx::query("CREATE TABLE things (n BIGINT)").execute(&mut connection).await.unwrap();
    let refused = sqlx::query("CREATE EXTENSION hstore").execute(&mut connection).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied"), "{refused}");
}

#[tokio::test]
async fn a_killed_server_comes_back_on_its_address_with_what_was_committed() {
    let mut server = Postgres::start_own(Durability::Full).await;
    let database = server.database().await;
    let mut connection = connect(&database.url()).await;
    sqlx::query("CREATE TABLE things (n BIGINT)").execute(&mut connection).await.unwrap();
    sqlx::query("INSERT INTO things VALUES (7)").execute(&mut connection).await.unwrap();
    for stop in [Postgres::kill, Postgres::stop] {
        stop(&mut server);
        assert!(connection.ping().await.is_err());
        assert!(PgConnection::connect(&database.url()).await.is_err());
        server.restart().await;
        connection = connect(&database.url()).await;
        assert_eq!(number(&mut connection, "SELECT sum(n)::BIGINT FROM things").await, 7);
    }
}

#[tokio::test]
async fn only_the_chosen_connections_are_cut() {
    let server = Postgres::start_own(Durability::None).await;
    let database = server.database().await;
    let (mut listens, mut other) = (connect(&database.url()).await, connect(&database.url()).await);
    sqlx::query("LISTEN news").execute(&mut listens).await.unwrap();
    assert_eq!(number(&mut other, "SELECT 1::BIGINT").await, 1);
    assert_eq!(server.terminate_backends("query LIKE 'LISTEN%'").await, 1);
    assert!(listens.ping().await.is_err());
    assert_eq!(number(&mut other, "SELECT 2::BIGINT").await, 2);
}

#[tokio::test]
async fn whoever_lets_go_leaves_nothing_behind() {
    for killed_before in [false, true] {
        let mut server = Postgres::start_own(Durability::None).await;
        let home = server.home().to_owned();
        let process = format!("/proc/{}", server.pid().unwrap());
        assert!(home.exists() && Path::new(&process).exists());
        if killed_before {
            server.kill();
            assert!(home.exists(), "a restart needs it");
        }
        drop(server);
        assert!(!home.exists() && !Path::new(&process).exists());
    }
}
