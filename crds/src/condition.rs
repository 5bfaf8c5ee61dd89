//! Conditions as closed enums, and the merge that keeps their transition times. Pure: the time is an argument.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::Serialize;

/// The conditions of a `WasmService`, in the order in which they come true, and `Ready` of a `WasmNode` or a `WasmPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum ConditionType {
    /// The policies that select the namespace allow it: only where there are any.
    Permitted,
    /// The image reference names a component in the registry, pinned by digest.
    Resolved,
    /// The component imports only what was granted and exports an HTTP handler.
    Audited,
    /// The component is machine code, sealed.
    Precompiled,
    /// Nodes were chosen for all replicas, and what the service needs there was found.
    Placed,
    /// It has all of its hosts, on every node with a shim: only where it asks for some.
    HostsAccepted,
    /// Something serves: this generation or an earlier one.
    Available,
    /// This generation serves.
    Ready,
}

impl ConditionType {
    /// Every condition that each `WasmService` has.
    pub const ALL: [Self; 6] =
        [Self::Resolved, Self::Audited, Self::Precompiled, Self::Placed, Self::Available, Self::Ready];

    /// The name in `status.conditions[].type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permitted => "Permitted",
            Self::Resolved => "Resolved",
            Self::Audited => "Audited",
            Self::Precompiled => "Precompiled",
            Self::Placed => "Placed",
            Self::HostsAccepted => "HostsAccepted",
            Self::Available => "Available",
            Self::Ready => "Ready",
        }
    }
}

/// True, false, or not known yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Work on it is under way.
    Unknown,
}

impl Status {
    /// The value of `status.conditions[].status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {
        /// Why a condition is what it is: stable names for scripts, also the reasons of Events.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[doc = $doc])+ $name),+ }

        impl Reason {
            /// The name in `status.conditions[].reason`.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),+ }
            }

            /// The reason of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// The step is done.
    Done,
    /// The step waits for an earlier one.
    Waiting,
    /// The registry is being asked.
    Resolving,
    /// The component is coming in.
    Pulling,
    /// It came, and that took long.
    Pulled,
    /// The component is being audited and compiled.
    Compiling,
    /// It was compiled, and that took long.
    Compiled,
    /// The nodes have not all loaded it yet.
    Loading,
    /// Something in the spec cannot be meant so.
    InvalidSpec,
    /// The image reference cannot be parsed.
    InvalidReference,
    /// The registry has no such image.
    ImageNotFound,
    /// The registry refused the credentials, or wants some.
    Unauthorized,
    /// A secret named in imagePullSecrets is missing or is not of type kubernetes.io/dockerconfigjson.
    PullSecretInvalid,
    /// The registry cannot be reached.
    RegistryUnreachable,
    /// The artifact is not laid out as a component.
    UnsupportedLayer,
    /// The layer is larger than the limit.
    TooLarge,
    /// What came does not have the digest that was asked for.
    DigestMismatch,
    /// A policy requires a signature of the image, and it has none.
    SignatureMissing,
    /// The image has no signature by whom a policy names.
    SignatureInvalid,
    /// The layer is not WebAssembly.
    NotWebAssembly,
    /// The layer is a core module, not a component.
    CoreModule,
    /// The layer is precompiled code, which is never taken from a registry.
    PrecompiledLayer,
    /// The component does not export an HTTP handler.
    NoHttpExport,
    /// The component imports what was not granted.
    ImportDenied,
    /// An update imports other interfaces than what serves, or is granted others.
    ImportsChanged,
    /// The component does not compile.
    CompileFailed,
    /// A policy does not allow what the spec asks for.
    PolicyViolation,
    /// A policy has revoked the digest of the image or of the component.
    Revoked,
    /// A policy cannot be applied as it is written.
    PolicyInvalid,
    /// Compiling the component takes more time or memory than it may.
    CompileLimit,
    /// The operator itself is in trouble, and tries again.
    InternalError,
    /// A ConfigMap, a Secret or a key that env names is missing, or is not text.
    EnvInvalid,
    /// No node can take the service, or not all of its replicas.
    NoNode,
    /// Every service port is taken.
    NoPort,
    /// An older WasmService has the host.
    HostnameConflict,
    /// A Service of that name exists and is not ours.
    ServiceConflict,
    /// The API server refuses the Service or the slices: a quota, a rule, a value that its version lacks.
    Refused,
    /// A node could not load the artifact.
    LoadFailed,
    /// This generation serves; replicas that the load has just added may still be loading.
    Serving,
    /// The service has no replicas: every request is answered 503, on purpose.
    Stopped,
    /// Scaled to zero: the first request loads it.
    Parked,
    /// There are more replicas.
    ScaledUp,
    /// There are fewer replicas.
    ScaledDown,
    /// An earlier generation serves.
    EarlierGeneration,
    /// Nothing serves.
    NothingServes,
    /// The shim is connected and runs what the operator compiles for.
    ShimConnected,
    /// The shim's link is down.
    ShimDisconnected,
    /// The shim runs another engine than the one the operator compiles for.
    EngineMismatch,
    /// The shim answers much more slowly than others, and gets no new connections for a while.
    Slow,
}

/// Sets a condition; `lastTransitionTime` moves only when the status does. Returns whether anything but the observed
/// generation changed.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    kind: ConditionType,
    status: Status,
    reason: Reason,
    message: &str,
    generation: Option<i64>,
    now: &Time,
) -> bool {
    let mut new = Condition {
        type_: kind.as_str().to_owned(),
        status: status.as_str().to_owned(),
        reason: reason.as_str().to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: now.clone(),
    };
    let Some(old) = conditions.iter_mut().find(|c| c.type_ == new.type_) else {
        conditions.push(new);
        return true;
    };
    if old.status == new.status {
        new.last_transition_time = old.last_transition_time.clone();
    }
    let changed = old.status != new.status || old.reason != new.reason || old.message != new.message;
    *old = new;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(second).expect("a valid time"))
    }

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let mut all = vec![];
        let mut set = |status, reason, message, second| {
            let changed = set_condition(&mut all, ConditionType::Ready, status, reason, message, Some(1), &at(second));
            (changed, all[0].last_transition_time.clone())
        };
        assert_eq!(set(Status::False, Reason::Loading, "0 of 2", 1), (true, at(1)));
        assert_eq!(set(Status::False, Reason::Loading, "0 of 2", 2), (false, at(1)));
        assert_eq!(set(Status::False, Reason::Loading, "1 of 2", 3), (true, at(1)));
        assert_eq!(set(Status::True, Reason::Serving, "2 of 2", 4), (true, at(4)));
    }

    #[test]
    fn each_type_has_one_entry() {
        let mut all = vec![];
        for kind in ConditionType::ALL.into_iter().chain(ConditionType::ALL) {
            set_condition(&mut all, kind, Status::True, Reason::Done, "", None, &at(1));
        }
        assert_eq!(
            all.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(),
            ConditionType::ALL.map(ConditionType::as_str)
        );
    }
}
