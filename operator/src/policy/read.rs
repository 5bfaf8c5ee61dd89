//! A policy as it is written, made ready to judge by. In: a WasmPolicy and the Secrets that it names; out: a [`Policy`],
//! and what of it cannot be meant so. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::{ResourceExt, core::Selector};
use podless_artifact::{IdentityText, KeylessText, SignatureRequirement, SubjectText, docker_registry};
use podless_crds::{
    CapabilityCeiling, ImageRule, Keyless, LimitCeiling, PolicySecretRef, PolicyText, SignatureRule, WasmPolicy,
};

use crate::reconcile::quantity;

/// What the Secrets hold that policies name, by their names in the release's namespace. One that is not there is not here.
pub type Secrets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A policy, ready to judge by.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub(super) name: String,
    /// Namespaces that it holds for; `None`: all.
    pub(super) selector: Option<Selector>,
    pub(super) images: Vec<Images>,
    pub(super) default_deny: bool,
    pub(super) capabilities: Option<CapabilityCeiling>,
    pub(super) limits: LimitCeiling,
    /// `limits.memory` in bytes.
    pub(super) memory: Option<u64>,
    /// Hosts that may be asked for; `None`: all.
    pub(super) hosts: Option<Vec<String>>,
    pub(super) revoked: Arc<BTreeSet<String>>,
}

/// What is required of images whose references begin alike.
#[derive(Clone, Debug)]
pub(super) struct Images {
    /// Registry and parts of the repository, as references have them.
    pub(super) prefix: String,
    /// Signatures, each of them; or why it is not known which.
    pub(super) signatures: Result<Vec<SignatureRequirement>, String>,
}

impl Policy {
    /// Reads it. What cannot be read is refused to those whom it concerns, and told: the second half, a sentence each.
    pub fn read(policy: &WasmPolicy, secrets: &Secrets) -> (Self, Vec<String>) {
        let (name, spec) = (policy.name_any(), &policy.spec);
        let images = spec.images.iter().enumerate().map(|(i, rule)| images(&name, i, rule, secrets));
        let images = distinct(images.collect());
        let mut mistakes: Vec<_> = images.iter().filter_map(|images| images.signatures.clone().err()).collect();
        mistakes.dedup();
        let memory = spec.limits.memory.as_ref().map(|text| quantity::bytes(&text.0).ok_or(&text.0));
        if let Some(Err(text)) = memory {
            mistakes.push(format!("spec.limits.memory is {text:?}: write a whole number of bytes, as in 64Mi"));
        }
        let selector = spec.namespace_selector.clone().map(Selector::try_from).transpose();
        if let Err(error) = &selector {
            mistakes.push(format!("spec.namespaceSelector: {error}; until then it holds for all namespaces"));
        }
        let policy = Self {
            selector: selector.unwrap_or(None),
            images,
            default_deny: spec.default_deny,
            capabilities: spec.capabilities.clone(),
            memory: memory.map(|memory| memory.unwrap_or(0)),
            limits: spec.limits.clone(),
            hosts: spec.hosts.clone(),
            revoked: Arc::new(spec.revoked_digests.iter().cloned().collect()),
            name,
        };
        (policy, mistakes)
    }

    /// Whether it holds for a namespace with these labels.
    pub(super) fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        use kube::core::SelectorExt;
        self.selector.as_ref().is_none_or(|selector| selector.matches(labels))
    }

    /// What it requires of an image, by the longest of its prefixes that fits; `None`: none does.
    pub(super) fn images_of(&self, registry: &str, repository: &str) -> Option<&Images> {
        let fits = self.images.iter().filter(|images| images.fits(registry, repository));
        fits.max_by_key(|images| images.prefix.len())
    }
}

