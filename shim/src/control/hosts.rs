//! Who has which host on the shared port. In: what assignments of services say, and which of these leave; out: the table
//! that requests are answered by. Pure.
//!
//! The operator gives a path of a host to one service. While it changes hands a shim may be told so by two: then the older
//! one has it, as the operator decides too, and one that leaves only until somebody else has it.

use std::{collections::HashMap, sync::Arc};

use crate::serve::hosts::{HostPath, HostTable, Rule};

/// What an assignment says of the shared port.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hosted {
    /// Uid of the service.
    pub(crate) uid: String,
    /// When it was made, in seconds since 1970.
    pub(crate) created_at: i64,
    /// What it has.
    pub(crate) hosts: Vec<HostPath>,
}

/// What services have. A `T` is where one is found, and tells it from what has its name.
pub(crate) struct Hosts<T> {
    table: Arc<HostTable<T>>,
    claims: HashMap<Arc<str>, Vec<Claim<T>>>,
    /// Services that leave, by their uid, with the generation that they left with.
    leaving: HashMap<String, (u64, Arc<Hosted>, Arc<T>)>,
}

struct Claim<T> {
    path: Box<str>,
    leaves: bool,
    by: Arc<Hosted>,
    at: Arc<T>,
}

impl<T> Claim<T> {
    /// Of two the lower has it: who stays before who leaves, then the older.
    fn rank(&self) -> (bool, i64, &str) {
        (self.leaves, self.by.created_at, &self.by.uid)
    }
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Self { table: Arc::default(), claims: HashMap::new(), leaving: HashMap::new() }
    }
}

impl<T> Hosts<T> {
    /// What requests are answered by.
    pub(crate) fn table(&self) -> Arc<HostTable<T>> {
        self.table.clone()
    }

    /// A service has other hosts than before.
    pub(crate) fn serve(&mut self, old: Option<&Arc<Hosted>>, new: Option<&Arc<Hosted>>, at: &Arc<T>) {
        if old == new {
            return;
        }
        old.inspect(|old| self.forget(old, at));
        new.inspect(|new| self.claim(new, at, false));
        // Only now: what it had and still has is nobody's at no time.
        old.into_iter().chain(new).for_each(|hosted| self.settle(hosted));
    }

    /// A service leaves with this generation: until it is gone it answers for what nobody else has.
    pub(crate) fn leave(&mut self, generation: u64, hosted: &Arc<Hosted>, at: Arc<T>) {
        self.forget(hosted, &at);
        self.claim(hosted, &at, true);
        self.settle(hosted);
        // It came back and leaves again: what it answered by before goes now.
        if let Some((_, before, at)) = self.leaving.insert(hosted.uid.clone(), (generation, hosted.clone(), at)) {
            self.forget(&before, &at);
            self.settle(&before);
        }
    }

    /// A service that left with this generation is gone.
    pub(crate) fn gone(&mut self, uid: &str, generation: u64) {
        if self.leaving.get(uid).is_some_and(|(left, ..)| *left == generation)
            && let Some((_, hosted, at)) = self.leaving.remove(uid)
        {
            self.forget(&hosted, &at);
            self.settle(&hosted);
        }
    }

    fn claim(&mut self, by: &Arc<Hosted>, at: &Arc<T>, leaves: bool) {
        for host in &by.hosts {
            let claim = Claim { path: host.path.clone(), leaves, by: by.clone(), at: at.clone() };
            self.claims.entry(host.name.clone()).or_default().push(claim);
        }
    }

    fn forget(&mut self, by: &Hosted, at: &Arc<T>) {
        for host in &by.hosts {
            if let Some(claims) = self.claims.get_mut(&host.name) {
                claims.retain(|claim| !Arc::ptr_eq(&claim.at, at));
            }
        }
    }

