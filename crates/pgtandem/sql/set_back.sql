-- Direct mode: a node that was set back to an earlier state in its place would write over what it does not know of. Its peer
-- tells.

-- What a session sends first: the peer looks whether it knows more of this node than the node itself, which was set back
-- then. That takes a restart of its server, so once a session is enough.
CREATE FUNCTION pgtandem.introduce(query text) RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT pg_catalog.format('SELECT CASE WHEN pgtandem.recognise(%L, %L, %L) THEN (%s)
                                      ELSE ''refused: the node that sends was set back to an earlier state'' END',
                n.number, coalesce((SELECT p.beat FROM pgtandem.pulse AS p WHERE p.node = n.number), 0),
                -- An old snapshot says nothing of the numbers that are given now.
                CASE WHEN pg_catalog.current_setting('transaction_isolation') = 'read committed'
                     THEN pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot()) END, query)
            FROM pgtandem.node AS n);
END
$$;

-- Called by the peer: whether nothing is known of it here that it does not know itself. Hubs have told of its beats; and
-- where none has run, there are receipts of transactions that it has not begun yet. Those of the last minute may have
-- overtaken what is asked now.
CREATE FUNCTION pgtandem.recognise(of_node smallint, of_beat bigint, next_xid xid8) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN of_beat >= coalesce((SELECT p.beat FROM pgtandem.pulse AS p WHERE p.node = of_node), 0)
        AND NOT EXISTS (SELECT FROM pgtandem.receipt AS r WHERE r.sender_xid >= next_xid AND NOT r.refused
                        AND r.landed_at < pg_catalog.clock_timestamp() - interval '1 minute');
END
$$;
