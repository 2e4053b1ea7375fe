-- Direct mode: what a node has besides `outbox.sql` when its changes are delivered inside the application's own
-- transaction. `{dblink}` stands for the schema of the extension.
--
-- At COMMIT the transaction's rows in the outbox go to the peer in one round trip, and if it took them, they are removed
-- from the outbox: the hub never learns of them. That is allowed only for keys that nobody else has anything to say about:
-- no change of theirs waits in an outbox, on either side (`queued`), nor as a held row. Everything else stays in the
-- outbox, for the hub.

-- The peer and how it is reached. One row.
CREATE TABLE pgtandem.direct (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    peer     text NOT NULL,                             -- its name
    server   text NOT NULL,                             -- the foreign server that leads to it
    own      text,                                      -- one that leads to this very server, from PostgreSQL 16 on
    wait_ms  integer NOT NULL,                          -- so long an application's COMMIT waits for the peer
    most     integer NOT NULL DEFAULT 50000             -- a transaction with more changes is left to the hub
);

-- Until when the peer is not asked (milliseconds since 1970), and for how long it was not the last time. Sequences, because
-- what is set must outlive an application's rollback.
CREATE SEQUENCE pgtandem.direct_closed_until MINVALUE 0 START 0;
CREATE SEQUENCE pgtandem.direct_pause_ms MINVALUE 0 START 0;

-- Why it is not asked, for `pgtandem status`: rows are only added, so that nobody waits for another's. Hubs remove them.
CREATE TABLE pgtandem.direct_trouble (
    at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    what text NOT NULL
);

-- Tables whose changes may go directly, as they were when the peer's functions for them were made.
CREATE TABLE pgtandem.direct_table (
    table_id       integer PRIMARY KEY,
    natts          smallint NOT NULL,                   -- columns, dropped ones included: grows with every ALTER TABLE … ADD
    related        integer[] NOT NULL,                  -- linked tables that foreign keys tie it to
    is_partitioned boolean NOT NULL
);

