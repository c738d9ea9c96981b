//! Commands on the move: attempts and their outcomes, one scan a host, wakes, deeds.

use jobs::{Asks, Deed, Event, Kind, Outcome, State, life::SAFETY_MS};
use schemas::{
    agent::ScanPhase,
    message::{CommandReply, Mode},
    scan::{ScanFact, ScanStatus},
};
use serde_json::json;
use store::NewBatch;
use uuid::Uuid;

use super::store_world::{
    BUSY, DAY, DELIVERED, HOUR, MINUTE, NOBODY, SECOND, SENT, TAKE, World, batch, ids_of, payload, scan,
};

on_every_store! {
    an_attempt_remembers_the_epoch_it_asked_with,
    rows_that_do_not_exist_are_left_out,
    each_event_of_one_call_has_its_answer_in_order,
    events_of_one_row_in_one_call_follow_each_other,
    facts_of_an_older_attempt_change_nothing,
    two_workers_begin_one_attempt,
    one_scan_a_host_at_a_time,
    two_scans_in_one_call_are_one_scan,
    the_next_scan_is_rung_when_the_first_ends,
    the_next_scan_is_rung_when_the_first_is_refused,
    a_scan_that_cannot_begin_leaves_its_turn_to_the_next,
    scans_of_many_hosts_ring_each_its_own,
    an_absent_agent_is_waited_for,
    an_agent_that_came_meanwhile_is_asked_again,
    a_connect_wakes_what_waits,
    a_connect_wakes_the_fleet_at_its_pace,
    a_connect_moves_only_what_waits,
    a_scan_under_way_notes_that_its_agent_came_back,
    a_refused_host_wakes_nothing,
    unseen_settings_are_sent_at_connect,
    each_host_is_sent_its_own_settings,
    settings_that_were_delivered_are_seen,
    settings_that_were_fetched_are_seen,
    older_settings_do_not_count_as_the_newest,
    a_report_ends_all_that_asked_for_it,
    a_deed_ends_nothing_that_was_not_sent,
    a_deed_while_sending_is_decided_by_the_outcome,
    a_scan_runs_and_ends_by_its_results,
    a_deed_of_another_host_is_its_own,
    a_late_deed_is_noted_and_moves_nothing,
    a_deed_days_later_is_no_answer,
    a_cancel_of_what_was_not_sent_ends_it,
    a_cancel_while_sending_is_decided_by_the_outcome,
    a_cancel_of_a_running_scan_rings_a_worker,
}

pub fn started() -> Deed {
    phase(ScanPhase::Started, "")
}

fn phase(phase: ScanPhase, text: &str) -> Deed {
    Deed::ScanPhase { phase, host_ms: None, profile: String::new(), text: text.to_owned() }
}

/// Results of an OpenSCAP scan.
pub fn results(status: &str) -> Deed {
    let status = if status == "completed" { ScanStatus::Completed } else { ScanStatus::Failed };
    Deed::ScanResults {
        scans: vec![ScanFact {
            profile_type: "openscap".to_owned(),
            profile_name: "level1_server".to_owned(),
            status,
            started_at_ms: None,
            error: String::new(),
        }],
    }
}

async fn an_attempt_remembers_the_epoch_it_asked_with(world: World) {
    let host = world.host().await;
    for _ in 0..3 {
        world.connect(&[host]).await;
    }
    let id = world.command(Kind::ReportNow, host).await;
    let taken = world.apply(id, TAKE).await;
    assert_eq!(taken.step.asks, Asks { command: Some(Mode::Deliver), cancel: false });
    assert_eq!((taken.host.epoch, taken.host.connected), (3, true));
    let row = world.row(id).await;
    assert_eq!((row.state, row.attempt, row.asked_epoch, row.held_epoch), (State::Sending, 1, 3, None));
    assert!(row.times.at(State::Sending).is_some());
    assert_eq!(taken.command, row, "the answer is the row");
}

