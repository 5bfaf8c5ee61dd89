//! Who answers what comes in on the shared port: a request's host and path in, who has them out. A request reads one
//! snapshot, and who changes a host copies its part of the table alone: with 100,000 hosts that takes microseconds. Pure.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::{Request, header};
use podless_link::v1;

use super::{refusal::Refusal, service::Service};

/// Parts of the table.
const PARTS: usize = 256;
/// Longest name of a host, as DNS has it.
const LONGEST_NAME: usize = 253;
/// Longest path that an assignment may name: what the operator takes, and more.
const LONGEST_PATH: usize = 1024;

/// Where the present generation of a service is found: the table need not change with it.
pub(crate) type Seat = ArcSwapOption<Service>;

/// A host that a service has, and the beginning of its paths there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostPath {
    /// A name; of a wildcard what it ends with, from the dot on.
    pub(crate) name: Arc<str>,
    /// Empty, or whole segments.
    pub(crate) path: Box<str>,
}

impl HostPath {
    /// Reads what an assignment says; `None` when no request can be meant by it.
    pub(crate) fn read(host: &v1::Host) -> Option<Self> {
        let v1::Host { name, path } = host;
        let labels = name.strip_prefix("*.").unwrap_or(name);
        let is_label = |label: &str| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let named = name.len() <= LONGEST_NAME && labels.split('.').all(is_label);
        let segments = path.strip_prefix('/').unwrap_or("none");
        let whole = path.is_empty() || path.starts_with('/') && segments.split('/').all(|segment| !segment.is_empty());
        let key = if labels.len() < name.len() { &name[1..] } else { name };
        (named && whole && path.len() <= LONGEST_PATH).then(|| Self { name: key.into(), path: path.as_str().into() })
    }
}

/// Who has the paths of a host that begin so.
pub(crate) struct Rule<T> {
    /// Empty, or whole segments.
    pub(crate) path: Box<str>,
    /// Who it is.
    pub(crate) has: Arc<T>,
}

type Part<T> = HashMap<Arc<str>, Arc<[Rule<T>]>>;

/// Every host, and who has it.
pub(crate) struct HostTable<T> {
    parts: Box<[ArcSwap<Part<T>>]>,
    random: RandomState,
}

impl<T> Default for HostTable<T> {
    fn default() -> Self {
        Self { parts: (0..PARTS).map(|_| ArcSwap::default()).collect(), random: RandomState::new() }
    }
}

impl<T> HostTable<T> {
    /// Who has this path of this host, which is in lower case. The host decides first: its own name, else the longest
    /// wildcard that it lies under; then the longest path.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<Arc<T>> {
        // What is longer is nobody's: each of its dots would be looked for.
        if host.starts_with('.') || host.len() > LONGEST_NAME {
            return None;
        }
        let dots = host.match_indices('.').map(|(at, _)| &host[at..]);
        let rules = [host].into_iter().chain(dots).find_map(|name| self.part(name).load().get(name).cloned())?;
        rules.iter().find(|rule| begins(path, &rule.path)).map(|rule| rule.has.clone())
    }

    /// From now on these have the host, whose paths differ; nobody when there are none. Only one thread may set at a time:
    /// the control loop's.
    pub(crate) fn set(&self, name: Arc<str>, mut rules: Vec<Rule<T>>) {
        rules.sort_by_key(|rule| std::cmp::Reverse(rule.path.len()));
        let part = self.part(&name);
        let mut new = Part::clone(&part.load());
        if rules.is_empty() {
            new.remove(&name);
        } else {
            new.insert(name, rules.into());
        }
        part.store(Arc::new(new));
    }

    fn part(&self, name: &str) -> &ArcSwap<Part<T>> {
        &self.parts[self.random.hash_one(name) as usize % PARTS]
    }
}

/// Whether a path begins with these segments.
fn begins(path: &str, segments: &str) -> bool {
    path.strip_prefix(segments).is_some_and(|rest| segments.is_empty() || rest.is_empty() || rest.starts_with('/'))
}

