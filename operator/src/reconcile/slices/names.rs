//! What a service's slices are called, and which there are. In: a family and a number, or a slice; out: its name, or
//! the other way round. Pure.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::{Resource, ResourceExt};
use podless_crds::SERVICE_LABEL;

use crate::{
    reconcile::children::{controller, slice_name},
    wake::ServiceRef,
};

/// A family of addresses: a slice has those of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// 32 bits.
    V4,
    /// 128 bits.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// That of an address.
    pub fn of(ip: &str) -> Option<Self> {
        ip.parse().ok().map(|ip: IpAddr| if ip.is_ipv4() { Self::V4 } else { Self::V6 })
    }

    /// That which the API server calls so.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.as_str() == name)
    }

    /// What the API server calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// One of a service's slices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SliceId {
    /// Family of its addresses.
    pub family: Family,
    /// From 1.
    pub number: u32,
}

impl SliceId {
    /// Its name. `first` is the family of the service's first slice.
    pub fn name(self, service: &str, first: Family) -> String {
        let mut name = slice_name(service);
        if self.family != first {
            name = format!("{name}-{}", self.family.as_str().to_lowercase());
        }
        if self.number == 1 { name } else { format!("{name}-{}", self.number) }
    }

    /// Which one a slice is; `None` when its name is not one that it would have been given.
    pub fn of(slice: &EndpointSlice, service: &str, first: Family) -> Option<Self> {
        let name = slice.name_any();
        let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
        let family = Family::named(&slice.address_type)?;
        let ids = [1].into_iter().chain(number).map(|number| Self { family, number });
        ids.into_iter().find(|id| id.name(service, first) == name)
    }
}

/// The uid of the service that a slice belongs to.
pub fn owner(slice: &impl Resource) -> Option<String> {
    controller(slice).map(|owner| owner.uid.clone())
}

/// Names of the slices that there may be, by the uid of their service: what lists, watches and own writes have shown.
/// One that there is not, or that is somebody else's, is looked for in vain, and forgotten; one that there is must not be
/// missed, or its endpoints would stay for ever.
#[derive(Debug, Default)]
pub struct SliceNames(HashMap<String, BTreeSet<Place>>);

/// Namespace and name of a slice.
type Place = (String, String);

impl SliceNames {
    /// A slice was seen. Anybody can give one the owner of another: only by its name, and in the namespace of the service, it
    /// may be the service's own.
    pub fn seen(&mut self, slice: &impl Resource) {
        let Some((service, (namespace, name))) = place(slice) else { return };
        let of = slice.meta().labels.as_ref().and_then(|labels| labels.get(SERVICE_LABEL));
        if of.is_some_and(|of| name.starts_with(&slice_name(of))) {
            self.0.entry(service).or_default().insert((namespace, name));
        }
    }

    /// A slice was seen to be gone.
    pub fn gone(&mut self, slice: &impl Resource) {
        if let Some((service, place)) = place(slice) {
            self.forget(&service, &place);
        }
    }

    /// There may be such a slice in a moment.
    pub fn insert(&mut self, service: &ServiceRef, name: &str) {
        self.0.entry(service.uid.clone()).or_default().insert((service.namespace.clone(), name.to_owned()));
    }

    /// The service has no such slice.
    pub fn remove(&mut self, service: &ServiceRef, name: &str) {
        self.forget(&service.uid, &(service.namespace.clone(), name.to_owned()));
    }

    fn forget(&mut self, service: &str, place: &Place) {
        if let Some(places) = self.0.get_mut(service) {
            places.remove(place);
            if places.is_empty() {
                self.0.remove(service);
            }
        }
    }

    /// Those of a service: in its namespace.
    pub fn of(&self, service: &ServiceRef) -> BTreeSet<String> {
        let places = self.0.get(&service.uid).into_iter().flatten();
        places.filter(|(namespace, _)| *namespace == service.namespace).map(|(_, name)| name.clone()).collect()
    }

    /// The service is gone.
    pub fn release(&mut self, service: &str) {
        self.0.remove(service);
    }
}

/// The uid of a slice's service, and where it is.
fn place(slice: &impl Resource) -> Option<(String, Place)> {
    let (namespace, name) = (slice.meta().namespace.clone()?, slice.meta().name.clone()?);
    Some((owner(slice)?, (namespace, name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_name_and_back() {
        use Family::{V4, V6};
        // The longest name of a service, and one that looks like a slice of another.
        let long = "s".repeat(63);
        for service in ["hello", "hello-podless-2", "a-2", long.as_str()] {
            for (first, family, number, want) in [
                (V4, V4, 1, "-podless"),
                (V4, V4, 2, "-podless-2"),
                (V4, V6, 1, "-podless-ipv6"),
                (V4, V6, 10, "-podless-ipv6-10"),
                (V6, V6, 1, "-podless"),
                (V6, V4, 3, "-podless-ipv4-3"),
            ] {
                let id = SliceId { family, number };
                let name = id.name(service, first);
                assert_eq!(name, format!("{service}{want}"));
                let slice = json!({"metadata": {"name": name}, "addressType": family.as_str(), "endpoints": []});
                let slice: EndpointSlice = serde_json::from_value(slice).expect("a slice");
                assert_eq!(SliceId::of(&slice, service, first), Some(id), "{name}");
                assert_eq!(SliceId::of(&slice, "other", first), None, "{name}");
                let other = if first == V4 { V6 } else { V4 };
                assert_eq!(SliceId::of(&slice, service, other), None, "{name} where the first is of the other family");
            }
        }
    }

    #[test]
    fn what_strangers_call_a_services_slice_is_none() {
        let slice = |namespace: &str, name: &str, of: &str| -> EndpointSlice {
            let owner = json!({"apiVersion": "v", "kind": "k", "name": "hello", "uid": "u", "controller": true});
            let labels = json!({SERVICE_LABEL: of});
            let metadata = json!({"namespace": namespace, "name": name, "labels": labels, "ownerReferences": [owner]});
            serde_json::from_value(json!({"metadata": metadata, "addressType": "IPv4", "endpoints": []})).expect("one")
        };
        let hello = ServiceRef { uid: "u".into(), namespace: "n".into(), name: "hello".into() };
        let mut names = SliceNames::default();
        let second = slice("n", "hello-podless-2", "hello");
        names.seen(&second);
        names.seen(&slice("theirs", "hello-podless-3", "hello"));
        names.seen(&slice("n", "other", "hello"));
        names.seen(&EndpointSlice::default());
        names.insert(&hello, "hello-podless-4");
        assert_eq!(names.of(&hello), BTreeSet::from(["hello-podless-2".to_owned(), "hello-podless-4".to_owned()]));
        names.gone(&slice("theirs", "hello-podless-2", "hello"));
        assert_eq!(names.of(&hello).len(), 2, "that was another one");
        names.gone(&second);
        names.remove(&hello, "hello-podless-4");
        assert!(names.of(&hello).is_empty());
    }
}
