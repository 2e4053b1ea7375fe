-- Direct mode: which keys have changes that wait in the outbox; and how these go along with later transactions, a few at a time,
-- where nobody can have anything to say about them but this node.
--
-- A transaction that may go along has a row 'q' in `sent`, from the commit that queued it on: it has a token for good, so it
-- does not matter how often it is sent and what becomes of the transactions that it goes along with. It is one that no hub has
-- read: reads and those who take along what waits exclude each other (`begin_read`), and a read leaves no 'q' behind. What a
-- read finds is settled with the peer, as what is in doubt.

-- What this node must say when it sends what waits, and what the peer must say here. A hub that reads changes the one there and
-- then the one here: what was sent before, and is still on its way, comes too late.
CREATE TABLE pgtandem.taking (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    own      uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    peer     uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    newest   bigint NOT NULL DEFAULT 0                  -- of the peer's sendings since then: what was sent before it comes too late, too
);
INSERT INTO pgtandem.taking DEFAULT VALUES;

-- Numbers what is sent here. Drawn by who holds the queue's lock: so a session that draws a larger one began when the one before was
-- over, here, which may have left something on its way.
CREATE SEQUENCE pgtandem.taking_number;

-- Until when nothing is taken along (milliseconds since 1970): somebody had a row locked there.
CREATE SEQUENCE pgtandem.taking_rests_until MINVALUE 0 START 0;

