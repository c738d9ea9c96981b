use tokio::sync::mpsc;

use super::*;

const IDLE: Duration = Duration::from_secs(900);
const MOST: Duration = Duration::from_secs(8 * 3_600);
const CONNECT: &str = r#"{"type":"connect","password":"pw"}"#;

/// Opens shells that do nothing.
#[derive(Default)]
struct Fake {
    opened: usize,
    left: usize,
    typed: usize,
    progressed: usize,
    hurried: usize,
    shell: Option<(mpsc::Receiver<Typed>, Stop)>,
}

impl Opener for Fake {
    fn open(&mut self, _: Connect) -> Port {
        let (input, typed) = mpsc::channel(2);
        let stop = Stop::default();
        self.opened += 1;
        self.shell = Some((typed, stop.clone()));
        Port { input: PollSender::new(input), stop }
    }

    fn typed(&mut self) {
        self.typed += 1;
    }

    fn progressed(&mut self) {
        self.progressed += 1;
    }

    fn hurry(&mut self) {
        self.hurried += 1;
    }

    fn left(&mut self) {
        self.left += 1;
    }
}

struct Scene {
    session: TerminalSession<Fake>,
    start: Instant,
    ahead: Duration,
}

impl Scene {
    fn new() -> Self {
        let start = Instant::now();
        let times = Times { idle: IDLE, most: MOST };
        let session = TerminalSession::new(Fake::default(), times, start, Duration::from_secs(25));
        Self { session, start, ahead: Duration::ZERO }
    }

    fn connected() -> Self {
        let mut scene = Self::new();
        assert!(scene.text(CONNECT).is_empty());
        assert_eq!(scene.said(Item::Connected), [r#"{"type":"connected"}"#]);
        scene
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.ahead, wall_ms: 0 }
    }

    fn frame(&mut self, incoming: Incoming) -> Vec<Effect> {
        let (mut effects, now) = (Vec::new(), self.now());
        self.session.on_frame(incoming, now, &mut effects);
        effects
    }

    fn text(&mut self, text: &str) -> Vec<String> {
        texts(&self.frame(Incoming::Text(text.to_owned())))
    }

    fn mail(&mut self, mail: &Mail) -> Vec<Effect> {
        let (mut effects, now) = (Vec::new(), self.now());
        self.session.on_message(mail, now, &mut effects);
        effects
    }

    fn said(&mut self, item: Item) -> Vec<String> {
        texts(&self.mail(&Mail::Item(item)))
    }

    fn tick(&mut self) -> Vec<Effect> {
        let (mut effects, now) = (Vec::new(), self.now());
        self.session.on_tick(now, &mut effects);
        effects
    }

    /// Lets time go by while the browser answers pings.
    fn wait(&mut self, ahead: Duration) -> Vec<Effect> {
        let until = self.ahead + ahead;
        let mut effects = Vec::new();
        while self.ahead < until {
            self.ahead = (self.ahead + Duration::from_secs(20)).min(until);
            self.frame(Incoming::Pong(Vec::new()));
            effects.extend(self.tick());
        }
        effects
    }

    fn reads(&mut self) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        self.session.poll_reads(&mut cx).is_ready()
    }

    fn taken(&mut self) -> Option<Input> {
        let shell = self.session.opener.shell.as_mut()?;
        shell.0.try_recv().ok().map(|typed| typed.input)
    }

    fn why(&self) -> Option<String> {
        use futures_util::FutureExt as _;
        self.session.opener.shell.as_ref()?.1.wait().now_or_never()
    }
}

fn texts(effects: &[Effect]) -> Vec<String> {
    let text = |effect: &Effect| match effect {
        Effect::Text { text, .. } => Some(text.clone()),
        _ => None,
    };
    effects.iter().filter_map(text).collect()
}

fn pong(n: u64) -> Incoming {
    Incoming::Pong(n.to_be_bytes().to_vec())
}

fn keys(text: &str) -> Option<Input> {
    Some(Input::Keys(text.to_owned()))
}

