//! Terminals are opened within their limits and ended once, with their entries in the audit log; what is kept of them outlives
//! the host. Recordings come back as they went in, and the first key that a host's SSH server shows is the one.

use futures_util::future::join_all;
use store::{
    AT_AGENT_MAX, AuditFilter, AuditRow, Connected, HostSshKey, Keep, KeyCheck, NewAudit, NewTerminal, Retired,
    StoreError, TerminalEnd, TerminalFilter, TerminalLimits, TerminalMode, TerminalOpened, TerminalOptions,
    TerminalRow,
};
use uuid::Uuid;

use super::store_world::{DAY, GATEWAY, HOUR, MINUTE, SECOND, World, connect};

on_every_store! {
    a_terminal_is_kept_from_its_opening_to_its_end,
    of_many_that_open_at_once_so_many_do_as_one_user_may,
    of_many_that_open_at_once_so_many_do_as_one_host_may,
    an_old_agent_holds_fewer,
    a_terminal_that_has_ended_makes_room,
    there_is_no_terminal_without_a_host_and_none_twice,
    the_first_end_wins_and_is_logged_once,
    a_shell_that_comes_after_the_end_is_none,
    the_hosts_row_decides_what_is_recorded,
    what_is_kept_of_a_removed_host_stays_readable,
    an_agent_that_connects_hears_which_shells_it_may_still_hold,
    of_the_shells_of_an_agent_the_newest_are_named,
    the_terminals_of_a_dead_gateway_end,
    a_gateway_that_has_nothing_but_terminals_is_found,
    at_the_start_of_the_one_process_no_terminal_is_open,
    terminals_are_listed_by_all_filters,
    the_audit_log_is_listed_by_all_filters,
    entries_of_one_moment_keep_their_order,
    an_entry_says_what_it_was_told,
    a_recording_comes_back_as_it_went_in,
    chunks_come_in_order_and_may_come_twice,
    a_recording_goes_when_its_terminal_is_over,
    of_many_keys_at_once_one_is_trusted,
    keys_are_known_by_port_and_can_be_forgotten,
    retention_takes_recordings_before_terminals_and_the_log,
    retention_of_recordings_works_in_batches,
}

const OTHER_GATEWAY: Uuid = Uuid::from_u128(0x07e6);
const ADA: Uuid = Uuid::from_u128(0xada);
const BOB: Uuid = Uuid::from_u128(0xb0b);

const NONE: Vec<Uuid> = Vec::new();

const MANY: TerminalLimits = TerminalLimits { per_user: 10_000, per_host: 10_000, proxied_per_old_host: 10_000 };

fn direct(host_id: Uuid) -> NewTerminal {
    NewTerminal {
        id: Uuid::now_v7(),
        host_id,
        user_id: ADA,
        username: "ada".to_owned(),
        address: "192.0.2.7".to_owned(),
        gateway_id: GATEWAY,
        mode: TerminalMode::Direct,
        target: "root@web:22".to_owned(),
        record: false,
    }
}

fn proxied(host_id: Uuid) -> NewTerminal {
    NewTerminal { mode: TerminalMode::Proxy, target: "root@localhost:22".to_owned(), ..direct(host_id) }
}

fn end(reason: &str) -> TerminalEnd {
    TerminalEnd { reason: reason.to_owned(), bytes_in: 11, bytes_out: 222, shed: 3, exit_status: Some(130) }
}

async fn try_open(world: &World, new: &NewTerminal, limits: &TerminalLimits) -> TerminalOpened {
    world.store.open_terminal(new, limits).await.unwrap()
}

/// Opens one, and fails unless it opens.
async fn open(world: &World, new: &NewTerminal) -> Uuid {
    let opened = try_open(world, new, &MANY).await;
    assert!(matches!(opened, TerminalOpened::Opened { .. }), "{opened:?}");
    new.id
}

async fn close(world: &World, id: Uuid) {
    assert!(world.store.end_terminal(id, &end("closed")).await.unwrap());
}

async fn row(world: &World, id: Uuid) -> TerminalRow {
    world.store.terminal(id).await.unwrap().expect("no such terminal")
}

/// The whole log, oldest first.
async fn log(world: &World) -> Vec<AuditRow> {
    let mut entries = world.store.audits(&AuditFilter { limit: 1_000, ..AuditFilter::default() }).await.unwrap().items;
    entries.reverse();
    entries
}

async fn events(world: &World) -> Vec<String> {
    log(world).await.into_iter().map(|entry| entry.event).collect()
}