async fn rows_that_do_not_exist_are_left_out(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    let applied =
        world.store.apply(&[(Uuid::now_v7(), TAKE), (id, TAKE), (Uuid::now_v7(), Event::Cancel)]).await.unwrap();
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].command.id, id);
    assert!(world.store.apply(&[]).await.unwrap().is_empty());
    assert!(world.store.command(Uuid::now_v7()).await.unwrap().is_none());
}

async fn each_event_of_one_call_has_its_answer_in_order(world: World) {
    let hosts = world.many_hosts(300).await;
    let mut ids: Vec<Uuid> =
        world.make(&batch(Kind::SettingsUpdate, &hosts)).await.commands.iter().map(|c| c.id).collect();
    ids.reverse();
    ids.swap(7, 200);
    let events: Vec<_> = ids.iter().map(|id| (*id, TAKE)).collect();
    let applied = world.store.apply(&events).await.unwrap();
    assert_eq!(applied.iter().map(|a| a.command.id).collect::<Vec<_>>(), ids);
    assert!(applied.iter().all(|a| a.command.state == State::Sending && a.host.id == a.command.host_id));
    world.assert_sound().await;
}

async fn events_of_one_row_in_one_call_follow_each_other(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    let proved = Event::Proved { attempt: 1, epoch: 4 };
    let events = [(id, TAKE), (id, Event::Outcome { attempt: 1, outcome: SENT }), (id, proved)];
    let applied = world.store.apply(&events).await.unwrap();
    let states: Vec<State> = applied.iter().map(|a| a.command.state).collect();
    assert_eq!(states, [State::Sending, State::Sent, State::Delivered]);
    let row = world.row(id).await;
    assert_eq!((row.state, row.held_epoch), (State::Delivered, Some(4)));
    world.assert_sound().await;
}

async fn facts_of_an_older_attempt_change_nothing(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.outcome(id, SENT).await;
    world.apply(id, Event::Lost { attempt: 1 }).await;
    assert_eq!(world.take(id).await, 2);
    let before = world.row(id).await;
    for event in [
        Event::Proved { attempt: 1, epoch: 1 },
        Event::Lost { attempt: 1 },
        Event::Outcome { attempt: 1, outcome: NOBODY },
        Event::Outcome { attempt: 3, outcome: DELIVERED },
    ] {
        assert!(!world.apply(id, event.clone()).await.step.changed, "{event:?}");
        assert_eq!(world.row(id).await, before);
    }
}

async fn two_workers_begin_one_attempt(world: World) {
    let hosts = world.many_hosts(50).await;
    let made = world.make(&batch(Kind::ReportNow, &hosts)).await;
    let events: Vec<_> = made.commands.iter().map(|c| (c.id, TAKE)).collect();
    let workers: Vec<_> = (0..6)
        .map(|_| {
            let (store, events) = (world.store.clone(), events.clone());
            tokio::spawn(async move { store.apply(&events).await.unwrap() })
        })
        .collect();
    let mut asked = Vec::new();
    for worker in workers {
        let applied = worker.await.unwrap();
        asked.extend(applied.iter().filter(|a| a.step.asks.command.is_some()).map(|a| a.command.id));
    }
    asked.sort_unstable();
    assert_eq!(asked, made.commands.iter().map(|c| c.id).collect::<Vec<_>>(), "each by one of them");
}

/// Two different scans of one host, the older first.
async fn two_scans(world: &World, host: Uuid) -> [Uuid; 2] {
    let first = world.command_of(Kind::ComplianceScan, scan(&json!({"profile_id": "a"})), host).await;
    let second = world.command_of(Kind::ComplianceScan, scan(&json!({"profile_id": "b"})), host).await;
    [first, second]
}

