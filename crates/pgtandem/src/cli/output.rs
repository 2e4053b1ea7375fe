//! Standard output.

use std::fmt::Display;
use std::io::Write;

/// One line. Whoever reads may stop reading (`pgtandem plan --sql | head`); that is no reason to stop working.
pub fn say(text: impl Display) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