async fn a_terminal_is_kept_from_its_opening_to_its_end(world: World) {
    let host = world.host().await;
    let new = direct(host);
    let opened = try_open(&world, &new, &MANY).await;
    assert_eq!(opened, TerminalOpened::Opened { record: false, legacy_algorithms: false });
    let opened_at = row(&world, new.id).await.opened_at;
    let fresh = TerminalRow {
        id: new.id,
        host_id: host,
        host_name: "host-0".to_owned(),
        user_id: ADA,
        username: "ada".to_owned(),
        address: "192.0.2.7".to_owned(),
        gateway_id: GATEWAY,
        mode: TerminalMode::Direct,
        target: "root@web:22".to_owned(),
        opened_at,
        connected_at: None,
        ended_at: None,
        reason: None,
        bytes_in: 0,
        bytes_out: 0,
        shed: 0,
        exit_status: None,
        recorded: false,
    };
    assert_eq!(row(&world, new.id).await, fresh);
    assert_eq!(log(&world).await, [], "nothing has happened yet");

    world.advance(SECOND);
    world.store.terminal_connected(new.id).await.unwrap();
    let connected_at = row(&world, new.id).await.connected_at.unwrap();
    assert!(connected_at >= opened_at + SECOND);
    world.advance(MINUTE);
    world.store.terminal_connected(new.id).await.unwrap();
    assert!(world.store.end_terminal(new.id, &end("the shell ended")).await.unwrap());
    let ended_at = row(&world, new.id).await.ended_at.unwrap();
    let over = TerminalRow {
        connected_at: Some(connected_at),
        ended_at: Some(ended_at),
        reason: Some("the shell ended".to_owned()),
        bytes_in: 11,
        bytes_out: 222,
        shed: 3,
        exit_status: Some(130),
        ..fresh
    };
    assert_eq!(row(&world, new.id).await, over);

    let [began, closed] = &log(&world).await[..] else { panic!("{:?}", log(&world).await) };
    let expected = AuditRow {
        id: began.id,
        at: began.at,
        event: "ssh_terminal_opened".to_owned(),
        user_id: Some(ADA),
        username: Some("ada".to_owned()),
        address: "192.0.2.7".to_owned(),
        host_id: Some(host),
        host_name: Some("host-0".to_owned()),
        session_id: Some(new.id),
        mode: Some(TerminalMode::Direct),
        target: Some("root@web:22".to_owned()),
        reason: None,
        duration_ms: None,
        bytes_in: None,
        bytes_out: None,
    };
    assert_eq!(began, &expected);
    assert!((connected_at..=ended_at).contains(&began.at), "{} {connected_at} {ended_at}", began.at);
    let expected = AuditRow {
        id: closed.id,
        at: closed.at,
        event: "ssh_terminal_closed".to_owned(),
        reason: Some("the shell ended".to_owned()),
        duration_ms: Some(ended_at - connected_at),
        bytes_in: Some(11),
        bytes_out: Some(222),
        ..expected
    };
    assert_eq!(closed, &expected);
    assert!(closed.at >= ended_at);
}

/// Opens all of them at once; answers how many did.
async fn race(world: &World, all: Vec<NewTerminal>, limits: TerminalLimits) -> (usize, Vec<TerminalOpened>) {
    let racers = all.into_iter().map(|new| {
        let store = world.store.clone();
        tokio::spawn(async move { store.open_terminal(&new, &limits).await.unwrap() })
    });
    let outcomes: Vec<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
    let (opened, refused): (Vec<_>, Vec<_>) =
        outcomes.into_iter().partition(|outcome| matches!(outcome, TerminalOpened::Opened { .. }));
    (opened.len(), refused)
}

async fn of_many_that_open_at_once_so_many_do_as_one_user_may(world: World) {
    let hosts = world.many_hosts(10).await;
    // On many hosts: no host's lock is everybody's.
    let all = (0..50).map(|n| direct(hosts[n % 10])).collect();
    let (opened, refused) = race(&world, all, TerminalLimits { per_user: 5, ..MANY }).await;
    assert_eq!(opened, 5);
    assert!(refused.iter().all(|outcome| *outcome == TerminalOpened::UserFull(5)), "{refused:?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM terminal_sessions").await, 5);
    let bobs = NewTerminal { user_id: BOB, ..direct(hosts[0]) };
    let opened = try_open(&world, &bobs, &TerminalLimits { per_user: 5, ..MANY }).await;
    assert!(matches!(opened, TerminalOpened::Opened { .. }), "another user has his own");
}

async fn of_many_that_open_at_once_so_many_do_as_one_host_may(world: World) {
    let [host, other] = world.hosts().await;
    // Of many users: no user's lock is everybody's.
    let all = (0..50).map(|n| NewTerminal { user_id: Uuid::from_u128(1 + n % 10), ..direct(host) }).collect();
    let (opened, refused) = race(&world, all, TerminalLimits { per_host: 5, ..MANY }).await;
    assert_eq!(opened, 5);
    assert!(refused.iter().all(|outcome| *outcome == TerminalOpened::HostFull(5)), "{refused:?}");
    let opened = try_open(&world, &direct(other), &TerminalLimits { per_host: 5, ..MANY }).await;
    assert!(matches!(opened, TerminalOpened::Opened { .. }), "another host has its own");
}

async fn an_old_agent_holds_fewer(world: World) {
    let [unknown, old, new] = world.hosts().await;
    world.store.touch_host(old, Some("1.4.2")).await.unwrap();
    world.store.touch_host(new, Some("2.1.4")).await.unwrap();
    let limits = TerminalLimits { proxied_per_old_host: 1, ..MANY };
    for host in [unknown, old] {
        // Those that pass by the agent do not count.
        open(&world, &direct(host)).await;
        let all = (0..10).map(|n| NewTerminal { user_id: Uuid::from_u128(1 + n), ..proxied(host) }).collect();
        let (opened, refused) = race(&world, all, limits).await;
        assert_eq!(opened, 1);
        assert!(refused.iter().all(|outcome| *outcome == TerminalOpened::OldAgentFull(1)), "{refused:?}");
        assert!(matches!(try_open(&world, &direct(host), &limits).await, TerminalOpened::Opened { .. }));
    }
    let (opened, _) = race(&world, (0..10).map(|_| proxied(new)).collect(), limits).await;
    assert_eq!(opened, 10);
}

