//! From a name to the addresses that a request may go to: resolve once, keep what is allowed. IO: the pod's resolver.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs},
};

use ipnet::IpNet;
use podless_artifact::address::is_allowed;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use wasmtime_wasi_http::Error;

use super::{allow::Host, place::Places};

/// Addresses that are tried of one name.
const MOST: usize = 8;

/// The allowed addresses of a host, in the resolver's order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Where the request may go.
    pub(crate) allowed: Vec<IpAddr>,
    /// One that it may not go to, when there are such.
    pub(crate) refused: Option<IpAddr>,
}

/// Resolves a host. A look-up keeps its place for as long as the resolver is busy, also when nobody waits any more.
pub(crate) async fn resolve(host: &Host, granted: &[IpNet], places: &Places, until: Instant) -> Result<Found, Error> {
    let name = match host {
        Host::Address(address) => return Ok(sort(&[*address], granted)),
        Host::Name(name) => name.clone(),
    };
    let place = places.lookup(until).await.ok_or(Error::DnsTimeout)?;
    let lookup = spawn_blocking(move || -> io::Result<Vec<IpAddr>> {
        let found = (name.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect();
        drop(place);
        Ok(found)
    });
    match timeout_at(until, lookup).await {
        Err(_) => Err(Error::DnsTimeout),
        Ok(Ok(Ok(found))) if !found.is_empty() => Ok(sort(&found, granted)),
        Ok(_) => Err(Error::DnsError { rcode: None, info_code: None }),
    }
}

fn sort(found: &[IpAddr], granted: &[IpNet]) -> Found {
    let (allowed, refused): (Vec<_>, Vec<_>) = found.iter().partition(|address| is_allowed(**address, granted));
    Found { allowed: allowed.into_iter().take(MOST).collect(), refused: refused.into_iter().next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_allowed_is_left_out() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let (public, private) = (address("1.1.1.1"), address("10.0.0.1"));
        assert_eq!(sort(&[private, public], &[]), Found { allowed: vec![public], refused: Some(private) });
        assert_eq!(sort(&[private], &[]), Found { allowed: vec![], refused: Some(private) });
        assert_eq!(sort(&[public; 20], &[]).allowed.len(), MOST);
    }
}
