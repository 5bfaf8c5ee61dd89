//! A port of its own for every service, the same on every shim. In: what the slices have recorded; out: ports. Pure.

use std::collections::HashMap;

use podless_link::SERVICE_PORTS;

use crate::schedule::stable_hash;

/// The ports that are taken, by the uid of the service.
#[derive(Debug, Default)]
pub struct Ports {
    by_port: HashMap<u16, String>,
    by_service: HashMap<String, u16>,
}

impl Ports {
    /// Takes the port that a slice has recorded, unless it is out of range or another service has it. Whoever comes
    /// first keeps it.
    pub fn recover(&mut self, service: &str, port: u16) -> bool {
        if !SERVICE_PORTS.contains(&port) || self.by_port.contains_key(&port) || self.by_service.contains_key(service) {
            return self.by_service.get(service) == Some(&port);
        }
        self.by_port.insert(port, service.to_owned());
        self.by_service.insert(service.to_owned(), port);
        true
    }

    /// The service's port; the first free one from a place that its uid decides, when it has none yet. `None` when
    /// every port is taken.
    pub fn port_of(&mut self, service: &str) -> Option<u16> {
        if let Some(port) = self.by_service.get(service) {
            return Some(*port);
        }
        let (first, last) = (*SERVICE_PORTS.start(), *SERVICE_PORTS.end());
        let count = last - first + 1;
        let start = (stable_hash(&[service]) % u64::from(count)) as u16;
        let port = (0..count)
            .map(|i| first + ((u32::from(start) + u32::from(i)) % u32::from(count)) as u16)
            .find(|port| !self.by_port.contains_key(port))?;
        self.recover(service, port).then_some(port)
    }

    /// The service's port: the one that its slice has recorded, if nobody has that, or any. A slice that could not be
    /// read before is read again here.
    pub fn keep(&mut self, service: &str, recorded: Option<u16>) -> Option<u16> {
        if let Some(port) = recorded {
            self.recover(service, port);
        }
        self.port_of(service)
    }

    /// Uids of the services that have a port.
    pub fn services(&self) -> impl Iterator<Item = &String> {
        self.by_service.keys()
    }

    /// Gives back the port of a service that is gone.
    pub fn release(&mut self, service: &str) {
        if let Some(port) = self.by_service.remove(service) {
            self.by_port.remove(&port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_two_services_share_a_port_and_none_moves(steps in proptest::collection::vec((0..40u8, 0..3u8), 1..200)) {
            let mut ports = Ports::default();
            let mut model: HashMap<String, u16> = HashMap::new();
            for (service, step) in steps {
                let service = format!("uid-{service}");
                if step == 0 {
                    ports.release(&service);
                    model.remove(&service);
                    continue;
                }
                let port = ports.port_of(&service).expect("few services");
                prop_assert!(SERVICE_PORTS.contains(&port));
                prop_assert_eq!(*model.entry(service.clone()).or_insert(port), port);
                prop_assert!(model.iter().all(|(other, p)| *p != port || *other == service));
            }
        }
    }

    #[test]
    fn a_recorded_port_is_recovered_once() {
        let mut ports = Ports::default();
        assert!(ports.recover("a", 20_007));
        assert!(ports.recover("a", 20_007), "again by the same");
        assert!(!ports.recover("b", 20_007), "taken");
        assert!(!ports.recover("b", 80), "out of range");
        assert_eq!(ports.port_of("a"), Some(20_007));
        assert_ne!(ports.port_of("b"), Some(20_007));
        assert_eq!(ports.keep("a", Some(20_008)), Some(20_007), "what it has stays");
        assert_eq!(ports.keep("c", Some(20_009)), Some(20_009));
        assert!(ports.keep("d", Some(20_009)).is_some_and(|port| port != 20_009), "taken");
    }

    #[test]
    fn ports_run_out_and_come_back() {
        let mut ports = Ports::default();
        for i in 0..SERVICE_PORTS.len() {
            assert!(ports.port_of(&i.to_string()).is_some());
        }
        assert_eq!(ports.port_of("one too many"), None);
        ports.release("17");
        assert!(ports.port_of("one too many").is_some());
    }
}