async fn a_terminal_that_has_ended_makes_room(world: World) {
    let host = world.host().await;
    let one = TerminalLimits { per_user: 1, per_host: 1, proxied_per_old_host: 1 };
    for _ in 0..3 {
        let new = proxied(host);
        assert!(matches!(try_open(&world, &new, &one).await, TerminalOpened::Opened { .. }));
        assert_eq!(try_open(&world, &proxied(host), &one).await, TerminalOpened::UserFull(1));
        let bobs = NewTerminal { user_id: BOB, ..proxied(host) };
        assert_eq!(try_open(&world, &bobs, &one).await, TerminalOpened::HostFull(1));
        let wide = TerminalLimits { per_host: 2, ..one };
        assert_eq!(try_open(&world, &bobs, &wide).await, TerminalOpened::OldAgentFull(1));
        close(&world, new.id).await;
    }
    let none = TerminalLimits { per_user: 0, ..one };
    assert_eq!(try_open(&world, &direct(host), &none).await, TerminalOpened::UserFull(0));
}

async fn there_is_no_terminal_without_a_host_and_none_twice(world: World) {
    let nowhere = world.store.open_terminal(&direct(Uuid::now_v7()), &MANY).await;
    assert!(matches!(nowhere, Err(StoreError::Gone)), "{nowhere:?}");
    let new = direct(world.host().await);
    open(&world, &new).await;
    let twice = world.store.open_terminal(&new, &MANY).await;
    assert!(matches!(twice, Err(StoreError::Conflict(_))), "{twice:?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM terminal_sessions").await, 1);
    assert_eq!(world.store.terminal(Uuid::now_v7()).await.unwrap(), None);
}

async fn the_first_end_wins_and_is_logged_once(world: World) {
    let host = world.host().await;
    for _ in 0..5 {
        let id = open(&world, &proxied(host)).await;
        world.store.terminal_connected(id).await.unwrap();
        let enders = (0..16).map(|n| {
            let store = world.store.clone();
            tokio::spawn(async move {
                let reason = format!("reason {n}");
                store.end_terminal(id, &end(&reason)).await.unwrap().then_some(reason)
            })
        });
        let won: Vec<String> = join_all(enders).await.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(won.len(), 1, "{won:?}");
        assert_eq!(row(&world, id).await.reason.as_ref(), Some(&won[0]));
        let of_it = AuditFilter { session_id: Some(id), limit: 100, ..AuditFilter::default() };
        let entries = world.store.audits(&of_it).await.unwrap().items;
        let told: Vec<_> = entries.iter().map(|entry| (entry.event.as_str(), entry.reason.clone())).collect();
        assert_eq!(told, [("ssh_terminal_closed", Some(won[0].clone())), ("ssh_terminal_opened", None)]);
        assert_eq!(world.store.end_terminals_of(Some(GATEWAY), "the gateway is gone").await.unwrap(), 0);
    }
    assert!(!world.store.end_terminal(Uuid::now_v7(), &end("none")).await.unwrap());
}

async fn a_shell_that_comes_after_the_end_is_none(world: World) {
    let id = open(&world, &direct(world.host().await)).await;
    close(&world, id).await;
    world.store.terminal_connected(id).await.unwrap();
    world.store.terminal_connected(Uuid::now_v7()).await.unwrap();
    assert_eq!(row(&world, id).await.connected_at, None);
    assert_eq!(events(&world).await, ["ssh_terminal_closed"]);
    assert_eq!(log(&world).await[0].duration_ms, None, "there was no shell");
}

async fn the_hosts_row_decides_what_is_recorded(world: World) {
    let host = world.host().await;
    let options = async |change: TerminalOptions| {
        assert!(world.store.set_terminal_options(host, &change).await.unwrap());
        let host = world.store.host(host).await.unwrap().unwrap();
        (host.ssh_legacy_algorithms, host.record_terminals)
    };
    let opens = async |record: bool| match try_open(&world, &NewTerminal { record, ..direct(host) }, &MANY).await {
        TerminalOpened::Opened { record, legacy_algorithms } => (record, legacy_algorithms),
        refused => panic!("{refused:?}"),
    };
    let none = TerminalOptions::default();
    assert_eq!(options(none).await, (false, None));
    assert_eq!((opens(false).await, opens(true).await), ((false, false), (true, false)));
    assert_eq!(options(TerminalOptions { record: Some(Some(true)), ..none }).await, (false, Some(true)));
    assert_eq!((opens(false).await, opens(true).await), ((true, false), (true, false)));
    let legacy = TerminalOptions { legacy_algorithms: Some(true), record: Some(Some(false)) };
    assert_eq!(options(legacy).await, (true, Some(false)));
    assert_eq!((opens(false).await, opens(true).await), ((false, true), (false, true)));
    assert_eq!(options(none).await, (true, Some(false)), "what is not said is left");
    assert_eq!(options(TerminalOptions { record: Some(None), ..none }).await, (true, None));
    assert_eq!(opens(true).await, (true, true));
    assert_eq!(options(TerminalOptions { legacy_algorithms: Some(false), ..none }).await, (false, None));
    assert!(!world.store.set_terminal_options(Uuid::now_v7(), &legacy).await.unwrap());
}

