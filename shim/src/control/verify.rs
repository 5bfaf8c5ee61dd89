//! The gate: an assignment as it was received in, an order that may be carried out out. Pure. Nothing of an assignment
//! is read before its signature is checked, and only this makes an [`Order`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use podless_artifact::seal::{Seal, SealError, Sealed, TrustedKeys};
use podless_engine::{MAX_INSTANCE_MEMORY, Target, WASMTIME_VERSION, fingerprint};
use podless_host::outbound::Grant;
use podless_link::{ASSIGNMENT_CONTEXT, SERVICE_PORTS, v1};
use prost::Message as _;

use super::hosts::Hosted;
use crate::serve::{hosts::HostPath, instance::policy::Asked, service::Identity};

/// Largest machine code that is fetched: what the largest component that the operator takes compiles to, and more.
const MAX_CODE: u64 = 1 << 30;

/// A verified assignment. Not `Debug`: its environment may hold secrets.
pub(crate) struct Order {
    /// Whose it is.
    pub(crate) identity: Arc<Identity>,
    /// Its generation.
    pub(crate) generation: u64,
    /// The service's port.
    pub(crate) port: u16,
    /// Requests in flight that this shim takes.
    pub(crate) budget: usize,
    /// Nothing of it is to be resident until a request comes.
    pub(crate) parked: bool,
    /// The CPU time that its instances take is counted exactly.
    pub(crate) count_cpu: bool,
    /// The artifact to serve.
    pub(crate) seal: Seal,
    /// The component's environment. Its values may be secrets: never logged.
    pub(crate) env: Vec<(String, String)>,
    /// Whether `wasi:logging` is granted.
    pub(crate) logging: bool,
    /// Where requests may go, when `outboundHttp` is granted.
    pub(crate) outbound: Option<Grant>,
    /// Most linear memory of one instance, in bytes.
    pub(crate) memory: usize,
    /// How often instances are to be used.
    pub(crate) asked: Asked,
    /// How long a request may take.
    pub(crate) timeout: Duration,
    /// SHA-256 of the operator's note about the artifact, lower-case hex; empty when there is none.
    pub(crate) note_sha256: String,
    /// What the service has of the shared port, when it has something.
    pub(crate) hosted: Option<Arc<Hosted>>,
    /// As it was received: what is kept for the next start.
    pub(crate) received: Received,
}

/// An assignment as it was received, until that is kept in the volume: thousands of them would take more memory than all
/// else that is known of services that nobody asks.
pub(crate) struct Received(Mutex<Option<v1::Assign>>);

impl Received {
    /// What is not kept elsewhere.
    pub(crate) fn get(&self) -> Option<v1::Assign> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It is kept.
    pub(crate) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Order {
    /// Whether whatever can start for this order can for the other.
    pub(crate) fn starts_as(&self, other: &Self) -> bool {
        self.seal.is_same_code(&other.seal)
            && self.env == other.env
            && self.logging == other.logging
            && self.outbound == other.outbound
            && self.memory == other.memory
    }
}

/// Why an assignment is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Not signed by the operator.
    #[error("the assignment's signature: {0}")]
    Signature(SealError),
    /// Signed, and not an assignment.
    #[error("not an assignment: {0}")]
    Malformed(String),
    /// The artifact's seal does not hold.
    #[error("the artifact's seal: {0}")]
    Seal(SealError),
    /// The artifact is for other machines.
    #[error("the artifact is for {theirs}, and this shim runs {ours}: the operator has taken it for another")]
    Target {
        /// Target in the seal.
        theirs: String,
        /// Target of this shim.
        ours: Target,
    },
    /// The artifact is for another engine, or another Wasmtime made it.
    #[error(
        "the artifact is for engine {theirs} of Wasmtime {wasmtime}; this shim runs {ours} of {WASMTIME_VERSION}: wait for \
         the upgrade"
    )]
    Engine {
        /// Fingerprint in the seal.
        theirs: String,
        /// Version in the seal.
        wasmtime: String,
        /// Fingerprint of this shim.
        ours: String,
    },
}

