//! The audit: what a component says of itself and what it was granted in, an audited component or why not out. Pure.
//!
//! Deny by omission: an interface that no table here names is refused.

use serde::{Deserialize, Serialize};

use crate::{facts::Facts, seal::HttpWorld};

/// What `spec.capabilities` grants beyond answering requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grants {
    /// wasi:logging.
    pub logging: bool,
}

/// What an import was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grant {
    /// It works.
    Granted,
    /// It is linked, and there is nothing behind it.
    Inert,
    /// It was refused, and so was the component.
    Denied,
}

/// One imported interface, and what it was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// Name of the interface.
    pub interface: String,
    /// What was granted.
    pub grant: Grant,
}

/// A component that may be compiled and served.
pub(crate) struct AuditedComponent {
    component: String,
    http: HttpWorld,
    imports: Vec<Import>,
    facts: Facts,
}

impl AuditedComponent {
    /// Its digest.
    pub(crate) fn component(&self) -> &str {
        &self.component
    }

    /// The HTTP interface that it exports.
    pub(crate) fn http(&self) -> HttpWorld {
        self.http
    }

    /// What it imports, in its own order.
    pub(crate) fn imports(&self) -> &[Import] {
        &self.imports
    }

    /// What it says of itself.
    pub(crate) fn facts(&self) -> &Facts {
        &self.facts
    }
}

/// Why a component may not be served.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// It exports no HTTP handler that the shims know.
    #[error(
        "the component does not export an HTTP handler ({0}): build it for the world wasi:http/proxy (0.2) or \
         wasi:http/service (0.3)"
    )]
    NoHttpExport(String),
    /// It imports what it may not.
    #[error("the component imports {}", sentence(.0))]
    ImportDenied(Vec<Denied>),
}

/// An import that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Name of the interface.
    pub interface: String,
    /// Why, and what to do.
    pub why: String,
}

/// Most imports that a message names.
const NAMED: usize = 4;

fn sentence(denied: &[Denied]) -> String {
    let mut named: Vec<_> = denied.iter().take(NAMED).map(|d| format!("{}, {}", d.interface, d.why)).collect();
    if denied.len() > NAMED {
        named.push(format!("{} more", denied.len() - NAMED));
    }
    named.join("; and ")
}

/// A line of WASI that the shims speak.
struct Line {
    minor: u64,
    /// Newest patch release that the shims know; 0.3.1 and 0.3.2 changed nothing that can be called.
    patch: u64,
    granted: &'static [&'static str],
    inert: &'static [&'static str],
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

/// Judges a component.
pub(crate) fn audit(component: &str, facts: Facts, grants: Grants) -> Result<AuditedComponent, AuditError> {
    let http = http_world(&facts)?;
    let mut denied = vec![];
    let mut imports = vec![];
    for fact in &facts.imports {
        let interface = fact.name.clone();
        let grant = match judge(&fact.name, grants) {
            Ok(grant) => grant,
            // Names of types bring nothing that could be called.
            Err(_) if fact.types_only => Grant::Inert,
            Err(why) => {
                denied.push(Denied { interface: interface.clone(), why });
                Grant::Denied
            }
        };
        imports.push(Import { interface, grant });
    }
    if !denied.is_empty() {
        return Err(AuditError::ImportDenied(denied));
    }
    Ok(AuditedComponent { component: component.to_owned(), http, imports, facts })
}

/// What an import is granted, or why it is refused and what to do.
fn judge(name: &str, grants: Grants) -> Result<Grant, String> {
    if LOGGING.contains(&name) {
        return if grants.logging {
            Ok(Grant::Granted)
        } else {
            Err("which is not granted: set spec.capabilities.logging to {}".to_owned())
        };
    }
    let (interface, version) = name.split_once('@').unwrap_or((name, ""));
    let line = line(version)?;
    let known = |table: fn(&Line) -> &'static [&'static str]| match line {
        Some(line) => table(line).contains(&interface),
        None => LINES.iter().any(|line| table(line).contains(&interface)),
    };
    let grant = match () {
        () if known(|line| line.granted) => Grant::Granted,
        () if known(|line| line.inert) => Grant::Inert,
        () => {
            return Err(match interface {
                "wasi:http/outgoing-handler" | "wasi:http/client" => {
                    "for requests to other servers, which Podless cannot grant yet: build it without them"
                }
                _ if interface.starts_with("wasi:sockets/") => "for sockets, which are never granted: build it without",
                _ => "which Podless does not know: build it without, or compose it with a component that exports it",
            }
            .to_owned());
        }
    };
    match line {
        Some(_) => Ok(grant),
        None => Err("without a version: build it against WASI 0.2 or 0.3".to_owned()),
    }
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

