//! Many at once: nothing is lost, nothing is busy, nothing happens twice.

use std::collections::HashSet;

use jobs::{Deed, Event, Kind, State};
use schemas::message::CommandReply;
use store::Store;
use uuid::Uuid;

use super::{
    store_moves::{results, started},
    store_world::{DELIVERED, NOBODY, TAKE, World, batch, connect, epoch},
};

on_every_store! {
    fifty_at_once_lose_nothing,
    a_crowd_at_one_host_leaves_it_sound,
    a_command_asked_amid_reconnects_is_never_left_behind,
}

/// One host's life: asked, connected, delivered, done; over and over.
async fn live(store: &dyn Store, host: Uuid, turns: usize) -> Vec<Uuid> {
    let mut made = Vec::new();
    for turn in 0..turns {
        let created = store.create(&batch(Kind::ReportNow, &[host])).await.unwrap().unwrap();
        let id = created.commands[0].id;
        made.push(id);
        let taken = store.apply(&[(id, TAKE)]).await.unwrap().remove(0);
        assert_eq!(taken.command.state, State::Sending);
        let attempt = taken.command.attempt;
        if turn % 2 == 0 {
            store.apply(&[(id, Event::Outcome { attempt, outcome: NOBODY })]).await.unwrap();
            let (outcomes, woken) = store.connect_hosts(&[connect(host)]).await.unwrap();
            assert_eq!(epoch(&outcomes[0]), i64::try_from(turn / 2 + 1).unwrap());
            assert_eq!(woken.len(), 1, "it waited");
            store.apply(&[(id, TAKE)]).await.unwrap();
        }
        let attempt = store.command(id).await.unwrap().unwrap().attempt;
        store.apply(&[(id, Event::Outcome { attempt, outcome: DELIVERED })]).await.unwrap();
        let ended = store.observe(host, &[Deed::Report]).await.unwrap();
        assert_eq!(ended.iter().map(|a| a.command.id).collect::<Vec<_>>(), [id]);
        if turn % 4 == 0 {
            let newest = i64::try_from(turn / 2 + 1).unwrap();
            assert_eq!(store.disconnect_hosts(&[(host, newest)]).await.unwrap(), [true]);
        }
        store.touch_host(host, Some("2.1.4")).await.unwrap();
    }
    made
}

async fn fifty_at_once_lose_nothing(world: World) {
    let hosts = world.many_hosts(50).await;
    let sweeper = tokio::spawn({
        let store = world.store.clone();
        async move {
            loop {
                store.claim_due(100).await.unwrap();
                store.counts().await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let lives: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (store, host) = (world.store.clone(), *host);
            tokio::spawn(async move { live(&*store, host, 8).await })
        })
        .collect();
    let mut made = HashSet::new();
    for life in lives {
        made.extend(life.await.unwrap());
    }
    assert!(!sweeper.is_finished(), "the sweep met an error");
    sweeper.abort();
    assert_eq!(made.len(), 400);
    for id in made {
        assert_eq!(world.state(id).await, State::Succeeded);
    }
    world.assert_sound().await;
}

async fn a_crowd_at_one_host_leaves_it_sound(world: World) {
    let host = world.host().await;
    let crowd: Vec<_> = (0..50_u32)
        .map(|n| {
            let store = world.store.clone();
            tokio::spawn(async move {
                let kind = Kind::ALL[n as usize % 4];
                let mut asked = batch(kind, &[host]);
                if kind == Kind::ComplianceScan {
                    asked.payload["profile_id"] = format!("p{n}").into();
                }
                let id = store.create(&asked).await.unwrap().unwrap().commands[0].id;
                for _ in 0..4 {
                    store.apply(&[(id, TAKE)]).await.unwrap();
                    store.connect_hosts(&[connect(host)]).await.unwrap();
                    let attempt = store.command(id).await.unwrap().unwrap().attempt;
                    let reply = jobs::Outcome::Reply(CommandReply::Sent { epoch: 1 }, schemas::message::Mode::Deliver);
                    let outcome = if n % 3 == 0 { NOBODY } else { reply };
                    store.apply(&[(id, Event::Outcome { attempt, outcome })]).await.unwrap();
                    let deed =
                        [Deed::Report, started(), results("failed"), results("completed")][n as usize % 4].clone();
                    store.observe(host, &[deed]).await.unwrap();
                }
                id
            })
        })
        .collect();
    for one in crowd {
        one.await.unwrap();
    }
    assert_eq!(world.store.host(host).await.unwrap().unwrap().facts.epoch, 200);
    world.assert_sound().await;
}

/// Create, attempt and connect race: in the end the row is on its way or has a task that will take it.
async fn a_command_asked_amid_reconnects_is_never_left_behind(world: World) {
    let hosts = world.many_hosts(40).await;
    let connects = tokio::spawn({
        let (store, hosts) = (world.store.clone(), hosts.clone());
        async move {
            for group in hosts.chunks(5) {
                store.connect_hosts(&group.iter().map(|h| connect(*h)).collect::<Vec<_>>()).await.unwrap();
            }
        }
    });
    let attempts: Vec<_> = hosts
        .iter()
        .map(|host| {
            let (store, host) = (world.store.clone(), *host);
            tokio::spawn(async move {
                let id = store.create(&batch(Kind::ReportNow, &[host])).await.unwrap().unwrap().commands[0].id;
                let taken = store.apply(&[(id, TAKE)]).await.unwrap().remove(0).command;
                // Nobody held it when it was asked for, whatever has happened since.
                let outcome = Event::Outcome { attempt: taken.attempt, outcome: NOBODY };
                store.apply(&[(id, outcome)]).await.unwrap();
                id
            })
        })
        .collect();
    let mut ids = Vec::new();
    for attempt in attempts {
        ids.push(attempt.await.unwrap());
    }
    connects.await.unwrap();
    let tasks: HashSet<Uuid> = super::store_world::ids_of(&world.take_tasks().await).into_iter().collect();
    for id in ids {
        let row = world.row(id).await;
        assert!(tasks.contains(&id));
        // A connect after the attempt wakes it; one before it moved the epoch that the attempt asked with.
        let connected_first = row.asked_epoch == 1;
        let expected = if connected_first { State::Waiting } else { State::Queued };
        assert_eq!(row.state, expected, "asked with epoch {}", row.asked_epoch);
    }
    world.assert_sound().await;
}
