//! Who a shim is: from its token and from nothing else. In: a bearer token, and where it was shown from; out: the pod
//! that it is bound to. IO.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};
use podless_link::AUDIENCE;
use serde::Deserialize;
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
    /// The API server does not vouch for the token, and by its own words it has expired.
    #[error("the token is not valid any more: it has expired")]
    Expired,
    /// The API server does not vouch for the token, and by its own words it is meant for others.
    #[error("the token is not valid for audience {AUDIENCE}: it is meant for others")]
    Audience,
    /// The API server does not vouch for the token: a forged one, or of a pod that is gone.
    #[error("the token is not valid for audience {AUDIENCE}")]
    Invalid,
    /// It was shown from somewhere else than its pod.
    #[error(
        "the token is that of the pod at {pod}, and was shown from {from}: a stolen one, or the cluster masquerades what \
         pods send to Services, which it must not"
    )]
    Address {
        /// Address of the pod.
        pod: String,
        /// Where it came from.
        from: String,
    },
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

impl AuthError {
    /// A stable name, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoToken => "no-token",
            Self::Expired => "expired",
            Self::Audience => "audience",
            Self::Invalid => "invalid",
            Self::Address { .. } => "address",
            Self::NotAShim(_) => "account",
            Self::Unbound => "unbound",
            Self::NoPod(_) => "no-pod",
            Self::Api(_) => "api",
        }
    }
}

impl From<AuthError> for tonic::Status {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::NoToken | AuthError::Expired | AuthError::Audience | AuthError::Invalid => {
                Self::unauthenticated(error.to_string())
            }
            AuthError::NotAShim(_) | AuthError::Unbound | AuthError::Address { .. } => {
                Self::permission_denied(error.to_string())
            }
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

    /// The pod behind a request, as the API server knows it now.
    pub async fn identify(&self, metadata: &tonic::metadata::MetadataMap) -> Result<Identity, AuthError> {
        self.ask(bearer(metadata)?).await
    }

    /// The pod behind a request, as the API server knew it a minute ago at most.
    pub async fn recognise(&self, metadata: &tonic::metadata::MetadataMap) -> Result<Identity, AuthError> {
        let token = bearer(metadata)?;
        let key = fingerprint(token);
        let known =
            self.cache().get(&key).filter(|(_, at)| at.elapsed() < CACHED).map(|(identity, _)| identity.clone());
        match known {
            Some(identity) => Ok(identity),
            None => self.ask(token).await,
        }
    }

    async fn ask(&self, token: &str) -> Result<Identity, AuthError> {
        let key = fingerprint(token);
        // What was believed of it is not, should the answer be another.
        self.cache().remove(&key);
        let identity = self.review(token).await.map_err(|error| match error {
            AuthError::Invalid => why_invalid(token, SystemTime::now()),
            error => error,
        })?;
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

fn bearer(metadata: &tonic::metadata::MetadataMap) -> Result<&str, AuthError> {
    let value = metadata.get("authorization").and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    value.filter(|token| !token.is_empty()).ok_or(AuthError::NoToken)
}

fn fingerprint(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// A token is shown by its own pod: whoever shows it from elsewhere has got hold of it. Pure.
pub fn from_its_pod(identity: &Identity, from: Option<SocketAddr>) -> Result<(), AuthError> {
    let from = from.map(|from| from.ip().to_canonical());
    let pod = identity.ip.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    if from.is_some() && from == pod {
        return Ok(());
    }
    let from = from.map_or_else(|| "nowhere".to_owned(), |from| from.to_string());
    Err(AuthError::Address { pod: identity.ip.clone(), from })
}

/// Why the API server does not vouch for a token, by what the token says of itself: it was not verified, and only tells
/// people where to look. Pure.
fn why_invalid(token: &str, now: SystemTime) -> AuthError {
    #[derive(Deserialize)]
    struct Claims {
        exp: Option<u64>,
        #[serde(default)]
        aud: Vec<String>,
    }
    let claims = token.split('.').nth(1).and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims = claims.and_then(|claims| serde_json::from_slice::<Claims>(&claims).ok());
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    match claims {
        Some(Claims { exp: Some(exp), .. }) if exp <= now => AuthError::Expired,
        Some(Claims { aud, .. }) if !aud.iter().any(|aud| aud == AUDIENCE) => AuthError::Audience,
        _ => AuthError::Invalid,
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

    #[test]
    fn a_token_is_taken_from_its_own_pod_only() {
        let identity = answer(|_| ()).expect("a shim");
        let at = |ip: &str| Identity { ip: ip.into(), ..identity.clone() };
        let check = |pod: &str, from: &str| from_its_pod(&at(pod), from.parse().ok()).map_err(|e| e.reason());
        assert_eq!(check("10.1.0.7", "10.1.0.7:555"), Ok(()));
        assert_eq!(check("10.1.0.7", "[::ffff:10.1.0.7]:555"), Ok(()));
        assert_eq!(check("fd00::7", "[fd00:0::7]:555"), Ok(()));
        assert_eq!(check("10.1.0.7", "10.1.0.8:555"), Err("address"));
        assert_eq!(check("", "10.1.0.8:555"), Err("address"));
        assert_eq!(check("", "nowhere"), Err("address"), "nothing is known of either");
    }

    #[test]
    fn a_refused_token_says_itself_what_is_wrong_with_it() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let why = |claims: &str| why_invalid(&format!("h.{}.s", URL_SAFE_NO_PAD.encode(claims)), now).reason();
        assert_eq!(why(r#"{"exp":999,"aud":["podless-link"]}"#), "expired");
        assert_eq!(why(r#"{"exp":1001,"aud":["https://kubernetes.default.svc"]}"#), "audience");
        assert_eq!(why(r#"{"exp":1001}"#), "audience");
        assert_eq!(why(r#"{"exp":1001,"aud":["podless-link"]}"#), "invalid", "a forged one, or its pod is gone");
        assert_eq!(why_invalid("nonsense", now).reason(), "invalid");
    }
}
