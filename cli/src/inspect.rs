//! `podless inspect`: an image or a file in, what it exports, imports and must be granted out.

use std::{fs, path::Path, process::ExitCode};

use podless_artifact::{Grant, Grants, Inspection, Verdict, http_world, needs, seal::HttpWorld, verdicts};
use podless_engine::CompilerOptions;
use podless_operator::build::compiler_options;
use serde::Serialize;

use crate::{
    args::{Changes, InspectArgs, Output},
    failure::Failure,
    output, service,
    target::{Source, Target},
    workshop::{Workshop, here},
};

/// The exit code for what was looked at and would not be served.
const WOULD_NOT_BE_SERVED: u8 = 4;

/// What is printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    reference: String,
    /// Of the image's manifest; of a file, the component's.
    digest: String,
    component: Size,
    code: Code,
    /// The handler that would be called.
    http: Option<HttpWorld>,
    exports: Vec<String>,
    imports: Vec<ImportLine>,
    /// What spec must hold, as JSON; empty when nothing.
    capabilities: serde_json::Value,
    /// Why it would not be served.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Size {
    digest: String,
    size: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Code {
    target: &'static str,
    fingerprint: String,
    size: u64,
    compile_millis: u64,
}

#[derive(Debug, Serialize)]
struct ImportLine {
    interface: String,
    grant: Grant,
    #[serde(skip_serializing_if = "Option::is_none")]
    why: Option<String>,
}

/// Looks at a component.
pub(crate) async fn inspect(args: InspectArgs, output: Output) -> Result<ExitCode, Failure> {
    let source = match Target::of(&args.target)? {
        Target::Component(source) => source,
        Target::Services(path) => {
            let message = format!("{} is no component: name the component, and give this by --service", path.display());
            return Err(Failure::mistake("NotAComponent", message));
        }
    };
    let asked = args.service.as_deref().map(asked_by).transpose()?.unwrap_or_default();
    let workshop = Workshop::open(&args.registries.plain_http)?;
    let found = judge(&source, workshop.inspect(&source, asked.options).await?, asked.grants);
    match output {
        Output::Json => output::json(&found)?,
        Output::Text => output::line(text(&found).trim_end()),
    }
    Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(WOULD_NOT_BE_SERVED) })
}

/// What a service says of its component.
#[derive(Clone, Copy, Debug, Default)]
struct Asked {
    grants: Grants,
    /// How it is compiled.
    options: CompilerOptions,
}

/// What the one WasmService of a file says.
fn asked_by(path: &Path) -> Result<Asked, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::mistake("FileNotRead", format!("cannot read {}: {error}", path.display())))?;
    let documents =
        service::read(&text, &Changes::default()).map_err(|failure| failure.of(&path.display().to_string()))?;
    match documents.services.as_slice() {
        [service] => {
            Ok(Asked { grants: service::grants(service), options: compiler_options(service.spec.revision.compiler) })
        }
        several => Err(Failure::mistake(
            "InvalidSpec",
            format!("{} holds {} WasmServices: give a file with one", path.display(), several.len()),
        )),
    }
}

fn judge(source: &Source, inspection: Inspection, grants: Grants) -> Found {
    let Inspection { digest, component, component_size, facts, code_size, compile_millis } = inspection;
    let recipe = here(CompilerOptions::default());
    let world = http_world(&facts);
    let needed = needs(&facts);
    let imports: Vec<_> = verdicts(&facts, grants)
        .into_iter()
        .map(|Verdict { import, why }| ImportLine { interface: import.interface, grant: import.grant, why })
        .collect();
    let mut problems: Vec<_> = world.as_ref().err().map(ToString::to_string).into_iter().collect();
    let denied =
        imports.iter().filter_map(|line| Some(format!("it imports {}, {}", line.interface, line.why.as_ref()?)));
    problems.extend(denied);
    Found {
        reference: source.to_string(),
        digest,
        component: Size { digest: component, size: component_size },
        code: Code {
            target: recipe.target.as_str(),
            fingerprint: recipe.fingerprint(),
            size: code_size,
            compile_millis,
        },
        http: world.ok(),
        exports: facts.exports,
        imports,
        capabilities: capabilities(needed),
        problems,
    }
}

/// What spec.capabilities must hold.
fn capabilities(needed: Grants) -> serde_json::Value {
    let mut capabilities = serde_json::Map::new();
    if needed.logging {
        capabilities.insert("logging".to_owned(), serde_json::json!({}));
    }
    if needed.outbound_http {
        capabilities.insert("outboundHttp".to_owned(), serde_json::json!({"allowedHosts": []}));
    }
    capabilities.into()
}