async fn what_is_kept_of_a_removed_host_stays_readable(world: World) {
    let host = world.host().await;
    let (open_one, over) = (open(&world, &proxied(host)).await, open(&world, &direct(host)).await);
    world.store.terminal_connected(over).await.unwrap();
    world.store.append_recording(over, 0, b"chunk", 10, 1_000).await.unwrap();
    close(&world, over).await;
    world.store.check_ssh_key(host, 22, "key", "SHA256:one").await.unwrap();
    world.store.remove_host(host).await.unwrap().unwrap();

    for id in [open_one, over] {
        assert_eq!(row(&world, id).await.host_name, "host-0");
    }
    let of_it = TerminalFilter { host_id: Some(host), limit: 10, ..TerminalFilter::default() };
    assert_eq!(world.store.terminals(&of_it).await.unwrap().items.len(), 2);
    assert_eq!(world.store.recordings(&of_it).await.unwrap().items[0].terminal.id, over);
    assert_eq!(world.store.recording_chunk(over, 0).await.unwrap().unwrap(), b"chunk");
    let of_it = AuditFilter { host_id: Some(host), limit: 10, ..AuditFilter::default() };
    let entries = world.store.audits(&of_it).await.unwrap().items;
    assert_eq!(entries.len(), 2);
    assert!(entries.iter().all(|entry| entry.host_name.as_deref() == Some("host-0")));
    // What was open ends as any other.
    close(&world, open_one).await;
    assert_eq!(log(&world).await.last().unwrap().host_name.as_deref(), Some("host-0"));
    assert_eq!(world.store.ssh_keys(host).await.unwrap(), [], "its keys are of no use");
    let gone = world.store.check_ssh_key(host, 22, "key", "SHA256:one").await;
    assert!(matches!(gone, Err(StoreError::Gone)), "{gone:?}");
}

/// Connects these hosts in one group; answers which shells each may still hold.
async fn shells(world: &World, hosts: &[Uuid]) -> Vec<Vec<Uuid>> {
    let connects: Vec<_> = hosts.iter().map(|id| connect(*id)).collect();
    let (outcomes, _) = world.store.connect_hosts(&connects).await.unwrap();
    let shells = |outcome| match outcome {
        Connected::Epoch { terminals, .. } => terminals,
        Connected::Refused => panic!("refused"),
    };
    outcomes.into_iter().map(shells).collect()
}

async fn an_agent_that_connects_hears_which_shells_it_may_still_hold(world: World) {
    let [one, two, three] = world.hosts().await;
    assert_eq!(shells(&world, &[one, two]).await, [NONE, NONE]);
    let first = open(&world, &proxied(one)).await;
    let second = open(&world, &proxied(one)).await;
    let others = open(&world, &proxied(two)).await;
    open(&world, &proxied(three)).await;
    open(&world, &direct(two)).await;
    assert_eq!(shells(&world, &[two, one]).await, [vec![others], vec![second, first]], "newest first");
    // That it has ended here says nothing of the agent.
    close(&world, first).await;
    assert_eq!(shells(&world, &[one]).await, [vec![second, first]]);
    world.store.terminals_left_agent(&[first, others, Uuid::now_v7()]).await.unwrap();
    world.store.terminals_left_agent(&[]).await.unwrap();
    assert_eq!(shells(&world, &[one, two]).await, [vec![second], NONE]);
    let held = world.store.terminals_at_agents(&[one, two, Uuid::now_v7()]).await.unwrap();
    assert_eq!(held, [(one, second)]);
    assert_eq!(world.store.terminals_at_agents(&[]).await.unwrap(), []);
}

async fn of_the_shells_of_an_agent_the_newest_are_named(world: World) {
    let [one, two] = world.hosts().await;
    let max = usize::try_from(AT_AGENT_MAX).unwrap();
    let mut all = Vec::new();
    for _ in 0..max + 6 {
        all.push(open(&world, &proxied(one)).await);
        close(&world, *all.last().unwrap()).await;
    }
    let other = open(&world, &proxied(two)).await;
    let newest: Vec<Uuid> = all.iter().rev().take(max).copied().collect();
    assert_eq!(shells(&world, &[one, two]).await, [newest, vec![other]]);
    world.store.terminals_left_agent(&all[6..]).await.unwrap();
    let rest: Vec<Uuid> = all[..6].iter().rev().copied().collect();
    assert_eq!(shells(&world, &[one]).await, [rest], "and then those before");
}

async fn the_terminals_of_a_dead_gateway_end(world: World) {
    let host = world.host().await;
    // More than one transaction ends.
    let mut all = Vec::new();
    for _ in 0..300 {
        all.push(open(&world, &proxied(host)).await);
    }
    world.store.terminal_connected(all[7]).await.unwrap();
    world.store.append_recording(all[7], 0, b"chunk", 10, 1_000).await.unwrap();
    close(&world, all[0]).await;
    let elsewhere = open(&world, &NewTerminal { gateway_id: OTHER_GATEWAY, ..proxied(host) }).await;
    world.advance(MINUTE);
    // Two workers see it at once.
    let sweep = || world.store.end_terminals_of(Some(GATEWAY), "the gateway is gone");
    let (one, two) = tokio::join!(sweep(), sweep());
    assert_eq!(one.unwrap() + two.unwrap() + sweep().await.unwrap(), 299);

    let ended = row(&world, all[7]).await;
    assert_eq!((ended.reason.as_deref(), ended.exit_status), (Some("the gateway is gone"), None));
    assert!(ended.ended_at.unwrap() - ended.connected_at.unwrap() >= MINUTE);
    assert_eq!(row(&world, all[0]).await.reason.as_deref(), Some("closed"));
    assert_eq!(row(&world, elsewhere).await.ended_at, None);
    let closed = "SELECT COUNT(*) FROM audit_log WHERE event = 'ssh_terminal_closed'";
    assert_eq!(world.number(closed).await, 300, "each once");
    let of_it = AuditFilter { session_id: Some(all[7]), limit: 1, ..AuditFilter::default() };
    let entry = world.store.audits(&of_it).await.unwrap().items.pop().unwrap();
    assert_eq!(entry.event, "ssh_terminal_closed");
    assert_eq!(entry.duration_ms, Some(ended.ended_at.unwrap() - ended.connected_at.unwrap()));
    // Late, it hears that it was too late.
    assert!(!world.store.end_terminal(all[7], &end("closed")).await.unwrap());
    let held = "SELECT COUNT(*) FROM terminal_sessions WHERE at_agent = 1";
    assert_eq!(world.number(held).await, 301, "the agent may hold them all the same");
}

