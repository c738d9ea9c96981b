//! Where the queues stand: kept counts and the ends of indexes say what counting would, and one worker reports.

use jobs::{Event, Kind, Outcome, Queue, State};
use schemas::message::Mode;
use store::{Beat, NewBatch, REPORTS_MS, Standing};
use uuid::Uuid;

use super::store_world::{HOUR, MINUTE, NOBODY, SECOND, TAKE, World, batch};

on_every_store! {
    an_empty_store_stands_still,
    the_standing_follows_each_move,
    the_oldest_are_listed_first_and_no_more_than_asked_for,
    a_removed_host_has_no_name,
    ends_are_counted_by_their_minute,
    the_longest_running_worker_reports_until_it_is_silent,
    a_worker_that_leaves_hands_over_at_once,
    the_newest_of_a_queue_are_of_its_kinds,
    what_nobody_asks_for_any_more_is_removed,
}

const MINUTES: u32 = 10;
const LIMIT: u32 = 50;

async fn standing(world: &World) -> Standing {
    world.store.standing(MINUTES, LIMIT).await.unwrap()
}

fn count(standing: &Standing, kind: Kind, state: State) -> u64 {
    standing.counts.iter().find(|(k, s, _)| (*k, *s) == (kind, state)).map_or(0, |(_, _, n)| *n)
}

fn oldest(standing: &Standing, kind: Kind, state: State) -> Option<i64> {
    standing.oldest.iter().find(|(k, s, _)| (*k, *s) == (kind, state)).map(|(_, _, at)| *at)
}

fn beat(world: &World) -> Beat {
    Beat { id: Uuid::now_v7(), host: "machine".to_owned(), started_at: world.now() }
}

/// Made before anything that the test makes: ids begin with the real time, whatever the store's clock says.
fn made_at(id: Uuid) -> i64 {
    let (secs, nanos) = id.get_timestamp().unwrap().to_unix();
    i64::try_from(secs).unwrap() * 1_000 + i64::from(nanos / 1_000_000)
}

async fn an_empty_store_stands_still(world: World) {
    let empty = standing(&world).await;
    assert_eq!(Standing { at: 0, ..empty.clone() }, Standing::default());
    assert!((empty.at - world.now()).abs() < MINUTE);
}

async fn the_standing_follows_each_move(world: World) {
    let [one, other] = world.hosts().await;
    let first = world.command(Kind::ReportNow, one).await;
    let second = world.command(Kind::ReportNow, other).await;
    let now = standing(&world).await;
    assert_eq!(count(&now, Kind::ReportNow, State::Queued), 2);
    assert_eq!(oldest(&now, Kind::ReportNow, State::Queued), Some(made_at(first)));
    assert_eq!(oldest(&now, Kind::ComplianceScan, State::Queued), None);
    assert!(now.under_way.is_empty());

    // Its agent is not there: the other one is the oldest that is queued.
    world.take(first).await;
    world.outcome(first, NOBODY).await;
    let now = standing(&world).await;
    assert_eq!((count(&now, Kind::ReportNow, State::Queued), count(&now, Kind::ReportNow, State::Waiting)), (1, 1));
    assert_eq!(oldest(&now, Kind::ReportNow, State::Queued), Some(made_at(second)));
    assert_eq!(oldest(&now, Kind::ReportNow, State::Waiting), Some(made_at(first)));

    world.take(second).await;
    let now = standing(&world).await;
    assert_eq!(oldest(&now, Kind::ReportNow, State::Queued), None);
    let [row] = &now.under_way[..] else { panic!("{now:?}") };
    assert_eq!((row.id, row.kind, row.state, row.host_id), (second, Kind::ReportNow, State::Sending, other));
    assert_eq!((row.host.as_deref(), row.created_at), (Some("host-1"), made_at(second)));
    let taken_at = world.row(second).await.times.at(State::Sending).unwrap();
    assert_eq!(row.since, taken_at);

    world.outcome(second, super::store_world::DELIVERED).await;
    assert_eq!(standing(&world).await.under_way[0].state, State::Delivered);
    world.apply(first, Event::Cancel).await;
    let now = standing(&world).await;
    assert_eq!(count(&now, Kind::ReportNow, State::Waiting), 0);
    assert_eq!(oldest(&now, Kind::ReportNow, State::Waiting), None);
    assert_eq!(now.ended.iter().map(|(kind, _, n)| (*kind, *n)).collect::<Vec<_>>(), [(Kind::ReportNow, 1)]);
    world.assert_sound().await;
}

async fn the_oldest_are_listed_first_and_no_more_than_asked_for(world: World) {
    let hosts = world.many_hosts(12).await;
    let mut made = Vec::new();
    for (n, host) in hosts.iter().enumerate() {
        made.push(world.command([Kind::ReportNow, Kind::ComplianceScan, Kind::SettingsUpdate][n % 3], *host).await);
    }
    // Taken from the newest to the oldest: the order is that of their age all the same.
    for id in made.iter().rev() {
        world.take(*id).await;
    }
    for id in &made[..6] {
        world.outcome(*id, Outcome::Reply(schemas::message::CommandReply::Sent { epoch: 1 }, Mode::Deliver)).await;
    }
    let listed = world.store.standing(MINUTES, 7).await.unwrap().under_way;
    assert_eq!(listed.iter().map(|row| row.id).collect::<Vec<_>>(), made[..7]);
    assert_eq!(listed.iter().filter(|row| row.state == State::Sent).count(), 6);
    assert_eq!(standing(&world).await.under_way.len(), 12);
}

