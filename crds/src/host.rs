//! Hosts that a service has on the shims' shared port, and those that a policy leaves to its namespaces.

use schemars::{Schema, SchemaGenerator, json_schema};

/// A name of DNS in lower case whose last part is no number, or a wildcard for all that end so.
const NAME: &str = "([*][.])?([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])*[a-z]([-a-z0-9]{0,61}[a-z0-9])?";
/// Whole segments of a path, none of which is `.` or `..`.
const PATH: &str = "(/[-A-Za-z0-9._~]*[-A-Za-z0-9_~][-A-Za-z0-9._~]*)*";

/// One of `spec.hosts`: a name, and what paths there begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host<'a> {
    /// The name, as in `hello.example.com` or `*.example.com`.
    pub name: &'a str,
    /// Empty, or whole segments, as in `/api`.
    pub path: &'a str,
}

impl<'a> Host<'a> {
    /// Takes one apart, as the schema has let it pass.
    pub fn of(text: &'a str) -> Self {
        let (name, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        Self { name, path }
    }

    /// Whether every request for the other name is one for this name: the same one, or a wildcard that it lies under.
    pub fn covers(name: &str, other: &str) -> bool {
        name == other || name.strip_prefix('*').is_some_and(|end| end.starts_with('.') && other.ends_with(end))
    }
}

pub(crate) fn hosts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Hosts that the shims' shared port answers for with this service, on every node, beside its own Service: a name as in `hello.example.com`, or `*.example.com` for all that end so, and, where a host is shared, what paths begin with, as in `hello.example.com/api`. The oldest WasmService that asks for a host has it, and its namespace the rest of that host.",
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "set",
        "items": {
            "description": "A name in lower case, without port; international ones as in `xn--bcher-kva.example`. Behind it, where it has paths, whole segments of these.",
            "type": "string",
            "minLength": 1,
            "maxLength": 512,
            "pattern": format!("^{NAME}{PATH}$"),
            "x-kubernetes-validations": [{
                "rule": "self.split('/')[0].size() <= 253",
                "message": "the name of a host has at most 253 characters"
            }]
        }
    })
}

pub(crate) fn accepted_hosts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Those of spec.hosts that it has: the shared port of every node answers for them.",
        "type": "array",
        "items": {"description": "One of spec.hosts.", "type": "string"}
    })
}

pub(crate) fn host_ceiling_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Hosts that may be asked for in spec.hosts: names as in `hello.example.com`, and `*.example.com` for all that end so. Without it, all; empty, none.",
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
        "items": {
            "description": "A name in lower case, without port or path.",
            "type": "string",
            "minLength": 1,
            "maxLength": 253,
            "pattern": format!("^{NAME}$")
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_names_lie_under_which() {
        for (name, other, want) in [
            ("a.test", "a.test", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "a.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "c.b.a.test", true),
            ("*.a.test", "ba.test", false),
            ("*.a.test", "*.a.test", true),
            ("*.a.test", "*.b.a.test", true),
            ("*.b.a.test", "*.a.test", false),
            ("b.a.test", "*.a.test", false),
        ] {
            assert_eq!(Host::covers(name, other), want, "{name} {other}");
        }
    }

    #[test]
    fn a_host_ends_where_its_path_begins() {
        assert_eq!(Host::of("a.test"), Host { name: "a.test", path: "" });
        assert_eq!(Host::of("*.a.test/b/c"), Host { name: "*.a.test", path: "/b/c" });
    }
}
