//! How a registry wants to be shown who asks: its refusal in, its challenge out. Pure.

use http_auth::ChallengeRef;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE},
};

use super::error::RegistryError;
use crate::pipeline::docker::Login;

/// What a registry asks for.
#[derive(Clone, Debug)]
pub(super) enum Challenge {
    /// A token from a service.
    Bearer {
        /// The service's URL.
        realm: Url,
        /// For whom the token is to be.
        service: Option<String>,
    },
    /// User and password.
    Basic,
    /// Nothing that is known here.
    Unknown,
}

impl Challenge {
    /// Reads a refusal.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, RegistryError> {
        let texts: Vec<_> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let all: Vec<ChallengeRef<'_>> =
            texts.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let of = |scheme: &str| all.iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case(scheme));
        let Some(bearer) = of("bearer") else {
            return Ok(if of("basic").is_some() { Self::Basic } else { Self::Unknown });
        };
        let parameter = |name: &str| {
            bearer.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_unescaped())
        };
        let realm = parameter("realm").ok_or(RegistryError::Protocol("it asks for a token and does not say where"))?;
        let realm = Url::parse(&realm).map_err(|_| RegistryError::Protocol("its token service has no valid URL"))?;
        Ok(Self::Bearer { realm, service: parameter("service") })
    }
}

/// User and password, as they are sent.
pub(super) fn basic(login: &Login) -> Result<HeaderValue, RegistryError> {
    let pair = format!("{}:{}", login.username, login.password);
    secret(format!("Basic {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pair)))
}

/// A token, as it is sent.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, RegistryError> {
    secret(format!("Bearer {token}"))
}

fn secret(text: String) -> Result<HeaderValue, RegistryError> {
    let mut value =
        HeaderValue::try_from(text).map_err(|_| RegistryError::Protocol("the login cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
