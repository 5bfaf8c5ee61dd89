//! Follows WasmPolicies, the labels of namespaces and the Secrets that policies name. In: watches; out: the store that
//! reconciles ask, a reconcile of each service for which something else is said than before, and the policies' status. IO.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::Time,
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt,
        events::Recorder,
        watcher::{self, Event, watcher},
    },
};
use podless_crds::{FIELD_MANAGER, WasmPolicy, WasmPolicyStatus};
use serde_json::json;

use super::{
    PolicyWriter,
    judge::Policies,
    read::{Policy, Secrets, secrets_of},
    status::status_of,
};
use crate::{
    link::Hub,
    reconcile::{events, service_ref},
    said,
};

/// When to try again what the API server did not take.
const AGAIN: Duration = Duration::from_secs(5);

/// Keeps the store for as long as this replica leads.
pub struct Follow {
    /// The API server.
    pub client: Client,
    /// Namespace of the release: where the Secrets are that policies name.
    pub namespace: String,
    /// The services, and how they are woken.
    pub hub: Arc<Hub>,
    /// Publishes Events on policies.
    pub recorder: Recorder,
    /// The store.
    pub writer: PolicyWriter,
}

/// Something that was watched.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way to who notes it")]
enum News {
    Policy(Event<WasmPolicy>),
    Namespace(Event<PartialObjectMeta<Namespace>>),
    Secret(Event<PartialObjectMeta<Secret>>),
}

/// What a watch shows: what matters of each object, by name.
struct Listed<T> {
    all: BTreeMap<String, T>,
    coming: BTreeMap<String, T>,
    complete: bool,
}

impl Follow {
    /// Ends only when the watches do.
    pub async fn run(self) {
        let config = watcher::Config::default;
        let policies = watcher(Api::<WasmPolicy>::all(self.client.clone()), config()).default_backoff();
        let namespaces = Api::<PartialObjectMeta<Namespace>>::all(self.client.clone());
        let namespaces = watcher(namespaces, config()).default_backoff();
        let secrets = Api::<PartialObjectMeta<Secret>>::namespaced(self.client.clone(), &self.namespace);
        let secrets = watcher(secrets, config()).default_backoff();
        let mut news = stream::select_all([
            policies.map(|event| event.map(News::Policy)).boxed(),
            namespaces.map(|event| event.map(News::Namespace)).boxed(),
            secrets.map(|event| event.map(News::Secret)).boxed(),
        ]);
        let (mut policies, mut namespaces, mut secrets) = (Listed::new(), Listed::new(), Listed::new());
        let mut stale = false;
        loop {
            let event = tokio::select! {
                event = news.next() => Some(event),
                () = tokio::time::sleep(AGAIN), if stale => None,
            };
            stale |= match event {
                Some(None) => return,
                None => true,
                Some(Some(Ok(News::Policy(event)))) => policies.hear(event, WasmPolicy::clone),
                Some(Some(Ok(News::Namespace(event)))) => {
                    namespaces.hear(event, |namespace| namespace.labels().clone())
                }
                Some(Some(Ok(News::Secret(event)))) => secrets.hear(event, ResourceExt::resource_version),
                Some(Some(Err(error))) => {
                    tracing::warn!(
                        error = said::watch(&error),
                        "policies, namespaces or Secrets cannot be watched for now"
                    );
                    // Where their kind is not installed there are none.
                    is_no_kind(&error) && policies.none()
                }
            };
            if stale && policies.complete && namespaces.complete {
                stale = match self.refresh(&policies.all, &namespaces.all).await {
                    Ok(()) => false,
                    Err(error) => {
                        tracing::warn!(
                            error = said::api(&error),
                            "policies cannot be read for now: they stay as they were"
                        );
                        true
                    }
                };
            }
        }
    }

    /// Reads all policies anew, with what they name.
    async fn refresh(
        &self,
        policies: &BTreeMap<String, WasmPolicy>,
        namespaces: &BTreeMap<String, BTreeMap<String, String>>,
    ) -> Result<(), kube::Error> {
        let secrets = self.secrets(policies.values().flat_map(secrets_of).collect()).await?;
        let read: BTreeMap<_, _> =
            policies.iter().map(|(name, policy)| (name, Policy::read(policy, &secrets))).collect();
        let ready = read.iter().map(|(name, (policy, _))| ((*name).clone(), policy.clone())).collect();
        self.publish(Policies { policies: ready, namespaces: namespaces.clone() });
        let now = Time(Timestamp::now());
        for (name, (_, mistakes)) in read {
            if let Some(status) = status_of(&policies[name], &mistakes, &now) {
                self.write(&policies[name], status).await?;
            }
        }
        Ok(())
    }

    async fn secrets(&self, names: BTreeSet<String>) -> Result<Secrets, kube::Error> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let mut secrets = Secrets::new();
        for name in names {
            let Some(secret) = api.get_opt(&name).await? else { continue };
            let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
            secrets.insert(name, data.collect());
        }
        Ok(secrets)
    }

    /// Fills the store, and wakes whom it says something else of.
    fn publish(&self, policies: Policies) {
        let new = Arc::new(policies);
        let old = self.writer.0.send_replace(Some(new.clone()));
        for service in self.hub.services() {
            let Some(id) = service_ref(&service) else { continue };
            let judge = |policies: &Policies| policies.judge(&id.namespace, &service.spec);
            if old.as_deref().map(judge) != Some(judge(&new)) {
                self.hub.wake.one(&id);
            }
        }
    }

    /// Writes a status, unless the policy has changed since it was seen: then it is judged by that anyway.
    async fn write(&self, policy: &WasmPolicy, status: WasmPolicyStatus) -> Result<(), kube::Error> {
        let name = policy.name_any();
        let body = json!({
            "apiVersion": WasmPolicy::api_version(&()),
            "kind": WasmPolicy::kind(&()),
            "metadata": { "name": name, "uid": policy.uid(), "resourceVersion": policy.resource_version() },
            "status": status,
        });
        let api = Api::<WasmPolicy>::all(self.client.clone());
        match api.patch_status(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&body)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return Ok(()),
            Err(error) => return Err(error),
        }
        let old = policy.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let notices = events::notices(old, &status.conditions);
        events::publish(&self.recorder, &policy.object_ref(&()), notices).await;
        Ok(())
    }
}

impl<T: PartialEq> Listed<T> {
    fn new() -> Self {
        Self { all: BTreeMap::new(), coming: BTreeMap::new(), complete: false }
    }

    /// There are none, as far as anybody has shown. Answers whether that is news.
    fn none(&mut self) -> bool {
        !std::mem::replace(&mut self.complete, true)
    }

    /// Answers whether something that matters is another.
    fn hear<K: Resource<DynamicType = ()>>(&mut self, event: Event<K>, read: impl Fn(&K) -> T) -> bool {
        match event {
            Event::Init => {
                self.coming.clear();
                false
            }
            Event::InitApply(object) => {
                self.coming.insert(object.name_any(), read(&object));
                false
            }
            Event::InitDone => {
                let old = std::mem::replace(&mut self.all, std::mem::take(&mut self.coming));
                !std::mem::replace(&mut self.complete, true) || old != self.all
            }
            Event::Apply(object) => {
                let (name, new) = (object.name_any(), read(&object));
                let changed = self.all.get(&name) != Some(&new);
                self.all.insert(name, new);
                changed
            }
            Event::Delete(object) => self.all.remove(&object.name_any()).is_some(),
        }
    }
}

fn is_no_kind(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::InitialListFailed(kube::Error::Api(status)) if status.code == 404)
}
