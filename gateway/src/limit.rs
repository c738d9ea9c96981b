//! How often something may happen to each of many: a full allowance at first, then one more every so often.
//!
//! A place is taken before the work and may be given back after it, so that what went well costs nothing while what is
//! under way already counts.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Keys that are remembered at most. Above it those that are not known are refused: it takes as many failing addresses
/// within a minute to get there.
const KEYS_MAX: usize = 1 << 17;
/// Keys before the first look for those that can be forgotten.
const FIRST_SWEEP: usize = 1 << 10;
/// Between two of them.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// So many a window for each key.
pub struct Limit<K> {
    /// One more is allowed after so long.
    each: Duration,
    window: Duration,
    taken: Mutex<Taken<K>>,
}

struct Taken<K> {
    /// When the key's whole allowance is there again.
    full_at: HashMap<K, Instant>,
    sweep_at: usize,
    not_before: Instant,
}

impl<K: Eq + Hash + Clone> Limit<K> {
    /// `count` (one at least) a `window`.
    pub fn new(count: u32, window: Duration) -> Self {
        let taken = Taken { full_at: HashMap::new(), sweep_at: FIRST_SWEEP, not_before: Instant::now() };
        Self { each: window / count.max(1), window, taken: Mutex::new(taken) }
    }

    /// Takes one place.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, key: &K) -> Result<(), Duration> {
        self.take_at(key, Instant::now())
    }

    fn take_at(&self, key: &K, now: Instant) -> Result<(), Duration> {
        let mut taken = self.taken.lock();
        taken.sweep(now);
        let known = taken.full_at.get(key).copied();
        if known.is_none() && taken.full_at.len() >= KEYS_MAX {
            return Err(self.each);
        }
        let full_at = known.unwrap_or(now).max(now) + self.each;
        let wait = full_at.saturating_duration_since(now + self.window);
        // `window / count` rounds down: less than a whole place is rounding.
        if wait > Duration::from_millis(1) {
            return Err(wait);
        }
        taken.full_at.insert(key.clone(), full_at);
        Ok(())
    }

    /// Gives one back.
    pub fn give_back(&self, key: &K) {
        if let Some(full_at) = self.taken.lock().full_at.get_mut(key) {
            *full_at = full_at.checked_sub(self.each).unwrap_or(*full_at);
        }
    }
}

impl<K> Taken<K> {
    /// Forgets whose allowance is whole again, each time there are twice as many as the last time left, and not more
    /// than once a second.
    fn sweep(&mut self, now: Instant) {
        if self.full_at.len() >= self.sweep_at && now >= self.not_before {
            self.not_before = now + SWEEP_PAUSE;
            self.full_at.retain(|_, full_at| *full_at > now);
            self.sweep_at = (self.full_at.len() * 2).clamp(FIRST_SWEEP, KEYS_MAX);
        }
    }
}

/// Whose allowance an address uses. Whoever has one IPv6 address has the 2^64 of its network.
pub fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            IpAddr::V6(Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn the_allowance_is_used_up_and_comes_back() {
        let (limit, now) = (Limit::new(7, MINUTE), Instant::now());
        let whole = |at| (0..7).all(|_| limit.take_at(&1, at).is_ok());
        assert!(whole(now));
        let wait = limit.take_at(&1, now).unwrap_err();
        assert!(wait > Duration::from_secs(8) && wait < Duration::from_secs(9), "{wait:?}");
        assert!(limit.take_at(&2, now).is_ok(), "another key has its own");
        let later = now + wait;
        assert!(limit.take_at(&1, later).is_ok());
        assert!(limit.take_at(&1, later).is_err());
        assert!(whole(later + MINUTE));
    }

    #[test]
    fn what_is_given_back_does_not_count() {
        let (limit, now) = (Limit::new(2, MINUTE), Instant::now());
        for _ in 0..1_000 {
            assert!(limit.take_at(&1, now).is_ok());
            limit.give_back(&1);
        }
        assert!(limit.take_at(&1, now).is_ok());
        assert!(limit.take_at(&1, now).is_ok());
        assert!(limit.take_at(&1, now).is_err());
        limit.give_back(&9);
    }

    #[test]
    fn those_with_their_whole_allowance_are_forgotten() {
        let (limit, now) = (Limit::new(60, MINUTE), Instant::now());
        for key in 0..FIRST_SWEEP {
            assert!(limit.take_at(&key, now).is_ok());
        }
        assert!(limit.take_at(&usize::MAX, now + MINUTE).is_ok());
        assert_eq!(limit.taken.lock().full_at.len(), 1);
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_those_known_keep_theirs() {
        let (limit, now) = (Limit::new(60, MINUTE), Instant::now());
        for key in 0..KEYS_MAX + 5 {
            assert_eq!(limit.take_at(&key, now).is_ok(), key < KEYS_MAX);
        }
        assert!(limit.take_at(&0, now).is_ok());
        assert_eq!(limit.taken.lock().full_at.len(), KEYS_MAX);
    }

    #[test]
    fn a_network_of_ipv6_shares_one_allowance() {
        let whose_of = |text: &str| whose(text.parse().unwrap()).to_string();
        assert_eq!(whose_of("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(whose_of("::ffff:192.0.2.7"), "192.0.2.7");
        assert_eq!(whose_of("192.0.2.7"), "192.0.2.7");
    }
}
