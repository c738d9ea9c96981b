//! Hosts: what is kept of them, their keys, and what their removal ends.

use jobs::{Event, Kind, State, command::ComplianceMode};
use store::{AddHost, Connected, HostFilter, IntegrationChange, NewKey, StoreError};
use uuid::Uuid;

use super::store_world::{NOBODY, World, api_id, connect, ids_of, key, new_host, scan};

on_every_store! {
    a_taken_name_adds_none_of_the_hosts,
    a_taken_api_id_adds_none_of_the_hosts,
    authentication_finds_the_key_and_its_version,
    a_digest_is_kept_only_while_its_key_is,
    a_rotated_key_keeps_out_who_was_checked_before,
    a_host_is_found_by_id_api_id_and_name,
    pages_hold_every_host_once_by_name,
    a_search_looks_at_both_names_whatever_their_case,
    a_list_tells_connected_from_not,
    a_call_notes_the_agent_version,
    integrations_change_only_where_asked,
    a_removed_host_takes_its_open_commands_along,
    a_removed_host_is_gone_for_everybody,
}

async fn a_taken_name_adds_none_of_the_hosts(world: World) {
    world.store.add_hosts(&[new_host("web")]).await.unwrap();
    let added = world.store.add_hosts(&[new_host("db"), new_host("web"), new_host("mail")]).await;
    assert!(matches!(added, Err(StoreError::Conflict(_))), "{added:?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM hosts").await, 1);
    world.store.add_hosts(&[new_host("db"), new_host("mail")]).await.unwrap();
}

async fn a_taken_api_id_adds_none_of_the_hosts(world: World) {
    let web = new_host("web");
    world.store.add_hosts(std::slice::from_ref(&web)).await.unwrap();
    let twin = AddHost { api_id: web.api_id, ..new_host("db") };
    let added = world.store.add_hosts(&[new_host("mail"), twin]).await;
    assert!(matches!(added, Err(StoreError::Conflict(_))), "{added:?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM hosts").await, 1);
}

async fn authentication_finds_the_key_and_its_version(world: World) {
    let host = world.host().await;
    let auth = world.store.host_auth(&api_id(host)).await.unwrap().unwrap();
    assert_eq!((auth.id, auth.name.as_str(), auth.key_version), (host, "host-0", 1));
    assert_eq!((auth.key_hash.as_str(), auth.key_digest.as_deref()), ("hash of first", Some("digest of first")));
    assert_eq!(auth.flapping_until, 0);
    assert!(world.store.host_auth(&api_id(Uuid::now_v7())).await.unwrap().is_none());
}

async fn a_digest_is_kept_only_while_its_key_is(world: World) {
    let imported = AddHost { key: NewKey { hash: "plaintext".to_owned(), digest: None }, ..new_host("old") };
    world.store.add_hosts(std::slice::from_ref(&imported)).await.unwrap();
    world.store.keep_digest(imported.id, 1, &key("proved")).await.unwrap();
    let auth = world.store.host_auth(&imported.api_id).await.unwrap().unwrap();
    assert_eq!((auth.key_hash.as_str(), auth.key_version), ("hash of proved", 1));
    assert_eq!(auth.key_digest.as_deref(), Some("digest of proved"));

    world.store.rotate_key(imported.id, &key("second")).await.unwrap();
    world.store.keep_digest(imported.id, 1, &key("proved")).await.unwrap();
    let auth = world.store.host_auth(&imported.api_id).await.unwrap().unwrap();
    assert_eq!(auth.key_hash, "hash of second", "a slow check of the old key must not bring it back");
    assert_eq!(auth.key_digest.as_deref(), Some("digest of second"));
}

