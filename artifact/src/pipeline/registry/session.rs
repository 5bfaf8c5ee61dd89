//! All places that have one repository: mirrors in their order, then the registry itself. A path in, the first answer
//! out. IO. Digests say whether a mirror tells the truth; credentials are sent to whom they are for, and to no other.

use std::time::Duration;

use reqwest::{Response, Url};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::{
    Registry,
    ask::{read_small, within},
    endpoint::Endpoint,
    error::{Credentials, RegistryError},
};
use crate::pipeline::{docker::Login, reference::ImageReference};

/// Longest that a small answer may take altogether.
const SMALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest that all of a session may take together: resolving asks twice, and signatures may be many.
const TOGETHER_TIMEOUT: Duration = Duration::from_secs(180);

/// Who to log in as, each list in its order.
#[derive(Clone, Copy)]
pub(crate) struct Logins<'a> {
    /// Those of who wants the image.
    pub(crate) own: &'a [Login],
    /// Those that are for all, tried after them.
    pub(crate) defaults: &'a [Login],
}

/// One repository, and who asks.
pub(crate) struct Session<'a> {
    /// The last one is the registry itself.
    endpoints: Vec<Endpoint<'a>>,
    /// What is left of the time for small answers.
    left: Duration,
}

impl<'a> Session<'a> {
    pub(super) fn new(registry: &'a Registry, reference: &'a ImageReference, logins: Logins<'a>) -> Self {
        let endpoint = |name: &str, host: &str, repository: String, is_mirror: bool| {
            let own: Vec<_> = logins.own.iter().filter(|login| login.is_for(name, &repository)).collect();
            let defaults: Vec<_> = logins.defaults.iter().filter(|login| login.is_for(name, &repository)).collect();
            let refusal = if !own.is_empty() {
                Credentials::Refused
            } else if !logins.own.is_empty() {
                Credentials::ForOthers { registry: name.to_owned() }
            } else if !defaults.is_empty() {
                Credentials::DefaultsRefused
            } else {
                Credentials::None
            };
            let scheme = if registry.hosts.is_plain(name) { "http" } else { "https" };
            // What a reference or a mirror may be is always a part of a URL.
            let base = Url::parse(&format!("{scheme}://{host}/v2/{repository}/")).ok()?;
            let logins = own.into_iter().chain(defaults).collect();
            Some(Endpoint {
                registry,
                base,
                repository,
                logins,
                refusal,
                authorization: None,
                is_mirror,
                has_sent: false,
                passed_over: false,
            })
        };
        let mirrors =
            registry.mirrors.iter().filter(|mirror| mirror.registry.eq_ignore_ascii_case(reference.registry()));
        let mirrors = mirrors.map(|mirror| {
            endpoint(&mirror.host, &mirror.host, format!("{}{}", mirror.prefix, reference.repository()), true)
        });
        let itself = endpoint(reference.registry(), reference.host(), reference.repository().to_owned(), false);
        Self { endpoints: mirrors.chain([itself]).flatten().collect(), left: TOGETHER_TIMEOUT }
    }

    /// Asks no mirror again that has sent a part of what turned out to be wrong, or did not come. Answers whether there
    /// is one.
    pub(crate) fn pass_over(&mut self) -> bool {
        let mirrors = self.endpoints.iter_mut().filter(|endpoint| endpoint.is_mirror);
        let mut any = false;
        for mirror in mirrors.filter(|mirror| mirror.has_sent) {
            (mirror.has_sent, mirror.passed_over, any) = (false, true, true);
        }
        any
    }

    /// Gets `/v2/<repository>/<path>` from this byte on; where that cannot be done, the answer is the whole, with status 200.
    pub(crate) async fn get_from(
        &mut self,
        path: &str,
        accept: &'static str,
        from: u64,
    ) -> Result<Response, RegistryError> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.passed_over) {
            match endpoint.get(path, accept, from).await {
                Ok(response) => {
                    endpoint.has_sent = true;
                    return Ok(response);
                }
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.worst())
    }

    /// Gets an answer that fits into memory, and that has this digest if there is one.
    pub(crate) async fn get_small(
        &mut self,
        path: &str,
        accept: &'static str,
        most: usize,
        digest: Option<&str>,
    ) -> Result<Vec<u8>, RegistryError> {
        let mut failures = Failures::default();
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| !endpoint.passed_over) {
            if self.left.is_zero() {
                let late = format!("its answers took more than {} s altogether", TOGETHER_TIMEOUT.as_secs());
                return Err(RegistryError::Unreachable(late));
            }
            let work = async {
                let body = read_small(endpoint.get(path, accept, 0).await?, most).await?;
                match digest {
                    Some(digest) if digest != sha256(&body) => Err(RegistryError::OtherBytes),
                    _ => Ok(body),
                }
            };
            let start = Instant::now();
            let answer = within(SMALL_TIMEOUT.min(self.left), work).await;
            self.left = self.left.saturating_sub(start.elapsed());
            match answer {
                Ok(body) => return Ok(body),
                Err(error) => failures.add(endpoint, error),
            }
        }
        Err(failures.worst())
    }
}

/// The digest of these bytes, as references have it.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Why nobody has answered so far.
#[derive(Default)]
struct Failures(Vec<RegistryError>);

impl Failures {
    fn add(&mut self, endpoint: &mut Endpoint<'_>, error: RegistryError) {
        tracing::debug!(host = endpoint.base.host_str(), path = endpoint.base.path(), %error, "no answer");
        let faulty = matches!(error, RegistryError::Unreachable(_) | RegistryError::OtherBytes);
        endpoint.passed_over |= faulty && endpoint.is_mirror;
        self.0.push(error);
    }

    /// What the registry itself has said; when it could not be asked, what its mirrors have.
    fn worst(mut self) -> RegistryError {
        let last = self.0.pop();
        let said = |error: &RegistryError| !matches!(error, RegistryError::Unreachable(_));
        let mirrors = if last.as_ref().is_some_and(said) { None } else { self.0.into_iter().find(said) };
        mirrors.or(last).unwrap_or(RegistryError::Protocol("the reference is no part of a URL"))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::pipeline::registry::RegistryOptions;

    #[tokio::test(start_paused = true)]
    async fn who_answers_slowly_has_no_time_without_an_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let registry =
            Registry::new(RegistryOptions { plain_http: vec![host.clone()], ..Default::default() }).expect("a client");
        let reference = ImageReference::parse(&format!("{host}/a:1"), None).expect("a reference");
        let mut session = registry.session(&reference, Logins { own: &[], defaults: &[] });
        let start = Instant::now();
        // It takes connections, and never says a word.
        for _ in 0..50 {
            let error = session.get_small("manifests/1", "*/*", 1, None).await.expect_err("no answer");
            assert!(matches!(error, RegistryError::Unreachable(_)), "{error}");
        }
        assert!(start.elapsed() <= TOGETHER_TIMEOUT + Duration::from_secs(1), "{:?}", start.elapsed());
    }
}
