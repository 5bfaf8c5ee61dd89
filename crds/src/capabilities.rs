//! `spec.capabilities`: what a component is granted. Deny by omission.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a component is granted.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Refuses a component that imports what is linked with nothing behind it: files, terminals, sockets (grant Inert). Many toolchains import these unasked.
    #[serde(default, skip_serializing_if = "is_false")]
    pub strict: bool,
    /// Grants wasi:logging: what the component logs goes to the shim's log, as JSON lines with namespace and service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logging: Option<Logging>,
    /// Grants requests to other servers: wasi:http/outgoing-handler (0.2) and wasi:http/client (0.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound_http: Option<OutboundHttp>,
}

impl Capabilities {
    /// True when nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Grants wasi:logging; it has no settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub struct Logging {}

/// Where a component may send requests.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OutboundHttp {
    /// Servers that may be asked: `https://api.example.com`, `http://*.example.com:8080`, `https://*`. The port defaults to the scheme's; `*.` stands for one label or more. Without any, every request is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "hosts_schema")]
    pub allowed_hosts: Vec<String>,
    /// Ranges of internal addresses that allowed hosts may have, as in `10.96.0.0/12`. Without one, private, link-local, multicast and other special addresses are refused, and so is the metadata service of a cloud. Loopback is always refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "cidrs_schema")]
    pub allowed_cidrs: Vec<String>,
}

fn hosts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Servers that may be asked: `https://api.example.com`, `http://*.example.com:8080`, `https://*`. The port defaults to the scheme's; `*.` stands for one label or more. Without any, every request is refused.",
        "type": "array",
        "maxItems": 64,
        "x-kubernetes-list-type": "set",
        "items": {
            "description": "`http(s)://HOST[:PORT]`, where HOST is a name, `*.` and a name, an address, or `*`.",
            "type": "string",
            "maxLength": 300,
            "x-kubernetes-validations": [{
                "rule": r"self.matches('^https?://(\\*|(\\*[.])?[A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?([.][A-Za-z0-9]([-A-Za-z0-9_]*[A-Za-z0-9])?)*[.]?|\\[[0-9A-Fa-f:.]+\\])(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?$')",
                "message": "write http://HOST[:PORT] or https://HOST[:PORT], without a path; HOST is a name, *. and a name, an address, or *"
            }]
        }
    })
}

fn cidrs_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "description": "Ranges of internal addresses that allowed hosts may have, as in `10.96.0.0/12`. Without one, private, link-local, multicast and other special addresses are refused, and so is the metadata service of a cloud. Loopback is always refused.",
        "type": "array",
        "maxItems": 32,
        "x-kubernetes-list-type": "set",
        "items": {
            "description": "A range of addresses, as in `10.96.0.0/12` or `fd00::/8`.",
            "type": "string",
            "maxLength": 49,
            "x-kubernetes-validations": [{
                "rule": "isCIDR(self)",
                "message": "write a range of addresses, as in 10.96.0.0/12"
            }]
        }
    })
}
