-- Direct mode: the short way of a transaction that changes a single row, as most do. What it takes beside the two writes is what an
-- application waits for: each statement and each expression here is one too many. So nothing is looked at that need not be, and
-- whatever is out of the ordinary goes the long way (direct.sql), by way of the outbox.
--
-- `pgtandem.single` says where a session is: 'open', and its next transaction may go the short way; a token, that of the change
-- which is about to go it; 'closed', this transaction goes the long way, or has gone; or nothing. Landing by the long way opens it
-- for some seconds: by then it is known that the peer answers, that it knows the session, and that nobody defers what may
-- still fail behind us.

-- The change, in the transaction that makes it. If it is committed here, it has landed: what has not goes to the outbox before. Rows
-- stay until the session says that the peer need not remember them, some dozens at a time.
CREATE TABLE pgtandem.single (
    token    uuid PRIMARY KEY,
    id       bigint NOT NULL,                           -- as in the outbox, should it go there
    xid      xid8 NOT NULL,
    table_id integer NOT NULL,
    relid    oid NOT NULL,
    op       "char" NOT NULL,                           -- 'I', 'U', 'K' or 'D'
    old_row  text,
    new_row  text
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- What a session's changes are signed with on the peer, in the session there.
CREATE FUNCTION pgtandem.sign_session() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN pg_catalog.set_config('pgtandem.delivery', (SELECT n.secret::text FROM pgtandem.node AS n), false) IS NOT NULL;
END
$$;

-- Whether the short way may be opened, should the transaction land. Looked at every ten seconds at most: a deferrable constraint or
-- trigger of the application's may fail, or write, behind what goes the short way.
CREATE FUNCTION pgtandem.may_open_single() RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    now_is  double precision := date_part('epoch', pg_catalog.clock_timestamp());
    ignored text;
BEGIN
    IF coalesce(nullif(pg_catalog.current_setting('pgtandem.single_until', true), '')::double precision, 0) > now_is THEN
        RETURN false;
    END IF;
    ignored := pg_catalog.set_config('pgtandem.single_until', (now_is + 10)::text, false);
    RETURN NOT EXISTS (SELECT FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.tgrelid
                       WHERE t.tgdeferrable AND c.relnamespace <> 'pgtandem'::regnamespace);
END
$$;

-- From the session's next transaction on. This one goes on as it has begun.
CREATE FUNCTION pgtandem.open_single() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ignored text := pg_catalog.set_config('pgtandem.asleep', '0', false);
BEGIN
    ignored := pg_catalog.set_config('pgtandem.single', 'open', false);
    ignored := pg_catalog.set_config('pgtandem.single', 'closed', true);
END
$$;

-- The change goes the long way. Nothing happens if it has gone already, by whichever way.
CREATE FUNCTION pgtandem.unload_single(of_token uuid) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    change record;
BEGIN
    DELETE FROM pgtandem.single AS s WHERE s.token = of_token AND s.xid = pg_catalog.pg_current_xact_id() RETURNING s.* INTO change;
    IF FOUND THEN
        EXECUTE pg_catalog.format('INSERT INTO pgtandem.outbox_%s (id, xid, at, table_id, relid, op, old_row, new_row)
            VALUES ($1, $2, pg_catalog.clock_timestamp(), $3, $4, $5, $6, $7)', (change.id >> 32) % 3)
            USING change.id, change.xid, change.table_id, change.relid, change.op, change.old_row, change.new_row;
    END IF;
END
$$;

-- The transaction goes the long way: it has more than one change. `given`: what `pgtandem.single` said.
CREATE FUNCTION pgtandem.end_single(given text) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    ignored text := pg_catalog.set_config('pgtandem.single', 'closed', true);
BEGIN
    PERFORM pgtandem.unload_single(pgtandem.token_in(given));
END
$$;

-- At COMMIT. One statement sends, if nothing at all is in the way; how the answer is waited for is said at `ask`.
CREATE FUNCTION pgtandem.deliver_single() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET client_min_messages = error AS $$
DECLARE
    is_sent integer;
    acked   pg_catalog.text;
    until   pg_catalog.timestamptz;
    awake   pg_catalog.timestamptz;
    answer  pg_catalog.text;
    fault   pg_catalog.text;
BEGIN
    BEGIN
        IF pg_catalog.length(pg_catalog.current_setting('pgtandem.single_landed', true)) OPERATOR(pg_catalog.>) 1150 THEN
            -- What can be seen has committed, but for this transaction's own; what was prepared may still be rolled back. What is gone, a
            -- hub has cleared away.
            SELECT coalesce(pg_catalog.array_agg(s.token)::pg_catalog.text, '{}') INTO acked FROM pgtandem.single AS s
            WHERE s.xid OPERATOR(pg_catalog.<>) NEW.xid AND s.token OPERATOR(pg_catalog.=) ANY (pg_catalog.string_to_array(
                pg_catalog.current_setting('pgtandem.single_landed'), ',')::pg_catalog.uuid[]);
        END IF;
        SELECT pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => d.wait_ms OPERATOR(pg_catalog./) 1000.0),
               CASE WHEN pg_catalog.current_setting('pgtandem.asleep') OPERATOR(pg_catalog.<>) '0' THEN
                        CASE WHEN pg_catalog.set_config('pgtandem.asleep', (pg_catalog.current_setting('pgtandem.asleep')::integer
                                 OPERATOR(pg_catalog.-) 1)::pg_catalog.text, false) IS NOT NULL
                             AND pg_catalog.pg_try_advisory_xact_lock_shared(1346851182, 1) THEN NULL::pg_catalog.timestamptz END
                    WHEN pg_catalog.pg_try_advisory_xact_lock(1346851182, 1) THEN
                        pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) interval '5 ms'
                    WHEN pg_catalog.set_config('pgtandem.asleep', '20', false) IS NOT NULL
                        AND pg_catalog.pg_try_advisory_xact_lock_shared(1346851182, 1) THEN NULL::pg_catalog.timestamptz END,
               {dblink}.dblink_send_query('pgtandem', pg_catalog.format('SELECT pgtandem.land_single_%s(%L, %L, %L, %L, %L, %L)',
                   NEW.table_id, NEW.token, NEW.xid, acked, NEW.op, NEW.old_row, NEW.new_row))
            INTO until, awake, is_sent
            FROM pgtandem.direct AS d
            WHERE pg_catalog.current_setting('pgtandem.single', true) OPERATOR(pg_catalog.=) NEW.token::pg_catalog.text
              AND pg_catalog.current_setting('pgtandem.single_until')::double precision OPERATOR(pg_catalog.>)
                  pg_catalog.date_part('epoch', pg_catalog.clock_timestamp())
              AND (SELECT t.natts FROM pgtandem.direct_table AS t
                   WHERE t.table_id OPERATOR(pg_catalog.=) NEW.table_id AND NOT t.is_partitioned
                     AND (NEW.op OPERATOR(pg_catalog.=) ANY ('{I,U}'::pg_catalog."char"[])
                          OR pg_catalog.cardinality(t.related) OPERATOR(pg_catalog.=) 0))
                  OPERATOR(pg_catalog.=) (SELECT c.relnatts FROM pg_catalog.pg_class AS c WHERE c.oid OPERATOR(pg_catalog.=) NEW.relid)
              AND EXISTS (SELECT FROM pgtandem.linked_table AS l WHERE l.id OPERATOR(pg_catalog.=) NEW.table_id
                          AND l.state OPERATOR(pg_catalog.=) 'live' AND l.paused_by IS NULL)
              AND NOT EXISTS (SELECT FROM pgtandem.queued)
              AND NOT EXISTS (SELECT FROM pgtandem.held)
              AND NOT EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind OPERATOR(pg_catalog.=) 'rejoin')
              AND coalesce(pg_catalog.pg_sequence_last_value('pgtandem.direct_closed_until'::pg_catalog.regclass), 0)
                  OPERATOR(pg_catalog.=) 0
              AND pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.=) 'read committed'
              AND pg_catalog.current_setting('synchronous_commit') OPERATOR(pg_catalog.<>) 'off'
              AND pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1
              AND (pg_catalog.current_setting('max_prepared_transactions') OPERATOR(pg_catalog.=) '0'
                   OR NOT pg_catalog.current_query() OPERATOR(pg_catalog.~~*) '%prepare%')
              AND pg_catalog.octet_length(pg_catalog.concat(NEW.old_row, NEW.new_row)) OPERATOR(pg_catalog.<) 20000
              -- Notices when the other side has closed it, as after a restart: why is read first, and that it has at the second look.
              AND CASE WHEN 'pgtandem' OPERATOR(pg_catalog.=) ANY ({dblink}.dblink_get_connections())
                       THEN {dblink}.dblink_is_busy('pgtandem') OPERATOR(pg_catalog.+) {dblink}.dblink_is_busy('pgtandem')
                            OPERATOR(pg_catalog.=) 0 END;
        IF is_sent OPERATOR(pg_catalog.=) 1 THEN
            WHILE {dblink}.dblink_is_busy('pgtandem') OPERATOR(pg_catalog.=) 1
                AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) awake LOOP
            END LOOP;
            WHILE {dblink}.dblink_is_busy('pgtandem') OPERATOR(pg_catalog.=) 1
                AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) until
                -- Rounded up to whole milliseconds, which makes two of what is written as one.
                AND pg_catalog.pg_sleep(0.0005) IS NOT NULL LOOP
                IF awake IS NOT NULL THEN
                    awake := NULL;
                    fault := pg_catalog.set_config('pgtandem.asleep', '20', false);
                END IF;
            END LOOP;
            fault := NULL;
            IF {dblink}.dblink_is_busy('pgtandem') OPERATOR(pg_catalog.=) 0 THEN
                -- An error of the peer's gives no row: `fate_of_single`.
                SELECT r.t INTO answer FROM {dblink}.dblink_get_result('pgtandem', false) AS r (t pg_catalog.text);
            END IF;
        END IF;
    EXCEPTION WHEN OTHERS THEN
        fault := SQLERRM;
        answer := NULL;
    END;
    IF is_sent OPERATOR(pg_catalog.=) 1 AND answer IS NULL THEN
        SELECT f.answer, f.why INTO answer, fault FROM pgtandem.fate_of_single(NEW.token, fault, until) AS f;
    END IF;
    IF answer OPERATOR(pg_catalog.=) 'landed' THEN
        -- With the answer comes that the peer is ready for the next question.
        WHILE {dblink}.dblink_is_busy('pgtandem') OPERATOR(pg_catalog.=) 1
            AND pg_catalog.clock_timestamp() OPERATOR(pg_catalog.<) until LOOP
        END LOOP;
        IF acked IS NOT NULL THEN
            -- No others: the peer keeps what it was not told of, and takes a receipt without a row here for that of a failure.
            -- What a hub is clearing away it is left.
            DELETE FROM pgtandem.single AS s WHERE s.token OPERATOR(pg_catalog.=) ANY (ARRAY(
                SELECT t.token FROM pgtandem.single AS t WHERE t.token OPERATOR(pg_catalog.=) ANY (acked::pg_catalog.uuid[])
                FOR UPDATE SKIP LOCKED));
            answer := pg_catalog.set_config('pgtandem.single_landed', '', false);
        END IF;
        -- For this session's later transactions, if this one commits; and what is still to come of it goes by itself.
        answer := pg_catalog.concat(
            pg_catalog.set_config('pgtandem.single_landed', pg_catalog.concat_ws(',', CASE
                WHEN pg_catalog.current_setting('pgtandem.single_landed', true) OPERATOR(pg_catalog.<>) ''
                THEN pg_catalog.current_setting('pgtandem.single_landed') END, NEW.token), false),
            pg_catalog.set_config('pgtandem.single', 'closed', true), pg_catalog.set_config('pgtandem.why_queued', 'landed', false));
        RETURN NULL;
    END IF;
    PERFORM pgtandem.leave_single(NEW.token, NEW.xid, coalesce(is_sent, 0), answer, fault, until);
    RETURN NULL;
