//! How full the node's memory really is: resident bytes in, whether a namespace gets more linear memory out. Linear memory
//! is not resident before it is written to, and what small instances write to is not counted: this is what holds when many
//! of them do so at once. No IO.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
};

/// Parts of a hundred of the limit above which only namespaces get more that have no more than others, and above which
/// none does. The rest is for what is not in the process: sockets, page tables.
const HIGH: u64 = 80;
const FULL: u64 = 90;

/// What is known of it.
pub(crate) struct Pressure {
    limit: u64,
    level: AtomicU8,
    namespaces: Mutex<HashMap<String, Weak<Tenant>>>,
}

/// A namespace.
#[derive(Default)]
pub(crate) struct Tenant {
    /// Linear memory of each of its services.
    services: Mutex<Vec<Weak<AtomicU64>>>,
    /// It has more than the mean of those that have some.
    has_much: AtomicBool,
}

impl Pressure {
    /// Of a node with so many bytes.
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, level: AtomicU8::new(0), namespaces: Mutex::default() }
    }

    /// A namespace, which has a service whose instances have so many bytes.
    pub(crate) fn tenant(&self, namespace: &str, bytes: &Arc<AtomicU64>) -> Arc<Tenant> {
        let mut namespaces = locked(&self.namespaces);
        let tenant = namespaces.get(namespace).and_then(Weak::upgrade).unwrap_or_else(|| {
            namespaces.retain(|_, tenant| tenant.strong_count() > 0);
            let tenant = Arc::new(Tenant::default());
            namespaces.insert(namespace.to_owned(), Arc::downgrade(&tenant));
            tenant
        });
        let mut services = locked(&tenant.services);
        services.retain(|service| service.strong_count() > 0);
        services.push(Arc::downgrade(bytes));
        drop(services);
        tenant
    }

    /// So many bytes are resident now. Whether it is worth looking often.
    pub(crate) fn look(&self, resident: u64) -> bool {
        let part = resident.saturating_mul(100) / self.limit.max(1);
        if (HIGH..FULL).contains(&part) {
            self.compare();
        }
        self.level.store(if part >= FULL { 2 } else { u8::from(part >= HIGH) }, Relaxed);
        part >= HIGH / 2
    }

    /// Whether a namespace may have more.
    pub(crate) fn allows(&self, tenant: &Tenant) -> bool {
        match self.level.load(Relaxed) {
            0 => true,
            1 => !tenant.has_much.load(Relaxed),
            _ => false,
        }
    }

    fn compare(&self) {
        let tenants: Vec<_> = locked(&self.namespaces).values().filter_map(Weak::upgrade).collect();
        let each: Vec<_> = tenants.into_iter().map(|tenant| (tenant.bytes(), tenant)).collect();
        let some = each.iter().filter(|(bytes, _)| *bytes > 0).count() as u64;
        let mean = each.iter().map(|(bytes, _)| bytes).sum::<u64>() / some.max(1);
        each.into_iter().for_each(|(bytes, tenant)| tenant.has_much.store(bytes > mean, Relaxed));
    }
}

impl Tenant {
    fn bytes(&self) -> u64 {
        locked(&self.services).iter().filter_map(Weak::upgrade).map(|bytes| bytes.load(Relaxed)).sum()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fuller_it_is_the_fewer_get_more() {
        let pressure = Pressure::new(1000);
        let bytes = [250u64, 250, 100, 0].map(|bytes| Arc::new(AtomicU64::new(bytes)));
        let tenants = ["large", "large", "small", "none"];
        let tenants: Vec<_> = tenants.iter().zip(&bytes).map(|(name, bytes)| pressure.tenant(name, bytes)).collect();
        assert!(Arc::ptr_eq(&tenants[0], &tenants[1]));
        for (resident, often, allowed) in [
            (0, false, [true; 3]),
            (399, false, [true; 3]),
            (400, true, [true; 3]),
            (800, true, [false, true, true]),
            (900, true, [false; 3]),
            (799, true, [true; 3]),
        ] {
            assert_eq!(pressure.look(resident), often, "{resident}");
            let allows = [1, 2, 3].map(|tenant| pressure.allows(&tenants[tenant]));
            assert_eq!(allows, allowed, "{resident}");
        }
        bytes[2].store(0, Relaxed);
        pressure.look(850);
        assert!(pressure.allows(&tenants[0]), "it is alone: there is nobody to leave room for");
    }
}
