//! The namespaces whose services are served. In: their names, or none for the whole cluster; out: lists and watches that
//! reach no further. IO, but for [`Merge`].
//!
//! What is read in named namespaces is read in each of them alone, because the operator has a Role in each and no right
//! beyond. One that it may not read, or that is missing, is waited for, and holds up no other.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::ListParams,
    runtime::{
        WatchStreamExt,
        reflector::Store,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;

use crate::said;

/// How often it is looked whether a namespace can be read by now.
const LOOK: Duration = Duration::from_secs(5);

/// What can be watched in a namespace.
pub trait Namespaced:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static
{
}

/// The namespaces whose services are served; by default all.
#[derive(Clone, Debug, Default)]
pub struct Namespaces(BTreeSet<String>);

impl Namespaces {
    /// Those of these names; of none, all.
    pub fn named(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().collect())
    }

    /// What reads all of them together: one for the cluster, or one for each.
    pub fn apis<K: Namespaced>(&self, client: &Client) -> Vec<Api<K>> {
        match self.0.is_empty() {
            true => vec![Api::all(client.clone())],
            false => self.0.iter().map(|name| Api::namespaced(client.clone(), name)).collect(),
        }
    }

    /// One watch of all of them, for a store: `Init`, what there is everywhere, `InitDone`, and then what changes. `known`
    /// reads that store.
    pub fn watch<K: Namespaced>(
        &self,
        client: &Client,
        known: Store<K>,
    ) -> BoxStream<'static, Result<Event<K>, watcher::Error>> {
        if self.0.is_empty() {
            return watcher(Api::all(client.clone()), watcher::Config::default()).boxed();
        }
        let mut merge = Merge::new(self.0.iter().cloned());
        let each = self.apis(client).into_iter().map(|api| {
            let name = api.namespace().unwrap_or_default().to_owned();
            patient(api, watcher::Config::default()).map(move |seen| (name.clone(), seen))
        });
        let seen = stream::select_all(each.map(StreamExt::boxed));
        seen.flat_map(move |(name, seen)| stream::iter(merge.take(&name, seen, || known.state()).into_iter().map(Ok)))
            .boxed()
    }

    /// What happens in all of them. Each has an `Init` and an `InitDone` of its own: not for a store.
    pub fn events<K: Namespaced>(
        &self,
        client: &Client,
        config: &watcher::Config,
    ) -> BoxStream<'static, Result<Event<K>, watcher::Error>> {
        if self.0.is_empty() {
            return watcher(Api::all(client.clone()), config.clone()).boxed();
        }
        let each = self.apis(client).into_iter().map(|api| patient(api, config.clone()));
        stream::select_all(each).filter_map(async |seen| seen.event().map(Ok)).boxed()
    }
}

/// Whether the API server says that this may not be read.
pub fn is_refused(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// Whether there is no such namespace. With it its Role goes, so that what was in it cannot be asked for any more.
pub async fn is_gone(client: &Client, name: &str) -> Result<bool, kube::Error> {
    Ok(Api::<Namespace>::all(client.clone()).get_metadata_opt(name).await?.is_none())
}

/// What a watch shows of a namespace.
#[derive(Debug)]
pub enum Seen<K> {
    /// This.
    Event(Event<K>),
    /// It may not be read: for now nobody knows what there is.
    Refused,
}

impl<K> Seen<K> {
    /// What happened, if anything can be seen.
    pub fn event(self) -> Option<Event<K>> {
        match self {
            Self::Event(event) => Some(event),
            Self::Refused => None,
        }
    }
}

/// A watch that says once what is wrong, and asks rarely for what it may not read.
pub fn patient<K: Namespaced>(api: Api<K>, config: watcher::Config) -> BoxStream<'static, Seen<K>> {
    let events = watcher(api.clone(), config).default_backoff().boxed();
    let patient = Patient { api, events, gate: Gate::Unknown, said: None };
    stream::unfold(patient, async |mut patient| Some((patient.next().await, patient))).boxed()
}

struct Patient<K> {
    api: Api<K>,
    events: BoxStream<'static, Result<Event<K>, watcher::Error>>,
    gate: Gate,
    /// What was said last of what is wrong.
    said: Option<String>,
}

