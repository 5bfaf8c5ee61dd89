//! An operator as a process of this machine, in the place of the installed one: the same cluster, the same shims, and
//! the way to the API server through a proxy. It is started again whenever it ends, as the kubelet would. IO.

use std::{
    net::TcpListener as Ports,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use podless_e2e::{Cluster, RELEASE_NAMESPACE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    task::JoinHandle,
};

use super::proxy::{Faults, Proxy};
use crate::admin::Admin;

const PATIENCE: Duration = Duration::from_secs(120);

async fn installed(cluster: &Cluster) -> Result<Deployment> {
    let api = Api::<Deployment>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let operators = ListParams::default().labels("app.kubernetes.io/component=operator");
    api.list(&operators).await?.items.pop().context("the operator's Deployment")
}

/// Sets how many operators are installed; waits until it is so.
pub(crate) async fn scale_installed(cluster: &Cluster, replicas: usize) -> Result<()> {
    let api = Api::<Deployment>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let name = installed(cluster).await?.name_any();
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch(&name, &PatchParams::default(), &patch).await?;
    eventually(&format!("{replicas} installed operators"), PATIENCE, async || {
        let pods = cluster.operators().await?;
        ensure!(pods.len() == replicas, "{} operators", pods.len());
        Ok(())
    })
    .await
}

/// The edition of the engine that the installed shims and operators run.
async fn edition(cluster: &Cluster) -> Result<String> {
    let pods = installed(cluster).await?.spec.context("a spec")?.template.spec.context("a pod's spec")?;
    let mut env = pods.containers.into_iter().flat_map(|container| container.env.unwrap_or_default());
    Ok(env.find(|variable| variable.name == podless_engine::EDITION).and_then(|found| found.value).unwrap_or_default())
}

/// How to run it.
struct Recipe {
    program: PathBuf,
    edition: String,
    kubeconfig: PathBuf,
    cache: PathBuf,
    registries: Vec<String>,
    ip: String,
    admin: u16,
    link: u16,
    overlap: u64,
}

impl Recipe {
    fn run(&self) -> Result<Child> {
        let child = Command::new(&self.program)
            .arg("run")
            .args(["--namespace", RELEASE_NAMESPACE, "--pod-name", "local", "--pod-ip", &self.ip])
            .args(["--link-port", &self.link.to_string(), "--admin-port", &self.admin.to_string()])
            .args(self.registries.iter().flat_map(|registry| ["--plain-http-registry", registry]))
            .args(["--log-format", "text"])
            .args(["--trust-overlap-seconds", &self.overlap.to_string()])
            .arg("--cache-dir")
            .arg(&self.cache)
            .env("KUBECONFIG", &self.kubeconfig)
            .env(podless_engine::EDITION, &self.edition)
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or_else(|_| "warn,kube_client=off,k8s_controller=off".to_owned()),
            )
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        child.with_context(|| format!("{} cannot be run: `make build` makes it", self.program.display()))
    }
}

/// An operator that is kept running.
pub(crate) struct Operator {
    /// The way to the API server.
    pub proxy: Arc<Proxy>,
    /// Its pages and metrics.
    pub admin: Admin,
    starts: Arc<Mutex<usize>>,
    pid: Arc<Mutex<Option<Pid>>>,
    stopping: Arc<AtomicBool>,
    keeper: JoinHandle<()>,
    files: TempDir,
}

impl Operator {
    /// Takes the place of the installed operators, of which there must be none any more. `overlap` is that of keys, in
    /// seconds.
    pub(crate) async fn start(cluster: &Cluster, overlap: u64) -> Result<Self> {
        Self::start_with(cluster, overlap, &[]).await
    }

    /// The same, with further registries that speak plain HTTP.
    pub(crate) async fn start_with(cluster: &Cluster, overlap: u64, registries: &[&str]) -> Result<Self> {
        let proxy = Arc::new(Proxy::start(cluster.kube.clone()).await?);
        let files = tempfile::tempdir()?;
        let kubeconfig = files.path().join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "proxy",
            "clusters": [{"name": "proxy", "cluster": {"server": format!("http://{}", proxy.address)}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
            "users": [{"name": "proxy", "user": {}}],
        });
        std::fs::write(&kubeconfig, config.to_string())?;
        let registry = std::env::var("REGISTRY").context("REGISTRY is not set: run this by `make test-cluster`")?;
        // The registry is on the host's address in the cluster: so is this operator.
        let ip = registry.rsplit_once(':').context("host:port")?.0.to_owned();
        // Below those that connections take: while it is started again nobody else gets them.
        let free = |first: u16| (first..first + 1000).find(|port| Ports::bind(("0.0.0.0", *port)).is_ok());
        let test = std::env::current_exe()?;
        let built = test.parent().and_then(|deps| deps.parent()).context("the folder of what was built")?;
        let recipe = Recipe {
            program: built.join("podless-operator"),
            edition: edition(cluster).await?,
            kubeconfig,
            cache: files.path().join("cache"),
            admin: free(21_000).context("a free port")?,
            link: free(22_000).context("a free port")?,
            registries: registries.iter().map(|registry| (*registry).to_owned()).chain([registry]).collect(),
            ip,
            overlap,
        };
        let admin = Admin(format!("127.0.0.1:{}", recipe.admin));
        let (starts, pid) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(None)));
        let mut child = recipe.run()?;
        let (counted, known, shared) = (starts.clone(), pid.clone(), proxy.clone());
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = stopping.clone();
        let keeper = tokio::spawn(async move {
            loop {
                let id = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                *known.lock().unwrap_or_else(PoisonError::into_inner) = id;
                shared.kills(id);
                *counted.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                let _ = child.wait().await;
                shared.kills(None);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                // As the kubelet does it the first time: at once, but not in a tight circle.
                tokio::time::sleep(Duration::from_millis(100)).await;
                match recipe.run() {
                    Ok(next) => child = next,
                    Err(error) => return eprintln!("{error:#}"),
                }
            }
        });
        Ok(Self { proxy, admin, starts, pid, stopping, keeper, files })
    }

    /// Ends it for good; it gives the lease back.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.proxy.begin(Faults::default());
        self.stopping.store(true, Ordering::Relaxed);
        self.signal(Signal::TERM)?;
        tokio::time::timeout(PATIENCE, &mut self.keeper).await.context("it does not stop")??;
        Ok(())
    }

    /// How often it was started.
    pub(crate) fn starts(&self) -> usize {
        *self.starts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills it, and waits until it was started again.
    pub(crate) async fn again(&self) -> Result<()> {
        let starts = self.starts();
        self.signal(Signal::KILL)?;
        eventually("it is started again", PATIENCE, async || {
            ensure!(self.starts() > starts, "not yet");
            Ok(())
        })
        .await
    }

    /// The same, with nothing in its store, as for every new pod.
    pub(crate) async fn again_without_store(&self) -> Result<()> {
        // While it runs: it cannot be started again in between.
        std::fs::remove_dir_all(self.files.path().join("cache"))?;
        self.again().await
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid.lock().unwrap_or_else(PoisonError::into_inner).context("it is not running")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits until it leads and every shim is connected.
    pub(crate) async fn leads(&self, shims: usize) -> Result<()> {
        eventually("the local operator leads", PATIENCE, async || {
            ensure!(self.admin.page("/readyz").await? == "leading\n", "not yet");
            let connected = self.admin.metric("podless_operator_shims_connected").await?;
            ensure!(connected as usize == shims, "{connected} shims");
            Ok(())
        })
        .await
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // The child goes with the task that keeps it.
        self.keeper.abort();
    }
}
