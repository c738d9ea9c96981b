//! Tickets are taken once, by who brings them for what they are for, while the session they came from lives; dashboards end
//! by their time.

use store::{NewSession, NewTicket, OPEN_TICKETS_MAX, TakenTicket};
use uuid::Uuid;

use super::store_world::{HOUR, MINUTE, SECOND, World};

on_every_store! {
    a_ticket_is_taken_once,
    of_many_that_bring_a_ticket_one_gets_it,
    a_ticket_is_good_for_its_time,
    a_ticket_opens_what_it_is_for_and_is_not_used_up_by_anything_else,
    a_ticket_ends_with_its_session_and_user,
    a_session_has_so_many_tickets_and_no_more,
    a_dashboard_lives_for_its_time,
    a_session_has_so_many_dashboards_and_no_more,
    what_is_over_is_removed,
}

async fn session(world: &World, name: &str) -> TakenTicket {
    let user_id = Uuid::now_v7();
    world.store.add_user(user_id, name, "hash", "admin").await.unwrap().expect("no such role");
    TakenTicket { user_id, session_id: open(world, user_id).await }
}

async fn open(world: &World, user_id: Uuid) -> Uuid {
    let session = NewSession {
        id: Uuid::now_v7(),
        user_id,
        lifetime_ms: 12 * HOUR,
        idle_ms: 30 * MINUTE,
        address: "192.0.2.7".to_owned(),
        user_agent: "test".to_owned(),
    };
    world.store.open_session(&session).await.unwrap();
    session.id
}

async fn issue(world: &World, digest: &str, whose: TakenTicket, host_id: Option<Uuid>) {
    let TakenTicket { user_id, session_id } = whose;
    let ticket = NewTicket { digest: digest.to_owned(), user_id, session_id, host_id, lifetime_ms: 30 * SECOND };
    world.store.issue_ticket(&ticket).await.unwrap();
}

async fn take(world: &World, digest: &str) -> Option<TakenTicket> {
    world.store.take_ticket(digest, None).await.unwrap()
}

async fn a_ticket_is_taken_once(world: World) {
    let ada = session(&world, "ada").await;
    issue(&world, "one", ada, None).await;
    assert_eq!(take(&world, "other").await, None);
    assert_eq!(take(&world, "one").await, Some(ada));
    assert_eq!(take(&world, "one").await, None);
}

async fn of_many_that_bring_a_ticket_one_gets_it(world: World) {
    let ada = session(&world, "ada").await;
    for n in 0..10 {
        let digest = format!("ticket-{n}");
        issue(&world, &digest, ada, None).await;
        let takers: Vec<_> = (0..8)
            .map(|_| {
                let (store, digest) = (world.store.clone(), digest.clone());
                tokio::spawn(async move { store.take_ticket(&digest, None).await.unwrap() })
            })
            .collect();
        let mut taken = 0;
        for taker in takers {
            taken += u32::from(taker.await.unwrap().is_some());
        }
        assert_eq!(taken, 1);
    }
}

async fn a_ticket_is_good_for_its_time(world: World) {
    let ada = session(&world, "ada").await;
    issue(&world, "early", ada, None).await;
    issue(&world, "late", ada, None).await;
    world.advance(25 * SECOND);
    assert_eq!(take(&world, "early").await, Some(ada));
    world.advance(5 * SECOND);
    assert_eq!(take(&world, "late").await, None);
}

async fn a_ticket_opens_what_it_is_for_and_is_not_used_up_by_anything_else(world: World) {
    let ada = session(&world, "ada").await;
    let [host, other] = world.hosts().await;
    issue(&world, "terminal", ada, Some(host)).await;
    issue(&world, "dashboard", ada, None).await;
    for (digest, host_id) in [("terminal", None), ("terminal", Some(other)), ("dashboard", Some(host))] {
        assert_eq!(world.store.take_ticket(digest, host_id).await.unwrap(), None, "{digest} {host_id:?}");
    }
    assert_eq!(world.store.take_ticket("terminal", Some(host)).await.unwrap(), Some(ada));
    assert_eq!(take(&world, "dashboard").await, Some(ada));
}

