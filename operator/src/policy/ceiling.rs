//! Whether servers that a service asks for lie within those of a ceiling. In: entries of `allowedHosts` and of
//! `allowedCidrs`; out: the first that does not. Pure.
//!
//! What cannot be read lies within nothing, and nothing within it.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use podless_crds::OutboundHttp;

/// What a ceiling does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Beyond<'a> {
    /// An entry of allowedHosts.
    Host(&'a str),
    /// An entry of allowedCidrs.
    Cidr(&'a str),
}

/// The first of what is asked for that lies beyond the ceiling.
pub(super) fn beyond<'a>(asked: &'a OutboundHttp, ceiling: &OutboundHttp) -> Option<Beyond<'a>> {
    let most: Vec<_> = ceiling.allowed_hosts.iter().filter_map(|entry| Servers::parse(entry)).collect();
    let within = |entry: &str| Servers::parse(entry).is_some_and(|asked| most.iter().any(|most| most.covers(&asked)));
    if let Some(host) = asked.allowed_hosts.iter().find(|entry| !within(entry)) {
        return Some(Beyond::Host(host));
    }
    let most: Vec<IpNet> = ceiling.allowed_cidrs.iter().filter_map(|range| range.parse().ok()).collect();
    let within = |range: &str| range.parse().is_ok_and(|asked: IpNet| most.iter().any(|most| most.contains(&asked)));
    asked.allowed_cidrs.iter().find(|range| !within(range)).map(|range| Beyond::Cidr(range))
}

/// An entry of `allowedHosts`. The shim has its own reader for single servers; here whole entries are compared.
#[derive(Debug, PartialEq, Eq)]
struct Servers {
    https: bool,
    hosts: Hosts,
    port: u16,
}

#[derive(Debug, PartialEq, Eq)]
enum Hosts {
    /// `*`
    Any,
    /// `*.name`: names that end with this, which begins with a dot.
    Below(String),
    Name(String),
    Address(IpAddr),
}

impl Servers {
    fn parse(entry: &str) -> Option<Self> {
        let (scheme, rest) = entry.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        // The colons of an address in brackets are its own.
        let after = rest.rfind(']').unwrap_or(0);
        let (host, port) = match rest[after..].find(':').map(|at| after + at) {
            Some(colon) => (&rest[..colon], rest[colon + 1..].parse().ok()?),
            None => (rest, if https { 443 } else { 80 }),
        };
        Some(Self { https, hosts: Hosts::parse(host)?, port })
    }

    fn covers(&self, asked: &Self) -> bool {
        (self.https, self.port) == (asked.https, asked.port) && self.hosts.cover(&asked.hosts)
    }
}

impl Hosts {
    fn parse(text: &str) -> Option<Self> {
        if text == "*" {
            return Some(Self::Any);
        }
        if let Some(address) = text.strip_prefix('[') {
            return address.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(IpAddr::V4(address)));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match name.strip_prefix("*.") {
            _ if name.is_empty() => None,
            Some(end) => Some(Self::Below(format!(".{end}"))),
            None => Some(Self::Name(name)),
        }
    }

    fn cover(&self, asked: &Self) -> bool {
        match (self, asked) {
            (Self::Any, _) => true,
            (Self::Below(end), Self::Below(asked)) => asked.ends_with(end.as_str()),
            (Self::Below(end), Self::Name(asked)) => asked.len() > end.len() && asked.ends_with(end.as_str()),
            (one, other) => one == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(hosts: &[&str], cidrs: &[&str]) -> OutboundHttp {
        let texts = |all: &[&str]| all.iter().map(|text| (*text).to_owned()).collect();
        OutboundHttp { allowed_hosts: texts(hosts), allowed_cidrs: texts(cidrs) }
    }

    #[test]
    fn which_servers_lie_within_which() {
        for (ceiling, asked, want) in [
            ("https://a.example", "https://a.example", true),
            ("https://a.example", "https://A.example.", true),
            ("https://a.example", "https://a.example:443", true),
            ("https://a.example", "https://a.example:8443", false),
            ("https://a.example", "http://a.example", false),
            ("http://a.example:443", "https://a.example", false),
            ("https://a.example", "https://b.example", false),
            ("https://a.example", "https://*.a.example", false),
            ("https://*.a.example", "https://a.example", false),
            ("https://*.a.example", "https://b.a.example", true),
            ("https://*.a.example", "https://ba.example", false),
            ("https://*.a.example", "https://*.a.example", true),
            ("https://*.a.example", "https://*.b.a.example", true),
            ("https://*.b.a.example", "https://*.a.example", false),
            ("https://*.a.example", "https://*", false),
            ("https://*", "https://*", true),
            ("https://*", "https://*.a.example", true),
            ("https://*", "https://10.0.0.1", true),
            ("https://*", "https://a.example:8443", false),
            ("http://10.0.0.1", "http://10.0.0.1:80", true),
            ("http://10.0.0.1", "http://10.0.0.2", false),
            ("http://[fd00::1]:8080", "http://[fd00:0::1]:8080", true),
            ("http://*.0.0.1", "http://10.0.0.1", false),
            ("https://*", "ftp://a.example", false),
            ("https://*", "https://a.example:x", false),
            ("nonsense", "nonsense", false),
        ] {
            let within = beyond(&http(&[asked], &[]), &http(&[ceiling], &[])).is_none();
            assert_eq!(within, want, "{asked} within {ceiling}");
        }
    }

    #[test]
    fn which_ranges_lie_within_which() {
        for (ceiling, asked, want) in [
            ("10.0.0.0/8", "10.96.0.0/12", true),
            ("10.0.0.0/8", "10.0.0.0/8", true),
            ("10.96.0.0/12", "10.0.0.0/8", false),
            ("10.0.0.0/8", "fd00::/8", false),
            ("fd00::/8", "fd00:1::/32", true),
            ("10.0.0.0/8", "ten", false),
        ] {
            let (asked, ceiling) = (http(&[], &[asked]), http(&[], &[ceiling]));
            assert_eq!(beyond(&asked, &ceiling).is_none(), want, "{asked:?} within {ceiling:?}");
        }
        let asked = http(&["https://a"], &["10.0.0.0/8"]);
        assert_eq!(beyond(&asked, &http(&["https://*"], &[])), Some(Beyond::Cidr("10.0.0.0/8")));
        assert_eq!(beyond(&asked, &http(&[], &["10.0.0.0/8"])), Some(Beyond::Host("https://a")));
    }
}
