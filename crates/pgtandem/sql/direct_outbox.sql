-- Direct mode: the outbox, where an INSERT comes at once. What goes to the peer at COMMIT stays in the outbox for moments, so that
-- what it takes to write, read and remove it is what an application waits for.

-- The rows that one INSERT has written stand together: up to 20,000 in one row of the outbox, more or large ones by the megabyte.
-- They have one number: none of them is of the key of another, so they need no order.
ALTER TABLE pgtandem.outbox_0 ADD COLUMN new_rows text[];
ALTER TABLE pgtandem.outbox_1 ADD COLUMN new_rows text[];
ALTER TABLE pgtandem.outbox_2 ADD COLUMN new_rows text[];
-- Compressing them would take longer than writing them.
ALTER TABLE pgtandem.outbox_0 ALTER new_rows SET STORAGE EXTERNAL;
ALTER TABLE pgtandem.outbox_1 ALTER new_rows SET STORAGE EXTERNAL;
ALTER TABLE pgtandem.outbox_2 ALTER new_rows SET STORAGE EXTERNAL;
-- Whether the row is its transaction's first since those before it were collected for the peer: of that one a trigger takes
-- notice. Worked out here, because a trigger's condition would be read anew from the catalog with each row.
ALTER TABLE pgtandem.outbox_0 ADD COLUMN is_first boolean DEFAULT CASE
    WHEN pg_catalog.current_setting('pgtandem.transaction', true) = pg_catalog.pg_current_xact_id()::text THEN false
    ELSE pg_catalog.set_config('pgtandem.transaction', pg_catalog.pg_current_xact_id()::text, true) IS NOT NULL END;
ALTER TABLE pgtandem.outbox_1 ADD COLUMN is_first boolean DEFAULT CASE
    WHEN pg_catalog.current_setting('pgtandem.transaction', true) = pg_catalog.pg_current_xact_id()::text THEN false
    ELSE pg_catalog.set_config('pgtandem.transaction', pg_catalog.pg_current_xact_id()::text, true) IS NOT NULL END;
ALTER TABLE pgtandem.outbox_2 ADD COLUMN is_first boolean DEFAULT CASE
    WHEN pg_catalog.current_setting('pgtandem.transaction', true) = pg_catalog.pg_current_xact_id()::text THEN false
    ELSE pg_catalog.set_config('pgtandem.transaction', pg_catalog.pg_current_xact_id()::text, true) IS NOT NULL END;
CREATE VIEW pgtandem.outbox_stored AS
    SELECT * FROM pgtandem.outbox_0 UNION ALL SELECT * FROM pgtandem.outbox_1 UNION ALL SELECT * FROM pgtandem.outbox_2;
CREATE OR REPLACE VIEW pgtandem.outbox AS
    SELECT o.id, o.xid, o.at, o.table_id, o.relid, o.op, o.old_row, o.new_row FROM pgtandem.outbox_stored AS o
        WHERE o.new_rows IS NULL
    UNION ALL
    SELECT o.id, o.xid, o.at, o.table_id, o.relid, o.op, NULL, r.new_row FROM pgtandem.outbox_stored AS o
        CROSS JOIN LATERAL pg_catalog.unnest(o.new_rows) AS r (new_row) WHERE o.new_rows IS NOT NULL;