/// The HTTP handler that the component exports; of both, the newer.
fn http_world(facts: &Facts) -> Result<HttpWorld, AuditError> {
    for known in &LINES {
        for export in &facts.exports {
            let Some((interface, version)) = export.split_once('@') else { continue };
            let same_line = matches!(line(version), Ok(Some(line)) if line.minor == known.minor);
            if interface == known.handler && same_line {
                return Ok(known.world);
            }
        }
    }
    let close = facts.exports.iter().find(|export| export.starts_with("wasi:http/"));
    Err(AuditError::NoHttpExport(match (close, facts.exports.len()) {
        (Some(export), _) => format!("it exports {export}, which Podless does not know"),
        (None, 0) => "it exports nothing".to_owned(),
        (None, _) => format!("it exports {}", facts.exports.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::ImportFact;

    fn component(imports: &[&str]) -> Facts {
        let imports = imports.iter().map(|name| ImportFact { name: (*name).to_owned(), types_only: false }).collect();
        Facts { imports, exports: vec!["wasi:http/incoming-handler@0.2.3".to_owned()] }
    }

    #[test]
    fn imports() {
        let (none, logging) = (Grants::default(), Grants { logging: true });
        for (import, grants, grant) in [
            ("wasi:io/streams@0.2.0", none, Ok(Grant::Granted)),
            ("wasi:cli/environment@0.2.12", none, Ok(Grant::Granted)),
            ("wasi:clocks/system-clock@0.3.2", none, Ok(Grant::Granted)),
            ("wasi:http/types@0.3.0", none, Ok(Grant::Granted)),
            ("wasi:cli/stdin@0.2.6", none, Ok(Grant::Inert)),
            ("wasi:filesystem/preopens@0.3.1", none, Ok(Grant::Inert)),
            ("wasi:logging/logging", logging, Ok(Grant::Granted)),
            ("wasi:logging/logging@0.1.0-draft", logging, Ok(Grant::Granted)),
            ("wasi:logging/logging@0.1.0-draft", none, Err("spec.capabilities.logging")),
            ("wasi:logging/logging@0.2.0", logging, Err("does not know")),
            ("wasi:http/outgoing-handler@0.2.3", logging, Err("other servers")),
            ("wasi:http/client@0.3.0", logging, Err("other servers")),
            ("wasi:sockets/tcp@0.2.3", logging, Err("never granted")),
            ("wasi:io/streams@0.2.99", none, Err("WASI 0.2.12 or older")),
            ("wasi:http/types@0.3.3", none, Err("WASI 0.3.2 or older")),
            ("wasi:http/types@0.3.0-rc-2026-01-06", none, Err("WASI 0.2 or 0.3")),
            ("wasi:http/types@0.4.0", none, Err("WASI 0.2 or 0.3")),
            ("wasi:http/types@0.2", none, Err("WASI 0.2 or 0.3")),
            ("wasi:http/types", none, Err("without a version")),
            // An interface of the other line of WASI.
            ("wasi:clocks/wall-clock@0.3.0", none, Err("does not know")),
            ("wasi:clocks/timezone@0.2.0", none, Err("does not know")),
            ("example:geo/lookup@1.0.0", none, Err("WASI 0.2 or 0.3")),
            ("example:geo/lookup", none, Err("compose")),
            ("a-function", none, Err("compose")),
        ] {
            match (audit("sha256:c", component(&[import]), grants), grant) {
                (Ok(audited), Ok(grant)) => assert_eq!(audited.imports()[0].grant, grant, "{import}"),
                (Err(error), Err(says)) => {
                    let error = error.to_string();
                    assert!(error.contains(import) && error.contains(says), "{import}: {error}");
                }
                (outcome, grant) => panic!("{import}: {:?}, expected {grant:?}", outcome.err()),
            }
        }
    }

    #[test]
    fn all_that_is_denied_is_named_up_to_a_bound() {
        let many: Vec<String> = (0..9).map(|n| format!("a:b/c{n}")).collect();
        let names: Vec<&str> = many.iter().map(String::as_str).collect();
        let error = audit("c", component(&names), Grants::default()).err().expect("denied").to_string();
        assert!(error.contains("a:b/c3") && !error.contains("a:b/c4") && error.ends_with("5 more"), "{error}");
    }

    #[test]
    fn names_of_types_need_no_grant() {
        let mut facts = component(&["wasi:sockets/network@0.2.0"]);
        facts.imports[0].types_only = true;
        assert_eq!(audit("c", facts, Grants::default()).expect("audited").imports()[0].grant, Grant::Inert);
    }

    #[test]
    fn exports() {
        for (exports, world) in [
            (vec!["wasi:http/incoming-handler@0.2.0"], Ok(HttpWorld::P2)),
            (vec!["wasi:cli/run@0.2.0", "wasi:http/handler@0.3.2"], Ok(HttpWorld::P3)),
            (vec!["wasi:http/incoming-handler@0.2.3", "wasi:http/handler@0.3.0"], Ok(HttpWorld::P3)),
            (vec![], Err("exports nothing")),
            (vec!["wasi:cli/run@0.2.0"], Err("it exports wasi:cli/run@0.2.0")),
            (vec!["wasi:http/incoming-handler@0.2.99"], Err("which Podless does not know")),
            (vec!["wasi:http/handler@0.3.0-rc-2026-01-06"], Err("which Podless does not know")),
            (vec!["wasi:http/handler@0.2.0"], Err("which Podless does not know")),
            (vec!["wasi:http/incoming-handler"], Err("which Podless does not know")),
        ] {
            let facts = Facts { imports: vec![], exports: exports.iter().map(|e| (*e).to_owned()).collect() };
            match (http_world(&facts), world) {
                (Ok(got), Ok(world)) => assert_eq!(got, world, "{exports:?}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{exports:?}: {error}"),
                (outcome, _) => panic!("{exports:?}: {outcome:?}"),
            }
        }
    }
}
