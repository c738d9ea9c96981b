//! Making commands: for one, many, all; coalesced, capped, paced; and made once however often a client asks.

use std::{collections::HashSet, future::poll_fn, sync::Arc, task::Poll, time::Duration};

use jobs::{Event, Kind, Queue, State, life::SAFETY_MS, queue::TASK_IDS_MAX};
use serde_json::json;
use store::{Bell, Created, NewBatch, NotCreated, Target};
use tokio::time::timeout;
use uuid::Uuid;

use super::store_world::{DAY, DELIVERED, HOUR, NOBODY, SECOND, SENT, TAKE, World, batch, ids_of, payload, scan};

on_every_store! {
    a_command_is_kept_as_it_was_asked,
    many_hosts_get_one_each_however_often_they_are_named,
    all_are_the_hosts_there_are_now,
    an_unknown_host_makes_nothing_for_the_known,
    the_answer_names_the_first_thousand,
    tasks_hold_every_id_once_and_are_due_now,
    a_scan_goes_to_its_own_queue,
    the_bell_rings_when_the_row_can_be_read,
    a_refused_batch_rings_no_bell,
    a_repeatable_command_coalesces_until_it_is_sent,
    a_scan_coalesces_while_it_is_open,
    a_scan_that_is_being_cancelled_serves_nobody,
    a_scan_that_repairs_coalesces_too,
    another_payload_is_another_command,
    the_oldest_of_identical_commands_serves,
    a_host_with_too_many_open_commands_is_left_out,
    a_batch_of_full_hosts_is_refused,
    a_full_host_still_coalesces,
    settings_are_kept_though_no_command_is_made,
    a_retry_with_the_same_key_makes_nothing_new,
    a_key_is_for_one_request_of_one_user,
    a_key_is_forgotten_after_a_day,
    a_refused_request_leaves_its_key_free,
    retries_side_by_side_make_one_batch,
    a_paced_batch_takes_slots_one_after_another,
    slots_that_have_passed_are_not_made_up_for,
    a_single_command_waits_for_nobody,
    an_asked_spread_is_kept,
    what_waits_for_its_slot_still_expires_after_it,
    paced_tasks_are_due_with_their_slots,
}

async fn a_command_is_kept_as_it_was_asked(world: World) {
    let host = world.host().await;
    let before = world.now();
    let asked = NewBatch {
        payload: scan(&json!({"profile_type": "openscap", "profile_id": "x"})),
        expires_in_ms: HOUR,
        traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        ..batch(Kind::ComplianceScan, &[host])
    };
    let made = world.make(&asked).await;
    assert_eq!((made.batch_id, made.count, made.coalesced, made.skipped.len()), (asked.id, 1, 0, 0));
    assert_eq!((made.commands[0].host_id, made.commands[0].state), (host, State::Queued));

    let row = world.row(made.commands[0].id).await;
    assert_eq!((row.host_id, row.batch_id, row.kind, row.state), (host, asked.id, Kind::ComplianceScan, State::Queued));
    assert_eq!(
        (&row.payload, row.requested_by.as_str(), &row.traceparent),
        (&asked.payload, "ada", &asked.traceparent)
    );
    assert_eq!((row.attempt, row.losses, row.refusals, row.asked_epoch), (0, 0, 0, 0));
    let now = row.times.at(State::Queued).unwrap();
    assert!((before..=world.now()).contains(&now));
    assert_eq!((row.not_before, row.expires_at, row.next_check_at), (now, now + HOUR, Some(now + SAFETY_MS)));
    assert_eq!((row.evidence, row.error, row.cancel_requested_at), (None, None, None));

    let tasks = world.take_tasks().await;
    assert_eq!(tasks.len(), 1);
    assert!(tasks[0].metadata.contains("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"), "{tasks:?}");
    assert_eq!(tasks[0].attempts_max, 1, "a retry is a new task");
}

async fn many_hosts_get_one_each_however_often_they_are_named(world: World) {
    let [one, two, three] = world.hosts().await;
    let made = world.make(&batch(Kind::ReportNow, &[two, one, two, two])).await;
    assert_eq!(made.count, 2);
    let hosts: Vec<Uuid> = made.commands.iter().map(|c| c.host_id).collect();
    assert_eq!(hosts, [one, two]);
    assert_eq!(world.number(&format!("SELECT COUNT(*) FROM commands WHERE host_id = '{three}'")).await, 0);
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 2);
}

