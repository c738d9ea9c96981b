//! Failed logins an address may have. A place is taken before the password is checked and given back when it was right,
//! so many guesses at once are as many as one after the other.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(60);

/// Addresses remembered before those that can be forgotten are looked for.
const SWEEP_ABOVE: usize = 1_024;

/// So many a minute for each address; they come back one by one.
pub struct LoginFailures {
    /// One more is allowed after so long.
    each: Duration,
    /// When an address has its whole allowance again.
    full_at: Mutex<HashMap<IpAddr, Instant>>,
}

impl LoginFailures {
    /// `per_min`, one at least.
    #[must_use]
    pub fn new(per_min: u32) -> Self {
        Self { each: WINDOW / per_min.max(1), full_at: Mutex::default() }
    }

    /// Takes a place for an attempt.
    ///
    /// # Errors
    /// How long until there is one.
    pub fn take(&self, address: IpAddr) -> Result<(), Duration> {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        if full_at.len() > SWEEP_ABOVE {
            full_at.retain(|_, at| *at > now);
        }
        let at = full_at.get(&network(address)).copied().unwrap_or(now).max(now) + self.each;
        let wait = at.saturating_duration_since(now + WINDOW);
        // The division rounds: less than a whole place is rounding.
        if wait > Duration::from_millis(1) {
            return Err(wait);
        }
        full_at.insert(network(address), at);
        Ok(())
    }

    /// Gives it back: the attempt was no failure.
    pub fn give_back(&self, address: IpAddr) {
        if let Some(at) = self.full_at.lock().get_mut(&network(address)) {
            *at = at.checked_sub(self.each).unwrap_or(*at);
        }
    }
}

/// Whoever has one IPv6 address has the 2^64 of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let s = v6.segments();
            Ipv6Addr::new(s[0], s[1], s[2], s[3], 0, 0, 0, 0).into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_are_counted_and_forgotten() {
        let limit = LoginFailures::new(7);
        let (one, other): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..7 {
            assert!(limit.take(one).is_ok());
        }
        assert!(limit.take(one).unwrap_err() > Duration::from_secs(8));
        assert!(limit.take(other).is_ok());
        limit.give_back(one);
        assert!(limit.take(one).is_ok(), "what was no failure does not count");
        assert!(limit.take(one).is_err());
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(limit.take(one).is_ok());
        assert!(limit.take(one).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_ipv6_is_one_address() {
        let limit = LoginFailures::new(1);
        assert!(limit.take("2001:db8::1".parse().unwrap()).is_ok());
        assert!(limit.take("2001:db8::2".parse().unwrap()).is_err());
        assert!(limit.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
    }
}
