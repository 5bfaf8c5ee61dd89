//! Who a shim is: from its token and from nothing else. In: a bearer token; out: the pod that it is bound to. IO.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use podless_link::AUDIENCE;
use sha2::{Digest, Sha256};

/// Service account of the shims' pods.
pub const SHIM_SERVICE_ACCOUNT: &str = "podless-shim";
/// How long an answer is believed: a shim fetches many artifacts with one token.
const CACHED: Duration = Duration::from_secs(60);
/// Answers kept at once.
const CACHE_SIZE: usize = 10_000;

/// The pod of a shim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its uid: the key under which everything about a shim is kept.
    pub pod_uid: String,
    /// Its name.
    pub pod_name: String,
    /// Its node.
    pub node: String,
    /// Its address: what endpoints point at.
    pub ip: String,
}

/// Why a shim was turned away.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No `authorization: Bearer …`.
    #[error("no bearer token: show the projected token with audience {AUDIENCE}")]
    NoToken,
    /// The API server does not vouch for the token.
    #[error("the token is not valid for audience {AUDIENCE}")]
    Invalid,
    /// The token is somebody else's.
    #[error("the token belongs to {0}, which is not the shims' service account")]
    NotAShim(String),
    /// The token says nothing about a pod or a node.
    #[error("the token is not bound to a pod on a node: it needs Kubernetes 1.32 or newer and a projected token")]
    Unbound,
    /// The pod is not there, is another one, or has no address yet.
    #[error("pod {0} is gone or has no address yet: try again")]
    NoPod(String),
    /// The API server could not be asked.
    #[error("the API server could not be asked who this is: try again")]
    Api(#[from] kube::Error),
}

impl From<AuthError> for tonic::Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::NoToken | AuthError::Invalid => Self::unauthenticated(error.to_string()),
            AuthError::NotAShim(_) | AuthError::Unbound => Self::permission_denied(error.to_string()),
            AuthError::NoPod(_) | AuthError::Api(_) => Self::unavailable(error.to_string()),
        }
    }
}

/// Asks the API server who a token belongs to.
pub struct Authenticator {
    client: Client,
    namespace: String,
    cache: Mutex<HashMap<[u8; 32], (Identity, Instant)>>,
}

impl Authenticator {
    /// For the shims of the release in this namespace.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned(), cache: Mutex::default() }
    }

    /// The pod behind a request.
    pub async fn identify(&self, metadata: &tonic::metadata::MetadataMap) -> Result<Identity, AuthError> {
        let token = metadata
            .get("authorization")
            .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .ok_or(AuthError::NoToken)?;
        let key: [u8; 32] = Sha256::digest(token).into();
        if let Some((identity, _)) = self.cache().get(&key).filter(|(_, at)| at.elapsed() < CACHED) {
            return Ok(identity.clone());
        }
        let identity = self.review(token).await?;
        let mut cache = self.cache();
        cache.retain(|_, (_, at)| at.elapsed() < CACHED);
        if cache.len() < CACHE_SIZE {
            cache.insert(key, (identity.clone(), Instant::now()));
        }
        Ok(identity)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, HashMap<[u8; 32], (Identity, Instant)>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn review(&self, token: &str) -> Result<Identity, AuthError> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..Default::default() };
        let review = Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let bound = bound_pod(&review, &self.namespace)?;
        let pod = Api::<Pod>::namespaced(self.client.clone(), &self.namespace).get_opt(&bound.pod_name).await?;
        let ip = pod
            .filter(|pod| pod.metadata.uid.as_ref() == Some(&bound.pod_uid))
            .and_then(|pod| pod.status?.pod_ip)
            .ok_or_else(|| AuthError::NoPod(bound.pod_name.clone()))?;
        Ok(Identity { ip, ..bound })
    }
}

/// Reads a review; the address is still to be found. Pure.
fn bound_pod(review: &TokenReview, namespace: &str) -> Result<Identity, AuthError> {
    let status = review.status.as_ref().filter(|s| s.authenticated == Some(true)).ok_or(AuthError::Invalid)?;
    // An API server that does not know audiences answers without them, and has then checked none.
    if !status.audiences.iter().flatten().any(|audience| audience == AUDIENCE) {
        return Err(AuthError::Invalid);
    }
    let user = status.user.as_ref().ok_or(AuthError::Invalid)?;
    let name = user.username.clone().unwrap_or_default();
    if name != format!("system:serviceaccount:{namespace}:{SHIM_SERVICE_ACCOUNT}") {
        return Err(AuthError::NotAShim(name));
    }
    let extra = |key: &str| -> Result<String, AuthError> {
        let values = user.extra.as_ref().and_then(|extra| extra.get(&format!("authentication.kubernetes.io/{key}")));
        values.and_then(|values| values.first()).filter(|v| !v.is_empty()).cloned().ok_or(AuthError::Unbound)
    };
    Ok(Identity {
        pod_uid: extra("pod-uid")?,
        pod_name: extra("pod-name")?,
        node: extra("node-name")?,
        ip: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn answer(change: impl Fn(&mut Value)) -> Result<Identity, String> {
        let mut review = json!({"spec": {}, "status": {
            "authenticated": true,
            "audiences": ["podless-link"],
            "user": {"username": "system:serviceaccount:podless:podless-shim", "extra": {
                "authentication.kubernetes.io/pod-uid": ["u"],
                "authentication.kubernetes.io/pod-name": ["podless-shim-abc"],
                "authentication.kubernetes.io/node-name": ["node-1"],
            }},
        }});
        change(&mut review["status"]);
        bound_pod(&serde_json::from_value(review).expect("a review"), "podless").map_err(|e| e.to_string())
    }

    #[test]
    fn only_a_pod_bound_token_of_the_shims_account_for_our_audience_is_taken() {
        let shim = answer(|_| ()).expect("a shim");
        assert_eq!((shim.pod_uid.as_str(), shim.node.as_str()), ("u", "node-1"));
        type Change = fn(&mut Value);
        let refused: [(Change, &str); 7] = [
            (|s| s["authenticated"] = json!(false), "not valid"),
            (|s| s["audiences"] = json!(["https://kubernetes.default.svc"]), "not valid"),
            (|s| s["audiences"] = Value::Null, "not valid"),
            (|s| s["user"] = Value::Null, "not valid"),
            (|s| s["user"]["username"] = json!("system:serviceaccount:other:podless-shim"), "belongs to"),
            (|s| s["user"]["extra"] = Value::Null, "not bound"),
            (|s| s["user"]["extra"]["authentication.kubernetes.io/node-name"] = json!([""]), "not bound"),
        ];
        for (change, why) in refused {
            let error = answer(change).expect_err(why);
            assert!(error.contains(why), "{error}");
        }
    }
}