async fn all_are_the_hosts_there_are_now(world: World) {
    let all = |kind| NewBatch { target: Target::All, ..batch(kind, &[]) };
    assert_eq!(world.make(&all(Kind::ReportNow)).await.count, 0);
    world.many_hosts(3).await;
    assert_eq!(world.make(&all(Kind::ReportNow)).await.count, 3);
    world.many_hosts(2).await;
    let made = world.make(&all(Kind::ReportNow)).await;
    assert_eq!((made.count, made.coalesced, made.commands.len()), (2, 3, 5));
}

async fn an_unknown_host_makes_nothing_for_the_known(world: World) {
    let host = world.host().await;
    let (ghost, other) = (Uuid::now_v7(), Uuid::now_v7());
    let refused = world.refused(&batch(Kind::SettingsUpdate, &[host, other, ghost, ghost])).await;
    assert_eq!(refused, NotCreated::UnknownHosts(vec![ghost, other]));
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 0);
    assert_eq!(world.store.host(host).await.unwrap().unwrap().update_interval, 60, "nor for its settings");
    assert!(world.take_tasks().await.is_empty());
}

async fn the_answer_names_the_first_thousand(world: World) {
    let hosts = world.many_hosts(1_203).await;
    let asked = batch(Kind::ReportNow, &hosts);
    let made = world.make(&asked).await;
    assert_eq!((made.count, made.commands.len()), (1_203, 1_000));
    let named: HashSet<Uuid> = made.commands.iter().map(|c| c.id).collect();
    assert_eq!(named.len(), 1_000);
    assert_eq!(world.number(&format!("SELECT COUNT(*) FROM commands WHERE batch_id = '{}'", asked.id)).await, 1_203);
    world.assert_sound().await;
}

async fn tasks_hold_every_id_once_and_are_due_now(world: World) {
    let hosts = world.many_hosts(600).await;
    let made = world.make(&batch(Kind::SettingsUpdate, &hosts)).await;
    let tasks = world.take_tasks().await;
    assert_eq!(tasks.len(), 600_usize.div_ceil(TASK_IDS_MAX));
    assert!(tasks.iter().all(|t| t.ids().len() <= TASK_IDS_MAX && t.run_at == 0 && t.queue == "agent-commands"));
    let ids = ids_of(&tasks);
    let unique: HashSet<Uuid> = ids.iter().copied().collect();
    let expected: HashSet<Uuid> = made.commands.iter().map(|c| c.id).collect();
    assert_eq!((ids.len(), unique), (600, expected));
}

async fn a_scan_goes_to_its_own_queue(world: World) {
    let host = world.host().await;
    world.command(Kind::ComplianceScan, host).await;
    world.command(Kind::ReportNow, host).await;
    let queues: Vec<String> = world.take_tasks().await.into_iter().map(|t| t.queue).collect();
    assert_eq!(queues, ["compliance", "agent-commands"]);
}

/// Waits until the bell rings more often than `seen`.
async fn ring(bell: Arc<Bell>, mut seen: u64) {
    let rung =
        poll_fn(|cx| if bell.poll(Queue::AgentCommands, &mut seen, cx) { Poll::Ready(()) } else { Poll::Pending });
    timeout(Duration::from_secs(20), rung).await.expect("it did not ring");
}

async fn the_bell_rings_when_the_row_can_be_read(world: World) {
    let host = world.host().await;
    let bell = world.store.bell().clone();
    let listener = tokio::spawn({
        let (store, seen) = (world.store.clone(), bell.rings_for(Queue::AgentCommands));
        async move {
            ring(bell, seen).await;
            store.counts().await.unwrap()
        }
    });
    world.command(Kind::ReportNow, host).await;
    assert_eq!(listener.await.unwrap(), [(Kind::ReportNow, State::Queued, 1)]);
}

async fn a_refused_batch_rings_no_bell(world: World) {
    let host = world.host().await;
    let rings = world.store.bell().rings();
    world.refused(&batch(Kind::ReportNow, &[host, Uuid::now_v7()])).await;
    assert_eq!(world.store.bell().rings(), rings);
    world.command(Kind::ReportNow, host).await;
    assert_eq!(world.store.bell().rings(), rings + 1);
    world.make(&batch(Kind::ReportNow, &[host])).await;
    assert_eq!(world.store.bell().rings(), rings + 1, "a coalesced command has its task already");
}