fn text(found: &Found) -> String {
    use std::fmt::Write as _;
    let Found { reference, digest, component, code, http, exports, imports, capabilities, problems } = found;
    let mut text = String::new();
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<10} {value}");
    };
    row("reference", reference);
    row("digest", digest);
    if component.digest != *digest {
        row("component", &component.digest);
    }
    row("size", &format!("{} bytes", component.size));
    let Code { target, fingerprint, size, compile_millis } = code;
    row("code", &format!("{size} bytes for {target}, engine {fingerprint}, compiled in {compile_millis} ms"));
    row(
        "http",
        match http {
            Some(HttpWorld::P2) => "WASI 0.2",
            Some(HttpWorld::P3) => "WASI 0.3",
            None => "none",
        },
    );
    for (index, export) in exports.iter().enumerate() {
        row(if index == 0 { "exports" } else { "" }, export);
    }
    let width = imports.iter().map(|line| line.interface.len()).max().unwrap_or(0);
    for (index, line) in imports.iter().enumerate() {
        let ImportLine { interface, grant, .. } = line;
        row(if index == 0 { "imports" } else { "" }, &format!("{interface:<width$}  {grant:?}"));
    }
    if capabilities.as_object().is_some_and(|capabilities| !capabilities.is_empty()) {
        text.push_str("\nIt must be granted, in spec:\n  capabilities:\n");
        if !capabilities["logging"].is_null() {
            text.push_str("    logging: {}\n");
        }
        if !capabilities["outboundHttp"].is_null() {
            text.push_str("    outboundHttp:\n      allowedHosts: [] # the servers that it may ask, as in https://api.example.com\n");
        }
    }
    if !problems.is_empty() {
        text.push_str("\nIt would not be served:\n");
        for problem in problems {
            let _ = writeln!(text, "  {problem}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use podless_artifact::{Facts, ImportFact};

    use super::*;

    fn inspection(imports: &[&str], export: &str) -> Inspection {
        let imports = imports.iter().map(|name| ImportFact { name: (*name).to_owned(), types_only: false }).collect();
        Inspection {
            digest: "sha256:m".into(),
            component: "sha256:c".into(),
            component_size: 5,
            facts: Facts { imports, exports: vec![export.to_owned()], ..Facts::default() },
            code_size: 9,
            compile_millis: 1,
        }
    }

    #[test]
    fn what_is_denied_and_what_would_help_are_named() {
        let source = Source::Image("r/a:1".into());
        let imports = ["wasi:io/poll@0.2.0", "wasi:logging/logging", "wasi:http/outgoing-handler@0.2.3"];
        let found = judge(&source, inspection(&imports, "wasi:http/incoming-handler@0.2.0"), Grants::default());
        assert_eq!(found.problems.len(), 2, "{found:?}");
        let said = text(&found);
        for says in ["sha256:c", "WASI 0.2", "wasi:logging/logging", "Denied", "    logging: {}", "allowedHosts: []"] {
            assert!(said.contains(says), "{says} in\n{said}");
        }
        let strict = Grants { strict: true, ..Grants::ALL };
        let unasked = ["wasi:cli/stdin@0.2.0", "wasi:cli/stdout@0.2.0"];
        let refused = judge(&source, inspection(&unasked, "wasi:http/incoming-handler@0.2.0"), strict);
        assert!(matches!(refused.problems.as_slice(), [one] if one.contains("wasi:cli/stdin@0.2.0")), "{refused:?}");
        let granted = judge(&source, inspection(&imports, "wasi:http/incoming-handler@0.2.0"), Grants::ALL);
        assert!(granted.problems.is_empty());
        assert!(text(&granted).contains("    logging: {}"), "what it needs is told all the same");
        let command = judge(&source, inspection(&[], "wasi:cli/run@0.2.0"), Grants::ALL);
        assert!(command.problems[0].contains("does not export an HTTP handler"), "{:?}", command.problems);
    }

    #[test]
    fn it_is_compiled_as_the_service_has_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("service.yaml");
        let text = "apiVersion: podless.dev/v1alpha1\nkind: WasmService\nmetadata: {name: a}\n\
            spec: {image: r/a:1, compiler: {inlining: true}, capabilities: {logging: {}}}\n";
        fs::write(&file, text).expect("written");
        let asked = asked_by(&file).expect("a service");
        assert!(asked.options.inlining && asked.grants.logging);
    }
}
