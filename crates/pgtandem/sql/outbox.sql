-- Trigger capture: what a node has besides `schema.sql` when its changes are read from an outbox instead of its WAL.
-- That these objects are there is what makes it such a node.

-- Numbers the rows of the outbox. Drawn while the row's lock is held, so the numbers order the changes of one key; they
-- become visible in any order. Each 2^32 numbers the next table takes over: the hub jumps there to turn over a new leaf.
CREATE SEQUENCE pgtandem.outbox_id CACHE 1;

-- Counts reads of the outbox, and landings: their positions in this node's order of changes are this plus what had been
-- drawn of the outbox's numbers. The transactions in between have positions of their own, counted back from the later one:
-- for those that had drawn numbers since the earlier one there is room by that, for those that were open then by the 2^20.
CREATE SEQUENCE pgtandem.outbox_position START 1048576 INCREMENT 1048576 CACHE 1;

-- The changes of linked tables, each with its row as the type's output functions write it. Three tables take turns, and
-- one that is not needed any more is truncated: deleting rows would leave them to VACUUM, which an old open transaction
-- keeps from removing them. None is ever updated, so vacuuming and statistics are not needed.
CREATE TABLE pgtandem.outbox_0 (
    id       bigint NOT NULL,
    xid      xid8 NOT NULL,
    at       timestamptz NOT NULL,                      -- by the clock, when it was written
    table_id integer NOT NULL,
    relid    oid NOT NULL,                              -- whose columns the rows have: a partition's, if partitioned
    op       "char" NOT NULL,                           -- 'I', 'U', 'K' (an update of the key), 'D', 'T'
    old_row  text,                                      -- of 'K' and 'D'
    new_row  text                                       -- of 'I', 'U' and 'K'
) WITH (autovacuum_enabled = off);
CREATE INDEX ON pgtandem.outbox_0 (xid);
CREATE TABLE pgtandem.outbox_1 (LIKE pgtandem.outbox_0) WITH (autovacuum_enabled = off);
CREATE INDEX ON pgtandem.outbox_1 (xid);
CREATE TABLE pgtandem.outbox_2 (LIKE pgtandem.outbox_0) WITH (autovacuum_enabled = off);
CREATE INDEX ON pgtandem.outbox_2 (xid);
CREATE VIEW pgtandem.outbox AS
    SELECT * FROM pgtandem.outbox_0 UNION ALL SELECT * FROM pgtandem.outbox_1 UNION ALL SELECT * FROM pgtandem.outbox_2;

-- What the hub has read of the outbox: all that the snapshot sees, of numbers up to `drawn`. Kept as long as what it
-- bounds is: a transaction's position is counted from the first read or landing that sees it.
CREATE TABLE pgtandem.outbox_read (
    position pg_lsn PRIMARY KEY,
    snapshot pg_snapshot NOT NULL,
    drawn    bigint NOT NULL
);

-- Up to where nothing of this node's changes is needed any more.
CREATE TABLE pgtandem.outbox_acknowledged (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    position pg_lsn NOT NULL DEFAULT '0/0'
);
INSERT INTO pgtandem.outbox_acknowledged DEFAULT VALUES;

-- Landings are in the same order: what their snapshots see came before them. Where a delivery begins to delete, it takes
-- such a mark, too: a DELETE that finds no row locks nothing.
ALTER TABLE pgtandem.landing
    ADD COLUMN snapshot pg_snapshot,
    ADD COLUMN drawn    bigint,
    ADD COLUMN before   text;                           -- position, snapshot and drawn of the first mark

-- A moment in this node's order of changes. Whoever takes one waits for the other, so that of two the one with the larger
-- position began after the other had ended. A landing keeps the lock until it has committed; a read lets go at once.
CREATE FUNCTION pgtandem.mark(landing boolean, OUT at pg_lsn, OUT snapshot pg_snapshot, OUT drawn bigint)
LANGUAGE plpgsql AS $$
BEGIN
    IF landing THEN
        PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('pgtandem outbox', 0));
    ELSE
        PERFORM pg_catalog.pg_advisory_lock(pg_catalog.hashtextextended('pgtandem outbox', 0));
    END IF;
    -- A statement of its own, so that it sees what had committed when the lock was had. What it sees was drawn before.
    SELECT '0/0'::pg_catalog.pg_lsn OPERATOR(pg_catalog.+)
               (pg_catalog.nextval('pgtandem.outbox_position') OPERATOR(pg_catalog.+) o.last_value)::numeric,
           pg_catalog.pg_current_snapshot(), o.last_value
        INTO at, snapshot, drawn FROM pgtandem.outbox_id AS o;
    IF NOT landing THEN
        PERFORM pg_catalog.pg_advisory_unlock(pg_catalog.hashtextextended('pgtandem outbox', 0));
    END IF;