CREATE FUNCTION pgtandem.rest_taking(for_ms integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_catalog.setval('pgtandem.taking_rests_until', (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint + for_ms);
END
$$;

-- As in outbox.sql. Whoever takes along what waits holds the lock until its transaction is over, and only tries to get it; a read
-- waits for it, a COMMIT's time at most. Whoever only begins to wait takes no lock: so what the read finds is marked behind its
-- snapshot. Marking one more that it has not found does no harm: the peer is asked once more, and the next read has it.
CREATE OR REPLACE FUNCTION pgtandem.begin_read(OUT at pg_lsn, OUT snapshot pg_snapshot, OUT drawn bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('pgtandem queue', 0));
    SELECT m.at, m.snapshot, m.drawn INTO at, snapshot, drawn FROM pgtandem.mark(false) AS m;
    UPDATE pgtandem.sent AS s SET outcome = 'r' WHERE s.outcome IN ('q', 'w');
END
$$;

-- The keys of a transaction's changes wait for the hub. Of large ones it would take too long to say which.
CREATE FUNCTION pgtandem.enqueue(mine xid8) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part     record;
    related  integer[];
    is_reordered boolean;
    last     bigint;
    changes  bigint := 0;
    bytes    bigint := 0;
    is_small boolean := true;
BEGIN
    FOR part IN SELECT o.table_id, pg_catalog.sum(CASE WHEN o.new_rows IS NULL THEN 1 WHEN pg_catalog.pg_column_size(o.new_rows) > 100000
                           THEN 1001 ELSE pg_catalog.cardinality(o.new_rows) END) AS changes,
                       pg_catalog.bool_or(o.op = 'T') AS truncates, pg_catalog.bool_or(o.op IN ('D', 'K')) AS deletes,
                       pg_catalog.sum(coalesce(pg_catalog.octet_length(o.old_row), 0) + coalesce(pg_catalog.octet_length(o.new_row), 0)
                           + coalesce(pg_catalog.pg_column_size(o.new_rows), 0)) AS bytes,
                       pg_catalog.max(pg_catalog.max(o.id)) OVER () AS last_id
                FROM pgtandem.outbox_stored AS o WHERE o.xid = mine GROUP BY o.table_id LOOP
        last := part.last_id;
        SELECT t.related, t.is_partitioned AND pgtandem.is_reordered(mine, t.table_id) INTO related, is_reordered
            FROM pgtandem.direct_table AS t WHERE t.table_id = part.table_id;
        IF part.changes > 1000 OR part.truncates OR NOT FOUND OR is_reordered THEN
            INSERT INTO pgtandem.queued VALUES (part.table_id, NULL, mine, last);
            is_small := false;
            CONTINUE;
        END IF;
        changes := changes + part.changes;
        bytes := bytes + part.bytes;
        is_small := is_small AND NOT (part.deletes AND pg_catalog.cardinality(related) > 0);
        BEGIN
            EXECUTE pg_catalog.format('INSERT INTO pgtandem.queued SELECT DISTINCT o.table_id, k.key, o.xid, $2
                FROM pgtandem.outbox AS o, LATERAL (VALUES (pgtandem.key_%1$s(o.old_row)), (pgtandem.key_%1$s(o.new_row))) AS k (key)
                WHERE o.xid = $1 AND o.table_id = %1$s AND k.key IS NOT NULL', part.table_id) USING mine, last;
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO pgtandem.queued VALUES (part.table_id, NULL, mine, last);
            is_small := false;
        END;
    END LOOP;
    PERFORM pgtandem.may_go_along(mine, last, is_small AND changes <= 100 AND bytes <= 30000);
END
$$;

-- The transaction waits. If it is small, later ones may take it along; not while a hub is at work, which is quicker. `last`: the
-- number of its last row.
CREATE FUNCTION pgtandem.may_go_along(mine xid8, last bigint, is_small boolean) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    known   uuid := pgtandem.token_in(pg_catalog.current_setting('pgtandem.waits', true));
    token   uuid := pg_catalog.gen_random_uuid();
    ignored text;
BEGIN
    -- It comes in parts, which have no place among others; or it is in doubt.
    IF known IS NOT NULL THEN
        DELETE FROM pgtandem.sent AS s WHERE s.token = known AND s.outcome = 'q';
        RETURN;
    END IF;
    ignored := pg_catalog.set_config('pgtandem.waits', token::text, true);
    -- It says so every ten seconds at least.
    IF is_small AND NOT EXISTS (SELECT FROM pgtandem.hub_status AS h
                                WHERE h.seen_at > pg_catalog.clock_timestamp() - interval '15 s') THEN
        INSERT INTO pgtandem.sent (token, xid, last_id, outcome) VALUES (token, mine, last, 'q');
    END IF;
END
$$;

-- Whether the transaction changes a key of which an earlier change waits here, or a table tied to one where something does;
-- those transactions apart.
CREATE FUNCTION pgtandem.must_wait(mine xid8, tables integer[], apart xid8[] DEFAULT '{}') RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    part  integer;
    found boolean;
BEGIN
    IF EXISTS (SELECT FROM pgtandem.queued AS q, pgtandem.direct_table AS t
               WHERE t.table_id = ANY (tables) AND q.table_id = ANY (t.related) AND q.xid <> ALL (apart)) THEN
        RETURN true;
    END IF;
    FOREACH part IN ARRAY tables LOOP
        IF NOT EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = part) THEN
            CONTINUE;
        END IF;
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = %1$s AND q.key IS NULL AND q.xid <> ALL ($2))
            OR EXISTS (SELECT FROM pgtandem.outbox AS o WHERE o.xid = $1 AND o.table_id = %1$s AND o.op = ''T'')
            OR EXISTS (SELECT FROM pgtandem.outbox AS o,
                       LATERAL (VALUES (pgtandem.key_%1$s(o.old_row)), (pgtandem.key_%1$s(o.new_row))) AS k (key), pgtandem.queued AS q
                       WHERE o.xid = $1 AND o.table_id = %1$s AND q.table_id = %1$s AND q.key = k.key AND q.xid <> ALL ($2))', part)
            INTO found USING mine, apart;
        IF found THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- Whether a queued transaction has to wait for one before it that is not among `taken`: of one of its keys, or in a table
-- that foreign keys tie to one of its own.
CREATE FUNCTION pgtandem.is_behind(of_xid xid8, of_last bigint, tables integer[], taken xid8[]) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM pgtandem.queued AS m JOIN pgtandem.queued AS e ON e.table_id = m.table_id AND e.key = m.key
                   WHERE m.table_id = ANY (tables) AND m.last_id = of_last AND m.xid = of_xid
                     AND e.last_id < of_last AND e.xid <> ALL (taken))
        OR EXISTS (SELECT FROM pgtandem.queued AS e WHERE e.table_id = ANY (tables) AND e.key IS NULL
                   AND e.last_id < of_last AND e.xid <> ALL (taken))
        OR EXISTS (SELECT FROM pgtandem.direct_table AS t JOIN pgtandem.queued AS e ON e.table_id = ANY (t.related)
                   WHERE t.table_id = ANY (tables) AND e.last_id < of_last AND e.xid <> ALL (taken));
