-- Direct mode: how a transaction of the peer is written here. What is particular to a table is made in `sql/direct.rs`.

-- What comes first in every arrival: the transaction is known for ours, and its tables may be written.
CREATE FUNCTION pgtandem.begin_arrival(changed integer[]) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    found record;
BEGIN
    SELECT pg_catalog.set_config('pgtandem.delivery', n.secret::text, true),
           EXISTS (SELECT FROM pgtandem.linked_table AS l
                   WHERE l.id = ANY (changed) AND (l.state <> 'live' OR l.paused_by IS NOT NULL)) AS is_paused,
           EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind = 'rejoin') AS is_brought_back
        INTO found FROM pgtandem.node AS n;
    IF found.is_paused THEN
        PERFORM pgtandem.refuse('PT004', 'a table is paused');
    ELSIF found.is_brought_back THEN
        PERFORM pgtandem.refuse('PT004', 'this node is being brought back');
    END IF;
    RETURN true;
END
$$;

-- What comes last, the rows being locked. `acked`: what its sender has committed before, so that its receipt can go.
CREATE FUNCTION pgtandem.end_arrival(of_token uuid, of_xid xid8, acked uuid, changed integer[], of_tables integer[], of_ops text,
    of_befores text[], of_olds text[], of_news text[]) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF acked IS NOT NULL THEN
        DELETE FROM pgtandem.receipt AS r WHERE r.token = acked AND NOT r.refused;
    END IF;
    INSERT INTO pgtandem.receipt (token, sender_xid, tables, ops, befores, olds, news)
        SELECT of_token, of_xid, of_tables, of_ops, of_befores, of_olds, of_news
        WHERE NOT EXISTS (SELECT FROM pgtandem.held AS h WHERE h.table_id = ANY (changed));
    IF NOT FOUND THEN
        PERFORM pgtandem.refuse('PT004', 'rows are held here');
    END IF;
    RETURN true;
END
$$;

-- Called by the peer: writes one of its transactions, whole or not at all. `ops`: one letter for each change. Answers
-- 'landed', or why not. What changes rows of one table only comes to that table's `land_…`, which does the same.
CREATE FUNCTION pgtandem.arrive(token uuid, sender_xid xid8, acked uuid, tables integer[], ops text, olds text[], news text[])
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- A letter of a long text is found by counting.
    letters text[] := pg_catalog.string_to_array(ops, NULL);
    total   integer := pg_catalog.length(ops);
    at      integer := 1;
    upto    integer;
    befores text[] := '{}';
    changed integer[] := ARRAY(SELECT DISTINCT t FROM pg_catalog.unnest(tables) AS t);
    part    text[];
    names   text;
    is_done boolean;
BEGIN
    BEGIN
        is_done := pgtandem.begin_arrival(changed);
        WHILE at <= total LOOP
            upto := at;
            IF letters[at] = 'T' THEN
                -- Tables that refer to each other can only be emptied together.
                WHILE letters[upto + 1] = 'T' LOOP
                    upto := upto + 1;
                END LOOP;
                SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', l.own_schema, l.own_name), ', ') INTO names
                FROM pgtandem.linked_table AS l WHERE l.id = ANY (tables[at:upto]);
                EXECUTE 'TRUNCATE ' || names;
                IF EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = ANY (tables[at:upto])) THEN
                    PERFORM pgtandem.refuse('PT004', 'changes of the table wait here');
                END IF;
                part := NULL;
            ELSE
                WHILE upto < total AND tables[upto + 1] = tables[at] AND letters[upto + 1] <> 'T' LOOP
                    upto := upto + 1;
                END LOOP;
                EXECUTE pg_catalog.format('SELECT pgtandem.arrive_%s($1, $2, $3)', tables[at]) INTO part
                    USING pg_catalog.substr(ops, at, upto - at + 1), olds[at:upto], news[at:upto];
            END IF;
            befores := befores || coalesce(part, pg_catalog.array_fill(NULL::text, ARRAY[upto - at + 1]));
            at := upto + 1;
        END LOOP;
        is_done := pgtandem.end_arrival(token, sender_xid, acked, changed, tables, ops, befores, olds, news);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        -- For take_along.
        PERFORM pg_catalog.set_config('pgtandem.refused', SQLSTATE, true);
        RETURN 'refused: ' || SQLERRM;
    END;
    RETURN 'landed';
END
$$;

