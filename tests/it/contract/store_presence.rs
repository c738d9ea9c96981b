//! Presence: epochs that only rise, teardowns that come late, hints.

use std::collections::HashSet;

use jobs::{Kind, State};
use store::{Connect, Connected};
use uuid::Uuid;

use super::store_world::{GATEWAY, MINUTE, NOBODY, SECOND, World, api_id, connect, epoch, ids_of, key};

on_every_store! {
    epochs_rise_over_groups_side_by_side,
    a_connect_is_what_the_row_says,
    a_connect_says_whom_it_replaced,
    a_late_teardown_changes_nothing,
    a_teardown_counts_once,
    hints_are_asserted_only_for_the_newest_connection,
    an_asserted_hint_is_a_whole_one,
    an_asserted_hint_is_news_once,
    cleared_hints_leave_nobody_connected,
    each_gateway_that_holds_somebody_is_named_once,
    the_hints_of_one_gateway_are_cleared_and_no_others,
    hosts_that_stayed_are_woken_and_nothing_else_moves,
    keys_that_were_replaced_are_stale,
    seven_replacements_a_minute_are_flapping,
    reconnects_of_a_host_that_was_gone_are_no_flapping,
    slow_replacements_are_no_flapping,
    presence_knows_only_hosts,
}

const OTHER_GATEWAY: Uuid = Uuid::from_u128(0x07e2);

async fn epochs_rise_over_groups_side_by_side(world: World) {
    let hosts: [Uuid; 5] = world.hosts().await;
    let groups: Vec<_> = (0..20)
        .map(|_| {
            let store = world.store.clone();
            let group = hosts.map(connect);
            tokio::spawn(async move { store.connect_hosts(&group).await.unwrap().0 })
        })
        .collect();
    let mut seen = HashSet::new();
    for group in groups {
        let outcomes = group.await.unwrap();
        assert_eq!(outcomes.len(), hosts.len());
        for (host, outcome) in hosts.iter().zip(&outcomes) {
            assert!(seen.insert((*host, epoch(outcome))), "an epoch was given twice");
        }
    }
    for host in hosts {
        for n in 1..=20 {
            assert!(seen.contains(&(host, n)), "no gaps: {n}");
        }
        assert_eq!(world.store.host(host).await.unwrap().unwrap().facts.epoch, 20);
    }
}

async fn a_connect_is_what_the_row_says(world: World) {
    let [host, other] = world.hosts().await;
    let before = world.now();
    world.connect(&[host]).await;
    let row = world.store.host(host).await.unwrap().unwrap();
    assert!(row.facts.connected && row.secure);
    assert_eq!((row.facts.epoch, row.gateway_id), (1, Some(GATEWAY)));
    assert!(row.connected_at.unwrap() >= before && row.last_seen_at.unwrap() >= before);
    assert_eq!(row.disconnected_at, None);
    assert_eq!(world.store.connected_count().await.unwrap(), 1);

    world.store.connect_hosts(&[Connect { secure: false, gateway_id: OTHER_GATEWAY, ..connect(other) }]).await.unwrap();
    let row = world.store.host(other).await.unwrap().unwrap();
    assert_eq!((row.secure, row.gateway_id), (false, Some(OTHER_GATEWAY)));
    assert_eq!(world.store.connected_count().await.unwrap(), 2);
}

async fn a_connect_says_whom_it_replaced(world: World) {
    let host = world.host().await;
    let replaced = async || match world.store.connect_hosts(&[connect(host)]).await.unwrap().0[..] {
        [Connected::Epoch { replaced, .. }] => replaced,
        _ => panic!("refused"),
    };
    assert!(!replaced().await);
    assert!(replaced().await);
    world.store.disconnect_hosts(&[(host, 2)]).await.unwrap();
    assert!(!replaced().await);
}

async fn a_late_teardown_changes_nothing(world: World) {
    let host = world.host().await;
    world.connect(&[host]).await;
    world.connect(&[host]).await;
    let before = world.store.host(host).await.unwrap().unwrap();
    assert_eq!(world.store.disconnect_hosts(&[(host, 1)]).await.unwrap(), [false]);
    let after = world.store.host(host).await.unwrap().unwrap();
    assert_eq!(after.facts, before.facts);
    assert_eq!((after.gateway_id, after.connected_at), (before.gateway_id, before.connected_at));
    assert_eq!(after.disconnected_at, None);
}

async fn a_teardown_counts_once(world: World) {
    let [one, two, three] = world.hosts().await;
    world.connect(&[one, two]).await;
    world.connect(&[two]).await;
    let ended = world.store.disconnect_hosts(&[(one, 1), (two, 1), (three, 0)]).await.unwrap();
    assert_eq!(ended, [true, false, false]);
    assert_eq!(world.store.disconnect_hosts(&[(one, 1)]).await.unwrap(), [false]);
    let row = world.store.host(one).await.unwrap().unwrap();
    assert_eq!((row.facts.connected, row.gateway_id, row.connected_at), (false, None, None));
    assert!(row.disconnected_at.is_some());
    assert_eq!(world.store.connected_count().await.unwrap(), 1);
}

