//! Whose component is compiled next. In: who waits, and for what; out: turns. Only `take` and `ended` wait.
//!
//! - Tenants, which are namespaces, take turns, and of one the first that came is first: nobody waits for all that another
//!   has.
//! - Of those that want the same one compiles it; the others wait without a turn, and share what becomes of it.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{oneshot, watch};

use super::child::CompileError;

/// Those that wait, by tenant.
struct Queue<T>(VecDeque<(String, VecDeque<T>)>);

impl<T> Queue<T> {
    fn push(&mut self, tenant: &str, waiter: T) {
        match self.0.iter_mut().find(|(name, _)| name == tenant) {
            Some((_, line)) => line.push_back(waiter),
            None => self.0.push_back((tenant.to_owned(), [waiter].into())),
        }
    }

    /// The first of the tenant whose turn is longest ago.
    fn pop(&mut self) -> Option<T> {
        let (tenant, mut line) = self.0.pop_front()?;
        let next = line.pop_front();
        if !line.is_empty() {
            self.0.push_back((tenant, line));
        }
        next
    }

    fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        for (_, line) in &mut self.0 {
            line.retain(&keep);
        }
        self.0.retain(|(_, line)| !line.is_empty());
    }
}

struct State {
    free: usize,
    waiting: Queue<oneshot::Sender<Turn>>,
}

/// So many turns at once.
pub(super) struct Turns(Arc<Mutex<State>>);

/// A turn; the next one's begins when it is dropped.
pub(super) struct Turn(Arc<Mutex<State>>);

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: at_once.max(1), waiting: Queue(VecDeque::new()) })))
    }

    /// Waits for a turn.
    pub(super) async fn take(&self, tenant: &str) -> Result<Turn, CompileError> {
        let turn = {
            let mut state = lock(&self.0);
            if state.free > 0 {
                state.free -= 1;
                return Ok(Turn(self.0.clone()));
            }
            let (give, turn) = oneshot::channel();
            state.waiting.push(tenant, give);
            turn
        };
        turn.await.map_err(|error| CompileError::Broken(error.to_string()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let next = {
            let mut state = lock(&self.0);
            state.waiting.retain(|waiter| !waiter.is_closed());
            let next = state.waiting.pop();
            state.free += usize::from(next.is_none());
            next
        };
        // If that one is gone by now, its turn is dropped in turn.
        if let Some(next) = next {
            let _ = next.send(Self(self.0.clone()));
        }
    }
}

type UnderWay<K> = Arc<Mutex<HashMap<K, watch::Receiver<Option<CompileError>>>>>;

/// What is being compiled.
pub(super) struct Flights<K>(UnderWay<K>);

/// One compilation. It ends when it is dropped.
pub(super) struct Flight<K: Eq + Hash> {
    key: K,
    all: UnderWay<K>,
    say: watch::Sender<Option<CompileError>>,
}

/// Another's compilation.
pub(super) struct Other(watch::Receiver<Option<CompileError>>);

impl<K: Eq + Hash + Clone> Flights<K> {
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Who compiles this now.
    pub(super) fn other(&self, key: &K) -> Option<Other> {
        lock(&self.0).get(key).cloned().map(Other)
    }

    /// Begins, unless another does it now.
    pub(super) fn begin(&self, key: &K) -> Result<Flight<K>, Other> {
        let mut all = lock(&self.0);
        if let Some(other) = all.get(key) {
            return Err(Other(other.clone()));
        }
        let (say, hear) = watch::channel(None);
        all.insert(key.clone(), hear);
        Ok(Flight { key: key.clone(), all: self.0.clone(), say })
    }
}

impl<K: Eq + Hash> Flight<K> {
    /// Tells those who wait that it cannot be compiled. What is not the component's fault they try themselves.
    pub(super) fn failed(&self, error: &CompileError) {
        if !matches!(error, CompileError::Broken(_)) {
            self.say.send_replace(Some(error.clone()));
        }
    }
}

impl<K: Eq + Hash> Drop for Flight<K> {
    fn drop(&mut self) {
        lock(&self.all).remove(&self.key);
    }
}

impl Other {
    /// Waits until it has ended; an error when it cannot be compiled.
    pub(super) async fn ended(mut self) -> Result<(), CompileError> {
        while self.0.changed().await.is_ok() {}
        self.0.borrow().clone().map_or(Ok(()), Err)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn tenants_take_turns_and_each_keeps_its_order() {
        let mut queue = Queue(VecDeque::new());
        for (tenant, waiter) in [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")] {
            queue.push(tenant, waiter);
        }
        let mut order = vec![queue.pop(), queue.pop()];
        queue.push("d", "d1");
        queue.retain(|waiter| *waiter != "a2");
        order.extend(std::iter::from_fn(|| queue.pop()).map(Some));
        assert_eq!(order.into_iter().flatten().collect::<Vec<_>>(), ["a1", "b1", "c1", "a3", "b2", "d1"]);
    }

    proptest! {
        /// Between two turns of one tenant every other that waits has one.
        #[test]
        fn nobody_is_passed_over_twice(waiters in proptest::collection::vec(0u8..5, 1..60)) {
            let mut queue = Queue(VecDeque::new());
            for (n, tenant) in waiters.iter().enumerate() {
                queue.push(&tenant.to_string(), (*tenant, n));
            }
            let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            prop_assert_eq!(order.len(), waiters.len());
            for (at, (tenant, n)) in order.iter().enumerate() {
                let rest = &order[at + 1..];
                let Some(again) = rest.iter().position(|(other, _)| other == tenant) else { continue };
                prop_assert!(rest[again].1 > *n, "first come, first served");
                for other in rest[again..].iter().map(|(other, _)| other).filter(|other| *other != tenant) {
                    prop_assert!(rest[..again].iter().any(|(between, _)| between == other), "{:?}", order);
                }
            }
        }
    }

    #[tokio::test]
    async fn a_turn_goes_on_to_who_still_waits() {
        let turns = Turns::new(2);
        let (one, two) = (turns.take("a").await, turns.take("a").await);
        let mut gone = Box::pin(turns.take("a"));
        let mut mine = Box::pin(turns.take("b"));
        assert!((&mut gone).now_or_never().is_none() && (&mut mine).now_or_never().is_none());
        drop(gone);
        drop(one);
        let three = mine.await;
        assert!(turns.take("a").now_or_never().is_none(), "two are taken");
        drop((two, three));
        assert!(turns.take("a").now_or_never().is_some() && turns.take("a").now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_wants_the_same_shares_what_becomes_of_it() {
        let flights = Flights::new();
        let flight = flights.begin(&1).ok().expect("nobody else");
        assert!(flights.other(&2).is_none());
        let other = flights.begin(&1).err().expect("another");
        flight.failed(&CompileError::Broken("no disk".to_owned()));
        drop(flight);
        assert!(other.ended().await.is_ok(), "it is tried again");
        let flight = flights.begin(&1).ok().expect("nobody else any more");
        let other = flights.other(&1).expect("another");
        flight.failed(&CompileError::Code);
        drop(flight);
        assert!(matches!(other.ended().await, Err(CompileError::Code)));
    }
}