END
$$;

-- It was sent, and no answer could be read. If it was an error, the session there is at rest, and can be asked: then what it has
-- written has committed, or never will. None: nobody knows.
CREATE FUNCTION pgtandem.fate_of_single(of_token uuid, fault text, until timestamptz, OUT answer text, OUT why text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    why := fault;
    IF fault IS NOT NULL THEN
        RETURN;
    END IF;
    WHILE {dblink}.dblink_is_busy('pgtandem') = 1 LOOP
        IF pg_catalog.clock_timestamp() >= until THEN
            RETURN;
        END IF;
    END LOOP;
    -- Without its severity.
    why := regexp_replace(split_part({dblink}.dblink_error_message('pgtandem'), E'\n', 1), '^[A-Z]+: +', '');
    -- On this very connection: another session might look while the first one is still at it.
    IF {dblink}.dblink_send_query('pgtandem', pg_catalog.format(
        'SELECT CASE WHEN EXISTS (SELECT FROM pgtandem.receipt AS r WHERE r.token = %L) THEN ''landed'' ELSE ''refused'' END', of_token)) = 1 THEN
        answer := pgtandem.reply(until, false);
    END IF;
EXCEPTION WHEN OTHERS THEN
    answer := NULL;
END
$$;

-- What did not land by the short way. `answer`: 'refused', or none, and it is in doubt.
CREATE FUNCTION pgtandem.leave_single(of_token uuid, mine xid8, is_sent integer, answer text, why text, until timestamptz)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wait_ms  integer := (SELECT d.wait_ms FROM pgtandem.direct AS d);
    left_ms  double precision := pg_catalog.date_part('epoch', until - pg_catalog.clock_timestamp()) * 1000;
    -- Here or there it is not ordinary: the long way. But not so late that the two together would take too long.
    is_long  boolean := is_sent <> 1 OR coalesce(answer = 'refused' AND why LIKE '%not by the short way%' AND left_ms > wait_ms / 2, false);
    ignored  text;
BEGIN
    IF NOT is_long THEN
        -- It is not to be collected for the peer once more.
        ignored := pg_catalog.set_config('pgtandem.transaction', mine::text, true);
    END IF;
    -- Whatever the settings say: an application may reset them all.
    PERFORM pgtandem.unload_single(of_token);
    IF pg_catalog.current_setting('pgtandem.single', true) = of_token::text AND is_long THEN
        -- What is not ordinary will be so for a while.
        ignored := pg_catalog.set_config('pgtandem.single', '', false);
    END IF;
    ignored := pg_catalog.set_config('pgtandem.single', 'closed', true);
    IF is_long THEN
        RETURN;
    END IF;
    ignored := pg_catalog.set_config('pgtandem.transaction', '', true);
    ignored := pg_catalog.set_config('pgtandem.why_queued', coalesce(why, 'no answer'), false);
    IF answer IS NULL THEN
        INSERT INTO pgtandem.sent (token, xid, last_id, outcome)
            SELECT of_token, mine, pg_catalog.max(o.id), '?' FROM pgtandem.outbox AS o WHERE o.xid = mine;
        ignored := pg_catalog.set_config('pgtandem.waits', of_token::text, true);
        IF 'pgtandem' = ANY ({dblink}.dblink_get_connections()) THEN
            PERFORM {dblink}.dblink_disconnect('pgtandem');
        END IF;
        PERFORM pgtandem.close_breaker((wait_ms - left_ms)::integer);
    END IF;
    PERFORM pgtandem.enqueue(mine);
END
$$;

CREATE CONSTRAINT TRIGGER deliver AFTER INSERT ON pgtandem.single DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION pgtandem.deliver_single();
-- What was captured goes its way, whatever role an application's session takes on meanwhile.
ALTER TABLE pgtandem.single ENABLE ALWAYS TRIGGER deliver;
