//! A line that shows that something goes on. IO.

use std::{borrow::Cow, time::Duration};

use indicatif::{ProgressBar, ProgressStyle};

/// Starts a line for work of this many steps; where nobody watches, nothing is shown.
pub(crate) fn start(steps: u64, doing: impl Into<Cow<'static, str>>) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg} {wide_bar} {pos}/{len}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(steps).with_style(style).with_message(doing);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
