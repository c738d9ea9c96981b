use schemas::agent::ServerFrame;

use super::*;

struct Peer {
    session: AgentSession,
    effects: Vec<Effect>,
    start: Instant,
    at: Duration,
}

const WALL: i64 = 1_800_000_000_000;

fn peer(epoch: i64) -> Peer {
    let start = Instant::now();
    let mut effects = Vec::new();
    let me = Identity {
        host_id: Uuid::from_u128(1),
        api_id: ApiId::parse("a").expect("id"),
        connection: Uuid::from_u128(2),
        gateway: Uuid::from_u128(3),
        epoch,
        secure: true,
        since_ms: WALL,
    };
    let session = AgentSession::new(me, start, &mut effects);
    Peer { session, effects, start, at: Duration::ZERO }
}

impl Peer {
    fn now(&self) -> Now {
        Now { instant: self.start + self.at, wall_ms: WALL + i64::try_from(self.at.as_millis()).expect("ms") }
    }

    fn after(&mut self, d: Duration) -> &mut Self {
        self.at += d;
        let now = self.now();
        self.session.on_tick(now, &mut self.effects);
        self
    }

    fn bus(&mut self, last: &str, body: &impl Serialize) -> &mut Self {
        let message = Message {
            subject: format!("agent.a.{last}").into(),
            body: json(body),
            reply: Some("inbox".into()),
            trace: None,
        };
        let now = self.now();
        self.session.on_message(&message, now, &mut self.effects);
        self
    }

    fn frame(&mut self, incoming: Incoming) -> &mut Self {
        let now = self.now();
        self.session.on_frame(incoming, now, &mut self.effects);
        self
    }

    fn pong(&mut self, n: u64) -> &mut Self {
        self.frame(Incoming::Pong(n.to_be_bytes().to_vec()))
    }

    fn replies(&mut self) -> Vec<CommandReply> {
        let effects = std::mem::take(&mut self.effects);
        effects
            .iter()
            .filter_map(|e| match e {
                Effect::Publish { subject, body, .. } if &**subject == "inbox" => serde_json::from_slice(body).ok(),
                _ => None,
            })
            .collect()
    }

    fn frames(&self) -> usize {
        self.effects.iter().filter(|e| matches!(e, Effect::Text { marked: true, .. })).count()
    }

    fn closed(&self) -> Option<u16> {
        self.effects.iter().find_map(|e| match e {
            Effect::Close { code, .. } => Some(*code),
            _ => None,
        })
    }
}

fn request(id: u128, asked_epoch: i64, mode: Mode) -> CommandRequest {
    CommandRequest {
        id: Uuid::from_u128(id),
        part: Part::Command,
        attempt: 1,
        asked_epoch,
        deadline_ms: WALL + 60_000_000,
        mode,
        quiet: true,
        frame: ServerFrame::ReportNow.encode(),
    }
}

#[test]
fn it_greets_first() {
    let p = peer(1);
    assert!(matches!(&p.effects[0], Effect::Text { text, .. } if text == CONNECTED));
}

#[test]
fn delivered_is_answered_when_the_pong_came() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver));
    assert_eq!(p.frames(), 1);
    assert!(p.effects.iter().any(|e| matches!(e, Effect::Ping(1))));
    assert!(p.replies().is_empty());
    assert_eq!(p.pong(1).replies(), vec![CommandReply::Delivered { epoch: 5 }]);
}

#[test]
fn a_pong_forty_seconds_late_becomes_a_fact() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver));
    p.effects.clear();
    p.after(Duration::from_secs(2));
    assert_eq!(p.replies(), vec![CommandReply::Sent { epoch: 5 }]);
    for _ in 0..38 {
        // The agent's own pings go on while its reader is blocked (protocol 6-3).
        p.frame(Incoming::Ping(Vec::new())).after(Duration::from_secs(1));
    }
    p.effects.clear();
    p.pong(1);
    assert!(p.effects.iter().any(|e| matches!(e, Effect::Record(Fact::Proved { attempt: 1, epoch: 5, .. }))));
}

#[test]
fn a_later_pong_proves_what_was_written_before_it() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver)).bus("command", &request(10, 5, Mode::Deliver));
    p.effects.clear();
    assert_eq!(p.pong(2).replies().len(), 2);
}

#[test]
fn a_pong_that_was_not_asked_for_proves_nothing() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver));
    p.effects.clear();
    p.pong(7).frame(Incoming::Pong(Vec::new()));
    assert!(p.effects.is_empty());
}

#[test]
fn a_retry_after_a_lost_answer_writes_nothing_whatever_the_epochs() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver)).pong(1);
    p.effects.clear();
    for mode in [Mode::Deliver, Mode::Again, Mode::Probe] {
        p.bus("command", &request(9, 4, mode));
    }
    assert_eq!(p.frames(), 0);
    assert_eq!(p.replies(), vec![CommandReply::Delivered { epoch: 5 }; 3]);
}

