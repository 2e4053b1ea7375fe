    -- Direct mode, in pgtandem.capture: the first change of a transaction may go the short way (direct_single.sql).
    DECLARE
        single pg_catalog.text := pg_catalog.current_setting('pgtandem.single', true);
    BEGIN
        IF single OPERATOR(pg_catalog.=) 'open' AND TG_OP OPERATOR(pg_catalog.=) ANY ('{UPDATE,DELETE}'::pg_catalog.text[])
            AND pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1 THEN
            INSERT INTO pgtandem.single (token, id, xid, table_id, relid, op, old_row, new_row)
                VALUES (pg_catalog.set_config('pgtandem.single', pg_catalog.gen_random_uuid()::pg_catalog.text, true)::pg_catalog.uuid,
                    pg_catalog.nextval('pgtandem.outbox_id'), pg_catalog.pg_current_xact_id(), TG_ARGV[0]::integer, TG_RELID, op, old_row, new_row);
            RETURN NULL;
        ELSIF single OPERATOR(pg_catalog.<>) ALL ('{"",closed}'::pg_catalog.text[]) THEN
            PERFORM pgtandem.end_single(single);
        END IF;
    END;
