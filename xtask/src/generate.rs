//! Files that are made from code. In: the API's types; out: the CRDs as YAML and as a template of the chart. IO.

use std::{fmt::Write, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use podless_crds::{WasmNode, WasmPolicy, WasmService};

const HEADER: &str = "Made by `make generate` from crds/src: change it there.";

/// Writes the files that are made from code.
#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Writes nothing, and fails when a file is not current.
    #[arg(long)]
    check: bool,
}

impl Generate {
    pub(crate) fn run(self) -> Result<()> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask has a parent folder")?;
        let mut stale = vec![];
        for (path, text) in files()? {
            let file = root.join(&path);
            if fs::read_to_string(&file).is_ok_and(|old| old == text) {
                continue;
            }
            if !self.check {
                fs::write(&file, text).with_context(|| format!("writing {path}"))?;
            }
            stale.push(path);
        }
        if self.check && !stale.is_empty() {
            bail!("not current, run `make generate`: {}", stale.join(", "));
        }
        for path in stale {
            crate::say(&format!("wrote {path}"));
        }
        Ok(())
    }
}

/// Paths in the repository, and what belongs there.
fn files() -> Result<Vec<(String, String)>> {
    let mut files = vec![];
    let mut template = format!("{{{{- /* {HEADER} */}}}}\n{{{{- if .Values.crds.install }}}}\n");
    for crd in [WasmNode::crd(), WasmPolicy::crd(), WasmService::crd()] {
        let text = yaml(&crd)?;
        files.push((format!("crds/podless.dev_{}.yaml", crd.spec.names.plural), format!("# {HEADER}\n{text}")));
        // Uninstalling the chart must not take every service of the cluster along.
        let mut kept = crd;
        kept.metadata.annotations = Some([("helm.sh/resource-policy".to_owned(), "keep".to_owned())].into());
        let text = yaml(&kept)?;
        ensure!(!text.contains("{{"), "Helm would take a part of the CRD for a template");
        write!(template, "---\n{text}")?;
    }
    template.push_str("{{- end }}\n");
    files.push(("charts/podless/templates/crds.yaml".to_owned(), template));
    Ok(files)
}

fn yaml(crd: &CustomResourceDefinition) -> Result<String> {
    Ok(serde_yaml_ng::to_string(crd)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_the_crds_between_a_condition() -> Result<()> {
        let files = files()?;
        let template = &files[3].1;
        let inner: String = template.lines().filter(|line| !line.starts_with("{{")).map(|l| format!("{l}\n")).collect();
        let documents = inner.split("---\n").skip(1);
        for ((_, file), document) in files.iter().zip(documents) {
            let file: CustomResourceDefinition = serde_yaml_ng::from_str(file)?;
            let mut kept: CustomResourceDefinition = serde_yaml_ng::from_str(document)?;
            let annotations = kept.metadata.annotations.take().context("annotations")?;
            assert_eq!(annotations["helm.sh/resource-policy"], "keep");
            assert_eq!(serde_json::to_value(kept)?, serde_json::to_value(file)?);
        }
        assert!(template.contains("{{- if .Values.crds.install }}") && template.ends_with("{{- end }}\n"));
        Ok(())
    }
}