-- Keys with a change in the outbox that somebody may still need. A key is the hash of its values, by which equal ones are
-- equal; two keys of one hash only wait for each other. None: every key of the table.
CREATE TABLE pgtandem.queued (
    table_id integer NOT NULL,
    key      bigint,
    xid      xid8 NOT NULL,
    last_id  bigint NOT NULL                            -- of its transaction's rows in the outbox then: their order
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX ON pgtandem.queued (table_id, key, last_id);
CREATE INDEX ON pgtandem.queued (table_id, last_id);

-- What was sent to the peer, by a name that nothing else ever has: transaction numbers are given again after a crash. In the
-- transaction that sent it: if the row is not there and the transaction is over, it has failed.
CREATE TABLE pgtandem.sent (
    token   uuid PRIMARY KEY,
    xid     xid8 NOT NULL,
    last_id bigint NOT NULL DEFAULT 0,                  -- of its rows in the outbox; the first one's, until there is a doubt
    -- 'l': landed; '?': nobody knows yet; 'n': it did not. Found out by a hub: 'L', landed; 'd', and the peer has forgotten it.
    -- Of one that waits: 'q', it may go along with later ones (direct_queue.sql); 'w', it has been left to the hub, and 'r', a hub
    -- has read it: whether it has landed is to be found out.
    outcome "char" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX ON pgtandem.sent (outcome, last_id) WHERE outcome <> 'l';

-- What the peer sent and was written here, in the transaction that wrote it, with what was there before: should the sender's
-- transaction fail after all, it is put back. `refused`: it must not be written any more, whenever it comes.
CREATE TABLE pgtandem.receipt (
    token      uuid PRIMARY KEY,
    sender_xid xid8 NOT NULL,
    refused    boolean NOT NULL DEFAULT false,
    landed_at  timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    tables     integer[],
    ops        text,
    befores    text[],                                  -- rows as they were here: of 'D' whole, otherwise with the sender's columns
    olds       text[],
    news       text[],
    noted      int8range                                -- it has been put back: what was noted of it, which the sender is yet to get
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- It is kept for moments: compressing it would take longer than writing it.
ALTER TABLE pgtandem.receipt ALTER befores SET STORAGE EXTERNAL, ALTER olds SET STORAGE EXTERNAL, ALTER news SET STORAGE EXTERNAL;

-- Numbers what is on record as written here alone: positions that no change has, below the first one.
CREATE SEQUENCE pgtandem.alone_number;

-- At COMMIT. What deferred constraints and triggers of the application have still to do comes first: so the sending is put
-- behind what is waiting now.
CREATE FUNCTION pgtandem.collect() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ignored text := pg_catalog.set_config('pgtandem.transaction', '', true);
    -- None: it was never set, since the peer has always answered.
    closed  bigint := pg_catalog.pg_sequence_last_value('pgtandem.direct_closed_until'::regclass);
BEGIN
    IF closed > 0 AND closed > extract(epoch FROM pg_catalog.clock_timestamp()) * 1000 THEN
        PERFORM pgtandem.enqueue(NEW.xid);
        ignored := pg_catalog.set_config('pgtandem.why_queued', 'the peer does not answer', false);
        RETURN NULL;
    END IF;
    -- What is prepared may still be rolled back.
    IF pg_catalog.current_query() ILIKE '%prepare%transaction%' AND pg_catalog.current_query() ~* 'prepare\s+transaction' THEN
        PERFORM pgtandem.enqueue(NEW.xid);
        RETURN NULL;
    END IF;
    INSERT INTO pgtandem.sent (token, xid, last_id, outcome) VALUES (pg_catalog.gen_random_uuid(), NEW.xid, NEW.id, 'l');
    RETURN NULL;
END
$$;

-- What a setting of ours says; none: an application has set it to something else.
CREATE FUNCTION pgtandem.token_in(setting text) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT pg_catalog.substring(setting, '^[0-9a-f-]{36}$')::pg_catalog.uuid
$$;

-- What the session's last transaction sent, and which the peer need not remember any longer: it has committed. Not what this one
-- has sent already, which may still fail.
CREATE FUNCTION pgtandem.landed_before(mine xid8) RETURNS uuid LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('pgtandem.landed_by', true) = mine::text THEN
        RETURN NULL;
    END IF;
    -- If it can be seen: what was prepared may still be rolled back.
    RETURN (SELECT s.token FROM pgtandem.sent AS s WHERE s.token = pgtandem.token_in(pg_catalog.current_setting('pgtandem.landed', true)));
END
$$;

-- Why a transaction cannot go directly; none: it can. `changed`: its tables. `waits`: earlier ones do here, and nothing else is in
-- the way; with `is_last` it must wait behind them.
CREATE FUNCTION pgtandem.obstacle(mine xid8, changed integer[], ops text, OUT why text, OUT waits boolean, OUT is_last boolean)
LANGUAGE plpgsql AS $$
DECLARE
    found record;
BEGIN
    -- What was committed since its snapshot it does not see, and so not that a key it inserts is in the queue.
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' AND ops ~ '[IKT]' THEN
        why := 'it sees only what its snapshot does';
        RETURN;
    END IF;
    -- Not joined: of tables that nobody analyzes the planner would think that reading all of pg_class is best.
    SELECT pg_catalog.bool_and(l.state = 'live' AND l.paused_by IS NULL
               AND (SELECT t.natts FROM pgtandem.direct_table AS t WHERE t.table_id = l.id)
                   = (SELECT c.relnatts FROM pg_catalog.pg_class AS c WHERE c.oid = l.relid)) AS fit,
           pg_catalog.count(*) AS linked,
           EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind = 'rejoin') AS is_brought_back,
           EXISTS (SELECT FROM pgtandem.direct_table AS t
                   WHERE t.table_id = ANY (changed) AND t.is_partitioned AND pgtandem.is_reordered(mine, t.table_id)) AS is_reordered,
           EXISTS (SELECT FROM pgtandem.held AS h WHERE h.table_id = ANY (changed)) AS holds,
           EXISTS (SELECT FROM pgtandem.queued) AS waits
        INTO found FROM pgtandem.linked_table AS l WHERE l.id = ANY (changed);
    IF found.fit IS NOT TRUE OR found.linked < pg_catalog.cardinality(changed) THEN
        why := 'a table is paused, or not as it was linked';
        RETURN;
    ELSIF found.is_brought_back THEN
        why := 'this node is being brought back';
        RETURN;
    ELSIF found.holds THEN
        why := 'rows are held';
        RETURN;
    ELSIF found.is_reordered THEN
        why := 'a partition has its columns in another order than its table';
        RETURN;
    END IF;
    -- The peer writes without asking foreign keys, and a child may be on its way. The hub looks for children.
    IF ops ~ '[DKT]' AND EXISTS (SELECT FROM pgtandem.direct_table AS t WHERE t.table_id = ANY (changed)
                                 AND pg_catalog.cardinality(t.related) > 0) THEN
        why := 'what foreign keys tie together is deleted by the hub';
        RETURN;
    END IF;
    waits := found.waits;
    is_last := waits AND pgtandem.must_wait(mine, changed);
    IF is_last THEN
        why := 'earlier changes wait';
    END IF;
END
$$;

-- Whether the transaction has written to partitions of the table that have their columns in another order: in the outbox rows
-- stand as their partitions have them, and only a hub reads them so.
CREATE FUNCTION pgtandem.is_reordered(mine xid8, of_table integer) RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM (SELECT DISTINCT o.relid FROM pgtandem.outbox_stored AS o WHERE o.xid = mine AND o.table_id = of_table) AS w,
                       pgtandem.linked_table AS l
                   WHERE l.id = of_table AND w.relid <> l.relid
                     AND ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute AS a
                               WHERE a.attrelid = w.relid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)
                      <> ARRAY(SELECT a.attname FROM pg_catalog.pg_attribute AS a
                               WHERE a.attrelid = l.relid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum))
