//! Triggers that write a table's changes into the outbox.

use super::{Ident, Literal, QualifiedName, list};

/// They fire before the application's, in the order of names: what those change in turn comes behind.
const TRIGGERS: [&str; 5] =
    ["0_pgtandem_insert", "0_pgtandem_update", "0_pgtandem_update_key", "0_pgtandem_delete", "0_pgtandem_truncate"];

/// Fires for what is delivered, too.
const MIRROR: &str = "9_pgtandem_mirror";

/// From now on whatever is inserted moves the sequences past it: `columns`, each with its sequence's oid.
pub fn create_mirror(table: &QualifiedName, id: i32, columns: &[(Ident, u32)]) -> Vec<String> {
    // Of each row, first in the fastest way that there is to see that nothing is to be done.
    let steps = columns.iter().map(|(column, sequence)| {
        format!(
            "IF NEW.{column} OPERATOR(pg_catalog.>) coalesce(pg_catalog.pg_sequence_last_value({sequence}), -1) THEN
        PERFORM pgtandem.go_past({sequence}, NEW.{column}::pg_catalog.int8);
    END IF;"
        )
    });
    let trigger = Ident::from(MIRROR);
    vec![
        format!(
            "CREATE OR REPLACE FUNCTION pgtandem.mirror_{id}() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    {}
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    -- A sequence that is gone must not keep the application from inserting.
    RETURN NULL;
END
$$",
            steps.collect::<Vec<_>>().join("\n    ")
        ),
        format!("REVOKE ALL ON FUNCTION pgtandem.mirror_{id}() FROM PUBLIC"),
        format!(
            "CREATE TRIGGER {trigger} AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION pgtandem.mirror_{id}()"
        ),
        format!("ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}"),
    ]
}

pub fn drop_mirror(table: &QualifiedName, id: i32) -> Vec<String> {
    vec![
        format!("DROP TRIGGER IF EXISTS {} ON {table}", Ident::from(MIRROR)),
        format!("DROP FUNCTION IF EXISTS pgtandem.mirror_{id}()"),
    ]
}

/// `key`: the key's columns, each with the operator that compares its values. `spell`: a column's text depends on what
/// an application may have set and rarely does.
pub fn create_capture(table: &QualifiedName, id: i32, key: &[(Ident, String)], spell: bool) -> Vec<String> {
    let same = key.iter().map(|(column, equals)| format!("OLD.{column} {equals} NEW.{column}"));
    let same = same.collect::<Vec<_>>().join(" AND ");
    let call = |update: &str| {
        let mut arguments = vec![id.to_string()];
        if spell || !update.is_empty() {
            arguments.push(update.to_owned());
        }
        if spell {
            arguments.push("spell".to_owned());
        }
        let arguments: Vec<_> = arguments.iter().map(|argument| Literal(argument).to_string()).collect();
        format!("EXECUTE FUNCTION pgtandem.capture({})", list(arguments))
    };
    let [insert, update, update_key, delete, truncate] = TRIGGERS.map(Ident::from);
    vec![
        format!("CREATE TRIGGER {insert} AFTER INSERT ON {table} FOR EACH ROW {}", call("")),
        format!("CREATE TRIGGER {update} AFTER UPDATE ON {table} FOR EACH ROW WHEN ({same}) {}", call("")),
        format!("CREATE TRIGGER {update_key} AFTER UPDATE ON {table} FOR EACH ROW WHEN (NOT ({same})) {}", call("K")),
        format!("CREATE TRIGGER {delete} AFTER DELETE ON {table} FOR EACH ROW {}", call("")),
        format!("CREATE TRIGGER {truncate} AFTER TRUNCATE ON {table} FOR EACH STATEMENT {}", call("")),
    ]
}

pub fn drop_capture(table: &QualifiedName) -> Vec<String> {
    TRIGGERS
        .iter()
        .chain([&MIRROR])
        .map(|name| format!("DROP TRIGGER IF EXISTS {} ON {table}", Ident::from(*name)))
        .collect()
}

/// Empties one of the outbox's tables, unless it holds a row that the snapshot does not see or whose number is larger.
/// Waits for the lock no longer than `patience`.
pub fn empty_outbox(table: i64, snapshot: &str, drawn: u64, patience: &str) -> String {
    let name = QualifiedName::new("pgtandem", format!("outbox_{table}"));
    let seen = format!("pg_catalog.pg_visible_in_snapshot(o.xid, {}) AND o.id <= {drawn}", Literal(snapshot));
    format!(
        "BEGIN; SET LOCAL lock_timeout = {}; LOCK TABLE {name} IN ACCESS EXCLUSIVE MODE; DO $$ BEGIN \
         IF NOT EXISTS (SELECT FROM {name} o WHERE NOT ({seen})) THEN TRUNCATE {name}; END IF; END $$; COMMIT",
        Literal(patience)
    )
}
