//! What all namespaces of a node take from, as bytes or places: an amount is asked for, and given or not. Whoever asks
//! gets what is free, but of the last eighth only who has less than its share: what one takes while it is alone leaves
//! room for who comes. Pure accounting in atomics; no lock but where a namespace is looked up.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

/// The part that is kept for who has less than its share, one part in.
const KEPT: u64 = 8;

/// Something of which there is so much, for all namespaces.
pub struct Shares {
    common: Arc<Common>,
    of: Mutex<HashMap<String, Weak<Share>>>,
}

struct Common {
    limit: u64,
    free: AtomicU64,
    /// Namespaces that could ask.
    known: AtomicU64,
    /// Those that have some.
    active: AtomicU64,
}

/// What one namespace has of it.
pub struct Share {
    common: Arc<Common>,
    held: AtomicU64,
}

impl Shares {
    /// So much for all.
    pub fn new(limit: u64) -> Self {
        let zero = || AtomicU64::new(0);
        let common = Common { limit, free: AtomicU64::new(limit), known: zero(), active: zero() };
        Self { common: Arc::new(common), of: Mutex::default() }
    }

    /// The share of a namespace: the same for all of its services.
    pub fn of(&self, namespace: &str) -> Arc<Share> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = of.get(namespace).and_then(Weak::upgrade) {
            return share;
        }
        of.retain(|_, share| share.strong_count() > 0);
        self.common.known.fetch_add(1, SeqCst);
        let share = Arc::new(Share { common: self.common.clone(), held: AtomicU64::new(0) });
        of.insert(namespace.to_owned(), Arc::downgrade(&share));
        share
    }

    /// How much there is.
    pub fn limit(&self) -> u64 {
        self.common.limit
    }

    /// How much of it somebody has.
    pub fn held(&self) -> u64 {
        self.common.limit - self.common.free.load(SeqCst)
    }
}

impl Share {
    /// Takes this much, or nothing.
    pub fn take(&self, amount: u64) -> bool {
        if amount == 0 {
            return true;
        }
        // First: of two that ask at once, each sees the other.
        let before = self.held.fetch_add(amount, SeqCst);
        if before == 0 {
            self.common.active.fetch_add(1, SeqCst);
        }
        let kept = if self.is_fair(before + amount) { 0 } else { self.common.limit / KEPT };
        let enough = |free: u64| free.checked_sub(amount).filter(|left| *left >= kept);
        let taken = self.common.free.try_update(SeqCst, SeqCst, enough).is_ok();
        if !taken {
            self.hold_less(amount);
        }
        taken
    }

    /// Gives back what was taken.
    pub fn give_back(&self, amount: u64) {
        if amount > 0 {
            self.hold_less(amount);
            self.common.free.fetch_add(amount, SeqCst);
        }
    }

    /// How much it has.
    pub fn held(&self) -> u64 {
        self.held.load(SeqCst)
    }

    /// Whether it has less than its share: an equal part for each that has some, and for one more that may come; or there
    /// is nobody else.
    pub fn is_below_its_share(&self) -> bool {
        self.is_fair(self.held() + 1)
    }

    fn is_fair(&self, held: u64) -> bool {
        let known = self.common.known.load(SeqCst);
        let sharers = known.min(self.common.active.load(SeqCst) + 1);
        known <= 1 || held <= self.common.limit / sharers.max(1)
    }

    fn hold_less(&self, amount: u64) {
        if self.held.fetch_sub(amount, SeqCst) == amount {
            self.common.active.fetch_sub(1, SeqCst);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.common.known.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares<const N: usize>(limit: u64) -> (Shares, [Arc<Share>; N]) {
        let shares = Shares::new(limit);
        let each = std::array::from_fn(|n| shares.of(&n.to_string()));
        (shares, each)
    }

    fn all_that_it_gets(share: &Share) -> u64 {
        (0..).find(|_| !share.take(1)).unwrap_or_default()
    }

    #[test]
    fn who_is_alone_takes_all() {
        let (shares, [only]) = shares(100);
        assert_eq!(all_that_it_gets(&only), 100);
        only.give_back(40);
        assert_eq!((shares.held(), only.held(), all_that_it_gets(&only)), (60, 60, 40));
    }

    #[test]
    fn who_comes_later_finds_room() {
        let (shares, [first, second, third]) = shares(80);
        assert_eq!(all_that_it_gets(&first), 70, "an eighth is left");
        assert!(!first.is_below_its_share() && second.is_below_its_share());
        assert_eq!(all_that_it_gets(&second), 10);
        assert!(!third.take(1), "nothing is taken away from who has it");
        first.give_back(40);
        assert!(!first.take(31) && first.take(30), "again it leaves an eighth");
        assert_eq!(all_that_it_gets(&third), 10);
        drop((first, second, third));
        assert_eq!(all_that_it_gets(&shares.of("another")), 0, "what was not given back is gone");
    }

    #[test]
    fn a_namespace_has_one_share_and_is_forgotten() {
        let shares = Shares::new(10);
        let one = shares.of("a");
        assert!(Arc::ptr_eq(&one, &shares.of("a")));
        let other = shares.of("b");
        assert!(one.take(6) && !one.take(4));
        drop(other);
        assert!(one.take(4), "nobody else is there");
    }

    proptest! {
        /// Whatever is asked for and given back: no more is out than there is, and who has less than its share is
        /// refused only when nothing is free.
        #[test]
        fn nothing_is_lost_and_nobody_is_kept_out(
            limit in 1..200u64,
            steps in prop::collection::vec((0..4usize, 0..40u64, any::<bool>()), 0..200),
        ) {
            let (shares, each) = shares::<4>(limit);
            let mut held = [0u64; 4];
            for (who, amount, takes) in steps {
                if takes {
                    let (free, share) = (limit - held.iter().sum::<u64>(), limit / 5);
                    let taken = each[who].take(amount);
                    prop_assert!(!taken || amount <= free);
                    prop_assert!(taken || amount > free || held[who] + amount > share, "kept out");
                    held[who] += if taken { amount } else { 0 };
                } else {
                    let amount = amount.min(held[who]);
                    each[who].give_back(amount);
                    held[who] -= amount;
                }
                prop_assert_eq!(shares.held(), held.iter().sum::<u64>());
                prop_assert!(each.iter().zip(held).all(|(share, held)| share.held() == held));
            }
        }
    }
}