async fn a_gateway_that_has_nothing_but_terminals_is_found(world: World) {
    let [host, connected] = world.hosts().await;
    assert!(world.store.gateways_hinted().await.unwrap().is_empty());
    let id = open(&world, &NewTerminal { gateway_id: OTHER_GATEWAY, ..direct(host) }).await;
    assert_eq!(world.store.gateways_hinted().await.unwrap(), [OTHER_GATEWAY]);
    world.connect(&[connected]).await;
    open(&world, &direct(host)).await;
    let mut found = world.store.gateways_hinted().await.unwrap();
    found.sort_unstable();
    assert_eq!(found, [OTHER_GATEWAY, GATEWAY], "each once");
    close(&world, id).await;
    assert_eq!(world.store.gateways_hinted().await.unwrap(), [GATEWAY]);
    world.store.clear_hints_of(GATEWAY).await.unwrap();
    assert_eq!(world.store.gateways_hinted().await.unwrap(), [GATEWAY]);
    world.store.end_terminals_of(Some(GATEWAY), "the gateway is gone").await.unwrap();
    assert!(world.store.gateways_hinted().await.unwrap().is_empty());
}

async fn at_the_start_of_the_one_process_no_terminal_is_open(world: World) {
    let host = world.host().await;
    let one = open(&world, &direct(host)).await;
    let two = open(&world, &NewTerminal { gateway_id: OTHER_GATEWAY, ..proxied(host) }).await;
    let end_all = || world.store.end_terminals_of(None, "the server was restarted");
    assert_eq!(end_all().await.unwrap(), 2);
    for id in [one, two] {
        assert_eq!(row(&world, id).await.reason.as_deref(), Some("the server was restarted"));
    }
    assert_eq!(end_all().await.unwrap(), 0);
    assert_eq!(events(&world).await, ["ssh_terminal_closed"; 2]);
}

/// All pages of a list of terminals, so many at a time.
async fn pages(world: &World, filter: TerminalFilter, limit: u32) -> Vec<Uuid> {
    let mut found = Vec::new();
    let mut filter = TerminalFilter { limit, ..filter };
    loop {
        let page = world.store.terminals(&filter).await.unwrap();
        assert!(page.items.len() <= limit as usize);
        found.extend(page.items.iter().map(|terminal| terminal.id));
        filter.cursor = page.next_cursor;
        if filter.cursor.is_none() {
            return found;
        }
    }
}

async fn terminals_are_listed_by_all_filters(world: World) {
    let [one, two] = world.hosts().await;
    let mut all = Vec::new();
    for n in 0..16 {
        let host_id = if n % 2 == 0 { one } else { two };
        let user_id = if n % 4 < 2 { ADA } else { BOB };
        let id = open(&world, &NewTerminal { user_id, ..direct(host_id) }).await;
        if n < 8 {
            world.store.append_recording(id, 0, b"x", 1, 1).await.unwrap();
            close(&world, id).await;
        }
        all.push((id, host_id, user_id, n >= 8));
    }
    all.reverse();
    for host_id in [None, Some(one), Some(two)] {
        for user_id in [None, Some(ADA), Some(BOB), Some(Uuid::nil())] {
            for open in [None, Some(true), Some(false)] {
                let fits = |(_, host, user, still): &&(Uuid, Uuid, Uuid, bool)| {
                    host_id.is_none_or(|id| id == *host)
                        && user_id.is_none_or(|id| id == *user)
                        && open.is_none_or(|open| open == *still)
                };
                let expected: Vec<Uuid> = all.iter().filter(fits).map(|of| of.0).collect();
                let filter = TerminalFilter { host_id, user_id, open, ..TerminalFilter::default() };
                for limit in [1, 3, 16] {
                    assert_eq!(pages(&world, filter.clone(), limit).await, expected, "{filter:?} {limit}");
                }
                let recorded: Vec<Uuid> = all.iter().filter(fits).filter(|of| !of.3).map(|of| of.0).collect();
                let page = world.store.recordings(&TerminalFilter { limit: 3, ..filter.clone() }).await.unwrap();
                let mut found = page.items;
                if page.next_cursor.is_some() {
                    let rest = TerminalFilter { limit: 16, cursor: page.next_cursor, ..filter.clone() };
                    found.extend(world.store.recordings(&rest).await.unwrap().items);
                }
                let found: Vec<Uuid> = found.iter().map(|recording| recording.terminal.id).collect();
                assert_eq!(found, recorded, "{filter:?}");
            }
        }
    }
}