async fn a_ticket_ends_with_its_session_and_user(world: World) {
    let [ada, bob, carl, dora] = [
        session(&world, "ada").await,
        session(&world, "bob").await,
        session(&world, "carl").await,
        session(&world, "dora").await,
    ];
    for (digest, whose) in [("ada", ada), ("bob", bob), ("dora", dora)] {
        issue(&world, digest, whose, None).await;
    }
    // Somebody else's session.
    issue(&world, "mixed", TakenTicket { user_id: ada.user_id, session_id: carl.session_id }, None).await;
    world.store.revoke_session(ada.session_id).await.unwrap();
    world.execute("UPDATE users SET active = 0 WHERE username = 'bob'").await;
    for gone in ["ada", "bob", "mixed"] {
        assert_eq!(take(&world, gone).await, None, "{gone}");
    }
    assert_eq!(take(&world, "dora").await, Some(dora));
    // One that idles.
    world.advance(31 * MINUTE);
    issue(&world, "idle", carl, None).await;
    assert_eq!(take(&world, "idle").await, None);
}

async fn a_session_has_so_many_tickets_and_no_more(world: World) {
    let ada = session(&world, "ada").await;
    let again = TakenTicket { session_id: open(&world, ada.user_id).await, ..ada };
    issue(&world, "again", again, None).await;
    for n in 0..=OPEN_TICKETS_MAX {
        issue(&world, &format!("ticket-{n}"), ada, None).await;
        world.advance(10);
    }
    assert_eq!(take(&world, "ticket-0").await, None, "the oldest made room");
    assert_eq!(take(&world, "ticket-1").await, Some(ada));
    assert_eq!(take(&world, "again").await, Some(again), "another session's are its own");
}

async fn a_dashboard_lives_for_its_time(world: World) {
    let ada = session(&world, "ada").await;
    let before = world.now();
    world.store.open_dashboard("cookie", ada.session_id, HOUR).await.unwrap();
    let row = world.store.dashboard("cookie").await.unwrap().unwrap();
    assert_eq!(row.session_id, ada.session_id);
    assert!((before + HOUR..=world.now() + HOUR).contains(&row.expires_at));
    assert_eq!(world.store.dashboard("another").await.unwrap(), None);
    world.advance(HOUR);
    assert_eq!(world.store.dashboard("cookie").await.unwrap(), None);
}

async fn a_session_has_so_many_dashboards_and_no_more(world: World) {
    let ada = session(&world, "ada").await;
    for n in 0..=OPEN_TICKETS_MAX {
        world.store.open_dashboard(&format!("cookie-{n}"), ada.session_id, HOUR).await.unwrap();
        world.advance(10);
    }
    assert_eq!(world.store.dashboard("cookie-0").await.unwrap(), None);
    assert!(world.store.dashboard("cookie-1").await.unwrap().is_some());
}

async fn what_is_over_is_removed(world: World) {
    let ada = session(&world, "ada").await;
    issue(&world, "one", ada, None).await;
    world.store.open_dashboard("cookie", ada.session_id, HOUR).await.unwrap();
    assert_eq!(world.store.retire_tickets().await.unwrap(), 0);
    world.advance(MINUTE);
    assert_eq!(world.store.retire_tickets().await.unwrap(), 1);
    world.advance(HOUR);
    assert_eq!(world.store.retire_tickets().await.unwrap(), 1);
    // And with the session, whatever their time.
    issue(&world, "two", ada, None).await;
    world.store.open_dashboard("cookie", ada.session_id, 90 * HOUR).await.unwrap();
    world.execute("DELETE FROM sessions").await;
    assert_eq!(
        world.number("SELECT (SELECT COUNT(*) FROM tickets) + (SELECT COUNT(*) FROM dashboard_sessions)").await,
        0
    );
}
