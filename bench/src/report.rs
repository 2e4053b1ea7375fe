//! Lines of results, printed as they come and kept for the end.

use crate::figures::{Bound, Compared, Series};

#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

struct Row {
    what: String,
    native: String,
    tandem: String,
    ratio: String,
    wanted: String,
}

impl Report {
    fn push(&mut self, row: Row) {
        println!(
            "  {}: native {}, pgtandem {}{}{}",
            row.what,
            row.native,
            row.tandem,
            if row.ratio.is_empty() { String::new() } else { format!(", ratio {}", row.ratio) },
            if row.wanted.is_empty() { String::new() } else { format!(" [{}]", row.wanted) }
        );
        self.rows.push(row);
    }

    /// A quantity of both systems; `bound` is on the ratio.
    pub fn compare(&mut self, what: &str, digits: usize, compared: &Compared, bound: Option<Bound>) {
        let ratio = compared.ratio();
        self.push(Row {
            what: what.to_owned(),
            native: compared.native.show(digits),
            tandem: compared.tandem.show(digits),
            ratio: format!("{ratio:.2}"),
            wanted: bound.map_or_else(String::new, |bound| format!("{}: {}", bound.show(), bound.verdict(ratio))),
        });
    }

    /// A quantity of pgtandem alone; `bound` is on its median.
    pub fn alone(&mut self, what: &str, digits: usize, series: &Series, bound: Option<Bound>) {
        self.push(Row {
            what: what.to_owned(),
            native: "-".to_owned(),
            tandem: series.show(digits),
            ratio: String::new(),
            wanted: bound
                .map_or_else(String::new, |bound| format!("{}: {}", bound.show(), bound.verdict(series.median()))),
        });
    }

    /// All results as a table in Markdown.
    pub fn print_table(&self) {
        println!("\n| what | native | pgtandem | pgtandem / native | wanted |\n|---|---|---|---|---|");
        for row in &self.rows {
            println!("| {} | {} | {} | {} | {} |", row.what, row.native, row.tandem, row.ratio, row.wanted);
        }
    }

    pub fn missed(&self) -> usize {
        self.rows.iter().filter(|row| row.wanted.ends_with("MISSED")).count()
    }
}
