//! Reading from a registry that nobody vouches for: every answer has a size and a time that it may not exceed. IO.
//!
//! `oci-client` reads manifests and tokens to their end, however long they are, and follows a manifest's `urls`; a
//! tenant names the registry, so the few GET requests are made here. The way of one: a `Session` asks its endpoints,
//! mirrors first; an `Endpoint` logs in when it is asked to; `ask` sends, follows redirects and waits when it is told to.

mod ask;
mod authorities;
mod challenge;
mod endpoint;
mod error;
mod later;
mod mirrors;
mod proxies;
mod reach;
mod session;

use std::{sync::Arc, time::Duration};

use reqwest::{Client, redirect};

use self::reach::{Hosts, Names, Reach};
pub(crate) use self::session::{Logins, Session, sha256};
pub use self::{
    authorities::{Authorities, AuthoritiesError},
    error::{Credentials, RegistryError},
    mirrors::{Mirror, MirrorError},
    proxies::Proxies,
    reach::NotAsked,
};
use super::reference::ImageReference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest silence of a registry.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// Registries, `host:port`, that speak HTTP without TLS. They may be at any address.
    pub plain_http: Vec<String>,
    /// Certificate authorities to trust beside the system's.
    pub authorities: Authorities,
    /// Who is asked before a registry, in this order.
    pub mirrors: Vec<Mirror>,
    /// Hosts, perhaps with a port, that may be at any address: registries on this machine or its link, and what
    /// registries in the cluster send to, as token services and stores.
    pub allowed_hosts: Vec<String>,
    /// Whether all hosts are so: on the machine of the one user who names the images.
    pub any_host: bool,
    /// Proxies on the way. What goes through one is resolved there, so that its rules hold, and not these.
    pub proxies: Proxies,
}

/// The clients for all registries.
pub(crate) struct Registry {
    hosts: Hosts,
    mirrors: Vec<Mirror>,
    /// One for each reach, as each has connections of its own.
    listed: Client,
    named: Client,
    public: Client,
}

impl Registry {
    pub(crate) fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let RegistryOptions { plain_http, authorities, mirrors, mut allowed_hosts, any_host, proxies } = options;
        allowed_hosts.extend(mirrors.iter().map(|mirror| mirror.host.clone()));
        let names: Arc<[String]> = proxies.hosts().into();
        let hosts = Hosts { plain_http, listed: allowed_hosts, all: any_host, proxies: names.clone() };
        let client = |reach| {
            let builder = || {
                let builder = Client::builder()
                    .user_agent(concat!("podless/", env!("CARGO_PKG_VERSION")))
                    .connect_timeout(CONNECT_TIMEOUT)
                    .read_timeout(READ_TIMEOUT)
                    .redirect(redirect::Policy::none())
                    .dns_resolver(Names { reach, proxies: names.clone() })
                    .no_proxy();
                Ok::<_, RegistryError>(proxies.of_a_client()?.into_iter().fold(builder, reqwest::ClientBuilder::proxy))
            };
            // A system without authorities of its own is no reason not to start: plain HTTP and those given still work.
            let Authorities(extra) = &authorities;
            match builder()?.tls_certs_merge(extra.clone()).build() {
                Ok(client) => Ok(client),
                Err(_) => Ok::<_, RegistryError>(builder()?.tls_certs_only(extra.clone()).build()?),
            }
        };
        let (listed, named, public) = (client(Reach::Listed)?, client(Reach::Registry)?, client(Reach::Public)?);
        Ok(Self { hosts, mirrors, listed, named, public })
    }

    /// Who answers for a reference, and who asks.
    pub(crate) fn session<'a>(&'a self, reference: &'a ImageReference, logins: Logins<'a>) -> Session<'a> {
        Session::new(self, reference, logins)
    }

    fn client(&self, reach: Reach) -> &Client {
        match reach {
            Reach::Listed => &self.listed,
            Reach::Registry => &self.named,
            Reach::Public => &self.public,
        }
    }
}