async fn a_removed_host_has_no_name(world: World) {
    let host = world.host().await;
    let id = world.delivered(Kind::ReportNow, host).await;
    world.execute(&format!("DELETE FROM hosts WHERE id = '{host}'")).await;
    let now = standing(&world).await;
    assert_eq!((now.under_way[0].id, &now.under_way[0].host), (id, &None));
}

async fn ends_are_counted_by_their_minute(world: World) {
    let hosts = world.many_hosts(5).await;
    let made = world.make(&NewBatch { expires_in_ms: 24 * HOUR, ..batch(Kind::ReportNow, &hosts) }).await;
    let ids: Vec<Uuid> = made.commands.iter().map(|c| c.id).collect();
    let cancel = async |ids: &[Uuid]| {
        world.store.apply(&ids.iter().map(|id| (*id, Event::Cancel)).collect::<Vec<_>>()).await.unwrap();
        world.row(ids[0]).await.times.at(State::Cancelled).unwrap() / MINUTE
    };
    let first = cancel(&ids[..2]).await;
    world.advance(3 * MINUTE);
    let later = cancel(&ids[2..]).await;
    let mut ended = standing(&world).await.ended;
    ended.sort_by_key(|(_, minute, _)| *minute);
    assert_eq!(ended, [(Kind::ReportNow, first, 2), (Kind::ReportNow, later, 3)]);
    // A second look at what has ended counts nothing.
    world.apply(ids[0], Event::Cancel).await;
    assert_eq!(standing(&world).await.ended.iter().map(|(.., n)| n).sum::<u64>(), 5);
    world.advance(8 * MINUTE + 30 * SECOND);
    let ended = standing(&world).await.ended;
    assert_eq!(ended, [(Kind::ReportNow, later, 3)], "older ones are not asked for");
    world.advance(HOUR);
    assert!(standing(&world).await.ended.is_empty());
}

async fn the_longest_running_worker_reports_until_it_is_silent(world: World) {
    let (old, young) = (beat(&world), beat(&world));
    assert!(world.store.beat(&young).await.unwrap(), "alone");
    assert!(world.store.beat(&old).await.unwrap());
    assert!(!world.store.beat(&young).await.unwrap());
    assert!(world.store.beat(&old).await.unwrap());
    let workers = standing(&world).await.workers;
    assert_eq!(workers, [old.clone(), young.clone()], "the longest running first");
    // One that is killed says nothing: the other takes over before anybody calls it dead.
    world.advance(REPORTS_MS + 1);
    assert!(world.store.beat(&young).await.unwrap());
    assert_eq!(standing(&world).await.workers.len(), 2);
    world.advance(REPORTS_MS);
    assert_eq!(standing(&world).await.workers, std::slice::from_ref(&young));
    // Stopped and continued, it is the longest running again, and the only one that reports.
    assert!(world.store.beat(&old).await.unwrap());
    assert!(!world.store.beat(&young).await.unwrap());
}

async fn a_worker_that_leaves_hands_over_at_once(world: World) {
    let (old, young) = (beat(&world), beat(&world));
    world.store.beat(&old).await.unwrap();
    assert!(!world.store.beat(&young).await.unwrap());
    world.store.leave(old.id).await.unwrap();
    world.store.leave(old.id).await.unwrap();
    assert!(world.store.beat(&young).await.unwrap());
    assert_eq!(standing(&world).await.workers, [young]);
}

async fn the_newest_of_a_queue_are_of_its_kinds(world: World) {
    let hosts = world.many_hosts(3).await;
    let mut agent_commands = Vec::new();
    let mut scans = Vec::new();
    for host in &hosts {
        agent_commands.push(world.command(Kind::ReportNow, *host).await);
        scans.push(world.command(Kind::ComplianceScan, *host).await);
        agent_commands.push(world.command(Kind::SettingsUpdate, *host).await);
    }
    agent_commands.reverse();
    scans.reverse();
    let listed = async |queue: Queue, limit: u32| -> Vec<Uuid> {
        world.store.queue_commands(queue, limit).await.unwrap().into_iter().map(|c| c.id).collect()
    };
    assert_eq!(listed(Queue::AgentCommands, 100).await, agent_commands);
    assert_eq!(listed(Queue::AgentCommands, 4).await, agent_commands[..4]);
    assert_eq!(listed(Queue::Compliance, 100).await, scans);
    assert!(listed(Queue::Maintenance, 100).await.is_empty());
}

async fn what_nobody_asks_for_any_more_is_removed(world: World) {
    let host = world.host().await;
    let id = world.command(Kind::ReportNow, host).await;
    world.apply(id, Event::Cancel).await;
    world.store.beat(&beat(&world)).await.unwrap();
    assert_eq!(world.store.retire_status().await.unwrap(), 0);
    world.advance(2 * HOUR);
    let young = beat(&world);
    world.store.beat(&young).await.unwrap();
    // A minute that is retired was folded long before.
    world.store.fold_counts().await.unwrap();
    assert_eq!(world.store.retire_status().await.unwrap(), 2, "a worker and a minute");
    assert_eq!(world.store.retire_status().await.unwrap(), 0);
    assert_eq!(standing(&world).await.workers, [young]);
    assert_eq!(world.apply(id, TAKE).await.command.state, State::Cancelled);
}
