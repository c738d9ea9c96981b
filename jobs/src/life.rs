//! The life of a command as pure decisions: a row, an event, the time; out come the changed row and what else to do.
//! The store runs these on locked rows, so each decision is a compare-and-set.

use std::time::Duration;

use schemas::{
    agent::ScanPhase,
    message::{CommandReply, Mode},
};

use crate::{
    command::{Command, Evidence, HostFacts},
    deed::{Deed, Sign},
    kinds::{Prepared, RETURN_GRACE},
    state::{self, Cause, State},
};

/// How long a claimed row is left alone by the sweep.
pub const CLAIM_MS: i64 = 5_000;
/// How long an attempt may take before the sweep asks what became of it. Above the request's own time-out.
pub const ATTEMPT_MS: i64 = 15_000;
/// How often an unproved frame is asked after.
pub const PROBE_MS: i64 = 15_000;
/// How often a cancel frame is asked for while the command runs.
pub const CANCEL_AGAIN_MS: i64 = 30_000;
/// When the sweep looks again at rows that something else is expected to move.
pub const SAFETY_MS: i64 = 60_000;
/// How long a holder that gives no answer is asked; then the frame counts as written.
pub const UNANSWERED_MAX_MS: i64 = 300_000;
/// Losses after which a command is unconfirmed.
pub const LOSSES_MAX: i32 = 5;
/// Deeds kept while an outcome is open.
const KEPT_MAX: usize = 8;
/// First and longest wait after a refusal.
const BACKOFF_MS: (i64, i64) = (1_000, 60_000);
/// How far ahead of its slot a command may be taken: the worker waits the rest.
pub const EARLY_MS: i64 = 1_500;

/// What happened to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// A worker would begin an attempt. `blocked`: the host has another scan under way.
    Take {
        /// The host's one place for a scan is taken.
        blocked: bool,
    },
    /// An attempt's request ended.
    Outcome {
        /// The attempt it belongs to.
        attempt: i32,
        /// How.
        outcome: Outcome,
    },
    /// The pong came after the answer (protocol 1.2).
    Proved {
        /// The attempt that wrote the frame.
        attempt: i32,
        /// Epoch of the connection.
        epoch: i64,
    },
    /// The connection that wrote the frame ended without a pong for it.
    Lost {
        /// The attempt that wrote the frame.
        attempt: i32,
    },
    /// The host did something.
    Observe(&'a Deed),
    /// Its time has come: the sweep claimed it.
    Check,
    /// The agent connected. `slot`: when a paced command may go.
    Wake {
        /// Milliseconds since the Unix epoch.
        slot: i64,
    },
    /// A user called it off.
    Cancel,
    /// The host was removed.
    Remove,
}

/// How a request to the holder ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A holder answered.
    Reply(CommandReply, Mode),
    /// Nobody holds the agent.
    NoResponder(Mode),
    /// No answer: perhaps written.
    Unknown,
}

/// What the caller has to do besides storing the row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Step {
    /// The row changed.
    pub changed: bool,
    /// It moved to another state.
    pub moved: bool,
    /// A task must wake a worker at this time.
    pub push_at: Option<i64>,
    /// The host's place for a scan is free: wake the next one that is queued.
    pub ring_next: bool,
    /// Requests the worker must make.
    pub asks: Asks,
}

/// Requests to the holder that a row needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asks {
    /// Ask for the command's own frame.
    pub command: Option<Mode>,
    /// Ask for the cancel frame.
    pub cancel: bool,
}

impl Asks {
    /// Nothing to ask?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.command.is_none() && !self.cancel
    }
}

/// Applies an event to a row.
pub fn apply(c: &mut Command, host: &HostFacts, event: &Event<'_>, now: i64) -> Step {
    let before = c.clone();
    let mut life = Life { c, host, now, step: Step::default() };
    if life.c.is_final() {
        if let Event::Observe(deed) = event {
            life.late(deed);
        }
    } else {
        life.event(event);
    }
    let mut step = life.step;
    step.moved = c.state != before.state;
    if c.is_final() {
        c.next_check_at = None;
        if !before.is_final() {
            c.notes.kept.clear();
        }
        step.ring_next = before.state.is_active() && c.kind.spec().exclusive();
        step.push_at = None;
        step.asks = Asks::default();
    } else if before.state.is_active() && !c.state.is_active() && c.kind.spec().exclusive() {
        step.ring_next = true;
    }
    step.changed = *c != before;
    step
}