async fn a_rotated_key_keeps_out_who_was_checked_before(world: World) {
    let [host, other] = world.hosts().await;
    world.connect(&[host]).await;
    assert_eq!(world.store.rotate_key(host, &key("second")).await.unwrap(), Some(api_id(host)));
    assert_eq!(world.store.host_auth(&api_id(host)).await.unwrap().unwrap().key_version, 2);

    let (outcomes, _) = world.store.connect_hosts(&[connect(host), connect(other)]).await.unwrap();
    assert_eq!(outcomes[0], Connected::Refused);
    assert!(matches!(outcomes[1], Connected::Epoch { epoch: 1, .. }), "the others of the group are let in");
    assert_eq!(world.store.host(host).await.unwrap().unwrap().facts.epoch, 1, "who is refused takes no epoch");

    let mut newer = connect(host);
    newer.key_version = 2;
    let (outcomes, _) = world.store.connect_hosts(&[newer]).await.unwrap();
    assert!(matches!(outcomes[0], Connected::Epoch { epoch: 2, .. }));
    assert_eq!(world.store.rotate_key(Uuid::now_v7(), &key("x")).await.unwrap(), None);
}

async fn a_host_is_found_by_id_api_id_and_name(world: World) {
    let [_, host] = world.hosts().await;
    for reference in [host.to_string(), api_id(host).to_string(), "host-1".to_owned()] {
        let found = world.store.find_host(&reference).await.unwrap().unwrap();
        assert_eq!((found.facts.id, found.name.as_str()), (host, "host-1"));
    }
    assert!(world.store.find_host("host-9").await.unwrap().is_none());
    assert!(world.store.host(Uuid::now_v7()).await.unwrap().is_none());
    let named = AddHost { name: host.to_string(), ..new_host("") };
    world.store.add_hosts(&[named]).await.unwrap();
    let found = world.store.find_host(&host.to_string()).await.unwrap().unwrap();
    assert_eq!(found.facts.id, host, "an id goes before a name that looks like it");
}

async fn all_names(world: &World, filter: &HostFilter, limit: u32) -> Vec<String> {
    let (mut names, mut cursor, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let page = world.store.list_hosts(filter, cursor.as_deref(), limit).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        names.extend(page.items.into_iter().map(|h| h.name));
        cursor = page.next_cursor;
        pages += 1;
        if cursor.is_none() {
            assert_eq!(pages, names.len().div_ceil(limit as usize).max(1), "the last page is not empty");
            return names;
        }
    }
}

async fn pages_hold_every_host_once_by_name(world: World) {
    world.many_hosts(25).await;
    let mut expected: Vec<String> = (0..25).map(|n| format!("host-{n}")).collect();
    expected.sort();
    for limit in [1, 5, 7, 24, 25, 26, 1_000] {
        assert_eq!(all_names(&world, &HostFilter::default(), limit).await, expected, "{limit} a page");
    }
}

async fn a_search_looks_at_both_names_whatever_their_case(world: World) {
    let [one, two, three] = world.hosts().await;
    for (host, hostname) in [(one, "Web-01.example"), (two, "db.example"), (three, "50%_off")] {
        world.execute(&format!("UPDATE hosts SET hostname = '{hostname}' WHERE id = '{host}'")).await;
    }
    for (search, expected) in [
        ("WEB", vec!["host-0"]),
        ("example", vec!["host-0", "host-1"]),
        ("HOST-1", vec!["host-1"]),
        ("%", vec!["host-2"]),
        ("0%_O", vec!["host-2"]),
        ("nothing", vec![]),
    ] {
        let filter = HostFilter { search: Some(search.to_owned()), ..HostFilter::default() };
        assert_eq!(all_names(&world, &filter, 1).await, expected, "{search}");
    }
}

async fn a_list_tells_connected_from_not(world: World) {
    let hosts: [Uuid; 4] = world.hosts().await;
    world.connect(&hosts[1..3]).await;
    for (connected, expected) in [
        (Some(true), vec!["host-1", "host-2"]),
        (Some(false), vec!["host-0", "host-3"]),
        (None, vec!["host-0", "host-1", "host-2", "host-3"]),
    ] {
        let filter = HostFilter { connected, ..HostFilter::default() };
        assert_eq!(all_names(&world, &filter, 2).await, expected);
    }
    let both = HostFilter { connected: Some(true), search: Some("2".to_owned()) };
    assert_eq!(all_names(&world, &both, 2).await, ["host-2"]);
}

