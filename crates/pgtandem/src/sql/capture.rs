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

/// How a table's changes are captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableCapture {
    pub id: i32,
    /// The key's columns, each with the operator that compares its values.
    pub key: Vec<(Ident, String)>,
    /// A column's text depends on what an application may have set and rarely does.
    pub spell: bool,
    /// All rows of an INSERT together. Not of a table that is partitioned: what is written to a partition goes past it.
    pub inserts_at_once: bool,
}

pub fn create_capture(table: &QualifiedName, capture: &TableCapture) -> Vec<String> {
    let TableCapture { id, key, spell, inserts_at_once } = capture;
    let same = key.iter().map(|(column, equals)| format!("OLD.{column} {equals} NEW.{column}"));
    let same = same.collect::<Vec<_>>().join(" AND ");
    let call = |function: &str, argument: &str| {
        let mut arguments = vec![id.to_string()];
        if *spell || !argument.is_empty() {
            arguments.push(argument.to_owned());
        }
        if *spell {
            arguments.push("spell".to_owned());
        }
        let arguments: Vec<_> = arguments.iter().map(|argument| Literal(argument).to_string()).collect();
        format!("EXECUTE FUNCTION pgtandem.{function}({})", list(arguments))
    };
    let [insert, update, update_key, delete, truncate] = TRIGGERS.map(Ident::from);
    let each_row = call("capture", "");
    let of_inserts = match inserts_at_once {
        true => format!("REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT {}", call("capture_inserted", &same)),
        false => format!("FOR EACH ROW {each_row}"),
    };
    vec![
        format!("CREATE TRIGGER {insert} AFTER INSERT ON {table} {of_inserts}"),
        format!("CREATE TRIGGER {update} AFTER UPDATE ON {table} FOR EACH ROW WHEN ({same}) {each_row}"),
        format!(
            "CREATE TRIGGER {update_key} AFTER UPDATE ON {table} FOR EACH ROW WHEN (NOT ({same})) {}",
            call("capture", "K")
        ),
        format!("CREATE TRIGGER {delete} AFTER DELETE ON {table} FOR EACH ROW {each_row}"),
        format!("CREATE TRIGGER {truncate} AFTER TRUNCATE ON {table} FOR EACH STATEMENT {each_row}"),
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

/// Opens a cursor named `name` over the outbox's transactions that the snapshot sees, of rows up to `drawn`, among those
/// from `next` on and those in `in_progress`, in the order of their last numbers; kept by the server until it is closed.
pub fn open_backlog(name: &str, next: u64, in_progress: &[u64], snapshot: &str, drawn: u64) -> String {
    let in_progress: Vec<String> = in_progress.iter().map(u64::to_string).collect();
    let in_progress = format!("{{{}}}", in_progress.join(","));
    format!(
        "DECLARE {name} NO SCROLL CURSOR WITH HOLD FOR \
         SELECT o.xid, pg_catalog.max(o.id), {MICROS}, pg_catalog.count(*), pg_catalog.count(*) OVER () \
         FROM pgtandem.outbox o \
         WHERE (o.xid >= '{next}'::xid8 OR o.xid = ANY ({in_progress}::xid8[])) \
         AND pg_catalog.pg_visible_in_snapshot(o.xid, {snapshot}::pg_snapshot) AND o.id <= {drawn} \
         GROUP BY o.xid ORDER BY 2",
        name = Ident::from(name),
        in_progress = Literal(&in_progress),
        snapshot = Literal(snapshot),
        MICROS = LAST_WRITTEN_MICROS,
    )
}

/// When a transaction in the outbox wrote its last row, in microseconds since 2000-01-01.
pub const LAST_WRITTEN_MICROS: &str =
    "(extract(epoch FROM pg_catalog.max(o.at) - timestamptz '2000-01-01 00:00:00+00') * 1000000)::int8";