async fn one_scan_a_host_at_a_time(world: World) {
    let [host, other] = world.hosts().await;
    let [first, second] = two_scans(&world, host).await;
    world.take(first).await;
    let others = world.command(Kind::ComplianceScan, other).await;
    for outcome in [SENT, DELIVERED] {
        let blocked = world.apply(second, TAKE).await;
        assert_eq!((blocked.command.state, blocked.step.asks), (State::Queued, Asks::default()));
        world.outcome(first, outcome).await;
    }
    world.observe(host, started()).await;
    assert_eq!(world.state(first).await, State::Running);
    assert_eq!(world.apply(second, TAKE).await.command.state, State::Queued);
    world.take(others).await;
    let report = world.command(Kind::ReportNow, host).await;
    world.take(report).await;
    world.assert_sound().await;
}

async fn two_scans_in_one_call_are_one_scan(world: World) {
    let host = world.host().await;
    let [first, second] = two_scans(&world, host).await;
    let applied = world.store.apply(&[(second, TAKE), (first, TAKE)]).await.unwrap();
    assert_eq!(applied[0].command.state, State::Sending);
    assert_eq!(applied[1].command.state, State::Queued);
    world.assert_sound().await;
}

async fn the_next_scan_is_rung_when_the_first_ends(world: World) {
    let host = world.host().await;
    let [first, second] = two_scans(&world, host).await;
    world.deliver(first).await;
    world.apply(second, TAKE).await;
    world.take_tasks().await;
    let rings = world.store.bell().rings();
    let failed = world.observe(host, results("failed")).await;
    assert_eq!(failed[0].command.state, State::Failed);
    let tasks = world.take_tasks().await;
    assert_eq!((ids_of(&tasks), tasks[0].run_at, tasks[0].queue.as_str()), (vec![second], 0, "compliance"));
    assert_eq!(world.store.bell().rings(), rings + 1);
    world.take(second).await;
}

async fn the_next_scan_is_rung_when_the_first_is_refused(world: World) {
    let host = world.host().await;
    let [first, second] = two_scans(&world, host).await;
    world.take(first).await;
    world.take_tasks().await;
    world.outcome(first, NOBODY).await;
    assert_eq!(ids_of(&world.take_tasks().await), [second]);
}

async fn a_scan_that_cannot_begin_leaves_its_turn_to_the_next(world: World) {
    let host = world.host().await;
    let running = world.command_of(Kind::ComplianceScan, scan(&json!({"profile_id": "r"})), host).await;
    let off = json!({"profile_type": "all", "openscap_enabled": false, "docker_bench_enabled": false});
    let cannot = world.command_of(Kind::ComplianceScan, scan(&off), host).await;
    let next = world.command_of(Kind::ComplianceScan, scan(&json!({"profile_id": "n"})), host).await;
    world.deliver(running).await;
    world.apply(next, TAKE).await;
    world.take_tasks().await;
    world.observe(host, results("failed")).await;
    assert_eq!(ids_of(&world.take_tasks().await), [cannot]);
    assert_eq!(world.apply(cannot, TAKE).await.command.state, State::Failed);
    assert_eq!(ids_of(&world.take_tasks().await), [next]);
}

async fn scans_of_many_hosts_ring_each_its_own(world: World) {
    let hosts = world.many_hosts(40).await;
    let of = |id: &str| NewBatch { payload: scan(&json!({"profile_id": id})), ..batch(Kind::ComplianceScan, &hosts) };
    let first: Vec<Uuid> = world.make(&of("a")).await.commands.iter().map(|c| c.id).collect();
    let mut second: Vec<Uuid> = world.make(&of("b")).await.commands.iter().map(|c| c.id).collect();
    world.store.apply(&first.iter().map(|id| (*id, TAKE)).collect::<Vec<_>>()).await.unwrap();
    world.take_tasks().await;
    let ends: Vec<_> = first.iter().map(|id| (*id, Event::Outcome { attempt: 1, outcome: NOBODY })).collect();
    world.store.apply(&ends).await.unwrap();
    let mut rung = ids_of(&world.take_tasks().await);
    rung.sort_unstable();
    second.sort_unstable();
    assert_eq!(rung, second);
}

