//! Where a request may go: who is asked in, which addresses it may have out. `Hosts` is pure, `Names` resolves.
//!
//! A tenant names registries, and a registry names token services and redirects: neither may lead the operator to
//! itself, to a cloud's metadata, or into the cluster, but where the platform team has listed the host.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

use super::error::RegistryError;
use crate::address::{is_public, is_public_or_private};

/// Which addresses a host may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Any: it is listed.
    Listed,
    /// Public ones, and those of a cluster: it is the registry that a reference names.
    Registry,
    /// Public ones: a registry sends there.
    Public,
}

impl Reach {
    fn allows(self, address: IpAddr) -> bool {
        match self {
            Self::Listed => true,
            Self::Registry => is_public_or_private(address),
            Self::Public => is_public(address),
        }
    }
}

/// A host that is not asked because of its address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAsked {
    /// The registry itself.
    #[error(
        "{0} has no address but this machine's own, its link's or a cloud's metadata service's: it is asked only when \
         the chart's registries.allowedHosts lists it"
    )]
    Registry(String),
    /// A proxy: its name may lead anywhere, and so to this machine.
    #[error("{0} is the host of a proxy: it is asked itself only when the chart's registries.allowedHosts lists it")]
    Proxy(String),
    /// What it sends to.
    #[error(
        "it sends to {0}, which has no public address: that is followed only when the chart's registries.allowedHosts \
         lists it"
    )]
    Elsewhere(String),
}

impl NotAsked {
    fn new(reach: Reach, host: &str) -> Self {
        if reach == Reach::Public { Self::Elsewhere(host.to_owned()) } else { Self::Registry(host.to_owned()) }
    }
}

/// What the platform team has said of hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts {
    /// `host` or `host:port` that is asked without TLS, on that port only, wherever it is.
    pub(super) plain_http: Vec<String>,
    /// `host`, on any port, or `host:port` that is asked wherever it is.
    pub(super) listed: Vec<String>,
    /// All hosts are listed.
    pub(super) all: bool,
    /// Hosts of proxies, whose names are resolved to any address: nobody but who is listed may be called so.
    pub(super) proxies: Arc<[String]>,
}

impl Hosts {
    /// Whether this host, as references have it, is asked without TLS.
    pub(super) fn is_plain(&self, host: &str) -> bool {
        self.plain_http.iter().any(|plain| plain.eq_ignore_ascii_case(host))
    }

    /// Which addresses a request may go to, on behalf of the registry at `own`.
    pub(super) fn reach(&self, url: &Url, own: &Url) -> Result<Reach, RegistryError> {
        let host = url.host_str().unwrap_or_default();
        let port = url.port_or_known_default().unwrap_or_default();
        let plain = self.plain_http.iter().any(|entry| is_entry(entry, host, port, Some(80)));
        if url.scheme() != "https" && !(plain && url.scheme() == "http") {
            return Err(RegistryError::Protocol("it sends to where there is no TLS: only https is followed"));
        }
        let reach = if self.all || plain || self.listed.iter().any(|entry| is_entry(entry, host, port, None)) {
            Reach::Listed
        } else if own.host_str() == Some(host) {
            Reach::Registry
        } else {
            Reach::Public
        };
        let is_proxy = self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(host));
        // No resolver is asked for an address.
        match host.trim_matches(['[', ']']).parse() {
            Ok(address) if !reach.allows(address) => Err(NotAsked::new(reach, host).into()),
            Err(_) if is_proxy && reach != Reach::Listed => Err(NotAsked::Proxy(host.to_owned()).into()),
            _ => Ok(reach),
        }
    }
}

/// Whether an entry of a list means this host and port; `default` is the port of an entry that has none, or else any.
fn is_entry(entry: &str, host: &str, port: u16, default: Option<u16>) -> bool {
    let (name, wanted) = split_port(entry);
    name.eq_ignore_ascii_case(host) && wanted.or(default).is_none_or(|wanted| wanted == port)
}

/// Host and port of `host:port`; an address of IPv6 is in brackets.
pub(super) fn split_port(entry: &str) -> (&str, Option<u16>) {
    match entry.rsplit_once(':').map(|(name, port)| (name, port.parse())) {
        Some((name, Ok(port))) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (entry, None),
    }
}

