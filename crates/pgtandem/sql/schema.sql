-- Everything pgtandem keeps on a node lives in this schema; beside it there are only one publication
-- and one logical replication slot. `pgtandem down` drops all three.

-- Holds what follows, and nothing else: no object of an application belongs in here.
CREATE SCHEMA pgtandem;
REVOKE ALL ON SCHEMA pgtandem FROM PUBLIC;
COMMENT ON SCHEMA pgtandem IS 'Installed by pgtandem, which keeps tables the same in several databases. `pgtandem down` removes it.';

-- Who this node is: exactly one row. A copy of the database (a restored backup, a clone, a promoted
-- standby) carries this row with it and is recognised by what does not fit: system_identifier, database_oid, the slot.
CREATE TABLE pgtandem.node (
    only_row          boolean NOT NULL DEFAULT true UNIQUE CHECK (only_row),
    number            smallint PRIMARY KEY CHECK (number BETWEEN 0 AND 63),  -- stable, the same on all nodes
    name              text NOT NULL,
    incarnation       uuid NOT NULL,                    -- new whenever the node joins a link
    system_identifier text NOT NULL,
    database_oid      oid NOT NULL,
    timeline          integer NOT NULL,                 -- of the WAL when the node was linked: promoted or restored, it has another
    slot              text NOT NULL,
    publication       text NOT NULL,
    secret            uuid NOT NULL,                    -- marks our own transactions in the WAL, so that nobody else can
    slot_count        smallint NOT NULL DEFAULT 4 CHECK (slot_count BETWEEN 1 AND 64),  -- id residues reserved for nodes
    schema_version    integer NOT NULL,
    installed_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);

-- All nodes of the link, this one included. Who has left stays listed: a number is never given again, because
-- landings and decisions tell nodes by it.
CREATE TABLE pgtandem.peer (
    number      smallint PRIMARY KEY,
    name        text NOT NULL,
    incarnation uuid NOT NULL,
    left_at     timestamptz
);
CREATE UNIQUE INDEX ON pgtandem.peer (name) WHERE left_at IS NULL;

-- The fence: every delivery holds this row FOR SHARE until it commits; a hub that takes over updates it,
-- so it waits for what its predecessor had begun and refuses what comes later.
CREATE TABLE pgtandem.epoch (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint NOT NULL DEFAULT 0,
    holder   text,
    taken_at timestamptz
);
INSERT INTO pgtandem.epoch DEFAULT VALUES;

-- The tables that are kept the same.
CREATE TABLE pgtandem.linked_table (
    id             integer PRIMARY KEY,                 -- the same on all nodes
    schema_name    text NOT NULL,                       -- with the table's name: what pgtandem calls it, the same on all nodes
    table_name     text NOT NULL,
    own_schema     text NOT NULL,                       -- what this node calls it
    own_name       text NOT NULL,
    own_columns    jsonb NOT NULL DEFAULT '{}',         -- columns that this node calls otherwise: its name for each
    relid          oid NOT NULL,                        -- tells a rename from a drop
    resolve        text NOT NULL,                       -- 'newest' or 'prefer:NODE'
    ids            text NOT NULL CHECK (ids IN ('interleave', 'mirror', 'keep')),
    columns        text[] NOT NULL,                     -- of this node's table when it was linked or last fitted its peers'; a later one must be on all nodes
    start_position pg_lsn NOT NULL,                     -- changes of this node that committed before it are in the copied rows and are not judged
    state          text NOT NULL CHECK (state IN ('linking', 'live')),  -- 'linking': `up` is at work
    paused_by      text CHECK (paused_by IN ('user', 'drift')),
    pause_reason   text,
    linked_at      timestamptz,
    UNIQUE (schema_name, table_name)
);

