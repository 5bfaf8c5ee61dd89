//! `spec.imageResolution`: when it is asked again what a tag means.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Time between two looks where none is given.
const INTERVAL: Duration = Duration::from_secs(600);

/// When the registry is asked again what the image's tag means. A digest means the same for ever.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[schemars(extend("x-kubernetes-validations" = json!([{
    "rule": "!has(self.interval) || self.policy == 'Interval'",
    "message": "interval goes with policy Interval: OnChange resolves the tag once for each revision"
}])))]
pub struct ImageResolution {
    /// OnChange: once for each revision (image, env, capabilities and the like), and not when only replicas or placement change. Interval: also from time to time; when the tag has moved, that is rolled out as any update. A registry that is away changes nothing.
    #[serde(default)]
    pub policy: ResolutionPolicy,
    /// Time between two looks with policy Interval, as in 10m or 1h30m, from 1m to 168h; 10m when it is not given. Up to a tenth more, by chance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "interval_schema")]
    pub interval: Option<String>,
}

impl ImageResolution {
    /// Time between two looks; `None`: there is no second one.
    pub fn every(&self) -> Option<Duration> {
        let given = self.interval.as_deref().and_then(|text| text.parse::<kube::core::Duration>().ok());
        (self.policy == ResolutionPolicy::Interval).then(|| given.map_or(INTERVAL, Duration::from))
    }
}

/// What makes the operator resolve a tag.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum ResolutionPolicy {
    /// A new revision.
    #[default]
    OnChange,
    /// A new revision, and time.
    Interval,
}

fn interval_schema(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "description": "Time between two looks with policy Interval, as in 10m or 1h30m, from 1m to 168h; 10m when it is not given. Up to a tenth more, by chance.",
        "type": "string",
        "maxLength": 16,
        "pattern": "^([0-9]+(h|m|s))+$",
        "x-kubernetes-validations": [{
            "rule": "duration(self) >= duration('1m') && duration(self) <= duration('168h')",
            "message": "must be a time from 1m to 168h"
        }]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_interval_looks_again() {
        let every = |text: &str| serde_json::from_str::<ImageResolution>(text).expect("a resolution").every();
        assert_eq!(every("{}"), None);
        assert_eq!(every(r#"{"policy": "OnChange"}"#), None);
        assert_eq!(every(r#"{"policy": "Interval"}"#), Some(INTERVAL));
        assert_eq!(every(r#"{"policy": "Interval", "interval": "1h30m"}"#), Some(Duration::from_secs(5400)));
    }
}
