//! Tells shims where the leader is: the EndpointSlice of Service `podless-link`. In: this pod's address; out: the slice,
//! kept as it should be. IO.

use std::{net::IpAddr, time::Duration};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, Client, Resource};
use podless_crds::MANAGED_BY;
use podless_link::LINK_SERVICE;
use serde_json::json;

use crate::keep;

/// How often it is looked whether the slice is right.
const REPAIR: Duration = Duration::from_secs(5);

/// Where this replica is.
#[derive(Clone, Debug)]
pub struct Here {
    /// Namespace of the release.
    pub namespace: String,
    /// Name of this pod.
    pub pod: String,
    /// Its address.
    pub ip: IpAddr,
    /// Port of the link.
    pub port: u16,
}

/// `IPv4` or `IPv6`, as the API server calls them.
fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Keeps the slice for as long as this replica leads.
pub async fn keep(client: Client, here: Here) -> std::convert::Infallible {
    let mut interval = tokio::time::interval(REPAIR);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        while let Err(error) = apply(&client, &here).await {
            tracing::warn!(%error, "shims cannot be told where the leader is: trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn apply(client: &Client, here: &Here) -> Result<(), kube::Error> {
    let service = Api::<Service>::namespaced(client.clone(), &here.namespace).get(LINK_SERVICE).await?;
    let body = json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": LINK_SERVICE,
            "labels": {
                "kubernetes.io/service-name": LINK_SERVICE,
                "endpointslice.kubernetes.io/managed-by": MANAGED_BY,
            },
            // It goes with the release.
            "ownerReferences": service.owner_ref(&()).into_iter().collect::<Vec<_>>(),
        },
        "addressType": family(here.ip),
        "ports": [{"name": "link", "port": here.port, "protocol": "TCP", "appProtocol": "https"}],
        "endpoints": [{
            "addresses": [here.ip],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": here.pod, "namespace": here.namespace},
        }],
    });
    keep::keep(&Api::<EndpointSlice>::namespaced(client.clone(), &here.namespace), LINK_SERVICE, body).await?;
    Ok(())
}
