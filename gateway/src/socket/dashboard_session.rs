//! The session of one dashboard's socket (protocol 4.5), without IO.
//!
//! A snapshot is followed by a ping, and the next one goes out when that ping's pong is there: so at most one is under way
//! whatever buffers lie between, and a slow reader gets the newest instead of a backlog.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    reader::Incoming,
    session::{Effect, Now, Session},
};

/// Longest message of a dashboard, in all its fragments, in bytes.
pub const MESSAGE_MAX: usize = 4 << 10;
/// Nothing heard for so long: nobody is there. Re-armed by any frame.
const READ_DEADLINE: Duration = Duration::from_secs(90);
/// Frames that may come at once.
const BURST: u32 = 20;
/// And one more after each of these.
const EACH: Duration = Duration::from_millis(100);

/// Close code for a session that ended: logged out, disabled, a permission taken away, an hour over.
pub const ENDED: u16 = 4401;

/// What comes to a dashboard beside frames.
#[derive(Debug)]
pub enum Mail {
    /// Where the queues stand, as JSON.
    Status(Arc<str>),
    /// Whoever looks may look no longer.
    Ended,
}

/// The session.
pub struct DashboardSession {
    pings: u64,
    /// The ping behind the snapshot under way.
    under_way: Option<u64>,
    last_heard: Instant,
    next_ping: Instant,
    /// When the whole burst is there again.
    full_at: Instant,
    ignored: Option<&'static str>,
    gap: Duration,
}

impl DashboardSession {
    /// A session that has not shown anything yet. `gap`: between two pings, other than those behind snapshots.
    pub fn new(now: Instant, gap: Duration) -> Self {
        Self { pings: 0, under_way: None, last_heard: now, next_ping: now + gap, full_at: now, ignored: None, gap }
    }

    fn ping(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.pings += 1;
        self.next_ping = now + self.gap;
        effects.push(Effect::Ping(self.pings));
    }

    /// Takes one place of the burst.
    fn may(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + EACH;
        let fits = full_at <= now + EACH * BURST;
        if fits {
            self.full_at = full_at;
        }
        fits
    }
}

impl Session for DashboardSession {
    type Mail = Mail;

    fn limit(&self) -> usize {
        MESSAGE_MAX
    }

    fn ready(&self) -> bool {
        self.under_way.is_none()
    }

    fn on_frame(&mut self, incoming: Incoming, now: Now, effects: &mut Vec<Effect>) {
        self.last_heard = now.instant;
        let counts = !matches!(incoming, Incoming::Pong(_) | Incoming::Close(_));
        if counts && !self.may(now.instant) {
            effects.push(Effect::Close { code: 1008, reason: "too many messages" });
            return;
        }
        match incoming {
            Incoming::Text(text) => effects.push(Effect::Text { text, marked: false }),
            Incoming::Binary(_) => self.ignored = Some("binary"),
            Incoming::Fragment => {}
            Incoming::Ping(payload) => effects.push(Effect::Pong(payload)),
            Incoming::Pong(payload) => {
                let n = <[u8; 8]>::try_from(payload).ok().map(u64::from_be_bytes).filter(|n| *n <= self.pings);
                if n.is_some_and(|n| self.under_way.is_some_and(|ping| ping <= n)) {
                    self.under_way = None;
                }
            }
            Incoming::Close(code) => effects.push(Effect::Close { code: code.unwrap_or(1000), reason: "" }),
        }
    }

    fn on_message(&mut self, message: &Mail, now: Now, effects: &mut Vec<Effect>) {
        match message {
            Mail::Status(text) => {
                effects.push(Effect::Text { text: text.to_string(), marked: false });
                self.ping(now.instant, effects);
                self.under_way = Some(self.pings);
            }
            Mail::Ended => effects.push(Effect::Close { code: ENDED, reason: "the session has ended" }),
        }
    }

