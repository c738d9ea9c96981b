//! The sweep that alone makes any crash harmless; lists and counts of what it left.

use std::collections::HashSet;

use jobs::{
    Event, Kind, State,
    life::{ATTEMPT_MS, CLAIM_MS, PROBE_MS, SAFETY_MS},
};
use schemas::message::Mode;
use store::{ListFilter, NewBatch, Target};
use uuid::Uuid;

use super::store_world::{BUSY, DAY, DELIVERED, HOUR, MINUTE, NOBODY, SECOND, SENT, TAKE, World, batch, ids_of, keep};

on_every_store! {
    nothing_is_due_before_its_time,
    a_lost_task_is_pushed_again,
    what_is_claimed_is_claimed_once,
    sweepers_side_by_side_share_the_rows,
    a_sweep_takes_no_more_than_its_limit,
    an_attempt_without_an_end_is_asked_after,
    an_attempt_is_asked_after_by_one_sweep_at_a_time,
    an_unproved_frame_is_asked_after,
    a_refused_command_comes_again_after_its_wait,
    what_was_not_sent_in_time_expires,
    what_waits_for_a_connected_host_is_woken,
    silence_ends_what_was_read,
    the_generation_decides_how_long_silence_is,
    a_scan_that_expires_lets_the_next_go,
    rows_of_removed_hosts_are_swept_too,
    recovery_looks_at_once,
    counts_follow_every_move,
    filters_narrow_a_list,
    pages_hold_every_command_once_newest_first,
    a_page_stays_put_while_new_commands_come,
}

async fn nothing_is_due_before_its_time(world: World) {
    let hosts: [Uuid; 3] = world.hosts().await;
    world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    assert!(world.sweep().await.is_empty());
    world.advance(SAFETY_MS - 20 * SECOND);
    assert!(world.sweep().await.is_empty());
}

async fn a_lost_task_is_pushed_again(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take_tasks().await;
    let rings = world.store.bell().rings();
    world.advance(SAFETY_MS);
    let found = world.sweep().await;
    assert_eq!((found.len(), found[0].command.state), (1, State::Queued));
    let tasks = world.take_tasks().await;
    assert_eq!((ids_of(&tasks), tasks[0].run_at), (vec![id], 0));
    assert_eq!(world.store.bell().rings(), rings + 1);
}

async fn what_is_claimed_is_claimed_once(world: World) {
    let hosts: [Uuid; 6] = world.hosts().await;
    let ids: Vec<Uuid> = world.make(&batch(Kind::SettingsUpdate, &hosts)).await.commands.iter().map(|c| c.id).collect();
    for id in &ids[1..] {
        world.take(*id).await;
    }
    world.outcome(ids[2], SENT).await;
    world.outcome(ids[3], NOBODY).await;
    world.outcome(ids[4], BUSY).await;
    world.advance(2 * SAFETY_MS);
    let found: HashSet<Uuid> = world.sweep().await.iter().map(|a| a.command.id).collect();
    assert_eq!(found, ids.iter().copied().collect());
    for id in ids {
        let row = world.row(id).await;
        assert!(row.next_check_at.unwrap() > world.now(), "{:?} is due again at once", row.state);
    }
    assert!(world.sweep().await.is_empty());
}

async fn sweepers_side_by_side_share_the_rows(world: World) {
    let hosts = world.many_hosts(200).await;
    let made = world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    let takes: Vec<_> = made.commands.iter().map(|c| (c.id, TAKE)).collect();
    world.store.apply(&takes[..100]).await.unwrap();
    world.advance(2 * SAFETY_MS);
    let sweepers: Vec<_> = (0..8)
        .map(|_| {
            let store = world.store.clone();
            tokio::spawn(async move { store.claim_due(60).await.unwrap() })
        })
        .collect();
    let mut found = Vec::new();
    for sweeper in sweepers {
        found.extend(sweeper.await.unwrap().into_iter().map(|due| due.applied.command.id));
    }
    found.extend(world.sweep().await.iter().map(|a| a.command.id));
    found.sort_unstable();
    assert_eq!(found, made.commands.iter().map(|c| c.id).collect::<Vec<_>>());
}

async fn a_sweep_takes_no_more_than_its_limit(world: World) {
    let hosts = world.many_hosts(25).await;
    world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    world.advance(SAFETY_MS);
    for expected in [10, 10, 5, 0] {
        assert_eq!(world.store.claim_due(10).await.unwrap().len(), expected);
    }
}

async fn an_attempt_without_an_end_is_asked_after(world: World) {
    let host = world.host().await;
    world.connect(&[host]).await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.connect(&[host]).await;
    world.advance(ATTEMPT_MS);
    let found = world.store.claim_due(10).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].asks().command, Some(Mode::Again));
    assert_eq!(found[0].applied.command.asked_epoch, 1, "with the first attempt's epoch");
    assert_eq!(found[0].applied.host.epoch, 2);
    assert_eq!(world.row(id).await.state, State::Sending);
}