/// The host that a request is for, as it is compared: in lower case, without port and the dot of the root. What an absolute
/// target names counts more than the header (RFC 9112, 3.2.2), and that is what the component is shown.
pub(crate) fn host_of<B>(request: &Request<B>) -> Result<Cow<'_, str>, Refusal> {
    let name = match request.uri().authority() {
        Some(authority) => authority.host(),
        None => {
            let mut hosts = request.headers().get_all(header::HOST).iter();
            let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Refusal::Host) };
            let host = host.to_str().map_err(|_| Refusal::Host)?;
            // The colons of an address in brackets are its own.
            let after = host.rfind(']').unwrap_or(0);
            host[after..].find(':').map_or(host, |colon| &host[..after + colon])
        }
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(Refusal::Host);
    }
    let lower = !name.bytes().any(|b| b.is_ascii_uppercase());
    Ok(if lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn read(name: &str, path: &str) -> Option<HostPath> {
        HostPath::read(&v1::Host { name: name.into(), path: path.into() })
    }

    fn table(entries: &[(&str, &str)]) -> HostTable<String> {
        let mut by_name = BTreeMap::<_, Vec<_>>::new();
        for (name, path) in entries {
            let HostPath { name: key, path: begins } = read(name, path).expect("a host");
            by_name.entry(key).or_default().push(Rule { path: begins, has: Arc::new(format!("{name}{path}")) });
        }
        let table = HostTable::default();
        by_name.into_iter().for_each(|(name, rules)| table.set(name, rules));
        table
    }

    #[test]
    fn the_host_decides_before_the_path() {
        let table = table(&[
            ("a.test", ""),
            ("a.test", "/api"),
            ("a.test", "/api/v2"),
            ("*.b.test", ""),
            ("*.c.b.test", "/only"),
            ("x.b.test", ""),
        ]);
        for (host, path, want) in [
            ("a.test", "/", Some("a.test")),
            ("a.test", "*", Some("a.test")),
            ("a.test", "/api", Some("a.test/api")),
            ("a.test", "/api/", Some("a.test/api")),
            ("a.test", "/api/v1", Some("a.test/api")),
            ("a.test", "/api/v2/x", Some("a.test/api/v2")),
            ("a.test", "/apis", Some("a.test")),
            ("b.test", "/", None),
            ("y.b.test", "/", Some("*.b.test")),
            ("z.y.b.test", "/", Some("*.b.test")),
            ("x.b.test", "/", Some("x.b.test")),
            ("y.x.b.test", "/", Some("*.b.test")),
            ("d.c.b.test", "/only/this", Some("*.c.b.test/only")),
            ("d.c.b.test", "/", None),
            (".b.test", "/", None),
            ("", "/", None),
            ("test", "/", None),
            ("aa.test", "/", None),
        ] {
            assert_eq!(table.find(host, path).as_deref().map(String::as_str), want, "{host} {path}");
        }
        for (length, is_name) in [(253, true), (254, false)] {
            let host = format!("{}.b.test", "y".repeat(length - ".b.test".len()));
            assert_eq!(table.find(&host, "/").is_some(), is_name, "a name of {length} bytes");
        }
        table.set("a.test".into(), vec![]);
        assert!(table.find("a.test", "/").is_none(), "nobody has it any more");
    }

    #[test]
    fn what_no_request_can_mean_is_not_read() {
        for (name, path) in [
            ("", ""),
            ("*", ""),
            ("*.", ""),
            (".a.test", ""),
            ("a..test", ""),
            ("a.test.", ""),
            ("A.test", ""),
            ("a.*.test", ""),
            ("a.test:80", ""),
            ("a.test", "api"),
            ("a.test", "/"),
            ("a.test", "/api/"),
            ("a.test", "//api"),
        ] {
            assert_eq!(read(name, path), None, "{name}{path}");
        }
        assert_eq!(read(&"a".repeat(254), ""), None);
        assert_eq!(&*read("*.a.test", "/x").expect("a host").name, ".a.test");
    }

    #[test]
    fn the_host_of_a_request() {
        let of = |uri: &str, hosts: &[&str]| {
            let request = hosts.iter().fold(Request::get(uri), |request, host| request.header(header::HOST, *host));
            host_of(&request.body(()).expect("a request")).map(Cow::into_owned)
        };
        for (uri, hosts, want) in [
            ("/", &["a.test"][..], Ok("a.test")),
            ("/", &["A.Test.:8080"], Ok("a.test")),
            ("/", &["[::1]:80"], Ok("[::1]")),
            ("http://b.test/", &["a.test"], Ok("b.test")),
            ("http://B.test:80/", &[], Ok("b.test")),
            ("/", &[], Err(Refusal::Host)),
            ("/", &[""], Err(Refusal::Host)),
            ("/", &[":80"], Err(Refusal::Host)),
            ("/", &["."], Err(Refusal::Host)),
            ("/", &["a.test", "a.test"], Err(Refusal::Host)),
        ] {
            assert_eq!(of(uri, hosts), want.map(str::to_owned), "{uri} {hosts:?}");
        }
    }

    proptest! {
        /// Whatever is set and taken back, who has a host is as if only the last of it had been said.
        #[test]
        fn any_changes_end_as_the_last_of_each_says(
            changes in prop::collection::vec(("[ab](\\.[ab]){0,2}", prop::option::of("(/[ab]){0,2}")), 0..40),
        ) {
            let (table, mut last) = (HostTable::default(), BTreeMap::new());
            for (name, path) in &changes {
                let rule = |path: &String| Rule { path: path.as_str().into(), has: Arc::new(path.clone()) };
                table.set(name.as_str().into(), path.iter().map(rule).collect());
                last.insert(name, path);
            }
            for (name, path) in last {
                let found = path.as_ref().and_then(|path| table.find(name, path));
                prop_assert_eq!(found.as_deref(), path.as_ref());
            }
        }
    }
}