-- Rows of the outbox go again at once: deleted ones are to be removed.
ALTER TABLE pgtandem.outbox_0 SET (autovacuum_enabled = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE pgtandem.outbox_1 SET (autovacuum_enabled = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE pgtandem.outbox_2 SET (autovacuum_enabled = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Settings on which the text of a row depends, for the rest of the transaction: DateStyle, IntervalStyle, TimeZone,
-- extra_float_digits, bytea_output; and for texts that depend on what is rarely set, lc_monetary and search_path. Returns
-- what they were.
CREATE FUNCTION pgtandem.set_spelling(spelling text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    names  pg_catalog.text[] := '{DateStyle,IntervalStyle,TimeZone,extra_float_digits,bytea_output,lc_monetary,search_path}';
    before pg_catalog.text[] := '{}';
BEGIN
    FOR i IN 1 .. pg_catalog.cardinality(spelling) LOOP
        before[i] := pg_catalog.current_setting(names[i]);
        spelling[i] := pg_catalog.set_config(names[i], spelling[i], true);
    END LOOP;
    RETURN before;
END
$$;

-- As `capture`, but for all rows of one INSERT (`inserted`) at once. That is behind everything that triggers for single rows
-- do: where one has written to linked tables, the rows are taken as they are now. Arguments: the table's id; how `old` and
-- `new` have the same key; 'spell'.
CREATE FUNCTION pgtandem.capture_inserted() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    of_table integer := TG_ARGV[0]::integer;
    number   bigint;
    leaf     bigint;
    rows     pg_catalog.text[];
    total    integer := 0;
    before   pg_catalog.text[];
    single   pg_catalog.text := pg_catalog.current_setting('pgtandem.single', true);
    ignored  pg_catalog.text;
BEGIN
    -- One row, and nothing before it: the short way, as quickly as can be (direct_single.sql).
    IF single OPERATOR(pg_catalog.=) 'open' THEN
        INSERT INTO pgtandem.single (token, id, xid, table_id, relid, op, new_row)
            SELECT pg_catalog.set_config('pgtandem.single', pg_catalog.gen_random_uuid()::pg_catalog.text, true)::pg_catalog.uuid,
                   pg_catalog.nextval('pgtandem.outbox_id'), pg_catalog.pg_current_xact_id(), TG_ARGV[0]::integer, TG_RELID, 'I', (i.*)::pg_catalog.text
            FROM inserted AS i
            WHERE NOT EXISTS (SELECT FROM inserted OFFSET 1)
              AND pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1 AND TG_NARGS OPERATOR(pg_catalog.<) 3
              AND coalesce(pg_catalog.current_setting('pgtandem.nested', true), '') OPERATOR(pg_catalog.=) ''
              AND coalesce(pg_catalog.current_setting('pgtandem.delivery', true), '') OPERATOR(pg_catalog.=) ''
              AND pg_catalog.left(pg_catalog.current_setting('DateStyle'), 3) OPERATOR(pg_catalog.=) 'ISO'
              AND pg_catalog.current_setting('TimeZone') OPERATOR(pg_catalog.=) ANY ('{UTC,Etc/UTC,GMT}'::pg_catalog.text[])
              AND pg_catalog.current_setting('IntervalStyle') OPERATOR(pg_catalog.=) 'postgres'
              AND pg_catalog.current_setting('bytea_output') OPERATOR(pg_catalog.=) 'hex'
              AND pg_catalog.left(pg_catalog.current_setting('extra_float_digits'), 1) OPERATOR(pg_catalog.>) '0';
        IF FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    IF pg_catalog.current_setting('pgtandem.delivery', true) OPERATOR(pg_catalog.<>) '' THEN
        IF pg_catalog.current_setting('pgtandem.delivery', true) OPERATOR(pg_catalog.=)
            (SELECT node.secret::pg_catalog.text FROM pgtandem.node) THEN
            RETURN NULL;
        END IF;
    END IF;
    IF single OPERATOR(pg_catalog.<>) ALL ('{"",closed}'::pg_catalog.text[]) THEN
        PERFORM pgtandem.end_single(single);
    END IF;
    IF TG_NARGS OPERATOR(pg_catalog.=) 3 THEN
        before := pgtandem.set_spelling('{ISO,postgres,UTC,3,hex,C,""}');
    ELSIF NOT (pg_catalog.left(pg_catalog.current_setting('DateStyle'), 3) OPERATOR(pg_catalog.=) 'ISO'
        AND pg_catalog.current_setting('TimeZone') OPERATOR(pg_catalog.=) ANY ('{UTC,Etc/UTC,GMT}'::pg_catalog.text[])
        AND pg_catalog.current_setting('IntervalStyle') OPERATOR(pg_catalog.=) 'postgres'
        AND pg_catalog.current_setting('bytea_output') OPERATOR(pg_catalog.=) 'hex'
        AND pg_catalog.left(pg_catalog.current_setting('extra_float_digits'), 1) OPERATOR(pg_catalog.>) '0') THEN
        before := pgtandem.set_spelling('{ISO,postgres,UTC,3,hex}');
    END IF;
    number := pg_catalog.nextval('pgtandem.outbox_id');
    leaf := (number OPERATOR(pg_catalog.>>) 32) OPERATOR(pg_catalog.%) 3;
    IF pg_catalog.current_setting('pgtandem.nested', true) OPERATOR(pg_catalog.=) 'yes' THEN
        EXECUTE pg_catalog.format('INSERT INTO pgtandem.outbox_%s SELECT $1, pg_catalog.pg_current_xact_id(),
            pg_catalog.clock_timestamp(), $2, $3, ''I'', NULL, (new.*)::pg_catalog.text
            FROM inserted AS old JOIN %s AS new ON %s', leaf, TG_RELID::pg_catalog.regclass, TG_ARGV[1])
            USING number, of_table, TG_RELID;
        IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1 THEN
            ignored := pg_catalog.set_config('pgtandem.nested', '', true);
        END IF;
    ELSE
        -- Rows are counted and measured, so that no array gets too large to be made.
        SELECT pg_catalog.array_agg(r.t) FILTER (WHERE pg_catalog.octet_length(r.t) OPERATOR(pg_catalog.<) 5000), pg_catalog.count(*)
            INTO rows, total FROM (SELECT (i.*)::pg_catalog.text AS t FROM inserted AS i LIMIT 20001) AS r;
    END IF;
    IF total OPERATOR(pg_catalog.=) 0 THEN
        -- No row was written, or all is done.
    ELSIF total OPERATOR(pg_catalog.>) 20000 OR coalesce(pg_catalog.cardinality(rows), 0) OPERATOR(pg_catalog.<) total THEN
        EXECUTE pg_catalog.format('INSERT INTO pgtandem.outbox_%s
            SELECT $1, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), $2, $3, ''I'', NULL, NULL,
                   pg_catalog.array_agg(p.t)
            FROM (SELECT r.t, pg_catalog.sum(pg_catalog.octet_length(r.t)) OVER (ROWS UNBOUNDED PRECEDING)
                      OPERATOR(pg_catalog./) 1000000 AS part
                  FROM (SELECT (i.*)::pg_catalog.text AS t FROM inserted AS i OFFSET 0) AS r) AS p
            GROUP BY p.part', leaf) USING number, of_table, TG_RELID;
    ELSIF leaf OPERATOR(pg_catalog.=) 0 THEN
        INSERT INTO pgtandem.outbox_0 VALUES (number, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), of_table,
            TG_RELID, 'I', NULL, CASE WHEN total OPERATOR(pg_catalog.=) 1 THEN rows[1] END,
            CASE WHEN total OPERATOR(pg_catalog.>) 1 THEN rows END);
    ELSIF leaf OPERATOR(pg_catalog.=) 1 THEN
        INSERT INTO pgtandem.outbox_1 VALUES (number, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), of_table,
            TG_RELID, 'I', NULL, CASE WHEN total OPERATOR(pg_catalog.=) 1 THEN rows[1] END,
            CASE WHEN total OPERATOR(pg_catalog.>) 1 THEN rows END);
    ELSE
        INSERT INTO pgtandem.outbox_2 VALUES (number, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(), of_table,
            TG_RELID, 'I', NULL, CASE WHEN total OPERATOR(pg_catalog.=) 1 THEN rows[1] END,
            CASE WHEN total OPERATOR(pg_catalog.>) 1 THEN rows END);
    END IF;
    IF before IS NOT NULL THEN
        before := pgtandem.set_spelling(before);
    END IF;
    IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.>) 1 THEN
        ignored := pg_catalog.set_config('pgtandem.nested', 'yes', true);
    END IF;
    RETURN NULL;
END
$$;

