//! Makes a plan true. In: a plan and what was found; out: proof of it, which status needs. IO: server-side apply under
//! one field manager, then the link.

use std::fmt::Debug;

use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use podless_crds::FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Context,
    children::Child,
    observe::Observed,
    plan::{Facts, Plan},
    slices::SlicePlan,
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

/// Applies a plan. The slices go before the link: what shims are told is recorded first. A Service that the API server
/// will not have holds up neither: its error comes after.
pub async fn apply(plan: Plan, observed: &Observed, context: &Context) -> Result<Applied, kube::Error> {
    // The loads were taken when it was planned.
    let Plan { service, slices, assigned, growth, loads: _, facts } = plan;
    let child = &observed.child;
    let namespace = &observed.id.namespace;
    let served = match write_service(&context.client, namespace, service, child).await {
        // Somebody was faster: this plan may be of a Service that is not ours any more.
        Err(kube::Error::Api(status)) if status.code == 409 => return Err(kube::Error::Api(status)),
        served => served,
    };
    write_slices(slices, observed, context).await?;
    if let Some(assigned) = assigned {
        context.hub.sessions().assign(assigned);
    }
    for growth in growth {
        context.hub.sessions().spread(&observed.id.uid, &growth);
    }
    served?;
    Ok(Applied(facts))
}

/// Writes the slices that have changed, in their order; then deletes those that are not needed any more.
async fn write_slices(plan: SlicePlan, observed: &Observed, context: &Context) -> Result<(), kube::Error> {
    let SlicePlan { wanted, emptied } = plan;
    let id = &observed.id;
    for slice in wanted {
        let name = slice.name_any();
        let found = observed.slices.get(&name).unwrap_or(&Child::Missing);
        if found.ours().is_some_and(|live| same_slice(live, &slice)) {
            continue;
        }
        // Before it is there: whatever becomes of this write, it is looked for.
        context.ledger().slices.insert(id, &name);
        write(&context.client, &id.namespace, slice, found).await?;
    }
    let api = Api::<EndpointSlice>::namespaced(context.client.clone(), &id.namespace);
    for name in emptied {
        let Some(live) = observed.slices.get(&name).and_then(Child::ours) else { continue };
        let as_found = Preconditions { uid: live.uid(), resource_version: live.resource_version() };
        match api.delete(&name, &DeleteParams::default().preconditions(as_found)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a slice is as it should be. Nobody adds to endpoints: a zone or a hint that they have and should not is a
/// difference.
fn same_slice(live: &EndpointSlice, desired: &EndpointSlice) -> bool {
    live.endpoints == desired.endpoints && holds(live, desired)
}

/// Applies the Service, after it was rid of what server-side apply would keep of others.
async fn write_service(
    client: &Client,
    namespace: &str,
    desired: core::Service,
    found: &Child<core::Service>,
) -> Result<(), kube::Error> {
    let Some(patch) = found.ours().and_then(|live| replacement(live, &desired)) else {
        if found.ours().is_some_and(|live| holds(live, &desired)) {
            return Ok(());
        }
        return write(client, namespace, desired, found).await;
    };
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
    let api = Api::<core::Service>::namespaced(client.clone(), namespace);
    let mended = api.patch(&desired.name_any(), &params, &Patch::Merge(&patch)).await?;
    write(client, namespace, desired, &Child::Ours(mended)).await
}

/// What to merge into a Service of ours that has other ports, or a selector or a traffic distribution that it should not.
/// Server-side apply merges ports by number: a port under our name with another number would stay beside ours and be
/// refused for ever. And what we do not have stays whoever has set it.
fn replacement(live: &core::Service, desired: &core::Service) -> Option<Value> {
    let spec = live.spec.clone().unwrap_or_default();
    let ports = serde_json::to_value(spec.ports.unwrap_or_default()).ok()?;
    let desired = desired.spec.as_ref()?;
    let wanted = serde_json::to_value(desired.ports.as_ref()?).ok()?;
    let distributes = spec.traffic_distribution.is_some() && desired.traffic_distribution.is_none();
    if contains(&ports, &wanted) && !distributes && spec.selector.is_none_or(|selector| selector.is_empty()) {
        return None;
    }
    Some(json!({
        "metadata": { "uid": live.metadata.uid, "resourceVersion": live.metadata.resource_version },
        "spec": { "ports": wanted, "selector": null, "trafficDistribution": desired.traffic_distribution },
    }))
}

/// Applies one object. What was found is a precondition: when somebody has changed or replaced it since, the API server
/// answers 409 and the next reconcile looks again.
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
pub(crate) fn contains(live: &Value, desired: &Value) -> bool {
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

    #[test]
    fn a_zone_that_is_gone_is_a_difference_of_a_slice() {
        let slice = |zone: Option<&str>, label: Option<&str>| -> EndpointSlice {
            let endpoint = json!({"addresses": ["10.0.0.1"], "zone": zone});
            let mut labels = json!({"ours": "1"});
            if let Some(label) = label {
                labels["theirs"] = label.into();
            }
            let slice = json!({"metadata": {"labels": labels}, "addressType": "IPv4", "endpoints": [endpoint]});
            serde_json::from_value(slice).expect("a slice")
        };
        assert!(same_slice(&slice(Some("west"), Some("x")), &slice(Some("west"), None)));
        assert!(!same_slice(&slice(Some("west"), None), &slice(None, None)));
        assert!(!same_slice(&slice(None, None), &slice(Some("west"), None)));
    }

    #[test]
    fn other_ports_and_selectors_are_replaced_and_nothing_else_is() {
        let service = |spec: Value| -> core::Service {
            serde_json::from_value(json!({"metadata": {"resourceVersion": "7"}, "spec": spec})).expect("a service")
        };
        let desired = service(json!({"ports": [{"name": "http", "port": 80, "targetPort": 20_001}]}));
        let same = json!([{"name": "http", "port": 80, "targetPort": 20_001, "nodePort": 30_000}]);
        let table = [
            (json!({"ports": same, "clusterIP": "10.0.0.1"}), false),
            (json!({"ports": same, "selector": {}}), false),
            (json!({"ports": same, "selector": {"app": "theirs"}}), true),
            (json!({"ports": [{"name": "http", "port": 8080, "targetPort": 1}]}), true),
            (json!({"ports": [same[0], {"name": "more", "port": 8080}]}), true),
            (json!({}), true),
            (json!({"ports": same, "trafficDistribution": "PreferClose"}), true),
        ];
        for (live, want) in table {
            let patch = replacement(&service(live.clone()), &desired);
            assert_eq!(patch.is_some(), want, "{live}");
            if let Some(patch) = patch {
                let ports = desired.spec.clone().expect("a spec").ports;
                assert_eq!(patch["spec"], json!({"ports": ports, "selector": null, "trafficDistribution": null}));
                assert_eq!(patch["metadata"]["resourceVersion"], "7");
            }
        }
    }
}
