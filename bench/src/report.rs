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

impl Row {
    /// `judged` is what `bound` is on.
    fn of(what: &str, digits: usize, compared: &Compared, bound: Option<Bound>, judged: f64) -> Row {
        let show = |series: &Series| if series.is_empty() { "-".to_owned() } else { series.show(digits) };
        let ratio = compared.ratio();
        Row {
            what: what.to_owned(),
            native: show(&compared.native),
            tandem: show(&compared.tandem),
            ratio: if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() },
            wanted: bound.map_or_else(String::new, |bound| format!("{}: {}", bound.show(), bound.verdict(judged))),
        }
    }
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
        self.push(Row::of(what, digits, compared, bound, compared.ratio()));
    }

    /// A quantity of pgtandem alone; `bound` is on its median.
    pub fn alone(&mut self, what: &str, digits: usize, series: &Series, bound: Option<Bound>) {
        let compared = Compared { tandem: series.clone(), ..Compared::default() };
        self.push(Row::of(what, digits, &compared, bound, series.median()));
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