impl Images {
    /// By whole parts: a prefix that ends within one does not fit.
    fn fits(&self, registry: &str, repository: &str) -> bool {
        let image = format!("{}/{repository}", host(registry));
        let rest = image.strip_prefix(&self.prefix);
        self.prefix.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// A registry as it is compared: DNS knows no case, and Docker Hub goes by two names.
fn host(registry: &str) -> String {
    docker_registry(&registry.to_ascii_lowercase())
}

/// The names of the Secrets that a policy names.
pub(super) fn secrets_of(policy: &WasmPolicy) -> BTreeSet<String> {
    let rules = policy.spec.images.iter().flat_map(|rule| &rule.signatures);
    let texts = rules.flat_map(|rule| rule.keys.iter().chain(rule.keyless.iter().map(|keyless| &keyless.trust_root)));
    texts.filter_map(|text| Some(text.secret_ref.as_ref()?.name.clone())).collect()
}

fn images(policy: &str, index: usize, rule: &ImageRule, secrets: &Secrets) -> Images {
    let prefix = match rule.prefix.split_once('/') {
        Some((registry, rest)) => format!("{}/{rest}", host(registry)),
        None => host(&rule.prefix),
    };
    let signatures = rule.signatures.iter().enumerate().map(|(i, rule)| {
        requirement(policy, rule, secrets).map_err(|why| format!("spec.images[{index}].signatures[{i}].{why}"))
    });
    Images { prefix, signatures: signatures.collect() }
}

/// Prefixes that are written otherwise and mean the same: neither's signatures may be left out, so both are mistakes.
fn distinct(images: Vec<Images>) -> Vec<Images> {
    let first = |prefix: &str| images.iter().position(|images| images.prefix == prefix);
    let last = |prefix: &str| images.iter().rposition(|images| images.prefix == prefix);
    let each = images.iter().map(|one| match (first(&one.prefix), last(&one.prefix)) {
        (Some(first), Some(last)) if first != last => {
            let why = format!("spec.images[{first}] and [{last}] are of the same prefix: make one of them");
            Images { signatures: Err(why), ..one.clone() }
        }
        _ => one.clone(),
    });
    each.collect()
}

fn requirement(policy: &str, rule: &SignatureRule, secrets: &Secrets) -> Result<SignatureRequirement, String> {
    let keys = rule.keys.iter().enumerate();
    let keys = keys.map(|(i, key)| text(key, secrets).map_err(|why| format!("keys[{i}]: {why}")));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let root = rule.keyless.as_ref().map(|keyless| text(&keyless.trust_root, secrets));
    let root = root.transpose().map_err(|why| format!("keyless.trustRoot: {why}"))?;
    let identities: Vec<_> = rule.keyless.iter().flat_map(identities).collect();
    let keyless = root.as_deref().map(|trust_root| KeylessText { identities: &identities, trust_root });
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    SignatureRequirement::parse(format!("WasmPolicy {policy:?}"), &keys, keyless).map_err(|error| error.to_string())
}

fn identities(keyless: &Keyless) -> impl Iterator<Item = IdentityText<'_>> {
    keyless.identities.iter().map(|identity| IdentityText {
        issuer: &identity.issuer,
        subject: match &identity.subject_regex {
            Some(pattern) => SubjectText::Pattern(pattern),
            // Without either it is one that nobody has.
            None => SubjectText::Exact(identity.subject.as_deref().unwrap_or_default()),
        },
    })
}

fn text(text: &PolicyText, secrets: &Secrets) -> Result<String, String> {
    match (&text.inline, &text.secret_ref) {
        (Some(inline), None) => Ok(inline.clone()),
        (None, Some(PolicySecretRef { name, key })) => {
            let secret = secrets.get(name).ok_or_else(|| {
                format!("Secret {name:?} is not in the namespace that Podless is installed in: create it there")
            })?;
            let value = secret.get(key).ok_or_else(|| format!("Secret {name:?} has no key {key:?}: add it"))?;
            String::from_utf8(value.clone()).map_err(|_| format!("key {key:?} of Secret {name:?} is not text"))
        }
        _ => Err("give exactly one of inline and secretRef".to_owned()),
    }
}