async fn an_absent_agent_is_waited_for(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.take_tasks().await;
    let done = world.outcome(id, NOBODY).await;
    assert_eq!(done.command.state, State::Waiting);
    assert!(world.take_tasks().await.is_empty());
    let row = world.row(id).await;
    assert!(row.next_check_at.unwrap() <= world.now() + SAFETY_MS, "and looked after all the same");
}

async fn an_agent_that_came_meanwhile_is_asked_again(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.take(id).await;
    world.connect(&[host]).await;
    world.take_tasks().await;
    let done = world.outcome(id, NOBODY).await;
    assert_eq!(done.command.state, State::Queued, "its wake has passed this row by");
    let tasks = world.take_tasks().await;
    assert_eq!((ids_of(&tasks), tasks[0].run_at), (vec![id], 0));
}

/// A command that waits for its agent.
async fn waiting(world: &World, kind: Kind, host: Uuid) -> Uuid {
    let id = world.command(kind, host).await;
    world.take(id).await;
    assert_eq!(world.outcome(id, NOBODY).await.command.state, State::Waiting);
    id
}

async fn a_connect_wakes_what_waits(world: World) {
    let [host, other] = world.hosts().await;
    let mut woken = Vec::new();
    for kind in [Kind::ReportNow, Kind::ComplianceScan] {
        woken.push(waiting(&world, kind, host).await);
    }
    let sleeps = waiting(&world, Kind::ReportNow, other).await;
    world.take_tasks().await;
    let rings = world.store.bell().rings();
    let (_, moved) = world.connect_moving(&[host]).await;
    assert_eq!(moved.iter().map(|a| a.command.id).collect::<Vec<_>>(), woken);
    assert!(moved.iter().all(|a| a.command.state == State::Queued && a.host.epoch == 1 && a.host.connected));
    let mut rung = ids_of(&world.take_tasks().await);
    rung.sort_unstable();
    assert_eq!(rung, woken);
    assert!(world.store.bell().rings() > rings);
    assert_eq!(world.state(sleeps).await, State::Waiting);
    assert_eq!(world.take(woken[0]).await, 2);
    assert_eq!(world.row(woken[0]).await.asked_epoch, 1);
}

async fn a_connect_wakes_the_fleet_at_its_pace(world: World) {
    let hosts: [Uuid; 10] = world.hosts().await;
    for host in hosts {
        waiting(&world, Kind::ReportNow, host).await;
    }
    let before = world.now();
    let (_, moved) = world.connect_moving(&hosts).await;
    let slots: Vec<i64> = moved.iter().map(|a| a.command.not_before).collect();
    assert_eq!(slots.len(), 10);
    assert!(slots[0] >= before && slots.windows(2).all(|w| w[1] == w[0] + 5), "{slots:?}");
    let queued = world.number(&format!("SELECT COUNT(*) FROM commands WHERE not_before = {}", slots[9])).await;
    assert_eq!(queued, 1, "as the row says");
}

async fn a_connect_moves_only_what_waits(world: World) {
    let host = world.host().await;
    let queued = world.command(Kind::ReportNow, host).await;
    let sent = world.command(Kind::RefreshIntegrationStatus, host).await;
    world.take(sent).await;
    world.outcome(sent, SENT).await;
    world.take_tasks().await;
    let (_, moved) = world.connect_moving(&[host]).await;
    assert!(moved.is_empty(), "{moved:?}");
    assert_eq!((world.state(queued).await, world.state(sent).await), (State::Queued, State::Sent));
    assert!(world.row(sent).await.next_check_at.unwrap() <= world.now() + SECOND, "it is asked after soon");
}

