//! The contract of the bus: at most once, in order, bounded, and honest about who is not there.

use std::{collections::HashSet, future::Future, sync::Arc, time::Duration};

use bus::{
    BODY_MAX, Bus, BusError, BusStatus, MAILBOX, MemoryBus, Message, NatsBus, NatsOptions, NatsUrl, Subscribe,
    Subscription,
};
use bytes::Bytes;
use schemas::TraceContext;
use tests::services::nats::NatsServer;
use tokio::time::timeout;

/// Two clients of one broker that can be taken away.
pub struct Broker {
    bus: Arc<dyn Bus>,
    other: Arc<dyn Bus>,
    set_away: Box<dyn Fn(bool) + Send + Sync>,
}

impl Broker {
    pub fn memory() -> Self {
        let bus = Arc::new(MemoryBus::new());
        Self { bus: bus.clone(), other: bus.clone(), set_away: Box::new(move |away| bus.set_away(away)) }
    }

    pub async fn nats() -> Self {
        let server = NatsServer::start();
        let options = NatsOptions { agent_connections: 2, ..NatsOptions::new(NatsUrl::parse(&server.url()).unwrap()) };
        let client = async || Arc::new(NatsBus::connect(&options).await.unwrap());
        let (bus, other) = (client().await, client().await);
        Self { bus, other, set_away: Box::new(move |away| server.set_away(away)) }
    }
}

on_every_bus! {
    a_message_reaches_every_subscriber_once,
    messages_of_one_publisher_keep_their_order,
    a_late_subscriber_gets_nothing_from_before,
    one_star_stands_for_one_token,
    an_angle_bracket_stands_for_the_rest,
    overlapping_patterns_each_get_the_message,
    a_request_that_nobody_listens_to_fails_at_once,
    a_publish_that_nobody_listens_to_is_no_error,
    all_who_listen_may_answer,
    a_listener_that_never_answers_is_a_time_out,
    an_answer_after_the_asker_left_hurts_nobody,
    a_full_subscriber_loses_the_newest_and_is_counted,
    a_full_subscriber_holds_up_nobody,
    dropping_a_subscription_ends_it,
    members_of_a_group_share_the_messages,
    members_of_a_group_share_the_requests,
    two_groups_and_a_plain_subscriber_each_get_all,
    a_group_outlives_its_members,
    a_body_over_the_limit_is_refused,
    nothing_passes_while_the_broker_is_away,
    subscriptions_outlive_an_outage,
    an_outage_is_seen_by_who_watches,
    a_trace_passes_with_message_request_and_answer,
    a_thousand_agents_get_only_what_is_theirs,
}

const SOON: Duration = Duration::from_secs(20);
const NEVER: Duration = Duration::from_millis(60);
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("it did not come")
}

async fn next(subscription: &mut Subscription) -> Message {
    soon(subscription.next()).await.expect("the bus is closed")
}

async fn number(subscription: &mut Subscription) -> u64 {
    next(subscription).await.parse().unwrap()
}

async fn nothing_comes(subscription: &mut Subscription) {
    if let Ok(message) = timeout(NEVER, subscription.next()).await {
        panic!("nothing should come: {message:?}");
    }
}

async fn say(bus: &dyn Bus, subject: &str, n: u64) {
    bus::publish_json(bus, subject, &n).await.unwrap();
}

async fn listen(bus: &dyn Bus, pattern: &str) -> Subscription {
    bus.subscribe(pattern, Subscribe::all(64)).await.unwrap()
}

async fn join(bus: &dyn Bus, pattern: &str, group: &str) -> Subscription {
    bus.subscribe(pattern, Subscribe { capacity: 256, group: Some(group) }).await.unwrap()
}

/// Answers one request with a number.
async fn answer_one(bus: &dyn Bus, subscription: &mut Subscription, n: u64) {
    let request = next(subscription).await;
    let reply = request.reply.expect("a request wants an answer");
    bus::publish_json(bus, &reply, &n).await.unwrap();
}

