-- Trigger capture: how a row comes into the outbox. `-- {single}` stands for what direct mode has there besides (capture_single.sql).

-- Fires for every row of a linked table that is written, first of all triggers, and for TRUNCATE. Arguments: the table's
-- id; whether an update changes the key ('K'); whether a type's text depends on what applications rarely set ('spell').
-- Runs as its owner: applications need no right on this schema. Deliveries of ours say so, with the node's secret, where
-- they may not keep triggers from firing.
CREATE OR REPLACE FUNCTION pgtandem.capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    number   bigint;
    op       pg_catalog."char" := pg_catalog.left(TG_OP, 1)::pg_catalog."char";
    old_row  pg_catalog.text;
    new_row  pg_catalog.text;
    is_plain boolean;
    ignored  pg_catalog.text;
BEGIN
    IF pg_catalog.current_setting('pgtandem.delivery', true) OPERATOR(pg_catalog.<>) '' THEN
        IF pg_catalog.current_setting('pgtandem.delivery', true) OPERATOR(pg_catalog.=)
            (SELECT node.secret::pg_catalog.text FROM pgtandem.node) THEN
            RETURN NULL;
        END IF;
    END IF;
    -- In the middle of another statement: its rows may be captured later than what is done to them here.
    IF pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.>) 1 THEN
        ignored := pg_catalog.set_config('pgtandem.nested', 'yes', true);
    END IF;
    IF TG_LEVEL OPERATOR(pg_catalog.=) 'ROW' THEN
        is_plain := TG_NARGS OPERATOR(pg_catalog.<) 3
            AND pg_catalog.left(pg_catalog.current_setting('DateStyle'), 3) OPERATOR(pg_catalog.=) 'ISO'
            AND pg_catalog.current_setting('TimeZone') OPERATOR(pg_catalog.=) ANY ('{UTC,Etc/UTC,GMT}'::pg_catalog.text[])
            AND pg_catalog.current_setting('IntervalStyle') OPERATOR(pg_catalog.=) 'postgres'
            AND pg_catalog.current_setting('bytea_output') OPERATOR(pg_catalog.=) 'hex'
            AND pg_catalog.left(pg_catalog.current_setting('extra_float_digits'), 1) OPERATOR(pg_catalog.>) '0';
        IF TG_OP OPERATOR(pg_catalog.<>) 'DELETE' THEN
            IF is_plain THEN new_row := NEW::pg_catalog.text; ELSE new_row := pgtandem.spell(NEW); END IF;
        END IF;
        IF TG_ARGV[1] OPERATOR(pg_catalog.=) 'K' THEN
            op := 'K';
        END IF;
        IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' OR op OPERATOR(pg_catalog.=) 'K' THEN
            IF is_plain THEN old_row := OLD::pg_catalog.text; ELSE old_row := pgtandem.spell(OLD); END IF;
        END IF;
    END IF;
    -- {single}
    number := pg_catalog.nextval('pgtandem.outbox_id');
    CASE (number OPERATOR(pg_catalog.>>) 32) OPERATOR(pg_catalog.%) 3
        WHEN 0 THEN
            INSERT INTO pgtandem.outbox_0 VALUES (number, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(),
                TG_ARGV[0]::integer, TG_RELID, op, old_row, new_row);
        WHEN 1 THEN
            INSERT INTO pgtandem.outbox_1 VALUES (number, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(),
                TG_ARGV[0]::integer, TG_RELID, op, old_row, new_row);
        ELSE
            INSERT INTO pgtandem.outbox_2 VALUES (number, pg_catalog.pg_current_xact_id(), pg_catalog.clock_timestamp(),
                TG_ARGV[0]::integer, TG_RELID, op, old_row, new_row);
    END CASE;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION pgtandem.capture() FROM PUBLIC;
