//! What the policies say of a service. In: policies, its namespace's labels, its spec; out: what of it they do not allow,
//! the signatures that its image must have, its most replicas, and what is revoked. Pure.
//!
//! A service is held to every policy that selects its namespace, to each by itself: one more never allows more.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use podless_artifact::{ImageReference, SignatureRequirement};
use podless_crds::{Capabilities, Host, OutboundHttp, Reason, WasmServiceSpec};

use super::{
    ceiling::{Beyond, beyond},
    read::Policy,
};
use crate::{build::Rejection, reconcile::quantity};

/// Prefixes and servers that a sentence names.
const NAMED: usize = 5;

/// Every policy, and the labels of every namespace.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    /// By their names.
    pub policies: BTreeMap<String, Policy>,
    /// Labels of the namespaces, by their names.
    pub namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// Digests that a policy has revoked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RevokedBy {
    /// Name of the policy.
    pub policy: String,
    /// The digests.
    pub digests: Arc<BTreeSet<String>>,
}

/// The most replicas that there may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    /// Their number.
    pub replicas: i32,
    /// Name of the policy.
    pub policy: String,
}

/// What the policies say of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// It is not known yet which policies there are for its namespace.
    pub unknown: bool,
    /// The policies that it is held to, by their names.
    pub policies: Vec<String>,
    /// What of its spec is not allowed, a sentence each.
    pub violations: Vec<String>,
    /// Signatures that its image must have, each of them.
    pub signatures: Vec<SignatureRequirement>,
    /// The most replicas that it may have.
    pub cap: Option<Cap>,
    /// What must not run.
    pub revoked: Vec<RevokedBy>,
}

impl Policies {
    /// Judges one service.
    pub fn judge(&self, namespace: &str, spec: &WasmServiceSpec) -> Judgement {
        let Some(policies) = self.of(namespace) else {
            return Judgement { unknown: true, ..Judgement::default() };
        };
        let mut judgement = Judgement::default();
        policies.into_iter().for_each(|policy| policy.judge(spec, &mut judgement));
        judgement
    }

    /// What of these hosts services of a namespace may not have, a sentence each; `None` while that is not known. Without
    /// one of them a service serves all the same: so these are no part of its judgement.
    pub(super) fn beyond_hosts<'a>(&self, namespace: &str, hosts: &'a [String]) -> Option<BTreeMap<&'a str, String>> {
        let policies = self.of(namespace)?;
        let beyond = |host: &'a String| {
            let why = policies.iter().find_map(|policy| policy.beyond_host(host))?;
            Some((host.as_str(), why))
        };
        Some(hosts.iter().filter_map(beyond).collect())
    }

    /// The policies that hold for a namespace; `None` while its labels are not known, and matter.
    fn of(&self, namespace: &str) -> Option<Vec<&Policy>> {
        let labels = self.namespaces.get(namespace);
        if labels.is_none() && self.policies.values().any(|policy| policy.selector.is_some()) {
            return None;
        }
        let none = BTreeMap::new();
        Some(self.policies.values().filter(|policy| policy.selects(labels.unwrap_or(&none))).collect())
    }
}

impl Policy {
    fn judge(&self, spec: &WasmServiceSpec, judgement: &mut Judgement) {
        let Judgement { unknown: _, policies, violations, signatures, cap, revoked } = judgement;
        policies.push(self.name.clone());
        let mut violate = |what: String| violations.push(format!("WasmPolicy {:?} {what}", self.name));
        match self.signatures(&spec.revision.image) {
            Ok(required) => signatures.extend(required),
            Err(what) => violate(what),
        }
        self.beyond_capabilities(&spec.revision.capabilities).into_iter().for_each(&mut violate);
        self.beyond_limits(spec).into_iter().for_each(&mut violate);
        if let Some(replicas) = self.limits.replicas
            && cap.as_ref().is_none_or(|cap| replicas < cap.replicas)
        {
            *cap = Some(Cap { replicas, policy: self.name.clone() });
        }
        if !self.revoked.is_empty() {
            revoked.push(RevokedBy { policy: self.name.clone(), digests: self.revoked.clone() });
        }
    }

    /// The signatures that the image must have, or why it may not be used. Of a text that is no reference the pipeline tells.
    fn signatures(&self, image: &str) -> Result<Vec<SignatureRequirement>, String> {
        let Ok(reference) = ImageReference::parse(image, None) else { return Ok(vec![]) };
        match self.images_of(reference.registry(), reference.repository()) {
            Some(images) => images.signatures.clone().map_err(|why| {
                format!(
                    "requires a signature of {:?} that cannot be looked for (spec.image): {why}; its author has to mend it",
                    images.prefix
                )
            }),
            None if self.default_deny => {
                let prefixes = self.images.iter().map(|images| images.prefix.as_str());
                Err(format!(
                    "does not allow {image:?} (spec.image): it allows {}",
                    named(prefixes, "no image", "images of ")
                ))
            }
            None => Ok(vec![]),
        }
    }

