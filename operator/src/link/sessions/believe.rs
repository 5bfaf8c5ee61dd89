//! What is believed of what a shim counts. In: its message, and the stream that it came on; out: what of it counts.
//! Pure.

use podless_link::v1;

use super::{SessionKey, Sessions};

/// A shim can have this many times its budget in flight, and no more: while it changes, and with those that wait.
pub const BUDGETS: u32 = 4;

impl Sessions {
    /// Keeps what the shim may speak of, and no more in flight than it can have. Nothing when the stream is an old one.
    pub fn believe(&self, key: &SessionKey, load: &mut v1::Load) {
        load.services.retain_mut(|said| {
            let Some(most) = self.most_in_flight(key, &said.service_uid) else { return false };
            said.in_flight = said.in_flight.min(most);
            true
        });
    }

    /// How many requests to this service the shim can have in flight. `None` when it has no part in it: neither is the
    /// service assigned to it, beside others or not, nor was it told of it on this stream. What it says itself in Hello
    /// is no reason.
    fn most_in_flight(&self, key: &SessionKey, service: &str) -> Option<u32> {
        let shim = self.shims.get(&key.pod_uid).filter(|_| self.is_current(key))?;
        let assigned = self.services.get(service)?;
        let (budgets, beside) = (&assigned.budgets, || assigned.beside.get(&key.pod_uid));
        // Who was told may still serve what has moved.
        let moved = || budgets.values().max().filter(|_| shim.told.contains_key(service));
        let budget = budgets.get(&key.pod_uid).or_else(moved).or_else(beside)?;
        Some(budget.saturating_mul(BUDGETS))
    }
}