async fn an_attempt_is_asked_after_by_one_sweep_at_a_time(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.advance(ATTEMPT_MS);
    for turn in 0..3 {
        assert_eq!(world.sweep().await.len(), 1, "turn {turn}");
        assert!(world.sweep().await.is_empty(), "turn {turn}: it was claimed a moment ago");
        world.advance(CLAIM_MS + 1);
    }
}

async fn an_unproved_frame_is_asked_after(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.outcome(id, SENT).await;
    world.advance(PROBE_MS);
    let found = world.store.claim_due(10).await.unwrap();
    assert_eq!(found[0].asks().command, Some(Mode::Probe));
    assert_eq!(world.state(id).await, State::Sent);
}

async fn a_refused_command_comes_again_after_its_wait(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.take_tasks().await;
    let refused = world.outcome(id, BUSY).await.command;
    assert_eq!(refused.not_before, refused.times.at(State::Queued).unwrap() + SECOND);
    assert_eq!(refused.next_check_at, Some(refused.not_before));
    world.advance(SECOND);
    assert_eq!(world.sweep().await.len(), 1);
    assert_eq!(ids_of(&world.take_tasks().await), [id]);
    world.take(id).await;
}

async fn what_was_not_sent_in_time_expires(world: World) {
    let [queued, absent] = world.hosts().await;
    let one = world.command(Kind::ReportNow, queued).await;
    let two = world.command(Kind::ReportNow, absent).await;
    let read = world.delivered(Kind::ComplianceScan, queued).await;
    world.take(two).await;
    world.outcome(two, NOBODY).await;
    world.advance(DAY - MINUTE);
    world.sweep().await;
    assert_eq!((world.state(one).await, world.state(two).await), (State::Queued, State::Waiting));
    world.advance(MINUTE + SECOND);
    world.sweep().await;
    assert_eq!((world.state(one).await, world.state(two).await), (State::Expired, State::Expired));
    assert_eq!(world.state(read).await, State::Unconfirmed, "what was sent does not expire");
    world.assert_sound().await;
}

async fn what_waits_for_a_connected_host_is_woken(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.outcome(id, NOBODY).await;
    world.advance(SAFETY_MS);
    world.sweep().await;
    assert_eq!(world.state(id).await, State::Waiting, "nobody is there");
    // As after an outage: the socket lived, and only the hint tells.
    world.execute(&format!("UPDATE hosts SET connected = 1 WHERE id = '{host}'")).await;
    world.take_tasks().await;
    world.advance(SAFETY_MS);
    world.sweep().await;
    assert_eq!(world.state(id).await, State::Queued);
    assert_eq!(ids_of(&world.take_tasks().await), [id]);
}

async fn silence_ends_what_was_read(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::ReportNow, host).await;
    world.advance(29 * MINUTE);
    world.sweep().await;
    assert_eq!(world.state(id).await, State::Delivered);
    world.advance(MINUTE + SECOND);
    world.sweep().await;
    let row = world.row(id).await;
    assert_eq!(row.state, State::Unconfirmed);
    assert!(row.error.is_some() && row.next_check_at.is_none());
}

async fn the_generation_decides_how_long_silence_is(world: World) {
    let host = world.host().await;
    world.store.touch_host(host, Some("2.1.4")).await.unwrap();
    let id = world.delivered(Kind::ReportNow, host).await;
    world.advance(10 * MINUTE + SECOND);
    world.sweep().await;
    assert_eq!(world.state(id).await, State::Unconfirmed);
}

async fn a_scan_that_expires_lets_the_next_go(world: World) {
    let host = world.host().await;
    let first = world.command(Kind::ComplianceScan, host).await;
    let payload = super::store_world::scan(&serde_json::json!({"profile_id": "b"}));
    let second = world.command_of(Kind::ComplianceScan, payload, host).await;
    world.deliver(first).await;
    world.apply(second, TAKE).await;
    world.advance(HOUR);
    world.take_tasks().await;
    world.sweep().await;
    assert_eq!(world.state(first).await, State::Unconfirmed);
    assert!(ids_of(&world.take_tasks().await).contains(&second));
    world.take(second).await;
}

async fn rows_of_removed_hosts_are_swept_too(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    // A store that was restored from two halves: the host is gone, its command is not.
    world.execute(&format!("DELETE FROM hosts WHERE id = '{host}'")).await;
    world.advance(DAY + SECOND);
    assert_eq!(world.sweep().await.len(), 1);
    assert_eq!(world.state(id).await, State::Expired);
}

async fn recovery_looks_at_once(world: World) {
    let hosts: [Uuid; 5] = world.hosts().await;
    let ids: Vec<Uuid> = world.make(&batch(Kind::ReportNow, &hosts)).await.commands.iter().map(|c| c.id).collect();
    for id in &ids[1..] {
        world.take(*id).await;
    }
    world.outcome(ids[2], SENT).await;
    world.outcome(ids[3], NOBODY).await;
    world.outcome(ids[4], DELIVERED).await;
    assert_eq!(world.store.recover().await.unwrap(), 3);
    let found: HashSet<Uuid> = world.sweep().await.iter().map(|a| a.command.id).collect();
    assert_eq!(found, HashSet::from([ids[0], ids[1], ids[2]]), "queued, sending, sent");
    world.assert_sound().await;
}

