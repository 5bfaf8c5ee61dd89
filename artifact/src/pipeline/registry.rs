//! Reading from a registry that nobody vouches for: every answer has a size and a time that it may not exceed. IO.
//!
//! `oci-client` reads manifests and tokens to their end, however long they are, and follows a manifest's `urls`; a
//! tenant names the registry, so the few GET requests are made here.

use std::{fmt, time::Duration};

use futures::StreamExt;
use http_auth::ChallengeRef;
use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    redirect,
};
use serde::Deserialize;

use super::reference::ImageReference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a registry.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest that a small answer may take altogether.
const SMALL_TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_BYTES: usize = 64 << 10;
const REDIRECTS: usize = 5;

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Registries, `host:port`, that speak HTTP without TLS.
    pub plain_http: Vec<String>,
    /// Certificate authorities to trust beside the system's, PEM.
    pub ca_pem: Option<Vec<u8>>,
}

/// Who to log in as at one registry.
#[derive(Clone)]
pub struct Login {
    /// Host of the registry, with its port if there is one, as image references have it.
    pub registry: String,
    /// User.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({} at {})", self.username, self.registry)
    }
}

/// Which credentials a registry was shown that refused access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// There were none.
    None,
    /// There were some, for other registries than this one.
    ForOthers {
        /// This one: its host, with its port if there is one.
        registry: String,
    },
    /// There were some, and it refused them.
    Refused,
}

/// Why a registry gave no answer that can be used. No variant holds what it sent, nor credentials.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Nothing has that name.
    #[error("it has nothing of that name")]
    NotFound,
    /// The login was refused, or there was none.
    #[error("it refused access")]
    Unauthorized(Credentials),
    /// An answer that is neither yes nor no.
    #[error("it answered {0}")]
    Status(StatusCode),
    /// No answer.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// More bytes than an answer of that kind may have.
    #[error("its answer is longer than {0} bytes")]
    TooLong(usize),
    /// It asks for something that is not done.
    #[error("{0}")]
    Protocol(&'static str),
}

impl From<reqwest::Error> for RegistryError {
    fn from(error: reqwest::Error) -> Self {
        // The innermost cause is the one that tells something; the URL may hold a token that a redirect brought.
        let mut cause: &dyn std::error::Error = &error.without_url();
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        Self::Unreachable(cause.to_string())
    }
}

/// The client for all registries.
pub(crate) struct Registry {
    client: Client,
    plain_http: Vec<String>,
}

/// One repository, and who asks.
pub(crate) struct Session<'a> {
    registry: &'a Registry,
    reference: &'a ImageReference,
    login: Option<&'a Login>,
    /// There are credentials, for whichever registry.
    any_login: bool,
    authorization: Option<HeaderValue>,
}

impl Registry {
    pub(crate) fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let extra = options.ca_pem.as_deref().map(Certificate::from_pem_bundle).transpose()?.unwrap_or_default();
        let client = || {
            Client::builder()
                .user_agent(concat!("podless/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
                .redirect(redirect::Policy::custom(redirect))
        };
        // A system without authorities of its own is no reason not to start: plain HTTP and `ca_pem` still work.
        let client =
            client().tls_certs_merge(extra.clone()).build().or_else(|_| client().tls_certs_only(extra).build())?;
        Ok(Self { client, plain_http: options.plain_http })
    }

    pub(crate) fn session<'a>(&'a self, reference: &'a ImageReference, logins: &'a [Login]) -> Session<'a> {
        let login = logins.iter().find(|login| login.registry == reference.registry());
        Session { registry: self, reference, login, any_login: !logins.is_empty(), authorization: None }
    }
}

/// Follows a redirect that stays encrypted. reqwest itself takes the credentials off when the host changes.
fn redirect(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if attempt.previous().len() > REDIRECTS || (from_tls && attempt.url().scheme() != "https") {
        return attempt.stop();
    }
    attempt.follow()
}

