//! What the user names: a text in, a YAML file, a component or an image out. Looks at the disk, reads nothing of it.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// Where a component comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file of this machine.
    File(PathBuf),
    /// An image in a registry.
    Image(String),
}

impl Source {
    /// Reads `spec.image` of a YAML file in this folder: what begins as a path is one.
    pub(crate) fn of_spec(image: &str, folder: &Path) -> Self {
        if looks_like_a_path(image) { Self::File(folder.join(image)) } else { Self::Image(image.to_owned()) }
    }

    /// A name for a service that has none.
    pub(crate) fn service_name(&self) -> String {
        let text = match self {
            Self::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            Self::Image(image) => {
                let path = image.split('@').next().unwrap_or_default();
                path.rsplit('/').next().unwrap_or_default().split(':').next().unwrap_or_default().to_owned()
            }
        };
        let allowed = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = text.chars().map(allowed).skip_while(|c| !c.is_ascii_lowercase()).take(63).collect();
        let name = name.trim_end_matches('-');
        if name.is_empty() { "component".to_owned() } else { name.to_owned() }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Image(image) => image.fmt(f),
        }
    }
}

/// What was named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A file with WasmServices.
    Services(PathBuf),
    /// A component.
    Component(Source),
}

impl Target {
    /// Reads what the user gave: a file that is there, else an image, unless it is written as a file is.
    pub(crate) fn of(text: &str) -> Result<Self, Failure> {
        let path = PathBuf::from(text);
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_yaml = ["yaml", "yml", "json"].contains(&extension);
        if is_yaml {
            return Ok(Self::Services(path));
        }
        if path.is_file() || extension == "wasm" || looks_like_a_path(text) {
            if path.is_dir() {
                return Err(Failure::mistake(
                    "NotAComponent",
                    format!("{text} is a folder: name a .wasm or .yaml file"),
                ));
            }
            return Ok(Self::Component(Source::File(path)));
        }
        Ok(Self::Component(Source::Image(text.to_owned())))
    }
}

fn looks_like_a_path(text: &str) -> bool {
    ["./", "../", "/"].iter().any(|start| text.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named() {
        let there = tempfile::NamedTempFile::new_in(".").expect("a file");
        let here = there.path().file_name().and_then(|name| name.to_str()).expect("a name");
        let file = |path: &str| Target::Component(Source::File(path.into()));
        for (text, want) in [
            ("service.yaml", Target::Services("service.yaml".into())),
            ("dir/a.yml", Target::Services("dir/a.yml".into())),
            ("hello.wasm", file("hello.wasm")),
            ("./hello", file("./hello")),
            ("/nowhere/hello", file("/nowhere/hello")),
            (here, file(here)),
            ("hello", Target::Component(Source::Image("hello".into()))),
            (
                "registry.local:5000/a/hello:1.0",
                Target::Component(Source::Image("registry.local:5000/a/hello:1.0".into())),
            ),
        ] {
            assert_eq!(Target::of(text), Ok(want), "{text}");
        }
        assert!(Target::of("../").is_err_and(|failure| failure.to_string().contains("a folder")));
    }

    #[test]
    fn services_get_names_that_kubernetes_takes() {
        let file = |path: &str| Source::File(path.into()).service_name();
        let image = |image: &str| Source::Image(image.into()).service_name();
        assert_eq!(file("target/My_Hello.wasm"), "my-hello");
        assert_eq!(file("9-lives-.wasm"), "lives");
        assert_eq!(file("99.wasm"), "component");
        assert_eq!(file(&"a".repeat(99)).len(), 63);
        assert_eq!(image("registry.local:5000/team/hello:1.0"), "hello");
        assert_eq!(image("registry.local/hello@sha256:00ff"), "hello");
    }

    #[test]
    fn an_image_of_a_spec_may_be_a_file_beside_it() {
        let of = |image: &str| Source::of_spec(image, Path::new("/etc/x"));
        assert_eq!(of("./a.wasm"), Source::File("/etc/x/./a.wasm".into()));
        assert_eq!(of("/a.wasm"), Source::File("/a.wasm".into()));
        assert_eq!(of("r.local/a:1"), Source::Image("r.local/a:1".into()));
    }
}
