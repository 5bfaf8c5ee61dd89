//! The recording of a terminal: lines from stdin in, stamped as they come, a drawing of them out. IO; what is drawn is
//! pure, see `svg`.

mod svg;

use std::{fs, io, path::PathBuf, time::Instant};

use anyhow::{Context, Result, ensure};

use crate::say;

/// Draws what comes from stdin as an SVG that shows each line when it came; passes the lines on.
#[derive(Debug, clap::Args)]
pub(crate) struct Recording {
    /// Where to write the drawing.
    output: PathBuf,
    /// What stands above the lines.
    #[arg(long)]
    title: String,
}

impl Recording {
    /// Records until stdin ends.
    pub(crate) fn run(self) -> Result<()> {
        let mut lines = vec![];
        let mut start = None;
        for text in io::stdin().lines() {
            let text = text.context("stdin cannot be read")?;
            let now = Instant::now();
            let at = now - *start.get_or_insert(now);
            say(&text);
            lines.push(svg::Line { at, text });
        }
        ensure!(!lines.is_empty(), "nothing came from stdin");
        let written = self.output.parent().map_or(Ok(()), fs::create_dir_all);
        written
            .and_then(|()| fs::write(&self.output, svg::draw(&self.title, &lines)))
            .with_context(|| format!("cannot write {}", self.output.display()))
    }
}
