//! What an agent can be told to do wrong. Each is something real fleets do to a gateway.

use std::{fmt, str::FromStr, time::Duration};

/// How an agent's end of a TCP connection goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hangup {
    /// FIN without a close frame, as a process that ends.
    Fin,
    /// RST, as a host that lost its state.
    Reset,
}

/// One agent's bad habit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Reads and pongs, but never acts on a command.
    Silent,
    /// Reads, and neither pongs nor acts. Its own pings go on.
    Deaf,
    /// Answers every ping only after this.
    LatePongs(Duration),
    /// Stops reading its socket for this long after every command, as behind a blocked inbox (protocol 6-3).
    SlowReader(Duration),
    /// Hangs up after this many commands on one connection.
    DropAfter(u32, Hangup),
    /// Hangs up this long after every upgrade.
    Flap(Duration),
    /// Every scan ends in a result with status failed.
    ScanFails,
    /// The socket is lost in the middle of the first scan; the scan goes on and its result is posted (protocol 1.4).
    DropMidScan,
    /// The process restarts between `started` and the result of its first scan: that scan never has a result.
    RestartMidScan,
    /// The process dies when two terminals have output at once, as 1.4 agents do (protocol 6-4).
    ConcurrentWrite,
}

const DEFAULT_SECS: u64 = 30;
const DEFAULT_FRAMES: u64 = 3;

impl FromStr for Misbehaviour {
    type Err = String;

    /// `name` or `name:number`; the number is seconds, of `drop-after` and `reset-after` commands.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, number) = match text.split_once(':') {
            None => (text, None),
            Some((name, number)) => {
                let number: u64 = number.parse().map_err(|_| format!("{text:?}: {number:?} is no whole number"))?;
                (name, Some(number))
            }
        };
        let seconds = Duration::from_secs(number.unwrap_or(DEFAULT_SECS));
        let frames = u32::try_from(number.unwrap_or(DEFAULT_FRAMES)).unwrap_or(u32::MAX);
        let habit = match name {
            "late-pongs" => Self::LatePongs(seconds),
            "slow-reader" => Self::SlowReader(seconds),
            "drop-after" => Self::DropAfter(frames, Hangup::Fin),
            "reset-after" => Self::DropAfter(frames, Hangup::Reset),
            "flap" => Self::Flap(seconds),
            _ if number.is_some() => {
                return Err(format!("{name:?} takes no number, or is not known"));
            }
            "silent" => Self::Silent,
            "deaf" => Self::Deaf,
            "scan-fails" => Self::ScanFails,
            "drop-mid-scan" => Self::DropMidScan,
            "restart-mid-scan" => Self::RestartMidScan,
            "concurrent-write" => Self::ConcurrentWrite,
            _ => {
                return Err(format!(
                    "unknown misbehaviour {name:?}; known are silent, deaf, late-pongs, slow-reader, drop-after, \
                     reset-after, flap, scan-fails, drop-mid-scan, restart-mid-scan, concurrent-write"
                ));
            }
        };
        Ok(habit)
    }
}

impl fmt::Display for Misbehaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => f.write_str("silent"),
            Self::Deaf => f.write_str("deaf"),
            Self::LatePongs(delay) => write!(f, "late-pongs:{}", delay.as_secs()),
            Self::SlowReader(pause) => write!(f, "slow-reader:{}", pause.as_secs()),
            Self::DropAfter(frames, Hangup::Fin) => write!(f, "drop-after:{frames}"),
            Self::DropAfter(frames, Hangup::Reset) => write!(f, "reset-after:{frames}"),
            Self::Flap(after) => write!(f, "flap:{}", after.as_secs()),
            Self::ScanFails => f.write_str("scan-fails"),
            Self::DropMidScan => f.write_str("drop-mid-scan"),
            Self::RestartMidScan => f.write_str("restart-mid-scan"),
            Self::ConcurrentWrite => f.write_str("concurrent-write"),
        }
    }
}

/// How many agents of a fleet have which habit: `silent=5,slow-reader:20=2`. The first agents get them, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mix(pub Vec<(Misbehaviour, usize)>);

impl Mix {
    /// The habit of agent number `index`, if it has one.
    pub fn of(&self, index: usize) -> Option<Misbehaviour> {
        let mut first = 0;
        for (habit, count) in &self.0 {
            if index < first + count {
                return Some(*habit);
            }
            first += count;
        }
        None
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.split(',')
            .map(|part| {
                let (habit, count) =
                    part.split_once('=').ok_or_else(|| format!("{part:?}: write NAME=COUNT, for example silent=5"))?;
                let count = count.parse().map_err(|_| format!("{part:?}: {count:?} is no number of agents"))?;
                Ok((habit.trim().parse()?, count))
            })
            .collect::<Result<Vec<_>, String>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_names_its_agents_in_order() {
        let mix: Mix = "silent=2,drop-after:7=1,slow-reader=1".parse().unwrap();
        assert_eq!(mix.of(0), Some(Misbehaviour::Silent));
        assert_eq!(mix.of(1), Some(Misbehaviour::Silent));
        assert_eq!(mix.of(2), Some(Misbehaviour::DropAfter(7, Hangup::Fin)));
        assert_eq!(mix.of(3), Some(Misbehaviour::SlowReader(Duration::from_secs(30))));
        assert_eq!(mix.of(4), None);
    }

    #[test]
    fn a_wrong_mix_says_what_is_wrong() {
        for (text, wanted) in [
            ("silent", "NAME=COUNT"),
            ("lazy=3", "unknown misbehaviour"),
            ("silent:3=3", "takes no number"),
            ("flap:x=3", "no whole number"),
            ("silent=x", "no number of agents"),
        ] {
            let error = text.parse::<Mix>().unwrap_err();
            assert!(error.contains(wanted), "{text}: {error}");
        }
    }

    #[test]
    fn every_habit_reads_back_what_it_prints() {
        for text in [
            "silent",
            "deaf",
            "late-pongs:40",
            "slow-reader:9",
            "drop-after:4",
            "reset-after:4",
            "flap:2",
            "scan-fails",
            "drop-mid-scan",
            "restart-mid-scan",
            "concurrent-write",
        ] {
            assert_eq!(text.parse::<Misbehaviour>().unwrap().to_string(), text);
        }
    }
}