async fn counts_follow_every_move(world: World) {
    let hosts: [Uuid; 4] = world.hosts().await;
    assert!(world.store.counts().await.unwrap().is_empty());
    world.make(&batch(Kind::ReportNow, &hosts)).await;
    world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    world.assert_counts().await;
    let id = world.command(Kind::ComplianceScan, hosts[0]).await;
    world.deliver(id).await;
    world.assert_counts().await;
    let found = world.store.counts().await.unwrap();
    assert!(found.contains(&(Kind::ReportNow, State::Queued, 4)));
    assert!(found.contains(&(Kind::ComplianceScan, State::Delivered, 1)));
    assert!(!found.iter().any(|(kind, state, _)| (*kind, *state) == (Kind::ComplianceScan, State::Queued)));
    world.store.remove_host(hosts[0]).await.unwrap();
    world.assert_counts().await;
    world.advance(90 * DAY);
    world.sweep().await;
    while world.store.retire(&keep(0)).await.unwrap().commands > 0 {}
    world.assert_counts().await;
}

async fn listed(world: &World, filter: &ListFilter) -> Vec<Uuid> {
    let page = world.store.list_commands(filter, None, 100).await.unwrap();
    assert_eq!(page.next_cursor, None);
    page.items.into_iter().map(|c| c.id).collect()
}

async fn filters_narrow_a_list(world: World) {
    let [one, two] = world.hosts().await;
    let reports = batch(Kind::ReportNow, &[one, two]);
    let made = world.make(&reports).await;
    let [a, b] = [made.commands[0].id, made.commands[1].id];
    let c = world.command(Kind::ComplianceScan, one).await;
    let d = world.command(Kind::SettingsUpdate, two).await;
    world.take(c).await;
    world.apply(d, Event::Cancel).await;
    let all = ListFilter::default();
    for (filter, expected) in [
        (all.clone(), vec![d, c, b, a]),
        (ListFilter { batch_id: Some(reports.id), ..all.clone() }, vec![b, a]),
        (ListFilter { batch_id: Some(Uuid::now_v7()), ..all.clone() }, vec![]),
        (ListFilter { host_id: Some(one), ..all.clone() }, vec![c, a]),
        (ListFilter { state: Some(State::Queued), ..all.clone() }, vec![b, a]),
        (ListFilter { state: Some(State::Cancelled), ..all.clone() }, vec![d]),
        (ListFilter { kind: Some(Kind::ComplianceScan), ..all.clone() }, vec![c]),
        (ListFilter { host_id: Some(two), kind: Some(Kind::ReportNow), ..all.clone() }, vec![b]),
        (
            ListFilter {
                batch_id: Some(reports.id),
                host_id: Some(one),
                state: Some(State::Queued),
                kind: Some(Kind::ReportNow),
            },
            vec![a],
        ),
        (ListFilter { host_id: Some(one), state: Some(State::Expired), ..all.clone() }, vec![]),
    ] {
        assert_eq!(listed(&world, &filter).await, expected, "{filter:?}");
    }
}

async fn pages_hold_every_command_once_newest_first(world: World) {
    let hosts = world.many_hosts(23).await;
    let asked = NewBatch { target: Target::All, ..batch(Kind::ReportNow, &hosts) };
    let mut ids: Vec<Uuid> = world.make(&asked).await.commands.iter().map(|c| c.id).collect();
    world.make(&batch(Kind::SettingsUpdate, &hosts[..2])).await;
    ids.reverse();
    let filter = ListFilter { batch_id: Some(asked.id), ..ListFilter::default() };
    for limit in [1, 7, 22, 23, 24] {
        let (mut seen, mut cursor) = (Vec::new(), None::<String>);
        loop {
            let page = world.store.list_commands(&filter, cursor.as_deref(), limit).await.unwrap();
            assert!(!page.items.is_empty() && page.items.len() <= limit as usize);
            seen.extend(page.items.iter().map(|c| c.id));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ids, "{limit} a page");
    }
}

async fn a_page_stays_put_while_new_commands_come(world: World) {
    let hosts: [Uuid; 6] = world.hosts().await;
    world.make(&batch(Kind::ReportNow, &hosts)).await;
    let all = ListFilter::default();
    let first = world.store.list_commands(&all, None, 3).await.unwrap();
    world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    let second = world.store.list_commands(&all, first.next_cursor.as_deref(), 3).await.unwrap();
    let seen: HashSet<Uuid> = first.items.iter().chain(&second.items).map(|c| c.host_id).collect();
    assert_eq!(seen.len(), 6);
    assert_eq!(second.next_cursor, None);
}
