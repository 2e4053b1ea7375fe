//! What pgtandem keeps on a node: the schema `pgtandem` and its rows.
//!
//! One file per table or two; each function runs on a session or inside a transaction alike.

mod decision;
mod direct;
mod dirty;
mod epoch;
mod held;
mod lock;
mod merge;
mod nodes;
mod outbox;
mod pulse;
mod rejoin;
mod renumbered;
mod restore;
mod tables;

pub use decision::{
    Contender, Decision, DecisionFilter, MERGE, MergeDecision, REPAIR, copy_decisions, count_decisions,
    count_merge_decisions, insert_merge_decisions, list_decisions, list_merge_decisions, prune_decisions,
    set_decisions_undone, set_undone,
};
pub use direct::{DirectFacts, DirectTableFacts, DirectView, direct_sql, direct_view, install_direct, read_direct};
pub use dirty::{
    DirtyKey, LeftBehind, Noted, add_dirty_keys, count_dirty_keys, forget_left_behind, leave_behind, note_delivery,
    read_dirty_keys, read_left_behind,
};
pub use epoch::{Epoch, read_epoch, take_epoch};
pub use held::{BEFORE_ALL, Held, delete_held, delete_held_of_table, insert_held, list_held, list_held_keys};
pub use lock::{CHANGED, CHANNEL, LOCK_KEY, YIELD, lock, notify_changed, take_lock, try_lock, try_lock_for, unlock};
pub use merge::{
    MergeRow, MergedRow, MergedRows, PackedRows, confirm_merges, delete_merge, insert_merged_rows, keep_merged_rows,
    list_merges, note_merged, read_merged_rows,
};
pub use nodes::{
    NewNode, NodeRow, OtherVersion, Peer, insert_peer, is_on_its_timeline, is_where_it_was_linked, read_last_number,
    read_node, read_peers, set_left, set_slot_count, slot_name,
};
pub use outbox::{
    OutboxView, go_on_above, install_outbox, outbox_sql, outbox_view, read_acknowledged, read_captured, record_read,
};
pub use pulse::{Sight, is_set_back, read_sight, write_pulses};
pub use rejoin::{begin_anew, forget_positions_of, uncaptured};
pub use renumbered::{Renumbered, Why, delete_renumbered, insert_renumbered, list_renumbered};
pub use restore::{
    Restore, RestoreKind, delete_restore, list_restore, read_restore, replace_restore, save_restore, set_restore_after,
};
pub use tables::{
    LinkedTable, PausedBy, TableState, delete_linked_table, insert_linked_table, read_last_table_id,
    read_linked_tables, renamed_columns, set_columns, set_linking, set_live, set_paused, set_policy,
    set_start_position,
};

use tokio_postgres::{Error, GenericClient};

/// The version of `schema.sql`, kept in `pgtandem.node.schema_version`.
pub const SCHEMA_VERSION: i32 = 7;

/// The publication's name on every node.
pub const PUBLICATION: &str = "pgtandem";

/// What a hub's temporary slots are called, with their session's number behind it.
pub const BACKLOG_SLOT: &str = "pgtandem_backlog_";

/// What is found where the schema `pgtandem` should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Installed {
    No,
    Yes,
    /// There is a schema of this name, but it is not ours.
    Foreign,
}

pub async fn is_installed(client: &impl GenericClient) -> Result<Installed, Error> {
    const QUERY: &str = "SELECT pg_catalog.to_regnamespace('pgtandem') IS NOT NULL,
                                pg_catalog.to_regclass('pgtandem.node') IS NOT NULL
                                AND pg_catalog.to_regclass('pgtandem.linked_table') IS NOT NULL";
    let row = client.query_one(QUERY, &[]).await?;
    Ok(match (row.get(0), row.get(1)) {
        (_, true) => Installed::Yes,
        (true, false) => Installed::Foreign,
        (false, false) => Installed::No,
    })
}

/// The text that makes the schema.
pub const SCHEMA_SQL: &str = include_str!("../../sql/schema.sql");

/// Makes the schema and says who this node is. To be run in a transaction.
pub async fn install(client: &impl GenericClient, node: &NewNode) -> Result<(), Error> {
    client.batch_execute(SCHEMA_SQL).await?;
    nodes::insert_node(client, node).await
}
