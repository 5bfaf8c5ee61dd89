//! Makes a plan true. In: a plan and what was found; out: proof of it, which status needs. IO: server-side apply under
//! one field manager, then the link.

use std::fmt::Debug;

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use podless_crds::FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    Context,
    children::Child,
    observe::Observed,
    plan::{Facts, Plan},
};

/// The facts of a plan that has been applied.
#[derive(Clone, Debug)]
pub struct Applied(Facts);

impl Applied {
    /// What is true now.
    pub fn facts(&self) -> &Facts {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn pretend(facts: Facts) -> Self {
        Self(facts)
    }
}

/// Applies a plan. The slice goes before the link: what shims are told is recorded first.
pub async fn apply(plan: Plan, observed: &Observed, context: &Context) -> Result<Applied, kube::Error> {
    let Plan { service, slice, assigned, facts } = plan;
    let Observed { child, slice: found, .. } = observed;
    let namespace = &observed.id.namespace;
    write::<core::Service>(&context.client, namespace, service, child).await?;
    write::<EndpointSlice>(&context.client, namespace, slice, found).await?;
    if let Some(assigned) = assigned {
        context.hub.sessions().assign(assigned);
    }
    Ok(Applied(facts))
}

/// Applies one object, if it is not already so. What was found is a precondition: when somebody has changed or replaced
/// it since, the API server answers 409 and the next reconcile looks again.
async fn write<K>(client: &Client, namespace: &str, mut desired: K, found: &Child<K>) -> Result<(), kube::Error>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + k8s_openapi::Resource
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned,
{
    let mut params = PatchParams::apply(FIELD_MANAGER);
    if let Some(live) = found.ours() {
        if holds(live, &desired) {
            return Ok(());
        }
        desired.meta_mut().resource_version = live.resource_version();
        // It is ours: whoever else has set these fields is overruled.
        params = params.force();
    }
    let name = desired.name_any();
    let mut body = serde_json::to_value(&desired).map_err(kube::Error::SerdeError)?;
    if let Value::Object(body) = &mut body {
        body.insert("apiVersion".to_owned(), K::API_VERSION.into());
        body.insert("kind".to_owned(), K::KIND.into());
    }
    Api::<K>::namespaced(client.clone(), namespace).patch(&name, &params, &Patch::Apply(&body)).await?;
    Ok(())
}

/// Whether everything that is desired is there already.
fn holds<K: Serialize>(live: &K, desired: &K) -> bool {
    match (serde_json::to_value(live), serde_json::to_value(desired)) {
        (Ok(live), Ok(desired)) => contains(&live, &desired),
        _ => false,
    }
}

/// Objects may have more, which the API server or others have set; lists may not.
fn contains(live: &Value, desired: &Value) -> bool {
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => {
            desired.iter().all(|(key, value)| live.get(key).is_some_and(|live| contains(live, value)))
        }
        (Value::Array(live), Value::Array(desired)) => {
            live.len() == desired.len() && live.iter().zip(desired).all(|(live, desired)| contains(live, desired))
        }
        (live, desired) => live == desired,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_server_adds_is_no_difference_and_what_others_change_is() {
        let desired = json!({"spec": {"ports": [{"port": 80}], "type": "ClusterIP"}});
        let table = [
            (json!({"spec": {"ports": [{"port": 80, "nodePort": 1}], "type": "ClusterIP", "ip": "x"}, "s": 1}), true),
            (json!({"spec": {"ports": [{"port": 81}], "type": "ClusterIP"}}), false),
            (json!({"spec": {"ports": [{"port": 80}, {"port": 81}], "type": "ClusterIP"}}), false),
            (json!({"spec": {"ports": []}}), false),
            (json!({}), false),
        ];
        for (live, want) in table {
            assert_eq!(contains(&live, &desired), want, "{live}");
        }
    }
}