END
$$;

-- What goes along with a transaction: the oldest that wait, whole and in order, about twenty changes. No tokens: nothing. `is_free`:
-- it does not wait for more than these. Tables whose rows are held or that are paused are left alone; and only who sees all that has
-- committed may choose.
CREATE FUNCTION pgtandem.choose_waiting(mine xid8, of_tables integer[], must_wait boolean, OUT tokens uuid[], OUT xids xid8[],
    OUT lasts bigint[], OUT counts integer[], OUT tables integer[], OUT ops text, OUT olds text[], OUT news text[],
    OUT is_free boolean)
LANGUAGE plpgsql AS $$
DECLARE
    one   record;
    found record;
    total integer := 0;
    bytes bigint := 0;
    barred boolean := false;
BEGIN
    is_free := NOT must_wait;
    IF pg_catalog.pg_sequence_last_value('pgtandem.taking_rests_until'::regclass)
            > extract(epoch FROM pg_catalog.clock_timestamp()) * 1000
        OR pg_catalog.current_setting('transaction_isolation') <> 'read committed'
        -- Within a statement, of a transaction that may stay open for long.
        OR pg_catalog.pg_trigger_depth() <> 1
        OR NOT EXISTS (SELECT FROM pgtandem.sent AS s WHERE s.outcome = 'q')
        OR NOT pg_catalog.pg_try_advisory_xact_lock(pg_catalog.hashtextextended('pgtandem queue', 0)) THEN
        RETURN;
    END IF;
    FOR one IN SELECT s.token, s.xid, s.last_id FROM pgtandem.sent AS s WHERE s.outcome = 'q' AND s.xid <> mine
               ORDER BY s.last_id LIMIT 20 LOOP
        SELECT pg_catalog.array_agg(o.table_id) AS tables, pg_catalog.string_agg(o.op::text, '') AS ops,
               pg_catalog.array_agg(o.old_row) AS olds, pg_catalog.array_agg(o.new_row) AS news, pg_catalog.count(*)::integer AS count,
               pg_catalog.sum(coalesce(pg_catalog.octet_length(o.old_row), 0) + coalesce(pg_catalog.octet_length(o.new_row), 0)) AS bytes,
               pg_catalog.max(o.id) AS last_id, ARRAY(SELECT NULL::integer) AS changed
            INTO found FROM (SELECT u.* FROM pgtandem.outbox AS u WHERE u.xid = one.xid ORDER BY u.id) AS o;
        EXIT WHEN total > 0 AND (total + found.count > 20 OR bytes + found.bytes > 30000);
        found.changed := ARRAY(SELECT DISTINCT t FROM pg_catalog.unnest(found.tables) AS t);
        IF found.last_id IS DISTINCT FROM one.last_id
            OR (SELECT pg_catalog.count(*) FROM pgtandem.linked_table AS l
                WHERE l.id = ANY (found.changed) AND l.state = 'live' AND l.paused_by IS NULL
                  AND (SELECT t.natts FROM pgtandem.direct_table AS t WHERE t.table_id = l.id)
                      = (SELECT c.relnatts FROM pg_catalog.pg_class AS c WHERE c.oid = l.relid)) < pg_catalog.cardinality(found.changed)
            OR EXISTS (SELECT FROM pgtandem.held AS h WHERE h.table_id = ANY (found.changed)) THEN
            barred := true;
            CONTINUE;
        END IF;
        IF pgtandem.is_behind(one.xid, one.last_id, found.changed, coalesce(xids, '{}')) THEN
            -- As what is before it, it is left to the hub.
            UPDATE pgtandem.sent AS s SET outcome = 'w' WHERE s.token = one.token;
            CONTINUE;
        END IF;
        BEGIN
            SELECT j.* INTO found.tables, found.ops, found.olds, found.news
                FROM pgtandem.join_moves(found.tables, found.ops, found.olds, found.news) AS j;
        EXCEPTION WHEN OTHERS THEN
            -- Rows as the table had them before it was altered: only a hub reads those.
            UPDATE pgtandem.sent AS s SET outcome = 'w' WHERE s.token = one.token;
            CONTINUE;
        END;
        found.count := pg_catalog.length(found.ops);
        tokens := tokens || one.token;
        xids := xids || one.xid;
        lasts := lasts || one.last_id;
        counts := counts || found.count;
        tables := tables || found.tables;
        ops := coalesce(ops, '') || found.ops;
        olds := olds || found.olds;
        news := news || found.news;
        total := total + found.count;
        bytes := bytes + found.bytes;
    END LOOP;
    IF tokens IS NULL AND barred THEN
        -- It would be looked for in vain with each write, until a table is no longer paused, say.
        PERFORM pgtandem.rest_taking(1000);
    END IF;
    IF must_wait AND tokens IS NOT NULL THEN
        is_free := NOT pgtandem.must_wait(mine, of_tables, xids);
    END IF;