$$;

-- An update that puts a row into another partition was captured as a delete and an insert right behind it: here it becomes an
-- update again, as where a hub reads it. Otherwise the peer would lose what only its own row has.
CREATE FUNCTION pgtandem.join_moves(INOUT tables integer[], INOUT ops text, INOUT olds text[], INOUT news text[])
LANGUAGE plpgsql AS $$
DECLARE
    -- A letter of a long text is found by counting.
    letters  text[] := pg_catalog.string_to_array(ops, NULL);
    total    integer := pg_catalog.length(ops);
    -- Variables of their own: in a record a text would be found by counting, too.
    given_tables integer[] := tables;
    given_olds   text[] := olds;
    given_news   text[] := news;
    at       integer := 1;
    is_moved boolean;
BEGIN
    IF ops !~ 'DI' OR NOT EXISTS (SELECT FROM pgtandem.direct_table AS t WHERE t.table_id = ANY (tables) AND t.is_partitioned) THEN
        RETURN;
    END IF;
    tables := '{}';
    ops := '';
    olds := '{}';
    news := '{}';
    WHILE at <= total LOOP
        is_moved := false;
        IF letters[at] = 'D' AND letters[at + 1] = 'I' AND given_tables[at] = given_tables[at + 1]
            AND (SELECT t.is_partitioned FROM pgtandem.direct_table AS t WHERE t.table_id = given_tables[at]) THEN
            EXECUTE pg_catalog.format('SELECT pgtandem.is_moved_%s($1, $2)', given_tables[at]) INTO is_moved
                USING given_olds[at], given_news[at + 1];
        END IF;
        tables := tables || given_tables[at];
        ops := ops || CASE WHEN is_moved THEN 'K' ELSE letters[at] END;
        olds := olds || given_olds[at];
        at := at + is_moved::integer;
        news := news || given_news[at];
        at := at + 1;
    END LOOP;
