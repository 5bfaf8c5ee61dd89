//! The wiring: the admin port always, everything else for as long as this replica leads. IO.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{core::v1 as core, discovery::v1::EndpointSlice};
use kube::{
    Client,
    core::PartialObjectMeta,
    runtime::{
        Config, Controller, WatchStreamExt,
        controller::Error as ControllerError,
        events::{Recorder, Reporter},
        reflector, watcher,
    },
};
use podless_crds::{SERVICE_LABEL, WasmService};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tracing_subscriber::EnvFilter;

use crate::{
    admin::{self, Role},
    build::{Artifacts, Builds, Registry, registries},
    cli::{LogFormat, RunArgs},
    eject::Eject,
    hosts::{self, HostWriter},
    inventory,
    leader::{self, Fence},
    link::{self, Hub, auth::Authenticator},
    link_slice::{self, Here},
    metrics::Metrics,
    namespaces::Namespaces,
    nodes::{
        Nodes,
        facts::{self, NodeWriter},
    },
    policy::{self, PolicyWriter},
    rebalance::Rebalance,
    reconcile::{
        Context,
        lanes::Lanes,
        measured::{Measured, measure},
        on_error,
        plan::{GRACE, Settings, salt},
        reconcile, service_ref,
        slices::Family,
    },
    recover::{note_slice, recover},
    shims, sources, tombstone,
    trust::{self, Resealed, Signing, Trust},
    wake::{Wake, Woken},
};

/// Services that may wait for their turn to be reconciled; see `reconcile::lanes`.
const WAITING: u16 = 4096;
/// What changes several times within this is reconciled once.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// How often replicas are decided anew: as often as shims say what they count.
const SCALE: Duration = Duration::from_millis(200);
/// How often what shims have measured is compared with status: the least time between two writes because of it.
const MEASURE: Duration = Duration::from_secs(10);

/// Logs to stderr; what, is decided by RUST_LOG.
fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.init(),
    }
}