/// Whether the namespace may be read.
enum Gate {
    Unknown,
    Open,
    Shut,
}

impl<K: Namespaced> Patient<K> {
    async fn next(&mut self) -> Seen<K> {
        loop {
            match self.gate {
                Gate::Unknown | Gate::Shut => {
                    let shut = matches!(self.gate, Gate::Shut);
                    if shut {
                        tokio::time::sleep(LOOK).await;
                    }
                    match self.api.list(&ListParams::default().limit(1)).await {
                        Err(error) if is_refused(&error) => {
                            self.gate = Gate::Shut;
                            self.say(said::api(&error));
                            if !shut {
                                return Seen::Refused;
                            }
                        }
                        // What else is wrong the watch says.
                        _ => self.gate = Gate::Open,
                    }
                }
                Gate::Open => match self.events.next().await {
                    Some(Ok(event)) => {
                        if !matches!(event, Event::Init) && self.said.take().is_some() {
                            tracing::info!(
                                namespace = self.api.namespace(),
                                kind = &*K::kind(&()),
                                "can be read again"
                            );
                        }
                        return Seen::Event(event);
                    }
                    Some(Err(error)) => {
                        self.say(said::watch(&error));
                        if let watcher::Error::InitialListFailed(error) = &error
                            && is_refused(error)
                        {
                            self.gate = Gate::Shut;
                            return Seen::Refused;
                        }
                    }
                    // It never ends.
                    None => std::future::pending().await,
                },
            }
        }
    }

    fn say(&mut self, text: String) {
        if self.said.as_ref() != Some(&text) {
            tracing::warn!(
                namespace = self.api.namespace(),
                kind = &*K::kind(&()),
                "cannot be read and is waited for: {text}"
            );
            self.said = Some(text);
        }
    }
}

/// Makes one watch of several, each of one namespace. Pure.
struct Merge<K> {
    /// What there is, by namespace and name, while not every namespace was listed.
    first: BTreeMap<(String, String), K>,
    /// Namespaces that were not listed yet.
    waits: HashSet<String>,
    /// What was listed anew in a namespace.
    again: BTreeMap<String, HashSet<String>>,
}