/// Asks again for the same of the same host.
async fn again(world: &World, kind: Kind, host: Uuid) -> Created {
    world.make(&batch(kind, &[host])).await
}

async fn a_repeatable_command_coalesces_until_it_is_sent(world: World) {
    for kind in [Kind::ReportNow, Kind::RefreshIntegrationStatus, Kind::SettingsUpdate] {
        let host = world.host().await;
        let first = world.command(kind, host).await;
        let serves = async |state| {
            let made = again(&world, kind, host).await;
            assert_eq!((made.count, made.coalesced), (0, 1), "{kind:?} while {state:?}");
            assert_eq!((made.commands[0].id, made.commands[0].state), (first, state));
        };
        serves(State::Queued).await;
        world.take(first).await;
        serves(State::Sending).await;
        world.outcome(first, NOBODY).await;
        serves(State::Waiting).await;
        world.connect(&[host]).await;
        serves(State::Queued).await;
        world.take(first).await;
        world.outcome(first, SENT).await;
        let made = again(&world, kind, host).await;
        assert_eq!((made.count, made.coalesced), (1, 0), "{kind:?} is on its way: its answer may be older than this");
    }
}

async fn a_scan_coalesces_while_it_is_open(world: World) {
    let host = world.host().await;
    let first = world.command(Kind::ComplianceScan, host).await;
    let serves = async |state| {
        let made = again(&world, Kind::ComplianceScan, host).await;
        assert_eq!((made.count, made.coalesced), (0, 1), "while {state:?}");
        assert_eq!((made.commands[0].id, made.commands[0].state), (first, state));
    };
    serves(State::Queued).await;
    world.take(first).await;
    serves(State::Sending).await;
    world.outcome(first, SENT).await;
    serves(State::Sent).await;
    world.outcome(first, DELIVERED).await;
    serves(State::Delivered).await;
    world.observe(host, super::store_moves::started()).await;
    serves(State::Running).await;
    world.observe(host, super::store_moves::results("completed")).await;
    assert_eq!(again(&world, Kind::ComplianceScan, host).await.count, 1);
}

async fn a_scan_that_is_being_cancelled_serves_nobody(world: World) {
    let host = world.host().await;
    let first = world.delivered(Kind::ComplianceScan, host).await;
    world.apply(first, Event::Cancel).await;
    let made = again(&world, Kind::ComplianceScan, host).await;
    assert_eq!((made.count, made.coalesced), (1, 0));
}

async fn a_scan_that_repairs_coalesces_too(world: World) {
    let host = world.host().await;
    let asked =
        NewBatch { payload: scan(&json!({"enable_remediation": true})), ..batch(Kind::ComplianceScan, &[host]) };
    let first = world.make(&asked).await.commands[0].id;
    let made = world.make(&NewBatch { id: Uuid::now_v7(), ..asked }).await;
    assert_eq!((made.count, made.commands[0].id), (0, first));
}

async fn another_payload_is_another_command(world: World) {
    let host = world.host().await;
    let payloads = [
        json!(null),
        json!({"profile_id": "x"}),
        json!({"profile_type": "openscap"}),
        json!({"enable_remediation": true}),
    ];
    for asked in payloads {
        world.command_of(Kind::ComplianceScan, scan(&asked), host).await;
    }
    for minutes in [5, 30] {
        world.command_of(Kind::SettingsUpdate, json!({"update_interval": minutes}), host).await;
    }
    world.command(Kind::ReportNow, host).await;
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 7);
}

async fn the_oldest_of_identical_commands_serves(world: World) {
    let host = world.host().await;
    let first = world.command(Kind::ReportNow, host).await;
    world.take(first).await;
    world.outcome(first, SENT).await;
    let second = world.command(Kind::ReportNow, host).await;
    world.apply(first, Event::Lost { attempt: 1 }).await;
    assert_eq!((world.state(first).await, world.state(second).await), (State::Queued, State::Queued));
    assert_eq!(again(&world, Kind::ReportNow, host).await.commands[0].id, first);
}

/// Fills a host up to the most open commands it may have.
async fn fill(world: &World, host: Uuid) {
    for n in 0..64 {
        world.command_of(Kind::ComplianceScan, scan(&json!({"profile_id": format!("p{n}")})), host).await;
    }
}

