//! A benchmark's command line. `measure FOLDER` keeps its figures there as JSON; `tell FOLDER` makes, from that file, a
//! page and pictures. IO.

use std::{env, fs, path::Path};

use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};

/// All figures of one benchmark.
pub trait Figures: DeserializeOwned + Serialize {
    /// The file that keeps them, in the folder.
    const FILE: &'static str;
    /// The file of the page.
    const PAGE: &'static str;

    /// The page, in Markdown.
    fn page(&self) -> String;

    /// The pictures, by name.
    fn pictures(&self) -> Vec<(String, String)>;
}

/// Does what the command line says; `measure` is asked for little of everything with QUICK=1.
pub async fn run<F: Figures>(measure: impl AsyncFnOnce(bool) -> Result<F>) -> Result<()> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [verb, folder] = arguments.as_slice() else { bail!("what to do and where: measure|tell FOLDER") };
    let folder = Path::new(folder);
    match verb.as_str() {
        "measure" => {
            let figures = measure(env::var("QUICK").is_ok_and(|quick| !quick.is_empty())).await?;
            write(&folder.join(F::FILE), &(serde_json::to_string_pretty(&figures)? + "\n"))
        }
        "tell" => tell::<F>(folder),
        other => bail!("no verb {other}: there are measure and tell"),
    }
}

fn tell<F: Figures>(folder: &Path) -> Result<()> {
    let measured = folder.join(F::FILE);
    let text = fs::read_to_string(&measured).with_context(|| format!("reading {}", measured.display()))?;
    let figures: F = serde_json::from_str(&text).with_context(|| format!("reading {}", measured.display()))?;
    for (name, picture) in figures.pictures() {
        write(&folder.join(format!("figures/{name}.svg")), &picture)?;
    }
    let page = folder.join(F::PAGE);
    write(&page, &figures.page())?;
    eprintln!("{}", page.display());
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
