//! The examples, as their READMEs have it: built, pushed, applied with their own service.yaml, asked.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use podless_crds::Grant;
use podless_e2e::{Cluster, Namespace, eventually, get};
use serde_json::{Value, json};

use crate::compile::{Told, seconds};

/// Serves a built example as its own service.yaml has it, from this cluster's registry.
async fn serve(cluster: &Cluster, namespace: &Namespace, example: &str, guest: &str) -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(example);
    let yaml = folder.join("service.yaml").display().to_string();
    let read =
        cluster.harness(&["kubectl", "create", "--dry-run=client", "--output=json", "--filename", &yaml]).await?;
    let mut service: Value = serde_json::from_str(&read)?;
    service["spec"]["image"] = json!(cluster.registry.push_guest(guest, &format!("e2e/{guest}:1")).await?);
    namespace.apply_as_is(guest, service["spec"].take()).await?;
    namespace.answers(guest).await?;
    Ok(())
}

/// Serves an example and waits for its greeting.
async fn greets(cluster: &Cluster, namespace: &Namespace, example: &str, greeting: &str) -> Result<()> {
    serve(cluster, namespace, example, example).await?;
    let answer = get(&namespace.target(example).await?, "/").await?;
    ensure!(answer.status == 200 && answer.body == format!("{greeting}\n"), "{example}: {answer:?}");
    Ok(())
}

#[tokio::test]
async fn rust_greets_by_wasi_0_2_and_0_3() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-examples").await?;
    greets(&cluster, &namespace, "hello", "Hello from Podless").await?;
    greets(&cluster, &namespace, "hello-p3", "Hello from WASI 0.3").await?;
    namespace.delete().await
}

#[tokio::test]
async fn crud_checks_what_it_is_sent_by_either_way_in() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-crud").await?;
    let item = include_str!("../../../examples/crud/item.json");
    for guest in ["crud", "crud-p3"] {
        serve(&cluster, &namespace, "crud", guest).await?;
        let url = format!("http://{guest}.{}.svc.cluster.local", namespace.name);
        // The last line is the status code.
        let ask = async |method: &str, path: &str, body: &str| -> Result<(String, Value)> {
            let url = format!("{url}{path}");
            let curl = ["client", "exec", "--", "curl", "-sS", "--max-time", "5", "-w", "\n%{http_code}", "-X", method];
            let said = cluster.harness(&[&curl[..], &["--data-binary", body, &url]].concat()).await?;
            let (body, status) = said.rsplit_once('\n').unwrap_or(("", &said));
            Ok((status.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null)))
        };

        let (status, created) = ask("POST", "/items", item).await?;
        ensure!(status == "201" && created["name"] == "folding lantern", "{guest}: {status} {created}");
        let path = format!("/items/{}", created["id"].as_str().context("an ID")?);
        let (status, changed) = ask("PUT", &path, item).await?;
        ensure!(status == "200" && changed["version"] == 2 && changed["id"] == created["id"], "{guest}: {changed}");
        let (status, got) = ask("GET", &path, "").await?;
        ensure!(status == "200" && got["id"] == created["id"], "{guest}: {status} {got}");
        ensure!(ask("DELETE", &path, "").await?.0 == "204", "{guest}: deleted");
        let (status, list) = ask("GET", "/items", "").await?;
        ensure!(status == "200" && list.as_array().is_some_and(|list| list.len() == 10), "{guest}: {list}");
        let (status, problem) = ask("POST", "/items", &item.replace("EUR", "euro")).await?;
        ensure!(status == "422" && problem["faults"][0]["field"] == "price.currency", "{guest}: {problem}");
        let (status, echoed) = ask("POST", "/echo", item).await?;
        ensure!(status == "200" && echoed == serde_json::from_str::<Value>(item)?, "{guest}: {status} {echoed}");
    }
    namespace.delete().await
}

/// Their toolchains are large, and compiling the two takes half a minute.
#[tokio::test]
#[ignore = "long form: make soak"]
async fn javascript_and_python_greet() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-toolchains").await?;
    for (example, greeting) in [("hello-js", "Hello from JavaScript"), ("hello-python", "Hello from Python")] {
        let told = Told::of(&namespace, example);
        greets(&cluster, &namespace, example, greeting).await?;
        let told = told.all().await?;
        eprintln!("{example}: {told:#?}");
        let first = |what: &str| told.iter().position(|said| said.starts_with(what)).context(what.to_owned());
        let (pulling, compiling, done) = (first("pulling ")?, first("compiling")?, first("sha256:")?);
        ensure!(pulling < compiling && compiling < done, "{told:?}");
        let lasted: Vec<_> = told.iter().filter_map(|said| seconds(said)).collect();
        ensure!(lasted.len() > 1 && lasted.windows(2).all(|pair| pair[1] >= pair[0] + 5), "{told:?}");
        eventually("Events tell when it takes long, and when it is done", Duration::from_secs(60), async || {
            let events = cluster.events(&namespace.name, example).await?;
            for reason in ["Compiling", "Compiled"] {
                ensure!(events.iter().any(|(r, _)| r == reason), "no {reason}: {events:?}");
            }
            Ok(())
        })
        .await?;
    }
    namespace.delete().await
}

#[tokio::test]
async fn sockets_are_linked_and_none_can_be_made() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-sockets").await?;
    let image = cluster.registry.push_guest("probe", "e2e/sockets:1").await?;
    namespace.apply("probe", json!({"image": image})).await?;
    let imports = namespace.ready("probe").await?.status.context("a status")?.imports;
    let sockets: Vec<_> = imports.iter().filter(|import| import.interface.starts_with("wasi:sockets/")).collect();
    ensure!(!sockets.is_empty() && sockets.iter().all(|import| import.grant == Grant::Inert), "{imports:?}");
    let said = get(&namespace.answers("probe").await?, "/net").await?.body;
    ensure!(said.lines().count() == 4 && said.lines().all(|line| line.starts_with("no ")), "{said}");
    namespace.delete().await
}