async fn a_host_with_too_many_open_commands_is_left_out(world: World) {
    let [full, other] = world.hosts().await;
    fill(&world, full).await;
    let made = world.make(&batch(Kind::ReportNow, &[full, other])).await;
    assert_eq!((made.count, made.skipped, made.commands.len()), (1, vec![full], 1));
    assert_eq!(made.commands[0].host_id, other);

    let any =
        world.store.list_commands(&store::ListFilter { host_id: Some(full), ..Default::default() }, None, 1).await;
    world.apply(any.unwrap().items[0].id, Event::Cancel).await;
    assert_eq!(again(&world, Kind::ReportNow, full).await.count, 1, "one has ended");
}

async fn a_batch_of_full_hosts_is_refused(world: World) {
    let full = world.host().await;
    fill(&world, full).await;
    world.take_tasks().await;
    assert_eq!(world.refused(&batch(Kind::ReportNow, &[full])).await, NotCreated::AllFull(vec![full]));
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 64);
    assert!(world.take_tasks().await.is_empty());
}

async fn a_full_host_still_coalesces(world: World) {
    let full = world.host().await;
    fill(&world, full).await;
    let asked = NewBatch { payload: scan(&json!({"profile_id": "p7"})), ..batch(Kind::ComplianceScan, &[full]) };
    let made = world.make(&asked).await;
    assert_eq!((made.count, made.coalesced, made.skipped.len()), (0, 1, 0));
}

async fn settings_are_kept_though_no_command_is_made(world: World) {
    let [full, other] = world.hosts().await;
    fill(&world, full).await;
    let asked = NewBatch { payload: json!({"update_interval": 120}), ..batch(Kind::SettingsUpdate, &[full, other]) };
    assert_eq!(world.make(&asked).await.count, 1);
    for host in [full, other] {
        assert_eq!(world.store.host(host).await.unwrap().unwrap().update_interval, 120);
    }
}

fn keyed(hosts: &[Uuid], key: &str, hash: &str) -> NewBatch {
    NewBatch { idempotency: Some((key.to_owned(), hash.to_owned())), ..batch(Kind::ReportNow, hosts) }
}

async fn a_retry_with_the_same_key_makes_nothing_new(world: World) {
    let hosts: [Uuid; 3] = world.hosts().await;
    let first = world.make(&keyed(&hosts, "k", "h")).await;
    world.take_tasks().await;
    let rings = world.store.bell().rings();
    world.take(first.commands[0].id).await;
    assert_eq!(
        world.make(&keyed(&hosts, "k", "h")).await,
        first,
        "as it was answered then, whatever has happened since"
    );
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 3);
    assert!(world.take_tasks().await.is_empty());
    assert_eq!(world.store.bell().rings(), rings);
}

async fn a_key_is_for_one_request_of_one_user(world: World) {
    let host = world.host().await;
    world.make(&keyed(&[host], "k", "h")).await;
    assert_eq!(world.refused(&keyed(&[host], "k", "other")).await, NotCreated::OtherRequest);
    let anna = NewBatch { requested_by: "anna".to_owned(), ..keyed(&[host], "k", "other") };
    assert_eq!(world.make(&anna).await.coalesced, 1);
    assert_eq!(world.make(&keyed(&[host], "k2", "other")).await.coalesced, 1);
}

async fn a_key_is_forgotten_after_a_day(world: World) {
    let host = world.host().await;
    let first = world.make(&keyed(&[host], "k", "h")).await;
    world.advance(DAY - 30 * SECOND);
    assert_eq!(world.make(&keyed(&[host], "k", "h")).await, first);
    world.advance(31 * SECOND);
    let later = keyed(&[host], "k", "other");
    let made = world.make(&later).await;
    assert_eq!(made.batch_id, later.id);
    assert_eq!(world.make(&keyed(&[host], "k", "other")).await, made, "and is taken anew");
}

async fn a_refused_request_leaves_its_key_free(world: World) {
    let host = world.host().await;
    world.refused(&keyed(&[host, Uuid::now_v7()], "k", "h")).await;
    assert_eq!(world.make(&keyed(&[host], "k", "other")).await.count, 1);
}

async fn retries_side_by_side_make_one_batch(world: World) {
    let hosts: [Uuid; 3] = world.hosts().await;
    let retries: Vec<_> = (0..10)
        .map(|_| {
            let store = world.store.clone();
            tokio::spawn(async move { store.create(&keyed(&hosts, "k", "h")).await.unwrap().unwrap() })
        })
        .collect();
    let mut answers = Vec::new();
    for retry in retries {
        answers.push(retry.await.unwrap());
    }
    assert!(answers.iter().all(|a| *a == answers[0]));
    assert_eq!(world.number("SELECT COUNT(*) FROM commands").await, 3);
}

