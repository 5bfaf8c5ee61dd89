//! What a service is compiled for. In: the service, what the shims run, the Nodes; out: the targets of the nodes that it may
//! be on, and what a new leader has to have again before it assigns anything. Pure.
//!
//! A new kind of node gets its artifacts before it gets placements: the plan leaves out shims for which there is none.

use std::collections::{BTreeMap, BTreeSet};

use podless_crds::{Toleration, TolerationOperator, WasmService, WasmServiceSpec};
use podless_engine::{Target, fingerprint};

use super::children::Recorded;
use crate::{
    build::BuildState,
    nodes::facts::{NodeFacts, UNSCHEDULABLE},
    schedule::{Ask, Cost, admits},
};

/// The targets of shims (by node) that the service may be on. While none is known, or some may be missing, also what it was
/// compiled for before: a new leader does not know all shims yet.
pub(super) fn targets<'a>(
    service: &WasmService,
    uid: &str,
    shims: impl Iterator<Item = (&'a str, Target)>,
    may_miss: bool,
    nodes: &BTreeMap<String, NodeFacts>,
) -> BTreeSet<Target> {
    let may = |node: &str| may_be_on(service, uid, &service.spec.tolerations, node, nodes);
    let mut run: BTreeSet<_> = shims.filter(|(node, _)| may(node)).map(|(_, target)| target).collect();
    if run.is_empty() || may_miss {
        let made = service.status.iter().flat_map(|status| &status.artifacts);
        run.extend(made.filter_map(|made| made.target.parse::<Target>().ok()));
    }
    if run.is_empty() { [Target::default()].into() } else { run }
}

/// Whether a service with these tolerations may be on a node, room or not.
pub(super) fn may_be_on(
    service: &WasmService,
    uid: &str,
    tolerations: &[Toleration],
    node: &str,
    nodes: &BTreeMap<String, NodeFacts>,
) -> bool {
    let spec = &service.spec;
    let ask = Ask {
        service: uid,
        replicas: 1,
        node_selector: &spec.node_selector,
        affinity: spec.required_nodes(),
        tolerations,
        each: Cost::default(),
    };
    // A Node that the watch does not show is one without labels or taints.
    admits(&ask, node, nodes.get(node).unwrap_or(&NodeFacts::default()))
}

/// What a service tolerates where it only answers for its hosts: a node that is cordoned too. Its shim stays there, and is
/// sent connections of the shared port as before.
pub(super) fn while_cordoned(spec: &WasmServiceSpec) -> Vec<Toleration> {
    let cordon = Toleration {
        key: UNSCHEDULABLE.to_owned(),
        operator: TolerationOperator::Exists,
        value: String::new(),
        effect: None,
    };
    spec.tolerations.iter().cloned().chain([cordon]).collect()
}

/// The build of a service that this leader has not assigned yet, and one before it has: not done before there is again, or
/// never will be, what status says was made for the others of this generation. Else all shims would be told twice that
/// nothing has changed.
pub(super) fn made_again(
    build: BuildState,
    others: &BTreeMap<Target, BuildState>,
    service: &WasmService,
    record: Option<&Recorded>,
) -> BuildState {
    if record.is_none_or(|record| Some(record.service_generation) != service.metadata.generation) {
        return build;
    }
    let made = |target: Target| {
        let mut artifacts = service.status.iter().flat_map(|status| &status.artifacts);
        artifacts.any(|artifact| artifact.fingerprint == fingerprint(target))
    };
    let mut others = others.iter();
    let missing = others.find(|(target, state)| matches!(state, BuildState::Pending(_)) && made(**target));
    missing.map_or(build, |(_, state)| state.clone())
}

#[cfg(test)]
mod tests {
    use super::Target::{Aarch64, X86_64V2, X86_64V3};
    use super::*;
    use podless_crds::{Artifact, WasmServiceStatus};
    use serde_json::json;

    #[test]
    fn a_service_is_compiled_for_the_nodes_that_it_may_be_on() {
        let arch = |name: &str| NodeFacts {
            labels: BTreeMap::from([("kubernetes.io/arch".to_owned(), name.to_owned())]),
            ..NodeFacts::default()
        };
        let nodes: BTreeMap<_, _> = [("old", "amd64"), ("new", "amd64"), ("arm", "arm64")]
            .map(|(node, name)| (node.to_owned(), arch(name)))
            .into();
        let all = [("old", X86_64V2), ("new", X86_64V3), ("arm", Aarch64)];
        let service = |selector: serde_json::Value, made: &[Target]| {
            let spec = json!({"image": "r/a:1", "replicas": 1, "nodeSelector": selector});
            let mut service = WasmService::new("s", serde_json::from_value(spec).expect("a spec"));
            let artifact = |target: &Target| Artifact {
                target: target.to_string(),
                fingerprint: "f".into(),
                size: 1,
                compile_millis: 1,
            };
            let artifacts = made.iter().map(artifact).collect();
            service.status = Some(WasmServiceStatus { artifacts, ..Default::default() });
            service
        };
        let amd64 = json!({"kubernetes.io/arch": "amd64"});
        let nowhere = json!({"kubernetes.io/arch": "s390x"});
        for (selector, made, shims, may_miss, want) in [
            (json!({}), &[][..], &all[..], false, &[X86_64V3, X86_64V2, Aarch64][..]),
            (json!({}), &[], &all[1..2], false, &[X86_64V3]),
            (amd64, &[], &all, false, &[X86_64V3, X86_64V2]),
            (nowhere.clone(), &[], &all, false, &[X86_64V3]),
            (nowhere, &[Aarch64], &all, false, &[Aarch64]),
            (json!({}), &[X86_64V2, Aarch64], &[], false, &[X86_64V2, Aarch64]),
            (json!({}), &[X86_64V2], &all[2..], false, &[Aarch64]),
            (json!({}), &[X86_64V2], &all[2..], true, &[X86_64V2, Aarch64]),
            (json!({}), &[], &all[1..2], true, &[X86_64V3]),
            (json!({}), &[], &[("unseen", X86_64V2)], false, &[X86_64V2]),
        ] {
            let found = targets(&service(selector.clone(), made), "u", shims.iter().copied(), may_miss, &nodes);
            assert_eq!(found.into_iter().collect::<Vec<_>>(), want, "{selector} {made:?} {shims:?}");
        }
    }
}