END
$$;

-- Whether the database is a copy of the one that was linked: it has the way to the peer, too. Asked whenever a session connects.
CREATE FUNCTION pgtandem.is_a_copy() RETURNS boolean LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM pgtandem.node AS n, pg_catalog.pg_control_system() AS c, pg_catalog.pg_database AS d
                       WHERE n.system_identifier = c.system_identifier::text AND n.database_oid = d.oid
                         AND d.datname = pg_catalog.current_database())
$$;

-- A transaction's changes in order, no more than so many; and in which table of the outbox they are, if in one. `first_id`: of
-- one of them. Most transactions are one row there, and where it is follows from numbers: that is quickest to read.
CREATE FUNCTION pgtandem.pack(mine xid8, first_id bigint, most integer, OUT leaf bigint, OUT stored bigint, OUT last bigint,
    OUT tables integer[], OUT ops text, OUT olds text[], OUT news text[], OUT changed integer[], OUT is_too_large boolean)
LANGUAGE plpgsql AS $$
DECLARE
    one record;
BEGIN
    -- Numbers only grow, and each four billion the next table takes over.
    IF first_id >> 32 = pg_catalog.pg_sequence_last_value('pgtandem.outbox_id'::regclass) >> 32 THEN
        leaf := (first_id >> 32) % 3;
    END IF;
    IF leaf = 0 THEN
        SELECT u.*, pg_catalog.count(*) OVER () AS stored INTO one FROM pgtandem.outbox_0 AS u WHERE u.xid = mine LIMIT 1;
    ELSIF leaf = 1 THEN
        SELECT u.*, pg_catalog.count(*) OVER () AS stored INTO one FROM pgtandem.outbox_1 AS u WHERE u.xid = mine LIMIT 1;
    ELSIF leaf = 2 THEN
        SELECT u.*, pg_catalog.count(*) OVER () AS stored INTO one FROM pgtandem.outbox_2 AS u WHERE u.xid = mine LIMIT 1;
    ELSE
        SELECT u.*, pg_catalog.count(*) OVER () AS stored INTO one FROM pgtandem.outbox_stored AS u WHERE u.xid = mine LIMIT 1;
    END IF;
    stored := coalesce(one.stored, 0);
    IF stored = 0 THEN
        RETURN;
    END IF;
    IF stored = 1 THEN
        last := one.id;
        changed := ARRAY[one.table_id];
        olds := ARRAY[one.old_row];
        IF one.new_rows IS NULL THEN
            tables := changed;
            ops := one.op;
            news := ARRAY[one.new_row];
        ELSE
            news := one.new_rows;
            tables := pg_catalog.array_fill(one.table_id, ARRAY[pg_catalog.cardinality(news)]);
            ops := pg_catalog.repeat(one.op::text, pg_catalog.cardinality(news));
        END IF;
        RETURN;
    END IF;
    SELECT pg_catalog.array_agg(o.table_id), pg_catalog.string_agg(o.op::text, ''), pg_catalog.array_agg(o.old_row),
           pg_catalog.array_agg(o.new_row), pg_catalog.max(o.id)
        INTO tables, ops, olds, news, last
        FROM (SELECT u.* FROM pgtandem.outbox AS u WHERE u.xid = mine ORDER BY u.id LIMIT most + 1) AS o;
    -- What was cut off above must stay recognisable, and looking at each of many pairs would take the application's time.
    is_too_large := pg_catalog.cardinality(tables) > most OR (pg_catalog.length(pg_catalog.replace(ops, 'DI', '')) + 2000 < pg_catalog.length(ops)
        AND EXISTS (SELECT FROM pgtandem.direct_table AS t WHERE t.table_id = ANY (tables) AND t.is_partitioned));
    IF NOT is_too_large THEN
        SELECT j.tables, j.ops, j.olds, j.news INTO tables, ops, olds, news FROM pgtandem.join_moves(tables, ops, olds, news) AS j;
    END IF;
    changed := ARRAY(SELECT DISTINCT t FROM pg_catalog.unnest(tables) AS t);
