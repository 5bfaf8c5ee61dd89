//! Logins as they are in clusters: several secrets, entries for a part of a registry, and some that are out of date.

use anyhow::Result;
use podless_crds::ConditionType::Resolved;
use podless_e2e::Cluster;
use serde_json::json;

/// Docker's configuration with these entries, each of this password.
fn config(entries: &[(String, &str)]) -> String {
    let entry =
        |(place, password): &(String, &str)| (place.clone(), json!({"username": "tester", "password": password}));
    json!({"auths": entries.iter().map(entry).collect::<serde_json::Map<_, _>>()}).to_string()
}

#[tokio::test]
async fn of_several_logins_the_one_that_is_good_is_found() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-keyring").await?;
    cluster.registry.push_guest("hello", "e2e/keyring/hello:1").await?;
    for door in ["basic", "bearer"] {
        let address = cluster.gate(door).await?;
        let image = json!(format!("{address}/e2e/keyring/hello:1"));
        let (old, good) = (format!("{door}-old"), format!("{door}-good"));
        // The longer path is tried first, and is refused.
        let outdated = [(format!("{address}/e2e/keyring"), "changed-since"), (format!("{address}/other"), "never")];
        namespace.pull_secret(&old, &config(&outdated)).await?;
        namespace.pull_secret(&good, &cluster.login(&address).await?).await?;

        namespace.apply(door, json!({"image": image, "imagePullSecrets": [{"name": old}]})).await?;
        let message = namespace.until_condition(door, Resolved, "False", "Unauthorized").await?;
        assert!(message.contains("check the credentials"), "{message}");
        namespace.apply(door, json!({"image": image, "imagePullSecrets": [{"name": old}, {"name": good}]})).await?;
        namespace.ready(door).await?;
    }
    namespace.delete().await
}

#[tokio::test]
async fn the_operator_is_not_sent_to_itself() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-reach").await?;
    for (name, host) in [("loopback", "127.0.0.1:9"), ("localhost", "localhost:9"), ("metadata", "169.254.169.254")] {
        namespace.apply(name, json!({"image": format!("{host}/hello:1")})).await?;
        let message = namespace.until_condition(name, Resolved, "False", "RegistryUnreachable").await?;
        assert!(message.contains("registries.allowedHosts"), "{message}");
    }
    namespace.delete().await
}
