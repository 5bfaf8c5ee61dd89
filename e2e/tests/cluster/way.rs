//! The way of a service, from `kubectl apply` to an answer, and back to nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use http::StatusCode;
use kube::{Api, api::DeleteParams};
use podless_crds::{ConditionType, Grant, WasmNode};
use podless_e2e::{Cluster, SERVING_SHIM, Target, eventually, get, is};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(120);

async fn body(target: &Target) -> Result<String> {
    let answer = get(target, "/").await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    Ok(answer.body)
}

#[tokio::test]
async fn apply_gives_a_url_and_a_truthful_status() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-way").await?;
    let image = cluster.registry.push_guest("hello", "e2e/way:1").await?;
    namespace
        .apply("hello", json!({"image": image, "replicas": 3, "env": [{"name": "GREETING", "value": "hi"}]}))
        .await?;
    let service = namespace.ready("hello").await?;

    let status = service.status.context("a status")?;
    assert_eq!(status.url.as_deref(), Some("http://hello.e2e-way.svc.cluster.local"));
    assert_eq!((status.replicas, status.ready_replicas), (3, 3));
    assert_eq!(status.placements.len(), 3, "one replica on each node: {:?}", status.placements);
    assert!(status.placements.iter().all(|p| p.ready && p.replicas == 1));
    let pinned = status.image.context("a pinned image")?;
    assert_eq!(pinned.reference, image);
    assert!(pinned.digest.starts_with("sha256:") && pinned.size > 10_000, "{pinned:?}");
    assert!(status.artifacts.iter().any(|a| a.size > pinned.size), "machine code is larger: {:?}", status.artifacts);
    assert!(status.imports.iter().all(|i| i.grant != Grant::Denied) && !status.imports.is_empty());
    for kind in ConditionType::ALL {
        assert!(status.conditions.iter().any(|c| c.type_ == kind.as_str() && c.status == "True"), "{kind:?}");
    }

    let target = namespace.answers("hello").await?;
    // By name, through the cluster's DNS, with a tool that everyone has.
    let url = status.url.context("a URL")?;
    let said = cluster.harness(&["client", "exec", "--", "curl", "-sS", "--fail", "--max-time", "5", &url]).await?;
    assert!(said.contains("hi"), "{said}");

    // The shims' median is the client's, but for the way between them.
    let mut client = vec![];
    for _ in 0..300 {
        let answer = get(&target, "/").await?;
        ensure!(answer.status == StatusCode::OK, "{answer:?}");
        client.push(answer.first_byte.as_micros() as f64);
    }
    client.sort_by(f64::total_cmp);
    let median = client[client.len() / 2];
    let measured = namespace
        .until("hello", "300 cold starts are in status", |s| {
            s.status.as_ref().and_then(|s| s.cold_start.as_ref()).is_some_and(|c| c.count >= 300)
        })
        .await?
        .status
        .context("a status")?;
    let cold = measured.cold_start.context("cold starts")?;
    let shims = micros(&cold.first_byte.context("first bytes")?.p50)?;
    assert!(shims <= median * 1.1, "the shims say {shims} µs, the client saw {median} µs");
    eprintln!("median first byte: {shims} µs by the shims, {median} µs by the client");
    assert!(shims >= median * 0.1, "the shims say {shims} µs, the client saw {median} µs");
    assert!(micros(&cold.instantiate.context("instantiations")?.p50)? < shims);
    let density = measured.density.context("a density")?;
    assert_eq!(density.nodes, 3);
    assert!(density.resident_bytes > 100_000, "its code is resident on three nodes: {density:?}");
    assert!(measured.instances >= 1);
    namespace.delete().await
}

/// Reads a duration as status prints it: `850µs`, `1.2ms`, `2s`.
fn micros(text: &str) -> Result<f64> {
    let unit = text.find(|c: char| !c.is_ascii_digit() && c != '.').context("no unit")?;
    let factor = match &text[unit..] {
        "µs" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        other => anyhow::bail!("unit {other} of {text}"),
    };
    Ok(text[..unit].parse::<f64>()? * factor)
}

