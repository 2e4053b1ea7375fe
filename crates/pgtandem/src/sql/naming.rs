//! What a node calls a table and its columns.

use super::{Ident, QualifiedName};

/// Of one table on one node.
#[derive(Debug, Clone)]
pub struct Naming {
    pub table: QualifiedName,
    /// Columns that the node calls otherwise.
    columns: Vec<Ident>,
}

impl Naming {
    pub fn new(table: QualifiedName, columns: Vec<Ident>) -> Self {
        Self { table, columns }
    }

    /// Everything is called there what it is called elsewhere.
    pub fn plain(table: QualifiedName) -> Self {
        Self { table, columns: Vec::new() }
    }

    /// Columns that the node calls otherwise.
    pub fn columns(&self) -> &[Ident] {
        &self.columns
    }

    /// The column that is called `own` there.
    pub fn column(&self, own: &str) -> Ident {
        if let Some(column) = self.columns.iter().find(|column| column.own_str() == own) {
            return column.clone();
        }
        match self.columns.iter().any(|column| column.as_str() == own) {
            // Its name stands for another column: this one is the node's alone.
            true => Ident::called(alone(own), own),
            false => Ident::new(own),
        }
    }

    /// The node's name for the table, and for the columns that it calls otherwise.
    pub fn in_words(&self) -> String {
        let columns = self.columns.iter().filter(|column| column.as_str() != column.own_str());
        let mut columns: Vec<String> =
            columns.map(|column| format!("{} for {}", column.own_str(), column.as_str())).collect();
        columns.sort_unstable();
        let table = self.table.own().plain();
        if columns.is_empty() { table } else { format!("{table} ({})", columns.join(", ")) }
    }
}

/// Whether both call everything alike.
impl PartialEq for Naming {
    fn eq(&self, other: &Self) -> bool {
        let pairs = |naming: &Self| {
            let mut pairs: Vec<(String, String)> = naming.columns.iter().map(pair).collect();
            pairs.retain(|(name, own)| name != own);
            pairs.sort_unstable();
            pairs
        };
        self.table == other.table && self.table.own() == other.table.own() && pairs(self) == pairs(other)
    }
}

impl Eq for Naming {}

fn pair(column: &Ident) -> (String, String) {
    (column.as_str().to_owned(), column.own_str().to_owned())
}

/// A name that no other node has.
fn alone(own: &str) -> String {
    format!("{own} (not mapped)")
}

impl QualifiedName {
    /// The table of a node that has nothing to do with the one that is known by this name.
    #[must_use]
    pub fn alone(&self) -> Self {
        let own = self.own();
        Self { schema: own.schema, name: Ident::called(alone(self.name.own_str()), self.name.own_str()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_known_by_what_they_stand_for() {
        let table = || QualifiedName::new("public", "products");
        let naming = Naming::new(table(), vec![Ident::called("name", "title"), Ident::called("a", "b")]);
        assert_eq!(naming.column("title"), Ident::new("name"));
        assert_eq!(naming.column("sku"), Ident::new("sku"));
        // Not what `title` stands for.
        assert_ne!(naming.column("name"), Ident::new("name"));
        assert_eq!(naming.column("name").own_str(), "name");
        let turned = Naming::new(table(), vec![Ident::called("a", "b"), Ident::called("name", "title")]);
        assert_eq!(naming, turned);
        assert_ne!(naming, Naming::plain(table()));
        assert_eq!(Naming::plain(table()), Naming::new(table(), vec![Ident::new("name")]));
        assert_ne!(Naming::plain(table()), Naming::plain(table().called(&QualifiedName::new("public", "p"))));
    }
}