#[test]
fn one_shell_at_a_time_and_another_after_any_end() {
    let mut scene = Scene::connected();
    assert_eq!(scene.text(CONNECT), [r#"{"type":"error","message":"Already connected"}"#]);
    assert_eq!(scene.said(Item::Closed(Some(3))), [r#"{"type":"closed","exit_status":3}"#]);
    assert!(scene.text(CONNECT).is_empty());
    assert_eq!(scene.said(Item::Error("no".into())), [r#"{"type":"error","message":"no"}"#]);
    assert!(scene.said(Item::Failed).is_empty());
    assert!(scene.text(CONNECT).is_empty());
    assert_eq!(scene.text(r#"{"type":"disconnect"}"#), [r#"{"type":"closed"}"#]);
    assert_eq!(scene.why().as_deref(), Some("the user ended it"));
    assert_eq!(scene.session.opener.left, 1, "what it still tells does not come");
    assert!(scene.text(CONNECT).is_empty());
    assert_eq!(scene.session.opener.opened, 4);
    assert_eq!(scene.text(r#"{"type":"disconnect"}"#), [r#"{"type":"closed"}"#]);
    assert!(scene.text(r#"{"type":"disconnect"}"#).is_empty(), "there is none");
}

#[test]
fn what_is_wrong_is_answered_and_ends_nothing() {
    let mut scene = Scene::connected();
    assert_eq!(scene.text("{"), [r#"{"type":"error","message":"Invalid message"}"#]);
    assert!(scene.text(r#"{"type":"dance"}"#).is_empty());
    assert_eq!(scene.session.take_ignored(), Some("unknown_type"));
    assert!(scene.frame(Incoming::Binary(9)).is_empty());
    assert!(scene.text(r#"{"type":"input","data":"ls\r"}"#).is_empty());
    assert!(scene.reads());
    assert_eq!(scene.taken(), keys("ls\r"));
    let mut nothing = Scene::new();
    assert!(nothing.text(r#"{"type":"input","data":"x"}"#).is_empty());
    assert_eq!(nothing.session.take_ignored(), Some("no_shell"));
}

#[test]
fn a_shell_that_does_not_take_input_holds_the_browser_up_and_loses_nothing() {
    let mut scene = Scene::connected();
    let paste = "x".repeat(100 * pieces::MAX);
    let mut pasted = 0;
    while scene.reads() {
        assert!(scene.text(&format!(r#"{{"type":"input","data":"{paste}"}}"#)).is_empty());
        pasted += paste.len();
        assert!(pasted < PENDING_MAX * 2, "it never ends");
    }
    assert!(pasted > PENDING_MAX);
    // Pongs are not read either: output goes all the same.
    for _ in 0..64 {
        scene.said(Item::Output("x".repeat(16 << 10)));
        assert!(scene.session.ready());
    }
    let mut came = 0;
    while let Some(Input::Keys(piece)) = scene.taken() {
        came += piece.len();
        scene.reads();
    }
    assert!(scene.reads() && !scene.session.ready());
    assert_eq!(came, pasted);
}

#[test]
fn no_more_goes_out_than_was_read_for_certain() {
    let mut scene = Scene::connected();
    let piece = "x".repeat(16 << 10);
    let mut pings = 0;
    for n in 1..=8_u64 {
        assert!(scene.session.ready(), "{n}");
        let effects = scene.mail(&Mail::Item(Item::Output(piece.clone())));
        pings += effects.iter().filter(|effect| matches!(effect, Effect::Ping(_))).count() as u64;
    }
    assert_eq!(pings, 8, "eight in a window");
    assert!(!scene.session.ready());
    for other in [Incoming::Pong(Vec::new()), pong(99)] {
        scene.frame(other);
        assert!(!scene.session.ready());
    }
    scene.frame(pong(1));
    assert!(scene.session.ready());
    scene.frame(pong(8));
    assert_eq!((scene.session.read, scene.session.opener.progressed), (scene.session.sent, 2));
}

#[test]
fn the_window_is_what_the_way_takes() {
    let mut scene = Scene::connected();
    let turn = |scene: &mut Scene, takes: Duration| {
        while scene.session.ready() {
            scene.said(Item::Output("x".repeat(1 << 10)));
        }
        scene.ahead += takes;
        let last = scene.session.pings;
        scene.frame(pong(last));
        scene.session.window
    };
    assert_eq!(turn(&mut scene, Duration::from_millis(20)), WINDOW_MAX);
    assert_eq!(turn(&mut scene, Duration::from_millis(200)), WINDOW_MAX);
    for _ in 0..10 {
        turn(&mut scene, Duration::from_secs(1));
    }
    assert_eq!(scene.session.window, WINDOW_MIN);
    // What is under way without a ping behind it is never more than a ping's worth.
    assert!(scene.session.sent - scene.session.marked() < WINDOW_MIN / PINGS);
    turn(&mut scene, Duration::from_millis(20));
    assert_eq!(scene.session.window, 2 * WINDOW_MIN);
}

#[test]
fn a_lone_ctrl_c_hurries_and_a_paste_with_one_does_not() {
    let mut scene = Scene::connected();
    scene.text(r#"{"type":"input","data":"a\u0003b"}"#);
    assert_eq!(scene.session.opener.hurried, 0);
    scene.text(r#"{"type":"input","data":"\u0003"}"#);
    assert_eq!(scene.session.opener.hurried, 1);
}

#[test]
fn an_idle_terminal_is_warned_and_closed() {
    let mut scene = Scene::connected();
    let early = scene.wait(IDLE - WARNING - Duration::from_secs(20));
    assert!(texts(&early).is_empty());
    let warned = texts(&scene.wait(Duration::from_secs(20)));
    assert!(warned.len() == 1 && warned[0].contains("closes soon"), "{warned:?}");
    // Something typed puts it off, and it is warned once more.
    scene.text(r#"{"type":"input","data":"x"}"#);
    assert_eq!(scene.session.opener.typed, 2);
    assert!(texts(&scene.wait(IDLE - WARNING - Duration::from_secs(20))).is_empty());
    assert_eq!(texts(&scene.wait(WARNING)).len(), 1);
    let ended = scene.wait(Duration::from_secs(20));
    let error = r#"{"type":"error","message":"The terminal was idle for too long"}"#;
    assert_eq!(texts(&ended), [error, r#"{"type":"closed"}"#]);
    assert!(matches!(ended.last(), Some(Effect::Close { code: 1000, .. })));
    assert_eq!(scene.why().as_deref(), Some("The terminal was idle for too long"));
}

#[test]
fn output_keeps_a_terminal_open_but_not_for_ever() {
    let mut scene = Scene::connected();
    let mut last = Vec::new();
    while last.is_empty() {
        scene.said(Item::Output("top".into()));
        last = texts(&scene.wait(Duration::from_secs(50)));
    }
    assert!(last[0].contains("has been open for long"), "{last:?}");
    assert!(scene.ahead > MOST - WARNING - Duration::from_secs(200) && scene.ahead < MOST);
    scene.said(Item::Output("top".into()));
    let ended = texts(&scene.wait(WARNING));
    assert!(ended[0].contains("as long as it may"), "{ended:?}");
}

#[test]
fn who_may_no_longer_is_told_why() {
    let mut scene = Scene::connected();
    let effects = scene.mail(&Mail::Revoked("You have logged out"));
    let error = r#"{"type":"error","message":"You have logged out"}"#;
    assert_eq!(texts(&effects), [error, r#"{"type":"closed"}"#]);
    assert!(matches!(effects.last(), Some(Effect::Close { code: ENDED, .. })));
    assert_eq!(scene.why().as_deref(), Some("You have logged out"));
}

#[test]
fn a_browser_that_is_gone_leaves_no_shell() {
    let mut scene = Scene::connected();
    scene.ahead += READ_DEADLINE;
    assert!(matches!(scene.tick().last(), Some(Effect::Close { code: 1001, .. })));
    let mut scene = Scene::connected();
    scene.session.on_end(&mut Vec::new());
    assert_eq!(scene.why().as_deref(), Some("the browser went away"));
    let mut scene = Scene::connected();
    let mut effects = Vec::new();
    scene.session.on_leave(&mut effects);
    assert!(texts(&effects)[0].contains("The server goes away"));
    assert!(matches!(effects.last(), Some(Effect::Close { code: 1001, .. })));
}

#[test]
fn what_was_left_out_is_shown() {
    let mut scene = Scene::connected();
    let said = scene.said(Item::Shed(123));
    assert!(said[0].contains("[patchbay: 123 bytes of output left out]"), "{said:?}");
}