#[test]
fn only_a_connection_of_exactly_the_asked_epoch_repeats() {
    let mut p = peer(5);
    p.bus("command", &request(9, 4, Mode::Again)).bus("command", &request(10, 5, Mode::Probe));
    assert_eq!(p.frames(), 0);
    assert_eq!(p.replies(), vec![CommandReply::Unknown; 2]);
    p.bus("command", &request(11, 5, Mode::Again));
    assert_eq!(p.frames(), 1);
}

#[test]
fn an_older_connection_answers_superseded_and_closes() {
    let mut p = peer(5);
    p.bus("command", &request(9, 6, Mode::Deliver));
    assert_eq!((p.frames(), p.closed()), (0, Some(REPLACED)));
    assert_eq!(p.replies(), vec![CommandReply::Superseded]);
}

#[test]
fn a_request_past_its_deadline_is_dropped() {
    let mut p = peer(5);
    let late = CommandRequest { deadline_ms: WALL - 1, ..request(9, 5, Mode::Deliver) };
    p.bus("command", &late);
    assert!(p.frames() == 0 && p.replies().is_empty());
}

#[test]
fn of_two_holders_the_newer_stays() {
    let claim = |epoch| Claim { epoch, gateway: Uuid::from_u128(8), connection: Uuid::from_u128(9) };
    let mut p = peer(5);
    p.bus("claim", &claim(6));
    assert_eq!(p.closed(), Some(REPLACED));
    let mut p = peer(5);
    p.effects.clear();
    p.bus("claim", &claim(4));
    assert_eq!(p.closed(), None);
    assert!(matches!(&p.effects[..], [Effect::Publish { subject, .. }] if &**subject == "agent.a.claim"));
}

#[test]
fn any_frame_re_arms_the_read_deadline_and_silence_closes() {
    let mut p = peer(5);
    p.after(Duration::from_secs(80)).frame(Incoming::Fragment).after(Duration::from_secs(80));
    assert_eq!(p.closed(), None);
    p.after(Duration::from_secs(11));
    assert_eq!(p.closed(), Some(1001));
}

#[test]
fn heartbeats_come_every_25_to_30_seconds() {
    let mut p = peer(5);
    p.effects.clear();
    let due = p.session.next_tick() - p.start;
    assert!((Duration::from_secs(25)..=Duration::from_secs(30)).contains(&due), "{due:?}");
    p.after(due);
    assert!(matches!(p.effects[..], [Effect::Ping(1)]));
}

#[test]
fn what_was_not_proved_is_reported_lost_at_the_end() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver)).bus("command", &request(10, 5, Mode::Deliver)).pong(1);
    p.effects.clear();
    p.session.on_end(&mut p.effects);
    let lost: Vec<_> = p.effects.iter().filter(|e| matches!(e, Effect::Record(Fact::Lost { .. }))).collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(p.replies(), vec![CommandReply::Unknown]);
}

#[test]
fn what_is_not_proved_is_never_forgotten() {
    let mut p = peer(5);
    for id in 0..200 {
        p.bus("command", &request(id, 5, Mode::Deliver));
    }
    p.effects.clear();
    p.bus("command", &request(0, 5, Mode::Again));
    assert_eq!(p.frames(), 0);
    p.pong(200);
    for id in 1_000..1_200 {
        p.bus("command", &request(id, 5, Mode::Deliver));
        let ping = p.session.pings;
        p.pong(ping.into());
    }
    assert_eq!(p.session.remembered.len(), 200);
}

#[test]
fn malformed_unknown_and_binary_frames_are_ignored_and_counted() {
    let mut p = peer(5);
    p.effects.clear();
    for (text, reason) in
        [("{", "malformed"), (r#"{"type":"x"}"#, "unknown_type"), (r#"{"type":"docker_status"}"#, "unused_type")]
    {
        p.frame(Incoming::Text(text.into()));
        assert_eq!(p.session.take_ignored(), Some(reason));
    }
    p.frame(Incoming::Binary(3));
    assert_eq!(p.session.take_ignored(), Some("binary"));
    assert!(p.effects.is_empty());
}

#[test]
fn a_flood_of_progress_is_cut() {
    let mut p = peer(5);
    p.effects.clear();
    for _ in 0..500 {
        p.frame(Incoming::Text(r#"{"type":"compliance_scan_progress","phase":"evaluating"}"#.into()));
    }
    assert_eq!(p.effects.len(), 50);
}

#[test]
fn what_was_never_looked_at_is_answered_as_not_written() {
    let mut p = peer(5);
    p.bus("command", &request(9, 5, Mode::Deliver));
    p.effects.clear();
    for (id, mode) in [(9, Mode::Deliver), (10, Mode::Deliver), (11, Mode::Again), (12, Mode::Probe)] {
        let message = Message {
            subject: "agent.a.command".into(),
            body: json(&request(id, 5, mode)),
            reply: Some("inbox".into()),
            trace: None,
        };
        p.session.on_leftover(&message, &mut p.effects);
    }
    assert_eq!(p.replies(), vec![CommandReply::Superseded]);
}