    fn beyond_capabilities(&self, asked: &Capabilities) -> Vec<String> {
        let Some(ceiling) = &self.capabilities else { return vec![] };
        let logging = (asked.logging.is_some() && !ceiling.logging)
            .then(|| "does not allow logging (spec.capabilities.logging): leave it out".to_owned());
        let outbound = asked.outbound_http.as_ref().and_then(|asked| {
            let Some(ceiling) = &ceiling.outbound_http else {
                return Some(
                    "allows no requests to other servers (spec.capabilities.outboundHttp): leave it out".to_owned(),
                );
            };
            beyond(asked, ceiling).map(|beyond| not_within(&beyond, ceiling))
        });
        logging.into_iter().chain(outbound).collect()
    }

    fn beyond_host(&self, host: &str) -> Option<String> {
        let ceiling = self.hosts.as_ref()?;
        let name = Host::of(host).name;
        let within = ceiling.iter().any(|most| Host::covers(most, name));
        let allowed = || named(ceiling.iter().map(String::as_str), "no host", "");
        (!within).then(|| {
            format!("WasmPolicy {:?} does not allow the host {name} (spec.hosts): it allows {}", self.name, allowed())
        })
    }

    fn beyond_limits(&self, spec: &WasmServiceSpec) -> Vec<String> {
        let revision = &spec.revision;
        let memory = &revision.instance.memory.0;
        // What the service's text means is told by the plan when it means nothing.
        let too_much = self.memory.zip(quantity::bytes(memory)).is_some_and(|(most, asked)| asked > most);
        let most = self.limits.memory.as_ref().map(|most| most.0.as_str()).unwrap_or_default();
        let memory = too_much.then(|| {
            format!("allows at most {most} of memory (spec.instance.memory): {memory} is asked for, ask for less")
        });
        let number = |most: Option<i32>, asked: i32, what: &str, field: &str| {
            let most = most.filter(|most| asked > *most)?;
            Some(format!("allows at most {most} {what} (spec.{field}): {asked} is asked for, ask for less"))
        };
        let limits = &self.limits;
        let timeout =
            number(limits.timeout_seconds, revision.timeout_seconds, "seconds for a request", "timeoutSeconds");
        let concurrency =
            number(limits.concurrency, revision.concurrency, "requests in flight for a replica", "concurrency");
        [memory, timeout, concurrency].into_iter().flatten().collect()
    }
}

fn not_within(beyond: &Beyond<'_>, ceiling: &OutboundHttp) -> String {
    let (what, field, allowed, none) = match beyond {
        Beyond::Host(host) => (format!("requests to {host}"), "allowedHosts", &ceiling.allowed_hosts, "no server"),
        Beyond::Cidr(range) => {
            (format!("addresses in {range}"), "allowedCidrs", &ceiling.allowed_cidrs, "no internal address")
        }
    };
    let allowed = named(allowed.iter().map(String::as_str), none, "");
    format!("does not allow {what} (spec.capabilities.outboundHttp.{field}): it allows {allowed}")
}

/// Some of these, for a sentence.
fn named<'a>(all: impl Iterator<Item = &'a str>, none: &str, before: &str) -> String {
    let all: Vec<_> = all.collect();
    let more = if all.len() > NAMED { format!(" and {} more", all.len() - NAMED) } else { String::new() };
    if all.is_empty() { none.to_owned() } else { format!("{before}{}{more}", all[..all.len().min(NAMED)].join(", ")) }
}

impl Judgement {
    /// Why nothing may be made of this spec.
    pub fn violation(&self) -> Option<Rejection> {
        let message = self.violations.join("; ");
        (!self.violations.is_empty()).then(|| Rejection::mistake(Reason::PolicyViolation, message))
    }

    /// Why what has one of these digests must not run.
    pub fn revokes<'a>(&self, digests: impl IntoIterator<Item = &'a str>) -> Option<Rejection> {
        digests.into_iter().find_map(|digest| revoked(&self.revoked, digest))
    }

    /// The spec, with no more replicas than there may be.
    pub fn capped<'a>(&self, spec: &'a WasmServiceSpec) -> Cow<'a, WasmServiceSpec> {
        let Some(Cap { replicas: most, .. }) = self.cap else { return Cow::Borrowed(spec) };
        let mut capped = spec.clone();
        capped.replicas = capped.replicas.map(|replicas| replicas.min(most));
        if let Some(mut scaling) = spec.scaling() {
            scaling.max_replicas = scaling.max_replicas.min(most);
            scaling.min_replicas = scaling.min_replicas.min(most);
            capped.scaling = Some(scaling);
        }
        Cow::Owned(capped)
    }

    /// That fewer replicas are placed than the spec has.
    pub fn over(&self, spec: &WasmServiceSpec) -> Option<String> {
        let (cap, replicas) = self.cap.as_ref().zip(spec.replicas)?;
        let over = replicas > cap.replicas;
        over.then(|| format!("{cap} (spec.replicas): {replicas} are asked for, {} are placed", cap.replicas))
    }
}

impl fmt::Display for Cap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WasmPolicy {:?} allows at most {} replicas", self.policy, self.replicas)
    }
}

/// Why what has this digest must not run.
pub fn revoked(revoked: &[RevokedBy], digest: &str) -> Option<Rejection> {
    let by = revoked.iter().find(|by| by.digests.contains(digest))?;
    let message = format!(
        "{digest} was revoked by WasmPolicy {:?} (spec.revokedDigests): it is taken off all nodes; use another image",
        by.policy
    );
    Some(Rejection::mistake(Reason::Revoked, message))
}
