//! Bars on stderr that show that something goes on. IO; nothing is shown where nobody watches.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use podless_artifact::Progress;

/// The bar of one component on its way.
pub(crate) struct Bar {
    bar: ProgressBar,
    what: String,
}

impl Bar {
    /// Begins; `what` is the image or the file.
    pub(crate) fn new(what: &str) -> Self {
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, what: what.to_owned() }
    }

    /// Shows how far the pipeline has come.
    pub(crate) fn show(&self, progress: Progress) {
        match progress {
            Progress::Resolving => self.spin("looking up"),
            Progress::Pulling { done: 0, total } => {
                self.bar.set_style(style("{spinner} {msg} {wide_bar} {bytes}/{total_bytes} {elapsed}"));
                self.bar.set_message(format!("pulling {}", self.what));
                self.bar.set_length(total);
            }
            Progress::Pulling { done, .. } => self.bar.set_position(done),
            Progress::Waiting => self.spin("waiting to compile"),
            Progress::Compiling => {
                // From here on its own time is shown.
                self.bar.reset_elapsed();
                self.spin("compiling");
            }
        }
    }

    /// Shows work without a measure.
    pub(crate) fn spin(&self, doing: &str) {
        self.bar.set_style(style("{spinner} {msg} {elapsed}"));
        self.bar.set_message(format!("{doing} {}", self.what));
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