async fn a_message_reaches_every_subscriber_once(broker: Broker) {
    let mut one = listen(&*broker.bus, "host.1.changed").await;
    let mut two = listen(&*broker.other, "host.1.changed").await;
    say(&*broker.bus, "host.1.changed", 7).await;
    for subscription in [&mut one, &mut two] {
        let message = next(subscription).await;
        assert_eq!(&*message.subject, "host.1.changed");
        assert_eq!(message.parse::<u64>().unwrap(), 7);
        assert!(message.reply.is_none());
        nothing_comes(subscription).await;
    }
}

async fn messages_of_one_publisher_keep_their_order(broker: Broker) {
    let mut all = broker.bus.subscribe("line.*", Subscribe::all(4_000)).await.unwrap();
    let publishers = ["line.a", "line.b", "line.c"].map(|subject| {
        let bus = broker.other.clone();
        tokio::spawn(async move {
            for n in 0..1_000 {
                say(&*bus, subject, n).await;
            }
        })
    });
    for publisher in publishers {
        publisher.await.unwrap();
    }
    let mut seen = [0_u64; 3];
    for _ in 0..3_000 {
        let message = next(&mut all).await;
        let line = ["line.a", "line.b", "line.c"].iter().position(|s| *s == &*message.subject).unwrap();
        assert_eq!(message.parse::<u64>().unwrap(), seen[line], "{}", message.subject);
        seen[line] += 1;
    }
    assert_eq!(broker.bus.dropped(), 0);
}

async fn a_late_subscriber_gets_nothing_from_before(broker: Broker) {
    say(&*broker.bus, "late", 1).await;
    let mut late = listen(&*broker.bus, "late").await;
    nothing_comes(&mut late).await;
    say(&*broker.bus, "late", 2).await;
    assert_eq!(number(&mut late).await, 2);
}

async fn one_star_stands_for_one_token(broker: Broker) {
    let mut agent = listen(&*broker.bus, "agent.a.*").await;
    let mut changed = listen(&*broker.bus, "host.*.changed").await;
    for (n, subject) in ["agent.a", "agent.a.b.c", "agent.b.command", "agent", "host.changed", "host.1.2.changed"]
        .into_iter()
        .enumerate()
    {
        say(&*broker.bus, subject, n as u64).await;
    }
    say(&*broker.bus, "agent.a.command", 100).await;
    say(&*broker.bus, "host.1.changed", 101).await;
    assert_eq!(number(&mut agent).await, 100);
    assert_eq!(number(&mut changed).await, 101);
    nothing_comes(&mut agent).await;
    nothing_comes(&mut changed).await;
}

async fn an_angle_bracket_stands_for_the_rest(broker: Broker) {
    let mut revoked = listen(&*broker.bus, "revoked.>").await;
    say(&*broker.bus, "revoked", 0).await;
    say(&*broker.bus, "other.user.1", 0).await;
    say(&*broker.bus, "revoked.user.1", 1).await;
    say(&*broker.bus, "revoked.all", 2).await;
    assert_eq!(number(&mut revoked).await, 1);
    assert_eq!(number(&mut revoked).await, 2);
    nothing_comes(&mut revoked).await;
}

async fn overlapping_patterns_each_get_the_message(broker: Broker) {
    let mut patterns = Vec::new();
    for pattern in ["a.b.c", "a.*.c", "a.b.*", "*.b.c", "a.>", "a.*.*"] {
        patterns.push(listen(&*broker.bus, pattern).await);
    }
    say(&*broker.bus, "a.b.c", 1).await;
    for subscription in &mut patterns {
        assert_eq!(number(subscription).await, 1);
        nothing_comes(subscription).await;
    }
}