/// When each command of a batch may go, in the order of the hosts.
async fn slots(world: &World, made: &Created) -> Vec<i64> {
    let mut slots = Vec::new();
    for command in &made.commands {
        slots.push(world.row(command.id).await.not_before);
    }
    slots
}

async fn a_paced_batch_takes_slots_one_after_another(world: World) {
    let hosts: [Uuid; 10] = world.hosts().await;
    let before = world.now();
    let first = slots(&world, &world.make(&batch(Kind::ReportNow, &hosts)).await).await;
    assert!((before..=world.now()).contains(&first[0]));
    assert!(first.windows(2).all(|w| w[1] == w[0] + 5), "5 ms apart: {first:?}");
    let second = slots(&world, &world.make(&batch(Kind::ComplianceScan, &hosts)).await).await;
    assert!(second[0] >= first[9] + 5, "one pace for all kinds of the fleet");
    assert!(second.windows(2).all(|w| w[1] == w[0] + 5));
    let unpaced = slots(&world, &world.make(&batch(Kind::SettingsUpdate, &hosts)).await).await;
    assert!(unpaced.iter().all(|at| *at == unpaced[0] && *at <= world.now()));
}

async fn slots_that_have_passed_are_not_made_up_for(world: World) {
    let [one, two] = world.hosts().await;
    world.make(&batch(Kind::ReportNow, &[one, two])).await;
    world.advance(HOUR);
    let now = world.now();
    let later = slots(&world, &world.make(&batch(Kind::ComplianceScan, &[one, two])).await).await;
    assert!(later[0] >= now && later[1] == later[0] + 5);
}

async fn a_single_command_waits_for_nobody(world: World) {
    let hosts = world.many_hosts(500).await;
    world.make(&batch(Kind::ReportNow, &hosts)).await;
    let single = world.command(Kind::ComplianceScan, hosts[0]).await;
    assert!(world.row(single).await.not_before <= world.now());
}

async fn an_asked_spread_is_kept(world: World) {
    let hosts: [Uuid; 10] = world.hosts().await;
    for kind in [Kind::ReportNow, Kind::SettingsUpdate] {
        let before = world.now();
        let made = world.make(&NewBatch { spread_ms: Some(10 * SECOND), ..batch(kind, &hosts) }).await;
        let slots = slots(&world, &made).await;
        assert!((before..=world.now()).contains(&slots[0]));
        assert!(slots.windows(2).all(|w| w[1] == w[0] + SECOND), "{slots:?}");
    }
}

async fn what_waits_for_its_slot_still_expires_after_it(world: World) {
    let [one, two] = world.hosts().await;
    let asked = NewBatch { spread_ms: Some(20 * SECOND), expires_in_ms: SECOND, ..batch(Kind::ReportNow, &[one, two]) };
    for command in world.make(&asked).await.commands {
        let row = world.row(command.id).await;
        assert!(row.expires_at > row.not_before && row.next_check_at.unwrap() <= row.expires_at);
    }
}

async fn paced_tasks_are_due_with_their_slots(world: World) {
    let hosts: [Uuid; 10] = world.hosts().await;
    let made = world.make(&NewBatch { spread_ms: Some(100 * SECOND), ..batch(Kind::ReportNow, &hosts) }).await;
    let slots = slots(&world, &made).await;
    let tasks = world.take_tasks().await;
    let mut ids = ids_of(&tasks);
    ids.sort_unstable();
    assert_eq!(ids, made.commands.iter().map(|c| c.id).collect::<Vec<_>>(), "each id once");
    for task in tasks {
        for id in task.ids() {
            let slot = slots[made.commands.iter().position(|c| c.id == id).unwrap()];
            let due = if id == made.commands[0].id { 0 } else { slot / 1_000 };
            assert_eq!(task.run_at, due, "at the second its slot is in");
        }
    }
    assert_eq!(payload(Kind::ReportNow), json!({}));
    let early = world.apply(made.commands[9].id, TAKE).await;
    assert_eq!((early.command.state, early.step.push_at), (State::Queued, Some(slots[9])), "too early: later again");
    assert_eq!(ids_of(&world.take_tasks().await), [made.commands[9].id]);
}
