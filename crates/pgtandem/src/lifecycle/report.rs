//! What `check` found.

use crate::sql::QualifiedName;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// `up` refuses.
    Fault,
    /// It works, but not as one may think.
    Warning,
    /// Worth knowing.
    Note,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// A stable word for programs, such as `wal_level`.
    pub code: &'static str,
    /// None: it concerns the link as a whole.
    pub node: Option<String>,
    pub table: Option<String>,
    pub what: String,
    /// The statement or setting that mends it.
    pub remedy: Option<String>,
}

/// Everything that was found, worst first, then in the order of nodes and tables in the configuration.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    pub findings: Vec<Finding>,
}

impl Report {
    pub fn fault(&mut self, code: &'static str, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Fault, code, what.into())
    }

    pub fn warning(&mut self, code: &'static str, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Warning, code, what.into())
    }

    pub fn note(&mut self, code: &'static str, what: impl Into<String>) -> &mut Finding {
        self.add(Severity::Note, code, what.into())
    }

    fn add(&mut self, severity: Severity, code: &'static str, what: String) -> &mut Finding {
        self.findings.push(Finding { severity, code, node: None, table: None, what, remedy: None });
        let last = self.findings.len() - 1;
        &mut self.findings[last]
    }

    pub fn faults(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Fault)
    }

    pub fn is_passed(&self) -> bool {
        self.faults().next().is_none()
    }

    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }

    pub(super) fn sort(&mut self) {
        self.findings.sort_by_key(|finding| finding.severity);
    }
}

impl Finding {
    pub(super) fn on(&mut self, node: &str) -> &mut Self {
        self.node = Some(node.to_owned());
        self
    }

    pub(super) fn of(&mut self, table: &QualifiedName) -> &mut Self {
        self.table = Some(table.plain());
        self
    }

    pub(super) fn mend(&mut self, remedy: impl Into<String>) -> &mut Self {
        self.remedy = Some(remedy.into());
        self
    }
}