EXCEPTION WHEN OTHERS THEN
    -- The application's transaction is not to suffer from that.
    PERFORM pgtandem.rest_taking(60000);
    tokens := NULL;
    is_free := NOT must_wait;
END
$$;

-- What this session took along last, and the peer need not remember: that has committed. Not what this very transaction took,
-- whose deferred triggers may have written once more.
CREATE FUNCTION pgtandem.taken_before() RETURNS uuid[] LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('pgtandem.taken_by', true) = pg_catalog.pg_current_xact_id()::text THEN
        RETURN NULL;
    END IF;
    -- What was prepared, and may still be rolled back, is not seen as landed.
    RETURN (SELECT pg_catalog.array_agg(s.token) FROM pgtandem.sent AS s WHERE s.outcome = 'l'
            AND s.token = ANY (nullif(pg_catalog.current_setting('pgtandem.taken', true), '')::uuid[]));
END
$$;

-- The question that brings what was chosen to the peer, and `own` behind it, if there is one: with `must_wait` only if all the
-- others are there.
CREATE FUNCTION pgtandem.bring_along(chosen record, must_wait boolean, own text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    acked   uuid[] := pgtandem.taken_before();
    ignored text := pg_catalog.set_config('pgtandem.taken_acked', coalesce(acked::text, ''), true);
BEGIN
    RETURN pg_catalog.format('SELECT pgtandem.take_along(%L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L, %L)',
        (SELECT t.own FROM pgtandem.taking AS t), pg_catalog.nextval('pgtandem.taking_number'), acked,
        chosen.tokens, chosen.xids, chosen.counts, chosen.tables, chosen.ops, chosen.olds, chosen.news,
        (SELECT d.wait_ms / 4 FROM pgtandem.direct AS d), must_wait, own);
END
$$;

-- Called by the peer: writes its transactions that waited, in order, until one cannot be written or the time is up, each whole or not
-- at all; then what
-- the last question is about. Answers how many are there, why not more ('a': they all are; 'r': refused; 'b': not now), and
-- what the question was answered.
CREATE FUNCTION pgtandem.take_along(epoch uuid, number bigint, acked uuid[], tokens uuid[], xids xid8[], counts integer[], tables integer[],
    ops text, olds text[], news text[], within_ms integer, must_wait boolean, own text) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    patience text := pg_catalog.current_setting('lock_timeout');
    ignored  text := pg_catalog.set_config('lock_timeout', '100ms', true);
    begun    timestamptz := pg_catalog.clock_timestamp();
    why      "char" := 'a';
    done     integer := 0;
    at       integer := 1;
    upto     integer;
    answer   text;
    fault    text;
BEGIN
    BEGIN
        -- Whoever brings the same is waited for, and who may not bring it any more is found out. (A sending that was overtaken may
        -- bring what has been acknowledged and forgotten since.)
        UPDATE pgtandem.taking AS t SET newest = number WHERE t.peer = epoch AND t.newest < number;
        IF NOT FOUND OR EXISTS (SELECT FROM pgtandem.linked_table AS l
                                WHERE l.id = ANY (tables) AND (l.state <> 'live' OR l.paused_by IS NOT NULL))
            OR EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind = 'rejoin') THEN
            why := 'b';
        END IF;
        DELETE FROM pgtandem.receipt AS r WHERE r.token = ANY (acked) AND NOT r.refused;
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        why := 'b';
    END;
    FOR i IN 1 .. pg_catalog.cardinality(tokens) LOOP
        -- Who brings it waits for its own changes, too.
        IF i > 1 AND why = 'a' AND pg_catalog.clock_timestamp() > begun + within_ms * interval '1 ms' THEN
            why := 'b';
        END IF;
        EXIT WHEN why <> 'a';
        upto := at + counts[i] - 1;
        -- It may be here already: what brought it has failed there, then.
        IF NOT EXISTS (SELECT FROM pgtandem.receipt AS r WHERE r.token = tokens[i]) THEN
            BEGIN
                ignored := pg_catalog.set_config('pgtandem.refused', '', true);
                answer := pgtandem.arrive(tokens[i], xids[i], NULL, tables[at:upto], pg_catalog.substr(ops, at, counts[i]),
                                          olds[at:upto], news[at:upto]);
                fault := pg_catalog.current_setting('pgtandem.refused');
                IF answer = 'landed' AND pg_catalog.current_setting('session_replication_role') <> 'replica' THEN
                    -- What is deferred would make all fail at the end.
                    SET CONSTRAINTS ALL IMMEDIATE;
                END IF;
            EXCEPTION WHEN OTHERS OR query_canceled THEN
                answer := SQLERRM;
                fault := SQLSTATE;
            END;
            IF answer <> 'landed' THEN
                -- A lock, or time, or others that wrote the same rows: another time it may go.
                why := CASE WHEN fault IN ('55P03', '57014', '40P01', '40001') THEN 'b' ELSE 'r' END;
                EXIT;
            END IF;
        END IF;
        done := i;
        at := upto + 1;
    END LOOP;
    ignored := pg_catalog.set_config('lock_timeout', patience, true);
    answer := '';
    IF own IS NOT NULL AND must_wait AND why <> 'a' THEN
        answer := 'refused: earlier changes wait';
    ELSIF own IS NOT NULL THEN
        EXECUTE own INTO answer;
    END IF;
    RETURN pg_catalog.concat(done, why, answer);
