//! Which servers a service may send requests to: entries of `allowedHosts` and a request's target in, yes or no out. Pure.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use http::{Uri, uri};

/// How a request goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// In clear.
    Http,
    /// By TLS.
    Https,
}

impl Scheme {
    fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// A server's name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Host {
    /// A name, in lower case and without the dot at its end.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// How.
    pub scheme: Scheme,
    /// To whom.
    pub host: Host,
    /// To which port.
    pub port: u16,
}

/// A text that names no server.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not http(s)://HOST[:PORT] with a name, *.name, an IP address or * for HOST")]
pub(crate) struct NoHost(String);

impl Target {
    /// The target of a request.
    pub(crate) fn of(uri: &Uri) -> Result<Self, NoHost> {
        let none = || NoHost(uri.to_string());
        let scheme = match uri.scheme() {
            Some(scheme) if *scheme == uri::Scheme::HTTP => Scheme::Http,
            Some(scheme) if *scheme == uri::Scheme::HTTPS => Scheme::Https,
            _ => return Err(none()),
        };
        // A name and password before the host would pass for a part of it somewhere.
        let authority = uri.authority().map(uri::Authority::as_str).filter(|text| !text.contains('@'));
        let (host, port) = split(authority.ok_or_else(none)?).ok_or_else(none)?;
        let host = Host::parse(host).ok_or_else(none)?;
        Ok(Self { scheme, host, port: port.unwrap_or(scheme.default_port()) })
    }

    /// What the Host header says.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        if let Some(address) = text.strip_prefix('[') {
            return address.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(|address| Self::Address(address.into()));
        }
        if let Ok(address) = text.parse() {
            return Some(Self::Address(IpAddr::V4(address)));
        }
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        is_name(&name).then_some(Self::Name(name))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// A name of DNS. One whose last label is a number is none: resolvers take `127.1` and `0x7f000001` for addresses.
fn is_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let number = last.bytes().all(|b| b.is_ascii_digit()) || last.starts_with("0x");
    name.len() <= 253 && name.split('.').all(label) && !number
}