async fn a_scan_under_way_notes_that_its_agent_came_back(world: World) {
    let [delivered, running] = world.hosts().await;
    let one = world.delivered(Kind::ComplianceScan, delivered).await;
    let two = world.delivered(Kind::ComplianceScan, running).await;
    world.observe(running, started()).await;
    world.connect(&[delivered, running]).await;
    for id in [one, two] {
        assert!(world.row(id).await.returned_at.is_some());
    }
    world.advance(30 * SECOND);
    world.observe(running, phase(ScanPhase::Evaluating, "")).await;
    world.advance(31 * SECOND);
    world.take_tasks().await;
    world.sweep().await;
    assert_eq!(world.state(two).await, State::Running, "it gave a sign");
    let row = world.row(one).await;
    assert_eq!((row.state, row.losses), (State::Queued, 1), "60 s without one");
    assert_eq!(ids_of(&world.take_tasks().await), [one]);
}

async fn a_refused_host_wakes_nothing(world: World) {
    let host = world.host().await;
    let id = waiting(&world, Kind::ReportNow, host).await;
    world.store.rotate_key(host, &super::store_world::key("second")).await.unwrap();
    let (_, moved) = world.store.connect_hosts(&[super::store_world::connect(host)]).await.unwrap();
    assert!(moved.is_empty());
    assert_eq!(world.state(id).await, State::Waiting);
}

/// The open settings_update of a host: id, who asked, minutes.
async fn open_settings(world: &World, host: Uuid) -> Vec<(Uuid, String, i64)> {
    let filter = store::ListFilter { host_id: Some(host), kind: Some(Kind::SettingsUpdate), ..Default::default() };
    let rows = world.store.list_commands(&filter, None, 100).await.unwrap().items;
    rows.into_iter()
        .filter(|c| !c.is_final())
        .map(|c| (c.id, c.requested_by, c.payload["update_interval"].as_i64().unwrap()))
        .collect()
}

async fn unseen_settings_are_sent_at_connect(world: World) {
    let [host, other] = world.hosts().await;
    let asked = world.command(Kind::SettingsUpdate, host).await;
    assert_eq!(world.store.host(host).await.unwrap().unwrap().update_interval, 30);
    world.connect(&[host, other]).await;
    assert_eq!(open_settings(&world, host).await.len(), 1, "the one that was asked for is under way");
    world.apply(asked, Event::Cancel).await;
    world.take_tasks().await;
    world.connect(&[host, other]).await;
    let open = open_settings(&world, host).await;
    let [(id, by, 30)] = &open[..] else { panic!("{open:?}") };
    assert_eq!(by, "system");
    assert_eq!(ids_of(&world.take_tasks().await), [*id]);
    assert!(open_settings(&world, other).await.is_empty());
    world.connect(&[host]).await;
    assert_eq!(open_settings(&world, host).await.len(), 1, "one is enough");
    world.assert_sound().await;
}

async fn each_host_is_sent_its_own_settings(world: World) {
    let hosts: [Uuid; 3] = world.hosts().await;
    for (host, minutes) in hosts.iter().zip([30, 120, 30]) {
        let id = world.command_of(Kind::SettingsUpdate, json!({"update_interval": minutes}), *host).await;
        world.apply(id, Event::Cancel).await;
    }
    world.take_tasks().await;
    world.connect(&hosts).await;
    let mut asked = Vec::new();
    for (host, minutes) in hosts.iter().zip([30, 120, 30]) {
        let open = open_settings(&world, *host).await;
        assert_eq!((open.len(), open[0].2), (1, minutes));
        asked.push(open[0].0);
    }
    let mut rung = ids_of(&world.take_tasks().await);
    rung.sort_unstable();
    asked.sort_unstable();
    assert_eq!(rung, asked);
}

async fn settings_that_were_delivered_are_seen(world: World) {
    let host = world.host().await;
    world.delivered(Kind::SettingsUpdate, host).await;
    world.connect(&[host]).await;
    assert!(open_settings(&world, host).await.is_empty());
}