async fn hints_are_asserted_only_for_the_newest_connection(world: World) {
    let [old, new] = world.hosts().await;
    world.connect(&[old, new]).await;
    world.connect(&[old]).await;
    world.store.clear_hints().await.unwrap();
    world.store.assert_hints(OTHER_GATEWAY, &[(old, 1, true), (new, 1, true)]).await.unwrap();
    assert!(!world.store.host(old).await.unwrap().unwrap().facts.connected);
    let row = world.store.host(new).await.unwrap().unwrap();
    assert_eq!((row.facts.connected, row.gateway_id), (true, Some(OTHER_GATEWAY)));
    world.store.assert_hints(GATEWAY, &[(old, 2, true)]).await.unwrap();
    assert!(world.store.host(old).await.unwrap().unwrap().facts.connected);
    world.store.assert_hints(GATEWAY, &[]).await.unwrap();
    world.store.assert_hints(GATEWAY, &[(Uuid::now_v7(), 1, true)]).await.unwrap();
    assert_eq!(world.store.connected_count().await.unwrap(), 2);
}

async fn an_asserted_hint_is_a_whole_one(world: World) {
    let host = world.host().await;
    world.connect(&[host]).await;
    world.store.clear_hints().await.unwrap();
    world.store.assert_hints(GATEWAY, &[(host, 1, false)]).await.unwrap();
    let row = world.store.host(host).await.unwrap().unwrap();
    assert!(row.facts.connected && !row.secure);
    assert!(row.connected_at.is_some());
    assert_eq!(row.disconnected_at, None, "it never was gone");
    let connected_at = row.connected_at;
    world.advance(MINUTE);
    world.store.assert_hints(GATEWAY, &[(host, 1, false)]).await.unwrap();
    assert_eq!(world.store.host(host).await.unwrap().unwrap().connected_at, connected_at, "once a minute, no news");
}

async fn an_asserted_hint_is_news_once(world: World) {
    let [here, there, gone] = world.hosts().await;
    world.connect(&[here, there, gone]).await;
    world.store.disconnect_hosts(&[(there, 1)]).await.unwrap();
    let held = [(here, 1, true), (there, 1, true), (gone, 7, true)];
    assert_eq!(world.store.assert_hints(GATEWAY, &held).await.unwrap(), [there]);
    assert!(world.store.assert_hints(GATEWAY, &held).await.unwrap().is_empty());
    assert_eq!(world.store.assert_hints(OTHER_GATEWAY, &held[..1]).await.unwrap(), [here]);
}

/// Connects to the other gateway.
async fn elsewhere(world: &World, host: Uuid) {
    world.store.connect_hosts(&[Connect { gateway_id: OTHER_GATEWAY, ..connect(host) }]).await.unwrap();
}

async fn each_gateway_that_holds_somebody_is_named_once(world: World) {
    assert!(world.store.gateways_hinted().await.unwrap().is_empty());
    let [one, two, three] = world.hosts().await;
    world.connect(&[one, two]).await;
    assert_eq!(world.store.gateways_hinted().await.unwrap(), [GATEWAY]);
    elsewhere(&world, three).await;
    let mut named = world.store.gateways_hinted().await.unwrap();
    named.sort_unstable();
    let mut both = [GATEWAY, OTHER_GATEWAY];
    both.sort_unstable();
    assert_eq!(named, both);
    world.store.disconnect_hosts(&[(one, 1), (two, 1)]).await.unwrap();
    assert_eq!(world.store.gateways_hinted().await.unwrap(), [OTHER_GATEWAY]);
}

async fn the_hints_of_one_gateway_are_cleared_and_no_others(world: World) {
    let [one, two, roamed] = world.hosts().await;
    world.connect(&[one, two, roamed]).await;
    elsewhere(&world, roamed).await;
    let mut cleared = world.store.clear_hints_of(GATEWAY).await.unwrap();
    cleared.sort_unstable();
    assert_eq!(cleared, [one, two]);
    assert!(world.store.clear_hints_of(GATEWAY).await.unwrap().is_empty());
    let row = world.store.host(one).await.unwrap().unwrap();
    assert_eq!((row.facts.connected, row.facts.epoch, row.gateway_id, row.connected_at), (false, 1, None, None));
    assert!(row.disconnected_at.is_some());
    let row = world.store.host(roamed).await.unwrap().unwrap();
    assert_eq!((row.facts.connected, row.gateway_id), (true, Some(OTHER_GATEWAY)));
    // It lives after all, and says so.
    assert_eq!(world.store.assert_hints(GATEWAY, &[(one, 1, true), (roamed, 1, true)]).await.unwrap(), [one]);
    assert_eq!(world.store.connected_count().await.unwrap(), 2);
}