impl<K: Resource> Merge<K> {
    fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self { first: BTreeMap::new(), waits: names.into_iter().collect(), again: BTreeMap::new() }
    }

    /// What comes of what was seen in a namespace; `known` is what has come of it all so far.
    fn take(&mut self, namespace: &str, seen: Seen<K>, known: impl FnOnce() -> Vec<Arc<K>>) -> Vec<Event<K>>
    where
        K: Clone,
    {
        match self.waits.is_empty() {
            true => self.change(namespace, seen, known),
            false => self.begin(namespace, seen),
        }
    }

    /// Nobody hears of anything before everything is there.
    fn begin(&mut self, namespace: &str, seen: Seen<K>) -> Vec<Event<K>> {
        let key = |object: &K| (namespace.to_owned(), object.name_any());
        match seen {
            Seen::Event(Event::Init) => self.first.retain(|(of, _), _| of != namespace),
            Seen::Event(Event::InitApply(object) | Event::Apply(object)) => {
                self.first.insert(key(&object), object);
            }
            Seen::Event(Event::Delete(object)) => {
                self.first.remove(&key(&object));
            }
            Seen::Event(Event::InitDone) | Seen::Refused => {
                self.waits.remove(namespace);
            }
        }
        if !self.waits.is_empty() {
            return vec![];
        }
        let all = std::mem::take(&mut self.first).into_values().map(Event::InitApply);
        [Event::Init].into_iter().chain(all).chain([Event::InitDone]).collect()
    }

    /// A namespace that is listed anew must not take away what the others have.
    fn change(&mut self, namespace: &str, seen: Seen<K>, known: impl FnOnce() -> Vec<Arc<K>>) -> Vec<Event<K>>
    where
        K: Clone,
    {
        match seen {
            Seen::Event(Event::Init) => {
                self.again.insert(namespace.to_owned(), HashSet::new());
                vec![]
            }
            Seen::Event(Event::InitApply(object)) => {
                self.again.entry(namespace.to_owned()).or_default().insert(object.name_any());
                vec![Event::Apply(object)]
            }
            Seen::Event(Event::InitDone) => {
                let listed = self.again.remove(namespace).unwrap_or_default();
                let mut gone = known();
                gone.retain(|o| o.namespace().as_deref() == Some(namespace) && !listed.contains(&o.name_any()));
                gone.into_iter().map(|object| Event::Delete((*object).clone())).collect()
            }
            Seen::Event(event) => vec![event],
            // What there is stays, as when the API server is away.
            Seen::Refused => vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(path: &str) -> ConfigMap {
        let (namespace, name) = path.split_once('/').expect("namespace/name");
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some(namespace.to_owned());
        object.metadata.name = Some(name.to_owned());
        object
    }

    /// `a init`, `a/x listed`, `a done`, `a/x applied`, `a/x deleted`, `a refused`.
    fn seen(text: &str) -> (String, Seen<ConfigMap>) {
        let (path, what) = text.split_once(' ').expect("a path and what happened");
        let seen = match what {
            "init" => Seen::Event(Event::Init),
            "listed" => Seen::Event(Event::InitApply(object(path))),
            "done" => Seen::Event(Event::InitDone),
            "applied" => Seen::Event(Event::Apply(object(path))),
            "deleted" => Seen::Event(Event::Delete(object(path))),
            "refused" => Seen::Refused,
            other => panic!("{other}"),
        };
        (path.split('/').next().expect("a namespace").to_owned(), seen)
    }

    fn check(known: &[&str], turns: &[(&str, &[&str])]) {
        let mut merge = Merge::new(["a".to_owned(), "b".to_owned()]);
        for (turn, want) in turns {
            let (namespace, seen) = seen(turn);
            let known = || known.iter().map(|path| Arc::new(object(path))).collect();
            let path = |o: &ConfigMap| format!("{}/{}", o.namespace().expect("a namespace"), o.name_any());
            let said = |event: &Event<ConfigMap>| match event {
                Event::Init => "init".to_owned(),
                Event::InitDone => "done".to_owned(),
                Event::InitApply(o) => format!("{} listed", path(o)),
                Event::Apply(o) => format!("{} applied", path(o)),
                Event::Delete(o) => format!("{} deleted", path(o)),
            };
            let got: Vec<_> = merge.take(&namespace, seen, known).iter().map(said).collect();
            assert_eq!(got, *want, "{turn}");
        }
    }

    #[test]
    fn everything_is_there_at_once_and_then_what_changes() {
        check(
            &[],
            &[
                ("a init", &[]),
                ("a/x listed", &[]),
                ("a/y listed", &[]),
                ("b init", &[]),
                ("a done", &[]),
                ("a/x deleted", &[]),
                ("a/z applied", &[]),
                ("b/x listed", &[]),
                ("b done", &["init", "a/y listed", "a/z listed", "b/x listed", "done"]),
                ("a/x applied", &["a/x applied"]),
                ("b/x deleted", &["b/x deleted"]),
            ],
        );
    }

    #[test]
    fn what_cannot_be_read_holds_up_nobody_and_comes_later() {
        check(
            &["a/x"],
            &[
                ("b refused", &[]),
                ("a init", &[]),
                ("a/x listed", &[]),
                ("a done", &["init", "a/x listed", "done"]),
                ("b init", &[]),
                ("b/y listed", &["b/y applied"]),
                ("b done", &[]),
            ],
        );
    }

    #[test]
    fn a_list_that_begins_anew_takes_away_what_it_does_not_have() {
        let begun: &[(&str, &[&str])] = &[("a init", &[]), ("a done", &[]), ("b done", &["init", "done"])];
        let again: &[(&str, &[&str])] = &[
            ("a init", &[]),
            ("a refused", &[]),
            ("a init", &[]),
            ("a/x listed", &["a/x applied"]),
            ("b/y deleted", &["b/y deleted"]),
            ("a done", &["a/gone deleted"]),
        ];
        check(&["a/x", "a/gone", "b/z"], &[begun, again].concat());
    }

    #[test]
    fn a_list_that_fails_at_first_begins_anew() {
        check(
            &[],
            &[
                ("a init", &[]),
                ("a/x listed", &[]),
                ("a init", &[]),
                ("a/y listed", &[]),
                ("a done", &[]),
                ("b done", &["init", "a/y listed", "done"]),
            ],
        );
    }
}