END
$$;

-- Sends a transaction to the peer, or leaves it to the hub. Nothing that goes wrong here reaches the application. Plans are made
-- once: with arrays among the parameters they would seem worth making anew each time, which takes longer than all else.
CREATE FUNCTION pgtandem.deliver() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET client_min_messages = error SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    ignored text := pg_catalog.set_config('pgtandem.transaction', '', true);
    landed  uuid := pgtandem.landed_before(NEW.xid);
    wait_ms integer;
    most    integer;
    sending record;
    -- What waits and goes along.
    along    record;
    brings   boolean := false;
    obstacle record;
    closed   bigint;
    opens    boolean := false;
    query   text;
    begun   timestamptz;
    reply   record;
    state   "char";
    answer  text;
BEGIN
    BEGIN
        SELECT d.wait_ms, d.most INTO STRICT wait_ms, most FROM pgtandem.direct AS d;
        sending := pgtandem.pack(NEW.xid, NEW.last_id, most);
        IF sending.stored = 0 THEN
            DELETE FROM pgtandem.sent AS s WHERE s.token = NEW.token;
            RETURN NULL;
        END IF;
        IF sending.is_too_large OR pg_catalog.length(sending.ops) > most THEN
            answer := 'it is too large';
        ELSE
            obstacle := pgtandem.obstacle(NEW.xid, sending.changed, sending.ops);
            answer := obstacle.why;
            IF obstacle.waits THEN
                along := pgtandem.choose_waiting(NEW.xid, sending.changed, obstacle.is_last);
                brings := along.tokens IS NOT NULL;
                IF along.is_free THEN
                    answer := NULL;
                END IF;
            END IF;
        END IF;
        IF (answer IS NULL OR brings) AND ('pgtandem' = ANY ({dblink}.dblink_get_connections())) IS NOT TRUE
            AND pgtandem.is_a_copy() THEN
            answer := 'this is a copy of the database that was linked';
            brings := false;
        END IF;
        IF answer IS NULL OR brings THEN
            closed := coalesce(pg_catalog.pg_sequence_last_value('pgtandem.direct_closed_until'::regclass), 0);
            -- The first one after a pause tries for all.
            IF closed > 0 THEN
                PERFORM pg_catalog.setval('pgtandem.direct_closed_until',
                    (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint + wait_ms + 2000);
            END IF;
            -- What the peer is given must not be forgotten here.
            IF pg_catalog.current_setting('synchronous_commit') = 'off' THEN
                ignored := pg_catalog.set_config('synchronous_commit', 'local', true);
            END IF;
            IF answer IS NOT NULL THEN
                -- Only what waits goes.
            ELSIF pg_catalog.cardinality(sending.changed) = 1 AND sending.ops !~ 'T' THEN
                query := pg_catalog.format('SELECT pgtandem.land_%s(%L, %L, %L, %L, %L, %L)', sending.changed[1], NEW.token, NEW.xid,
                    landed, sending.ops, CASE WHEN sending.ops ~ '[DK]' THEN sending.olds END, sending.news);
            ELSE
                query := pg_catalog.format('SELECT pgtandem.arrive(%L, %L, %L, %L, %L, %L, %L)', NEW.token, NEW.xid,
                    landed, sending.tables, sending.ops, sending.olds, sending.news);
            END IF;
            IF brings THEN
                query := pgtandem.bring_along(along, obstacle.is_last, query);
            END IF;
            opens := pgtandem.may_open_single();
            IF opens THEN
                query := pg_catalog.format('SELECT CASE WHEN pgtandem.sign_session() THEN (%s) END', query);
            END IF;
            IF coalesce(pg_catalog.current_setting('pgtandem.recognised', true), '') = '' THEN
                query := pgtandem.introduce(query);
            END IF;
            begun := pg_catalog.clock_timestamp();
            reply := pgtandem.ask(query, wait_ms);
            state := reply.state;
            IF NOT brings THEN
                answer := reply.answer;
            ELSIF answer IS NULL THEN
                answer := CASE WHEN state = 'a' THEN pgtandem.gone_along(along, reply.answer) ELSE reply.answer END;
            ELSIF state = 'a' THEN
                reply.answer := pgtandem.gone_along(along, reply.answer);
            ELSE
                state := 'n';
            END IF;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        answer := SQLERRM;
        IF begun IS NOT NULL THEN
            state := '?';
            IF 'pgtandem' = ANY ({dblink}.dblink_get_connections()) THEN
                PERFORM {dblink}.dblink_disconnect('pgtandem');
            END IF;
        END IF;
    END;
    ignored := pg_catalog.set_config('pgtandem.why_queued', coalesce(answer, 'no answer'), false);
    IF state = 'a' AND closed > 0 THEN
        PERFORM pg_catalog.setval('pgtandem.direct_closed_until', 0), pg_catalog.setval('pgtandem.direct_pause_ms', 0);
    END IF;
    IF state = 'a' AND answer = 'landed' THEN
        IF sending.leaf = 0 OR sending.leaf IS NULL THEN
            DELETE FROM pgtandem.outbox_0 AS o WHERE o.xid = NEW.xid;
        END IF;
        IF sending.leaf = 1 OR sending.leaf IS NULL THEN
            DELETE FROM pgtandem.outbox_1 AS o WHERE o.xid = NEW.xid;
        END IF;
        IF sending.leaf = 2 OR sending.leaf IS NULL THEN
            DELETE FROM pgtandem.outbox_2 AS o WHERE o.xid = NEW.xid;
        END IF;
        IF landed IS NOT NULL THEN
            DELETE FROM pgtandem.sent AS s WHERE s.token = landed AND s.outcome = 'l';
        END IF;
        -- For this session's next transaction, if this one commits: the peer need not remember it then.
        ignored := pg_catalog.set_config('pgtandem.landed', NEW.token::text, false);
        ignored := pg_catalog.set_config('pgtandem.landed_by', NEW.xid::text, false);
        ignored := pg_catalog.set_config('pgtandem.recognised', 'yes', false);
        IF opens THEN
            PERFORM pgtandem.open_single();
        END IF;
        RETURN NULL;
    END IF;
    IF state = '?' THEN
        UPDATE pgtandem.sent AS s SET outcome = '?', last_id = sending.last WHERE s.token = NEW.token;
        ignored := pg_catalog.set_config('pgtandem.waits', NEW.token::text, true);
    ELSE
        DELETE FROM pgtandem.sent AS s WHERE s.token = NEW.token;
    END IF;
    IF state <> 'a' THEN
        PERFORM pgtandem.close_breaker((extract(epoch FROM pg_catalog.clock_timestamp() - begun) * 1000)::integer);
    END IF;
    PERFORM pgtandem.enqueue(NEW.xid);
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER collect AFTER INSERT ON pgtandem.outbox_0 DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.is_first) EXECUTE FUNCTION pgtandem.collect();
CREATE CONSTRAINT TRIGGER collect AFTER INSERT ON pgtandem.outbox_1 DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.is_first) EXECUTE FUNCTION pgtandem.collect();
CREATE CONSTRAINT TRIGGER collect AFTER INSERT ON pgtandem.outbox_2 DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.is_first) EXECUTE FUNCTION pgtandem.collect();
CREATE CONSTRAINT TRIGGER deliver AFTER INSERT ON pgtandem.sent DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.outcome = 'l') EXECUTE FUNCTION pgtandem.deliver();
-- What was captured goes its way, whatever role an application's session takes on meanwhile.
ALTER TABLE pgtandem.outbox_0 ENABLE ALWAYS TRIGGER collect;
ALTER TABLE pgtandem.outbox_1 ENABLE ALWAYS TRIGGER collect;
ALTER TABLE pgtandem.outbox_2 ENABLE ALWAYS TRIGGER collect;
ALTER TABLE pgtandem.sent ENABLE ALWAYS TRIGGER deliver;

