//! The status that a cluster of this one machine would have reported: a service, its artifact and what the shim has
//! measured in, status out; and how it is printed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use podless_artifact as artifact;
use podless_crds::{
    Artifact, ConditionType, Grant, Image, Import, PlacementStatus, Reason, SERVICE_LABEL, Status, WasmServiceStatus,
    set_condition,
};
use podless_link::v1::ServiceReport;
use podless_operator::reconcile::measured::{Measured, measure};
use serde::Serialize;

use super::Serving;
use crate::{
    args::Output,
    failure::Failure,
    output,
    service::{API_VERSION, KIND},
};

/// The one generation that there is.
const GENERATION: i64 = 1;
/// The one node that there is.
const NODE: &str = "localhost";

/// Composes the status of what serves since then.
pub(super) fn status(serving: &Serving, report: Option<&ServiceReport>, since: &Time) -> WasmServiceStatus {
    let Serving { service, artifact, url, .. } = serving;
    let replicas = i32::try_from(service.spec.fixed_replicas().unwrap_or(1)).unwrap_or(i32::MAX);
    let seal = artifact.seal();
    let reports: Vec<_> = report.into_iter().collect();
    let Measured { instances, density, cold_start, shed } = measure(&reports);
    WasmServiceStatus {
        observed_generation: Some(GENERATION),
        conditions: conditions(serving, replicas, since),
        url: Some(url.clone()),
        image: Some(Image {
            reference: service.spec.revision.image.clone(),
            digest: artifact.image_digest().to_owned(),
            size: signed(artifact.component_size()),
            component: Some(seal.component.clone()),
            ..Image::default()
        }),
        imports: artifact.imports().iter().map(import).collect(),
        imports_diff: None,
        permitted_revision: None,
        hosts: vec![],
        artifacts: vec![Artifact {
            target: seal.target.clone(),
            fingerprint: seal.fingerprint.clone(),
            size: signed(seal.code_size),
            compile_millis: signed(artifact.compile_millis()),
        }],
        replicas,
        desired_replicas: Some(replicas),
        scaling: None,
        selector: Some(format!("{SERVICE_LABEL}={}", serving.name())),
        ready_replicas: replicas,
        instances,
        density,
        cold_start,
        shed,
        placements: vec![PlacementStatus { node: NODE.to_owned(), replicas, ready: true }],
    }
}

fn conditions(serving: &Serving, replicas: i32, since: &Time) -> Vec<Condition> {
    let Serving { artifact, .. } = serving;
    let inert = artifact.imports().iter().filter(|import| import.grant == artifact::Grant::Inert).count();
    let seal = artifact.seal();
    let done = |kind, message| (kind, Status::True, Reason::Done, message);
    let stopped = "spec.replicas is 0: every request is answered 503".to_owned();
    let (available, ready) = match replicas {
        0 => ((Status::False, Reason::Stopped, stopped.clone()), (Status::True, Reason::Stopped, stopped)),
        _ => (
            (Status::True, Reason::Serving, "serves on 1 shim".to_owned()),
            (Status::True, Reason::Serving, format!("{replicas} of {} serve generation {GENERATION}", count(replicas))),
        ),
    };
    let imports = artifact.imports().len();
    let mut conditions = vec![];
    for (kind, status, reason, message) in [
        done(ConditionType::Resolved, artifact.image_digest().to_owned()),
        done(
            ConditionType::Audited,
            format!("{} imports granted, {inert} linked with nothing behind them", imports - inert),
        ),
        done(ConditionType::Precompiled, format!("{} bytes for {}", seal.code_size, seal.target)),
        done(ConditionType::Placed, format!("{} on 1 node", count(replicas))),
        (ConditionType::Available, available.0, available.1, available.2),
        (ConditionType::Ready, ready.0, ready.1, ready.2),
    ] {
        set_condition(&mut conditions, kind, status, reason, &message, Some(GENERATION), since);
    }
    conditions
}

fn import(import: &artifact::Import) -> Import {
    Import {
        interface: import.interface.clone(),
        grant: match import.grant {
            artifact::Grant::Granted => Grant::Granted,
            artifact::Grant::Inert => Grant::Inert,
            artifact::Grant::Denied => Grant::Denied,
        },
    }
}

fn count(replicas: i32) -> String {
    format!("{replicas} replica{}", if replicas == 1 { "" } else { "s" })
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// As `kubectl get -o yaml` shows it, without what only a cluster has.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    api_version: &'a str,
    kind: &'a str,
    metadata: Metadata<'a>,
    status: WasmServiceStatus,
}

#[derive(Serialize)]
struct Metadata<'a> {
    name: &'a str,
}

/// Prints it; several are documents of one YAML file, or lines of JSON.
pub(super) fn print(serving: &Serving, status: WasmServiceStatus, index: usize, output: Output) -> Result<(), Failure> {
    let metadata = Metadata { name: serving.name() };
    let shown = Shown { api_version: API_VERSION, kind: KIND, metadata, status };
    match output {
        Output::Json => output::json(&shown)?,
        Output::Text => {
            if index > 0 {
                output::line("---");
            }
            output::line(serde_yaml_ng::to_string(&shown).map_err(Failure::environment)?.trim_end());
        }
    }
    Ok(())
}