/// Resolves names to the addresses that they may have.
pub(super) struct Names {
    pub(super) reach: Reach,
    /// Hosts of proxies: they may be anywhere.
    pub(super) proxies: Arc<[String]>,
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_owned();
        let is_proxy = self.proxies.iter().any(|proxy| proxy.eq_ignore_ascii_case(&host));
        let reach = if is_proxy { Reach::Listed } else { self.reach };
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            if found.is_empty() {
                return Err(io::Error::other("the name has no address").into());
            }
            let allowed: Vec<_> = found.into_iter().filter(|address| reach.allows(address.ip())).collect();
            if allowed.is_empty() {
                return Err(NotAsked::new(reach, &host).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts() -> Hosts {
        let plain_http = ["10.0.0.1:5000", "plain.example"].map(str::to_owned).to_vec();
        let listed = ["tokens.internal", "169.254.1.1:8443", "[::1]:5000"].map(str::to_owned).to_vec();
        let proxies = ["localhost", "tokens.internal", "10.0.0.3"].map(str::to_owned).into();
        Hosts { plain_http, listed, all: false, proxies }
    }

    fn reach(hosts: &Hosts, url: &str, own: &str) -> String {
        match hosts.reach(&url.parse().expect("a URL"), &own.parse().expect("a URL")) {
            Ok(reach) => format!("{reach:?}"),
            Err(RegistryError::NotAsked(NotAsked::Registry(_))) => "not asked".to_owned(),
            Err(RegistryError::NotAsked(NotAsked::Proxy(_))) => "a proxy".to_owned(),
            Err(RegistryError::NotAsked(NotAsked::Elsewhere(_))) => "not followed".to_owned(),
            Err(_) => "no TLS".to_owned(),
        }
    }

    #[test]
    fn who_may_be_where() {
        let own = "https://registry.example:5000/v2/a/";
        for (url, want) in [
            ("https://registry.example:5000/v2/a/manifests/1", "Registry"),
            ("https://REGISTRY.example/token", "Registry"),
            ("https://cdn.example/blob", "Public"),
            ("https://tokens.internal:8443/token", "Listed"),
            ("https://xtokens.internal/token", "Public"),
            ("https://169.254.1.1:8443/", "Listed"),
            ("https://169.254.1.1/", "not followed"),
            ("https://[::1]:5000/", "Listed"),
            ("https://[::1]:5001/", "not followed"),
            ("https://169.254.169.254/latest/meta-data", "not followed"),
            ("https://LOCALHOST:8443/token", "a proxy"),
            ("https://0x7f.1/", "not followed"),
            ("https://2130706433/", "not followed"),
            ("https://10.0.0.2/", "not followed"),
            ("https://10.0.0.1:5000/", "Listed"),
            ("https://10.0.0.1:5001/", "not followed"),
            ("http://10.0.0.1:5000/", "Listed"),
            ("http://10.0.0.1/", "no TLS"),
            ("http://plain.example/", "Listed"),
            ("http://plain.example:81/", "no TLS"),
            ("http://registry.example:5000/", "no TLS"),
            ("ftp://registry.example/", "no TLS"),
        ] {
            assert_eq!(reach(&hosts(), url, own), want, "{url}");
        }
        for (address, want) in [
            ("10.0.0.2", "Registry"),
            ("10.0.0.3", "Registry"),
            ("localhost:8443", "a proxy"),
            ("1.1.1.1", "Registry"),
            ("[fd00::1]:5000", "Registry"),
            ("127.0.0.1:5000", "not asked"),
            ("[::1]", "not asked"),
            ("169.254.169.254", "not asked"),
            ("[::ffff:169.254.169.254]", "not asked"),
            ("100.100.100.200", "not asked"),
        ] {
            let own = format!("https://{address}/v2/a/");
            assert_eq!(reach(&hosts(), &own, &own), want, "{address}");
            assert_eq!(reach(&Hosts { all: true, ..hosts() }, &own, &own), "Listed", "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_is_resolved_to_what_it_may_have() {
        let resolve = async |reach, proxies: &[&str]| {
            let proxies = proxies.iter().map(|proxy| (*proxy).to_owned()).collect();
            let found = Names { reach, proxies }.resolve("localhost".parse().expect("a name")).await;
            found.map(|addresses| addresses.count()).map_err(|error| error.downcast_ref::<NotAsked>().cloned())
        };
        assert!(resolve(Reach::Listed, &[]).await.is_ok_and(|count| count > 0));
        assert_eq!(resolve(Reach::Registry, &[]).await, Err(Some(NotAsked::Registry("localhost".into()))));
        assert_eq!(resolve(Reach::Public, &["elsewhere"]).await, Err(Some(NotAsked::Elsewhere("localhost".into()))));
        assert!(resolve(Reach::Public, &["LOCALHOST"]).await.is_ok());
    }
}
