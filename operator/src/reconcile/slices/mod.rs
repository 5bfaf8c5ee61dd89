//! The EndpointSlices of a service, as Kubernetes' own controller would make them: a hundred endpoints in each at most,
//! those of one family of addresses. In: the slices that there are, and the endpoints; out: the slices to write, in that
//! order, and those to delete. Pure.
//!
//! `names` says what they are called, `split` which endpoint is in which, `object` what one looks like.

mod names;
mod object;
mod split;

pub use names::{Family, SliceId, SliceNames, owner};
pub use object::Target;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::ResourceExt;
use podless_crds::WasmService;

use super::children::{Child, PREFER_DUAL_STACK, Recorded, slice_name};
use object::slice_object;
use split::{Members, gives_away, split};

/// Slices as they are found, by name; `Missing` those that were looked for in vain.
pub type Slices = BTreeMap<String, Child<EndpointSlice>>;

/// Those that are the service's own.
pub fn ours(slices: &Slices) -> impl Iterator<Item = &EndpointSlice> {
    slices.values().filter_map(Child::ours)
}

/// What is to become of a service's slices.
#[derive(Debug)]
pub struct SlicePlan {
    /// Those that there are to be, in the order in which they are to be written: an endpoint that moves is in both slices
    /// for a moment, and never in neither.
    pub wanted: Vec<EndpointSlice>,
    /// Names of those to delete then.
    pub emptied: Vec<String>,
}

/// Families of a service's slices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Families {
    /// That of its first slice. It never changes: a slice keeps its family.
    first: Family,
    /// Those that the Service has addresses of, or may soon have.
    pub served: Vec<Family>,
}

impl Families {
    /// As the Service and the first slice have them; before that one is there, as the pods have them. A Service that is yet
    /// to be written, or to become one of two families, may have either in a moment: its slices must be there by then.
    pub fn of(service: &Child<Service>, slices: &Slices, name: &str, pods: Family) -> Self {
        let found = slices.get(&slice_name(name)).and_then(Child::ours);
        let first = found.and_then(|slice| Family::named(&slice.address_type)).unwrap_or(pods);
        let spec = service.ours().and_then(|service| service.spec.as_ref());
        let spec = spec.filter(|spec| spec.ip_family_policy.as_deref() == Some(PREFER_DUAL_STACK));
        let families = spec.and_then(|spec| spec.ip_families.as_ref()).into_iter().flatten();
        let served: Vec<_> = families.filter_map(|family| Family::named(family)).collect();
        Self { first, served: if served.is_empty() { Family::ALL.to_vec() } else { served } }
    }
}

/// What every slice of a service has.
pub struct Common<'a> {
    /// The service.
    pub owner: &'a WasmService,
    /// Its port.
    pub port: u16,
    /// Namespace of the shims.
    pub namespace: &'a str,
    /// Families of its slices.
    pub families: &'a Families,
}

impl Common<'_> {
    /// Plans.
    pub fn plan(&self, found: &Slices, targets: &[Target], record: Option<&Recorded>) -> SlicePlan {
        let service = self.owner.name_any();
        let Families { first, served } = self.families;
        let mut before: BTreeMap<Family, Members<'_>> = BTreeMap::new();
        // What is ours by a name that it would not be given.
        let mut strays = BTreeSet::new();
        for slice in ours(found) {
            match SliceId::of(slice, &service, *first) {
                Some(SliceId { family, number }) => {
                    before.entry(family).or_default().insert(number, members(slice));
                }
                None => {
                    strays.insert(slice.name_any());
                }
            }
        }
        let mut wanted = vec![];
        for family in Family::ALL {
            let before = before.remove(&family).unwrap_or_default();
            let name = |number| SliceId { family, number }.name(&service, *first);
            let here = targets.iter().filter(|target| served.contains(&family) && target.ip(family).is_some());
            let pods = here.map(|target| target.pod_uid.as_str()).collect();
            let after = split(&pods, &before, |number| !strays.contains(&name(number)));
            for (number, pods) in &after {
                let is_first = family == *first && *number == 1;
                if pods.is_empty() && !is_first {
                    continue;
                }
                let targets = targets.iter().filter(|target| pods.contains(target.pod_uid.as_str()));
                let (port, record) = (self.port, record.filter(|_| is_first));
                let slice = slice_object(self.owner, name(*number), port, family, self.namespace, targets, record);
                wanted.push((gives_away(*number, &before, &after), slice));
            }
        }
        wanted.sort_by_key(|(gives_away, _)| *gives_away);
        let wanted: Vec<_> = wanted.into_iter().map(|(_, slice)| slice).collect();
        let names: BTreeSet<_> = wanted.iter().map(ResourceExt::name_any).collect();
        let emptied = ours(found).map(ResourceExt::name_any).filter(|name| !names.contains(name)).collect();
        SlicePlan { wanted, emptied }
    }
}

/// Uids of the pods in a slice.
fn members(slice: &EndpointSlice) -> BTreeSet<&str> {
    slice.endpoints.iter().filter_map(|endpoint| endpoint.target_ref.as_ref()?.uid.as_deref()).collect()
}

impl SlicePlan {
    /// Names that nobody has looked for yet: something of somebody else's may have them.
    pub fn unseen(&self, found: &Slices) -> Vec<String> {
        self.wanted.iter().map(ResourceExt::name_any).filter(|name| !found.contains_key(name)).collect()
    }
}
