//! Whether a node is one that a service requires. In: the terms of its node affinity, the node's name and labels; out:
//! yes or no. Pure, and as Kubernetes has it.

use std::collections::BTreeMap;

use podless_crds::{FieldOperator, FieldRequirement, LabelOperator, LabelRequirement, NodeField, NodeSelector};

/// One term is enough, and a term asks for all that is in it. One that asks for nothing matches nothing.
pub(super) fn matches(required: &NodeSelector, name: &str, labels: &BTreeMap<String, String>) -> bool {
    required.node_selector_terms.iter().any(|term| {
        let (expressions, fields) = (&term.match_expressions, &term.match_fields);
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|expression| has_label(expression, labels))
            && fields.iter().all(|field| has_field(field, name))
    })
}

fn has_label(requirement: &LabelRequirement, labels: &BTreeMap<String, String>) -> bool {
    let LabelRequirement { key, operator, values } = requirement;
    let label = labels.get(key);
    // What is no integer is neither above nor below one.
    let integers = || Some((label?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match operator {
        LabelOperator::In => label.is_some_and(|label| values.contains(label)),
        LabelOperator::NotIn => label.is_none_or(|label| !values.contains(label)),
        LabelOperator::Exists => label.is_some(),
        LabelOperator::DoesNotExist => label.is_none(),
        LabelOperator::Gt => integers().is_some_and(|(label, value)| label > value),
        LabelOperator::Lt => integers().is_some_and(|(label, value)| label < value),
    }
}

fn has_field(requirement: &FieldRequirement, name: &str) -> bool {
    let FieldRequirement { key: NodeField::Name, operator, values } = requirement;
    let is_one = values.iter().any(|value| value == name);
    match operator {
        FieldOperator::In => is_one,
        FieldOperator::NotIn => !is_one,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn required(terms: Value) -> NodeSelector {
        serde_json::from_value(json!({"nodeSelectorTerms": terms})).expect("terms")
    }

    #[test]
    fn operators_are_those_of_pods() {
        let labels = BTreeMap::from([("disk", "fast"), ("cores", "16"), ("empty", "")]);
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let label =
            |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
        for (requirement, want) in [
            (label("disk", "In", &["slow", "fast"]), true),
            (label("disk", "In", &["slow"]), false),
            (label("none", "In", &["fast"]), false),
            (label("empty", "In", &[""]), true),
            (label("none", "In", &[""]), false),
            (label("disk", "NotIn", &["slow"]), true),
            (label("disk", "NotIn", &["slow", "fast"]), false),
            (label("none", "NotIn", &["fast"]), true),
            (label("empty", "Exists", &[]), true),
            (label("none", "Exists", &[]), false),
            (label("empty", "DoesNotExist", &[]), false),
            (label("none", "DoesNotExist", &[]), true),
            (label("cores", "Gt", &["15"]), true),
            (label("cores", "Gt", &["16"]), false),
            (label("cores", "Gt", &["9"]), true),
            (label("cores", "Lt", &["17"]), true),
            (label("cores", "Lt", &["16"]), false),
            (label("disk", "Gt", &["0"]), false),
            (label("disk", "Lt", &["0"]), false),
            (label("none", "Gt", &["0"]), false),
            (label("none", "Lt", &["9"]), false),
        ] {
            let terms = required(json!([{"matchExpressions": [requirement]}]));
            assert_eq!(matches(&terms, "n1", &labels), want, "{requirement}");
        }
        for (operator, value, want) in
            [("In", "n1", true), ("In", "n2", false), ("NotIn", "n1", false), ("NotIn", "n2", true)]
        {
            let field = json!({"key": "metadata.name", "operator": operator, "values": [value]});
            assert_eq!(matches(&required(json!([{"matchFields": [field]}])), "n1", &labels), want, "{field}");
        }
        assert!(!matches(&required(json!([{}])), "n1", &labels), "an empty term matches nothing");
        assert!(matches(&required(json!([{}, {"matchExpressions": [label("disk", "Exists", &[])]}])), "n1", &labels));
    }

    fn label_requirement() -> impl Strategy<Value = LabelRequirement> {
        use LabelOperator::{DoesNotExist, Exists, Gt, In, Lt, NotIn};
        let operator = prop::sample::select(vec![In, NotIn, Exists, DoesNotExist, Gt, Lt]);
        ("[a-c]", operator, prop::collection::vec("[0-3x]", 1..3))
            .prop_map(|(key, operator, values)| LabelRequirement { key, operator, values })
    }

    fn field_requirement() -> impl Strategy<Value = FieldRequirement> {
        let operator = prop::sample::select(vec![FieldOperator::In, FieldOperator::NotIn]);
        (operator, "n[1-2]").prop_map(|(operator, value)| FieldRequirement {
            key: NodeField::Name,
            operator,
            values: vec![value],
        })
    }

    prop_compose! {
        fn term()(
            match_expressions in prop::collection::vec(label_requirement(), 0..3),
            match_fields in prop::collection::vec(field_requirement(), 0..2),
        ) -> podless_crds::NodeSelectorTerm {
            podless_crds::NodeSelectorTerm { match_expressions, match_fields }
        }
    }

    proptest! {
        /// Step by step, with a label that is not there as a value of its own.
        #[test]
        fn one_term_is_met_in_full(
            terms in prop::collection::vec(term(), 0..4), name in "n[1-2]",
            labels in prop::collection::btree_map("[a-c]", "[0-3x]", 0..4),
        ) {
            let mut some = false;
            for term in &terms {
                let mut unmet = 0;
                for LabelRequirement { key, operator, values } in &term.match_expressions {
                    let there = labels.get(key).map_or("absent", String::as_str);
                    let among = values.iter().filter(|value| *value == there).count() > 0;
                    let order = || there.parse::<i64>().ok().zip(values[0].parse().ok()).map(|(a, b)| a.cmp(&b));
                    let met = match operator {
                        LabelOperator::In => among,
                        LabelOperator::NotIn => !among,
                        LabelOperator::Exists => there != "absent",
                        LabelOperator::DoesNotExist => there == "absent",
                        LabelOperator::Gt => order() == Some(std::cmp::Ordering::Greater),
                        LabelOperator::Lt => order() == Some(std::cmp::Ordering::Less),
                    };
                    unmet += u32::from(!met);
                }
                for field in &term.match_fields {
                    unmet += u32::from((field.values[0] == name) != (field.operator == FieldOperator::In));
                }
                some |= unmet == 0 && term.match_expressions.len() + term.match_fields.len() > 0;
            }
            prop_assert_eq!(matches(&NodeSelector { node_selector_terms: terms }, &name, &labels), some);
        }
    }
}
