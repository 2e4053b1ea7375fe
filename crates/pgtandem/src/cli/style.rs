//! Colour, only on a terminal.

use std::fmt::Display;
use std::io::IsTerminal;

#[derive(Debug, Clone, Copy)]
pub struct Style {
    coloured: bool,
}

impl Style {
    pub fn of_stdout() -> Self {
        Self { coloured: wanted(std::io::stdout().is_terminal()) }
    }

    pub fn of_stderr() -> Self {
        Self { coloured: wanted(std::io::stderr().is_terminal()) }
    }

    pub fn plain() -> Self {
        Self { coloured: false }
    }

    pub fn is_coloured(self) -> bool {
        self.coloured
    }

    pub fn good(self, text: impl Display) -> String {
        self.paint("32", text)
    }

    pub fn warn(self, text: impl Display) -> String {
        self.paint("33", text)
    }

    pub fn bad(self, text: impl Display) -> String {
        self.paint("1;31", text)
    }

    pub fn bold(self, text: impl Display) -> String {
        self.paint("1", text)
    }

    pub fn dim(self, text: impl Display) -> String {
        self.paint("2", text)
    }

    fn paint(self, code: &str, text: impl Display) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// <https://no-color.org>
fn wanted(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