END
$$;

-- What was chosen and is on the peer goes out of the outbox, in this transaction; says what the transaction's own changes were
-- answered. None: they were not sent.
CREATE FUNCTION pgtandem.gone_along(chosen record, reply text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    parts   text[] := pg_catalog.regexp_match(reply, '^(\d+)([abr])(.*)$');
    done    integer := parts[1];
    acked   uuid[] := nullif(pg_catalog.current_setting('pgtandem.taken_acked'), '');
    gone    xid8[] := chosen.xids[1:done];
    ignored text;
BEGIN
    IF parts IS NULL THEN
        -- The peer did not listen to it.
        RETURN reply;
    END IF;
    DELETE FROM pgtandem.outbox_0 AS o WHERE o.xid = ANY (gone);
    DELETE FROM pgtandem.outbox_1 AS o WHERE o.xid = ANY (gone);
    DELETE FROM pgtandem.outbox_2 AS o WHERE o.xid = ANY (gone);
    DELETE FROM pgtandem.queued AS q
        WHERE q.table_id = ANY (chosen.tables) AND q.last_id = ANY (chosen.lasts[1:done]) AND q.xid = ANY (gone);
    UPDATE pgtandem.sent AS s SET outcome = 'l' WHERE s.token = ANY (chosen.tokens[1:done]);
    IF parts[2] = 'r' THEN
        -- Left to the hub, which judges.
        UPDATE pgtandem.sent AS s SET outcome = 'w' WHERE s.token = chosen.tokens[done + 1];
    ELSIF parts[2] = 'b' THEN
        PERFORM pgtandem.rest_taking(1000);
    END IF;
    -- A receipt without a row here would be taken for one of a transaction that failed: as long as the peer may have kept them, the
    -- session goes on saying that it need not.
    IF parts[2] = 'b' AND done = 0 THEN
        RETURN nullif(parts[3], '');
    END IF;
    DELETE FROM pgtandem.sent AS s WHERE s.token = ANY (acked) AND s.outcome = 'l';
    -- For what this session takes along next, if this transaction commits.
    ignored := pg_catalog.set_config('pgtandem.taken', chosen.tokens[1:done]::text, false);
    ignored := pg_catalog.set_config('pgtandem.taken_by', pg_catalog.pg_current_xact_id()::text, false);
    RETURN nullif(parts[3], '');
END
$$;

-- Called by the peer, whose hub has read what waits there: which of it is here. The rest will not be written here any more unless
-- the hub does; whoever is at it is waited for.
CREATE FUNCTION pgtandem.end_taking(epoch uuid, tokens uuid[]) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgtandem.taking SET peer = epoch, newest = 0;
    RETURN coalesce((SELECT pg_catalog.array_agg(r.token) FROM pgtandem.receipt AS r WHERE r.token = ANY (tokens) AND NOT r.refused), '{}');
END
$$;

-- The peer was told the same, and has that on disk: those of `part` that are `there` have landed, and the others will not.
CREATE FUNCTION pgtandem.taking_ended(epoch uuid, part uuid[], there uuid[]) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE pgtandem.taking SET own = epoch;
    UPDATE pgtandem.sent AS s SET outcome = 'L' WHERE s.token = ANY (there) AND s.outcome = 'r';
    DELETE FROM pgtandem.sent AS s WHERE s.token = ANY (part) AND s.outcome = 'r';
END
$$;

-- Finds out what is on the peer of all that waited when it was read. False: the peer does not answer now (a hub may reach it, and
-- does the same: landed.rs).
CREATE FUNCTION pgtandem.settle_waiting() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    epoch  uuid := pg_catalog.gen_random_uuid();
    part   uuid[];
    answer text;
BEGIN
    LOOP
        SELECT pg_catalog.array_agg(r.token) INTO part FROM (
            SELECT s.token FROM pgtandem.sent AS s WHERE s.outcome = 'r' ORDER BY s.last_id LIMIT 5000) AS r;
        EXIT WHEN part IS NULL;
        answer := pgtandem.answer_of(pg_catalog.format('SELECT pgtandem.end_taking(%L, %L)', epoch, part), 2000);
        IF answer IS NULL THEN
            RETURN false;
        END IF;
        PERFORM pgtandem.taking_ended(epoch, part, answer::uuid[]);
    END LOOP;
    RETURN true;
END
$$;
