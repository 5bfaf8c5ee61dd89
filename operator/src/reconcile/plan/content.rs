//! What shims are given of a service. In: its spec, its artifact and its environment; out: the content of its
//! assignment, and what one replica takes of a node. Pure.

use std::time::Duration;

use podless_crds::{Image, MetricType, Reason, WasmService};

use super::Rejected;
use crate::{
    build::Built,
    link::content::{Artifact, Content, Reuse},
    reconcile::{env::Env, pin::resolved_for, quantity},
    schedule::Cost,
};

/// The quantities of a spec, as numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amounts {
    /// Most linear memory of one instance, in bytes.
    pub(super) instance_memory: u64,
    /// What one replica takes.
    pub(super) each: Cost,
}

/// Reads the quantities. The API server has checked them: what it takes and this does not is told.
pub(super) fn amounts(service: &WasmService) -> Result<Amounts, Rejected> {
    let spec = &service.spec;
    let invalid = |field: &str, text: &str, hint: &str| Rejected {
        reason: Reason::InvalidSpec,
        message: format!("spec.{field} is {text:?}: write {hint}"),
        again: Duration::from_secs(3600),
    };
    let memory = &spec.revision.instance.memory.0;
    let bytes = "a whole number of bytes, as in 64Mi";
    let requests = &spec.resources.requests;
    let cpu = requests.cpu.as_ref().map(|cpu| {
        let hint = "a number of CPUs, as in 50m";
        quantity::millis(&cpu.0).ok_or_else(|| invalid("resources.requests.cpu", &cpu.0, hint))
    });
    let requested = requests
        .memory
        .as_ref()
        .map(|memory| quantity::bytes(&memory.0).ok_or_else(|| invalid("resources.requests.memory", &memory.0, bytes)));
    Ok(Amounts {
        instance_memory: quantity::bytes(memory).ok_or_else(|| invalid("instance.memory", memory, bytes))?,
        each: Cost {
            slots: u64::from(spec.revision.concurrency()),
            cpu_millis: cpu.transpose()?.unwrap_or(0),
            memory: requested.transpose()?.unwrap_or(0),
        },
    })
}

/// What is assigned: what was built, and the same for other targets.
pub(super) fn content_of<'a>(
    service: &WasmService,
    built: &'a Built,
    others: impl Iterator<Item = &'a Built>,
    env: &Env,
    amounts: Amounts,
) -> Content {
    let spec = &service.spec.revision;
    let artifact = |built: &Built| Artifact::new(built.seal.clone(), &built.sealed, built.code.clone());
    let all = others.chain([built]).map(|built| (built.seal.fingerprint.clone(), artifact(built)));
    Content {
        service_generation: service.metadata.generation.unwrap_or(0),
        image: Image {
            reference: spec.image.clone(),
            digest: built.digest.clone(),
            manifest: built.manifest.clone(),
            size: i64::try_from(built.component_size).unwrap_or(i64::MAX),
            component: Some(built.seal.component.clone()),
            resolved_for: Some(resolved_for(service)),
            resolved_at: None,
        },
        component: built.seal.component.clone(),
        artifacts: all.collect(),
        env: env.clone(),
        logging: spec.capabilities.logging.is_some(),
        outbound_http: spec.capabilities.outbound_http.clone(),
        instance_memory: amounts.instance_memory,
        reuse: Reuse::from(&spec.instance),
        timeout_millis: u64::try_from(spec.timeout_seconds).unwrap_or(0) * 1000,
        concurrency: spec.concurrency(),
        count_cpu: service.spec.scaling().is_some_and(|scaling| scaling.metric.kind == MetricType::Cpu),
    }
}
