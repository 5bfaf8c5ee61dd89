//! What a shim is given of a service, but for its own budget: the same for every shim. No IO.

use std::{collections::BTreeMap, sync::Arc};

use podless_artifact::seal::{Seal, Sealed};
use podless_crds::{Host, Image, Instance, OutboundHttp};
use podless_link::v1;
use sha2::{Digest, Sha256};

use crate::{build::Code, reconcile::env::Env, wake::ServiceRef};

/// A sealed artifact, as shims get it.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// The facts that were sealed.
    pub seal: Seal,
    /// The same, sealed, as JSON.
    pub sealed: String,
    /// Name of the key that sealed it.
    pub sealer: String,
    /// Its machine code.
    pub code: Arc<Code>,
}

impl Artifact {
    /// With these facts, sealed.
    pub fn new(seal: Seal, sealed: &Sealed, code: Arc<Code>) -> Self {
        // A seal is two strings: it is always JSON.
        let text = serde_json::to_string(sealed).unwrap_or_default();
        Self { seal, sealed: text, sealer: sealed.sealer().to_owned(), code }
    }
}

/// How often instances are used, as `spec.instance` says; what it does not say is the shims' default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// Requests that an instance answers.
    pub max_invocations: Option<u32>,
    /// Of these at once.
    pub max_concurrency: Option<u32>,
    /// Instances that are kept for another request.
    pub pool_size: Option<u32>,
    /// Seconds that each of these waits for one.
    pub idle_seconds: Option<u32>,
}

impl From<&Instance> for Reuse {
    fn from(instance: &Instance) -> Self {
        let number = |asked: Option<i32>| asked.and_then(|asked| u32::try_from(asked).ok());
        Self {
            max_invocations: number(instance.max_invocations),
            max_concurrency: number(instance.max_concurrency),
            pool_size: number(instance.pool_size),
            idle_seconds: number(instance.idle_seconds),
        }
    }
}

/// What a service is, once its artifact is made.
#[derive(Clone, Debug)]
pub struct Content {
    /// `metadata.generation` of the object that this was made from.
    pub service_generation: i64,
    /// The image, for status.
    pub image: Image,
    /// Digest of the component.
    pub component: String,
    /// Its artifacts by the fingerprint of the engine that runs them: one for each target. A shim gets the one of its own.
    pub artifacts: BTreeMap<String, Artifact>,
    /// Environment variables.
    pub env: Env,
    /// Whether wasi:logging is granted.
    pub logging: bool,
    /// Where requests may be sent; `None`: nowhere, and it is not linked.
    pub outbound_http: Option<OutboundHttp>,
    /// Most linear memory of one instance, in bytes.
    pub instance_memory: u64,
    /// How often instances are used.
    pub reuse: Reuse,
    /// Milliseconds that a request may take, waiting included.
    pub timeout_millis: u64,
    /// Requests in flight for one replica.
    pub concurrency: u32,
    /// Whether shims count the CPU time that it takes.
    pub count_cpu: bool,
}

impl Content {
    /// A name for exactly this content, so that a new leader can tell whether what the shims have is the same: whichever
    /// engines it is compiled for, and whoever sealed it.
    pub fn name(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(&self.component);
        hash.update(prost::Message::encode_to_vec(&self.unsealed(&ServiceRef::nobody(), 0, 0, 0)));
        hash.update(self.concurrency.to_le_bytes());
        hex::encode(&hash.finalize()[..8])
    }

    /// Whether there is an artifact for the engine of this fingerprint.
    pub fn runs_on(&self, engine: &str) -> bool {
        self.artifacts.contains_key(engine)
    }

    /// A name for its machine code and who sealed it. Compiled anew it is the same: when that was does not matter.
    pub fn made(&self) -> String {
        let each = self.artifacts.iter().map(|(engine, a)| format!("{engine} {} {}\n", a.seal.code_sha256, a.sealer));
        each.collect()
    }