impl Refused {
    /// A stable name.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Signature(_) => "signature-invalid",
            Self::Malformed(_) => "assignment-invalid",
            Self::Seal(_) => "seal-invalid",
            Self::Target { .. } => "target-mismatch",
            Self::Engine { .. } => "engine-mismatch",
        }
    }
}

/// Reads whose an assignment is without believing anything of it: for the answer that it is refused.
pub(crate) fn claimed(received: &v1::Assign) -> (String, u64) {
    v1::Assignment::decode(received.assignment.as_slice())
        .map(|assignment| (assignment.service_uid, assignment.generation))
        .unwrap_or_default()
}

/// Checks an assignment and the seal in it, for a shim that runs this target.
pub(crate) fn verify(received: v1::Assign, keys: &TrustedKeys, runs: Target) -> Result<Order, Refused> {
    keys.verify(ASSIGNMENT_CONTEXT, &received.assignment, &received.signature).map_err(Refused::Signature)?;
    let assignment = v1::Assignment::decode(received.assignment.as_slice()).map_err(malformed)?;
    let sealed: Sealed = serde_json::from_slice(&assignment.sealed).map_err(malformed)?;
    let seal = keys.open(&sealed).map_err(Refused::Seal)?;
    if seal.target != runs.as_str() {
        return Err(Refused::Target { theirs: seal.target, ours: runs });
    }
    let ours = fingerprint(runs);
    if seal.fingerprint != ours || seal.wasmtime != WASMTIME_VERSION {
        return Err(Refused::Engine { theirs: seal.fingerprint, wasmtime: seal.wasmtime, ours });
    }
    if !is_sha256(&seal.code_sha256) || seal.code_size > MAX_CODE {
        return Err(Refused::Malformed("the seal's hash or size cannot be right".to_owned()));
    }
    let uid = assignment.service_uid;
    // The uid names a file: nothing else than what Kubernetes makes may pass.
    if uid.is_empty() || uid.len() > 64 || !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(Refused::Malformed("the service's uid is none".to_owned()));
    }
    let port = u16::try_from(assignment.port).ok().filter(|port| SERVICE_PORTS.contains(port));
    let port = port.ok_or_else(|| malformed(format!("port {} is no service port", assignment.port)))?;
    let hosts = assignment
        .hosts
        .iter()
        .map(|host| HostPath::read(host).ok_or_else(|| malformed(format!("no request is for {:?}", host.name))));
    let hosts = hosts.collect::<Result<Vec<_>, _>>()?;
    let hosted = Hosted { uid: uid.clone(), created_at: assignment.created_at, hosts };
    let grants = assignment.grants.unwrap_or_default();
    Ok(Order {
        identity: Arc::new(Identity { uid, namespace: assignment.namespace, name: assignment.name }),
        generation: assignment.generation,
        port,
        budget: assignment.budget as usize,
        parked: assignment.parked,
        count_cpu: assignment.count_cpu,
        seal,
        env: assignment.env.into_iter().map(|variable| (variable.name, variable.value)).collect(),
        logging: grants.logging,
        outbound: grants.outbound_http.as_ref().map(Grant::parse).transpose().map_err(malformed)?,
        memory: assignment.instance_memory.min(MAX_INSTANCE_MEMORY) as usize,
        asked: Asked {
            invocations: assignment.max_invocations,
            concurrency: assignment.max_concurrency,
            pool: assignment.pool_size,
            idle: assignment.idle_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        },
        timeout: Duration::from_millis(assignment.timeout_millis.max(1)),
        note_sha256: assignment.note_sha256,
        hosted: (!hosted.hosts.is_empty()).then(|| Arc::new(hosted)),
        received: Received(Mutex::new(Some(received))),
    })
}

