//! How a form of row is written on a target: its prepared statements.

use tokio_postgres::Statement;

use super::batch::Prepared;
use super::error::DeliverError;
use super::placement::Form;
use super::session::Target;
use super::target::TargetTable;
use crate::capture::ShapeId;
use crate::sql::{self, WrittenColumn};

impl Target {
    /// Prepares what is not prepared yet.
    pub(super) async fn prepare(&mut self, forms: &[Form]) -> Result<(), DeliverError> {
        for form in forms.iter().copied() {
            if self.forms.contains_key(&form) {
                continue;
            }
            let prepared = self.prepare_form(form).await?;
            self.forms.insert(form, prepared);
        }
        Ok(())
    }

    async fn prepare_form(&self, form: Form) -> Result<Prepared, DeliverError> {
        let (Form::Move(id) | Form::Delete(id) | Form::Upsert(id, _) | Form::Update(id, _) | Form::Insert(id, _)) =
            form;
        let table = self.tables.get(&id).ok_or(DeliverError::UnknownTable(id))?;
        match form {
            Form::Move(_) => self.prepare_move(table).await,
            Form::Delete(_) => self.prepare_delete(table).await,
            Form::Upsert(_, shape) => self.prepare_upsert(table, shape).await,
            Form::Update(_, shape) => {
                let update = |columns: &[WrittenColumn]| sql::counted_update(&table.name, columns);
                self.prepare_expecting(table, shape, update, Vec::new()).await
            }
            Form::Insert(_, shape) => {
                let copy = |columns: &[WrittenColumn]| {
                    let names: Vec<_> = columns.iter().map(|column| column.name.clone()).collect();
                    sql::copy_in(&table.name, &names, false)
                };
                // What a COPY may have to wait for shows before it, where it does no harm.
                self.prepare_expecting(table, shape, copy, vec![sql::lock_for_writing(&table.name)]).await
            }
        }
    }

    async fn prepare_all(&self, texts: Vec<String>) -> Result<Vec<Statement>, DeliverError> {
        let mut statements = Vec::new();
        for text in texts {
            statements.push(self.client.prepare(&text).await?);
        }
        Ok(statements)
    }

    async fn prepare_move(&self, table: &TargetTable) -> Result<Prepared, DeliverError> {
        let key = table.key_columns();
        let text = if key.iter().any(|column| column.is_fixed) {
            let columns: Vec<_> = table.columns.iter().map(|column| column.name.clone()).collect();
            sql::copy_rows(&table.name, &key, &columns)
        } else {
            sql::move_rows(&table.name, &key)
        };
        Ok(Prepared {
            statement: self.client.prepare(&text).await?,
            before: Vec::new(),
            after: Vec::new(),
            key: Vec::new(),
            parameter_of: Vec::new(),
            parameters: key.len() * 2,
        })
    }

    /// A foreign key that is enforced here might act on rows that nobody else knows of, in a transaction that capture
    /// takes for ours: such a row is not deleted.
    async fn prepare_delete(&self, table: &TargetTable) -> Result<Prepared, DeliverError> {
        let key = table.key_columns();
        let acting: Vec<_> = table.referrers.iter().filter(|referrer| referrer.acts_on_delete).collect();
        let lock = (!acting.is_empty()).then(|| sql::lock_rows(&table.name, &key));
        let refuse = acting.iter().map(|r| sql::refuse_referenced(&table.name, &key, &r.child, &r.columns));
        let before = lock.into_iter().chain(refuse).collect();
        let present = table.may_leave_out.then(|| sql::refuse_present(&table.name, &key));
        Ok(Prepared {
            statement: self.client.prepare(&sql::delete_found(&table.name, &key)).await?,
            before: self.prepare_all(before).await?,
            after: self.prepare_all(present.into_iter().collect()).await?,
            key: (0..key.len()).collect(),
            parameter_of: Vec::new(),
            parameters: key.len(),
        })
    }

    async fn prepare_expecting(
        &self,
        table: &TargetTable,
        shape: ShapeId,
        text: impl FnOnce(&[WrittenColumn]) -> String,
        before: Vec<String>,
    ) -> Result<Prepared, DeliverError> {
        let (parameter_of, columns) = self.written(table, shape);
        let statement = self.client.prepare(&text(&columns)).await?;
        Ok(Prepared {
            before: self.prepare_all(before).await?,
            after: Vec::new(),
            key: Vec::new(),
            parameter_of,
            // A COPY has none.
            parameters: statement.params().len(),
            statement,
        })
    }

    /// For each value of an image of `shape` which column it goes to, and the columns.
    fn written(&self, table: &TargetTable, shape: ShapeId) -> (Vec<Option<usize>>, Vec<WrittenColumn>) {
        let shape = self.shapes.get(shape);
        let written = table.written(&shape);
        let parameter_of =
            (0..shape.columns.len()).map(|at| written.iter().position(|(from, _)| *from == at)).collect();
        (parameter_of, written.into_iter().map(|(_, column)| column).collect())
    }

    async fn prepare_upsert(&self, table: &TargetTable, shape: ShapeId) -> Result<Prepared, DeliverError> {
        let (parameter_of, columns) = self.written(table, shape);
        let key = table.key_columns();
        let place = |name| columns.iter().position(|column| column.name == name);
        let upsert = if table.may_leave_out { sql::counted_upsert } else { sql::upsert };
        let unique =
            table.unchecked.iter().map(|(name, unique)| sql::refuse_duplicates(&table.name, &key, name, unique));
        let unique = unique.collect();
        Ok(Prepared {
            statement: self.client.prepare(&upsert(&table.name, &columns, table.key_is_spelled)).await?,
            before: Vec::new(),
            after: self.prepare_all(unique).await?,
            key: table.key.iter().filter_map(|name| place(name.clone())).collect(),
            parameter_of,
            parameters: columns.len(),
        })
    }
}