async fn a_request_that_nobody_listens_to_fails_at_once(broker: Broker) {
    let _other = listen(&*broker.bus, "agent.b.*").await;
    let asked = soon(bus::request_json(&*broker.bus, "agent.a.status", &1, None, SOON * 2)).await;
    assert_eq!(asked.err(), Some(BusError::NoResponder));
}

async fn a_publish_that_nobody_listens_to_is_no_error(broker: Broker) {
    broker.bus.publish("nobody", Bytes::from_static(b"{}"), None).await.unwrap();
    assert_eq!(broker.bus.dropped(), 0);
}

async fn all_who_listen_may_answer(broker: Broker) {
    let mut holders = Vec::new();
    for n in 0..3 {
        let (bus, mut subscription) = (broker.other.clone(), listen(&*broker.other, "agent.a.*").await);
        holders.push(tokio::spawn(async move { answer_one(&*bus, &mut subscription, n).await }));
    }
    let mut replies = broker.bus.ask("agent.a.status", Bytes::from_static(b"1"), None).await.unwrap();
    let mut answers = HashSet::new();
    for _ in 0..3 {
        answers.insert(replies.next(SOON).await.unwrap().parse::<u64>().unwrap());
    }
    assert_eq!(answers, HashSet::from([0, 1, 2]));
    assert_eq!(replies.next(NEVER).await.err(), Some(BusError::Timeout));
}

async fn a_listener_that_never_answers_is_a_time_out(broker: Broker) {
    let mut silent = listen(&*broker.other, "agent.a.*").await;
    let asked = soon(bus::request_json(&*broker.bus, "agent.a.status", &5, None, NEVER)).await;
    assert_eq!(asked.err(), Some(BusError::Timeout));
    assert_eq!(number(&mut silent).await, 5, "it got the request all the same");
}

async fn an_answer_after_the_asker_left_hurts_nobody(broker: Broker) {
    let mut slow = listen(&*broker.other, "agent.a.*").await;
    let asked = bus::request_json(&*broker.bus, "agent.a.status", &5, None, Duration::from_millis(1)).await;
    assert_eq!(asked.err(), Some(BusError::Timeout));
    answer_one(&*broker.other, &mut slow, 1).await;

    let mut replies = broker.bus.ask("agent.a.status", Bytes::from_static(b"6"), None).await.unwrap();
    answer_one(&*broker.other, &mut slow, 2).await;
    assert_eq!(replies.next(SOON).await.unwrap().parse::<u64>().unwrap(), 2, "not the late answer to another request");
}