-- What has been delivered to this node, written in the delivery's own transaction: where it fell in this node's
-- order of changes, and up to which position of every node it reflects the changes.
CREATE TABLE pgtandem.landing (
    id           bigint PRIMARY KEY,
    epoch        bigint NOT NULL,
    position     pg_lsn NOT NULL,
    cover        pg_lsn[] NOT NULL,                     -- index = node number + 1
    acknowledged pg_lsn NOT NULL,                       -- this node's acknowledged position when the delivery was sent
    row_count    integer NOT NULL,
    wrote        bytea,                                 -- eight bytes for each key it wrote: tells after a crash what it may have overwritten
    landed_at    timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
ALTER TABLE pgtandem.landing ALTER COLUMN wrote SET STORAGE EXTERNAL;  -- hashes do not compress

-- Conflicts that were decided, each with the row that lost, so that it can be put back. Looked up before
-- a conflict is decided: a decision is made once.
CREATE TABLE pgtandem.decision (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_id        integer NOT NULL,
    key             jsonb NOT NULL,
    key_bytes       bytea NOT NULL,
    winner_node     smallint NOT NULL,
    winner_position pg_lsn NOT NULL,
    loser_node      smallint NOT NULL,
    loser_position  pg_lsn NOT NULL,
    winner_stamp    timestamptz NOT NULL,
    loser_stamp     timestamptz NOT NULL,
    kind            text NOT NULL,                      -- 'update/update', 'update/delete', 'insert/insert', 'truncate', 'key change', ...
    winner_row      jsonb,                              -- null: the row is deleted
    loser_row       jsonb,
    policy          text NOT NULL,
    why             text NOT NULL,
    decided_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    undone_at       timestamptz,                        -- when a person put the row that lost back
    UNIQUE (table_id, key_bytes, winner_node, winner_position, loser_node, loser_position)
);

-- Changes this node cannot take yet, stored whole, so that their source need not keep them: the table is paused,
-- the row is refused by a constraint, or the key waits for a person. An exception to the landing's cover.
CREATE TABLE pgtandem.held (
    table_id        integer NOT NULL,
    key_bytes       bytea NOT NULL,
    key             jsonb NOT NULL,
    source_node     smallint NOT NULL,
    source_position pg_lsn NOT NULL,
    stamp           timestamptz NOT NULL,
    stamp_node      smallint NOT NULL,
    row             jsonb,                              -- null: the key is to be deleted
    since           pg_lsn NOT NULL DEFAULT '0/0',      -- the landing that first held it, or that last swept what stood in its place
    cover           pg_lsn[] NOT NULL,                  -- what this node had seen of the key then; index = node number + 1
    reflects        pg_lsn[] NOT NULL DEFAULT '{}',     -- the cover of the delivery that stored the row
    partner_key     bytea,                              -- the other half of a key change
    reason          text NOT NULL,
    sqlstate        text,
    held_since      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    last_tried      timestamptz,
    released        pg_lsn,                             -- the landing that wrote the key after all; the record is deleted once nobody needs it
    half_keys       bytea[],                            -- the row is part of a key change: the other keys of it
    half_row        jsonb,                              -- and what the key becomes if one of these loses; null: it is to be deleted
    overwritten     pg_lsn,                             -- a landing that wrote something else over the row, if it was written on this node
    earlier         jsonb NOT NULL DEFAULT '[]',        -- the times it was held before that: since, until and cover of each
    PRIMARY KEY (table_id, key_bytes)
);

-- Rows of this node that were given other ids before a merge, in the order in which it was done.
CREATE TABLE pgtandem.renumbered (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_id      integer NOT NULL,
    old_id        text NOT NULL,
    new_id        text NOT NULL,
    why           text NOT NULL CHECK (why IN ('collision', 'joined')),  -- the old id is another row's on a peer; the new id is that of the same thing on a peer
    renumbered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
);
CREATE INDEX ON pgtandem.renumbered (table_id, id);

-- Merges of this node's tables that can still be undone.
CREATE TABLE pgtandem.merge (
    table_id     integer PRIMARY KEY,
    copied       bigint NOT NULL DEFAULT 0,             -- rows that were inserted here
    overwritten  bigint NOT NULL DEFAULT 0,             -- rows that were overwritten here, each with a decision that keeps it
    last_at      timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    confirmed_at timestamptz                            -- from then on it stays
);

-- Rows that a merge inserted here, as long as it can be undone: some thousands in one.
CREATE TABLE pgtandem.merged_rows (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_id integer NOT NULL,
    spelling jsonb NOT NULL,                            -- how the rows' hashes come about, and which columns are their key
    rows     bytea NOT NULL                             -- of each eight bytes of hash, which tells whether the row was changed since, and of each column of its key length (four bytes) and text
);
CREATE INDEX ON pgtandem.merged_rows (table_id, id);
ALTER TABLE pgtandem.merged_rows ALTER COLUMN rows SET STORAGE EXTERNAL;  -- hashes do not compress

-- What `up` changed on objects that are not ours, as it was before, for `down`.
CREATE TABLE pgtandem.restore (
    kind   text NOT NULL,                               -- 'sequence', 'replica identity', 'catalog' (fingerprint taken before `up`), 'copy' (ranges of a table already copied), 'rejoin' (of this node, not finished), 'renumber' (ids of a table mean the same on all nodes)
    object text NOT NULL,
    before jsonb NOT NULL,
    after  jsonb,
    PRIMARY KEY (kind, object)
);

-- Written about once a second by the hub at work, for `pgtandem status`.
CREATE TABLE pgtandem.hub_status (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch      bigint,
    holder     text,
    started_at timestamptz,
    seen_at    timestamptz,
    state      jsonb
) WITH (fillfactor = 50);

-- How often each node has been written to by hubs, as far as this one knows: of itself always, of a peer once that is on
-- the peer's disk. A node that knows less of itself than a peer does was set back: restored from a backup, say.
CREATE TABLE pgtandem.pulse (
    node smallint PRIMARY KEY,
    beat bigint NOT NULL
) WITH (fillfactor = 50);

-- The peer that was away for so long that its changes are not kept for it any more, only the keys that changed.
CREATE TABLE pgtandem.left_behind (
    node  smallint PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    -- Of three nodes or more, on the one that keeps the keys: up to which position of each node the peer has its changes,
    -- or their keys are here; of its own, up to which all others have them.
    cover pg_lsn[]
);

-- Those keys. When the peer returns they are settled, and this is emptied.
CREATE TABLE pgtandem.dirty_key (
    table_id   integer NOT NULL,
    key_bytes  bytea NOT NULL,                          -- empty: any key of the table
    changed_by smallint NOT NULL,                       -- one that is here, or the peer itself once it is back
    PRIMARY KEY (table_id, key_bytes, changed_by)
);

-- Leaves a mark by which capture knows the whole transaction as ours: here in the WAL.
CREATE FUNCTION pgtandem.sign_delivery(landing bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.pg_logical_emit_message(true, 'pgtandem',
        (SELECT pg_catalog.concat(node.secret, ' ', sign_delivery.landing) FROM pgtandem.node));
END
$$;

-- The first statement of every transaction of ours that writes to linked tables: refuses a hub that has been deposed
-- (and keeps others from taking over until this transaction ends), then signs the transaction. Landing 0 stands for rows
-- that `up` copies.
CREATE FUNCTION pgtandem.open_delivery(epoch bigint, landing bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    current pgtandem.epoch%ROWTYPE;
BEGIN
    SELECT * INTO STRICT current FROM pgtandem.epoch FOR SHARE;
    IF current.epoch OPERATOR(pg_catalog.<>) open_delivery.epoch THEN
        RAISE EXCEPTION USING
            ERRCODE = 'PT001',
            MESSAGE = pg_catalog.format('epoch %s is over: the epoch is %s now, held by %s',
                                        open_delivery.epoch, current.epoch, coalesce(current.holder, 'nobody')),
            HINT = 'Another pgtandem is at work for this link; this one must not deliver any more.';
    END IF;
    PERFORM pgtandem.sign_delivery(open_delivery.landing);
END
$$;

-- Raised where a delivery finds that what it wrote is not what is there, or that it must not write it.
CREATE FUNCTION pgtandem.refuse(state text, message text) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = refuse.state, MESSAGE = refuse.message;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtandem FROM PUBLIC;