struct Life<'a> {
    c: &'a mut Command,
    host: &'a HostFacts,
    now: i64,
    step: Step,
}

fn ms(d: Duration) -> i64 {
    i64::try_from(d.as_millis()).unwrap_or(i64::MAX)
}

impl Life<'_> {
    /// Moves by the table; false when the table has no such move.
    fn go(&mut self, cause: Cause) -> bool {
        let Some(to) = state::next(cause, self.c.state) else {
            return false;
        };
        self.c.state = to;
        self.c.times.enter(to, self.now);
        true
    }

    fn end(&mut self, cause: Cause, error: Option<String>, evidence: Option<(&str, Option<String>)>) {
        if self.go(cause) {
            self.c.error = error;
            self.c.evidence =
                evidence.map(|(deed, detail)| Evidence { deed: deed.to_owned(), at: self.now, detail, late: None });
        }
    }

    fn check_at(&mut self, at: i64) {
        self.c.next_check_at = Some(at);
    }

    fn push_now(&mut self) {
        self.step.push_at = Some(self.now);
        self.check_at((self.now + SAFETY_MS).min(self.c.expires_at.max(self.now + 1)));
    }

    fn event(&mut self, event: &Event<'_>) {
        match event {
            Event::Take { blocked } => self.take(*blocked),
            Event::Outcome { attempt, outcome } if *attempt == self.c.attempt => self.outcome(*outcome),
            Event::Proved { attempt, epoch } if *attempt == self.c.attempt => self.proved(*epoch),
            Event::Lost { attempt } if *attempt == self.c.attempt => self.lost(),
            Event::Outcome { .. } | Event::Proved { .. } | Event::Lost { .. } => {}
            Event::Observe(deed) => self.observe(deed),
            Event::Check => self.check(),
            Event::Wake { slot } => self.wake(*slot),
            Event::Cancel => self.cancel(),
            Event::Remove => self.remove(),
        }
    }

    fn take(&mut self, blocked: bool) {
        let c = &mut *self.c;
        if c.state != State::Queued {
            if c.cancel_requested_at.is_some() && c.state.is_active() && c.state != State::Sending {
                self.step.asks.cancel = c.kind.spec().cancel_frame().is_some();
            }
            return;
        }
        if self.now >= c.expires_at {
            self.end(Cause::Overdue, Some("not sent within its time".to_owned()), None);
        } else if c.not_before > self.now + EARLY_MS {
            let at = c.not_before;
            self.step.push_at = Some(at);
            self.check_at((at + SAFETY_MS).min(self.c.expires_at));
        } else if blocked {
            let at = (self.now + SAFETY_MS).min(c.expires_at);
            self.check_at(at);
        } else {
            match c.kind.spec().prepare(&c.payload, self.host) {
                Prepared::Frame(_) => self.begin_attempt(),
                Prepared::Nothing(why) => self.end(Cause::NothingToDo, None, Some(("none", Some(why.to_owned())))),
                Prepared::Cannot(why) => self.end(Cause::CannotRun, Some(why.to_owned()), None),
            }
        }
    }

    fn begin_attempt(&mut self) {
        if self.go(Cause::Taken) {
            let c = &mut *self.c;
            c.attempt += 1;
            c.asked_epoch = self.host.epoch;
            c.held_epoch = None;
            c.returned_at = None;
            c.last_sign_at = None;
            c.notes = crate::command::Notes::default();
            self.step.asks.command = Some(Mode::Deliver);
            self.check_at(self.now + ATTEMPT_MS);
        }
    }

    fn outcome(&mut self, outcome: Outcome) {
        match (self.c.state, outcome) {
            (State::Sending | State::Sent, Outcome::Reply(CommandReply::Delivered { epoch }, _)) => self.proved(epoch),
            (State::Sending, Outcome::Reply(CommandReply::Sent { epoch }, _)) => self.written(Some(epoch), PROBE_MS),
            (State::Sending, Outcome::Reply(CommandReply::Busy | CommandReply::Superseded, Mode::Deliver)) => {
                self.refused()
            }
            (State::Sending, Outcome::Reply(CommandReply::Busy, _)) => self.refused(),
            (State::Sending, Outcome::NoResponder(Mode::Deliver)) => self.not_held(),
            // Nobody has said anything: the sweep asks again, and only the connection that was asked first may write.
            (State::Sending, Outcome::Unknown) if self.asked_for() < UNANSWERED_MAX_MS => {
                self.check_at(self.now + CLAIM_MS);
            }
            // Who should know does not: it counts as written, and is asked after at once.
            (State::Sending, _) => self.written(None, 1_000),
            (
                State::Sent,
                Outcome::Reply(CommandReply::Unknown | CommandReply::Superseded, _) | Outcome::NoResponder(_),
            ) => {
                self.lost();
            }
            _ => {}
        }
    }

    /// How long the attempt has been under way.
    fn asked_for(&self) -> i64 {
        self.now - self.c.times.at(State::Sending).unwrap_or(self.now)
    }

    /// Expiry and cancel during sending are decided here: the frame is known not to be written.
    fn unsent(&mut self) -> bool {
        self.c.notes.kept.clear();
        if self.c.cancel_requested_at.is_some() {
            self.end(Cause::Stopped, None, None);
            true
        } else if self.now >= self.c.expires_at {
            self.end(Cause::Overdue, Some("not sent within its time".to_owned()), None);
            true
        } else {
            false
        }
    }

    fn not_held(&mut self) {
        if self.unsent() {
            return;
        }
        if self.host.epoch == self.c.asked_epoch {
            self.go(Cause::NotHeld);
            self.check_at((self.now + SAFETY_MS).min(self.c.expires_at));
        } else {
            // The agent connected meanwhile: its wake has passed this row by.
            self.go(Cause::Refused);
            self.push_now();
        }
    }

    fn refused(&mut self) {
        if self.unsent() {
            return;
        }
        self.go(Cause::Refused);
        let c = &mut *self.c;
        let wait = (BACKOFF_MS.0 << c.refusals.clamp(0, 6)).min(BACKOFF_MS.1);
        c.refusals += 1;
        c.not_before = self.now + wait;
        let at = c.not_before.min(c.expires_at);
        self.check_at(at);
    }

    fn written(&mut self, epoch: Option<i64>, probe_ms: i64) {
        if self.go(Cause::Written) {
            self.c.held_epoch = epoch;
            self.check_at(self.now + probe_ms);
            self.after_writing();
        }
    }

    fn proved(&mut self, epoch: i64) {
        if self.go(Cause::Proved) {
            self.c.held_epoch = Some(epoch);
            self.c.refusals = 0;
            self.watch();
            self.after_writing();
        }
    }

    /// The frame is out: deeds that came before we knew count now, and so does a cancel.
    fn after_writing(&mut self) {
        for (at, deed) in std::mem::take(&mut self.c.notes.kept) {
            if !self.c.is_final() {
                self.deed(&deed, at);
            }
        }
        if self.c.cancel_requested_at.is_some() && !self.c.is_final() && self.c.kind.spec().cancel_frame().is_some() {
            self.step.push_at = Some(self.now);
        }
    }

    fn lost(&mut self) {
        if self.c.state != State::Sent {
            return;
        }
        if self.c.kind.spec().repeatable(&self.c.payload) {
            self.again(Cause::Lost, "lost on the way");
        } else {
            self.check_at(self.now + PROBE_MS);
        }
    }

    /// Back into the queue, unless it was called off, or tried too often.
    fn again(&mut self, cause: Cause, what: &str) {
        self.c.losses += 1;
        if self.c.cancel_requested_at.is_some() {
            self.call_off();
        } else if self.c.losses >= LOSSES_MAX {
            self.end(Cause::Silent, Some(format!("{what} {LOSSES_MAX} times")), None);
        } else if self.go(cause) {
            // It was sent once: from then on it no longer expires before it had a fair chance.
            self.c.expires_at = self.c.expires_at.max(self.now + SAFETY_MS);
            self.push_now();
        }
    }

    fn observe(&mut self, deed: &Deed) {
        match self.c.state {
            State::Sending => {
                // Whether a result counts depends on the `started` before it, which is itself only kept yet.
                let scan = matches!(deed, Deed::ScanPhase { .. } | Deed::ScanResults { .. });
                let concerns =
                    self.c.kind.spec().sign(self.c, deed) != Sign::None || (scan && self.c.kind.spec().exclusive());
                if concerns && self.c.notes.kept.len() < KEPT_MAX {
                    self.c.notes.kept.push((self.now, deed.clone()));
                }
            }
            State::Sent | State::Delivered | State::Running => self.deed(deed, self.now),
            _ => {}
        }
    }

    fn deed(&mut self, deed: &Deed, at: i64) {
        let sign = self.c.kind.spec().sign(self.c, deed);
        if matches!(deed, Deed::ScanResults { .. }) && self.c.kind.spec().exclusive() {
            self.c.notes.results_seen = true;
        }
        if sign == Sign::None {
            return;
        }
        self.c.last_sign_at = Some(at);
        match sign {
            Sign::None => {}
            Sign::Alive => self.watch(),
            Sign::Began => {
                if let Deed::ScanPhase { phase: ScanPhase::Started, host_ms, .. } = deed {
                    self.c.notes.scan_open = true;
                    self.c.notes.scan_started_host_ms = *host_ms;
                    self.c.notes.results_seen = false;
                }
                self.go(Cause::Began);
                self.watch();
            }
            Sign::Done(detail) => self.end(Cause::Done, None, Some((deed.name(), Some(detail)))),
            Sign::Broke(why) => {
                let evidence = Some((deed.name(), None));
                if self.c.cancel_requested_at.is_some() {
                    self.end(Cause::Stopped, None, evidence);
                } else {
                    self.end(Cause::Broke, Some(why), evidence);
                }
            }
        }
    }

    /// A deed after the end: noted, never moving anything.
    fn late(&mut self, deed: &Deed) {
        if self.c.state != State::Unconfirmed {
            return;
        }
        let (Sign::Done(detail) | Sign::Broke(detail)) = self.c.kind.spec().sign(self.c, deed) else {
            return;
        };
        let late = Evidence { deed: deed.name().to_owned(), at: self.now, detail: Some(detail), late: None };
        match &mut self.c.evidence {
            Some(evidence) if evidence.late.is_none() => evidence.late = Some(Box::new(late)),
            Some(_) => {}
            none => {
                *none = Some(Evidence {
                    deed: "none".to_owned(),
                    at: self.c.times.at(State::Unconfirmed).unwrap_or(self.now),
                    detail: None,
                    late: Some(Box::new(late)),
                });
            }
        }
    }

    /// When nothing more may be heard.
    fn deadline(&self) -> i64 {
        let spec = self.c.kind.spec();
        let times = &self.c.times;
        let begun = times.at(State::Sent).or(times.at(State::Delivered)).unwrap_or(self.now);
        let sign = [Some(begun), times.at(State::Delivered), times.at(State::Running), self.c.last_sign_at];
        let heard = sign.into_iter().flatten().max().unwrap_or(begun);
        let silent = heard + ms(spec.silence(self.host.generation_or_older()));
        match spec.lifetime() {
            Some(life) => silent.min(begun + ms(life)),
            None => silent,
        }
    }

    /// Sets the next look of a delivered or running row.
    fn watch(&mut self) {
        let mut at = self.deadline();
        if let Some(returned) = self.c.returned_at {
            at = at.min(returned + ms(RETURN_GRACE)).max(self.now + 1);
        }
        if self.c.cancel_requested_at.is_some() {
            at = at.min(self.now + CANCEL_AGAIN_MS);
        }
        self.check_at(at);
    }

    fn check(&mut self) {
        match self.c.state {
            State::Queued if self.now >= self.c.expires_at => {
                self.end(Cause::Overdue, Some("not sent within its time".to_owned()), None);
            }
            State::Queued => {
                self.step.push_at = Some(self.c.not_before.max(self.now));
                let at = self.c.not_before.max(self.now) + SAFETY_MS;
                self.check_at(at.min(self.c.expires_at));
            }
            State::Waiting if self.now >= self.c.expires_at => {
                self.end(Cause::Overdue, Some("the agent did not come within its time".to_owned()), None);
            }
            State::Waiting if self.host.connected => {
                self.go(Cause::Woken);
                self.push_now();
            }
            State::Waiting => self.check_at((self.now + SAFETY_MS).min(self.c.expires_at)),
            State::Sending => {
                self.step.asks.command = Some(Mode::Again);
                self.check_at(self.now + CLAIM_MS);
            }
            State::Sent | State::Delivered | State::Running => self.check_sent(),
            _ => {}
        }
    }

    fn check_sent(&mut self) {
        if self.now >= self.deadline() {
            let why = match self.c.state {
                State::Running => "began, then nothing more was heard of it",
                State::Delivered => "delivered, then nothing was heard of it",
                _ => "perhaps sent, then nothing was heard of it",
            };
            self.end(Cause::Silent, Some(why.to_owned()), None);
            return;
        }
        self.step.asks.cancel = self.c.cancel_requested_at.is_some() && self.c.kind.spec().cancel_frame().is_some();
        if self.c.state == State::Sent {
            self.step.asks.command = Some(Mode::Probe);
            let at = self.deadline().min(self.now + PROBE_MS);
            self.check_at(at);
            return;
        }
        if let Some(returned) = self.c.returned_at {
            let heard = self.c.last_sign_at.is_some_and(|at| at >= returned);
            if heard {
                self.c.returned_at = None;
            } else if self.now >= returned + ms(RETURN_GRACE) {
                self.again(Cause::NoSign, "no sign of it after the agent came back,");
                return;
            }
        }
        self.watch();
    }

    fn wake(&mut self, slot: i64) {
        match self.c.state {
            State::Waiting => {
                self.go(Cause::Woken);
                if self.c.kind.spec().paced() {
                    self.c.not_before = slot;
                }
                self.step.push_at = Some(self.c.not_before.max(self.now));
                let at = self.c.not_before.max(self.now) + SAFETY_MS;
                self.check_at(at.min(self.c.expires_at.max(self.now + 1)));
            }
            // The old connection may still be about to say what it knows.
            State::Sent => self.check_at(self.now + 1_000),
            State::Delivered | State::Running => {
                let spec = self.c.kind.spec();
                if spec.exclusive() && spec.repeatable(&self.c.payload) {
                    self.c.returned_at = Some(self.now);
                }
                if self.c.cancel_requested_at.is_some() {
                    self.step.push_at = Some(self.now);
                }
                self.watch();
            }
            _ => {}
        }
    }

    fn cancel(&mut self) {
        match self.c.state {
            State::Queued | State::Waiting => self.call_off(),
            State::Sending => self.c.cancel_requested_at = Some(self.c.cancel_requested_at.unwrap_or(self.now)),
            State::Sent | State::Delivered | State::Running if self.c.kind.spec().cancel_frame().is_some() => {
                self.c.cancel_requested_at = Some(self.c.cancel_requested_at.unwrap_or(self.now));
                self.step.push_at = Some(self.now);
                let at = self.c.next_check_at.unwrap_or(i64::MAX).min(self.now + CANCEL_AGAIN_MS);
                self.check_at(at);
            }
            _ => {}
        }
    }

    /// It is not on its way. One that was lost may be on the host all the same: nobody can stop that.
    fn call_off(&mut self) {
        let why = (self.c.losses > 0).then(|| "called off; an earlier attempt may have reached the host".to_owned());
        self.end(Cause::Stopped, why, None);
    }

    fn remove(&mut self) {
        let why = Some("host removed".to_owned());
        match self.c.state {
            State::Queued | State::Waiting => self.end(Cause::Stopped, why, None),
            _ => self.end(Cause::HostGone, why, None),
        }
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
