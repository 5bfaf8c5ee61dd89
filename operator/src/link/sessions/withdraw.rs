//! Taking away what is revoked, of a service that stays. In: its uid; out: shims that know it are told to let it go at
//! once, and so is who was away and comes back with it, whatever is assigned meanwhile. Pure.

use super::Sessions;

impl Sessions {
    /// What the service had must not run any more.
    pub fn withdraw(&mut self, service: &str) {
        let assigned = self.services.remove(service).map(|assigned| assigned.generation);
        let seen = self.shims.values().map(|shim| shim.highest(service));
        let seen = seen.chain(assigned).max().unwrap_or(0).max(self.withdrawn(service));
        self.take_away(service, seen);
    }

    /// An earlier leader has taken away what the service had up to this generation.
    pub fn keep_withdrawn(&mut self, service: &str, generation: u64) {
        if generation > self.withdrawn(service) && !self.buried.contains_key(service) {
            self.take_away(service, generation);
        }
    }

    /// The highest generation of the service that must not run any more; 0 when there is none.
    pub fn withdrawn(&self, service: &str) -> u64 {
        self.withdrawn.get(service).copied().unwrap_or(0)
    }

    fn take_away(&mut self, service: &str, generation: u64) {
        self.withdrawn.insert(service.to_owned(), generation);
        let pods: Vec<_> = self.shims.keys().cloned().collect();
        for pod in pods {
            self.touch(&pod, service);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use podless_link::v1;

    use super::super::tests::{assigned, drain, hello, open, sessions};

    #[test]
    fn who_was_away_lets_go_of_what_was_revoked_before_it_gets_anything_newer() {
        let mut sessions = sessions();
        open(&mut sessions, "p", hello("f", &[("a", 3)]), &[]);
        sessions.withdraw("a");
        sessions.assign(assigned("a", 4, &["p", "q"]));
        // One is to serve what is new, and one is not; each comes back with what is revoked.
        let q = open(&mut sessions, "q", hello("f", &[("a", 3)]), &[]);
        let r = open(&mut sessions, "r", hello("f", &[("a", 2)]), &[]);
        assert_eq!(drain(&mut sessions, &q)[0], "withdraw a 3 at once");
        assert_eq!(drain(&mut sessions, &r)[0], "withdraw a 3 at once");
        for key in [&q, &r] {
            let outcome = Some(v1::ack::Outcome::Withdrawn(v1::Withdrawn {}));
            let ack = v1::Ack { service_uid: "a".into(), generation: 3, outcome };
            assert!(!sessions.ack(key, ack, Instant::now()));
        }
        assert_eq!(drain(&mut sessions, &q), ["assign a 4 20"]);
        assert!(drain(&mut sessions, &r).is_empty());
        // What is newer is none of it.
        let s = open(&mut sessions, "s", hello("f", &[("a", 4)]), &[]);
        assert_eq!(drain(&mut sessions, &s), ["synced"]);
    }

    #[test]
    fn the_next_leader_takes_away_what_this_one_has() {
        let mut sessions = sessions();
        let (p, q) = (
            open(&mut sessions, "p", hello("f", &[("a", 3)]), &[]),
            open(&mut sessions, "q", hello("f", &[("a", 4)]), &[]),
        );
        assert_eq!(
            (drain(&mut sessions, &p), drain(&mut sessions, &q)),
            (vec!["synced".into()], vec!["synced".into()])
        );
        sessions.keep_withdrawn("a", 3);
        assert_eq!(drain(&mut sessions, &p), ["withdraw a 3 at once"]);
        assert!(drain(&mut sessions, &q).is_empty());
        sessions.keep_withdrawn("a", 3);
        assert!(drain(&mut sessions, &p).is_empty(), "once");
    }
}
