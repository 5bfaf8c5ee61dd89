//! A metrics adapter, as the API server's aggregation layer wants it: one external metric, whose value a test sets. IO,
//! but for [`answer`].

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use k8s_openapi::{
    jiff::Timestamp,
    kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use podless_e2e::{Cluster, Namespace, eventually};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

/// The metric.
pub(crate) const METRIC: &str = "queue-length";
/// Where it is registered: its version and its group.
const REGISTRATION: &str = "v1beta1.external.metrics.k8s.io";

/// A running adapter; it ends when it is dropped.
pub(crate) struct Adapter {
    address: SocketAddr,
    value: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Adapter {
    /// Listens where the API server reaches this machine. Nobody knows of it yet.
    pub(crate) async fn start() -> Result<Self> {
        // The registry is on the host's address in the cluster: so is this adapter.
        let registry = std::env::var("REGISTRY").context("REGISTRY is not set: run this by `make test-cluster`")?;
        let ip = registry.rsplit_once(':').context("host:port")?.0;
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed([ip.to_owned()])?;
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder().with_no_client_auth();
        let acceptor = TlsAcceptor::from(Arc::new(config.with_single_cert(vec![cert.der().clone()], key.into())?));
        let listener = TcpListener::bind((ip, 0)).await?;
        let (address, value) = (listener.local_addr()?, Arc::new(AtomicU32::new(0)));
        let (mut tasks, told) = (JoinSet::new(), value.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(acceptor.clone(), stream, told.clone()));
            }
        });
        Ok(Self { address, value, _tasks: tasks })
    }

    /// What the metric is from now on.
    pub(crate) fn set(&self, value: u32) {
        self.value.store(value, Ordering::Relaxed);
    }

    /// Has the API server ask here for external metrics, by a Service in this namespace; waits until it does. Who
    /// registers sees to it that [`unregister`] follows in any case.
    pub(crate) async fn register(&self, cluster: &Cluster, namespace: &Namespace) -> Result<()> {
        const NAME: &str = "metrics-adapter";
        let (version, group) = REGISTRATION.split_once('.').context("a version and a group")?;
        let by = PatchParams::apply("e2e").force();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME},
            "spec": {"ports": [{"name": "https", "port": 443}]},
        });
        namespace.kube_services().patch(NAME, &by, &Patch::Apply(&service)).await?;
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": NAME, "labels": {"kubernetes.io/service-name": NAME}},
            "ports": [{"name": "https", "port": self.address.port()}],
            "endpoints": [{"addresses": [self.address.ip()], "conditions": {"ready": true}}],
        });
        namespace.slices().patch(NAME, &by, &Patch::Apply(&slice)).await?;
        let registration = json!({
            "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": REGISTRATION},
            "spec": {
                "group": group, "version": version, "groupPriorityMinimum": 100, "versionPriority": 100,
                "service": {"namespace": namespace.name, "name": NAME, "port": 443}, "insecureSkipTLSVerify": true,
            },
        });
        let registrations = Api::<APIService>::all(cluster.kube.clone());
        registrations.patch(REGISTRATION, &by, &Patch::Apply(&registration)).await?;
        eventually("the API server reaches the adapter", Duration::from_secs(60), async || {
            let status = registrations.get(REGISTRATION).await?.status.unwrap_or_default();
            ensure!(status.conditions.iter().flatten().any(is_available), "{status:?}");
            Ok(())
        })
        .await
    }
}

/// Takes the registration back, if there is one: with nobody behind it, it is in the way of all who ask which kinds
/// there are, and of every namespace that is to go.
pub(crate) async fn unregister(cluster: &Cluster) -> Result<()> {
    let registrations = Api::<APIService>::all(cluster.kube.clone());
    if registrations.get_opt(REGISTRATION).await?.is_some() {
        registrations.delete(REGISTRATION, &DeleteParams::default()).await?;
    }
    Ok(())
}

fn is_available(condition: &APIServiceCondition) -> bool {
    condition.type_ == "Available" && condition.status == "True"
}

/// Serves a connection to its end, whichever that is: the API server makes another.
async fn serve(acceptor: TlsAcceptor, stream: TcpStream, value: Arc<AtomicU32>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(async |request: Request<Incoming>| {
        Ok::<_, Infallible>(answer(request.uri().path(), value.load(Ordering::Relaxed), Timestamp::now()))
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// Which metrics there are, or what the one is, in any namespace. Pure.
fn answer(path: &str, value: u32, now: Timestamp) -> Response<Full<Bytes>> {
    const VERSION: &str = "external.metrics.k8s.io/v1beta1";
    let kind = "ExternalMetricValueList";
    let body = match path.strip_prefix("/apis/").and_then(|path| path.strip_prefix(VERSION)) {
        Some("") => json!({
            "apiVersion": "v1", "kind": "APIResourceList", "groupVersion": VERSION,
            "resources": [{"name": METRIC, "singularName": "", "namespaced": true, "kind": kind, "verbs": ["get"]}],
        }),
        Some(path) if path.rsplit('/').next() == Some(METRIC) => json!({
            "apiVersion": VERSION, "kind": kind, "metadata": {},
            "items": [{"metricName": METRIC, "metricLabels": {}, "timestamp": now, "value": value.to_string()}],
        }),
        _ => {
            let mut nothing = Response::default();
            *nothing.status_mut() = StatusCode::NOT_FOUND;
            return nothing;
        }
    };
    let mut answer = Response::new(Full::from(body.to_string()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
