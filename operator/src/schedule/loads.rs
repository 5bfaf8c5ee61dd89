//! What the services have been given of each node. In: places as they are planned; out: what is taken by all but one.
//! Pure.

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Add, Sub},
};

/// What replicas take of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Requests in flight.
    pub slots: u64,
    /// Thousandths of a CPU.
    pub cpu_millis: u64,
    /// Bytes of memory.
    pub memory: u64,
}

impl Cost {
    /// Of that many replicas.
    #[must_use]
    pub fn times(self, replicas: u32) -> Self {
        let times = |one: u64| one.saturating_mul(u64::from(replicas));
        Self { slots: times(self.slots), cpu_millis: times(self.cpu_millis), memory: times(self.memory) }
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_add(other.slots),
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory: self.memory.saturating_add(other.memory),
        }
    }
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            slots: self.slots.saturating_sub(other.slots),
            cpu_millis: self.cpu_millis.saturating_sub(other.cpu_millis),
            memory: self.memory.saturating_sub(other.memory),
        }
    }
}

/// What every service takes, by node.
#[derive(Debug, Default)]
pub struct Loads {
    by_node: BTreeMap<String, Cost>,
    by_service: HashMap<String, BTreeMap<String, Cost>>,
}

impl Loads {
    /// The service takes this from now on.
    pub fn set(&mut self, service: &str, places: BTreeMap<String, Cost>) {
        self.release(service);
        for (node, cost) in &places {
            let load = self.by_node.entry(node.clone()).or_default();
            *load = *load + *cost;
        }
        self.by_service.insert(service.to_owned(), places);
    }

    /// What all services take, by node.
    pub fn all(&self) -> &BTreeMap<String, Cost> {
        &self.by_node
    }

    /// What a service takes, by node.
    pub fn of(&self, service: &str) -> Option<&BTreeMap<String, Cost>> {
        self.by_service.get(service)
    }

    /// What all services but this one take, by node.
    pub fn without(&self, service: &str) -> BTreeMap<String, Cost> {
        let mut loads = self.by_node.clone();
        for (node, cost) in self.by_service.get(service).into_iter().flatten() {
            if let Some(load) = loads.get_mut(node) {
                *load = *load - *cost;
            }
        }
        loads
    }

    /// The service is gone.
    pub fn release(&mut self, service: &str) {
        for (node, cost) in self.by_service.remove(service).into_iter().flatten() {
            if let Some(load) = self.by_node.get_mut(&node) {
                *load = *load - cost;
                if *load == Cost::default() {
                    self.by_node.remove(&node);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_map, prelude::*};

    fn cost(slots: u64) -> Cost {
        Cost { slots, cpu_millis: slots * 2, memory: slots * 3 }
    }

    proptest! {
        #[test]
        fn what_the_others_take(steps in proptest::collection::vec(("[a-d]", btree_map("[x-z]", 1..9u64, 0..4)), 0..40)) {
            let (mut loads, mut model) = (Loads::default(), BTreeMap::new());
            for (service, places) in steps {
                if places.is_empty() {
                    loads.release(&service);
                    model.remove(&service);
                } else {
                    loads.set(&service, places.iter().map(|(node, n)| (node.clone(), cost(*n))).collect());
                    model.insert(service, places);
                }
                for but in ["a", "b", "nobody"] {
                    for node in ["x", "y", "z"] {
                        let others = model.iter().filter(|(service, _)| *service != but);
                        let want: u64 = others.filter_map(|(_, places)| places.get(node)).sum();
                        let got = loads.without(but).get(node).copied().unwrap_or_default();
                        prop_assert_eq!(got, cost(want));
                    }
                }
            }
        }
    }
}
