//! The life cycle as one table. It is the only place that knows which moves exist.

use serde::{Deserialize, Serialize};

/// Where a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Will be tried as soon as its turn comes.
    Queued,
    /// Its agent is offline; the agent's next connect wakes it.
    Waiting,
    /// An attempt is under way; whether the frame was written is not known yet.
    Sending,
    /// Written, or perhaps written; not proved read.
    Sent,
    /// The agent's process has read it.
    Delivered,
    /// The host began.
    Running,
    /// The host did it.
    Succeeded,
    /// The host said that it could not, or it could not be asked.
    Failed,
    /// Called off before it ran, or stopped.
    Cancelled,
    /// Nothing more was heard within its silence.
    Unconfirmed,
    /// Not sent within its time.
    Expired,
}

impl State {
    /// All of them, in the order of a life.
    pub const ALL: [Self; 11] = [
        Self::Queued,
        Self::Waiting,
        Self::Sending,
        Self::Sent,
        Self::Delivered,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Unconfirmed,
        Self::Expired,
    ];

    /// The name in rows, answers and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unconfirmed => "unconfirmed",
            Self::Expired => "expired",
        }
    }

    /// Reads a name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.name() == name)
    }

    /// True for the five that no move leaves.
    #[must_use]
    pub fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Unconfirmed | Self::Expired)
    }

    /// True while the command may be on the host: it holds the host's one place for a scan.
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Sending | Self::Sent | Self::Delivered | Self::Running)
    }
}

/// Why a command moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A worker begins an attempt.
    Taken,
    /// Nothing to do on this host.
    NothingToDo,
    /// The host cannot be asked for it.
    CannotRun,
    /// Nobody holds the agent.
    NotHeld,
    /// Known not written: busy, superseded, or the agent came meanwhile.
    Refused,
    /// Written, or perhaps written.
    Written,
    /// A pong proved that it was read.
    Proved,
    /// The connection is gone and read nothing for sure.
    Lost,
    /// The agent came back and says nothing of it.
    NoSign,
    /// The agent connected.
    Woken,
    /// The host began.
    Began,
    /// The host did it.
    Done,
    /// The host failed at it.
    Broke,
    /// Called off.
    Stopped,
    /// Past its silence, or tried too often.
    Silent,
    /// Past its time.
    Overdue,
    /// The host was removed.
    HostGone,
}

use State::{Cancelled, Delivered, Expired, Failed, Queued, Running, Sending, Sent, Succeeded, Unconfirmed, Waiting};

/// The machine: cause, from, to.
pub const MOVES: &[(Cause, &[State], State)] = &[
    (Cause::Taken, &[Queued], Sending),
    (Cause::NothingToDo, &[Queued], Succeeded),
    (Cause::CannotRun, &[Queued], Failed),
    (Cause::NotHeld, &[Sending], Waiting),
    (Cause::Refused, &[Sending], Queued),
    (Cause::Written, &[Sending], Sent),
    (Cause::Proved, &[Sending, Sent], Delivered),
    (Cause::Lost, &[Sent], Queued),
    (Cause::NoSign, &[Delivered, Running], Queued),
    (Cause::Woken, &[Waiting], Queued),
    (Cause::Began, &[Sent, Delivered], Running),
    (Cause::Done, &[Sent, Delivered, Running], Succeeded),
    (Cause::Broke, &[Sent, Delivered, Running], Failed),
    (Cause::Stopped, &[Queued, Waiting, Sending, Sent, Delivered, Running], Cancelled),
    (Cause::Silent, &[Sent, Delivered, Running], Unconfirmed),
    (Cause::Overdue, &[Queued, Waiting, Sending], Expired),
    (Cause::HostGone, &[Sending, Sent, Delivered, Running], Unconfirmed),
];

/// Where `cause` leads from `from`; `None` when it moves nothing there.
#[must_use]
pub fn next(cause: Cause, from: State) -> Option<State> {
    MOVES.iter().find(|(c, froms, _)| *c == cause && froms.contains(&from)).map(|(_, _, to)| *to)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_move_leaves_an_end_and_every_other_state_has_a_way_out() {
        for from in State::ALL {
            let ways = MOVES.iter().filter(|(_, froms, _)| froms.contains(&from)).count();
            assert_eq!(ways == 0, from.is_end(), "{from:?}");
        }
    }

    #[test]
    fn each_cause_has_one_row() {
        for (i, (cause, _, _)) in MOVES.iter().enumerate() {
            assert!(MOVES[..i].iter().all(|(other, _, _)| other != cause), "{cause:?}");
        }
    }

    /// All pairs of states, against a drawing of the machine made by hand.
    #[test]
    fn exactly_the_drawn_pairs_are_connected() {
        let drawn = "queued>sending queued>succeeded queued>failed queued>cancelled queued>expired \
            waiting>queued waiting>cancelled waiting>expired \
            sending>waiting sending>queued sending>sent sending>delivered sending>cancelled sending>expired \
            sending>unconfirmed \
            sent>delivered sent>queued sent>running sent>succeeded sent>failed sent>cancelled sent>unconfirmed \
            delivered>queued delivered>running delivered>succeeded delivered>failed delivered>cancelled \
            delivered>unconfirmed \
            running>queued running>succeeded running>failed running>cancelled running>unconfirmed";
        let drawn: Vec<&str> = drawn.split_whitespace().collect();
        for from in State::ALL {
            for to in State::ALL {
                let pair = format!("{}>{}", from.name(), to.name());
                let moves = MOVES.iter().any(|(_, froms, t)| *t == to && froms.contains(&from));
                assert_eq!(moves, drawn.contains(&pair.as_str()), "{pair}");
            }
        }
    }

    #[test]
    fn names_read_back() {
        for state in State::ALL {
            assert_eq!(State::of_name(state.name()), Some(state));
        }
    }
}