async fn the_audit_log_is_listed_by_all_filters(world: World) {
    let [host_id, other, session_id] = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    for n in 0..16 {
        let entry = NewAudit {
            event: if n % 2 == 0 { "ssh_terminal_access_granted" } else { "ssh_terminal_access_denied" },
            user_id: Some(if n % 4 < 2 { ADA } else { BOB }),
            host_id: (n % 8 < 6).then_some(if n % 8 < 4 { host_id } else { other }),
            session_id: (n < 8).then_some(session_id),
            address: n.to_string(),
            ..NewAudit::default()
        };
        world.store.audit(&entry).await.unwrap();
        world.advance(SECOND);
    }
    let all = log(&world).await;
    assert_eq!(
        all.iter().map(|entry| entry.address.clone()).collect::<Vec<_>>(),
        (0..16).map(|n| n.to_string()).collect::<Vec<_>>()
    );
    let none = AuditFilter::default();
    let filters = [
        none.clone(),
        AuditFilter { event: Some("ssh_terminal_access_denied".to_owned()), ..none.clone() },
        AuditFilter { event: Some("none".to_owned()), ..none.clone() },
        AuditFilter { user_id: Some(BOB), ..none.clone() },
        AuditFilter { host_id: Some(host_id), ..none.clone() },
        AuditFilter { session_id: Some(session_id), ..none.clone() },
        AuditFilter { from_ms: Some(all[5].at), ..none.clone() },
        AuditFilter { from_ms: Some(all[5].at + 1), ..none.clone() },
        AuditFilter { until_ms: Some(all[5].at), ..none.clone() },
        AuditFilter { until_ms: Some(all[5].at + 1), ..none.clone() },
        AuditFilter { from_ms: Some(i64::MIN), until_ms: Some(i64::MAX), ..none.clone() },
        AuditFilter { user_id: Some(ADA), host_id: Some(host_id), from_ms: Some(all[1].at), ..none.clone() },
        AuditFilter {
            event: Some("ssh_terminal_access_granted".to_owned()),
            user_id: Some(ADA),
            host_id: Some(host_id),
            session_id: Some(session_id),
            from_ms: Some(all[0].at),
            until_ms: Some(all[7].at),
            ..none
        },
    ];
    for filter in filters {
        let fits = |entry: &&AuditRow| {
            filter.event.as_ref().is_none_or(|event| *event == entry.event)
                && filter.user_id.is_none_or(|id| Some(id) == entry.user_id)
                && filter.host_id.is_none_or(|id| Some(id) == entry.host_id)
                && filter.session_id.is_none_or(|id| Some(id) == entry.session_id)
                && filter.from_ms.is_none_or(|from| entry.at >= from)
                && filter.until_ms.is_none_or(|until| entry.at < until)
        };
        let expected: Vec<&AuditRow> = all.iter().rev().filter(fits).collect();
        for limit in [1, 3, 16] {
            let mut found = Vec::new();
            let mut page = AuditFilter { limit, ..filter.clone() };
            loop {
                let got = world.store.audits(&page).await.unwrap();
                assert!(got.items.len() <= limit as usize);
                found.extend(got.items);
                page.cursor = got.next_cursor;
                if page.cursor.is_none() {
                    break;
                }
            }
            assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{filter:?} {limit}");
        }
    }
}

async fn entries_of_one_moment_keep_their_order(world: World) {
    for n in 0..200 {
        let entry = NewAudit { event: "ssh_terminal_access_denied", address: n.to_string(), ..NewAudit::default() };
        world.store.audit(&entry).await.unwrap();
    }
    let told: Vec<String> = log(&world).await.into_iter().map(|entry| entry.address).collect();
    assert_eq!(told, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());
}

async fn an_entry_says_what_it_was_told(world: World) {
    let before = world.now();
    let entry = NewAudit {
        event: "ssh_terminal_access_denied",
        user_id: Some(ADA),
        username: Some("ada".to_owned()),
        address: "2001:db8::1".to_owned(),
        host_id: Some(Uuid::now_v7()),
        host_name: Some("web'; DROP TABLE hosts; --".to_owned()),
        session_id: Some(Uuid::now_v7()),
        mode: Some(TerminalMode::Proxy),
        target: Some("root@localhost:22".to_owned()),
        reason: Some("\u{1f512} no \"right\"\n".to_owned()),
        duration_ms: Some(7),
        bytes_in: Some(8),
        bytes_out: Some(i64::MAX),
    };
    world.store.audit(&entry).await.unwrap();
    world.store.audit(&NewAudit { event: "other", ..NewAudit::default() }).await.unwrap();
    let [told, least] = &log(&world).await[..] else { panic!() };
    assert!((before..=world.now()).contains(&told.at));
    assert_eq!(told.id.get_version_num(), 7);
    let expected = AuditRow {
        id: told.id,
        at: told.at,
        event: entry.event.to_owned(),
        user_id: entry.user_id,
        username: entry.username,
        address: entry.address,
        host_id: entry.host_id,
        host_name: entry.host_name,
        session_id: entry.session_id,
        mode: entry.mode,
        target: entry.target,
        reason: entry.reason,
        duration_ms: entry.duration_ms,
        bytes_in: entry.bytes_in,
        bytes_out: entry.bytes_out,
    };
    assert_eq!(told, &expected);
    assert_eq!((least.event.as_str(), least.user_id, least.mode, least.bytes_in), ("other", None, None, None));
}

