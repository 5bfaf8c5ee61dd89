//! An operator that has lost its store, while the registry is away: what runs goes on, is scaled, and what the shims give
//! back is placed elsewhere. Who has no right to an image gets none by naming its digest; and a tag is looked up again.

use std::{
    net::{Ipv4Addr, TcpListener as Ports},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    rbac::v1::RoleBinding,
};
use kube::{Api, api::PostParams};
use podless_crds::ConditionType::{Ready, Resolved};
use podless_e2e::{Cluster, Plan, Traffic, condition, eventually, is};
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::operator::{Operator, scale_installed};

const PATIENCE: Duration = Duration::from_secs(120);

/// A further address of the registry, which can be taken away.
struct Way {
    host: String,
    open: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Way {
    async fn to(registry: String) -> Result<Self> {
        let (ip, _) = registry.rsplit_once(':').context("host:port")?;
        let ip: Ipv4Addr = ip.parse()?;
        // Below those that connections take: while it is closed nobody else gets it.
        let port = (23_000..24_000).find(|port| Ports::bind((ip, *port)).is_ok()).context("a free port")?;
        let listener = TcpListener::bind((ip, port)).await?;
        let open = Arc::new(AtomicBool::new(true));
        let lets = open.clone();
        let task = tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                if lets.load(Ordering::Relaxed)
                    && let Ok(mut to) = TcpStream::connect(&registry).await
                {
                    tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await });
                }
            }
        });
        Ok(Self { host: format!("{ip}:{port}"), open, task })
    }

    /// New connections end at once, or do not. The operator is another process by then: it has no old ones.
    fn lets(&self, open: bool) {
        self.open.store(open, Ordering::Relaxed);
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn a_lost_store_comes_back_from_the_shims_while_the_registry_is_away() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let (namespace, other) = (cluster.namespace("e2e-store").await?, cluster.namespace("e2e-store-other").await?);
    let pushed = cluster.registry.push_guest("probe", "e2e/store:1").await?;
    let (registry, name) = pushed.split_once('/').context("a registry")?;
    let way = Way::to(registry.to_owned()).await?;
    let image = format!("{}/{name}", way.host);
    let by_digest = format!("{}/e2e/store@{}", way.host, cluster.registry.digest(&pushed).await?);
    scale_installed(&cluster, 0).await?;
    let operator = Operator::start_with(&cluster, 300, &[&way.host]).await?;
    let shims = cluster.shims().await?.len();
    operator.leads(shims).await?;
    namespace.apply("probe", json!({"image": image, "replicas": 1})).await?;
    let before = namespace.ready("probe").await?.status.context("a status")?;
    let plan = Plan { most: Duration::from_secs(300), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;

    way.lets(false);
    operator.again_without_store().await?;
    operator.leads(shims).await?;
    // It is scaled by an operator that has nothing, to nodes that have nothing.
    namespace.apply("probe", json!({"image": image, "replicas": shims})).await?;
    let all = i32::try_from(shims)?;
    let after = namespace
        .until("probe", "every node serves it", |s| {
            is(s, Ready, "True") && s.status.as_ref().is_some_and(|status| status.ready_replicas == all)
        })
        .await?;
    let status = after.status.context("a status")?;
    assert_eq!((&status.image, &status.imports), (&before.image, &before.imports));
    let made = async |origin: &str| {
        operator.admin.metric(&format!("podless_operator_artifacts_total{{origin=\"{origin}\"}}")).await
    };
    assert_eq!((made("recalled").await?, made("compiled").await?), (1.0, 0.0));

    // The code is here, and not for everybody: that namespace has never shown that it may pull it.
    other.apply("thief", json!({"image": by_digest})).await?;
    other.until_condition("thief", Resolved, "False", "RegistryUnreachable").await?;
    way.lets(true);
    other.ready("thief").await?;

    let seen = traffic.stop().await?;
    eprintln!("store lost, registry away: {seen}");
    seen.none_lost(100)?;
    operator.stop().await?;
    scale_installed(&cluster, 2).await?;
    other.delete().await?;
    namespace.delete().await
}

/// Whether somebody may update this resource in a namespace.
async fn may_update(cluster: &Cluster, namespace: &str, user: &str, subresource: &str) -> Result<bool> {
    let attributes = ResourceAttributes {
        namespace: Some(namespace.to_owned()),
        verb: Some("update".to_owned()),
        group: Some("podless.dev".to_owned()),
        resource: Some("wasmservices".to_owned()),
        subresource: Some(subresource.to_owned()),
        ..Default::default()
    };
    let spec = SubjectAccessReviewSpec {
        resource_attributes: Some(attributes),
        user: Some(user.to_owned()),
        ..Default::default()
    };
    let review = SubjectAccessReview { spec, ..Default::default() };
    let review = Api::<SubjectAccessReview>::all(cluster.kube.clone()).create(&PostParams::default(), &review).await?;
    Ok(review.status.is_some_and(|status| status.allowed))
}

#[tokio::test]
async fn not_even_a_namespaces_admin_may_write_what_an_image_was_found_to_mean() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-record").await?;
    let user = "their-admin";
    let binding = json!({
        "metadata": {"name": "admin"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    });
    let bindings = Api::<RoleBinding>::namespaced(cluster.kube.clone(), &namespace.name);
    bindings.create(&PostParams::default(), &serde_json::from_value(binding)?).await?;
    eventually("they may write services", PATIENCE, async || {
        ensure!(may_update(&cluster, &namespace.name, user, "").await?, "not yet");
        Ok(())
    })
    .await?;
    assert!(!may_update(&cluster, &namespace.name, user, "status").await?);
    namespace.delete().await
}

#[tokio::test]
async fn a_tag_that_moves_is_followed_when_that_is_wanted() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-tag").await?;
    let image = cluster.registry.push_guest("hello", "e2e/tag:1").await?;
    let spec = |policy: serde_json::Value| json!({"image": image, "imageResolution": policy});
    namespace.apply("follows", spec(json!({"policy": "Interval", "interval": "1m"}))).await?;
    namespace.apply("stays", spec(json!({"policy": "OnChange"}))).await?;
    for service in ["follows", "stays"] {
        namespace.ready(service).await?;
    }
    let (first, _) = (cluster.registry.digest(&image).await?, cluster.registry.push_guest("probe", "e2e/tag:1").await?);
    let second = cluster.registry.digest(&image).await?;
    let digest = async |service: &str| -> Result<String> {
        let service = namespace.services().get(service).await?;
        let message = condition(&service, Resolved).context("a condition")?.message.clone();
        let image = service.status.and_then(|status| status.image).context("an image")?;
        ensure!(image.digest == message && image.resolved_at.is_some(), "{message}: {image:?}");
        Ok(image.digest)
    };
    eventually("the tag is looked up again", PATIENCE, async || {
        ensure!(digest("follows").await? == second, "still the old one");
        Ok(())
    })
    .await?;
    // Who scales gets no other image by it.
    namespace.apply("stays", json!({"image": image, "replicas": 2})).await?;
    namespace.ready("stays").await?;
    assert_eq!(digest("stays").await?, first);
    namespace.delete().await
}
