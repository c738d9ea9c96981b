//! Retention in batches, and schedules whose tick is taken once whoever asks.

use jobs::{
    Event, Kind,
    queue::{RETENTION, Schedule},
};
use store::{ListFilter, NewBatch, NewSession, Retired};
use uuid::Uuid;

use super::store_world::{DAY, HOUR, SECOND, World, batch, keep};

on_every_store! {
    retention_takes_only_what_is_past_it,
    retention_works_in_batches,
    retention_of_an_empty_store_removes_nothing,
    a_tick_is_taken_by_the_first_who_asks,
    a_tick_pushes_its_task,
    schedules_tick_by_themselves,
    the_store_answers_a_ping,
}

const KEEP: i64 = 30 * DAY;

async fn cancel_all(world: &World, ids: &[Uuid]) {
    for chunk in ids.chunks(256) {
        world.store.apply(&chunk.iter().map(|id| (*id, Event::Cancel)).collect::<Vec<_>>()).await.unwrap();
    }
}

async fn retention_takes_only_what_is_past_it(world: World) {
    let [host, other] = world.hosts().await;
    let old = world.command(Kind::ReportNow, host).await;
    let open =
        world.make(&NewBatch { expires_in_ms: 90 * DAY, ..batch(Kind::ReportNow, &[other]) }).await.commands[0].id;
    cancel_all(&world, &[old]).await;
    let user = Uuid::now_v7();
    world.store.add_user(user, "ada", "hash", "admin").await.unwrap();
    for lifetime_ms in [12 * HOUR, KEEP] {
        let session = NewSession {
            id: Uuid::now_v7(),
            user_id: user,
            lifetime_ms,
            idle_ms: HOUR,
            address: String::new(),
            user_agent: String::new(),
        };
        world.store.open_session(&session).await.unwrap();
    }
    let keyed = NewBatch { idempotency: Some(("k".to_owned(), "h".to_owned())), ..batch(Kind::ReportNow, &[other]) };
    world.make(&keyed).await;

    world.advance(KEEP - HOUR);
    let young = world.command(Kind::SettingsUpdate, host).await;
    cancel_all(&world, &[young]).await;
    let kept = world.store.retire(&keep(KEEP)).await.unwrap();
    assert_eq!(kept, Retired { sessions: 1, keys: 1, ..Retired::default() });
    world.advance(HOUR + SECOND);
    assert_eq!(world.store.retire(&keep(KEEP)).await.unwrap(), Retired { commands: 1, ..Retired::default() });
    assert!(world.store.command(old).await.unwrap().is_none());
    for id in [open, young] {
        assert!(world.store.command(id).await.unwrap().is_some());
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM sessions").await, 1);
    world.assert_sound().await;
}

async fn retention_works_in_batches(world: World) {
    let hosts = world.many_hosts(1_300).await;
    let made = world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    world.make(&batch(Kind::ReportNow, &hosts[..7])).await;
    let all = ListFilter { batch_id: Some(made.batch_id), ..ListFilter::default() };
    let all = world.store.list_commands(&all, None, 2_000).await.unwrap();
    let ids: Vec<Uuid> = all.items.iter().map(|c| c.id).collect();
    cancel_all(&world, &ids).await;
    world.advance(2 * SECOND);
    let mut turns = Vec::new();
    loop {
        let removed = world.store.retire(&keep(SECOND)).await.unwrap();
        if removed.total() == 0 {
            break;
        }
        turns.push(removed.commands);
    }
    assert_eq!(turns.iter().sum::<u64>(), 1_300);
    assert!(turns.len() > 1 && turns.iter().all(|n| *n <= 1_000), "the writer is never held for long: {turns:?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 7);
    world.assert_counts().await;
}

async fn retention_of_an_empty_store_removes_nothing(world: World) {
    assert_eq!(world.store.retire(&keep(0)).await.unwrap(), Retired::default());
}

const HOURLY: Schedule = Schedule { name: "hourly", every_secs: 3_600 };

async fn a_tick_is_taken_by_the_first_who_asks(world: World) {
    for period in 0..3 {
        let askers: Vec<_> = (0..16)
            .map(|_| {
                let store = world.store.clone();
                tokio::spawn(async move { store.tick(&HOURLY).await.unwrap() })
            })
            .collect();
        let mut won = 0;
        for asker in askers {
            won += u32::from(asker.await.unwrap());
        }
        assert_eq!(won, 1, "period {period}");
        assert_eq!(world.take_tasks().await.len(), 1);
        world.advance(HOUR);
    }
    assert_eq!(world.number("SELECT COUNT(*) FROM schedule_ticks").await, 1, "old ticks do not pile up");
}

async fn a_tick_pushes_its_task(world: World) {
    let rings = world.store.bell().rings();
    assert!(world.store.tick(&RETENTION).await.unwrap());
    let tasks = world.take_tasks().await;
    assert_eq!((tasks.len(), tasks[0].queue.as_str(), tasks[0].name().as_str()), (1, "maintenance", RETENTION.name));
    assert_eq!(tasks[0].run_at, 0);
    assert_eq!(world.store.bell().rings(), rings + 1);
}

async fn schedules_tick_by_themselves(world: World) {
    assert!(world.store.tick(&HOURLY).await.unwrap());
    assert!(world.store.tick(&Schedule { name: "other", every_secs: 3_600 }).await.unwrap());
    assert_eq!(world.take_tasks().await.len(), 2);
}

async fn the_store_answers_a_ping(world: World) {
    world.store.ping().await.unwrap();
}
