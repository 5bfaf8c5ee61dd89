//! One question to a registry: a URL in, the answer out, after redirects and short waits that the registry asks for. IO.

use std::time::{Duration, SystemTime};

use futures::StreamExt;
use reqwest::{
    Response, StatusCode, Url,
    header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION, RANGE},
};

use super::{Registry, error::RegistryError, later::retry_after};

const REDIRECTS: usize = 5;
/// Longest that is waited in place, altogether, when a registry asks for time.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked.
#[derive(Clone)]
pub(super) struct Question<'a> {
    pub(super) url: Url,
    pub(super) accept: &'static str,
    /// First byte that is wanted.
    pub(super) from: u64,
    /// Who asks; nobody else than the host of the URL is told.
    pub(super) authorization: Option<&'a HeaderValue>,
}

impl Registry {
    /// Asks on behalf of the registry at `own`.
    pub(super) async fn ask(&self, question: Question<'_>, own: &Url) -> Result<Response, RegistryError> {
        let Question { mut url, accept, from, mut authorization } = question;
        let (mut waited, mut hops) = (Duration::ZERO, 0);
        loop {
            let client = self.client(self.hosts.reach(&url, own)?);
            let mut request = client.get(url.clone()).header(ACCEPT, accept);
            if let Some(value) = authorization {
                request = request.header(AUTHORIZATION, value);
            }
            if from > 0 {
                request = request.header(RANGE, format!("bytes={from}-"));
            }
            let response = request.send().await?;
            if let Some(next) = redirect(&url, &response)? {
                hops += 1;
                if hops > REDIRECTS {
                    return Err(RegistryError::Protocol("it redirects without an end"));
                }
                if next.origin() != url.origin() {
                    authorization = None;
                }
                url = next;
                continue;
            }
            let status = response.status();
            let is_busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
            let wait = retry_after(response.headers(), SystemTime::now()).filter(|_| is_busy);
            let Some(wait) = wait else { return Ok(response) };
            if waited + wait > PATIENCE {
                return Err(RegistryError::Busy { status, wait });
            }
            tokio::time::sleep(wait).await;
            waited += wait;
        }
    }
}

/// Where an answer sends to, if it does.
fn redirect(from: &Url, response: &Response) -> Result<Option<Url>, RegistryError> {
    if ![301, 302, 303, 307, 308].contains(&response.status().as_u16()) {
        return Ok(None);
    }
    let invalid = RegistryError::Protocol("it redirects to what is no URL");
    let target = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    let Some(next) = target.and_then(|target| from.join(target).ok()) else { return Err(invalid) };
    if from.scheme() == "https" && next.scheme() != "https" {
        return Err(RegistryError::Protocol("it redirects to where there is no TLS"));
    }
    Ok(Some(next))
}

/// Reads an answer that fits into memory.
pub(super) async fn read_small(response: Response, most: usize) -> Result<Vec<u8>, RegistryError> {
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

/// Ends what takes too long.
pub(super) async fn within<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    let late = |_| RegistryError::Unreachable(format!("no whole answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, work).await.map_err(late)?
}
