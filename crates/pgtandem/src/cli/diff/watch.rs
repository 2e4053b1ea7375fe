//! What happens while rows are compared: progress is shown, every row that differs is printed where that is wanted, and
//! how far it is is noted.

use super::bar::Bar;
use super::csv;
use super::resume::Resume;
use crate::cli::Failure;
use crate::cli::output::Lines;
use crate::compare::{Checkpoint, Found, Subject, Watch};

/// Rows that differ, as they are found: there may be more than fit into memory.
pub(super) enum Stream {
    Nothing,
    Keys(Lines),
    Csv(Lines),
}

impl Stream {
    pub fn none() -> Self {
        Self::Nothing
    }

    pub fn keys() -> Self {
        Self::Keys(Lines::new())
    }

    pub fn csv(nodes: &[String]) -> Self {
        let mut lines = Lines::new();
        lines.line(&csv::head(nodes));
        Self::Csv(lines)
    }

    fn flush(&mut self) {
        match self {
            Self::Nothing => {}
            Self::Keys(lines) | Self::Csv(lines) => lines.flush(),
        }
    }
}

pub(super) struct Watching<'a> {
    bar: Bar,
    table: String,
    columns: Vec<String>,
    nodes: &'a [String],
    stream: &'a mut Stream,
    resume: &'a mut Resume,
    /// The state could not be written.
    failure: Option<Failure>,
}

impl<'a> Watching<'a> {
    pub fn new(
        subject: &Subject,
        from: Option<&Checkpoint>,
        nodes: &'a [String],
        stream: &'a mut Stream,
        resume: &'a mut Resume,
    ) -> Self {
        Self {
            bar: Bar::new(subject, from.map_or(0, Checkpoint::rows_done)),
            table: subject.name.plain(),
            columns: subject.columns.iter().map(|name| name.as_str().to_owned()).collect(),
            nodes,
            stream,
            resume,
            failure: None,
        }
    }

    /// What went wrong meanwhile.
    pub fn end(self) -> Result<(), Failure> {
        self.stream.flush();
        self.failure.map_or(Ok(()), Err)
    }
}

impl Watch for Watching<'_> {
    fn rows(&mut self, done: u64) {
        self.bar.rows(done);
    }

    fn found(&mut self, found: &Found) {
        match self.stream {
            Stream::Nothing => {}
            Stream::Keys(lines) => lines.line(&csv::key(&found.key)),
            Stream::Csv(lines) => {
                for line in csv::lines(&self.table, &self.columns, self.nodes, found) {
                    lines.line(&line);
                }
            }
        }
    }

    fn checkpoint(&mut self, checkpoint: &Checkpoint) {
        // What a later run leaves out must have been said by this one.
        self.stream.flush();
        if let Err(failure) = self.resume.note(&self.table, checkpoint) {
            self.failure = Some(failure);
        }
    }

    fn wants_checkpoints(&self) -> bool {
        self.resume.is_wanted()
    }
}
