//! What the shim is told: a service and its artifact in, a signed assignment out. Pure.

use podless_artifact::seal::SealKey;
use podless_engine::MAX_INSTANCE_MEMORY;
use podless_link::{
    ASSIGNMENT_CONTEXT,
    v1::{Assign, Assignment, EnvVar, Grants, OutboundHttp},
};
use podless_operator::{link::content::Reuse, reconcile::quantity};
use podless_shim::local::service_port;
use prost::Message as _;

use super::Serving;
use crate::{failure::Failure, service::most_replicas};

/// The assignment of the service with this index.
pub(super) fn signed(serving: &Serving, index: usize, key: &SealKey) -> Result<Assign, Failure> {
    let spec = &serving.service.spec;
    let revision = &spec.revision;
    let memory =
        quantity::bytes(&revision.instance.memory.0).filter(|bytes| (1 << 20..=MAX_INSTANCE_MEMORY).contains(bytes));
    let memory = memory.ok_or_else(|| {
        let message =
            format!("spec.instance.memory is {:?}: write a quantity from 1Mi to 128Mi", revision.instance.memory.0);
        Failure::mistake("InvalidSpec", message).of(serving.name())
    })?;
    let port = service_port(index).ok_or_else(|| Failure::mistake("NoPort", "these are too many services"))?;
    let positive = |number: i32| u32::try_from(number).unwrap_or_default();
    let outbound_http = revision.capabilities.outbound_http.as_ref().map(|outbound| OutboundHttp {
        allowed_hosts: outbound.allowed_hosts.clone(),
        allowed_cidrs: outbound.allowed_cidrs.clone(),
    });
    let env = revision.env.iter().map(|v| EnvVar { name: v.name.clone(), value: v.value.clone() }).collect();
    let reuse = Reuse::from(&revision.instance);
    let assignment = Assignment {
        service_uid: serving.uid.clone(),
        namespace: serving.service.metadata.namespace.clone().unwrap_or_else(|| "default".to_owned()),
        name: serving.name().to_owned(),
        generation: 1,
        service_generation: 1,
        port: u32::from(port),
        budget: most_replicas(spec).saturating_mul(revision.concurrency()),
        sealed: serde_json::to_vec(serving.artifact.sealed()).map_err(Failure::environment)?,
        env,
        grants: Some(Grants { logging: revision.capabilities.logging.is_some(), outbound_http }),
        instance_memory: memory,
        timeout_millis: u64::from(positive(revision.timeout_seconds)) * 1000,
        parked: false,
        count_cpu: false,
        // Nobody has it back from here.
        note_sha256: String::new(),
        max_invocations: reuse.max_invocations,
        max_concurrency: reuse.max_concurrency,
        pool_size: reuse.pool_size,
        idle_seconds: reuse.idle_seconds,
        // There is no shared port: each service has its own.
        hosts: vec![],
        created_at: 0,
    };
    let bytes = assignment.encode_to_vec();
    Ok(Assign { signature: key.sign(ASSIGNMENT_CONTEXT, &bytes).to_vec(), assignment: bytes })
}
