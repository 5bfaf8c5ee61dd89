//! The audit: what a component says of itself and what it was granted in, an audited component or why not out. Pure.

use serde::{Deserialize, Serialize};

use super::{
    facts::Facts,
    interfaces::{handler, judge},
};
use crate::seal::HttpWorld;

/// What `spec.capabilities` grants beyond answering requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants {
    /// What would be linked with nothing behind it is refused.
    pub strict: bool,
    /// wasi:logging.
    pub logging: bool,
    /// Requests to other servers: wasi:http/outgoing-handler (0.2), wasi:http/client (0.3).
    pub outbound_http: bool,
}

impl Grants {
    /// Everything that can be granted.
    pub const ALL: Self = Self { strict: false, logging: true, outbound_http: true };
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

/// What the audit says of one import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The import.
    pub import: Import,
    /// Why it was refused, and what to do; `None` when it was not.
    pub why: Option<String>,
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

/// A component that may not be served: why, and what its imports were granted all the same.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Refused {
    /// All its imports, in its own order.
    pub imports: Vec<Import>,
    /// Why.
    pub why: AuditError,
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

/// Judges a component.
pub(crate) fn audit(component: &str, facts: Facts, grants: Grants) -> Result<AuditedComponent, Refused> {
    let (mut imports, mut denied) = (vec![], vec![]);
    for Verdict { import, why } in verdicts(&facts, grants) {
        denied.extend(why.map(|why| Denied { interface: import.interface.clone(), why }));
        imports.push(import);
    }
    match http_world(&facts) {
        Err(why) => Err(Refused { imports, why }),
        Ok(_) if !denied.is_empty() => Err(Refused { imports, why: AuditError::ImportDenied(denied) }),
        Ok(http) => Ok(AuditedComponent { component: component.to_owned(), http, imports, facts }),
    }
}

/// Judges each import, in the component's own order.
pub fn verdicts(facts: &Facts, grants: Grants) -> Vec<Verdict> {
    let each = facts.imports.iter().map(|fact| {
        let (grant, why) = match judge(&fact.name, grants) {
            Ok(grant) => (grant, None),
            // Names of types bring nothing that could be called.
            Err(_) if fact.types_only => (Grant::Inert, None),
            Err(why) => (Grant::Denied, Some(why)),
        };
        Verdict { import: Import { interface: fact.name.clone(), grant }, why }
    });
    each.collect()
}

/// What a component must be granted to be served: what it imports, of all that can be granted.
pub fn needs(facts: &Facts) -> Grants {
    let refused = |grants: Grants| verdicts(facts, grants).iter().filter(|verdict| verdict.why.is_some()).count();
    let matters = |without: Grants| refused(without) > refused(Grants::ALL);
    Grants {
        strict: false,
        logging: matters(Grants { logging: false, ..Grants::ALL }),
        outbound_http: matters(Grants { outbound_http: false, ..Grants::ALL }),
    }
}

/// The HTTP handler that a component exports.
pub fn http_world(facts: &Facts) -> Result<HttpWorld, AuditError> {
    handler(&facts.exports).ok_or_else(|| {
        let close = facts.exports.iter().find(|export| export.starts_with("wasi:http/"));
        AuditError::NoHttpExport(match (close, facts.exports.len()) {
            (Some(export), _) => format!("it exports {export}, which Podless does not know"),
            (None, 0) => "it exports nothing".to_owned(),
            (None, _) => {
                format!("it exports {}", facts.exports.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::facts::ImportFact;

    fn component(imports: &[&str]) -> Facts {
        let imports = imports.iter().map(|name| ImportFact { name: (*name).to_owned(), types_only: false }).collect();
        Facts { imports, exports: vec!["wasi:http/incoming-handler@0.2.3".to_owned()], ..Facts::default() }
    }

    #[test]
    fn imports() {
        let none = Grants::default();
        let (logging, outbound) = (Grants { logging: true, ..none }, Grants { outbound_http: true, ..none });
        let strict = Grants { strict: true, ..Grants::ALL };
        let hosts = r#"set spec.capabilities.outboundHttp.allowedHosts: ["https://api.example.com"], with"#;
        for (import, grants, grant) in [
            ("wasi:io/streams@0.2.0", none, Ok(Grant::Granted)),
            ("wasi:cli/environment@0.2.12", none, Ok(Grant::Granted)),
            ("wasi:clocks/system-clock@0.3.2", none, Ok(Grant::Granted)),
            ("wasi:http/types@0.3.0", none, Ok(Grant::Granted)),
            ("wasi:cli/stdin@0.2.6", none, Ok(Grant::Inert)),
            ("wasi:filesystem/preopens@0.3.1", none, Ok(Grant::Inert)),
            ("wasi:logging/logging", logging, Ok(Grant::Granted)),
            ("wasi:logging/logging@0.1.0-draft", logging, Ok(Grant::Granted)),
            ("wasi:logging/logging@0.1.0-draft", none, Err("set spec.capabilities.logging: {}")),
            ("wasi:logging/logging@0.2.0", logging, Err("does not know")),
            ("wasi:http/outgoing-handler@0.2.3", outbound, Ok(Grant::Granted)),
            ("wasi:http/outgoing-handler@0.2.3", logging, Err(hosts)),
            ("wasi:http/outgoing-handler@0.2.99", outbound, Err("WASI 0.2.12 or older")),
            ("wasi:http/outgoing-handler@0.3.0", outbound, Err("does not know")),
            ("wasi:http/outgoing-handler", outbound, Err("without a version")),
            ("wasi:http/client@0.3.0", outbound, Ok(Grant::Granted)),
            ("wasi:http/client@0.3.0", logging, Err(hosts)),
            ("wasi:http/client@0.2.3", outbound, Err("does not know")),
            ("wasi:logging/logging", outbound, Err("spec.capabilities.logging")),
            ("wasi:sockets/tcp@0.2.3", none, Ok(Grant::Inert)),
            ("wasi:sockets/types@0.3.0", logging, Err("nothing can grant them")),
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
            ("example:geo/lookup", none, Err("nothing can grant it: build it without, or compose")),
            ("wasi:io/streams@0.2.0", strict, Ok(Grant::Granted)),
            ("wasi:cli/environment@0.2.0", strict, Ok(Grant::Granted)),
            ("wasi:http/client@0.3.0", strict, Ok(Grant::Granted)),
            ("wasi:filesystem/preopens@0.2.0", strict, Err("set spec.capabilities.strict: false")),
            ("wasi:cli/stdin@0.3.0", strict, Err("with nothing behind it")),
            ("wasi:sockets/tcp@0.2.3", strict, Err("with nothing behind it")),
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
    fn what_must_be_granted_is_what_is_imported() {
        let none = Grants::default();
        for (imports, want) in [
            (&["wasi:io/streams@0.2.0", "wasi:sockets/types@0.3.0"][..], none),
            (&["wasi:logging/logging"], Grants { logging: true, ..none }),
            (&["wasi:http/client@0.3.0", "a:b/c"], Grants { outbound_http: true, ..none }),
            (&["wasi:logging/logging", "wasi:http/outgoing-handler@0.2.0"], Grants::ALL),
        ] {
            assert_eq!(needs(&component(imports)), want, "{imports:?}");
        }
    }

    #[test]
    fn names_of_types_need_no_grant() {
        let mut facts = component(&["example:geo/types@1.0.0"]);
        facts.imports[0].types_only = true;
        for grants in [Grants::default(), Grants { strict: true, ..Grants::default() }] {
            assert_eq!(audit("c", facts.clone(), grants).expect("audited").imports()[0].grant, Grant::Inert);
        }
    }

    #[test]
    fn who_is_refused_is_told_of_every_import() {
        let facts = component(&["wasi:io/poll@0.2.0", "wasi:cli/stdin@0.2.0", "wasi:logging/logging"]);
        let told = |facts| audit("c", facts, Grants::default()).err().expect("refused");
        let grants = |refused: &Refused| refused.imports.iter().map(|import| import.grant).collect::<Vec<_>>();
        let (refused, want) = (told(facts.clone()), [Grant::Granted, Grant::Inert, Grant::Denied]);
        assert_eq!(grants(&refused), want);
        assert!(matches!(refused.why, AuditError::ImportDenied(denied) if denied.len() == 1));
        let refused = told(Facts { exports: vec![], ..facts });
        assert_eq!(grants(&refused), want);
        assert!(matches!(refused.why, AuditError::NoHttpExport(_)));
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
            let facts = Facts { exports: exports.iter().map(|e| (*e).to_owned()).collect(), ..Facts::default() };
            match (http_world(&facts), world) {
                (Ok(got), Ok(world)) => assert_eq!(got, world, "{exports:?}"),
                (Err(error), Err(says)) => assert!(error.to_string().contains(says), "{exports:?}: {error}"),
                (outcome, _) => panic!("{exports:?}: {outcome:?}"),
            }
        }
    }
}