async fn a_call_notes_the_agent_version(world: World) {
    let host = world.host().await;
    for (told, kept) in [(None, None), (Some("2.1.4"), Some("2.1.4")), (None, Some("2.1.4")), (Some(""), Some("2.1.4"))]
    {
        world.advance(10);
        let before = world.now();
        world.store.touch_host(host, told).await.unwrap();
        let row = world.store.host(host).await.unwrap().unwrap();
        assert_eq!(row.agent_version.as_deref(), kept, "told {told:?}");
        assert!(row.last_seen_at.unwrap() >= before);
    }
    world.store.touch_host(Uuid::now_v7(), Some("1.4.2")).await.unwrap();
}

async fn integrations_change_only_where_asked(world: World) {
    let host = world.host().await;
    let before = world.store.host(host).await.unwrap().unwrap().facts;
    assert!(world.store.set_integrations(host, &IntegrationChange::default()).await.unwrap());
    assert_eq!(world.store.host(host).await.unwrap().unwrap().facts, before);
    let change = IntegrationChange {
        compliance_mode: Some(ComplianceMode::Enabled),
        openscap_enabled: Some(false),
        ..IntegrationChange::default()
    };
    assert!(world.store.set_integrations(host, &change).await.unwrap());
    let after = world.store.host(host).await.unwrap().unwrap().facts;
    assert_eq!((after.compliance_mode, after.openscap_enabled), (ComplianceMode::Enabled, false));
    assert_eq!(
        (after.docker_enabled, after.docker_bench_enabled),
        (before.docker_enabled, before.docker_bench_enabled)
    );
    assert!(!world.store.set_integrations(Uuid::now_v7(), &change).await.unwrap());
}

async fn a_removed_host_takes_its_open_commands_along(world: World) {
    let [host, other] = world.hosts().await;
    world.connect(&[host]).await;
    let done = world.delivered(Kind::SettingsUpdate, host).await;
    let queued =
        world.command_of(Kind::ComplianceScan, scan(&serde_json::json!({"profile_type": "openscap"})), host).await;
    let running = world.command(Kind::ComplianceScan, host).await;
    world.deliver(running).await;
    let waiting = world.command(Kind::RefreshIntegrationStatus, host).await;
    world.take(waiting).await;
    world.outcome(waiting, NOBODY).await;
    let sending = world.command(Kind::ReportNow, host).await;
    world.take(sending).await;
    let elsewhere = world.command(Kind::ReportNow, other).await;

    let removed = world.store.remove_host(host).await.unwrap().unwrap();
    assert_eq!(removed.api_id, api_id(host));
    let mut moved: Vec<Uuid> = removed.moved.iter().map(|a| a.command.id).collect();
    moved.sort_unstable();
    assert_eq!(moved, [queued, running, waiting, sending]);
    for (id, state) in [
        (queued, State::Cancelled),
        (waiting, State::Cancelled),
        (sending, State::Unconfirmed),
        (running, State::Unconfirmed),
    ] {
        let row = world.row(id).await;
        assert_eq!((row.state, row.error.as_deref()), (state, Some("host removed")));
        assert!(row.is_final());
    }
    assert_eq!(world.state(done).await, State::Delivered, "what has ended stays as it was");
    assert_eq!(world.state(elsewhere).await, State::Queued);
    world.assert_sound().await;

    let late = world.apply(sending, Event::Outcome { attempt: 1, outcome: NOBODY }).await;
    assert!(!late.step.changed, "an attempt that ends later changes nothing");
}

async fn a_removed_host_is_gone_for_everybody(world: World) {
    let host = world.host().await;
    world.connect(&[host]).await;
    world.take_tasks().await;
    assert!(world.store.remove_host(host).await.unwrap().is_some());
    assert!(world.store.remove_host(host).await.unwrap().is_none());
    assert!(world.store.host_auth(&api_id(host)).await.unwrap().is_none());
    assert_eq!(world.store.disconnect_hosts(&[(host, 1)]).await.unwrap(), [false]);
    let (outcomes, moved) = world.store.connect_hosts(&[connect(host)]).await.unwrap();
    assert_eq!(outcomes, [Connected::Refused]);
    assert!(moved.is_empty());
    assert!(world.store.presence(&[api_id(host)]).await.unwrap().is_empty());
    assert!(ids_of(&world.take_tasks().await).is_empty());
    // Both may come again.
    world.store.add_hosts(&[AddHost { api_id: api_id(host), ..new_host("host-0") }]).await.unwrap();
}
