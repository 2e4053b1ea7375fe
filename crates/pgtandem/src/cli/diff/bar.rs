//! The progress of a comparison.

use crate::compare::Subject;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Rows, rate and remaining time, on a terminal.
pub(super) struct Bar {
    bar: Option<ProgressBar>,
}

impl Bar {
    /// `done`: rows that an earlier run has done.
    pub fn new(subject: &Subject, done: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self { bar: None };
        }
        let style = ProgressStyle::with_template("  {msg} {wide_bar} {human_pos}/{human_len} rows, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::with_draw_target(Some(subject.estimated_rows()), ProgressDrawTarget::stderr());
        let bar = bar.with_style(style).with_message(subject.name.plain());
        bar.set_position(done);
        bar.reset_eta();
        Self { bar: Some(bar) }
    }

    pub fn rows(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(bar.length().unwrap_or_default().max(done));
            bar.set_position(done);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
