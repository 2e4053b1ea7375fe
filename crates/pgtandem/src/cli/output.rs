//! Standard output.

use std::fmt::Display;
use std::io::{BufWriter, ErrorKind, Stdout, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static FAILED: AtomicBool = AtomicBool::new(false);

/// One line. Whoever reads may stop reading (`pgtandem plan --sql | head`); that is no reason to stop working. Neither
/// is a full disk while `up` is at work, but the exit code must tell of it.
pub fn say(text: impl Display) {
    let written = writeln!(std::io::stdout(), "{text}");
    note(written.and_then(|()| std::io::stdout().flush()));
}

fn note(written: std::io::Result<()>) {
    if let Err(error) = written
        && error.kind() != ErrorKind::BrokenPipe
        && !FAILED.swap(true, Ordering::Relaxed)
    {
        eprintln!("error: cannot write to standard output: {error}");
    }
}

/// Whether something could not be written, other than because nobody wanted to read it.
pub fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// Many lines, buffered; what `say` does for one.
pub struct Lines(BufWriter<Stdout>);

impl Lines {
    pub fn new() -> Self {
        Self(BufWriter::new(std::io::stdout()))
    }

    pub fn line(&mut self, text: &str) {
        note(writeln!(self.0, "{text}"));
    }

    pub fn flush(&mut self) {
        note(self.0.flush());
    }
}
