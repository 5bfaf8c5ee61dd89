//! Whether a node takes a service, and how many of its replicas. In: what the service asks for and what is known of the
//! node; out: replicas and what bounds them, or why none. Pure.

use std::fmt;

use podless_crds::{TaintEffect, Toleration, TolerationOperator};

use super::{Ask, Node, affinity};
use crate::nodes::facts::{Taint, UNSCHEDULABLE};

/// Why a node takes no replica, or no more of them. The order is that of the sentence.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// There is no shim on it that could be given anything.
    NoShim,
    /// It lacks a label.
    Selector,
    /// It is none of those that are required.
    Affinity,
    /// It was cordoned.
    Unschedulable,
    /// It has this taint: key and value.
    Taint(String, String),
    /// What it can allocate is taken.
    Cpu,
    /// The memory of its shim is taken.
    Memory,
    /// One more would not be able to serve all of its requests at once.
    Slots,
    /// The others could not take as many.
    Uneven,
    /// It has said nothing to this leader yet: it keeps what it has.
    Silent,
    /// There is no machine code for its shim yet, which runs this target.
    NoArtifact(String),
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoShim => f.write_str("had no shim that is connected and runs this operator's engine"),
            Self::Selector => f.write_str("didn't match nodeSelector"),
            Self::Affinity => f.write_str("didn't match node affinity/selector"),
            Self::Unschedulable => f.write_str("unschedulable"),
            Self::Taint(key, value) => write!(f, "had an untolerated taint {{{key}: {value}}}"),
            Self::Cpu => f.write_str("had insufficient cpu"),
            Self::Memory => f.write_str("had insufficient memory"),
            Self::Slots => f.write_str("had too few instance slots"),
            Self::Uneven => f.write_str("could take more than the others, and a service's nodes are even"),
            Self::Silent => f.write_str("not connected to this leader yet"),
            Self::NoArtifact(target) => write!(f, "had no artifact for {target} yet"),
        }
    }
}

/// How many replicas fit, and what bounds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// At least one.
    pub(super) replicas: u32,
    /// What stands in the way of one more; `None` when nothing does.
    pub(super) bound: Option<Misfit>,
    /// It has a taint PreferNoSchedule that is not tolerated.
    pub(super) avoid: bool,
}

/// How many replicas of a service the node of this name takes, which has `current` of them.
pub(super) fn fit(ask: &Ask<'_>, name: &str, node: &Node<'_>, current: u32) -> Result<Fit, Misfit> {
    let labels = &node.facts.labels;
    if !node.unseen && !ask.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value)) {
        return Err(Misfit::Selector);
    }
    if !node.unseen && ask.affinity.is_some_and(|required| !affinity::matches(required, name, labels)) {
        return Err(Misfit::Affinity);
    }
    let untolerated = || node.facts.taints.iter().filter(|taint| !ask.tolerations.iter().any(|t| tolerates(t, taint)));
    let soft = TaintEffect::PreferNoSchedule.as_str();
    if let Some(taint) = untolerated().find(|taint| taint.effect != soft) {
        return Err(match taint.key.as_str() {
            UNSCHEDULABLE => Misfit::Unschedulable,
            _ => Misfit::Taint(taint.key.clone(), taint.value.clone()),
        });
    }
    let left = |all: Option<u64>, used: u64| all.map(|all| all.saturating_sub(used));
    let bounds = [
        (fits(left(node.facts.cpu_millis, node.used.cpu_millis), ask.each.cpu_millis), Misfit::Cpu),
        (fits(left(node.memory, node.used.memory), ask.each.memory), Misfit::Memory),
        (slots(node.slots, ask.each.slots), Misfit::Slots),
        (if node.silent { current } else { u32::MAX }, Misfit::Silent),
    ];
    let (replicas, bound) = bounds.into_iter().min_by_key(|(n, _)| *n).unwrap_or((u32::MAX, Misfit::Slots));
    if replicas == 0 {
        return Err(bound);
    }
    Ok(Fit { replicas, bound: (replicas < u32::MAX).then_some(bound), avoid: untolerated().next().is_some() })
}

/// How often `each` is in what is left; without a request, or a known end, there is no bound.
fn fits(left: Option<u64>, each: u64) -> u32 {
    let times = left.and_then(|left| left.checked_div(each)).unwrap_or(u64::MAX);
    u32::try_from(times).unwrap_or(u32::MAX)
}

/// Slots are shared by all services of a node, because most are idle most of the time; but no service counts on more
/// than there are. One replica is always possible.
fn slots(all: Option<u64>, each: u64) -> u32 {
    match all {
        Some(0) => 0,
        all => fits(all, each).max(1),
    }
}

