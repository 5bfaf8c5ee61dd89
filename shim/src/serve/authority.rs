//! Whom a request is for: its head in, the host and port that it names out, or why it names none. Pure. What it names is
//! put into its target, where components of WASI 0.2 and 0.3 alike look for it.

use std::mem;

use http::{
    Uri, Version, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use super::refusal::Refusal;

/// The one host that a request names. HTTP/1.0 need not name one. Of an absolute target and `Host` the target counts
/// (RFC 9112, 3.2.2); in HTTP/2 both, where both are there, are the same (RFC 9113, 8.3.1).
pub(crate) fn of(head: &Parts) -> Result<Option<Authority>, Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (None, _) => None,
        (Some(host), None) => Some(Authority::try_from(host.as_bytes()).map_err(|_| Refusal::Host)?),
        (Some(_), Some(_)) => return Err(Refusal::Host),
    };
    let (target, http2) = (head.uri.authority(), head.version == Version::HTTP_2);
    if ![target, host.as_ref()].into_iter().flatten().all(is_plain) {
        return Err(Refusal::Host);
    }
    match (target, host) {
        (Some(target), Some(host)) if http2 && *target != host => Err(Refusal::Host),
        // HTTP/1.1 without `Host` is refused whatever its target says (RFC 9112, 3.2).
        (_, None) if head.version == Version::HTTP_11 => Err(Refusal::Host),
        (None, None) if http2 => Err(Refusal::Host),
        (Some(target), _) => Ok(Some(target.clone())),
        (None, host) => Ok(host),
    }
}

/// A host, and a port at most: a name before an `@` is for browsers, and a trap everywhere else.
fn is_plain(authority: &Authority) -> bool {
    let (text, host) = (authority.as_str(), authority.host());
    !host.is_empty()
        && text.strip_prefix(host).is_some_and(|rest| match rest.strip_prefix(':') {
            None => rest.is_empty(),
            Some(port) => port.is_empty() || (port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok()),
        })
}

/// Writes it into the request's target.
pub(crate) fn put(head: &mut Parts, authority: Authority) -> Result<(), Refusal> {
    let mut target = mem::take(&mut head.uri).into_parts();
    target.scheme.get_or_insert(Scheme::HTTP);
    target.authority = Some(authority);
    target.path_and_query.get_or_insert(PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(target).map_err(|_| Refusal::Host)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fuzz_whatever_a_head_says_it_names_one_plain_host_or_none(
            target in "(http://)?[!-~]{0,40}",
            hosts in prop::collection::vec("[ -~]{0,40}", 0..3),
            version in prop::sample::select(&[Version::HTTP_10, Version::HTTP_11, Version::HTTP_2][..]),
        ) {
            let request = hosts.iter().fold(Request::builder(), |request, host| request.header("host", host));
            let Ok(request) = request.version(version).uri(target).body(()) else { return Ok(()) };
            let mut head = request.into_parts().0;
            if let Ok(Some(authority)) = of(&head) {
                prop_assert!(hosts.len() < 2 && !authority.as_str().contains(['@', '/', ' ', '?', '#']));
                if put(&mut head, authority.clone()).is_ok() {
                    prop_assert_eq!(head.uri.authority(), Some(&authority));
                }
            }
        }
    }

    fn head(version: Version, target: &str, hosts: &[&str]) -> Parts {
        let request = Request::builder().version(version).uri(target);
        let request = hosts.iter().fold(request, |request, host| request.header("host", *host));
        request.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_request_names_one_host_or_is_refused() {
        let refused = Err(Refusal::Host);
        let (one, two, old) = (Version::HTTP_11, Version::HTTP_2, Version::HTTP_10);
        for (version, target, hosts, named) in [
            (one, "/", &["a.b"][..], Ok(Some("a.b"))),
            (one, "/", &["a.b:80"], Ok(Some("a.b:80"))),
            (one, "/", &["a.b:"], Ok(Some("a.b:"))),
            (one, "/", &["[::1]:80"], Ok(Some("[::1]:80"))),
            (one, "*", &["a"], Ok(Some("a"))),
            (one, "http://a/b", &["c"], Ok(Some("a"))),
            (one, "http://a/b", &[], refused),
            (one, "/", &[], refused),
            (one, "/", &[""], refused),
            (one, "/", &["a", "a"], refused),
            (one, "/", &["a b"], refused),
            (one, "/", &["a/b"], refused),
            (one, "/", &["you@a"], refused),
            (one, "/", &["a:b"], refused),
            (one, "/", &["a:+80"], refused),
            (one, "/", &["a:65536"], refused),
            (one, "/", &[":80"], refused),
            (one, "http://you@a/", &["a"], refused),
            (old, "/", &[], Ok(None)),
            (old, "/", &["a"], Ok(Some("a"))),
            (old, "http://a/", &[], Ok(Some("a"))),
            (old, "/", &["a", "b"], refused),
            (two, "http://a/", &[], Ok(Some("a"))),
            (two, "http://a/", &["A"], Ok(Some("a"))),
            (two, "http://a/", &["b"], refused),
            (two, "/", &["a"], Ok(Some("a"))),
            (two, "/", &[], refused),
        ] {
            let found = of(&head(version, target, hosts));
            let found = found.as_ref().map(|found| found.as_ref().map(Authority::as_str)).map_err(|error| *error);
            assert_eq!(found, named, "{version:?} {target} {hosts:?}");
        }
    }

    #[test]
    fn a_target_keeps_its_path_and_gets_the_host() {
        for (target, whole) in
            [("/a?b", "http://h:1/a?b"), ("*", "*"), ("https://x/a", "https://h:1/a"), ("http://x", "http://h:1/")]
        {
            let mut head = head(Version::HTTP_11, target, &["h:1"]);
            put(&mut head, Authority::from_static("h:1")).expect("put");
            assert_eq!(head.uri.authority().map(Authority::as_str), Some("h:1"), "{target}");
            assert!(head.uri.to_string().ends_with(whole), "{target}: {}", head.uri);
        }
    }
}