-- Called by the peer: what it sent under this name will not be written here any more, unless it has been. Waits for one
-- that is at it. Answers 'landed' or 'not landed'.
CREATE FUNCTION pgtandem.settle_receipt(of_token uuid, of_xid xid8) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgtandem.receipt (token, sender_xid, refused) VALUES (of_token, of_xid, true) ON CONFLICT DO NOTHING;
    RETURN (SELECT CASE WHEN r.refused THEN 'not landed' ELSE 'landed' END FROM pgtandem.receipt AS r WHERE r.token = of_token);
END
$$;

-- What the peer answers; none: it does not now, for whatever reason. For those who can ask again.
CREATE FUNCTION pgtandem.answer_of(query text, wait_ms integer) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    reply record;
BEGIN
    reply := pgtandem.ask(query, wait_ms);
    RETURN CASE WHEN reply.state = 'a' THEN reply.answer END;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL;
END
$$;

-- The peer is asked again as soon as it answers; by those who can wait.
CREATE FUNCTION pgtandem.try_peer() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (SELECT s.last_value FROM pgtandem.direct_closed_until AS s) = 0 THEN
        DELETE FROM pgtandem.direct_trouble;
        RETURN;
    END IF;
    IF pgtandem.answer_of('SELECT ''yes''', 1000) IS NOT NULL THEN
        PERFORM pg_catalog.setval('pgtandem.direct_closed_until', 0), pg_catalog.setval('pgtandem.direct_pause_ms', 0);
        DELETE FROM pgtandem.direct_trouble;
    END IF;
