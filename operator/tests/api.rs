//! The reconciler against a real API server, with artifacts and shims that are only said to be: from each state that an
//! object may be left in, everything is put right. Needs KUBECONFIG of a cluster that is there for tests.

#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::future::{BoxFuture, FutureExt};
use k8s_openapi::{
    api::{
        core::v1::{Namespace, ResourceQuota, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        events::v1::Event,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, CustomResourceExt, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::events::Reporter,
};
use podless_artifact::seal::{HttpWorld, Seal, SealKey};
use podless_crds::{ConditionType, Reason, WasmNode, WasmService};
use podless_link::v1::{self, ack};
use podless_operator::{
    build::{Artifacts, Built, Code, Progress, Rejection, Wanted},
    link::{auth::Identity, sessions::Next},
    metrics::Metrics,
    reconcile::{
        Context,
        children::{recorded, recorded_port, slice_name},
        plan::Settings,
    },
    run::{Parts, reconcile_all},
    shims, tombstone,
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

const PATIENCE: Duration = Duration::from_secs(30);

/// Artifacts that are made of nothing. An image whose name has `broken` in it is refused.
struct Pretended(Arc<SealKey>);

impl Artifacts for Pretended {
    fn build(&self, wanted: Wanted, _: Progress) -> BoxFuture<'static, Result<Built, Rejection>> {
        let key = self.0.clone();
        async move {
            if wanted.image.contains("broken") {
                let message = "the layer is a core module: make a component of it".to_owned();
                return Err(Rejection { reason: Reason::CoreModule, message, transient: false });
            }
            let seal = Seal {
                component: format!("sha256:{}", wanted.image),
                code_sha256: wanted.image.clone(),
                code_size: 0,
                fingerprint: podless_engine::fingerprint(),
                target: podless_engine::TARGET.to_owned(),
                http: HttpWorld::P2,
            };
            let file = tempfile::tempfile().expect("a file");
            Ok(Built {
                digest: format!("sha256:{}", wanted.image),
                component_size: 1,
                imports: vec![],
                sealed: key.seal(&seal).expect("sealed"),
                compile_millis: 1,
                code: Arc::new(Code { sha256: seal.code_sha256.clone(), size: 0, file }),
                seal,
            })
        }
        .boxed()
    }
}

/// An operator without lease and link, in a namespace of its own.
struct Operator {
    kube: Client,
    namespace: String,
    context: Arc<Context>,
    /// Ended with the test.
    _tasks: JoinSet<()>,
}

/// A shim that says that it has loaded whatever it is told.
struct Shim {
    told: Arc<Mutex<Vec<String>>>,
}

impl Operator {
    async fn start(namespace: &str) -> Result<Self> {
        let kube = connect().await?;
        make_namespace(&kube, namespace).await?;
        Self::again(kube, namespace).await
    }

    /// Another operator in the same place.
    async fn again(kube: Client, namespace: &str) -> Result<Self> {
        let settings =
            Settings { namespace: namespace.to_owned(), cluster_domain: "cluster.local".into(), address_type: "IPv4" };
        let key = || SealKey::from_random([7; 32]);
        let reporter = Reporter { controller: "podless-operator".into(), instance: Some("test".into()) };
        let artifacts = Arc::new(Pretended(Arc::new(key())));
        let parts = Parts::new(kube.clone(), artifacts, settings, reporter, Metrics::default(), key()).await?;
        let Parts { controller, context, ports, writer } = parts;
        let mut tasks = JoinSet::new();
        let (hub, builds) = (context.hub.clone(), context.builds.clone());
        tasks.spawn(shims::follow(kube.clone(), namespace.to_owned(), hub.clone(), writer));
        tasks.spawn(reconcile_all(controller, context.clone()));
        context.pods.wait_until_ready().await?;
        hub.wait_until_ready().await?;
        let watch = tombstone::watch(kube.clone(), hub, builds, ports);
        tasks.spawn(async move { match watch.await {} });
        Ok(Self { kube, namespace: namespace.to_owned(), context, _tasks: tasks })
    }

    fn connect_shim(&mut self, node: &str, known: &[(&str, u64)]) -> Shim {
        let identity = Identity {
            pod_uid: format!("{}-{node}", self.namespace),
            pod_name: format!("podless-shim-{node}"),
            node: node.to_owned(),
            ip: format!("10.99.0.{}", node.bytes().last().unwrap_or(1)),
        };
        let known =
            known.iter().map(|(uid, generation)| v1::Known { service_uid: (*uid).to_owned(), generation: *generation });
        let hello =
            v1::Hello { fingerprint: podless_engine::fingerprint(), known: known.collect(), ..Default::default() };
        let hub = self.context.hub.clone();
        let (key, notify) = hub.sessions().open(identity, hello, hub.service_uids(), Instant::now());
        hub.membership_changed();
        let told = Arc::new(Mutex::new(vec![]));
        let shim = Shim { told: told.clone() };
        self._tasks.spawn(async move {
            loop {
                loop {
                    let Some(next) = hub.sessions().next(&key) else { break };
                    let (said, ack) = match next {
                        Next::Assign(assigned, budget) => {
                            let loaded = ack::Outcome::Loaded(v1::Loaded {});
                            let uid = assigned.service.uid.clone();
                            let generation = assigned.generation;
                            hub.wake.one(&assigned.service);
                            let said = format!("assign {} {generation} budget {budget}", assigned.service.name);
                            (said, Some(v1::Ack { service_uid: uid, generation, outcome: Some(loaded) }))
                        }
                        Next::Withdraw { service, generation } => {
                            let withdrawn = Some(ack::Outcome::Withdrawn(v1::Withdrawn {}));
                            let said = format!("withdraw {service}");
                            (said, Some(v1::Ack { service_uid: service, generation, outcome: withdrawn }))
                        }
                        Next::Synced => ("synced".to_owned(), None),
                    };
                    told.lock().expect("no panic").push(said);
                    if let Some(ack) = ack {
                        hub.sessions().ack(&key, ack, Instant::now());
                    }
                }
                notify.notified().await;
            }
        });
        shim
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.kube.clone(), &self.namespace)
    }

    async fn apply(&self, name: &str, spec: Value) -> Result<WasmService> {
        let object = json!({
            "apiVersion": "podless.dev/v1alpha1", "kind": "WasmService", "metadata": {"name": name}, "spec": spec,
        });
        let params = PatchParams::apply("test").force();
        Ok(self.api::<WasmService>().patch(name, &params, &Patch::Apply(&object)).await?)
    }

    async fn until<T>(&self, what: &str, check: impl AsyncFn() -> Result<T>) -> Result<T> {
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
    async fn says(&self, name: &str, kind: ConditionType, want: &str) -> Result<WasmService> {
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

    async fn serving(&self, name: &str) -> Result<WasmService> {
        self.says(name, ConditionType::Ready, "True Serving").await
    }

    async fn slice(&self, name: &str) -> Result<EndpointSlice> {
        Ok(self.api::<EndpointSlice>().get(&slice_name(name)).await?)
    }

    /// Waits until both children are as they should be.
    async fn children(&self, name: &str, port: u16, nodes: usize) -> Result<(Service, EndpointSlice)> {
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

    async fn end(self) -> Result<()> {
        Api::<Namespace>::all(self.kube.clone()).delete(&self.namespace, &DeleteParams::background()).await?;
        Ok(())
    }
}

async fn connect() -> Result<Client> {
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
    for crd in [WasmService::crd(), WasmNode::crd()] {
        let params = PatchParams::apply("test").force();
        crds.patch(&crd.name_any(), &params, &Patch::Apply(&crd)).await?;
        let established = kube::runtime::conditions::is_crd_established();
        let name = crd.name_any();
        let wait = kube::runtime::wait::await_condition(crds.clone(), &name, established);
        tokio::time::timeout(PATIENCE, wait).await.context("the CRD is not established")??;
    }
    Ok(kube)
}

async fn make_namespace(kube: &Client, name: &str) -> Result<()> {
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

fn told(shim: &Shim) -> Vec<String> {
    shim.told.lock().expect("no panic").clone()
}

/// All in one, because each operator reconciles every namespace: two at once would undo each other's work.
#[tokio::test]
async fn every_intermediate_state_is_put_right() -> Result<()> {
    let mut operator = Operator::start("op-states").await?;
    let (one, two) = (operator.connect_shim("n1", &[]), operator.connect_shim("n2", &[]));

    // From nothing.
    operator.apply("hello", json!({"image": "good:1", "replicas": 3})).await?;
    let ready = operator.serving("hello").await?;
    let status = ready.status.clone().context("a status")?;
    assert_eq!((status.replicas, status.ready_replicas, status.placements.len()), (3, 3, 2));
    assert_eq!(status.image.context("an image")?.digest, "sha256:good:1");
    let port = recorded_port(&operator.slice("hello").await?).context("a port")?;
    let (service, slice) = operator.children("hello", port, 2).await?;
    for child in [service.owner_references(), slice.owner_references()] {
        assert_eq!(child.iter().map(|o| &o.uid).collect::<Vec<_>>(), [ready.metadata.uid.as_ref().context("uid")?]);
    }
    assert!(service.spec.context("a spec")?.selector.is_none());
    let mut budgets: Vec<_> = [&one, &two].into_iter().flat_map(told).filter(|t| t != "synced").collect();
    budgets.sort();
    assert_eq!(budgets, ["assign hello 1 budget 100", "assign hello 1 budget 200"]);
    operator
        .until("an Event that it serves", async || {
            let events = operator.api::<Event>().list(&Default::default()).await?;
            let reasons: Vec<_> = events.iter().filter_map(|e| e.reason.clone()).collect();
            ensure!(reasons.iter().filter(|r| *r == "Serving").count() == 1, "{reasons:?}");
            Ok(())
        })
        .await?;

    // The Service is missing.
    operator.api::<Service>().delete("hello", &DeleteParams::default()).await?;
    operator.children("hello", port, 2).await?;
    // The slice is missing.
    operator.api::<EndpointSlice>().delete(&slice_name("hello"), &DeleteParams::default()).await?;
    operator.children("hello", port, 2).await?;
    // The slice has the wrong port and no endpoints.
    let wrong = json!({"ports": [{"name": "http", "port": 81}], "endpoints": []});
    let slices = operator.api::<EndpointSlice>();
    slices.patch(&slice_name("hello"), &PatchParams::default(), &Patch::Merge(&wrong)).await?;
    operator.children("hello", port, 2).await?;
    // Somebody points the Service elsewhere.
    let wrong = json!({"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 22}]}});
    operator.api::<Service>().patch("hello", &PatchParams::default(), &Patch::Merge(&wrong)).await?;
    operator.children("hello", port, 2).await?;
    // Somebody gives the port another number, and the Service a selector: neither is what apply would merge away.
    let wrong = [
        json!({"spec": {"ports": [{"name": "http", "port": 8080, "targetPort": 1}]}}),
        json!({"spec": {"ports": [{"name": "http", "port": 80}, {"name": "more", "port": 8080}]}}),
        json!({"spec": {"selector": {"app": "theirs"}}}),
    ];
    for wrong in wrong {
        let theirs = PatchParams { field_manager: Some("somebody".into()), ..Default::default() };
        operator.api::<Service>().patch("hello", &theirs, &Patch::Merge(&wrong)).await?;
        operator.children("hello", port, 2).await?;
        operator.serving("hello").await?;
    }
    // Status is lost.
    let none = json!({"status": null});
    operator.api::<WasmService>().patch_status("hello", &PatchParams::default(), &Patch::Merge(&none)).await?;
    operator.serving("hello").await?;
    let record = recorded(&operator.slice("hello").await?).context("a record")?;
    assert_eq!(record.generation, 1, "nothing of this was news to the shims");

    // A Service that is not ours.
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "taken"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 8080}]},
    });
    let theirs: Service = serde_json::from_value(theirs)?;
    let before = operator.api::<Service>().create(&PostParams::default(), &theirs).await?;
    operator.apply("taken", json!({"image": "good:1"})).await?;
    operator.says("taken", ConditionType::Ready, "False ServiceConflict").await?;
    let after = operator.api::<Service>().get("taken").await?;
    assert_eq!(before.resource_version(), after.resource_version(), "theirs is untouched");
    operator.api::<Service>().delete("taken", &DeleteParams::default()).await?;
    operator.serving("taken").await?;

    // A quota that leaves no room for another Service: the user is told, and it is tried again.
    let quota = json!({"metadata": {"name": "none"}, "spec": {"hard": {"count/services": "2"}}});
    let quota: ResourceQuota = serde_json::from_value(quota)?;
    operator.api::<ResourceQuota>().create(&PostParams::default(), &quota).await?;
    operator
        .until("the quota is in force", async || {
            let quota = operator.api::<ResourceQuota>().get("none").await?;
            ensure!(quota.status.and_then(|s| s.used).is_some_and(|used| !used.is_empty()), "not yet");
            Ok(())
        })
        .await?;
    operator.apply("third", json!({"image": "good:1"})).await?;
    let third = operator.says("third", ConditionType::Ready, "False InternalError").await?;
    assert!(serde_json::to_string(&third.status)?.contains("exceeded quota"), "{:?}", third.status);
    operator.api::<ResourceQuota>().delete("none", &DeleteParams::default()).await?;
    operator.serving("third").await?;

    // A broken new image leaves the old one serving; a good one mends it.
    operator.apply("hello", json!({"image": "broken:1", "replicas": 3})).await?;
    let broken = operator.says("hello", ConditionType::Ready, "False CoreModule").await?;
    operator.says("hello", ConditionType::Available, "True EarlierGeneration").await?;
    assert_eq!(broken.status.and_then(|s| s.image).context("an image")?.digest, "sha256:good:1");
    operator.children("hello", port, 2).await?;
    operator.apply("hello", json!({"image": "good:2", "replicas": 3})).await?;
    operator.serving("hello").await?;

    // Another replica takes over: the shims keep what they have, and what they know that is gone is withdrawn.
    let uid = ready.uid().context("a uid")?;
    let generation = recorded(&operator.slice("hello").await?).context("a record")?.generation;
    let before = (operator.slice("hello").await?, operator.api::<WasmService>().get("hello").await?);
    let Operator { kube, namespace, context, _tasks } = operator;
    drop((context, _tasks));
    let mut operator = Operator::again(kube, &namespace).await?;
    let known = [(uid.as_str(), generation), ("00000000-gone", 4)];
    let (one, two) = (operator.connect_shim("n1", &known), operator.connect_shim("n2", &known));
    for shim in [&one, &two] {
        operator
            .until("the shims are synced and the one that is gone is withdrawn", async || {
                let told = told(shim);
                ensure!(told.contains(&"synced".to_owned()), "{told:?}");
                ensure!(told.contains(&"withdraw 00000000-gone".to_owned()), "{told:?}");
                Ok(())
            })
            .await?;
        assert!(!told(shim).iter().any(|t| t.contains("assign hello")), "{:?}", told(shim));
    }
    let after = (operator.slice("hello").await?, operator.api::<WasmService>().get("hello").await?);
    assert_eq!(before.0.endpoints, after.0.endpoints);
    assert_eq!((before.0.ports, before.1.status), (after.0.ports, after.1.status));

    // Deletion: the shims are told, and Kubernetes takes the rest.
    operator.api::<WasmService>().delete("hello", &DeleteParams::default()).await?;
    operator
        .until("everything is gone", async || {
            ensure!(told(&one).contains(&format!("withdraw {uid}")), "{:?}", told(&one));
            ensure!(operator.api::<Service>().get_opt("hello").await?.is_none(), "the Service is there");
            ensure!(
                operator.api::<EndpointSlice>().get_opt(&slice_name("hello")).await?.is_none(),
                "the slice is there"
            );
            Ok(())
        })
        .await?;
    operator.end().await
}

/// Who shows a token that is not a shim's is turned away by what the API server says of it.
#[tokio::test]
async fn a_stranger_is_no_shim() -> Result<()> {
    let kube = connect().await?;
    let auth = podless_operator::link::auth::Authenticator::new(kube.clone(), "default");
    let mut metadata = tonic::metadata::MetadataMap::new();
    assert!(auth.identify(&metadata).await.is_err_and(|e| e.to_string().contains("no bearer token")));
    metadata.insert("authorization", "Bearer nonsense".parse()?);
    assert!(auth.identify(&metadata).await.is_err_and(|e| e.to_string().contains("not valid")));

    // A real token for the right audience, of another account and bound to no pod.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "stranger"}});
    let accounts = Api::<ServiceAccount>::namespaced(kube.clone(), "default");
    accounts.patch("stranger", &PatchParams::apply("test"), &Patch::Apply(&account)).await?;
    let request: http::Request<Vec<u8>> = http::Request::post(
        "/api/v1/namespaces/default/serviceaccounts/stranger/token",
    )
    .header("content-type", "application/json")
    .body(serde_json::to_vec(&json!({
        "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": ["podless-link"]},
    }))?)?;
    let answer: Value = kube.request(request).await?;
    let token = answer["status"]["token"].as_str().ok_or_else(|| anyhow!("no token"))?;
    metadata.insert("authorization", format!("Bearer {token}").parse()?);
    assert!(auth.identify(&metadata).await.is_err_and(|e| e.to_string().contains("not the shims'")));
    Ok(())
}
