//! Users, the roles a store begins with, sessions and their ends.

use std::collections::HashSet;

use store::{NewSession, Permission, StoreError};
use uuid::Uuid;

use super::store_world::{HOUR, MINUTE, SECOND, World};

on_every_store! {
    the_seeded_roles_are_those_of_the_protocol,
    names_are_the_same_whatever_their_case,
    a_user_needs_a_role_that_exists,
    the_first_user_is_made_once,
    a_login_reads_role_and_hash,
    a_session_lives_until_it_expires,
    activity_keeps_a_session_from_idling,
    a_look_is_no_activity,
    a_revoked_session_stays_revoked,
    a_new_password_ends_the_sessions_of_its_user_only,
    a_session_that_is_over_cannot_be_touched,
    permissions_are_read_afresh,
}

async fn add(world: &World, name: &str, role: &str) -> Uuid {
    let id = Uuid::now_v7();
    world.store.add_user(id, name, &format!("hash of {name}"), role).await.unwrap().expect("no such role");
    id
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

/// Would a request with this session be let in?
async fn alive(world: &World, id: Uuid, touch: bool) -> bool {
    let row = world.store.session(id, touch).await.unwrap().expect("no such session");
    row.revoked_at.is_none() && world.now() < row.expires_at && world.now() < row.idle_at
}

async fn the_seeded_roles_are_those_of_the_protocol(world: World) {
    use Permission as P;
    let roles = world.store.roles().await.unwrap();
    let names: HashSet<&str> = roles.iter().map(|r| r.name.as_str()).collect();
    assert_eq!(names, HashSet::from(["superadmin", "admin", "host_manager", "user", "readonly"]));
    assert_eq!(roles.len(), 5);
    let may = |role: &str, permission| roles.iter().find(|r| r.name == role).unwrap().may(permission);
    for permission in P::ALL {
        assert!(may("superadmin", *permission));
        assert_eq!(may("admin", *permission), *permission != P::ManageSuperusers);
        if may("readonly", *permission) {
            assert!(may("user", *permission) && may("host_manager", *permission));
            assert!(permission.name().starts_with("can_view_"));
        }
    }
    for (permission, manager) in
        [(P::ManageHosts, true), (P::UseRemoteAccess, true), (P::ManageUsers, false), (P::ManageSettings, false)]
    {
        assert_eq!(may("host_manager", permission), manager, "{permission:?}");
        assert!(!may("user", permission) && !may("readonly", permission));
    }
    assert!(may("user", P::ExportData) && !may("readonly", P::ExportData));
}

async fn names_are_the_same_whatever_their_case(world: World) {
    let ada = add(&world, "Ada", "admin").await;
    for name in ["ada", "ADA", "Ada"] {
        let found = world.store.login(name).await.unwrap().unwrap();
        assert_eq!((found.account.id, found.account.username.as_str()), (ada, "Ada"));
        let twin = world.store.add_user(Uuid::now_v7(), name, "x", "user").await;
        assert!(matches!(twin, Err(StoreError::Conflict(_))), "{twin:?}");
    }
    let umlaut = add(&world, "Änne", "user").await;
    assert_eq!(world.store.login("änne").await.unwrap().unwrap().account.id, umlaut);
    assert!(world.store.login("bob").await.unwrap().is_none());
}

async fn a_user_needs_a_role_that_exists(world: World) {
    assert!(world.store.add_user(Uuid::now_v7(), "ada", "x", "emperor").await.unwrap().is_none());
    assert!(!world.store.has_users().await.unwrap());
    add(&world, "ada", "readonly").await;
    assert!(world.store.has_users().await.unwrap());
}

async fn the_first_user_is_made_once(world: World) {
    let askers: Vec<_> = (0..8)
        .map(|n| {
            let store = world.store.clone();
            tokio::spawn(async move {
                store.add_first_user(Uuid::now_v7(), "admin", &format!("hash {n}"), "admin").await.unwrap()
            })
        })
        .collect();
    let mut won = 0;
    for asker in askers {
        won += u32::from(asker.await.unwrap());
    }
    assert_eq!(won, 1);
    assert!(!world.store.add_first_user(Uuid::now_v7(), "other", "x", "admin").await.unwrap());
    assert!(world.store.login("other").await.unwrap().is_none());
}

async fn a_login_reads_role_and_hash(world: World) {
    let ada = add(&world, "ada", "host_manager").await;
    let login = world.store.login("ada").await.unwrap().unwrap();
    assert_eq!((login.account.id, login.password_hash.as_str()), (ada, "hash of ada"));
    assert_eq!(login.account.role.name, "host_manager");
    assert!(login.account.role.may(Permission::ManageHosts) && !login.account.role.may(Permission::ManageUsers));
    assert!(login.account.active);
    assert_eq!(login.account.last_login_at, None);
    let before = world.now();
    open(&world, ada).await;
    assert!(world.store.login("ada").await.unwrap().unwrap().account.last_login_at.unwrap() >= before);
}

async fn a_session_lives_until_it_expires(world: World) {
    let ada = add(&world, "ada", "admin").await;
    let session = open(&world, ada).await;
    assert!(world.store.session(Uuid::now_v7(), true).await.unwrap().is_none());
    let row = world.store.session(session, false).await.unwrap().unwrap();
    assert_eq!((row.id, row.account.id, row.account.username.as_str()), (session, ada, "ada"));
    for _ in 0..35 {
        world.advance(20 * MINUTE);
        assert!(alive(&world, session, true).await);
    }
    world.advance(20 * MINUTE + SECOND);
    assert!(!alive(&world, session, true).await, "12 hours, however busy");
}

async fn activity_keeps_a_session_from_idling(world: World) {
    let session = open(&world, add(&world, "ada", "admin").await).await;
    world.advance(29 * MINUTE);
    let row = world.store.session(session, true).await.unwrap().unwrap();
    assert!(row.idle_at >= world.now() + 29 * MINUTE, "the answer already says so");
    world.advance(29 * MINUTE);
    assert!(alive(&world, session, false).await);
    world.advance(MINUTE + SECOND);
    assert!(!alive(&world, session, false).await);
}

async fn a_look_is_no_activity(world: World) {
    let session = open(&world, add(&world, "ada", "admin").await).await;
    for _ in 0..2 {
        world.advance(14 * MINUTE);
        assert!(alive(&world, session, false).await);
    }
    world.advance(3 * MINUTE);
    assert!(!alive(&world, session, false).await);
}

async fn a_revoked_session_stays_revoked(world: World) {
    let ada = add(&world, "ada", "admin").await;
    let [gone, stays] = [open(&world, ada).await, open(&world, ada).await];
    world.store.revoke_session(gone).await.unwrap();
    let revoked_at = world.store.session(gone, true).await.unwrap().unwrap().revoked_at;
    assert!(revoked_at.is_some());
    world.advance(MINUTE);
    world.store.revoke_session(gone).await.unwrap();
    assert_eq!(world.store.session(gone, true).await.unwrap().unwrap().revoked_at, revoked_at);
    assert!(alive(&world, stays, true).await);
    world.store.revoke_session(Uuid::now_v7()).await.unwrap();
}

async fn a_new_password_ends_the_sessions_of_its_user_only(world: World) {
    let [ada, bob] = [add(&world, "ada", "admin").await, add(&world, "bob", "user").await];
    let sessions = [open(&world, ada).await, open(&world, ada).await];
    let others = open(&world, bob).await;
    let revoked = open(&world, ada).await;
    world.store.revoke_session(revoked).await.unwrap();

    let (user, mut ended) = world.store.set_password("ADA", "new hash").await.unwrap().unwrap();
    ended.sort_unstable();
    assert_eq!((user, ended), (ada, sessions.to_vec()));
    for session in sessions {
        assert!(!alive(&world, session, false).await);
    }
    assert!(alive(&world, others, false).await);
    assert_eq!(world.store.login("ada").await.unwrap().unwrap().password_hash, "new hash");
    assert!(world.store.set_password("carl", "x").await.unwrap().is_none());
}

async fn a_session_that_is_over_cannot_be_touched(world: World) {
    let session = open(&world, add(&world, "ada", "admin").await).await;
    world.advance(31 * MINUTE);
    assert!(!alive(&world, session, true).await);
    assert!(!alive(&world, session, true).await, "a late request does not bring it back");
}

async fn permissions_are_read_afresh(world: World) {
    let session = open(&world, add(&world, "ada", "host_manager").await).await;
    world.execute("DELETE FROM roles WHERE name = 'host_manager' AND permission = 'can_use_remote_access'").await;
    let role = world.store.session(session, true).await.unwrap().unwrap().account.role;
    assert!(!role.may(Permission::UseRemoteAccess) && role.may(Permission::ManageHosts));
    world.execute("UPDATE users SET role = 'readonly'").await;
    let role = world.store.session(session, true).await.unwrap().unwrap().account.role;
    assert!(!role.may(Permission::ManageHosts) && role.may(Permission::ViewHosts));
    world.execute("UPDATE users SET active = 0").await;
    assert!(!world.store.session(session, true).await.unwrap().unwrap().account.active);
}
