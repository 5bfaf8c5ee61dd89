//! Decides who has which host. In: all services that ask for some, and what of it policies do not allow; out: what each of
//! them has, and why not the rest. Pure.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::Arc,
};

use podless_crds::Host;

/// A service that asks for hosts.
#[derive(Clone, Debug)]
pub struct Claimant<'a> {
    /// Its uid.
    pub uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// What it asks for.
    pub hosts: &'a [String],
    /// What of it policies do not allow, a sentence each.
    pub beyond: BTreeMap<&'a str, String>,
}

/// What was decided of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What it has.
    pub accepted: Vec<String>,
    /// What it has not.
    pub refused: Vec<Refused>,
}

/// A host that a service has not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The host, as it was asked for.
    pub host: String,
    /// Why.
    pub why: Why,
}

/// Why a service has not what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// A policy does not allow it: the sentence.
    Beyond(String),
    /// An older service of its namespace has it: the name.
    Taken(String),
    /// An older service of another namespace has it. Whose it is, is told to nobody.
    Foreign,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, why } = self;
        match why {
            Why::Beyond(sentence) => write!(f, "{sentence}"),
            Why::Taken(name) => write!(f, "the older WasmService {name:?} has {host}: give it another path"),
            Why::Foreign => {
                write!(
                    f,
                    "an older WasmService of another namespace has {host}, or a wildcard over it: ask for another"
                )
            }
        }
    }
}

/// What was decided, by the uids of the services.
pub type Claims = HashMap<String, Arc<Verdict>>;

/// Who has the paths of a name.
struct Holder<'a> {
    namespace: &'a str,
    /// Names of services.
    paths: HashMap<&'a str, &'a str>,
}

/// Decides, the oldest first. Who is refused holds nothing against those who come after.
pub fn decide(mut claimants: Vec<Claimant<'_>>) -> Claims {
    claimants.sort_by_key(|c| (c.created_at, c.namespace, c.name));
    let mut holders: HashMap<&str, Holder<'_>> = HashMap::new();
    let verdicts = claimants.iter().map(|claimant| {
        let mut verdict = Verdict::default();
        for asked in claimant.hosts {
            match refused(claimant, asked, &holders) {
                Some(why) => verdict.refused.push(Refused { host: asked.clone(), why }),
                None => {
                    let Host { name, path } = Host::of(asked);
                    let new = || Holder { namespace: claimant.namespace, paths: HashMap::new() };
                    holders.entry(key(name)).or_insert_with(new).paths.insert(path, claimant.name);
                    verdict.accepted.push(asked.clone());
                }
            }
        }
        (claimant.uid.to_owned(), Arc::new(verdict))
    });
    verdicts.collect()
}

fn refused(claimant: &Claimant<'_>, asked: &str, holders: &HashMap<&str, Holder<'_>>) -> Option<Why> {
    if let Some(sentence) = claimant.beyond.get(asked) {
        return Some(Why::Beyond(sentence.clone()));
    }
    let Host { name, path } = Host::of(asked);
    let key = key(name);
    let wildcards = key.match_indices('.').map(|(at, _)| &key[at..]);
    let mut over = [key].into_iter().chain(wildcards).filter_map(|key| holders.get(key));
    if over.any(|holder| holder.namespace != claimant.namespace) {
        return Some(Why::Foreign);
    }
    let taken = holders.get(key).and_then(|holder| holder.paths.get(path));
    taken.map(|service| Why::Taken((*service).to_owned()))
}

