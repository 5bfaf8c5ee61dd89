//! The audit as a user sees it: every import with what it was granted, what an update asks for beside what serves, and a
//! strict service.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use podless_crds::{
    ConditionType::{Audited, Available},
    Grant, Import, WasmService, WasmServiceStatus,
};
use podless_e2e::{Cluster, Namespace, eventually, get, is};
use serde_json::json;

const LOGGING: &str = "wasi:logging/logging@0.1.0-draft";

/// What was granted of this interface, as status says.
fn grant(imports: &[Import], interface: &str) -> Option<Grant> {
    imports.iter().find(|import| import.interface == interface).map(|import| import.grant)
}

async fn status(namespace: &Namespace, name: &str) -> Result<WasmServiceStatus> {
    namespace.services().get(name).await?.status.context("a status")
}

#[tokio::test]
async fn an_update_that_asks_for_more_is_shown_and_what_serves_goes_on() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-audit").await?;
    let hello = cluster.registry.push_guest("hello", "e2e/audit:hello").await?;
    let logger = cluster.registry.push_guest("logger", "e2e/audit:logger").await?;
    namespace.apply("asks", json!({"image": hello})).await?;
    namespace.answers("asks").await?;
    let served = status(&namespace, "asks").await?;
    ensure!(served.imports_diff.is_none(), "{:?}", served.imports_diff);
    ensure!(served.imports.iter().all(|import| import.grant != Grant::Denied), "{:?}", served.imports);

    namespace.apply("asks", json!({"image": logger})).await?;
    let message = namespace.until_condition("asks", Audited, "False", "ImportDenied").await?;
    ensure!(message.contains("set spec.capabilities.logging: {}"), "{message}");
    let service = namespace.services().get("asks").await?;
    ensure!(is(&service, Available, "True"), "{:?}", service.status);
    ensure!(get(&namespace.target("asks").await?, "/").await?.status.is_success(), "what served does not answer");
    let refused = status(&namespace, "asks").await?;
    ensure!(grant(&refused.imports, LOGGING) == Some(Grant::Denied), "{:?}", refused.imports);
    ensure!(refused.imports.iter().any(|import| import.grant == Grant::Inert), "{:?}", refused.imports);
    let diff = refused.imports_diff.context("a difference")?;
    ensure!(!diff.serves && Some(diff.generation) == service.metadata.generation, "{diff:?}");
    ensure!(grant(&diff.added, LOGGING) == Some(Grant::Denied), "{diff:?}");
    eventually("an Event shows the difference", Duration::from_secs(60), async || {
        let events = cluster.events(&namespace.name, "asks").await?;
        let line = format!("+ {LOGGING} (Denied)");
        ensure!(events.iter().any(|(reason, note)| reason == "ImportsChanged" && note.contains(&line)), "{events:?}");
        Ok(())
    })
    .await?;

    // The line of YAML that the sentence names is enough.
    namespace.apply("asks", json!({"image": logger, "capabilities": {"logging": {}}})).await?;
    let serves = |service: &WasmService| {
        let diff = service.status.as_ref().and_then(|status| status.imports_diff.as_ref());
        diff.is_some_and(|diff| diff.serves && grant(&diff.added, LOGGING) == Some(Grant::Granted))
    };
    namespace.until("asks", "what it asked for serves", serves).await?;
    namespace.delete().await
}

#[tokio::test]
async fn a_strict_service_refuses_what_has_nothing_behind_it() -> Result<()> {
    let cluster = Cluster::connect().await?;
    let namespace = cluster.namespace("e2e-strict").await?;
    let hello = cluster.registry.push_guest("hello", "e2e/strict:hello").await?;
    namespace.apply("strict", json!({"image": hello, "capabilities": {"strict": true}})).await?;
    let message = namespace.until_condition("strict", Audited, "False", "ImportDenied").await?;
    ensure!(message.contains("set spec.capabilities.strict: false"), "{message}");
    let imports = status(&namespace, "strict").await?.imports;
    ensure!(imports.iter().all(|import| import.grant != Grant::Inert), "{imports:?}");
    ensure!(imports.iter().any(|import| import.grant == Grant::Denied), "{imports:?}");
    namespace.apply("strict", json!({"image": hello})).await?;
    namespace.ready("strict").await?;
    namespace.delete().await
}