async fn a_recording_comes_back_as_it_went_in(world: World) {
    let id = open(&world, &direct(world.host().await)).await;
    assert_eq!(world.store.recording(id).await.unwrap(), None, "nothing was recorded yet");
    let every_byte: Vec<u8> = (0..=255).collect();
    let chunks = [every_byte.clone(), vec![0; 300_000], Vec::new(), every_byte.repeat(1_000)];
    for (number, chunk) in (0..).zip(&chunks) {
        world.store.append_recording(id, number, chunk, 1_000 + number, 5_000 * (number + 1)).await.unwrap();
        let recording = world.store.recording(id).await.unwrap().unwrap();
        assert_eq!((recording.chunks, recording.duration_ms), (number + 1, 5_000 * (number + 1)));
    }
    for (number, chunk) in (0..).zip(&chunks) {
        let read = world.store.recording_chunk(id, number).await.unwrap().unwrap();
        assert!(read == *chunk, "chunk {number} is another");
    }
    assert_eq!(world.store.recording_chunk(id, 4).await.unwrap(), None);
    assert_eq!(world.store.recording_chunk(Uuid::now_v7(), 0).await.unwrap(), None);
    close(&world, id).await;
    let recording = world.store.recording(id).await.unwrap().unwrap();
    assert_eq!(recording.terminal, row(&world, id).await);
    assert!(recording.terminal.recorded);
    assert_eq!((recording.stored_bytes, recording.raw_bytes), (256 + 300_000 + 256_000, 4_006));
    let listed = world.store.recordings(&TerminalFilter { limit: 5, ..TerminalFilter::default() }).await.unwrap();
    assert_eq!(listed.items, [recording]);
}

async fn chunks_come_in_order_and_may_come_twice(world: World) {
    let id = open(&world, &direct(world.host().await)).await;
    let append =
        async |id: Uuid, number: i64, chunk: &[u8]| world.store.append_recording(id, number, chunk, 10, 100).await;
    for gone in [append(id, 1, b"gap").await, append(id, -1, b"odd").await, append(Uuid::now_v7(), 0, b"none").await] {
        assert!(matches!(gone, Err(StoreError::Gone)), "{gone:?}");
    }
    append(id, 0, b"first").await.unwrap();
    append(id, 0, b"again").await.unwrap();
    let racers = (0..8).map(|_| append(id, 1, b"second"));
    assert!(join_all(racers).await.iter().all(Result::is_ok));
    let recording = world.store.recording(id).await.unwrap().unwrap();
    assert_eq!((recording.chunks, recording.stored_bytes, recording.raw_bytes), (2, 11, 20));
    assert_eq!(world.store.recording_chunk(id, 0).await.unwrap().unwrap(), b"first");
}

async fn a_recording_goes_when_its_terminal_is_over(world: World) {
    let host = world.host().await;
    let (id, other) = (open(&world, &direct(host)).await, open(&world, &direct(host)).await);
    for id in [id, other] {
        world.store.append_recording(id, 0, b"chunk", 10, 100).await.unwrap();
    }
    assert!(!world.store.delete_recording(id).await.unwrap(), "it goes on");
    close(&world, id).await;
    // The rest may come when the end is known already.
    world.store.append_recording(id, 1, b"rest", 10, 100).await.unwrap();
    assert!(world.store.delete_recording(id).await.unwrap());
    assert!(!world.store.delete_recording(id).await.unwrap());
    assert!(!world.store.delete_recording(Uuid::now_v7()).await.unwrap());
    assert_eq!(world.store.recording(id).await.unwrap(), None);
    assert_eq!(world.store.recording_chunk(id, 0).await.unwrap(), None);
    assert!(!row(&world, id).await.recorded);
    let late = world.store.append_recording(id, 2, b"late", 10, 100).await;
    assert!(matches!(late, Err(StoreError::Gone)), "{late:?}");
    assert_eq!(world.number("SELECT COUNT(*) FROM recording_chunks").await, 1, "another's stays");
}

async fn of_many_keys_at_once_one_is_trusted(world: World) {
    for host in world.many_hosts(5).await {
        let askers = (0..20).map(|n| {
            let store = world.store.clone();
            tokio::spawn(async move {
                let (key, fingerprint) = (format!("ssh-ed25519 key-{n}"), format!("SHA256:{n}"));
                (fingerprint.clone(), store.check_ssh_key(host, 22, &key, &fingerprint).await.unwrap())
            })
        });
        let answers: Vec<_> = join_all(askers).await.into_iter().map(Result::unwrap).collect();
        let won: Vec<_> = answers.iter().filter(|(_, check)| *check == KeyCheck::Same { first: true }).collect();
        assert_eq!(won.len(), 1, "{answers:?}");
        let known = &won[0].0;
        for (fingerprint, check) in &answers {
            if fingerprint != known {
                assert_eq!(check, &KeyCheck::Other { fingerprint: known.clone() });
            }
        }
        // The same one at once is everybody's.
        let askers = (0..20).map(|_| world.store.check_ssh_key(host, 2222, "key", "SHA256:x"));
        let answers: Vec<_> = join_all(askers).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(answers.iter().filter(|check| **check == KeyCheck::Same { first: true }).count(), 1);
        assert_eq!(answers.iter().filter(|check| **check == KeyCheck::Same { first: false }).count(), 19);
    }
}