/// A name as it is looked up: of a wildcard what names end with.
fn key(name: &str) -> &str {
    name.strip_prefix('*').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    struct Service {
        namespace: String,
        name: String,
        created_at: i64,
        hosts: Vec<String>,
    }

    impl Service {
        fn uid(&self) -> String {
            format!("{}/{}", self.namespace, self.name)
        }
    }

    fn service(id: &str, created_at: i64, hosts: &[&str]) -> Service {
        let (namespace, name) = id.split_once('/').expect("a namespace and a name");
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Service { namespace: namespace.into(), name: name.into(), created_at, hosts }
    }

    fn decided(services: &[Service]) -> BTreeMap<String, Verdict> {
        let uids: Vec<_> = services.iter().map(Service::uid).collect();
        let claimant = |(service, uid)| {
            let Service { namespace, name, created_at, hosts }: &Service = service;
            let uid: &String = uid;
            Claimant { uid, namespace, name, created_at: *created_at, hosts, beyond: BTreeMap::new() }
        };
        let claims = decide(services.iter().zip(&uids).map(claimant).collect());
        claims.into_iter().map(|(uid, verdict)| (uid, Verdict::clone(&verdict))).collect()
    }

    #[test]
    fn the_oldest_has_it_and_the_rest_is_its_namespaces() {
        let services = [
            service("a/shop", 1, &["shop.test", "*.a.test"]),
            service("b/thief", 2, &["shop.test/pay", "x.a.test", "*.b.a.test", "b.test"]),
            service("a/pay", 3, &["shop.test/pay", "x.a.test", "b.test"]),
            service("a/pays", 4, &["shop.test/pay", "shop.test/pays"]),
            service("b/wide", 5, &["*.test"]),
            service("c/late", 6, &["y.test"]),
            service("b/late", 6, &["b.test", "b.test/x", "z.test"]),
        ];
        let got = decided(&services);
        let of = |id: &str| {
            let Verdict { accepted, refused } = &got[id];
            let refused = refused.iter().map(|Refused { host, why }| match why {
                Why::Taken(name) => format!("{host} of {name}"),
                _ => host.clone(),
            });
            (accepted.join(" "), refused.collect::<Vec<_>>().join(" "))
        };
        let pair = |accepted: &str, refused: &str| (accepted.to_owned(), refused.to_owned());
        assert_eq!(of("a/shop"), pair("shop.test *.a.test", ""));
        assert_eq!(of("b/thief"), pair("b.test", "shop.test/pay x.a.test *.b.a.test"));
        assert_eq!(of("a/pay"), pair("shop.test/pay x.a.test", "b.test"));
        assert_eq!(of("a/pays"), pair("shop.test/pays", "shop.test/pay of pay"));
        assert_eq!(of("b/wide"), pair("*.test", ""), "what is older under it stays whose it is");
        assert_eq!(of("c/late"), pair("", "y.test"));
        assert_eq!(of("b/late"), pair("b.test/x z.test", "b.test of thief"));
    }

    #[test]
    fn what_a_policy_does_not_allow_is_claimed_by_nobody() {
        let hosts = ["a.test".to_owned()];
        let claimant = |uid, namespace, created_at| Claimant {
            uid,
            namespace,
            name: uid,
            created_at,
            hosts: &hosts,
            beyond: BTreeMap::new(),
        };
        let refused = Claimant { beyond: [("a.test", "no".to_owned())].into(), ..claimant("a", "n", 1) };
        let got = decide(vec![refused, claimant("b", "m", 2)]);
        assert_eq!(got["a"].refused, [Refused { host: hosts[0].clone(), why: Why::Beyond("no".into()) }]);
        assert_eq!(got["b"].accepted, hosts);
    }

    fn any_services() -> impl Strategy<Value = Vec<Service>> {
        let host = "([*][.])?([ab][.]){0,2}t(/[pq])?";
        let service = ("[mn]", 0..5i64, prop::collection::btree_set(host, 0..4));
        prop::collection::vec(service, 0..10).prop_map(|all| {
            let each = all.into_iter().enumerate().map(|(i, (namespace, created_at, hosts))| Service {
                namespace,
                name: format!("s{i}"),
                created_at,
                hosts: hosts.into_iter().collect(),
            });
            each.collect()
        })
    }

    fn older<'a>(services: &'a [Service], than: &'a Service) -> impl Iterator<Item = &'a Service> {
        let age = |s: &Service| (s.created_at, s.namespace.clone(), s.name.clone());
        services.iter().filter(move |s| age(s) < age(than))
    }

    proptest! {
        /// A host is refused exactly when somebody older has it, or another namespace a wildcard over it.
        #[test]
        fn who_has_what_is_as_the_rule_says(services in any_services()) {
            let got = decided(&services);
            for service in &services {
                for asked in &service.hosts {
                    let Host { name, .. } = Host::of(asked);
                    let in_the_way = older(&services, service).any(|other| {
                        got[&other.uid()].accepted.iter().any(|has| {
                            has == asked || other.namespace != service.namespace && Host::covers(Host::of(has).name, name)
                        })
                    });
                    prop_assert_eq!(got[&service.uid()].accepted.contains(asked), !in_the_way, "{} {:?}", asked, service);
                }
            }
        }

        #[test]
        fn the_order_of_asking_decides_nothing(services in any_services(), at: prop::sample::Index) {
            let mut turned = services.clone();
            if !turned.is_empty() {
                turned.rotate_left(at.index(services.len()));
            }
            prop_assert_eq!(decided(&services), decided(&turned));
        }

        /// Who comes later takes nothing from those who are there; who goes gives it to others.
        #[test]
        fn who_is_younger_takes_nothing(services in any_services(), at: prop::sample::Index) {
            prop_assume!(!services.is_empty());
            let mut without = services.clone();
            let gone = without.remove(at.index(services.len()));
            let (with, without) = (decided(&services), decided(&without));
            for service in older(&services, &gone) {
                prop_assert_eq!(&with[&service.uid()], &without[&service.uid()]);
            }
        }
    }
}
