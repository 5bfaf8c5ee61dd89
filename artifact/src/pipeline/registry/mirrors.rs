//! Mirrors: text in, who is asked instead of a registry out. Pure.

use std::str::FromStr;

use super::reach::split_port;

/// Who is asked before a registry: `registry=host[:port][/prefix]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The registry, as image references have it.
    pub(super) registry: String,
    /// Host of the mirror, with its port if there is one.
    pub(super) host: String,
    /// What stands before the repository there; empty, or with a slash at its end.
    pub(super) prefix: String,
}

/// Why a text is no mirror.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no mirror: write REGISTRY=HOST[:PORT][/PREFIX], as in docker.io=mirror.example:5000/hub")]
pub struct MirrorError(String);

impl FromStr for Mirror {
    type Err = MirrorError;

    fn from_str(text: &str) -> Result<Self, MirrorError> {
        let invalid = || MirrorError(text.to_owned());
        let (registry, place) = text.split_once('=').ok_or_else(invalid)?;
        let (host, prefix) = place.split_once('/').unwrap_or((place, ""));
        let is_host = |text: &str| {
            let (name, _) = split_port(text);
            let is_v6 = name.starts_with('[') && name.ends_with(']');
            let is_part = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
            !name.is_empty() && (is_v6 || name.bytes().all(is_part))
        };
        let prefix = prefix.trim_end_matches('/');
        let is_name = |part: &str| {
            !matches!(part, "" | "." | "..")
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
        };
        if !is_host(registry) || !is_host(host) || !(prefix.is_empty() || prefix.split('/').all(is_name)) {
            return Err(invalid());
        }
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { registry: registry.to_ascii_lowercase(), host: host.to_owned(), prefix })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_mirror() {
        for (text, registry, host, prefix) in [
            ("docker.io=mirror.example", "docker.io", "mirror.example", ""),
            ("r.example:5000=10.0.0.1:5000/hub/", "r.example:5000", "10.0.0.1:5000", "hub/"),
            ("r=m/a/b", "r", "m", "a/b/"),
            ("r=[fd00::1]:5000/a", "r", "[fd00::1]:5000", "a/"),
        ] {
            let mirror: Mirror = text.parse().expect(text);
            assert_eq!((&*mirror.registry, &*mirror.host, &*mirror.prefix), (registry, host, prefix));
        }
        for text in
            ["", "docker.io", "=m", "r=", "r=https://m", "r=m/../x", "r=m//x", "r=m:x", "r=m/a?b", "r=u@m", "r=m/a b"]
        {
            assert_eq!(text.parse::<Mirror>(), Err(MirrorError(text.to_owned())));
        }
    }
}