/// Runs a future on all cores, with a log and the one TLS provider.
pub fn with_runtime<T>(log: LogFormat, future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    log_to_stderr(log);
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| anyhow!("another TLS provider was installed first"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(future);
    // What reads files for a shim that is gone must not hold up the exit.
    runtime.shutdown_background();
    result
}

/// Runs the operator until it is told to stop.
pub async fn run(args: RunArgs) -> anyhow::Result<()> {
    // A file that cannot be meant so is told at once, not when this one comes to lead.
    registries::check(&args.registry)?;
    let client =
        Client::try_default().await.context("no way to reach the API server: run in a pod, or set KUBECONFIG")?;
    let metrics = Metrics::default();
    let (role, watch_role) = watch::channel(Role::Standby);
    let admin = admin::serve(any(args.pod_ip, args.admin_port), metrics.clone(), watch_role);
    let (namespace, pod) = (args.namespace.clone(), args.pod_name.clone());
    let fence = Fence::new(metrics.clone());
    let work = async {
        role.send_replace(Role::Starting);
        metrics.leads();
        match Box::pin(lead(fence.guarding(client.clone()), args, metrics.clone(), &role)).await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    };
    tokio::select! {
        ended = leader::lead(client.clone(), &fence, &namespace, &pod, work) => Ok(ended?),
        failed = admin => Err(anyhow!("the admin port: {failed:?}")),
    }
}

/// Every address of the pod's family.
fn any(family: IpAddr, port: u16) -> SocketAddr {
    match family {
        IpAddr::V4(_) => SocketAddr::from(([0, 0, 0, 0], port)),
        IpAddr::V6(_) => SocketAddr::from(([0u16; 8], port)),
    }
}

/// The leader's work: it ends only by failing.
async fn lead(
    client: Client,
    args: RunArgs,
    metrics: Metrics,
    role: &watch::Sender<Role>,
) -> anyhow::Result<std::convert::Infallible> {
    let keys = trust::establish(&client, &args.namespace).await?;
    let (certificate, watch_certificate) = watch::channel(trust::identity(&keys));
    let artifacts = Arc::new(Registry::new(client.clone(), &args, keys.seal_key()?)?);
    artifacts.use_key(keys.seal_key()?, keys.trusted_seals()?).await;
    artifacts.tell_walls(&metrics).await;
    let settings = Settings {
        namespace: args.namespace.clone(),
        cluster_domain: args.cluster_domain.clone(),
        family: if args.pod_ip.is_ipv4() { Family::V4 } else { Family::V6 },
        activation_nodes: args.activation_nodes.into(),
        salt: salt(&keys.seal_key()?),
    };
    let reporter = Reporter { controller: "podless-operator".to_owned(), instance: Some(args.pod_name.clone()) };
    let namespaces = Namespaces::named(args.watch_namespaces.clone());
    let (made, key) = (artifacts.clone(), keys.seal_key()?);
    let parts = Parts::new(client.clone(), &namespaces, made, settings, reporter, metrics, key).await?;
    let Parts { controller, context, writer, nodes: node_writer, policies, hosts } = parts;
    let hub = context.hub.clone();
    artifacts.recall_from(hub.clone());

    let follow = shims::follow(client.clone(), args.namespace.clone(), hub.clone(), writer);
    let follow_nodes = facts::follow(client.clone(), hub.wake.clone(), node_writer);
    let follow_policies = policy::Follow {
        client: client.clone(),
        namespace: args.namespace.clone(),
        hub: hub.clone(),
        recorder: context.recorder.clone(),
        writer: policies,
    };
    let follow_hosts = hosts::Follow { hub: hub.clone(), policies: context.policies.clone(), writer: hosts };
    let reconciles = async {
        // Without the shims' pods every endpoint would look gone.
        context.pods.wait_until_ready().await?;
        context.nodes.wait_until_ready().await?;
        context.policies.wait_until_ready().await?;
        reconcile_all(controller, context.clone()).await;
        anyhow::Ok(())
    };
    let here =
        Here { namespace: args.namespace.clone(), pod: args.pod_name.clone(), ip: args.pod_ip, port: args.link_port };
    let server = link::Server {
        hub: hub.clone(),
        auth: Arc::new(Authenticator::new(client.clone(), &args.namespace)),
        metrics: context.metrics.clone(),
    };
    let trust = Trust {
        client: client.clone(),
        namespace: args.namespace.clone(),
        overlap: Duration::from_secs(args.trust_overlap_seconds),
        hub: hub.clone(),
        artifacts: artifacts.clone(),
        signing: hub.signing.clone(),
        builds: context.builds.clone(),
        wake: hub.wake.clone(),
        certificate,
        metrics: context.metrics.clone(),
    };
    let eject = Eject {
        hub: hub.clone(),
        pods: context.pods.clone(),
        leading_since: context.leading_since,
        metrics: context.metrics.clone(),
    };
    let nodes = Nodes {
        client: client.clone(),
        recorder: context.recorder.clone(),
        hub: hub.clone(),
        pods: context.pods.clone(),
        leading_since: context.leading_since,
        metrics: context.metrics.clone(),
    };
    let rebalance = Rebalance {
        hub: hub.clone(),
        pods: context.pods.clone(),
        nodes: context.nodes.clone(),
        ledger: context.ledger.clone(),
        next: context.next_move.clone(),
        leading_since: context.leading_since,
    };
    let (builds, ledger, failures) = (context.builds.clone(), context.ledger.clone(), context.failures.clone());
    let rest = async {
        // A shim that connects is told to wait for every service there is: they must be known first.
        hub.wait_until_ready().await?;
        role.send_replace(Role::Leading);
        tokio::select! {
            ended = link::serve(server, watch_certificate, any(args.pod_ip, args.link_port)) => {
                Err(anyhow!("the link's port: {ended:?}"))
            }
            never = link_slice::keep(client.clone(), here) => match never {},
            never = trust.keep(keys) => match never {},
            never = eject.watch() => match never {},
            never = nodes.keep() => match never {},
            never = rebalance.keep() => match never {},
            never = tombstone::watch(client.clone(), &namespaces, hub.clone(), builds, ledger, failures) => match never {},
            () = sources::follow(client.clone(), &namespaces, hub.clone(), context.builds.clone()) => {
                Err(anyhow!("the watches of ConfigMaps and Secrets have ended"))
            }
            never = scale_all(hub.clone()) => match never {},
            never = inventory::tell(hub.clone(), context.builds.clone(), context.metrics.clone()) => match never {},
            () = measure_all(hub.clone()) => Err(anyhow!("measuring has ended")),
            never = after_grace(hub.clone()) => match never {},
        }
    };
    tokio::select! {
        () = follow => Err(anyhow!("the watch of the shims' pods has ended")),
        () = follow_nodes => Err(anyhow!("the watch of Nodes has ended")),
        () = follow_hosts.run() => Err(anyhow!("nobody decides who has which host any more")),
        () = follow_policies.run() => Err(anyhow!("the watch of WasmPolicies has ended")),
        ended = reconciles => Err(anyhow!("the controller has ended: {ended:?}")),
        ended = rest => ended,
    }
}

/// The reconciler with what it needs, before it runs.
pub struct Parts {
    /// The controller, with all its triggers.
    pub controller: Controller<WasmService>,
    /// What reconciles need.
    pub context: Arc<Context>,
    /// Fills the store of the shims' pods: for [`shims::follow`].
    pub writer: kube::runtime::reflector::store::Writer<core::Pod>,
    /// Fills the store of the Nodes: for [`facts::follow`].
    pub nodes: NodeWriter,
    /// Fills the store of the policies: for [`policy::Follow`].
    pub policies: PolicyWriter,
    /// Fills the store of hosts: for [`hosts::Follow`].
    pub hosts: HostWriter,
}

impl Parts {
    /// Puts the reconciler together; reads the slices there are.
    pub async fn new(
        client: Client,
        namespaces: &Namespaces,
        artifacts: Arc<dyn Artifacts>,
        settings: Settings,
        reporter: Reporter,
        metrics: Metrics,
        key: podless_artifact::seal::SealKey,
    ) -> anyhow::Result<Self> {
        let ledger = Arc::new(Mutex::new(recover(&client, namespaces).await?));
        let (wake, Woken { one, all }) = Wake::new();
        let ours = watcher::Config::default().labels(SERVICE_LABEL);
        let (store, store_writer) = reflector::store::<WasmService>();
        let (ready, watch_ready) = watch::channel(false);
        let (hosts, host_writer, host_heard) = hosts::store();
        let services = namespaces
            .watch(&client, store.clone())
            .reflect(store_writer)
            .inspect_ok(move |event| {
                if matches!(event, watcher::Event::InitDone) {
                    ready.send_replace(true);
                }
                host_heard.notify_one();
            })
            .applied_objects();
        let known = ledger.clone();
        let children = namespaces.events::<PartialObjectMeta<core::Service>>(&client, &ours).touched_objects();
        let slices = namespaces
            .events::<PartialObjectMeta<EndpointSlice>>(&client, &ours)
            .inspect_ok(move |event| note_slice(&known, event))
            .touched_objects();
        let controller = Controller::for_stream(services, store.clone())
            .with_config(Config::default().concurrency(WAITING).debounce(DEBOUNCE))
            .owns_stream(children)
            .owns_stream(slices)
            .reconcile_on(ReceiverStream::new(one))
            .reconcile_all_on(ReceiverStream::new(all));
        let signing = Arc::new(Signing::new(key));
        let artifacts = Arc::new(Resealed { maker: artifacts, signing: signing.clone() });
        let hub = Arc::new(Hub::new(store, watch_ready, wake.clone(), signing));
        let (pods, writer) = shims::store();
        let (node_store, node_writer) = facts::store();
        let (policies, policy_writer) = policy::store();
        let context = Context {
            recorder: Recorder::new(client.clone(), reporter),
            builds: Builds::new(artifacts, wake, metrics.clone()),
            client,
            hub,
            pods,
            nodes: node_store,
            policies,
            hosts,
            ledger,
            next_move: Arc::default(),
            settings,
            leading_since: Instant::now(),
            metrics,
            lanes: Lanes::default(),
            failures: Arc::default(),
        };
        Ok(Self {
            controller,
            context: Arc::new(context),
            writer,
            nodes: node_writer,
            policies: policy_writer,
            hosts: host_writer,
        })
    }
}

/// Runs the controller until it ends, which it does only when its watches do.
pub async fn reconcile_all(controller: Controller<WasmService>, context: Arc<Context>) {
    let mut results = pin!(controller.run(reconcile, on_error, context));
    while let Some(result) = results.next().await {
        match result {
            // Logged by the reconciler; deleted meanwhile; done.
            Err(ControllerError::ReconcilerFailed(..) | ControllerError::ObjectNotFound(_)) | Ok(_) => {}
            Err(error) => tracing::warn!(%error, "a watch has failed and will be begun anew"),
        }
    }
}

/// Wakes every service when shims that have not connected to this leader have had their time.
async fn after_grace(hub: Arc<Hub>) -> std::convert::Infallible {
    tokio::time::sleep(GRACE + Duration::from_millis(100)).await;
    hub.wake.all();
    std::future::pending().await
}

/// Wakes the services that are to have another number of replicas.
async fn scale_all(hub: Arc<Hub>) -> std::convert::Infallible {
    let mut interval = tokio::time::interval(SCALE);
    loop {
        interval.tick().await;
        for uid in hub.autoscale.tick(Instant::now()) {
            // What is not assigned yet is decided anew when it is.
            let assigned = hub.sessions().assigned(&uid);
            assigned.iter().for_each(|assigned| hub.wake.one(&assigned.service));
        }
    }
}

/// Wakes the services whose numbers have moved.
async fn measure_all(hub: Arc<Hub>) {
    let mut interval = tokio::time::interval(MEASURE);
    loop {
        interval.tick().await;
        for service in hub.services() {
            let Some(id) = service_ref(&service) else { continue };
            let measured = hub.sessions().reports_of(&id.uid).map(|reports| measure(&reports)).unwrap_or_default();
            let written = service.status.as_ref().map(Measured::of).unwrap_or_default();
            if measured != Measured::default() && measured.moved_from(&written) {
                hub.wake.one(&id);
            }
        }
    }
}