    fn on_tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if now.instant - self.last_heard >= READ_DEADLINE {
            effects.push(Effect::Close { code: 1001, reason: "nothing heard for 90 s" });
        } else if self.next_ping <= now.instant {
            self.ping(now.instant, effects);
        }
    }

    fn next_tick(&self) -> Instant {
        self.next_ping.min(self.last_heard + READ_DEADLINE)
    }

    fn on_leftover(&mut self, _: &Mail, _: &mut Vec<Effect>) {}

    fn on_end(&mut self, _: &mut Vec<Effect>) {}

    fn take_ignored(&mut self) -> Option<&'static str> {
        self.ignored.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_secs(25);

    struct Scene {
        session: DashboardSession,
        start: Instant,
        ahead: Duration,
    }

    impl Scene {
        fn new() -> Self {
            let start = Instant::now();
            Self { session: DashboardSession::new(start, GAP), start, ahead: Duration::ZERO }
        }

        fn now(&self) -> Now {
            Now { instant: self.start + self.ahead, wall_ms: 0 }
        }

        fn frame(&mut self, incoming: Incoming) -> Vec<Effect> {
            let mut effects = Vec::new();
            let now = self.now();
            self.session.on_frame(incoming, now, &mut effects);
            effects
        }

        fn mail(&mut self, mail: &Mail) -> Vec<Effect> {
            let mut effects = Vec::new();
            let now = self.now();
            self.session.on_message(mail, now, &mut effects);
            effects
        }

        fn tick(&mut self) -> Vec<Effect> {
            let mut effects = Vec::new();
            let now = self.now();
            self.session.on_tick(now, &mut effects);
            effects
        }
    }

    fn pong(n: u64) -> Incoming {
        Incoming::Pong(n.to_be_bytes().to_vec())
    }

    #[test]
    fn the_next_snapshot_waits_until_the_last_one_was_read() {
        let mut scene = Scene::new();
        assert!(scene.session.ready());
        let shown = scene.mail(&Mail::Status("{}".into()));
        assert!(matches!(&shown[..], [Effect::Text { text, .. }, Effect::Ping(1)] if text == "{}"), "{shown:?}");
        assert!(!scene.session.ready());
        for other in [Incoming::Pong(Vec::new()), pong(0), pong(9), Incoming::Text("x".into())] {
            scene.frame(other);
            assert!(!scene.session.ready());
        }
        scene.frame(pong(1));
        assert!(scene.session.ready());
        // A pong that got lost costs a heartbeat.
        scene.mail(&Mail::Status("{}".into()));
        scene.ahead += GAP;
        assert!(matches!(scene.tick()[..], [Effect::Ping(3)]));
        scene.frame(pong(3));
        assert!(scene.session.ready());
    }

    #[test]
    fn who_may_look_no_longer_is_told_whatever_is_under_way() {
        let mut scene = Scene::new();
        scene.mail(&Mail::Status("{}".into()));
        assert!(matches!(scene.mail(&Mail::Ended)[..], [Effect::Close { code: ENDED, .. }]));
    }

    #[test]
    fn text_comes_back_and_too_much_of_it_ends_the_session() {
        let mut scene = Scene::new();
        for n in 0..BURST {
            let echo = scene.frame(Incoming::Text(n.to_string()));
            assert!(matches!(&echo[..], [Effect::Text { text, .. }] if *text == n.to_string()), "{echo:?}");
        }
        scene.ahead += EACH;
        assert!(matches!(scene.frame(Incoming::Ping(vec![7]))[..], [Effect::Pong(_)]));
        assert!(matches!(scene.frame(Incoming::Text("more".into()))[..], [Effect::Close { code: 1008, .. }]));
        // Pongs are answers: they never count.
        let mut scene = Scene::new();
        for _ in 0..1_000 {
            assert!(scene.frame(pong(0)).is_empty());
        }
    }

    #[test]
    fn silence_ends_the_session_and_any_frame_puts_that_off() {
        let mut scene = Scene::new();
        scene.ahead += READ_DEADLINE - Duration::from_secs(1);
        scene.frame(Incoming::Binary(3));
        assert_eq!(scene.session.take_ignored(), Some("binary"));
        scene.ahead += Duration::from_secs(2);
        assert!(matches!(scene.tick()[..], [Effect::Ping(_)]));
        scene.ahead += READ_DEADLINE;
        assert!(matches!(scene.tick()[..], [Effect::Close { code: 1001, .. }]));
    }
}
