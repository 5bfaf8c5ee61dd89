//! One place that has the repository, the registry itself or a mirror: a path in, its answer out, after logging in when
//! that is asked for. IO.

use std::time::Duration;

use reqwest::{Response, StatusCode, Url, header::HeaderValue};
use serde::Deserialize;

use super::{
    Registry,
    ask::{Question, read_small, within},
    challenge::{Challenge, basic, bearer},
    error::{Credentials, RegistryError},
};
use crate::pipeline::docker::Login;

/// Longest that a token may take altogether.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(60);
const TOKEN_BYTES: usize = 64 << 10;

/// One place that has the repository.
pub(super) struct Endpoint<'a> {
    pub(super) registry: &'a Registry,
    /// `https://host/v2/repository/`.
    pub(super) base: Url,
    pub(super) repository: String,
    /// Who to log in as, one after another.
    pub(super) logins: Vec<&'a Login>,
    /// What to say when all of them are refused.
    pub(super) refusal: Credentials,
    /// What was not refused.
    pub(super) authorization: Option<HeaderValue>,
    /// Whether it is a mirror of the registry.
    pub(super) is_mirror: bool,
    /// It has sent a part of what is to be pulled.
    pub(super) has_sent: bool,
    /// A mirror that was not there, or was wrong: it is not asked again.
    pub(super) passed_over: bool,
}

impl Endpoint<'_> {
    /// Gets `<base>/<path>`, from this byte on if the place can do that.
    pub(super) async fn get(&mut self, path: &str, accept: &'static str, from: u64) -> Result<Response, RegistryError> {
        let url = self.base.join(path).map_err(|_| RegistryError::Protocol("the path is no part of a URL"))?;
        let question = Question { url, accept, from, authorization: None };
        let known = Question { authorization: self.authorization.as_ref(), ..question.clone() };
        let mut response = self.registry.ask(known, &self.base).await?;
        if response.status() == StatusCode::UNAUTHORIZED && self.is_own(&response) {
            let (value, answer) = self.log_in(question, &Challenge::of(response.headers())?).await?;
            (self.authorization, response) = (Some(value), answer);
        }
        match response.status() {
            StatusCode::OK => Ok(response),
            StatusCode::PARTIAL_CONTENT if from > 0 => Ok(response),
            StatusCode::NOT_FOUND => Err(RegistryError::NotFound),
            _ if self.is_refusal(&response) => Err(self.refused()),
            other => Err(RegistryError::Status(other)),
        }
    }

    /// Whether this place itself answers, and not one that it sends to: who that is must not say where a login is shown.
    fn is_own(&self, response: &Response) -> bool {
        response.url().origin() == self.base.origin()
    }

    fn is_refusal(&self, response: &Response) -> bool {
        matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) && self.is_own(response)
    }

    fn refused(&self) -> RegistryError {
        RegistryError::Unauthorized(self.refusal.clone())
    }

    /// Asks with one login after another until one is not refused; some registries have nothing for whom they refuse. At
    /// the end nobody's: what is public must not be missed because of a login that is out of date.
    async fn log_in(
        &self,
        question: Question<'_>,
        challenge: &Challenge,
    ) -> Result<(HeaderValue, Response), RegistryError> {
        let mut missing = false;
        for login in self.logins.iter().copied().map(Some).chain([None]) {
            let value = match (challenge, login) {
                (Challenge::Bearer { realm, service }, _) => {
                    within(TOKEN_TIMEOUT, self.token(realm, service.as_deref(), login)).await?
                }
                (Challenge::Basic, Some(login)) => Some(basic(login)?),
                (Challenge::Basic, None) | (Challenge::Unknown, _) => None,
            };
            let Some(value) = value else { continue };
            let asked = Question { authorization: Some(&value), ..question.clone() };
            let response = self.registry.ask(asked, &self.base).await?;
            match response.status() {
                _ if self.is_refusal(&response) => {}
                StatusCode::NOT_FOUND => missing = true,
                _ => return Ok((value, response)),
            }
        }
        Err(if missing { RegistryError::NotFound } else { self.refused() })
    }

    /// Gets a token where the challenge says, with the login if there is one; `None` when that is refused.
    async fn token(
        &self,
        realm: &Url,
        service: Option<&str>,
        login: Option<&Login>,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let mut url = realm.clone();
        url.query_pairs_mut().append_pair("scope", &format!("repository:{}:pull", self.repository));
        if let Some(service) = service {
            url.query_pairs_mut().append_pair("service", service);
        }
        let authorization = login.map(basic).transpose()?;
        let question = Question { url, accept: "*/*", from: 0, authorization: authorization.as_ref() };
        let response = self.registry.ask(question, &self.base).await?;
        match response.status() {
            StatusCode::OK => {}
            status if status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS => return Ok(None),
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
        Ok(Some(bearer(&token.ok_or(RegistryError::Protocol("its token service gave no token"))?)?))
    }
}