async fn settings_that_were_fetched_are_seen(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::SettingsUpdate, host).await;
    world.apply(id, Event::Cancel).await;
    world.store.settings_seen(host).await.unwrap();
    world.connect(&[host]).await;
    assert!(open_settings(&world, host).await.is_empty());
}

async fn older_settings_do_not_count_as_the_newest(world: World) {
    let host = world.host().await;
    let older = world.command(Kind::SettingsUpdate, host).await;
    let newer = world.command_of(Kind::SettingsUpdate, json!({"update_interval": 120}), host).await;
    world.deliver(older).await;
    world.apply(newer, Event::Cancel).await;
    world.connect(&[host]).await;
    let open = open_settings(&world, host).await;
    assert!(matches!(open[..], [(_, _, 120)]), "{open:?}");
}

async fn a_report_ends_all_that_asked_for_it(world: World) {
    let host = world.host().await;
    let mut asked = Vec::new();
    for outcome in [SENT, DELIVERED, SENT] {
        let id = world.command(Kind::ReportNow, host).await;
        world.take(id).await;
        world.outcome(id, outcome).await;
        asked.push(id);
    }
    let other = world.delivered(Kind::ComplianceScan, host).await;
    let moved = world.observe(host, Deed::Report).await;
    assert_eq!(moved.iter().map(|a| a.command.id).collect::<Vec<_>>(), asked);
    for id in asked {
        let row = world.row(id).await;
        assert_eq!(row.state, State::Succeeded);
        assert_eq!(row.evidence.unwrap().deed, "hosts/update");
    }
    assert_eq!(world.state(other).await, State::Delivered);
    assert!(world.observe(host, Deed::Report).await.is_empty());
    world.assert_sound().await;
}

async fn a_deed_ends_nothing_that_was_not_sent(world: World) {
    let [host, absent] = world.hosts().await;
    let queued = world.command(Kind::ReportNow, host).await;
    let waits = waiting(&world, Kind::ReportNow, absent).await;
    assert!(world.observe(host, Deed::Report).await.is_empty());
    assert!(world.observe(absent, Deed::Report).await.is_empty());
    assert_eq!((world.state(queued).await, world.state(waits).await), (State::Queued, State::Waiting));
}

async fn a_deed_while_sending_is_decided_by_the_outcome(world: World) {
    let [written, unwritten] = world.hosts().await;
    let one = world.command(Kind::ReportNow, written).await;
    let two = world.command(Kind::ReportNow, unwritten).await;
    for (id, host) in [(one, written), (two, unwritten)] {
        world.take(id).await;
        world.observe(host, Deed::Report).await;
        assert_eq!(world.state(id).await, State::Sending);
    }
    assert_eq!(world.outcome(one, SENT).await.command.state, State::Succeeded);
    assert_eq!(world.outcome(two, BUSY).await.command.state, State::Queued);
    world.advance(2 * SECOND);
    world.take(two).await;
    assert_eq!(world.outcome(two, SENT).await.command.state, State::Sent, "the deed before it is forgotten");
}

async fn a_scan_runs_and_ends_by_its_results(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::ComplianceScan, host).await;
    let states = async |deed| world.observe(host, deed).await.iter().map(|a| a.command.state).collect::<Vec<_>>();
    assert_eq!(states(phase(ScanPhase::Evaluating, "")).await, [], "buffered from a scan before");
    assert_eq!(states(started()).await, [State::Running]);
    assert_eq!(states(results("completed")).await, [State::Succeeded]);
    let row = world.row(id).await;
    assert_eq!(row.evidence.unwrap().deed, "compliance/scans");
    for state in [State::Queued, State::Sending, State::Delivered, State::Running, State::Succeeded] {
        assert!(row.times.at(state).is_some(), "{state:?}");
    }
}

