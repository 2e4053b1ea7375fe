//! Faults of a config, and how they are shown.

use std::fmt::{self, Write as _};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::mask::Masked;

/// One thing wrong with the config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFault {
    /// Bytes of the text; None where the fault is of the file as a whole.
    pub(super) span: Option<Range<usize>>,
    pub message: String,
    pub remedy: String,
}

/// Everything that is wrong with the config. `Display` shows all, with lines and carets.
pub struct ConfigFaults {
    file: PathBuf,
    text: String,
    faults: Vec<ConfigFault>,
}

impl ConfigFaults {
    pub(super) fn new(file: &Path, text: &str, mut faults: Vec<ConfigFault>) -> Self {
        faults.sort_by_key(|fault| fault.span.as_ref().map(|span| span.start));
        faults.dedup();
        Self { file: file.to_owned(), text: text.to_owned(), faults }
    }

    pub(super) fn unreadable(file: &Path, error: &io::Error) -> Self {
        let remedy = match error.kind() {
            io::ErrorKind::NotFound => {
                "make it with `pgtandem init NAME=URL NAME=URL`, or say where it is with -c FILE or PGTANDEM_CONFIG"
            }
            io::ErrorKind::InvalidData => "write it in UTF-8",
            _ => "give a file this user may read, with -c FILE or PGTANDEM_CONFIG",
        };
        let message = match error.kind() {
            io::ErrorKind::NotFound => "there is no such file".to_owned(),
            _ => format!("it cannot be read: {error}"),
        };
        let fault = ConfigFault { span: None, message, remedy: remedy.to_owned() };
        Self { file: file.to_owned(), text: String::new(), faults: vec![fault] }
    }

    pub fn faults(&self) -> &[ConfigFault] {
        &self.faults
    }

    /// The whole report, ending with a line break. Colour is for terminals.
    pub fn render(&self, colour: bool) -> String {
        let paint = Paint { colour };
        let mut report = String::new();
        for fault in &self.faults {
            self.render_fault(&mut report, fault, &paint);
            report.push('\n');
        }
        let summary = match self.faults.len() {
            1 => "1 fault".to_owned(),
            count => format!("{count} faults"),
        };
        let _ = writeln!(report, "{}: {summary}, nothing was done", self.file.display());
        report
    }

    fn render_fault(&self, report: &mut String, fault: &ConfigFault, paint: &Paint) {
        let _ = writeln!(report, "{} {}", paint.red("error:"), paint.bold(&fault.message));
        let Some(span) = &fault.span else {
            let _ = writeln!(report, "  {} {}", paint.blue("-->"), self.file.display());
            let _ = writeln!(report, "   {} {}", paint.blue("= help:"), fault.remedy);
            return;
        };
        let start = span.start.min(self.text.len());
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_number = self.text[..start].matches('\n').count() + 1;
        let line = self.text[line_start..].lines().next().unwrap_or("");
        let masked = Masked::of(line);
        // A span over several lines is marked to the end of its first one.
        let from = masked.place(start - line_start).min(masked.text.len());
        let to = masked.place((span.end.saturating_sub(line_start)).min(line.len())).max(from);
        let column = line[..(start - line_start).min(line.len())].chars().count() + 1;
        let width = line_number.to_string().len();
        let gutter = paint.blue("|");
        let shown = masked.text.replace('\t', " ");
        let carets = "^".repeat(masked.text[from..to].chars().count().max(1));
        let indent = " ".repeat(masked.text[..from].chars().count());
        let _ = writeln!(report, "{:width$}{} {}:{line_number}:{column}", "", paint.blue("-->"), self.file.display());
        let _ = writeln!(report, "{:width$} {gutter}", "");
        let _ = writeln!(report, "{} {gutter} {shown}", paint.blue(&line_number.to_string()));
        let _ = writeln!(report, "{:width$} {gutter} {indent}{}", "", paint.red(&carets));
        let _ = writeln!(report, "{:width$} {} {}", "", paint.blue("= help:"), fault.remedy);
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(false).trim_end())
    }
}

impl fmt::Debug for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The text may hold passwords.
        f.debug_struct("ConfigFaults").field("file", &self.file).field("faults", &self.faults).finish_non_exhaustive()
    }
}

impl std::error::Error for ConfigFaults {}

struct Paint {
    colour: bool,
}

impl Paint {
    fn with(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn red(&self, text: &str) -> String {
        self.with("1;31", text)
    }

    fn blue(&self, text: &str) -> String {
        self.with("1;34", text)
    }

    fn bold(&self, text: &str) -> String {
        self.with("1", text)
    }
}
