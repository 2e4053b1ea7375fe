//! How a row's hash comes about, kept beside hashes that are to be computed again later.

use super::{Canonical, ComparedTable, Seed};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spelling {
    pub seed: i64,
    /// The key is one integer, and hashed as such.
    pub one_integer: bool,
    /// Names of the key's columns, in the order in which they are hashed.
    pub key: Vec<String>,
    /// All that are hashed, those of the key included.
    pub columns: Vec<(String, Canonical)>,
}

impl Spelling {
    /// `table`: with the columns above. The row stands as `t`.
    #[must_use]
    pub fn hash(&self, table: &ComparedTable) -> String {
        table.spelling_hash(self.one_integer, Seed(self.seed))
    }
}