END
$$;

-- The mark of a read, in the transaction that records it. (Direct mode has its own.)
CREATE FUNCTION pgtandem.begin_read(OUT at pg_lsn, OUT snapshot pg_snapshot, OUT drawn bigint) LANGUAGE plpgsql AS $$
BEGIN
    SELECT m.at, m.snapshot, m.drawn INTO at, snapshot, drawn FROM pgtandem.mark(false) AS m;
END
$$;

-- The hub's next read. Looks for what the last read has not seen (transactions from `next` on, and those in `in_progress`)
-- or a landing behind `passed` (null: anything will do), up to `looks` times, each before a pause of so many seconds:
-- waiting here costs both sides less than asking again, and ends sooner. Records the read if there is something in it, and
-- says which landing is the last one before it. All null: nothing new. Once this has committed, what the read saw and the
-- landings before it are on disk.
CREATE FUNCTION pgtandem.read_on(next xid8, in_progress xid8[], passed pg_lsn, looks integer, pause double precision,
    OUT recorded boolean, OUT at pg_lsn, OUT snapshot pg_snapshot, OUT drawn bigint, OUT landed pg_lsn)
LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        recorded := EXISTS (SELECT FROM pgtandem.outbox AS o
                            WHERE o.xid OPERATOR(pg_catalog.>=) next OR o.xid OPERATOR(pg_catalog.=) ANY (in_progress));
        EXIT WHEN recorded OR passed IS NULL;
        EXIT WHEN (SELECT l.position FROM pgtandem.landing AS l ORDER BY l.id DESC LIMIT 1)
            OPERATOR(pg_catalog.>) passed;
        PERFORM pg_catalog.pg_sleep(pause);
        looks := looks OPERATOR(pg_catalog.-) 1;
        IF looks OPERATOR(pg_catalog.<=) 0 THEN
            recorded := NULL;
            RETURN;
        END IF;
    END LOOP;
    SELECT b.at, b.snapshot, b.drawn INTO at, snapshot, drawn FROM pgtandem.begin_read() AS b;
    landed := (SELECT l.position FROM pgtandem.landing AS l ORDER BY l.id DESC LIMIT 1);
    -- Something may have come after the look.
    recorded := recorded OR EXISTS (SELECT FROM pgtandem.outbox AS o
        WHERE (o.xid OPERATOR(pg_catalog.>=) next OR o.xid OPERATOR(pg_catalog.=) ANY (in_progress))
          AND pg_catalog.pg_visible_in_snapshot(o.xid, snapshot));
    IF recorded THEN
        INSERT INTO pgtandem.outbox_read VALUES (at, snapshot, drawn);
    ELSE
        -- A landing that a crash takes back must not have been passed: now this commit waits for the disk.
        PERFORM pg_catalog.pg_logical_emit_message(true, 'pgtandem', '');
    END IF;
END
$$;

-- Where a delivery that deletes begins: kept for its landing.
CREATE FUNCTION pgtandem.mark_before() RETURNS pg_lsn LANGUAGE plpgsql AS $$
DECLARE
    begun record;
BEGIN
    SELECT * INTO begun FROM pgtandem.mark(false);
    PERFORM pg_catalog.set_config('pgtandem.before',
        pg_catalog.concat_ws(' ', begun.at, begun.snapshot, begun.drawn), true);
    RETURN begun.at;
END
$$;

-- As in schema.sql, but the mark is a setting of this transaction, which the triggers look at.
CREATE OR REPLACE FUNCTION pgtandem.sign_delivery(landing bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.set_config('pgtandem.delivery', (SELECT node.secret::text FROM pgtandem.node), true);
END
$$;

-- A row as text, whatever the application has set.
CREATE FUNCTION pgtandem.spell(row_of record) RETURNS text LANGUAGE plpgsql
SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET extra_float_digits = 3 SET bytea_output = 'hex'
SET TimeZone = 'UTC' SET lc_monetary = 'C' SET search_path = '' AS $$
BEGIN
    RETURN row_of::pg_catalog.text;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtandem FROM PUBLIC;