async fn a_deed_of_another_host_is_its_own(world: World) {
    let [host, other] = world.hosts().await;
    let id = world.delivered(Kind::ReportNow, host).await;
    assert!(world.observe(other, Deed::Report).await.is_empty());
    assert!(world.observe(Uuid::now_v7(), Deed::Report).await.is_empty());
    assert_eq!(world.state(id).await, State::Delivered);
}

/// A command of which nothing more was heard.
async fn unconfirmed(world: &World, host: Uuid) -> Uuid {
    let id = world.delivered(Kind::ReportNow, host).await;
    world.advance(HOUR);
    world.sweep().await;
    assert_eq!(world.state(id).await, State::Unconfirmed);
    id
}

async fn a_late_deed_is_noted_and_moves_nothing(world: World) {
    let host = world.host().await;
    let id = unconfirmed(&world, host).await;
    let before = world.row(id).await;
    world.advance(MINUTE);
    let noted = world.observe(host, Deed::Report).await;
    assert_eq!(noted.len(), 1);
    let row = world.row(id).await;
    assert_eq!((row.state, row.times), (State::Unconfirmed, before.times));
    assert_eq!(row.evidence.as_ref().unwrap().late.as_ref().unwrap().deed, "hosts/update");
    world.advance(MINUTE);
    assert!(world.observe(host, Deed::Report).await.is_empty(), "the first is enough");
    assert_eq!(world.row(id).await, row);
    world.assert_sound().await;
}

async fn a_deed_days_later_is_no_answer(world: World) {
    let host = world.host().await;
    let id = unconfirmed(&world, host).await;
    world.advance(DAY + MINUTE);
    assert!(world.observe(host, Deed::Report).await.is_empty());
    assert_eq!(world.row(id).await.evidence, None);
}

async fn a_cancel_of_what_was_not_sent_ends_it(world: World) {
    let [host, absent] = world.hosts().await;
    let queued = world.command(Kind::ComplianceScan, host).await;
    let waits = waiting(&world, Kind::ReportNow, absent).await;
    for id in [queued, waits] {
        let done = world.apply(id, Event::Cancel).await;
        assert_eq!((done.command.state, done.step.moved), (State::Cancelled, true));
        assert!(!world.apply(id, Event::Cancel).await.step.changed);
    }
    assert!(!world.apply(queued, TAKE).await.step.changed, "its task finds nothing to do");
}

async fn a_cancel_while_sending_is_decided_by_the_outcome(world: World) {
    let [one, two] = world.hosts().await;
    let unwritten = world.command(Kind::ReportNow, one).await;
    let written = world.command(Kind::ComplianceScan, two).await;
    for id in [unwritten, written] {
        world.take(id).await;
        let asked = world.apply(id, Event::Cancel).await;
        assert_eq!(asked.command.state, State::Sending);
        assert!(asked.command.cancel_requested_at.is_some());
    }
    world.take_tasks().await;
    assert_eq!(world.outcome(unwritten, NOBODY).await.command.state, State::Cancelled);
    assert_eq!(world.outcome(written, DELIVERED).await.command.state, State::Delivered);
    assert_eq!(ids_of(&world.take_tasks().await), [written], "a worker sends the cancel frame");
}

async fn a_cancel_of_a_running_scan_rings_a_worker(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::ComplianceScan, host).await;
    world.take_tasks().await;
    let rings = world.store.bell().rings();
    world.apply(id, Event::Cancel).await;
    assert_eq!(ids_of(&world.take_tasks().await), [id]);
    assert_eq!(world.store.bell().rings(), rings + 1);
    assert!(world.apply(id, TAKE).await.step.asks.cancel);
    let failed = world.observe(host, results("failed")).await;
    assert_eq!(failed[0].command.state, State::Cancelled);
    assert_eq!(payload(Kind::ComplianceScan), world.row(id).await.payload);
    let unknown = Outcome::Reply(CommandReply::Unknown, Mode::Probe);
    assert!(!world.outcome(id, unknown).await.step.changed);
}