/// As Kubernetes has it.
fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let Toleration { key, operator, value, effect } = toleration;
    effect.is_none_or(|effect| effect.as_str() == taint.effect)
        && (key.is_empty() || *key == taint.key)
        && match operator {
            TolerationOperator::Exists => true,
            TolerationOperator::Equal => *key == taint.key && *value == taint.value,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{nodes::facts::NodeFacts, schedule::Cost};
    use serde_json::json;
    use std::collections::BTreeMap;

    fn taint(key: &str, value: &str, effect: &str) -> Taint {
        Taint { key: key.into(), value: value.into(), effect: effect.into() }
    }

    fn toleration(key: &str, operator: TolerationOperator, value: &str, effect: Option<TaintEffect>) -> Toleration {
        Toleration { key: key.into(), operator, value: value.into(), effect }
    }

    #[test]
    fn tolerations_are_those_of_pods() {
        use TaintEffect::{NoExecute, NoSchedule};
        use TolerationOperator::{Equal, Exists};
        let gpu = taint("gpu", "yes", "NoSchedule");
        for (toleration, want) in [
            (toleration("gpu", Equal, "yes", None), true),
            (toleration("gpu", Equal, "yes", Some(NoSchedule)), true),
            (toleration("gpu", Equal, "yes", Some(NoExecute)), false),
            (toleration("gpu", Equal, "no", None), false),
            (toleration("gpu", Equal, "", None), false),
            (toleration("gpu", Exists, "", None), true),
            (toleration("disk", Exists, "", None), false),
            (toleration("", Exists, "", None), true),
            (toleration("", Exists, "", Some(NoExecute)), false),
        ] {
            assert_eq!(tolerates(&toleration, &gpu), want, "{toleration:?}");
        }
    }

    #[test]
    fn what_bounds_a_node() {
        let facts = NodeFacts {
            labels: BTreeMap::from([("disk".into(), "fast".into())]),
            taints: vec![],
            cpu_millis: Some(2000),
        };
        let tainted = |key: &str, effect: &str| NodeFacts { taints: vec![taint(key, "v", effect)], ..facts.clone() };
        let [no, away, cordoned, soft] = [
            tainted("gpu", "NoSchedule"),
            tainted("gpu", "NoExecute"),
            tainted(UNSCHEDULABLE, "NoSchedule"),
            tainted("gpu", "PreferNoSchedule"),
        ];
        let selector = BTreeMap::from([("disk".to_owned(), "slow".to_owned())]);
        let none = BTreeMap::new();
        let used = Cost { slots: 9000, cpu_millis: 500, memory: 600 };
        let node = |facts| Node { memory: Some(1000), slots: Some(250), used, ..Node::new(facts) };
        let ask = |selector, slots, cpu_millis, memory| Ask {
            service: "s",
            replicas: 1,
            node_selector: selector,
            affinity: None,
            tolerations: &[],
            each: Cost { slots, cpu_millis, memory },
        };
        let ok = |replicas, bound| Ok(Fit { replicas, bound: Some(bound), avoid: false });
        for (facts, ask, want) in [
            (&facts, ask(&none, 100, 0, 0), ok(2, Misfit::Slots)),
            (&facts, ask(&none, 9999, 0, 0), ok(1, Misfit::Slots)),
            (&facts, ask(&none, 1, 500, 0), ok(3, Misfit::Cpu)),
            (&facts, ask(&none, 1, 500, 200), ok(2, Misfit::Memory)),
            (&facts, ask(&none, 1, 1501, 0), Err(Misfit::Cpu)),
            (&facts, ask(&none, 1, 0, 401), Err(Misfit::Memory)),
            (&facts, ask(&selector, 1, 0, 0), Err(Misfit::Selector)),
            (&no, ask(&none, 1, 0, 0), Err(Misfit::Taint("gpu".into(), "v".into()))),
            (&away, ask(&none, 1, 0, 0), Err(Misfit::Taint("gpu".into(), "v".into()))),
            (&cordoned, ask(&none, 1, 0, 0), Err(Misfit::Unschedulable)),
            (&soft, ask(&none, 100, 0, 0), Ok(Fit { replicas: 2, bound: Some(Misfit::Slots), avoid: true })),
        ] {
            assert_eq!(fit(&ask, "n", &node(facts), 0), want, "{facts:?}");
        }
        let silent = Node { slots: None, silent: true, ..node(&facts) };
        assert_eq!(fit(&ask(&none, 100, 0, 0), "n", &silent, 3), ok(3, Misfit::Silent), "it keeps what it has");
        assert_eq!(fit(&ask(&none, 100, 0, 0), "n", &silent, 0), Err(Misfit::Silent));
        let unknown = Node { slots: None, memory: None, ..node(&facts) };
        assert_eq!(fit(&ask(&none, 100, 0, 9999), "n", &unknown, 0).map(|fit| fit.replicas), Ok(u32::MAX));

        let elsewhere = json!({"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]},
        ]});
        let elsewhere = serde_json::from_value(elsewhere).expect("terms");
        let away = Ask { affinity: Some(&elsewhere), ..ask(&none, 1, 500, 0) };
        assert_eq!(fit(&away, "n", &node(&facts), 1), Err(Misfit::Affinity));
        assert_eq!(fit(&away, "m", &node(&facts), 0), ok(3, Misfit::Cpu));
        let unseen = Node { unseen: true, ..node(&facts) };
        assert_eq!(fit(&away, "n", &unseen, 1), ok(3, Misfit::Cpu), "nobody knows what it is like");
        assert_eq!(fit(&ask(&selector, 1, 500, 0), "n", &unseen, 1), ok(3, Misfit::Cpu));
    }
}