fn malformed(error: impl ToString) -> Refused {
    Refused::Malformed(error.to_string())
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

#[cfg(test)]
mod tests {
    use podless_artifact::seal::{HttpWorld, SealKey};
    use proptest::prelude::*;

    use super::*;

    const OURS: Target = Target::X86_64V3;

    fn assignment(key: &SealKey) -> v1::Assignment {
        changed(key, |_| {})
    }

    /// An assignment whose seal says something else.
    fn changed(key: &SealKey, change: impl FnOnce(&mut Seal)) -> v1::Assignment {
        let mut seal = Seal {
            component: "sha256:c".into(),
            code_sha256: "0a".repeat(32),
            code_size: 9,
            fingerprint: fingerprint(OURS),
            wasmtime: WASMTIME_VERSION.into(),
            target: OURS.to_string(),
            http: HttpWorld::P2,
            flavour: podless_engine::Flavour::P2,
            made_at: "2026-01-31T12:00:00Z".into(),
        };
        change(&mut seal);
        v1::Assignment {
            service_uid: "0f-1".into(),
            port: 20_000,
            sealed: serde_json::to_vec(&key.seal(&seal).expect("sealed")).expect("JSON"),
            instance_memory: u64::MAX,
            ..Default::default()
        }
    }

    fn grants(host: &str, range: &str) -> v1::Grants {
        let outbound = v1::OutboundHttp { allowed_hosts: vec![host.into()], allowed_cidrs: vec![range.into()] };
        v1::Grants { outbound_http: Some(outbound), ..Default::default() }
    }

    fn signed(assignment: &v1::Assignment, key: &SealKey) -> v1::Assign {
        let bytes = assignment.encode_to_vec();
        v1::Assign { signature: key.sign(ASSIGNMENT_CONTEXT, &bytes).to_vec(), assignment: bytes }
    }

    fn check(assignment: v1::Assignment, key: &SealKey) -> Result<Order, &'static str> {
        let keys = TrustedKeys::from_pem(&SealKey::from_random([1; 32]).public_pem().expect("PEM")).expect("keys");
        verify(signed(&assignment, key), &keys, OURS).map_err(|refused| refused.reason())
    }

    #[test]
    fn only_what_the_operator_signed_and_sealed_passes() {
        let (key, other) = (SealKey::from_random([1; 32]), SealKey::from_random([2; 32]));
        let order = check(assignment(&key), &key).expect("an order");
        assert_eq!(order.memory as u64, MAX_INSTANCE_MEMORY, "capped to what a slot holds");
        assert_eq!(check(assignment(&key), &other).err(), Some("signature-invalid"));
        assert_eq!(check(assignment(&other), &key).err(), Some("seal-invalid"));
        for change in [
            |a: &mut v1::Assignment| a.service_uid = "../x".into(),
            |a: &mut v1::Assignment| a.service_uid = String::new(),
            |a: &mut v1::Assignment| a.port = 80,
            |a: &mut v1::Assignment| a.port = 65_536 + 20_000,
            |a: &mut v1::Assignment| a.sealed = b"{}".into(),
            |a: &mut v1::Assignment| a.hosts = vec![v1::Host { name: "*".into(), path: String::new() }],
            |a: &mut v1::Assignment| a.grants = Some(grants("a.test", "10.0.0.0/8")),
            |a: &mut v1::Assignment| a.grants = Some(grants("https://a.test", "10.0.0.0/33")),
        ] {
            let mut changed = assignment(&key);
            change(&mut changed);
            assert_eq!(check(changed, &key).err(), Some("assignment-invalid"));
        }
    }

    #[test]
    fn code_for_other_machines_or_engines_is_refused() {
        let key = SealKey::from_random([1; 32]);
        let why = |change: fn(&mut Seal)| check(changed(&key, change), &key).err();
        assert_eq!(why(|_| {}), None);
        for other in
            [|seal: &mut Seal| seal.target = "aarch64".into(), |seal: &mut Seal| seal.target = "x86-64-v2".into()]
        {
            assert_eq!(why(other), Some("target-mismatch"));
        }
        assert_eq!(why(|seal| seal.fingerprint = fingerprint(Target::Aarch64)), Some("engine-mismatch"));
        assert_eq!(why(|seal| seal.wasmtime = "47.0.0".into()), Some("engine-mismatch"));
        assert_eq!(why(|seal| seal.code_sha256 = "../x".into()), Some("assignment-invalid"));
        assert_eq!(why(|seal| seal.code_size = MAX_CODE + 1), Some("assignment-invalid"));
    }

    #[test]
    fn what_changes_how_it_starts_is_told_from_what_does_not() {
        let key = SealKey::from_random([1; 32]);
        let order = |change: fn(&mut v1::Assignment)| {
            let mut changed = v1::Assignment { instance_memory: 2 << 20, ..assignment(&key) };
            change(&mut changed);
            check(changed, &key).expect("an order")
        };
        let before = order(|_| {});
        let again = v1::Assignment { instance_memory: 2 << 20, ..changed(&key, |seal| seal.made_at.clear()) };
        assert!(check(again, &key).expect("an order").starts_as(&before), "it was compiled once more");
        for same in [
            |a: &mut v1::Assignment| a.parked = true,
            |a: &mut v1::Assignment| (a.generation, a.budget, a.port) = (9, 9, 20_009),
        ] {
            assert!(order(same).starts_as(&before));
        }
        for other in [
            |a: &mut v1::Assignment| a.env = vec![v1::EnvVar { name: "A".into(), value: "1".into() }],
            |a: &mut v1::Assignment| a.instance_memory = 1 << 20,
            |a: &mut v1::Assignment| a.grants = Some(v1::Grants { logging: true, ..Default::default() }),
            |a: &mut v1::Assignment| a.grants = Some(grants("https://a.test", "10.0.0.0/8")),
        ] {
            assert!(!order(other).starts_as(&before));
        }
    }

    #[test]
    fn a_changed_byte_is_seen() {
        let key = SealKey::from_random([1; 32]);
        let keys = TrustedKeys::from_pem(&key.public_pem().expect("PEM")).expect("keys");
        let good = signed(&assignment(&key), &key);
        for at in 0..good.assignment.len() {
            let mut bad = good.clone();
            bad.assignment[at] ^= 1;
            assert!(matches!(verify(bad, &keys, OURS), Err(Refused::Signature(_))), "byte {at}");
        }
    }

    proptest! {
        /// What comes from a stranger is refused, and said whose it claims to be without harm.
        #[test]
        fn fuzz_of_what_nobody_signed(assignment in proptest::collection::vec(any::<u8>(), 0..300), signature in any::<[u8; 32]>()) {
            let keys = TrustedKeys::from_pem(&SealKey::from_random([1; 32]).public_pem().expect("PEM")).expect("keys");
            let received = v1::Assign { assignment, signature: signature.repeat(2) };
            claimed(&received);
            prop_assert!(matches!(verify(received, &keys, OURS), Err(Refused::Signature(_))));
        }

        /// Even what the operator signed is looked at: nothing of it becomes a path, a port or a size that cannot be.
        #[test]
        fn fuzz_of_what_was_signed_by_mistake(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            uid in any::<String>(), port in any::<u32>(), host in any::<String>(), range in any::<String>(),
        ) {
            let key = SealKey::from_random([1; 32]);
            let keys = TrustedKeys::from_pem(&key.public_pem().expect("PEM")).expect("keys");
            let mut bytes = assignment(&key).encode_to_vec();
            for (at, with) in changes {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            let granted = v1::Assignment { grants: Some(grants(&host, &range)), ..assignment(&key) };
            let named = v1::Assignment { service_uid: uid, port, ..assignment(&key) };
            for bytes in [bytes, granted.encode_to_vec(), named.encode_to_vec()] {
                let signature = key.sign(ASSIGNMENT_CONTEXT, &bytes).to_vec();
                if let Ok(order) = verify(v1::Assign { assignment: bytes, signature }, &keys, OURS) {
                    let uid = &order.identity.uid;
                    prop_assert!(!uid.is_empty() && uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'), "{uid:?}");
                    prop_assert!(SERVICE_PORTS.contains(&order.port) && order.memory as u64 <= MAX_INSTANCE_MEMORY);
                    prop_assert!(is_sha256(&order.seal.code_sha256) && order.seal.code_size <= MAX_CODE);
                }
            }
        }
    }
}