    /// Makes the table what is claimed of these hosts.
    fn settle(&mut self, hosted: &Hosted) {
        for host in &hosted.hosts {
            let Some(claims) = self.claims.get_mut(&host.name) else { continue };
            claims.sort_by(|a, b| a.path.cmp(&b.path).then_with(|| a.rank().cmp(&b.rank())));
            let each = claims.chunk_by(|a, b| a.path == b.path).filter_map(|same| same.first());
            let rules = each.map(|claim| Rule { path: claim.path.clone(), has: claim.at.clone() }).collect();
            let nobodys = claims.is_empty();
            self.table.set(host.name.clone(), rules);
            if nobodys {
                self.claims.remove(&host.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use podless_link::v1;

    use super::*;

    fn hosted(uid: &str, created_at: i64, hosts: &[(&str, &str)]) -> Arc<Hosted> {
        let read = |(name, path): &(&str, &str)| {
            HostPath::read(&v1::Host { name: (*name).into(), path: (*path).into() }).expect("a host")
        };
        Arc::new(Hosted { uid: uid.into(), created_at, hosts: hosts.iter().map(read).collect() })
    }

    fn who(hosts: &Hosts<&'static str>, host: &str, path: &str) -> Option<&'static str> {
        hosts.table().find(host, path).map(|who| *who)
    }

    #[test]
    fn of_two_the_older_has_it_whoever_came_first() {
        let (old, young) = (hosted("b", 1, &[("h", ""), ("h", "/old")]), hosted("a", 2, &[("h", ""), ("h", "/young")]));
        let (at_old, at_young) = (Arc::new("old"), Arc::new("young"));
        for young_first in [true, false] {
            let mut hosts = Hosts::default();
            let mut both = [(&old, &at_old), (&young, &at_young)];
            if young_first {
                both.reverse();
            }
            for (hosted, at) in both {
                hosts.serve(None, Some(hosted), at);
            }
            assert_eq!(who(&hosts, "h", "/"), Some("old"));
            assert_eq!(who(&hosts, "h", "/young/x"), Some("young"), "each path is somebody's");
            hosts.serve(Some(&old), None, &at_old);
            assert_eq!((who(&hosts, "h", "/"), who(&hosts, "h", "/old")), (Some("young"), Some("young")));
            hosts.serve(Some(&young), None, &at_young);
            assert_eq!(who(&hosts, "h", "/"), None);
            assert!(hosts.claims.is_empty(), "nothing is kept of what nobody has");
        }
    }

    #[test]
    fn who_leaves_answers_until_somebody_else_does() {
        let (old, young) = (hosted("a", 1, &[("h", ""), ("i", "")]), hosted("b", 2, &[("h", "")]));
        let (at_old, at_young) = (Arc::new("old"), Arc::new("young"));
        let mut hosts = Hosts::default();
        hosts.serve(None, Some(&old), &at_old);
        hosts.leave(7, &old, at_old);
        assert_eq!(who(&hosts, "h", "/"), Some("old"));
        hosts.serve(None, Some(&young), &at_young);
        assert_eq!((who(&hosts, "h", "/"), who(&hosts, "i", "/")), (Some("young"), Some("old")));
        hosts.gone("a", 6);
        assert_eq!(who(&hosts, "i", "/"), Some("old"), "that was another time");
        hosts.gone("a", 7);
        assert_eq!((who(&hosts, "h", "/"), who(&hosts, "i", "/")), (Some("young"), None));
    }

    #[test]
    fn who_comes_back_and_leaves_again_is_gone_with_the_last_time() {
        let service = hosted("a", 1, &[("h", "")]);
        let (first, second) = (Arc::new("first"), Arc::new("second"));
        let mut hosts = Hosts::default();
        hosts.serve(None, Some(&service), &first);
        hosts.leave(1, &service, first);
        hosts.serve(None, Some(&service), &second);
        assert_eq!(who(&hosts, "h", "/"), Some("second"));
        hosts.leave(2, &service, second);
        hosts.gone("a", 1);
        assert_eq!(who(&hosts, "h", "/"), Some("second"));
        hosts.gone("a", 2);
        assert_eq!(who(&hosts, "h", "/"), None);
        assert!(hosts.claims.is_empty() && hosts.leaving.is_empty());
    }

    #[test]
    fn what_a_service_keeps_is_its_own_all_the_time() {
        let (before, after) = (hosted("a", 1, &[("h", ""), ("i", "")]), hosted("a", 1, &[("h", ""), ("j", "")]));
        let at = Arc::new("a");
        let mut hosts = Hosts::default();
        hosts.serve(None, Some(&before), &at);
        hosts.serve(Some(&before), Some(&after), &at);
        assert_eq!(["h", "i", "j"].map(|host| who(&hosts, host, "/")), [Some("a"), None, Some("a")]);
    }
}