async fn a_full_subscriber_loses_the_newest_and_is_counted(broker: Broker) {
    let mut small = broker.bus.subscribe("burst", Subscribe::all(3)).await.unwrap();
    for n in 0..10 {
        say(&*broker.bus, "burst", n).await;
    }
    soon(async {
        while broker.bus.dropped() < 7 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    for n in 0..3 {
        assert_eq!(number(&mut small).await, n);
    }
    nothing_comes(&mut small).await;
    assert_eq!(broker.bus.dropped(), 7);
    say(&*broker.bus, "burst", 10).await;
    assert_eq!(number(&mut small).await, 10, "there is room again");
}

async fn a_full_subscriber_holds_up_nobody(broker: Broker) {
    let _full = broker.bus.subscribe("burst", Subscribe::all(1)).await.unwrap();
    let mut quick = broker.bus.subscribe("burst", Subscribe::all(100)).await.unwrap();
    soon(async {
        for n in 0..100 {
            say(&*broker.bus, "burst", n).await;
        }
    })
    .await;
    for n in 0..100 {
        assert_eq!(number(&mut quick).await, n);
    }
}

async fn dropping_a_subscription_ends_it(broker: Broker) {
    let first = listen(&*broker.bus, "agent.a.*").await;
    let second = listen(&*broker.bus, "agent.a.*").await;
    drop(first);
    let asked = bus::request_json(&*broker.bus, "agent.a.status", &1, None, NEVER).await;
    assert_eq!(asked.err(), Some(BusError::Timeout), "the second still listens");
    drop(second);
    soon(async {
        // A broker may learn of it a moment later.
        while broker.other.ask("agent.a.status", Bytes::from_static(b"1"), None).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let asked = broker.bus.ask("agent.a.status", Bytes::from_static(b"1"), None).await;
    assert_eq!(asked.err(), Some(BusError::NoResponder));
    assert_eq!(broker.bus.dropped(), 0, "what is gone drops nothing");
}

async fn members_of_a_group_share_the_messages(broker: Broker) {
    let mut members = [join(&*broker.bus, "work", "g").await, join(&*broker.other, "work", "g").await];
    for n in 0..100 {
        say(&*broker.bus, "work", n).await;
    }
    let mut got = [Vec::new(), Vec::new()];
    while got[0].len() + got[1].len() < 100 {
        let [one, two] = &mut members;
        let (member, message) = soon(async {
            tokio::select! {
                message = one.next() => (0, message),
                message = two.next() => (1, message),
            }
        })
        .await;
        got[member].push(message.unwrap().parse::<u64>().unwrap());
    }
    for member in &mut members {
        nothing_comes(member).await;
    }
    assert!(got.iter().all(|g| !g.is_empty()), "one had it all: {got:?}");
    let all: HashSet<u64> = got.iter().flatten().copied().collect();
    assert_eq!(all.len(), 100, "each went to one of them");
}

async fn members_of_a_group_share_the_requests(broker: Broker) {
    let mut members = [join(&*broker.bus, "work", "g").await, join(&*broker.other, "work", "g").await];
    for _ in 0..100 {
        let _unanswered = broker.bus.ask("work", Bytes::from_static(b"1"), None).await.unwrap();
    }
    for member in &mut members {
        soon(member.next()).await.expect("each member gets some");
    }
}

async fn two_groups_and_a_plain_subscriber_each_get_all(broker: Broker) {
    let mut groups = [
        [join(&*broker.bus, "work", "g").await, join(&*broker.bus, "work", "g").await],
        [join(&*broker.bus, "work", "h").await, join(&*broker.bus, "work", "h").await],
    ];
    let mut plain = broker.bus.subscribe("work", Subscribe::all(256)).await.unwrap();
    for n in 0..100 {
        say(&*broker.other, "work", n).await;
    }
    for n in 0..100 {
        assert_eq!(number(&mut plain).await, n);
    }
    for group in &mut groups {
        let mut counts = Vec::new();
        for member in group {
            let mut count = 0;
            while timeout(NEVER, member.next()).await.is_ok() {
                count += 1;
            }
            counts.push(count);
        }
        assert_eq!(counts.iter().sum::<u32>(), 100);
        assert!(counts.iter().all(|n| *n > 0), "{counts:?}");
    }
}

async fn a_group_outlives_its_members(broker: Broker) {
    let mut stays = join(&*broker.bus, "work", "g").await;
    let leaves = join(&*broker.bus, "work", "g").await;
    drop(leaves);
    soon(async {
        // Every message finds the member that stayed, as soon as the broker knows.
        loop {
            say(&*broker.bus, "work", 1).await;
            say(&*broker.bus, "work", 1).await;
            let both = timeout(NEVER, async { (stays.next().await, stays.next().await) }).await;
            if both.is_ok() {
                break;
            }
        }
    })
    .await;
}

async fn a_body_over_the_limit_is_refused(broker: Broker) {
    let mut big = listen(&*broker.bus, "big").await;
    let fits = Bytes::from(vec![b'x'; BODY_MAX]);
    let over = Bytes::from(vec![b'x'; BODY_MAX + 1]);
    assert_eq!(broker.bus.publish("big", over.clone(), None).await.err(), Some(BusError::TooLarge));
    assert_eq!(broker.bus.ask("big", over, None).await.err(), Some(BusError::TooLarge));
    broker.bus.publish("big", fits, None).await.unwrap();
    assert_eq!(next(&mut big).await.body.len(), BODY_MAX);
    nothing_comes(&mut big).await;
}

async fn nothing_passes_while_the_broker_is_away(broker: Broker) {
    let mut there = listen(&*broker.bus, "agent.a.*").await;
    (broker.set_away)(true);
    soon(broker.bus.status().wait_for(|s| *s == BusStatus::Down)).await.unwrap();
    let body = || Bytes::from_static(b"1");
    let published = soon(broker.bus.publish("agent.a.status", body(), None)).await;
    assert_eq!(published.err(), Some(BusError::Disconnected));
    let asked = soon(broker.bus.ask("agent.a.status", body(), None)).await;
    assert_eq!(asked.err(), Some(BusError::Disconnected), "away is not offline");
    let subscribed = soon(broker.bus.subscribe("x", Subscribe::all(1))).await;
    assert_eq!(subscribed.err(), Some(BusError::Disconnected));
    nothing_comes(&mut there).await;
}

async fn subscriptions_outlive_an_outage(broker: Broker) {
    let mut there = listen(&*broker.bus, "agent.a.*").await;
    (broker.set_away)(true);
    soon(broker.bus.status().wait_for(|s| *s == BusStatus::Down)).await.unwrap();
    let _lost = broker.bus.publish("agent.a.status", Bytes::from_static(b"1"), None).await;
    (broker.set_away)(false);
    for bus in [&broker.bus, &broker.other] {
        soon(bus.status().wait_for(|s| *s == BusStatus::Up)).await.unwrap();
    }
    say(&*broker.other, "agent.a.status", 2).await;
    assert_eq!(number(&mut there).await, 2, "what was lost does not come late");
    nothing_comes(&mut there).await;
}

async fn an_outage_is_seen_by_who_watches(broker: Broker) {
    let mut status = broker.bus.status();
    assert_eq!(*status.borrow_and_update(), BusStatus::Up);
    for (away, seen) in [(true, BusStatus::Down), (false, BusStatus::Up)] {
        (broker.set_away)(away);
        soon(status.changed()).await.unwrap();
        assert_eq!(*status.borrow_and_update(), seen);
    }
    (broker.set_away)(false);
    assert!(timeout(NEVER, status.changed()).await.is_err(), "no change, no word");
}

async fn a_trace_passes_with_message_request_and_answer(broker: Broker) {
    let trace = TraceContext::parse(TRACE);
    let mut there = listen(&*broker.other, "t.*").await;
    broker.bus.publish("t.1", Bytes::from_static(b"1"), trace.clone()).await.unwrap();
    assert_eq!(next(&mut there).await.trace, trace);

    let mut replies = broker.bus.ask("t.2", Bytes::from_static(b"2"), trace.clone()).await.unwrap();
    let request = next(&mut there).await;
    assert_eq!(request.trace, trace);
    broker.other.publish(&request.reply.unwrap(), Bytes::from_static(b"3"), request.trace).await.unwrap();
    assert_eq!(replies.next(SOON).await.unwrap().trace, trace);
}

async fn a_thousand_agents_get_only_what_is_theirs(broker: Broker) {
    let mut agents = Vec::new();
    for n in 0..1_000 {
        agents.push(broker.bus.subscribe(&format!("agent.a-{n}.*"), Subscribe::all(MAILBOX)).await.unwrap());
    }
    for n in 0..1_000 {
        say(&*broker.other, &format!("agent.a-{n}.command"), n).await;
    }
    for (n, agent) in agents.iter_mut().enumerate() {
        assert_eq!(number(agent).await, n as u64);
    }
    drop(agents.split_off(500));
    soon(async {
        while broker.other.ask("agent.a-999.status", Bytes::from_static(b"1"), None).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    say(&*broker.other, "agent.a-499.command", 1).await;
    assert_eq!(number(&mut agents[499]).await, 1);
    assert_eq!(broker.bus.dropped(), 0);
}