impl Session<'_> {
    fn plain_http(&self) -> bool {
        self.registry.plain_http.iter().any(|host| host == self.reference.registry())
    }

    /// Gets `/v2/<repository>/<path>`, logging in when asked to.
    pub(crate) async fn get(&mut self, path: &str, accept: &'static str) -> Result<Response, RegistryError> {
        let scheme = if self.plain_http() { "http" } else { "https" };
        let (host, repository) = (self.reference.host(), self.reference.repository());
        let url = format!("{scheme}://{host}/v2/{repository}/{path}");
        let send = async |authorization: Option<&HeaderValue>| {
            let mut request = self.registry.client.get(&url).header(ACCEPT, accept);
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            request.send().await
        };
        let mut response = send(self.authorization.as_ref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let value = self.authorize(&response).await?;
            response = send(Some(&value)).await?;
            self.authorization = Some(value);
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.unauthorized()),
            other => Err(RegistryError::Status(other)),
        }
    }

    /// Gets an answer that fits into memory.
    pub(crate) async fn get_small(
        &mut self,
        path: &str,
        accept: &'static str,
        most: usize,
    ) -> Result<Vec<u8>, RegistryError> {
        within(SMALL_TIMEOUT, async { read_small(self.get(path, accept).await?, most).await }).await
    }

    fn unauthorized(&self) -> RegistryError {
        RegistryError::Unauthorized(match (self.login, self.any_login) {
            (Some(_), _) => Credentials::Refused,
            (None, true) => Credentials::ForOthers { registry: self.reference.registry().to_owned() },
            (None, false) => Credentials::None,
        })
    }

    /// Answers the registry's challenge: what to send as `Authorization`.
    async fn authorize(&self, refusal: &Response) -> Result<HeaderValue, RegistryError> {
        let headers: Vec<_> =
            refusal.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let challenges: Vec<ChallengeRef<'_>> =
            headers.iter().filter_map(|text| http_auth::parse_challenges(text).ok()).flatten().collect();
        let of = |scheme: &str| challenges.iter().find(|c| c.scheme.eq_ignore_ascii_case(scheme));
        if let Some(bearer) = of("bearer") {
            return within(SMALL_TIMEOUT, self.token(bearer)).await;
        }
        match (of("basic"), self.login) {
            (Some(_), Some(login)) => {
                let pair = format!("{}:{}", login.username, login.password);
                secret(format!("Basic {}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pair)))
            }
            _ => Err(self.unauthorized()),
        }
    }

    /// Gets a token where the challenge says, with the login if there is one.
    async fn token(&self, challenge: &ChallengeRef<'_>) -> Result<HeaderValue, RegistryError> {
        let parameter = |name: &str| {
            challenge.params.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
        };
        let realm = parameter("realm").ok_or(RegistryError::Protocol("it asks for a token and does not say where"))?;
        let mut realm =
            Url::parse(&realm).map_err(|_| RegistryError::Protocol("its token service has no valid URL"))?;
        if realm.scheme() != "https" && !(self.plain_http() && realm.scheme() == "http") {
            return Err(RegistryError::Protocol("its token service is not reached by https"));
        }
        realm.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.reference.repository()));
        if let Some(service) = parameter("service") {
            realm.query_pairs_mut().append_pair("service", &service);
        }
        let mut request = self.registry.client.get(realm);
        if let Some(login) = self.login {
            request = request.basic_auth(&login.username, Some(&login.password));
        }
        let response = request.send().await?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => {
                return Err(self.unauthorized());
            }
            status => return Err(RegistryError::Status(status)),
        }
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let body = read_small(response, TOKEN_BYTES).await?;
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| RegistryError::Protocol("its token service does not answer with a token"))?;
        let token = token.token.or(token.access_token);
        secret(format!("Bearer {}", token.ok_or(RegistryError::Protocol("its token service gave no token"))?))
    }
}

fn secret(text: String) -> Result<HeaderValue, RegistryError> {
    let mut value =
        HeaderValue::try_from(text).map_err(|_| RegistryError::Protocol("the login cannot be sent in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T, RegistryError>>) -> Result<T, RegistryError> {
    let late = |_| RegistryError::Unreachable(format!("no whole answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.map_err(late)?
}

async fn read_small(response: Response, most: usize) -> Result<Vec<u8>, RegistryError> {
    let mut body = Vec::new();
    let mut stream = response.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk?;
        if body.len() + chunk.len() > most {
            return Err(RegistryError::TooLong(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