    /// The message that is signed and sent, with the artifact of the shim's engine.
    pub fn assignment(
        &self,
        service: &ServiceRef,
        generation: u64,
        port: u16,
        budget: u32,
        artifact: &Artifact,
    ) -> v1::Assignment {
        v1::Assignment {
            sealed: artifact.sealed.clone().into_bytes(),
            note_sha256: hex::encode(Sha256::digest(&artifact.code.note)),
            ..self.unsealed(service, generation, port, budget)
        }
    }

    fn unsealed(&self, service: &ServiceRef, generation: u64, port: u16, budget: u32) -> v1::Assignment {
        v1::Assignment {
            service_uid: service.uid.clone(),
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            generation,
            service_generation: self.service_generation,
            port: u32::from(port),
            budget,
            sealed: vec![],
            env: self.env.iter().map(|(name, value)| v1::EnvVar { name: name.into(), value: value.into() }).collect(),
            grants: Some(v1::Grants {
                logging: self.logging,
                outbound_http: self.outbound_http.as_ref().map(|granted| v1::OutboundHttp {
                    allowed_hosts: granted.allowed_hosts.clone(),
                    allowed_cidrs: granted.allowed_cidrs.clone(),
                }),
            }),
            instance_memory: self.instance_memory,
            timeout_millis: self.timeout_millis,
            parked: false,
            count_cpu: self.count_cpu,
            note_sha256: String::new(),
            max_invocations: self.reuse.max_invocations,
            max_concurrency: self.reuse.max_concurrency,
            pool_size: self.reuse.pool_size,
            idle_seconds: self.reuse.idle_seconds,
            hosts: vec![],
            created_at: 0,
        }
    }
}

/// A service as it is assigned now.
#[derive(Clone, Debug)]
pub struct Assigned {
    /// Whose it is.
    pub service: ServiceRef,
    /// Grows with every change.
    pub generation: u64,
    /// The service's port on every shim.
    pub port: u16,
    /// What is served.
    pub content: Arc<Content>,
    /// Name of exactly this: content, port and places.
    pub fingerprint: String,
    /// What it has of the shims' shared port, as in spec.hosts.
    pub hosts: Vec<String>,
    /// When it was made, in seconds since 1970.
    pub created_at: i64,
    /// Replicas by node.
    pub replicas: BTreeMap<String, u32>,
    /// It is scaled to zero: the first request loads it.
    pub parked: bool,
    /// Requests in flight by the uid of the shim's pod, of those that are to serve.
    pub budgets: BTreeMap<String, u32>,
    /// The same of those that have no replica: which it has left and that answer for old connections still, and which answer
    /// for its hosts. They do so by what is assigned now, and keep nothing in memory for it.
    pub beside: BTreeMap<String, u32>,
}

/// What a shim is told of a service, beside what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Requests in flight that it takes.
    pub budget: u32,
    /// Nothing is to be resident: the first request loads it.
    pub parked: bool,
}

impl Assigned {
    /// The message that is signed and sent to a shim with this share.
    pub fn message(&self, Share { budget, parked }: Share, artifact: &Artifact) -> v1::Assignment {
        let Self { service, generation, port, content, hosts, created_at, .. } = self;
        let host = |text: &String| {
            let Host { name, path } = Host::of(text);
            v1::Host { name: name.to_owned(), path: path.to_owned() }
        };
        v1::Assignment {
            parked,
            hosts: hosts.iter().map(host).collect(),
            created_at: *created_at,
            ..content.assignment(service, *generation, *port, budget, artifact)
        }
    }

    /// What this shim is told; `None`: nothing.
    pub fn share(&self, pod_uid: &str) -> Option<Share> {
        let serves = self.budgets.get(pod_uid).map(|&budget| Share { budget, parked: self.parked });
        serves.or_else(|| self.beside.get(pod_uid).map(|&budget| Share { budget, parked: true }))
    }
}
