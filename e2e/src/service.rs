//! Services under test: a namespace of their own, applying, waiting and asking. IO.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use k8s_openapi::{
    api::{core::v1 as core, discovery::v1::EndpointSlice},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams},
};
use podless_crds::{ConditionType, WasmService};
use serde_json::{Value, json};

use crate::{Target, eventually, get};

/// How long a service may take to become what it should: generous, because the machine is small and compiles.
const PATIENCE: Duration = Duration::from_secs(90);

/// A namespace that a test made for itself.
pub struct Namespace {
    /// Its name.
    pub name: String,
    kube: Client,
}

impl Namespace {
    pub(crate) async fn create(kube: Client, name: &str) -> Result<Self> {
        let api = Api::<core::Namespace>::all(kube.clone());
        let this = Self { name: name.to_owned(), kube };
        // A namespace of an earlier run is still there when that run failed.
        if api.get_opt(name).await?.is_some() {
            api.delete(name, &DeleteParams::background()).await?;
            this.gone().await?;
        }
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..Default::default() };
        api.create(&Default::default(), &core::Namespace { metadata, ..Default::default() }).await?;
        Ok(this)
    }

    async fn gone(&self) -> Result<()> {
        let api = Api::<core::Namespace>::all(self.kube.clone());
        eventually(&format!("namespace {} is gone", self.name), PATIENCE, async || {
            ensure!(api.get_opt(&self.name).await?.is_none(), "it is still there");
            Ok(())
        })
        .await
    }

    /// Deletes the namespace: the last line of a test that went well. Nobody waits for its end, which takes Kubernetes
    /// some seconds; who wants the name again does.
    pub async fn delete(self) -> Result<()> {
        Api::<core::Namespace>::all(self.kube.clone()).delete(&self.name, &DeleteParams::background()).await?;
        Ok(())
    }

    /// The WasmServices of this namespace.
    pub fn services(&self) -> Api<WasmService> {
        Api::namespaced(self.kube.clone(), &self.name)
    }

    /// The Services of this namespace.
    pub fn kube_services(&self) -> Api<core::Service> {
        Api::namespaced(self.kube.clone(), &self.name)
    }

    /// The EndpointSlices of this namespace.
    pub fn slices(&self) -> Api<EndpointSlice> {
        Api::namespaced(self.kube.clone(), &self.name)
    }

    /// Makes a secret with logins for registries, as `kubectl create secret docker-registry` does.
    pub async fn pull_secret(&self, name: &str, docker_config: &str) -> Result<()> {
        let secret = serde_json::from_value(json!({
            "metadata": {"name": name}, "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": docker_config}
        }))?;
        Api::<core::Secret>::namespaced(self.kube.clone(), &self.name).create(&Default::default(), &secret).await?;
        Ok(())
    }

    /// The one EndpointSlice of a service.
    pub async fn slice(&self, name: &str) -> Result<EndpointSlice> {
        let list = ListParams::default().labels(&format!("kubernetes.io/service-name={name}"));
        let slices = self.slices().list(&list).await?.items;
        ensure!(slices.len() == 1, "{} slices for {name}", slices.len());
        slices.into_iter().next().context("one slice")
    }

    /// Applies a WasmService with this spec, as `kubectl apply --server-side` would. One replica, unless the spec says
    /// how many, or how it is scaled.
    pub async fn apply(&self, name: &str, mut spec: Value) -> Result<WasmService> {
        if spec.get("replicas").is_none() && spec.get("scaling").is_none() {
            spec["replicas"] = 1.into();
        }
        self.apply_as_is(name, spec).await
    }

    /// Applies a WasmService with this spec and nothing else.
    pub async fn apply_as_is(&self, name: &str, spec: Value) -> Result<WasmService> {
        let object = wasm_service(name, spec);
        Ok(self.services().patch(name, &PatchParams::apply("e2e").force(), &Patch::Apply(&object)).await?)
    }

    /// Waits until this generation of a service is Ready.
    pub async fn ready(&self, name: &str) -> Result<WasmService> {
        self.until(name, &format!("{name} is Ready"), |s| is(s, ConditionType::Ready, "True")).await
    }

    /// Waits until this generation of a service is Ready and something answers at its address: kube-proxy hears of
    /// endpoints a moment after status does.
    pub async fn answers(&self, name: &str) -> Result<Target> {
        self.ready(name).await?;
        let target = self.target(name).await?;
        eventually(&format!("{name} answers"), PATIENCE, async || get(&target, "/").await).await?;
        Ok(target)
    }

    /// Waits until a service's condition has this status and reason, for its present generation; answers the message.
    pub async fn until_condition(&self, name: &str, kind: ConditionType, status: &str, reason: &str) -> Result<String> {
        let what = format!("{name} has {}={status} by {reason}", kind.as_str());
        let service = self
            .until(name, &what, |s| {
                is(s, kind, status) && condition(s, kind).is_some_and(|condition| condition.reason == reason)
            })
            .await?;
        Ok(condition(&service, kind).context("it was there")?.message.clone())
    }

    /// Waits until something is true of a service.
    pub async fn until(&self, name: &str, what: &str, holds: impl Fn(&WasmService) -> bool) -> Result<WasmService> {
        let api = self.services();
        eventually(what, PATIENCE, async || {
            let service = api.get(name).await?;
            match holds(&service) {
                true => Ok(service),
                false => Err(anyhow!("{}", serde_json::to_string(&service.status)?)),
            }
        })
        .await
    }

    /// Where a service's Service answers.
    pub async fn target(&self, name: &str) -> Result<Target> {
        let service = self.kube_services().get(name).await?;
        let spec = service.spec.context("a Service has a spec")?;
        let address = SocketAddr::new(spec.cluster_ip.context("no cluster IP")?.parse()?, 80);
        Ok(Target { address, host: format!("{name}.{}.svc.cluster.local", self.name) })
    }
}

/// A WasmService as a user's YAML has it: unknown and wrong fields are sent as they are.
pub fn wasm_service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "podless.dev/v1alpha1", "kind": "WasmService", "metadata": {"name": name}, "spec": spec})
}

/// A condition of a service, if it speaks of the service's present generation.
pub fn condition(service: &WasmService, kind: ConditionType) -> Option<&Condition> {
    let status = service.status.as_ref()?;
    status.conditions.iter().find(|c| c.type_ == kind.as_str() && c.observed_generation == service.metadata.generation)
}

/// Whether a condition has this status for the present generation.
pub fn is(service: &WasmService, kind: ConditionType, status: &str) -> bool {
    condition(service, kind).is_some_and(|c| c.status == status)
}
