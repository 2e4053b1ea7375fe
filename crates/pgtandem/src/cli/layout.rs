//! Text in columns, for people.

use super::Style;

/// How a cell looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    #[default]
    Plain,
    Dim,
    Bold,
    Good,
    Warn,
    Bad,
}

#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
}

/// Rows whose cells stand below each other. The last cell of a row is not padded and widens nothing.
#[derive(Debug, Clone, Default)]
pub struct Grid {
    indent: usize,
    rows: Vec<Vec<Cell>>,
}

const GAP: &str = "  ";

impl Tone {
    pub fn paint(self, style: Style, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Dim => style.dim(text),
            Self::Bold => style.bold(text),
            Self::Good => style.good(text),
            Self::Warn => style.warn(text),
            Self::Bad => style.bad(text),
        }
    }
}

impl Cell {
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    pub fn tone(mut self, tone: Tone) -> Self {
        self.tone = tone;
        self
    }

    /// A number: its digits stand below each other.
    pub fn right(mut self) -> Self {
        self.right = true;
        self
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl Grid {
    pub fn indented(indent: usize) -> Self {
        Self { indent, rows: Vec::new() }
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn render(&self, style: Style) -> String {
        let mut widths: Vec<usize> = Vec::new();
        for row in &self.rows {
            widths.resize(widths.len().max(row.len()), 0);
            // A number at the end is lined up, too; a sentence there stands for the rest of the line.
            for (cell, width) in row.iter().zip(&mut widths).take(row.len() - usize::from(ends_freely(row))) {
                *width = (*width).max(cell.width());
            }
        }
        let mut text = String::new();
        for row in &self.rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(at, (cell, width))| {
                let padding = " ".repeat(width.saturating_sub(cell.width()));
                let painted = cell.tone.paint(style, &cell.text);
                match (cell.right, at + 1 == row.len()) {
                    (true, _) => format!("{padding}{painted}"),
                    (false, true) => painted,
                    (false, false) => format!("{painted}{padding}"),
                }
            });
            let line = cells.collect::<Vec<_>>().join(GAP);
            text.push_str(&" ".repeat(self.indent));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

fn ends_freely(row: &[Cell]) -> bool {
    row.last().is_some_and(|cell| !cell.right)
}

/// What a line may take: the terminal's width; in a file or a pipe nothing is cut off that a person would miss.
pub fn width() -> usize {
    terminal_size::terminal_size().map_or(160, |(width, _)| usize::from(width.0)).clamp(60, 200)
}

/// At most `width` characters; what is cut off ends in `…`.
pub fn clip(text: &str, width: usize) -> String {
    let flat: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(width + 1).collect();
    if flat.chars().count() <= width {
        return flat;
    }
    let mut clipped: String = flat.chars().take(width.saturating_sub(1)).collect();
    clipped.push('…');
    clipped
}

/// Lines of at most `width` characters, broken between words.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// `12,345`
pub fn count(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// `16 MB`, as PostgreSQL's own `pg_size_pretty` counts them.
pub fn bytes(number: i64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = number as f64;
    let mut unit = 0;
    while value.abs() >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 || value.abs() >= 10.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `0.4 ms`, `1.2 s`, `3 min`
pub fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 60_000.0 => format!("{:.1} s", ms / 1_000.0),
        ms => super::when::duration(ms / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_line_up_and_sentences_run_on() {
        let mut grid = Grid::default();
        grid.row([Cell::new("node"), Cell::new("rows").right()]);
        grid.row([Cell::new("legacy"), Cell::new("12,345").right()]);
        grid.row([Cell::new("new"), Cell::new("away: nothing accepts connections")]);
        let expected = "node      rows\nlegacy  12,345\nnew     away: nothing accepts connections\n";
        assert_eq!(grid.render(Style::plain()), expected);
    }

    #[test]
    fn quantities_are_short() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(12), "12");
        assert_eq!(count(-1_234), "-1,234");
        assert_eq!([bytes(0), bytes(999), bytes(1_500), bytes(16 << 20)], ["0 B", "999 B", "1.5 kB", "16 MB"]);
        assert_eq!([milliseconds(0.44), milliseconds(999.0), milliseconds(1_500.0)], ["0.4 ms", "999 ms", "1.5 s"]);
        assert_eq!(milliseconds(180_000.0), "3 min");
        assert_eq!(clip("a long\ntext", 7), "a long…");
        assert_eq!(clip("short", 5), "short");
        assert_eq!(wrap("a few words, wrapped", 12), ["a few words,", "wrapped"]);
        assert_eq!(wrap("unbreakable", 4), ["unbreakable"]);
    }
}
