//! The interfaces that Podless knows: the name of an import or export in, what it is out. Tables; pure.
//!
//! Deny by omission: an interface that no table here names is refused.

use super::audit::{Grant, Grants};
use crate::seal::HttpWorld;

/// A line of WASI that the shims speak.
struct Line {
    minor: u64,
    /// Newest patch release that the shims know; 0.3.1 and 0.3.2 changed nothing that can be called.
    patch: u64,
    granted: &'static [&'static str],
    inert: &'static [&'static str],
    /// Inert as well: no socket can be made, no name looked up.
    sockets: &'static [&'static str],
    /// Requests to other servers.
    outbound: &'static [&'static str],
    handler: &'static str,
    world: HttpWorld,
}

const LINES: [Line; 2] = [
    Line {
        minor: 3,
        patch: 2,
        granted: &[
            "wasi:cli/environment",
            "wasi:cli/exit",
            "wasi:cli/types",
            "wasi:cli/stdout",
            "wasi:cli/stderr",
            "wasi:clocks/types",
            "wasi:clocks/monotonic-clock",
            "wasi:clocks/system-clock",
            "wasi:random/random",
            "wasi:random/insecure",
            "wasi:random/insecure-seed",
            "wasi:http/types",
        ],
        inert: INERT,
        sockets: &[],
        outbound: &["wasi:http/client"],
        handler: "wasi:http/handler",
        world: HttpWorld::P3,
    },
    Line {
        minor: 2,
        patch: 12,
        granted: &[
            "wasi:cli/environment",
            "wasi:cli/exit",
            "wasi:cli/stdout",
            "wasi:cli/stderr",
            "wasi:clocks/monotonic-clock",
            "wasi:clocks/wall-clock",
            "wasi:io/error",
            "wasi:io/poll",
            "wasi:io/streams",
            "wasi:random/random",
            "wasi:random/insecure",
            "wasi:random/insecure-seed",
            "wasi:http/types",
        ],
        inert: INERT,
        // Python's toolchain imports them unasked.
        sockets: &[
            "wasi:sockets/network",
            "wasi:sockets/instance-network",
            "wasi:sockets/ip-name-lookup",
            "wasi:sockets/tcp",
            "wasi:sockets/tcp-create-socket",
            "wasi:sockets/udp",
            "wasi:sockets/udp-create-socket",
        ],
        outbound: &["wasi:http/outgoing-handler"],
        handler: "wasi:http/incoming-handler",
        world: HttpWorld::P2,
    },
];

/// Linked because most toolchains import them unasked: no file is open, nothing is read, no terminal is there.
const INERT: &[&str] = &[
    "wasi:cli/stdin",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:filesystem/types",
    "wasi:filesystem/preopens",
];

const LOGGING: [&str; 2] = ["wasi:logging/logging", "wasi:logging/logging@0.1.0-draft"];

/// What an import is granted, or why it is refused and what to do.
pub(crate) fn judge(name: &str, grants: Grants) -> Result<Grant, String> {
    if LOGGING.contains(&name) {
        return granted(grants.logging, "spec.capabilities.logging: {}");
    }
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let line = line(version)?;
    let known = |table: fn(&Line) -> &'static [&'static str]| match line {
        Some(line) => table(line).contains(&interface),
        None => LINES.iter().any(|line| table(line).contains(&interface)),
    };
    let grant = match () {
        () if known(|line| line.granted) => Ok(Grant::Granted),
        () if known(|line| line.inert) || known(|line| line.sockets) => match grants.strict {
            false => Ok(Grant::Inert),
            true => Err("which would be linked with nothing behind it: build it without, or set \
                         spec.capabilities.strict: false"
                .to_owned()),
        },
        () if known(|line| line.outbound) => granted(
            grants.outbound_http,
            r#"spec.capabilities.outboundHttp.allowedHosts: ["https://api.example.com"], with the servers that it may ask"#,
        ),
        () => {
            return Err(if interface.starts_with("wasi:sockets/") {
                "for sockets, and nothing can grant them: build it without"
            } else {
                "which Podless does not know, so that nothing can grant it: build it without, or compose it with a component \
                 that exports it"
            }
            .to_owned());
        }
    };
    match line {
        Some(_) => grant,
        None => Err("without a version: build it against WASI 0.2 or 0.3".to_owned()),
    }
}

fn granted(is: bool, how: &str) -> Result<Grant, String> {
    if is { Ok(Grant::Granted) } else { Err(format!("which is not granted: set {how}")) }
}

/// The line of WASI that a version belongs to; `None` without a version.
fn line(version: &str) -> Result<Option<&'static Line>, String> {
    if version.is_empty() {
        return Ok(None);
    }
    let numbers: Option<Vec<u64>> = version.split('.').map(|n| n.parse().ok()).collect();
    let line = match numbers.as_deref() {
        Some(&[0, minor, patch]) => LINES.iter().find(|line| line.minor == minor).map(|line| (line, patch)),
        _ => None,
    };
    match line {
        Some((line, patch)) if patch <= line.patch => Ok(Some(line)),
        Some((line, _)) => Err(format!(
            "which is newer than what this Podless knows: build it against WASI 0.{0}.{1} or older, or upgrade Podless",
            line.minor, line.patch
        )),
        None => Err("in a version that Podless does not know: build it against WASI 0.2 or 0.3".to_owned()),
    }
}

/// The HTTP handler among a component's exports; of both, the newer.
pub(crate) fn handler(exports: &[String]) -> Option<HttpWorld> {
    LINES.iter().find_map(|known| {
        let is_handler = |export: &String| {
            let Some((interface, version)) = export.split_once('@') else { return false };
            let same_line = matches!(line(version), Ok(Some(line)) if line.minor == known.minor);
            interface == known.handler && same_line
        };
        exports.iter().any(is_handler).then_some(known.world)
    })
}