async fn hosts_that_stayed_are_woken_and_nothing_else_moves(world: World) {
    let [host, other] = world.hosts().await;
    world.connect(&[host, other]).await;
    let mut waiting = Vec::new();
    for host in [host, other] {
        let id = world.command(Kind::ReportNow, host).await;
        world.take(id).await;
        assert_eq!(world.outcome(id, NOBODY).await.command.state, State::Waiting);
        waiting.push(id);
    }
    let scan = world.delivered(Kind::ComplianceScan, host).await;
    let before = world.row(scan).await;
    world.take_tasks().await;
    let woken = world.store.wake_hosts(&[host]).await.unwrap();
    assert_eq!(
        woken.iter().map(|w| (w.command.id, w.command.state)).collect::<Vec<_>>(),
        [(waiting[0], State::Queued)]
    );
    assert_eq!(ids_of(&world.take_tasks().await), [waiting[0]]);
    assert_eq!(world.state(waiting[1]).await, State::Waiting);
    // Its agent never left: nothing is to be concluded from its silence.
    let after = world.row(scan).await;
    assert_eq!((after.state, after.returned_at), (State::Delivered, before.returned_at));
    assert!(world.store.wake_hosts(&[host]).await.unwrap().is_empty());
    assert!(world.store.wake_hosts(&[]).await.unwrap().is_empty());
    world.assert_sound().await;
}

async fn keys_that_were_replaced_are_stale(world: World) {
    let [same, rotated, removed] = world.hosts().await;
    let held = [(same, 1), (rotated, 1), (removed, 1)];
    assert!(world.store.stale_keys(&held).await.unwrap().is_empty());
    world.store.rotate_key(rotated, &key("second")).await.unwrap();
    world.store.remove_host(removed).await.unwrap();
    let mut stale = world.store.stale_keys(&held).await.unwrap();
    stale.sort_unstable();
    assert_eq!(stale, [rotated, removed]);
    assert!(world.store.stale_keys(&[(rotated, 2)]).await.unwrap().is_empty());
    assert!(world.store.stale_keys(&[]).await.unwrap().is_empty());
}

async fn cleared_hints_leave_nobody_connected(world: World) {
    let hosts: [Uuid; 3] = world.hosts().await;
    world.connect(&hosts[..2]).await;
    assert_eq!(world.store.clear_hints().await.unwrap(), 2);
    assert_eq!(world.store.clear_hints().await.unwrap(), 0);
    assert_eq!(world.store.connected_count().await.unwrap(), 0);
    let row = world.store.host(hosts[0]).await.unwrap().unwrap();
    assert_eq!((row.facts.epoch, row.gateway_id), (1, None), "epochs are never given back");
    assert_eq!(world.connect(&hosts).await, [2, 2, 1]);
}

/// Connects, and says whether that was too often.
async fn flaps(world: &World, host: Uuid) -> bool {
    match world.store.connect_hosts(&[connect(host)]).await.unwrap().0[..] {
        [Connected::Epoch { flapping, .. }] => flapping,
        _ => panic!("refused"),
    }
}

async fn seven_replacements_a_minute_are_flapping(world: World) {
    let host = world.host().await;
    for n in 0..7 {
        assert!(!flaps(&world, host).await, "after {n} replacements");
        world.advance(SECOND);
    }
    let before = world.now();
    assert!(flaps(&world, host).await);
    let until = world.store.host_auth(&api_id(host)).await.unwrap().unwrap().flapping_until;
    assert!((before + MINUTE..=world.now() + MINUTE).contains(&until), "newcomers wait a minute");
    world.advance(MINUTE + SECOND);
    assert!(!flaps(&world, host).await, "it is over after that");
}

async fn reconnects_of_a_host_that_was_gone_are_no_flapping(world: World) {
    let host = world.host().await;
    for n in 1..=20 {
        assert!(!flaps(&world, host).await);
        world.store.disconnect_hosts(&[(host, n)]).await.unwrap();
    }
}

async fn slow_replacements_are_no_flapping(world: World) {
    let host = world.host().await;
    for _ in 0..20 {
        assert!(!flaps(&world, host).await);
        world.advance(11 * SECOND);
    }
}

async fn presence_knows_only_hosts(world: World) {
    let [on, off] = world.hosts().await;
    world.connect(&[on, off]).await;
    world.store.disconnect_hosts(&[(off, 1)]).await.unwrap();
    let mut found = world.store.presence(&[api_id(on), api_id(off), api_id(Uuid::now_v7())]).await.unwrap();
    found.sort_by_key(|p| !p.connected);
    let [there, gone] = &found[..] else { panic!("{found:?}") };
    assert_eq!((there.api_id.as_str(), there.connected, there.secure), (api_id(on).as_str(), true, true));
    assert_eq!(there.disconnected_at, None);
    assert_eq!((gone.api_id.as_str(), gone.connected, gone.secure), (api_id(off).as_str(), false, false));
    assert!(gone.disconnected_at.is_some());
    assert!(world.store.presence(&[]).await.unwrap().is_empty());
}
