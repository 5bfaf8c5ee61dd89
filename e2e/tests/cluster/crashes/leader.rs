//! Leaders that freeze or are told to go: another takes over in time, and nothing stale lands. The audit log of the API
//! server is the witness.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::{api::coordination::v1::Lease, jiff::Timestamp};
use kube::Api;
use podless_e2e::{Cluster, Plan, RELEASE_NAMESPACE, Traffic, eventually, soak};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    operator::{Operator, scale_installed},
    proxy::Faults,
};

/// What a pod may take to start: after an outage of the API server a kubelet hears of it late.
const PATIENCE: Duration = Duration::from_secs(120);

/// A shell line that prints the process of an operator's pod on its node, which may have another as well.
fn process(pod: &str) -> String {
    format!(
        "for pid in $(pgrep -f '^/usr/bin/podless-operator run'); do \
         ! grep -qzx POD_NAME={pod} /proc/$pid/environ || echo $pid; done"
    )
}

/// The pod that leads.
pub(crate) async fn leader(cluster: &Cluster) -> Result<String> {
    let leases = Api::<Lease>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    // A test before this one may have failed without them.
    scale_installed(cluster, 2).await?;
    eventually("somebody leads", PATIENCE, async || {
        let holder = leases.get("podless-operator").await?.spec.and_then(|spec| spec.holder_identity);
        let holder = holder.filter(|holder| !holder.is_empty()).context("nobody")?;
        let there = cluster.operators().await?.iter().any(|(_, pod)| pod.metadata.name.as_ref() == Some(&holder));
        ensure!(there, "{holder} is no operator that is there");
        stand_by(cluster).await?;
        Ok(holder)
    })
    .await
}

/// An error unless every installed operator leads or waits to: one that has ended just now does not yet.
async fn stand_by(cluster: &Cluster) -> Result<()> {
    for (_, pod) in cluster.operators().await? {
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        ensure!(conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"), "one is not ready");
    }
    Ok(())
}

/// The number of a pod's node, for the harness.
pub(crate) async fn node_of(cluster: &Cluster, operator: &str) -> Result<usize> {
    let operators = cluster.operators().await?;
    let (node, _) =
        operators.iter().find(|(_, pod)| pod.metadata.name.as_deref() == Some(operator)).context("its pod")?;
    cluster.number(node).await
}

/// Waits until another pod than this one leads; answers how long it took. A lease that is not renewed any more is
/// another's after fifteen seconds, and a kubelet ends an operator that is frozen after thirty.
pub(crate) async fn succeeded(cluster: &Cluster, old: &str) -> Result<Duration> {
    let (leases, start) = (Api::<Lease>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE), Instant::now());
    eventually("another replica leads", Duration::from_secs(20), async || {
        let holder = leases.get("podless-operator").await?.spec.and_then(|spec| spec.holder_identity);
        ensure!(holder.as_deref().is_some_and(|holder| !holder.is_empty() && holder != old), "{holder:?}");
        Ok(start.elapsed())
    })
    .await
}

/// A pod that waits to lead.
async fn second(cluster: &Cluster, leader: &str) -> Result<String> {
    let mut names = cluster.operators().await?.into_iter().filter_map(|(_, pod)| pod.metadata.name);
    names.find(|pod| pod != leader).context("a second operator")
}

/// Writes of a pod since then, but for the lease: `verb url` for each.
async fn writes_of(cluster: &Cluster, pod: &str, since: Timestamp) -> Result<Vec<String>> {
    let log = tokio::fs::read_to_string(cluster.harness(&["audit"]).await?).await?;
    let mut writes = vec![];
    // The last line may be being written.
    for line in log.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let entry: Value = serde_json::from_str(line)?;
        let by = &entry["user"]["extra"]["authentication.kubernetes.io/pod-name"][0];
        let at: Timestamp = entry["requestReceivedTimestamp"].as_str().context("a time")?.parse()?;
        let url = entry["requestURI"].as_str().unwrap_or_default();
        if by == pod && at >= since && !url.contains("/leases") {
            writes.push(format!("{} {url} {}", entry["verb"], entry["responseStatus"]["code"]));
        }
    }
    Ok(writes)
}