/// Host and port of `HOST[:PORT]`.
fn split(authority: &str) -> Option<(&str, Option<u16>)> {
    // The colons of an address in brackets are its own.
    let after = authority.rfind(']').unwrap_or(0);
    let Some(colon) = authority[after..].find(':').map(|at| after + at) else { return Some((authority, None)) };
    let port = &authority[colon + 1..];
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    let port = digits.then(|| port.parse().ok()).flatten()?;
    Some((&authority[..colon], Some(port)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    /// `*`
    Any,
    /// `*.name`: every name that ends with this, which begins with a dot.
    Below(String),
    Exactly(Host),
}

/// The entries of `allowedHosts`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AllowedHosts(Vec<(Scheme, Hosts, u16)>);

impl AllowedHosts {
    /// Reads the entries.
    pub(crate) fn parse(entries: &[String]) -> Result<Self, NoHost> {
        entries
            .iter()
            .map(|entry| parse(entry).ok_or_else(|| NoHost(entry.clone())))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Whether an entry allows this target.
    pub(crate) fn allow(&self, target: &Target) -> bool {
        self.0.iter().any(|(scheme, hosts, port)| {
            (*scheme, *port) == (target.scheme, target.port)
                && match (hosts, &target.host) {
                    (Hosts::Any, _) => true,
                    (Hosts::Below(end), Host::Name(name)) => name.ends_with(end) && name.len() > end.len(),
                    (Hosts::Below(_), Host::Address(_)) => false,
                    (Hosts::Exactly(allowed), host) => allowed == host,
                }
        })
    }
}

fn parse(entry: &str) -> Option<(Scheme, Hosts, u16)> {
    let (scheme, rest) = entry.split_once("://")?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return None,
    };
    let (host, port) = split(rest)?;
    let hosts = match host.strip_prefix("*.") {
        _ if host == "*" => Hosts::Any,
        None => Hosts::Exactly(Host::parse(host)?),
        Some(name) => match Host::parse(name)? {
            Host::Name(name) => Hosts::Below(format!(".{name}")),
            Host::Address(_) => return None,
        },
    };
    Some((scheme, hosts, port.unwrap_or(scheme.default_port())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(entry: &str, uri: &str) -> bool {
        let entries = AllowedHosts::parse(&[entry.to_owned()]).expect("an entry");
        uri.parse().ok().and_then(|uri| Target::of(&uri).ok()).is_some_and(|target| entries.allow(&target))
    }

    #[test]
    fn what_an_entry_allows() {
        for (entry, uri, want) in [
            ("https://api.example.com", "https://api.example.com/v1?q=1", true),
            ("https://api.example.com", "https://API.Example.COM./", true),
            ("https://API.example.com.", "https://api.example.com/", true),
            ("https://api.example.com", "https://api.example.com:443/", true),
            ("https://api.example.com:443", "https://api.example.com/", true),
            ("https://api.example.com", "http://api.example.com/", false),
            ("https://api.example.com", "http://api.example.com:443/", false),
            ("https://api.example.com", "https://api.example.com:8443/", false),
            ("https://api.example.com:8443", "https://api.example.com:8443/", true),
            ("https://api.example.com:8443", "https://api.example.com/", false),
            ("https://api.example.com", "https://example.com/", false),
            ("https://api.example.com", "https://evil-api.example.com/", false),
            ("https://api.example.com", "https://api.example.com.evil.test/", false),
            ("https://api.example.com", "https://api.example.com@evil.test/", false),
            ("https://evil.test", "https://api.example.com@evil.test/", false),
            ("https://*.example.com", "https://a.example.com/", true),
            ("https://*.example.com", "https://a.b.example.com/", true),
            ("https://*.example.com", "https://example.com/", false),
            ("https://*.example.com", "https://.example.com/", false),
            ("https://*.example.com", "https://badexample.com/", false),
            ("https://*.example.com", "https://1.2.3.4/", false),
            ("http://*", "http://anything.test/", true),
            ("http://*", "http://192.0.2.1/", true),
            ("http://*", "http://[2001:db8::1]/", true),
            ("http://*", "http://anything.test:8080/", false),
            ("http://*", "https://anything.test/", false),
            ("http://*:8080", "http://anything.test:8080/", true),
            ("http://192.0.2.1:81", "http://192.0.2.1:81/", true),
            ("http://192.0.2.1", "http://192.0.2.2/", false),
            ("http://[2001:db8::1]:81", "http://[2001:DB8:0::1]:81/", true),
            ("http://[2001:db8::1]", "http://[2001:db8::2]/", false),
            // Addresses in disguise are no names.
            ("http://*", "http://127.1/", false),
            ("http://*", "http://2130706433/", false),
            ("http://*", "http://0x7f000001/", false),
            ("http://*", "http://0177.0.0.1/", false),
            ("http://*", "http://1.2.3.4.5/", false),
            ("http://*", "http://a..b/", false),
            ("http://*", "http://a%2eb/", false),
            ("HTTP://db_1.example.com", "http://db_1.example.com/", true),
        ] {
            assert_eq!(allowed(entry, uri), want, "{entry} and {uri}");
        }
        let nothing = AllowedHosts::default();
        assert!(!nothing.allow(&Target::of(&"https://a.test/".parse().expect("a URI")).expect("a target")));
    }

    #[test]
    fn what_is_no_entry() {
        for entry in [
            "",
            "api.example.com",
            "ftp://a.test",
            "https://",
            "https://a.test/",
            "https://a.test/path",
            "https://a.test?q",
            "https://a@b.test",
            "https://a.test:",
            "https://a.test:0x1",
            "https://a.test:+1",
            "https://a.test:65536",
            "https://a.test:1:2",
            "https://*a.test",
            "https://a.*.test",
            "https://*.*",
            "https://*.1.2.3.4",
            "https://*.[::1]",
            "https://**",
            "https://[::1",
            "https://::1",
            "https://[1.2.3.4]",
            "https://bücher.test",
            "https://127.1",
            " https://a.test",
            "https://a.test ",
        ] {
            assert!(AllowedHosts::parse(&[entry.to_owned()]).is_err(), "{entry:?}");
        }
        let long = format!("https://{}.test", "a".repeat(64));
        assert!(AllowedHosts::parse(&[long]).is_err());
    }

    #[test]
    fn a_target_says_what_the_host_header_does() {
        for (uri, authority) in [
            ("https://A.test.:443/x", "a.test"),
            ("http://a.test:443/x", "a.test:443"),
            ("http://[2001:DB8::1]:80/", "[2001:db8::1]"),
            ("http://[2001:db8::1]:81/", "[2001:db8::1]:81"),
        ] {
            let target = Target::of(&uri.parse().expect("a URI")).expect("a target");
            assert_eq!(target.authority(), authority, "{uri}");
        }
    }

    /// Host of an entry or of a URI, as somebody may write it.
    fn host() -> impl Strategy<Value = String> {
        let label = prop_oneof![
            "[a-cA-C]",
            "xn--[a-z]{2}",
            "[0-9]{1,3}",
            "0x[0-9a-f]{1,2}",
            Just("\u{130}".to_owned()),
            Just(String::new())
        ];
        let name = proptest::collection::vec(label, 1..5).prop_map(|labels| labels.join("."));
        let address = any::<[u8; 4]>().prop_map(|a| std::net::Ipv4Addr::from(a).to_string());
        let address6 = any::<[u16; 8]>().prop_map(|a| format!("[{}]", std::net::Ipv6Addr::from(a)));
        let odd = "[a-c.@/?#%\\\\\\[\\]* 0-9-]{0,8}";
        prop_oneof![4 => name, 1 => address, 1 => address6, 1 => odd]
    }

    fn scheme() -> impl Strategy<Value = &'static str> {
        prop_oneof![Just("http"), Just("https"), Just("HTTP"), Just("ftp"), Just("")]
    }

    fn port() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => Just(String::new()),
            1 => Just(":".to_owned()),
            2 => prop_oneof![Just(80u32), Just(443), Just(8080), any::<u32>()].prop_map(|port| format!(":{port}")),
        ]
    }

    fn port_of(scheme: &str, port: &str) -> Option<u16> {
        let default = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        if port.is_empty() { Some(default) } else { port[1..].parse().ok() }
    }

    /// An entry and a URI of parts: what is allowed must be so by the parts too.
    fn check(star: &str, entry: (&str, &str, &str), target: (&str, &str, &str)) {
        let text = format!("{}://{star}{}{}", entry.0, entry.1, entry.2);
        let uri = format!("{}://{}{}/", target.0, target.1, target.2);
        let Ok(entries) = AllowedHosts::parse(std::slice::from_ref(&text)) else { return };
        let Some(asked) = uri.parse().ok().and_then(|uri| Target::of(&uri).ok()) else { return };
        if !entries.allow(&asked) {
            return;
        }
        let plain = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let (granted, host) = (plain(entry.1), asked.host.to_string());
        assert!(entry.0.eq_ignore_ascii_case(target.0), "{text} and {uri}");
        assert_eq!(Some(asked.port), port_of(entry.0, entry.2), "{text} and {uri}");
        // Two ways to write one address of IPv6: what is left of them is compared as an address.
        let same = match (&asked.host, granted.trim_matches(['[', ']']).parse::<IpAddr>()) {
            (Host::Address(address), Ok(granted)) => *address == granted,
            (_, _) => host == granted,
        };
        let below = matches!(asked.host, Host::Name(_)) && host.ends_with(&format!(".{granted}"));
        let any = format!("{star}{granted}") == "*";
        assert!(any || (star.is_empty() && same) || (star == "*." && below), "{text} and {uri}");
    }

    proptest! {
        #[test]
        fn fuzz_of_any_entry_and_uri(entry in any::<String>(), uri in any::<String>()) {
            let entries = AllowedHosts::parse(&[entry]);
            let target = uri.parse().ok().and_then(|uri| Target::of(&uri).ok());
            if let (Ok(entries), Some(target)) = (entries, target) {
                entries.allow(&target);
            }
        }

        #[test]
        fn fuzz_of_entries_and_uris_of_parts(
            star in prop_oneof![Just(""), Just("*."), Just("*"), Just("**")],
            (host_e, host_u) in (host(), host()), same in any::<bool>(), below in any::<bool>(),
            schemes in (scheme(), scheme()), ports in (port(), port()),
        ) {
            let host_u = match (same, below) {
                (true, false) => host_e.clone(),
                (true, true) => format!("{host_u}.{host_e}"),
                (false, _) => host_u,
            };
            let schemes = if same { (schemes.0, schemes.0) } else { schemes };
            check(star, (schemes.0, &host_e, &ports.0), (schemes.1, &host_u, &ports.1));
        }
    }
}
