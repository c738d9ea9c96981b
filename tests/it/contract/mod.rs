//! What every adapter of a port must do, whatever it stands on. One suite a port; each test is written against the port
//! alone and runs once an adapter.
//!
//! *Adding an adapter*: one constructor beside `Broker::memory` or `World::sqlite`, and one module in the macro below.
//! What only one engine can show (its file, its pragmas, its plans) stands in a module that bears the engine's name.

/// Runs the named tests on every bus there is.
macro_rules! on_every_bus {
    ($($test:ident,)+) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Broker::memory()).await;
            })+
        }

        mod nats {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Broker::nats().await).await;
            })+
        }
    };
}

/// Runs the named tests on every store there is.
macro_rules! on_every_store {
    ($($test:ident,)+) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::contract::store_world::World::sqlite().await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(crate::contract::store_world::World::postgres().await).await;
            })+
        }
    };
}

mod bus;
mod bus_nats;
mod store_accounts;
mod store_create;
mod store_crowd;
mod store_hosts;
mod store_housekeeping;
mod store_moves;
mod store_postgres;
mod store_presence;
mod store_random;
mod store_reports;
mod store_sqlite;
mod store_status;
mod store_sweep;
mod store_terminals;
mod store_tickets;
mod store_world;