/// The same as below of a leader in a pod, as the audit log has it.
#[tokio::test]
#[ignore = "long form: make soak"]
async fn a_frozen_leader_is_replaced_and_writes_nothing_when_it_wakes() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-frozen").await?;
    let image = cluster.registry.push_guest("probe", "e2e/frozen:1").await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let plan = Plan { most: Duration::from_secs(300), ..Plan::default() };
    let traffic = Traffic::with(&namespace.target("probe").await?, plan)?;
    traffic.flows().await?;

    let old = leader(&cluster).await?;
    let node = node_of(&cluster, &old).await?;
    let pid = cluster.on_node(node, &process(&old)).await?;
    let other = second(&cluster, &old).await?;
    let begun = Timestamp::now();
    // It stops in the midst of work, and until then the other has written nothing.
    namespace.apply("probe", json!({"image": image, "replicas": 5})).await?;
    cluster.on_node(node, &format!("kill -STOP {pid}")).await?;
    assert_eq!(writes_of(&cluster, &other, begun).await?, Vec::<String>::new(), "by the one that stands by");
    let frozen = Timestamp::now();
    namespace.apply("probe", json!({"image": image, "replicas": 4})).await?;
    let took = succeeded(&cluster, &old).await?;
    eprintln!("a frozen leader was replaced after {took:.1?}");
    cluster.on_node(node, &format!("kill -CONT {pid}")).await?;
    eventually("it has ended", Duration::from_secs(20), async || {
        let there = cluster.on_node(node, &format!("kill -0 {pid} && echo there || echo gone")).await?;
        ensure!(there == "gone", "{there}");
        Ok(())
    })
    .await?;
    assert_eq!(writes_of(&cluster, &old, frozen).await?, Vec::<String>::new(), "by the one that was frozen");
    let now =
        namespace.until("probe", "four replicas", |s| s.status.as_ref().is_some_and(|s| s.ready_replicas == 4)).await?;
    assert_eq!(writes_of(&cluster, &old, frozen).await?, Vec::<String>::new(), "by the one that was frozen");
    assert_eq!(now.status.context("a status")?.replicas, 4);
    let seen = traffic.stop().await?;
    eprintln!("leader frozen: {seen}");
    seen.none_lost(500)?;
    namespace.delete().await
}

/// Two operators at once, one of which is out of the kubelet's reach: it may be frozen for longer than a liveness probe
/// allows. What it tries is seen by its proxy.
#[tokio::test]
async fn a_leader_that_was_frozen_for_long_does_not_even_try_to_write() -> Result<()> {
    // Longer than its lease in any case.
    let frozen_for = Duration::from_secs(if soak() { 60 } else { 15 });
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-long").await?;
    let image = cluster.registry.push_guest("probe", "e2e/long:1").await?;
    scale_installed(&cluster, 0).await?;
    let local = Operator::start(&cluster, 300).await?;
    local.leads(cluster.shims().await?.len()).await?;
    scale_installed(&cluster, 1).await?;
    eventually("the installed one stands by", PATIENCE, async || stand_by(&cluster).await).await?;
    namespace.apply("probe", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("probe").await?;
    let traffic = Traffic::echo(&namespace.target("probe").await?)?;
    traffic.flows().await?;

    let (other, begun) = (second(&cluster, "local").await?, Timestamp::now());
    namespace.apply("probe", json!({"image": image, "replicas": 6})).await?;
    local.signal(Signal::STOP)?;
    local.proxy.begin(Faults::default());
    let (start, starts) = (Instant::now(), local.starts());
    assert_eq!(writes_of(&cluster, &other, begun).await?, Vec::<String>::new(), "by the one that stands by");
    namespace.apply("probe", json!({"image": image, "replicas": 5})).await?;
    let took = succeeded(&cluster, "local").await?;
    namespace.until("probe", "five replicas", |s| s.status.as_ref().is_some_and(|s| s.ready_replicas == 5)).await?;
    eventually("it was frozen for long enough", frozen_for * 2, async || {
        ensure!(start.elapsed() > frozen_for, "{:?}", start.elapsed());
        Ok(())
    })
    .await?;
    let before = namespace.slice("probe").await?.endpoints;
    local.signal(Signal::CONT)?;
    eventually("it has ended and stands by", Duration::from_secs(20), async || {
        ensure!(local.starts() > starts, "still there");
        Ok(())
    })
    .await?;
    eprintln!("replaced after {took:.1?}, woken after {frozen_for:?}: it tried {} writes", local.proxy.tried());
    assert!(local.proxy.writes().is_empty() && local.proxy.tried() == 0, "{:?}", local.proxy.writes());
    assert_eq!(namespace.slice("probe").await?.endpoints, before);
    let seen = traffic.stop().await?;
    eprintln!("leader frozen for long: {seen}");
    seen.none_lost(500)?;
    local.stop().await?;
    scale_installed(&cluster, 2).await?;
    namespace.delete().await
}

#[tokio::test]
async fn a_leader_that_is_told_to_go_gives_the_lease_back() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let old = leader(&cluster).await?;
    let node = node_of(&cluster, &old).await?;
    let leases = Api::<Lease>::namespaced(cluster.kube.clone(), RELEASE_NAMESPACE);
    let terms = async || -> Result<(Option<String>, i32)> {
        let spec = leases.get("podless-operator").await?.spec.context("a spec")?;
        Ok((spec.holder_identity.filter(|holder| !holder.is_empty()), spec.lease_transitions.unwrap_or(0)))
    };
    let before = terms().await?.1;
    let start = Instant::now();
    cluster.on_node(node, &format!("kill -TERM $({})", process(&old))).await?;
    // By the other, or by its own next process when that is faster.
    eventually("the lease is held anew", Duration::from_secs(10), async || {
        let (holder, now) = terms().await?;
        ensure!(holder.is_some() && now > before, "{holder:?} {now}");
        Ok(())
    })
    .await?;
    eprintln!("a leader that was told to go was replaced after {:.1?}", start.elapsed());
    // Who waits looks every second and a half at most. For a lease that was not given back it would wait fifteen.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    Ok(())
}
