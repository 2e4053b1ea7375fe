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
    table_id integer PRIMARY KEY,
    natts    smallint NOT NULL,                         -- columns, dropped ones included: grows with every ALTER TABLE … ADD
    related  integer[] NOT NULL                         -- linked tables that foreign keys tie it to
);

-- Keys with a change in the outbox that somebody may still need. A key is the hash of its values, by which equal ones are
-- equal; two keys of one hash only wait for each other. None: every key of the table.
CREATE TABLE pgtandem.queued (
    table_id integer NOT NULL,
    key      bigint,
    xid      xid8 NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX ON pgtandem.queued (table_id, key);

-- What was sent to the peer, by a name that nothing else ever has: transaction numbers are given again after a crash. In the
-- transaction that sent it: if the row is not there and the transaction is over, it has failed.
CREATE TABLE pgtandem.sent (
    token   uuid PRIMARY KEY,
    xid     xid8 NOT NULL,
    last_id bigint NOT NULL DEFAULT 0,                  -- of its rows in the outbox
    outcome "char" NOT NULL                             -- 'l': landed; '?': nobody knows yet; 'n': it did not
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
CREATE INDEX ON pgtandem.sent (xid) WHERE outcome <> 'l';

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

-- Numbers what is on record as written here alone: positions that no change has, below the first one.
CREATE SEQUENCE pgtandem.alone_number;

-- Rows of the outbox go again at once: deleted ones are to be removed.
ALTER TABLE pgtandem.outbox_0 SET (autovacuum_enabled = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE pgtandem.outbox_1 SET (autovacuum_enabled = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
ALTER TABLE pgtandem.outbox_2 SET (autovacuum_enabled = on, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Connects to the peer. From PostgreSQL 16 on dblink waits for a frozen server without end, whatever `connect_timeout` says:
-- so another session of this server is sent ahead, which we need not wait for. False: the time is up.
CREATE FUNCTION pgtandem.reach(until timestamptz) RETURNS boolean LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    peer   text;
    self   text;
    answer text;
BEGIN
    SELECT d.server, d.own INTO peer, self FROM pgtandem.direct AS d;
    IF self IS NOT NULL THEN
        IF 'pgtandem_probe' = ANY (coalesce({dblink}.dblink_get_connections(), '{}')) THEN
            PERFORM {dblink}.dblink_disconnect('pgtandem_probe');
        END IF;
        PERFORM {dblink}.dblink_connect('pgtandem_probe', self);
        PERFORM {dblink}.dblink_send_query('pgtandem_probe', 'SELECT pgtandem.probe()');
        WHILE {dblink}.dblink_is_busy('pgtandem_probe') = 1 AND pg_catalog.clock_timestamp() < until LOOP
            PERFORM pg_catalog.pg_sleep(0.001);
        END LOOP;
        IF {dblink}.dblink_is_busy('pgtandem_probe') = 0 THEN
            SELECT t INTO answer FROM {dblink}.dblink_get_result('pgtandem_probe', false) AS r (t text);
        END IF;
        PERFORM {dblink}.dblink_disconnect('pgtandem_probe');
        IF answer IS DISTINCT FROM 'reached' THEN
            RETURN false;
        END IF;
    END IF;
    PERFORM {dblink}.dblink_connect('pgtandem', peer);
    RETURN true;
END
$$;

-- What the session that is sent ahead does.
CREATE FUNCTION pgtandem.probe() RETURNS text LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    PERFORM {dblink}.dblink_connect('pgtandem_peer', (SELECT d.server FROM pgtandem.direct AS d));
    PERFORM {dblink}.dblink_disconnect('pgtandem_peer');
    RETURN 'reached';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;

-- Asks the peer something and waits for the answer, no longer than that. `state`: 'a' it answered; 'n' it was not asked;
-- '?' it was asked, and what became of it is not known.
CREATE FUNCTION pgtandem.ask(query text, wait_ms integer, OUT state "char", OUT answer text)
LANGUAGE plpgsql SET search_path = '' SET client_min_messages = error AS $$
DECLARE
    until   timestamptz := pg_catalog.clock_timestamp() + pg_catalog.make_interval(secs => wait_ms / 1000.0);
    begun   timestamptz;
    took    numeric;
    usual   numeric := coalesce(nullif(pg_catalog.current_setting('pgtandem.round_trip_ms', true), ''), '0')::numeric;
    spinning timestamptz;
BEGIN
    state := 'n';
    IF 'pgtandem' = ANY (coalesce({dblink}.dblink_get_connections(), '{}')) THEN
        -- Notices when the other side has closed it, as after a restart.
        PERFORM {dblink}.dblink_is_busy('pgtandem');
        IF {dblink}.dblink_send_query('pgtandem', CASE WHEN pg_catalog.octet_length(query) > 60000 THEN 'SELECT ''''' ELSE query END) <> 1 THEN
            PERFORM {dblink}.dblink_disconnect('pgtandem');
        ELSE
            state := '?';
        END IF;
    END IF;
    IF state = 'n' THEN
        IF NOT pgtandem.reach(until) THEN
            answer := 'the peer cannot be reached';
            RETURN;
        END IF;
        IF {dblink}.dblink_send_query('pgtandem', CASE WHEN pg_catalog.octet_length(query) > 60000 THEN 'SELECT ''''' ELSE query END) <> 1 THEN
            PERFORM {dblink}.dblink_disconnect('pgtandem');
            RETURN;
        END IF;
        state := '?';
    END IF;
    IF pg_catalog.octet_length(query) > 60000 THEN
        -- More than the network takes without the other side: it must be known to listen, or the sending would not end.
        state := 'n';
        IF NOT pgtandem.await(until, pg_catalog.clock_timestamp()) THEN
            PERFORM {dblink}.dblink_disconnect('pgtandem');
            RETURN;
        END IF;
        PERFORM t FROM {dblink}.dblink_get_result('pgtandem', false) AS r (t text);
        PERFORM t FROM {dblink}.dblink_get_result('pgtandem', false) AS r (t text);
        IF {dblink}.dblink_send_query('pgtandem', query) <> 1 THEN
            PERFORM {dblink}.dblink_disconnect('pgtandem');
            RETURN;
        END IF;
        state := '?';
    END IF;
    begun := pg_catalog.clock_timestamp();
    -- Where answers usually come at once, one is waited for awake; a sleep takes a millisecond at least, but leaves the
    -- processor to those who answer. Now and then it is tried anew.
    spinning := CASE WHEN usual < 0.8 OR pg_catalog.random() < 0.02 THEN begun + interval '1 ms' ELSE begun END;
    IF NOT pgtandem.await(until, spinning) THEN
        PERFORM {dblink}.dblink_disconnect('pgtandem');
        RETURN;
    END IF;
    took := extract(epoch FROM pg_catalog.clock_timestamp() - begun) * 1000;
    PERFORM pg_catalog.set_config('pgtandem.round_trip_ms', pg_catalog.round(usual * 0.8 + least(took, 2) * 0.2, 3)::text, false);
    SELECT t INTO answer FROM {dblink}.dblink_get_result('pgtandem', false) AS r (t text);
    IF NOT FOUND OR answer IS NULL OR NOT pgtandem.await(until, until) THEN
        PERFORM {dblink}.dblink_disconnect('pgtandem');
        RETURN;
    END IF;
    PERFORM t FROM {dblink}.dblink_get_result('pgtandem', false) AS r (t text);
    state := 'a';
END
$$;

-- Until there is an answer; awake up to `spinning`. False: the time is up.
CREATE FUNCTION pgtandem.await(until timestamptz, spinning timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    now_is timestamptz;
BEGIN
    WHILE {dblink}.dblink_is_busy('pgtandem') = 1 LOOP
        now_is := pg_catalog.clock_timestamp();
        IF now_is > until THEN
            RETURN false;
        ELSIF now_is > spinning THEN
            PERFORM pg_catalog.pg_sleep(0.001);
        END IF;
    END LOOP;
    RETURN true;
END
$$;

-- The first change of a transaction since it was last collected.
CREATE FUNCTION pgtandem.is_first(xid xid8) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF pg_catalog.current_setting('pgtandem.transaction', true) OPERATOR(pg_catalog.=) xid::text THEN
        RETURN false;
    END IF;
    PERFORM pg_catalog.set_config('pgtandem.transaction', xid::text, true);
    RETURN true;
END
$$;

-- The keys of a transaction's changes wait for the hub. Of large ones it would take too long to say which.
CREATE FUNCTION pgtandem.enqueue(mine xid8) RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    part record;
BEGIN
    FOR part IN SELECT o.table_id, pg_catalog.count(*) AS changes, pg_catalog.bool_or(o.op = 'T') AS truncates
                FROM pgtandem.outbox AS o WHERE o.xid = mine GROUP BY o.table_id LOOP
        IF part.changes > 1000 OR part.truncates
            OR NOT EXISTS (SELECT FROM pgtandem.direct_table AS t WHERE t.table_id = part.table_id) THEN
            INSERT INTO pgtandem.queued VALUES (part.table_id, NULL, mine);
            CONTINUE;
        END IF;
        BEGIN
            EXECUTE pg_catalog.format('INSERT INTO pgtandem.queued SELECT DISTINCT o.table_id, k.key, o.xid
                FROM pgtandem.outbox AS o, LATERAL (VALUES (pgtandem.key_%1$s(o.old_row)), (pgtandem.key_%1$s(o.new_row))) AS k (key)
                WHERE o.xid = $1 AND o.table_id = %1$s AND k.key IS NOT NULL', part.table_id) USING mine;
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO pgtandem.queued VALUES (part.table_id, NULL, mine);
        END;
    END LOOP;
END
$$;

-- Whether the transaction changes a key of which an earlier change waits here, or a table tied to one where something does.
CREATE FUNCTION pgtandem.must_wait(mine xid8, tables integer[]) RETURNS boolean LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    part  integer;
    found boolean;
BEGIN
    IF EXISTS (SELECT FROM pgtandem.queued AS q, pgtandem.direct_table AS t
               WHERE t.table_id = ANY (tables) AND q.table_id = ANY (t.related)) THEN
        RETURN true;
    END IF;
    FOREACH part IN ARRAY tables LOOP
        IF NOT EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = part) THEN
            CONTINUE;
        END IF;
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = %1$s AND q.key IS NULL)
            OR EXISTS (SELECT FROM pgtandem.outbox AS o WHERE o.xid = $1 AND o.table_id = %1$s AND o.op = ''T'')
            OR EXISTS (SELECT FROM pgtandem.outbox AS o,
                       LATERAL (VALUES (pgtandem.key_%1$s(o.old_row)), (pgtandem.key_%1$s(o.new_row))) AS k (key), pgtandem.queued AS q
                       WHERE o.xid = $1 AND o.table_id = %1$s AND q.table_id = %1$s AND q.key = k.key)', part)
            INTO found USING mine;
        IF found THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END
$$;

-- The peer did not answer, after so long: it is not asked for a while, the longer the longer it has been so.
CREATE FUNCTION pgtandem.close_breaker(took_ms integer) RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    pause bigint;
BEGIN
    SELECT least(greatest(s.last_value * 2, took_ms * 5, 1000), 60000) INTO pause FROM pgtandem.direct_pause_ms AS s;
    PERFORM pg_catalog.setval('pgtandem.direct_pause_ms', pause);
    PERFORM pg_catalog.setval('pgtandem.direct_closed_until',
        (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint + pause);
    INSERT INTO pgtandem.direct_trouble (what)
        VALUES (coalesce(pg_catalog.current_setting('pgtandem.why_queued', true), 'no answer'));
END
$$;

-- At COMMIT. What deferred constraints and triggers of the application have still to do comes first: so the sending is put
-- behind what is waiting now.
CREATE FUNCTION pgtandem.collect() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    closed bigint;
BEGIN
    PERFORM pg_catalog.set_config('pgtandem.transaction', '', true);
    SELECT s.last_value INTO closed FROM pgtandem.direct_closed_until AS s;
    IF closed > 0 AND closed > extract(epoch FROM pg_catalog.clock_timestamp()) * 1000 THEN
        PERFORM pgtandem.enqueue(NEW.xid), pg_catalog.set_config('pgtandem.why_queued', 'the peer does not answer', false);
        RETURN NULL;
    END IF;
    -- What is prepared may still be rolled back.
    IF pg_catalog.current_query() ~* 'prepare\s+transaction' THEN
        PERFORM pgtandem.enqueue(NEW.xid);
        RETURN NULL;
    END IF;
    INSERT INTO pgtandem.sent (token, xid, outcome) VALUES (pg_catalog.gen_random_uuid(), NEW.xid, 'l');
    RETURN NULL;
END
$$;

-- Why a transaction cannot go directly; none: it can.
CREATE FUNCTION pgtandem.obstacle(mine xid8, tables integer[], ops text, most integer) RETURNS text
LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    fit bigint;
BEGIN
    IF pg_catalog.length(ops) > most THEN
        RETURN 'it is too large';
    END IF;
    -- What was committed since its snapshot it does not see, and so not that a key it inserts is in the queue.
    IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' AND ops ~ '[IKT]' THEN
        RETURN 'it sees only what its snapshot does';
    END IF;
    SELECT pg_catalog.count(*) INTO fit
    FROM pgtandem.linked_table AS l JOIN pgtandem.direct_table AS t ON t.table_id = l.id
    JOIN pg_catalog.pg_class AS c ON c.oid = l.relid
    WHERE l.id = ANY (tables) AND l.state = 'live' AND l.paused_by IS NULL AND c.relnatts = t.natts;
    IF fit < pg_catalog.cardinality(tables) THEN
        RETURN 'a table is paused, or not as it was linked';
    END IF;
    -- A copy of the database has the way to the peer, too.
    IF NOT EXISTS (SELECT FROM pgtandem.node AS n, pg_catalog.pg_control_system() AS c, pg_catalog.pg_database AS d
                   WHERE n.system_identifier = c.system_identifier::text AND n.database_oid = d.oid
                     AND d.datname = pg_catalog.current_database()) THEN
        RETURN 'this is a copy of the database that was linked';
    END IF;
    IF EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind = 'rejoin') THEN
        RETURN 'this node is being brought back';
    END IF;
    IF EXISTS (SELECT FROM pgtandem.held AS h WHERE h.table_id = ANY (tables)) THEN
        RETURN 'rows are held';
    END IF;
    -- The peer writes without asking foreign keys, and a child may be on its way. The hub looks for children.
    IF ops ~ '[DKT]' AND EXISTS (SELECT FROM pgtandem.direct_table AS t WHERE t.table_id = ANY (tables)
                                 AND pg_catalog.cardinality(t.related) > 0) THEN
        RETURN 'what foreign keys tie together is deleted by the hub';
    END IF;
    IF EXISTS (SELECT FROM pgtandem.queued) AND pgtandem.must_wait(mine, tables) THEN
        RETURN 'earlier changes wait';
    END IF;
    RETURN NULL;
END
$$;

-- Sends a transaction to the peer, or leaves it to the hub. Nothing that goes wrong here reaches the application.
CREATE FUNCTION pgtandem.deliver() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS $$
DECLARE
    landed  text := pg_catalog.current_setting('pgtandem.landed', true);
    last    bigint;
    tables  integer[];
    ops     text;
    olds    text[];
    news    text[];
    setting record;
    query   text;
    reply   record;
    begun   timestamptz;
    why     text;
BEGIN
    PERFORM pg_catalog.set_config('pgtandem.transaction', '', true);
    BEGIN
        SELECT * INTO STRICT setting FROM pgtandem.direct;
        SELECT pg_catalog.array_agg(o.table_id ORDER BY o.id), pg_catalog.string_agg(o.op::text, '' ORDER BY o.id),
               pg_catalog.array_agg(o.old_row ORDER BY o.id), pg_catalog.array_agg(o.new_row ORDER BY o.id), pg_catalog.max(o.id)
            INTO tables, ops, olds, news, last FROM pgtandem.outbox AS o WHERE o.xid = NEW.xid;
        IF last IS NULL THEN
            DELETE FROM pgtandem.sent AS s WHERE s.token = NEW.token;
            RETURN NULL;
        END IF;
        why := pgtandem.obstacle(NEW.xid, ARRAY(SELECT DISTINCT t FROM pg_catalog.unnest(tables) AS t), ops, setting.most);
        IF why IS NULL THEN
            query := pg_catalog.format('SELECT pgtandem.arrive(%L, %L, %L, %L, %L, %L, %L)', NEW.token, NEW.xid,
                                       nullif(landed, ''), tables, ops, olds, news);
            IF coalesce(pg_catalog.current_setting('pgtandem.recognised', true), '') = '' THEN
                query := pgtandem.introduce(query);
            END IF;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        why := SQLERRM;
        query := NULL;
    END;
    IF query IS NULL THEN
        PERFORM pg_catalog.set_config('pgtandem.why_queued', coalesce(why, ''), false);
        DELETE FROM pgtandem.sent AS s WHERE s.token = NEW.token;
        PERFORM pgtandem.enqueue(NEW.xid);
        RETURN NULL;
    END IF;
    -- The first one after a pause tries for all.
    IF (SELECT s.last_value FROM pgtandem.direct_closed_until AS s) > 0 THEN
        PERFORM pg_catalog.setval('pgtandem.direct_closed_until',
            (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000)::bigint + setting.wait_ms + 2000);
    END IF;
    -- What the peer is given must not be forgotten here.
    IF pg_catalog.current_setting('synchronous_commit') = 'off' THEN
        PERFORM pg_catalog.set_config('synchronous_commit', 'local', true);
    END IF;
    begun := pg_catalog.clock_timestamp();
    BEGIN
        SELECT * INTO reply FROM pgtandem.ask(query, setting.wait_ms);
    EXCEPTION WHEN OTHERS THEN
        -- Without a connection nothing has been sent. With one it may have been, whatever then went wrong.
        SELECT 'n'::"char" AS state, SQLERRM AS answer INTO reply;
        IF 'pgtandem' = ANY (coalesce({dblink}.dblink_get_connections(), '{}')) THEN
            reply.state := '?';
            PERFORM {dblink}.dblink_disconnect('pgtandem');
        END IF;
    END;
    PERFORM pg_catalog.set_config('pgtandem.why_queued', coalesce(reply.answer, 'no answer'), false);
    IF reply.state = 'a' THEN
        IF (SELECT s.last_value FROM pgtandem.direct_closed_until AS s) > 0 THEN
            PERFORM pg_catalog.setval('pgtandem.direct_closed_until', 0), pg_catalog.setval('pgtandem.direct_pause_ms', 0);
        END IF;
        IF reply.answer = 'landed' THEN
            DELETE FROM pgtandem.outbox_0 AS o WHERE o.xid = NEW.xid;
            DELETE FROM pgtandem.outbox_1 AS o WHERE o.xid = NEW.xid;
            DELETE FROM pgtandem.outbox_2 AS o WHERE o.xid = NEW.xid;
            DELETE FROM pgtandem.sent AS s WHERE s.token = nullif(landed, '')::uuid AND s.outcome = 'l';
            -- For this session's next transaction, if this one commits: the peer need not remember it then.
            PERFORM pg_catalog.set_config('pgtandem.landed', NEW.token::text, false),
                pg_catalog.set_config('pgtandem.recognised', 'yes', false);
            RETURN NULL;
        END IF;
        DELETE FROM pgtandem.sent AS s WHERE s.token = NEW.token;
    ELSE
        PERFORM pgtandem.close_breaker((extract(epoch FROM pg_catalog.clock_timestamp() - begun) * 1000)::integer);
        IF reply.state = '?' THEN
            UPDATE pgtandem.sent AS s SET outcome = '?', last_id = last WHERE s.token = NEW.token;
        ELSE
            DELETE FROM pgtandem.sent AS s WHERE s.token = NEW.token;
        END IF;
    END IF;
    PERFORM pgtandem.enqueue(NEW.xid);
    RETURN NULL;
END
$$;

CREATE CONSTRAINT TRIGGER collect AFTER INSERT ON pgtandem.outbox_0 DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (pgtandem.is_first(NEW.xid)) EXECUTE FUNCTION pgtandem.collect();
CREATE CONSTRAINT TRIGGER collect AFTER INSERT ON pgtandem.outbox_1 DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (pgtandem.is_first(NEW.xid)) EXECUTE FUNCTION pgtandem.collect();
CREATE CONSTRAINT TRIGGER collect AFTER INSERT ON pgtandem.outbox_2 DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (pgtandem.is_first(NEW.xid)) EXECUTE FUNCTION pgtandem.collect();
CREATE CONSTRAINT TRIGGER deliver AFTER INSERT ON pgtandem.sent DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION pgtandem.deliver();

-- Called by the peer: writes one of its transactions, whole or not at all. `ops`: one letter for each change. `acked`: what
-- its sender has committed before. Answers 'landed', or why not.
CREATE FUNCTION pgtandem.arrive(token uuid, sender_xid xid8, acked uuid, tables integer[], ops text, olds text[], news text[])
RETURNS text LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    total   integer := pg_catalog.length(ops);
    at      integer := 1;
    upto    integer;
    befores text[] := '{}';
    part    text[];
    names   text;
BEGIN
    BEGIN
        IF acked IS NOT NULL THEN
            DELETE FROM pgtandem.receipt AS r WHERE r.token = acked AND NOT r.refused;
        END IF;
        PERFORM pg_catalog.set_config('pgtandem.delivery', node.secret::text, true) FROM pgtandem.node;
        IF EXISTS (SELECT FROM pgtandem.linked_table AS l
                   WHERE l.id = ANY (tables) AND (l.state <> 'live' OR l.paused_by IS NOT NULL)) THEN
            PERFORM pgtandem.refuse('PT004', 'a table is paused');
        END IF;
        IF EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind = 'rejoin') THEN
            PERFORM pgtandem.refuse('PT004', 'this node is being brought back');
        END IF;
        WHILE at <= total LOOP
            upto := at;
            IF pg_catalog.substr(ops, at, 1) = 'T' THEN
                -- Tables that refer to each other can only be emptied together.
                WHILE pg_catalog.substr(ops, upto + 1, 1) = 'T' LOOP
                    upto := upto + 1;
                END LOOP;
                SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%I.%I', l.schema_name, l.table_name), ', ') INTO names
                FROM pgtandem.linked_table AS l WHERE l.id = ANY (tables[at:upto]);
                EXECUTE 'TRUNCATE ' || names;
                IF EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = ANY (tables[at:upto])) THEN
                    PERFORM pgtandem.refuse('PT004', 'changes of the table wait here');
                END IF;
                part := pg_catalog.array_fill(NULL::text, ARRAY[upto - at + 1]);
            ELSE
                WHILE upto < total AND tables[upto + 1] = tables[at] AND pg_catalog.substr(ops, upto + 1, 1) <> 'T' LOOP
                    upto := upto + 1;
                END LOOP;
                EXECUTE pg_catalog.format('SELECT pgtandem.arrive_%s($1, $2, $3)', tables[at]) INTO part
                    USING pg_catalog.substr(ops, at, upto - at + 1), olds[at:upto], news[at:upto];
            END IF;
            befores := befores || part;
            at := upto + 1;
        END LOOP;
        IF EXISTS (SELECT FROM pgtandem.held AS h WHERE h.table_id = ANY (tables)) THEN
            PERFORM pgtandem.refuse('PT004', 'rows are held here');
        END IF;
        INSERT INTO pgtandem.receipt (token, sender_xid, tables, ops, befores, olds, news)
            VALUES (token, sender_xid, tables, ops, befores, olds, news);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        RETURN 'refused: ' || SQLERRM;
    END;
    RETURN 'landed';
END
$$;

-- Called by the peer: what it sent under this name will not be written here any more, unless it has been. Waits for one
-- that is at it. Answers 'landed' or 'not landed'.
CREATE FUNCTION pgtandem.settle_receipt(of_token uuid, of_xid xid8) RETURNS text LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    INSERT INTO pgtandem.receipt (token, sender_xid, refused) VALUES (of_token, of_xid, true) ON CONFLICT DO NOTHING;
    RETURN (SELECT CASE WHEN r.refused THEN 'not landed' ELSE 'landed' END FROM pgtandem.receipt AS r WHERE r.token = of_token);
END
$$;

-- The peer is asked again as soon as it answers; by those who can wait.
CREATE FUNCTION pgtandem.try_peer() RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    reply record;
BEGIN
    IF (SELECT s.last_value FROM pgtandem.direct_closed_until AS s) = 0 THEN
        DELETE FROM pgtandem.direct_trouble;
        RETURN;
    END IF;
    BEGIN
        SELECT * INTO reply FROM pgtandem.ask('SELECT ''yes''', 1000);
    EXCEPTION WHEN OTHERS THEN
        RETURN;
    END;
    IF reply.state = 'a' THEN
        PERFORM pg_catalog.setval('pgtandem.direct_closed_until', 0), pg_catalog.setval('pgtandem.direct_pause_ms', 0);
        DELETE FROM pgtandem.direct_trouble;
    END IF;
END
$$;

-- Keeps note of a row that the peer wrote here, and whose transaction then failed there: what became of it.
CREATE FUNCTION pgtandem.note_alone(of_table integer, of_key jsonb, stands jsonb, gone jsonb, became text) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
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
CREATE FUNCTION pgtandem.settle_doubts() RETURNS boolean LANGUAGE plpgsql SET search_path = '' AS $$
DECLARE
    doubt record;
    reply record;
BEGIN
    FOR doubt IN SELECT s.token, s.xid FROM pgtandem.sent AS s WHERE s.outcome = '?' LOOP
        BEGIN
            SELECT * INTO reply FROM pgtandem.ask(
                pg_catalog.format('SELECT pgtandem.settle_receipt(%L, %L)', doubt.token, doubt.xid), 2000);
        EXCEPTION WHEN OTHERS THEN
            RETURN false;
        END;
        IF reply.state <> 'a' THEN
            RETURN false;
        END IF;
        UPDATE pgtandem.sent AS s SET outcome = CASE reply.answer WHEN 'landed' THEN 'L' ELSE 'n' END WHERE s.token = doubt.token;
    END LOOP;
    RETURN true;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA pgtandem FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA pgtandem FROM PUBLIC;