END
$$;

-- Keeps note of a row that the peer wrote here, and whose transaction then failed there: what became of it.
CREATE FUNCTION pgtandem.note_alone(of_table integer, of_key jsonb, stands jsonb, gone jsonb, became text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO pgtandem.decision (table_id, key, key_bytes, winner_node, winner_position, loser_node, loser_position,
                                   winner_stamp, loser_stamp, kind, winner_row, loser_row, policy, why)
    SELECT of_table, of_key, pg_catalog.convert_to(of_key::text, 'UTF8'), n.number, '0/0', p.number,
           '0/0'::pg_lsn + pg_catalog.nextval('pgtandem.alone_number')::numeric,
           pg_catalog.clock_timestamp(), pg_catalog.clock_timestamp(), 'written here alone', stands, gone, 'direct',
           'its transaction failed on ' || d.peer || ' after it had been written here: ' || became
    FROM pgtandem.node AS n, pgtandem.direct AS d JOIN pgtandem.peer AS p ON p.name = d.peer AND p.left_at IS NULL;
END
$$;

-- Finds out what became of everything that was sent and not answered. False: the peer does not answer now. Each outcome is
-- committed with the caller's transaction, which must be on disk before anything rests on it.
CREATE FUNCTION pgtandem.settle_doubts() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    doubt  record;
    answer text;
BEGIN
    IF NOT pgtandem.settle_waiting() THEN
        RETURN false;
    END IF;
    FOR doubt IN SELECT s.token, s.xid FROM pgtandem.sent AS s WHERE s.outcome = '?' LOOP
        answer := pgtandem.answer_of(pg_catalog.format('SELECT pgtandem.settle_receipt(%L, %L)', doubt.token, doubt.xid), 2000);
        IF answer IS NULL THEN
            RETURN false;
        END IF;
        UPDATE pgtandem.sent AS s SET outcome = CASE answer WHEN 'landed' THEN 'L' ELSE 'n' END WHERE s.token = doubt.token;
    END LOOP;
    RETURN true;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtandem FROM PUBLIC;
