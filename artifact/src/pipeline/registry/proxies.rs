//! Proxies on the way to registries, by the variables that everybody knows: values in, proxies of the client out. Pure.

use reqwest::{NoProxy, Proxy, Url};

use super::error::RegistryError;

/// Proxies on the way to registries.
#[derive(Clone, Default)]
pub struct Proxies {
    /// URL of the proxy for plain HTTP.
    http: Option<String>,
    /// URL of the proxy for HTTPS.
    https: Option<String>,
    /// Hosts, domains and ranges that are reached without.
    no: Option<String>,
}

/// A URL may have a password in it.
impl std::fmt::Debug for Proxies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxies(http: {}, https: {}, no: {:?})", self.http.is_some(), self.https.is_some(), self.no)
    }
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, or the same in lower case.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        let either = |name: &str| {
            let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
            set(name).or_else(|| set(&name.to_ascii_lowercase()))
        };
        let all = either("ALL_PROXY");
        let http = either("HTTP_PROXY").or_else(|| all.clone());
        Self { http, https: either("HTTPS_PROXY").or(all), no: either("NO_PROXY") }
    }

    /// The proxies of a client.
    pub(super) fn of_a_client(&self) -> Result<Vec<Proxy>, RegistryError> {
        let no = || self.no.as_deref().and_then(NoProxy::from_string);
        let http = self.http.as_deref().map(Proxy::http);
        let https = self.https.as_deref().map(Proxy::https);
        let both = http.into_iter().chain(https).map(|proxy| Ok(proxy?.no_proxy(no())));
        both.collect::<Result<_, reqwest::Error>>().map_err(|_| {
            RegistryError::Protocol("HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is no URL: write it as http://host:port")
        })
    }

    /// Their names or addresses.
    pub(super) fn hosts(&self) -> Vec<String> {
        let host = |proxy: &String| {
            let url = Url::parse(proxy).ok().filter(Url::has_host);
            url.or_else(|| Url::parse(&format!("http://{proxy}")).ok())?.host_str().map(str::to_owned)
        };
        self.http.iter().chain(&self.https).filter_map(host).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_variables() {
        let read = |set: &[(&str, &str)]| {
            let set: Vec<_> = set.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let proxies = Proxies::from_variables(|name| {
                set.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
            });
            (proxies.http.clone(), proxies.https.clone(), proxies.no.clone(), proxies.hosts())
        };
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(read(&[("HTTPS_PROXY", " ")]), (None, None, None, vec![]));
        assert_eq!(
            read(&[("https_proxy", "http://u:p@proxy.example:3128"), ("NO_PROXY", ".svc,10.0.0.0/8")]),
            (None, some("http://u:p@proxy.example:3128"), some(".svc,10.0.0.0/8"), vec!["proxy.example".to_owned()])
        );
        assert_eq!(
            read(&[("ALL_PROXY", "proxy.example:3128"), ("HTTP_PROXY", "http://other"), ("http_proxy", "http://no")]),
            (some("http://other"), some("proxy.example:3128"), None, vec!["other".into(), "proxy.example".into()])
        );
        let proxies = Proxies { http: some("http://u:secret@proxy.example"), ..Proxies::default() };
        assert!(!format!("{proxies:?}").contains("secret"));
    }
}
