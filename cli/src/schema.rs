//! What the API server would say of an object's shape: the object and the schema of its kind in, sentences with the
//! field's path out. Pure. Unknown fields, types and bounds are checked; patterns and CEL rules are left to a cluster.

use serde_json::{Map, Value};

/// Checks a value against a structural schema.
pub(crate) fn check(path: &str, value: &Value, schema: &Value) -> Vec<String> {
    let mut problems = vec![];
    walk(path, value, schema, &mut problems);
    problems
}

fn walk(path: &str, value: &Value, schema: &Value, problems: &mut Vec<String>) {
    let open = schema["x-kubernetes-preserve-unknown-fields"].as_bool() == Some(true);
    if let Some(problem) = wrong_type(value, schema) {
        problems.push(format!("{path} {problem}"));
        return;
    }
    match value {
        Value::Object(fields) if !open => object(path, fields, schema, problems),
        Value::Array(items) => {
            bounds(path, items.len() as f64, "items", (&schema["minItems"], &schema["maxItems"]), problems);
            for (index, item) in items.iter().enumerate() {
                walk(&format!("{path}[{index}]"), item, &schema["items"], problems);
            }
        }
        Value::String(text) => {
            let length = text.chars().count() as f64;
            bounds(path, length, "characters", (&schema["minLength"], &schema["maxLength"]), problems);
            if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
                let allowed: Vec<_> = allowed.iter().filter_map(Value::as_str).collect();
                problems.push(format!("{path} is {text:?}: write one of {}", allowed.join(", ")));
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            bounds(path, number, "", (&schema["minimum"], &schema["maximum"]), problems);
        }
        _ => {}
    }
}

fn object(path: &str, fields: &Map<String, Value>, schema: &Value, problems: &mut Vec<String>) {
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        match (&schema["properties"][name], &schema["additionalProperties"]) {
            (Value::Null, others @ Value::Object(_)) => walk(&path, value, others, problems),
            (Value::Null, _) => {
                problems.push(format!("{path} is no field that Podless knows: take it out, or mend its name"))
            }
            // As the API server does: a null is a field that is not there.
            (_, _) if value.is_null() => {}
            (known, _) => walk(&path, value, known, problems),
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            problems.push(format!("{path}.{name} is missing"));
        }
    }
}

fn wrong_type(value: &Value, schema: &Value) -> Option<String> {
    if schema["x-kubernetes-int-or-string"].as_bool() == Some(true) {
        return (!value.is_string() && !value.is_i64()).then(|| "must be a number or a text".to_owned());
    }
    let wanted = schema["type"].as_str()?;
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => true,
    };
    (!fits).then(|| format!("must be of type {wanted}"))
}

fn bounds(path: &str, number: f64, unit: &str, (least, most): (&Value, &Value), problems: &mut Vec<String>) {
    let space = if unit.is_empty() { "" } else { " " };
    if let Some(least) = least.as_f64().filter(|least| number < *least) {
        problems.push(format!("{path} has {number}{space}{unit}: the least is {least}"));
    }
    if let Some(most) = most.as_f64().filter(|most| number > *most) {
        problems.push(format!("{path} has {number}{space}{unit}: the most is {most}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_problem_has_its_path() {
        let schema = json!({"type": "object", "required": ["image"], "properties": {
            "image": {"type": "string", "minLength": 1, "maxLength": 5},
            "replicas": {"type": "integer", "minimum": 0, "maximum": 10},
            "effect": {"type": "string", "enum": ["NoSchedule", "NoExecute"]},
            "env": {"type": "array", "maxItems": 2, "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "amount": {"x-kubernetes-int-or-string": true},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        }});
        for (value, says) in [
            (json!({"image": "a", "replicas": 0, "labels": {"a": "b"}, "amount": 2, "any": {"x": 1}}), None),
            (json!({"image": "a", "replicas": null}), None),
            (json!({}), Some("spec.image is missing")),
            (json!({"image": null}), Some("spec.image is missing")),
            (json!({"image": ""}), Some("spec.image has 0 characters: the least is 1")),
            (json!({"image": "abcdef"}), Some("the most is 5")),
            (json!({"image": 5}), Some("spec.image must be of type string")),
            (json!({"image": "a", "replcas": 1}), Some("spec.replcas is no field")),
            (json!({"image": "a", "replicas": 11}), Some("spec.replicas has 11: the most is 10")),
            (json!({"image": "a", "replicas": 1.5}), Some("spec.replicas must be of type integer")),
            (json!({"image": "a", "replicas": "1"}), Some("of type integer")),
            (json!({"image": "a", "effect": "No"}), Some("one of NoSchedule, NoExecute")),
            (json!({"image": "a", "env": [{}, {"nam": "x"}]}), Some("spec.env[1].nam is no field")),
            (json!({"image": "a", "env": [{}, {}, {}]}), Some("has 3 items: the most is 2")),
            (json!({"image": "a", "labels": {"a": 1}}), Some("spec.labels.a must be of type string")),
            (json!({"image": "a", "amount": 1.5}), Some("spec.amount must be a number or a text")),
            (json!([]), Some("spec must be of type object")),
        ] {
            let problems = check("spec", &value, &schema);
            match says {
                None => assert_eq!(problems, Vec::<String>::new(), "{value}"),
                Some(says) => assert!(problems.len() == 1 && problems[0].contains(says), "{value}: {problems:?}"),
            }
        }
    }
}