#[tokio::test]
async fn a_nodes_resident_bytes_are_those_of_proc() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let nodes = Api::<WasmNode>::all(cluster.kube.clone());
    for (number, name) in cluster.nodes().await?.iter().enumerate() {
        eventually(&format!("{name} tells what /proc tells"), PATIENCE, async || {
            let proc = cluster.on_node(number + 1, &format!("cat /proc/$({SERVING_SHIM})/status")).await?;
            let rss = proc.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
            let rss = rss.trim().trim_end_matches(" kB").parse::<f64>()? * 1024.0;
            let density = nodes.get(name).await?.status.context("a status")?.density;
            let said = density.resident_bytes as f64;
            ensure!((said - rss).abs() <= rss * 0.1, "status says {said}, /proc says {rss}");
            let shared = density.unattributed_bytes;
            ensure!(shared > 0 && (shared < density.resident_bytes || density.services == 0), "{density:?}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
async fn one_name_in_two_namespaces_is_two_services() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let image = cluster.registry.push_guest("hello", "e2e/two:1").await?;
    let namespaces = try_join_all(["e2e-two-a", "e2e-two-b"].map(|name| cluster.namespace(name))).await?;
    for namespace in &namespaces {
        let env = json!([{"name": "GREETING", "value": format!("from {}", namespace.name)}]);
        namespace.apply("twin", json!({"image": image, "env": env})).await?;
    }
    let mut ports = vec![];
    for namespace in &namespaces {
        let said = body(&namespace.answers("twin").await?).await?;
        assert!(said.contains(&format!("from {}", namespace.name)), "{said}");
        ports.push(namespace.slice("twin").await?.ports.context("ports")?[0].port);
    }
    assert_ne!(ports[0], ports[1], "a port of its own for each");
    for namespace in namespaces {
        namespace.delete().await?;
    }
    Ok(())
}

#[tokio::test]
async fn replicas_spread_over_nodes_and_move_little() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-spread").await?;
    let image = cluster.registry.push_guest("hello", "e2e/spread:1").await?;
    let mut last: Vec<String> = vec![];
    for (replicas, spread) in [(1, vec![1]), (2, vec![1, 1]), (7, vec![3, 2, 2]), (1, vec![1])] {
        namespace.apply("hello", json!({"image": image, "replicas": replicas})).await?;
        let service = namespace.ready("hello").await?;
        let mut placements = service.status.context("a status")?.placements;
        placements.sort_by_key(|p| -p.replicas);
        assert_eq!(placements.iter().map(|p| p.replicas).collect::<Vec<_>>(), spread, "{replicas} replicas");
        let nodes: Vec<_> = placements.into_iter().map(|p| p.node).collect();
        let kept = last.iter().filter(|n| nodes.contains(n)).count();
        assert_eq!(kept, last.len().min(nodes.len()), "{last:?} became {nodes:?}");
        last = nodes;
    }
    namespace.delete().await
}

#[tokio::test]
async fn delete_leaves_nothing() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-delete").await?;
    let image = cluster.registry.push_guest("hello", "e2e/delete:1").await?;
    namespace.apply("hello", json!({"image": image, "replicas": 3})).await?;
    namespace.ready("hello").await?;
    let port = namespace.slice("hello").await?.ports.context("ports")?[0].port.context("a port")?;
    let listening = format!("cat /proc/$({SERVING_SHIM})/net/tcp* | grep -ci ':{port:04X} .* 0A ' || true");
    assert_ne!(cluster.on_node(1, &listening).await?, "0", "the shim listens on the service's port");

    namespace.services().delete("hello", &DeleteParams::default()).await?;
    eventually("the Service and its slice are gone", PATIENCE, async || {
        ensure!(namespace.kube_services().get_opt("hello").await?.is_none(), "the Service is there");
        ensure!(namespace.slices().list(&Default::default()).await?.items.is_empty(), "the slice is there");
        Ok(())
    })
    .await?;
    for number in 1..=cluster.nodes().await?.len() {
        eventually(&format!("node {number} has closed the port"), PATIENCE, async || {
            let open = cluster.on_node(number, &listening).await?;
            ensure!(open == "0", "{open} sockets listen on {port}");
            Ok(())
        })
        .await?;
    }
    namespace.delete().await
}

#[tokio::test]
async fn a_wasi_0_3_component_serves() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-p3").await?;
    let image = cluster.registry.push_guest("hello-p3", "e2e/p3:1").await?;
    namespace.apply("hello", json!({"image": image})).await?;
    assert!(body(&namespace.answers("hello").await?).await?.contains("Hello"));
    namespace.delete().await
}

