-- Direct mode: ids that both nodes draw from the same numbers. Each linked table that has such ids has a trigger that calls this.

-- Of tables with `ids = "mirror"`: an id is there, and the sequence goes on above it. By drawing from it, which two may do at
-- once: what is set could fall behind what another has drawn meanwhile. Only a long way is taken in one step, longer than
-- anybody goes in the moment between; one that stops at its end is left there.
CREATE FUNCTION pgtandem.go_past(sequence oid, id bigint) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    options record;
    reached bigint;
    called  boolean;
BEGIN
    EXECUTE pg_catalog.format('SELECT s.last_value, s.is_called FROM %s AS s', sequence::regclass) INTO reached, called;
    SELECT * INTO STRICT options FROM pg_catalog.pg_sequence AS s WHERE s.seqrelid = sequence;
    IF id < reached OR called AND id = reached OR options.seqincrement < 0 OR id > options.seqmax - options.seqincrement THEN
        RETURN;
    END IF;
    IF id - reached > 100000 * options.seqincrement THEN
        PERFORM pg_catalog.setval(sequence, id - (id - options.seqstart) % options.seqincrement);
    END IF;
    LOOP
        reached := pg_catalog.nextval(sequence);
        EXIT WHEN reached >= id;
    END LOOP;
END
$$;
