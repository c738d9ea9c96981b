//! What was told last of each command, for a while: what several processes tell may come in another order than it
//! happened.

use std::collections::HashMap;

use schemas::event::Order;
use uuid::Uuid;

/// Commands of one generation; two are remembered.
const GENERATION: usize = 32_768;

/// The newest of each command that was told of lately.
#[derive(Debug, Default)]
pub struct Newest {
    young: HashMap<Uuid, i64>,
    old: HashMap<Uuid, i64>,
}

impl Newest {
    /// Notes it, unless something newer was told already.
    pub fn is_news(&mut self, order: Order) -> bool {
        let told = self.young.get(&order.of).or_else(|| self.old.get(&order.of));
        if told.is_some_and(|told| *told > order.n) {
            return false;
        }
        if self.young.len() >= GENERATION && !self.young.contains_key(&order.of) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(order.of, order.n);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(of: u128, n: i64) -> Order {
        Order { of: Uuid::from_u128(of), n }
    }

    #[test]
    fn what_is_older_than_what_was_told_is_no_news() {
        let mut newest = Newest::default();
        assert!(newest.is_news(order(1, 5)));
        assert!(!newest.is_news(order(1, 4)));
        assert!(newest.is_news(order(2, 4)));
        assert!(newest.is_news(order(1, 5)), "the same again");
        assert!(newest.is_news(order(1, 6)));
    }

    #[test]
    fn it_remembers_a_bounded_number() {
        let mut newest = Newest::default();
        for n in 0..200_000 {
            assert!(newest.is_news(order(n, 1)));
        }
        assert!(newest.young.len() + newest.old.len() <= 2 * GENERATION);
        assert!(!newest.is_news(order(199_999, 0)));
    }
}