#[tokio::test]
async fn private_registries_and_their_authorities_are_known() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-private").await?;
    cluster.registry.push_guest("hello", "e2e/private:1").await?;
    for door in ["basic", "bearer", "tls"] {
        let address = cluster.gate(door).await?;
        let mut spec = json!({"image": format!("{address}/e2e/private:1")});
        if door != "tls" {
            namespace.pull_secret(door, &cluster.login(&address).await?).await?;
            spec["imagePullSecrets"] = json!([{"name": door}]);
        }
        namespace.apply(door, spec).await?;
    }
    for door in ["basic", "bearer", "tls"] {
        assert!(body(&namespace.answers(door).await?).await?.contains("Hello"), "{door}");
    }
    namespace.delete().await
}

#[tokio::test]
async fn kubectl_explains_every_field_and_knows_the_short_names() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let explained = cluster.harness(&["kubectl", "explain", "wsvc", "--recursive"]).await?;
    for field in ["imagePullSecrets", "capabilities", "timeoutSeconds", "concurrency", "coldStart", "residentBytes"] {
        assert!(explained.contains(field), "{field} is missing from\n{explained}");
    }
    let table = cluster.harness(&["kubectl", "get", "wnode"]).await?;
    assert!(table.contains("RESIDENT") && table.contains("COLD P50"), "{table}");
    let nodes = Api::<WasmNode>::all(cluster.kube.clone()).list(&Default::default()).await?;
    assert_eq!(nodes.items.len(), cluster.nodes().await?.len());
    for node in nodes {
        let owner = node.metadata.owner_references.iter().flatten().next().context("an owner")?;
        assert_eq!((owner.kind.as_str(), Some(&owner.name)), ("Node", node.metadata.name.as_ref()));
        let status = node.status.context("a status")?;
        assert!(status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"));
        let fits = status.capacity;
        assert!(fits.instances > 0 && fits.more.is_some() && fits.services.is_some_and(|n| n > 0), "{fits:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_idle_cluster_is_not_written_to() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-idle").await?;
    let image = cluster.registry.push_guest("hello", "e2e/idle:1").await?;
    namespace.apply("hello", json!({"image": image})).await?;
    namespace.ready("hello").await?;
    let versions = async || -> Result<(Option<String>, Option<String>)> {
        let service = namespace.services().get("hello").await?;
        ensure!(is(&service, ConditionType::Ready, "True"), "not ready");
        Ok((service.metadata.resource_version, namespace.slice("hello").await?.metadata.resource_version))
    };
    // Two reports' worth without a change: what settles after Ready has settled.
    let mut last = versions().await?;
    let mut same_since = std::time::Instant::now();
    eventually("nothing is written for 15 s", 2 * PATIENCE, async || {
        let now = versions().await?;
        if now != last {
            (last, same_since) = (now, std::time::Instant::now());
        }
        ensure!(same_since.elapsed() > Duration::from_secs(15), "unchanged for {:?}", same_since.elapsed());
        Ok(())
    })
    .await?;
    namespace.delete().await
}
