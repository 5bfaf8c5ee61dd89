//! An operator that is this process, with shims and artifacts that are only said to be. IO.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures::future::{BoxFuture, FutureExt};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, Service},
        discovery::v1::EndpointSlice,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResourceExt, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::events::Reporter,
};
use podless_artifact::{
    Held,
    seal::{HttpWorld, Seal, SealKey},
};
use podless_crds::{ConditionType, Reason, WasmNode, WasmPolicy, WasmService};
use podless_engine::{Flavour, Target};
use podless_link::v1::{self, ack};
use podless_operator::{
    build::{Artifacts, Built, Code, Origin, Progress, Rejection, Wanted},
    hosts,
    link::{auth::Identity, sessions::Next},
    metrics::Metrics,
    namespaces::Namespaces,
    nodes::facts,
    policy,
    reconcile::{
        Context,
        children::{recorded, recorded_port, slice_name},
        plan::{Settings, salt},
        slices::Family,
    },
    run::{Parts, reconcile_all},
    schedule::stable_hash,
    shims, sources, tombstone,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Artifacts that are made of nothing. An image whose name has `broken` in it is refused.
struct Pretended(Arc<SealKey>);

impl Artifacts for Pretended {
    fn build(&self, wanted: Wanted, _: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let key = self.0.clone();
        async move {
            if wanted.image.contains("broken") {
                let message = "the layer is a core module: make a component of it";
                return Err(Rejection::mistake(Reason::CoreModule, message));
            }
            if wanted.image.contains(&format!("not-for-{}", wanted.target)) {
                return Err(Rejection::mistake(Reason::CompileFailed, "it does not compile"));
            }
            // A tag and what it means are the same here.
            let name = wanted.image.split('@').next().unwrap_or_default();
            let seal = Seal {
                component: format!("sha256:{name}"),
                code_sha256: format!("{name} for {}", wanted.target),
                code_size: 0,
                fingerprint: podless_engine::fingerprint(wanted.target),
                wasmtime: podless_engine::WASMTIME_VERSION.to_owned(),
                target: wanted.target.to_string(),
                http: HttpWorld::P2,
                flavour: Flavour::P2,
                made_at: "2026-01-31T12:00:00Z".to_owned(),
            };
            let file = tempfile::tempfile().expect("a file");
            Ok(Built {
                digest: format!("sha256:{name}"),
                manifest: None,
                component_size: 1,
                imports: vec![],
                sealed: key.seal(&seal).expect("sealed"),
                compile_millis: 1,
                origin: Origin::Compiled,
                unverified: None,
                unsure: None,
                code: Arc::new(Code {
                    sha256: seal.code_sha256.clone(),
                    size: 0,
                    file,
                    note: String::new(),
                    held: Held::default(),
                }),
                seal,
            })
        }
        .boxed()
    }
}

/// An operator without lease and link, in a namespace of its own.
pub(crate) struct Operator {
    pub(crate) kube: Client,
    pub(crate) namespace: String,
    pub(crate) context: Arc<Context>,
    /// Ended with the test.
    pub(crate) tasks: JoinSet<()>,
}

/// A shim that says that it has loaded whatever it is told.
pub(crate) struct Shim {
    told: Arc<Mutex<Vec<String>>>,
    spread: Arc<Mutex<Vec<(u32, u32)>>>,
}

impl Operator {
    pub(crate) async fn start(namespace: &str) -> Result<Self> {
        let kube = connect().await?;
        make_namespace(&kube, namespace).await?;
        Self::again(kube, namespace).await
    }

    /// Another operator in the same place.
    pub(crate) async fn again(kube: Client, namespace: &str) -> Result<Self> {
        Self::of(kube.clone(), kube, namespace, &Namespaces::default()).await
    }

    /// An operator that may do what `rights` may, and serves these namespaces; `kube` is the test's own.
    pub(crate) async fn of(kube: Client, rights: Client, namespace: &str, namespaces: &Namespaces) -> Result<Self> {
        let key = || SealKey::from_random([7; 32]);
        let settings = Settings {
            namespace: namespace.to_owned(),
            cluster_domain: "cluster.local".into(),
            activation_nodes: 2,
            family: Family::V4,
            salt: salt(&key()),
        };
        let reporter = Reporter { controller: "podless-operator".into(), instance: Some("test".into()) };
        let artifacts = Arc::new(Pretended(Arc::new(key())));
        let client = rights.clone();
        let parts = Parts::new(client, namespaces, artifacts, settings, reporter, Metrics::default(), key()).await?;
        let Parts { controller, context, writer, nodes, policies, hosts } = parts;
        let mut tasks = JoinSet::new();
        let (hub, builds) = (context.hub.clone(), context.builds.clone());
        tasks.spawn(shims::follow(rights.clone(), namespace.to_owned(), hub.clone(), writer));
        tasks.spawn(facts::follow(rights.clone(), hub.wake.clone(), nodes));
        let follow = policy::Follow {
            client: rights.clone(),
            namespace: namespace.to_owned(),
            hub: hub.clone(),
            recorder: context.recorder.clone(),
            writer: policies,
        };
        tasks.spawn(follow.run());
        let hosts = hosts::Follow { hub: hub.clone(), policies: context.policies.clone(), writer: hosts };
        tasks.spawn(hosts.run());
        let (client, named) = (rights.clone(), namespaces.clone());
        let (of, making) = (hub.clone(), builds.clone());
        tasks.spawn(async move { sources::follow(client, &named, of, making).await });
        context.pods.wait_until_ready().await?;
        context.nodes.wait_until_ready().await?;
        context.policies.wait_until_ready().await?;
        tasks.spawn(reconcile_all(controller, context.clone()));
        hub.wait_until_ready().await?;
        let (ledger, failures, named) = (context.ledger.clone(), context.failures.clone(), namespaces.clone());
        tasks.spawn(async move { match tombstone::watch(rights, &named, hub, builds, ledger, failures).await {} });
        Ok(Self { kube, namespace: namespace.to_owned(), context, tasks })
    }

    pub(crate) fn connect_shim(&mut self, node: &str, known: &[(&str, u64)]) -> Shim {
        self.connect_pod(node, node, known)
    }

    /// A shim in a pod of this name: a node may have two.
    pub(crate) fn connect_pod(&mut self, pod: &str, node: &str, known: &[(&str, u64)]) -> Shim {
        self.connect_target(pod, node, known, Target::default())
    }

    /// A shim that runs machine code of this target.
    pub(crate) fn connect_target(&mut self, pod: &str, node: &str, known: &[(&str, u64)], target: Target) -> Shim {
        let identity = Identity {
            pod_uid: format!("{}-{pod}", self.namespace),
            pod_name: format!("podless-shim-{pod}"),
            node: node.to_owned(),
            ip: Ipv4Addr::from_bits(0x0a00_0000 | stable_hash(&[pod]) as u32 & 0x00ff_ffff).to_string(),
        };
        let known =
            known.iter().map(|(uid, generation)| v1::Known { service_uid: (*uid).to_owned(), generation: *generation });
        let hello = v1::Hello {
            fingerprint: podless_engine::fingerprint(target),
            target: target.to_string(),
            known: known.collect(),
            ..Default::default()
        };
        let hub = self.context.hub.clone();
        let (key, notify) = hub.sessions().open(identity, hello, hub.service_uids(), Instant::now());
        hub.membership_changed();
        let (told, spread) = (Arc::new(Mutex::new(vec![])), Arc::new(Mutex::new(vec![])));
        // What an earlier test has left is none of this one's.
        let mine = self.namespace.clone();
        let shim = Shim { told: told.clone(), spread: spread.clone() };
        self.tasks.spawn(async move {
            loop {
                loop {
                    let Some(next) = hub.sessions().next(&key) else { break };
                    let ours = !matches!(&next, Next::Assign(assigned, ..) if assigned.service.namespace != mine);
                    let (said, ack) = match next {
                        Next::Assign(assigned, share, artifact) => {
                            assert_eq!(artifact.seal.target, target.to_string(), "none other runs here");
                            let loaded = ack::Outcome::Loaded(v1::Loaded {});
                            let uid = assigned.service.uid.clone();
                            let generation = assigned.generation;
                            hub.wake.one(&assigned.service);
                            let said = format!("assign {} {generation} budget {}", assigned.service.name, share.budget);
                            (said, Some(v1::Ack { service_uid: uid, generation, outcome: Some(loaded) }))
                        }
                        Next::Withdraw { service, generation, .. } => {
                            let withdrawn = Some(ack::Outcome::Withdrawn(v1::Withdrawn {}));
                            let said = format!("withdraw {service}");
                            (said, Some(v1::Ack { service_uid: service, generation, outcome: withdrawn }))
                        }
                        Next::Synced => ("synced".to_owned(), None),
                        Next::Probe(probe) => (format!("probe {}", probe.address), None),
                        Next::Recall(_) => continue,
                        // When it comes depends on who loads first.
                        Next::Spread(hint) => {
                            spread.lock().expect("no panic").push((hint.before, hint.after));
                            continue;
                        }
                    };
                    if ours {
                        told.lock().expect("no panic").push(said);
                    }
                    if let Some(ack) = ack {
                        hub.sessions().ack(&key, ack, Instant::now());
                    }
                }
                notify.notified().await;
            }
        });
        shim
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    pub(crate) async fn apply(&self, name: &str, mut spec: Value) -> Result<WasmService> {
        if spec.get("replicas").is_none() && spec.get("scaling").is_none() {
            spec["replicas"] = 1.into();
        }
        let object = json!({
            "apiVersion": "podless.dev/v1alpha1", "kind": "WasmService", "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("test").force();
        Ok(self.api::<WasmService>().patch(name, &params, &Patch::Apply(&object)).await?)
    }

    pub(crate) async fn until<T>(&self, what: &str, check: impl AsyncFn() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        loop {
            match check().await {
                Ok(done) => return Ok(done),
                Err(error) if start.elapsed() > PATIENCE => return Err(error.context(format!("{what}: never"))),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Waits until a condition of the present generation is so.
    pub(crate) async fn says(&self, name: &str, kind: ConditionType, want: &str) -> Result<WasmService> {
        self.until(&format!("{name} says {} {want}", kind.as_str()), async || {
            let service = self.api::<WasmService>().get(name).await?;
            let conditions = service.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
            let condition = conditions.iter().find(|c| c.type_ == kind.as_str()).context("no such condition")?;
            ensure!(condition.observed_generation == service.metadata.generation, "of an earlier generation");
            ensure!(format!("{} {}", condition.status, condition.reason) == want, "{condition:?}");
            Ok(service)
        })
        .await
    }

    pub(crate) async fn serving(&self, name: &str) -> Result<WasmService> {
        self.says(name, ConditionType::Ready, "True Serving").await
    }

    pub(crate) async fn slice(&self, name: &str) -> Result<EndpointSlice> {
        Ok(self.api::<EndpointSlice>().get(&slice_name(name)).await?)
    }

    /// Waits until both children are as they should be.
    pub(crate) async fn children(&self, name: &str, port: u16, nodes: usize) -> Result<(Service, EndpointSlice)> {
        self.until(&format!("{name}'s children are right"), async || {
            let service = self.api::<Service>().get(name).await?;
            let ports = service.spec.as_ref().and_then(|s| s.ports.as_ref()).context("ports")?;
            let target = ports[0].target_port.clone().context("a target port")?;
            ensure!(ports.len() == 1 && ports[0].port == 80, "{ports:?}");
            let selector = service.spec.as_ref().and_then(|s| s.selector.as_ref());
            ensure!(selector.is_none_or(|s| s.is_empty()), "{selector:?}");
            ensure!(serde_json::to_value(&target)? == json!(port), "{target:?}");
            let slice = self.slice(name).await?;
            ensure!(recorded_port(&slice) == Some(port), "{:?}", slice.ports);
            let ready = slice.endpoints.iter().filter(|e| e.conditions.as_ref().and_then(|c| c.ready) == Some(true));
            ensure!(ready.count() == nodes && slice.endpoints.len() == nodes, "{:?}", slice.endpoints);
            ensure!(recorded(&slice).is_some_and(|r| r.nodes.len() == nodes), "{:?}", slice.annotations());
            Ok((service, slice))
        })
        .await
    }

    pub(crate) async fn end(self) -> Result<()> {
        Api::<Namespace>::all(self.kube.clone()).delete(&self.namespace, &DeleteParams::background()).await?;
        Ok(())
    }
}

pub(crate) async fn connect() -> Result<Client> {
    ensure!(
        std::env::var_os("KUBECONFIG").is_some(),
        "KUBECONFIG is not set: run these tests by `make test`, or give them a cluster that is there for tests"
    );
    // Shown for a test that fails: `RUST_LOG=debug` says more.
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let kube = Client::try_default().await.context("KUBECONFIG names no cluster that answers")?;
    let crds = Api::<CustomResourceDefinition>::all(kube.clone());
    for crd in [WasmService::crd(), WasmNode::crd(), WasmPolicy::crd()] {
        let params = PatchParams::apply("test").force();
        crds.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await?;
        let established = kube::runtime::conditions::is_crd_established();
        let name = crd.name_any();
        let wait = kube::runtime::wait::await_condition(crds.clone(), &name, established);
        tokio::time::timeout(PATIENCE, wait).await.context("the CRD is not established")??;
    }
    Ok(kube)
}

pub(crate) async fn make_namespace(kube: &Client, name: &str) -> Result<()> {
    let api = Api::<Namespace>::all(kube.clone());
    // Of an earlier run that failed.
    let start = Instant::now();
    while api.get_opt(name).await?.is_some() {
        ensure!(start.elapsed() < PATIENCE * 3, "namespace {name} of an earlier run does not go away");
        let _ = api.delete(name, &DeleteParams::background()).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let object: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

pub(crate) fn told(shim: &Shim) -> Vec<String> {
    shim.told.lock().expect("no panic").clone()
}

/// From how many shims to how many its connections were to be spread.
pub(crate) fn spread(shim: &Shim) -> Vec<(u32, u32)> {
    shim.spread.lock().expect("no panic").clone()
}
