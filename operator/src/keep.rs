//! Keeps one object of the release as it should be. In: the object; out: whether it had to be written. IO: read,
//! compare, and only then a server-side apply with what was read as its precondition.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use podless_crds::FIELD_MANAGER;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::reconcile::apply::contains;

/// Applies `desired`, a whole object as JSON, unless everything of it is there. When somebody writes in between, the
/// API server answers 409, and the next call looks again: a leader that was frozen cannot undo what its successor wrote.
pub(crate) async fn keep<K>(api: &Api<K>, name: &str, mut desired: Value) -> Result<bool, kube::Error>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    if let Some(live) = api.get_opt(name).await? {
        let holds = serde_json::to_value(&live).is_ok_and(|live| contains(&live, &without_type(&desired)));
        if holds {
            return Ok(false);
        }
        desired["metadata"]["resourceVersion"] = json!(live.resource_version());
    }
    api.patch(name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&desired)).await?;
    Ok(true)
}

/// Typed objects come without `apiVersion` and `kind`.
fn without_type(desired: &Value) -> Value {
    let mut desired = desired.clone();
    if let Value::Object(fields) = &mut desired {
        fields.remove("apiVersion");
        fields.remove("kind");
    }
    desired
}
