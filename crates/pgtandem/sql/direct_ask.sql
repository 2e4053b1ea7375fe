-- Direct mode: how a session reaches the peer, asks it something and waits for the answer, never for longer than it may; and what
-- becomes of a peer that does not answer.

-- Connects to the peer. From PostgreSQL 16 on dblink waits for a frozen server without end, whatever `connect_timeout` says:
-- so another session of this server is sent ahead, which we need not wait for. False: the time is up.
CREATE FUNCTION pgtandem.reach(until timestamptz) RETURNS boolean LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
            PERFORM pg_catalog.pg_sleep(0.0005);
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
CREATE FUNCTION pgtandem.probe() RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM {dblink}.dblink_connect('pgtandem_peer', (SELECT d.server FROM pgtandem.direct AS d));
    PERFORM {dblink}.dblink_disconnect('pgtandem_peer');
    RETURN 'reached';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLERRM;
END
$$;

-- Asks the peer something and waits for the answer, no longer than that. `state`: 'a' it answered; 'n' it was not asked;
-- '?' it was asked, and what became of it is not known. An error: as '?'.
--
-- A sleep takes a millisecond at least, and whoever waits awake keeps the processor from others, who may be the ones that
-- answer. So who is alone waits awake, and if others are at it, too, or no answer has come in 5 ms, it sleeps the next times. (A
-- scheduler may need that long to find that who answers could run on another processor.) Who sleeps shows that it is there by a
-- lock that all may share, but none who is alone.
CREATE FUNCTION pgtandem.ask(query text, wait_ms integer, OUT state "char", OUT answer text)
LANGUAGE plpgsql AS $$
DECLARE
    until    timestamptz := pg_catalog.clock_timestamp() + wait_ms * interval '1 ms';
    asleep   integer := coalesce(nullif(pg_catalog.current_setting('pgtandem.asleep', true), ''), '0')::integer;
    is_awake boolean := false;
    -- More than the network takes without the other side: it must be known to listen, or the sending would not end.
    is_large boolean := pg_catalog.octet_length(query) > 60000;
    opening  text := CASE WHEN is_large THEN 'SELECT ''''' ELSE query END;
    ignored  text;
BEGIN
    IF asleep = 0 THEN
        is_awake := pg_catalog.pg_try_advisory_xact_lock(1346851182, 1);
        asleep := CASE WHEN is_awake THEN 0 ELSE 20 END;
    END IF;
    IF NOT is_awake THEN
        PERFORM pg_catalog.pg_try_advisory_xact_lock_shared(1346851182, 1);
        ignored := pg_catalog.set_config('pgtandem.asleep', (asleep - 1)::text, false);
    END IF;
    state := 'n';
    IF 'pgtandem' = ANY ({dblink}.dblink_get_connections()) THEN
        -- Notices when the other side has closed it, as after a restart: why is read first, and that it has at the second look.
        IF {dblink}.dblink_is_busy('pgtandem') + {dblink}.dblink_is_busy('pgtandem') = 0 AND {dblink}.dblink_send_query('pgtandem', opening) = 1 THEN
            state := '?';
        ELSE
            ignored := {dblink}.dblink_disconnect('pgtandem');
        END IF;
    END IF;
    IF state = 'n' THEN
        BEGIN
            IF NOT pgtandem.reach(until) THEN
                answer := 'the peer cannot be reached';
                RETURN;
            END IF;
        EXCEPTION WHEN OTHERS THEN
            answer := SQLERRM;
            RETURN;
        END;
        IF {dblink}.dblink_send_query('pgtandem', opening) <> 1 THEN
            ignored := {dblink}.dblink_disconnect('pgtandem');
            RETURN;
        END IF;
        state := '?';
    END IF;
    IF is_large THEN
        state := 'n';
        IF pgtandem.reply(until, false) IS NULL OR {dblink}.dblink_send_query('pgtandem', query) <> 1 THEN
            ignored := {dblink}.dblink_disconnect('pgtandem');
            RETURN;
        END IF;
        state := '?';
    END IF;
    answer := pgtandem.reply(until, is_awake);
    IF answer IS NULL THEN
        ignored := {dblink}.dblink_disconnect('pgtandem');
        RETURN;
    END IF;
    state := 'a';
END
$$;

-- What the peer answers. None: the time is up, or the connection is gone.
CREATE FUNCTION pgtandem.reply(until timestamptz, is_awake boolean) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    awake  timestamptz := pg_catalog.clock_timestamp() + interval '5 ms';
    now_is timestamptz;
    answer text;
BEGIN
    WHILE {dblink}.dblink_is_busy('pgtandem') = 1 LOOP
        now_is := pg_catalog.clock_timestamp();
        IF is_awake THEN
            -- Looks once more behind that: the answer may have come while another process had the processor.
            is_awake := now_is < awake;
            IF NOT is_awake THEN
                PERFORM pg_catalog.set_config('pgtandem.asleep', '20', false);
            END IF;
            CONTINUE;
        END IF;
        IF now_is > until THEN
            RETURN NULL;
        END IF;
        -- Rounded up to whole milliseconds, which makes two of what is written as one.
        PERFORM pg_catalog.pg_sleep(0.0005);
    END LOOP;
    SELECT r.t INTO answer FROM {dblink}.dblink_get_result('pgtandem', false) AS r (t text);
    -- With the answer comes that the peer is ready for the next question: seen here, it need not be waited for there.
    WHILE {dblink}.dblink_is_busy('pgtandem') = 1 LOOP
        IF pg_catalog.clock_timestamp() > until THEN
            RETURN NULL;
        END IF;
    END LOOP;
    RETURN answer;
END
$$;

-- The peer did not answer, after so long: it is not asked for a while, the longer the longer it has been so.
CREATE FUNCTION pgtandem.close_breaker(took_ms integer) RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