async fn keys_are_known_by_port_and_can_be_forgotten(world: World) {
    let [host, other] = world.hosts().await;
    let check = async |host: Uuid, port: u16, key: &str| {
        world.store.check_ssh_key(host, port, key, &format!("SHA256:{key}")).await.unwrap()
    };
    let (first, again) = (KeyCheck::Same { first: true }, KeyCheck::Same { first: false });
    for (host, port, key) in [(host, 22, "one"), (host, 65_535, "two"), (other, 22, "three")] {
        assert_eq!(check(host, port, key).await, first);
    }
    let keys = world.store.ssh_keys(host).await.unwrap();
    let [HostSshKey { first_seen_at, last_seen_at, .. }, _] = keys[..] else { panic!("{keys:?}") };
    assert_eq!(first_seen_at, last_seen_at);
    assert_eq!((keys[0].port, keys[0].key.as_str(), keys[0].fingerprint.as_str()), (22, "one", "SHA256:one"));
    assert_eq!((keys[1].port, keys[1].key.as_str()), (65_535, "two"));
    world.advance(HOUR);
    assert_eq!(check(host, 22, "one").await, again);
    assert_eq!(check(host, 22, "two").await, KeyCheck::Other { fingerprint: "SHA256:one".to_owned() });
    let seen = world.store.ssh_keys(host).await.unwrap();
    assert_eq!(seen[0].first_seen_at, first_seen_at);
    assert!(seen[0].last_seen_at >= last_seen_at + HOUR);
    assert_eq!(seen[1], keys[1]);

    assert_eq!(world.store.forget_ssh_keys(host, Some(80)).await.unwrap(), 0);
    assert_eq!(world.store.forget_ssh_keys(host, Some(22)).await.unwrap(), 1);
    assert_eq!(check(host, 22, "two").await, first);
    assert_eq!(world.store.forget_ssh_keys(host, None).await.unwrap(), 2);
    assert_eq!(world.store.forget_ssh_keys(host, None).await.unwrap(), 0);
    assert_eq!(world.store.ssh_keys(host).await.unwrap(), []);
    assert_eq!(check(other, 22, "three").await, again, "another host's stay");
}

async fn retention_takes_recordings_before_terminals_and_the_log(world: World) {
    let keep = Keep { commands_ms: 30 * DAY, recordings_ms: 10 * DAY, audit_ms: 100 * DAY };
    let nothing = Retired::default();
    let host = world.host().await;
    let (old, still) = (open(&world, &direct(host)).await, open(&world, &direct(host)).await);
    for id in [old, still] {
        world.store.append_recording(id, 0, b"chunk", 10, 100).await.unwrap();
        world.store.append_recording(id, 1, b"chunk", 10, 100).await.unwrap();
    }
    close(&world, old).await;
    assert_eq!(world.store.retire(&keep).await.unwrap(), nothing);
    world.advance(10 * DAY - HOUR);
    let young = open(&world, &direct(host)).await;
    world.store.append_recording(young, 0, b"chunk", 10, 100).await.unwrap();
    close(&world, young).await;
    assert_eq!(world.store.retire(&keep).await.unwrap(), nothing);
    world.advance(HOUR + SECOND);
    assert_eq!(world.store.retire(&keep).await.unwrap(), Retired { chunks: 2, recordings: 1, ..nothing });
    assert!(!row(&world, old).await.recorded);
    assert_eq!(world.store.recording(old).await.unwrap(), None);
    for id in [still, young] {
        assert!(world.store.recording_chunk(id, 0).await.unwrap().is_some());
    }
    assert_eq!(world.store.retire(&keep).await.unwrap(), nothing);

    world.advance(90 * DAY);
    // The young one's recording has come of age, the old one and its entry too.
    let expected = Retired { chunks: 1, recordings: 1, terminals: 1, audits: 1, ..nothing };
    assert_eq!(world.store.retire(&keep).await.unwrap(), expected);
    assert_eq!(world.store.terminal(old).await.unwrap(), None);
    assert_eq!(log(&world).await.iter().map(|entry| entry.session_id).collect::<Vec<_>>(), [Some(young)]);
    // Recordings that were to be kept longer than their terminals go with them, and one that is open stays whatever its age.
    let short = Keep { recordings_ms: 1_000 * DAY, audit_ms: DAY, ..keep };
    let last = open(&world, &direct(host)).await;
    world.store.append_recording(last, 0, b"chunk", 10, 100).await.unwrap();
    close(&world, last).await;
    world.advance(2 * DAY);
    let expected = Retired { chunks: 1, recordings: 1, terminals: 2, audits: 2, ..nothing };
    assert_eq!(world.store.retire(&short).await.unwrap(), expected);
    assert_eq!(world.store.retire(&short).await.unwrap(), nothing);
    assert_eq!(world.number("SELECT COUNT(*) FROM recording_chunks").await, 2);
    assert!(row(&world, still).await.recorded);
}

async fn retention_of_recordings_works_in_batches(world: World) {
    let host = world.host().await;
    let (long, short) = (open(&world, &direct(host)).await, open(&world, &direct(host)).await);
    for id in [long, short] {
        world.store.append_recording(id, 0, b"chunk", 10, 100).await.unwrap();
        close(&world, id).await;
        world.advance(SECOND);
    }
    world
        .execute(&format!(
            "INSERT INTO recording_chunks (terminal_id, number, chunk) \
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2100) \
             SELECT '{long}', i, chunk FROM n, recording_chunks WHERE terminal_id = '{long}'"
        ))
        .await;
    let keep = Keep { recordings_ms: 0, ..Keep::default() };
    let mut turns = Vec::new();
    loop {
        let retired = world.store.retire(&keep).await.unwrap();
        if retired.total() == 0 {
            break;
        }
        turns.push((retired.chunks, retired.recordings));
    }
    assert_eq!(turns, [(1_000, 0), (1_000, 0), (102, 2)]);
    assert_eq!(world.number("SELECT COUNT(*) FROM recording_chunks").await, 0);
    assert!(!row(&world, long).await.recorded && !row(&world, short).await.recorded);
}
