//! Statements about whole tables.

use super::{Ident, QualifiedName, list};

/// `identity`: what stands after REPLICA IDENTITY.
pub fn alter_replica_identity(table: &QualifiedName, identity: &str) -> String {
    format!("ALTER TABLE {table} REPLICA IDENTITY {identity}")
}

/// Changes of partitions are published as changes of the table they are partitions of. `generated`: stored generated
/// columns are published as well, of which only servers from 18 on have heard.
pub fn create_publication<'a>(
    name: &Ident,
    tables: impl IntoIterator<Item = &'a QualifiedName>,
    generated: bool,
) -> String {
    let tables = list(tables);
    let tables = if tables.is_empty() { String::new() } else { format!(" FOR TABLE {tables}") };
    let generated = if generated { ", publish_generated_columns = stored" } else { "" };
    format!("CREATE PUBLICATION {name}{tables} WITH (publish_via_partition_root = true{generated})")
}

pub fn disable_trigger(table: &QualifiedName, trigger: &Ident) -> String {
    format!("ALTER TABLE {table} DISABLE TRIGGER {trigger}")
}

/// As `pg_trigger.tgenabled` has it.
pub fn enable_trigger(table: &QualifiedName, trigger: &Ident, firing: &str) -> String {
    let how = match firing {
        "A" => "ENABLE ALWAYS",
        "R" => "ENABLE REPLICA",
        "D" => "DISABLE",
        _ => "ENABLE",
    };
    format!("ALTER TABLE {table} {how} TRIGGER {trigger}")
}

pub fn add_to_publication<'a>(name: &Ident, tables: impl IntoIterator<Item = &'a QualifiedName>) -> String {
    format!("ALTER PUBLICATION {name} ADD TABLE {}", list(tables))
}

pub fn drop_from_publication(name: &Ident, table: &QualifiedName) -> String {
    format!("ALTER PUBLICATION {name} DROP TABLE {table}")
}

pub fn lock_table(table: &QualifiedName, mode: &str) -> String {
    format!("LOCK TABLE {table} IN {mode} MODE")
}
