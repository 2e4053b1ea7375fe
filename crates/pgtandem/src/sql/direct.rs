//! What direct mode makes for each table, and what leads to the peer.

use super::{Ident, Literal, QualifiedName, list};

/// Where direct mode finds its extension's functions in `direct.sql`.
pub const DBLINK: &str = "{dblink}";

/// One of the sender's columns, as it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArrivingColumn {
    pub name: Ident,
    /// Of the column here; none: there is none.
    pub type_here: Option<String>,
    /// It is written here.
    pub is_written: bool,
}

/// A table as changes arrive at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectTable {
    pub id: i32,
    pub name: QualifiedName,
    /// The sender's, in its order.
    pub columns: Vec<ArrivingColumn>,
    /// Each with the operator by which its values are equal.
    pub key: Vec<(Ident, String)>,
    /// Columns here that are not computed, whether the sender has them or not.
    pub own_columns: Vec<Ident>,
    /// Linked tables that foreign keys tie it to.
    pub related: Vec<i32>,
    /// Of a partitioned table: the key's columns that do not say in which partition a row is.
    pub kept_in_moves: Option<Vec<Ident>>,
}

fn joined<T: AsRef<str>>(parts: &[T], between: &str) -> String {
    parts.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(between)
}

impl DirectTable {
    fn written(&self) -> Vec<&Ident> {
        self.columns.iter().filter(|column| column.is_written).map(|column| &column.name).collect()
    }

    fn key_names(&self) -> Vec<&Ident> {
        self.key.iter().map(|(column, _)| column).collect()
    }

    fn of(from: &str, columns: &[&Ident]) -> String {
        joined(&columns.iter().map(|column| format!("{from}.{column}")).collect::<Vec<_>>(), ", ")
    }

    /// `here.id = there.id AND …`
    fn same_key(&self, here: &str, there: &str) -> String {
        Self::same(self.key.iter(), here, there)
    }

    fn same<'a>(columns: impl Iterator<Item = &'a (Ident, String)>, here: &str, there: &str) -> String {
        let equal = columns.map(|(column, equals)| format!("{here}.{column} {equals} {there}.{column}"));
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// A row here as the sender would write it.
    fn as_arriving(&self, from: &str) -> String {
        let value = |column: &ArrivingColumn| match column.type_here {
            Some(_) => format!("{from}.{}", column.name),
            None => "NULL".to_owned(),
        };
        let values: Vec<String> = self.columns.iter().map(value).collect();
        format!("ROW({})::pgtandem.arrival_{}", values.join(", "), self.id)
    }

    fn texts(&self, from: &str) -> String {
        let texts = self.written().into_iter().map(|column| format!("{from}.{column}::text"));
        format!("ROW({})", texts.collect::<Vec<_>>().join(", "))
    }

    fn set(&self, from: &str) -> String {
        let set = self.written().into_iter().map(|column| format!("{column} = {from}.{column}"));
        set.collect::<Vec<_>>().join(", ")
    }

    fn key_hash(&self, from: &str) -> String {
        format!("pg_catalog.hash_record_extended(ROW({}), 0)", Self::of(from, &self.key_names()))
    }

    /// The functions by which this node takes the peer's changes of the table, and finds the keys of its own.
    pub fn create(&self) -> Vec<String> {
        vec![
            self.drop_sql(),
            self.arrival_type(),
            self.key_function(),
            self.is_moved_function(),
            self.arrive_function(),
            self.land_function(),
            self.land_single_function(),
            self.stands_function(),
            self.revert_function(),
            self.leave_function(),
            format!(
                "INSERT INTO pgtandem.direct_table (table_id, natts, related, is_partitioned) \
                 SELECT {}, c.relnatts, ARRAY[{}]::integer[], {} FROM pg_catalog.pg_class AS c WHERE c.oid = {}::regclass \
                 ON CONFLICT (table_id) DO UPDATE SET natts = excluded.natts, related = excluded.related",
                self.id,
                list(self.related.iter().map(i32::to_string)),
                self.kept_in_moves.is_some(),
                Literal(&self.name.to_string())
            ),
        ]
    }

    fn drop_sql(&self) -> String {
        drop_direct_table(self.id)
    }

    fn arrival_type(&self) -> String {
        let attribute =
            |column: &ArrivingColumn| format!("{} {}", column.name, column.type_here.as_deref().unwrap_or("text"));
        let attributes: Vec<String> = self.columns.iter().map(attribute).collect();
        format!("CREATE TYPE pgtandem.arrival_{} AS ({})", self.id, attributes.join(", "))
    }

    /// Of a row in this node's outbox.
    fn key_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        let hash = self.key_hash("(found.row_here)");
        format!(
            "CREATE FUNCTION pgtandem.key_{id}(row_text text) RETURNS bigint LANGUAGE sql STABLE STRICT SET search_path = pg_catalog, pg_temp \
             AS $$ SELECT {hash} FROM (SELECT row_text::{name} AS row_here OFFSET 0) AS found $$"
        )
    }

    /// Whether a row of this node's outbox that was deleted and one that was inserted are one that has been moved to another
    /// partition.
    fn is_moved_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        let kept = self.kept_in_moves.iter().flatten();
        let kept: Vec<_> = kept.filter_map(|name| self.key.iter().find(|(column, _)| column == name)).collect();
        let is_moved = match kept.is_empty() {
            true => "false".to_owned(),
            false => {
                let [old_row, new_row] = ["(found.old_row)", "(found.new_row)"];
                let kept = Self::same(kept.into_iter(), old_row, new_row);
                format!("{kept} AND NOT ({})", self.same_key(old_row, new_row))
            }
        };
        format!(
            "CREATE FUNCTION pgtandem.is_moved_{id}(old_text text, new_text text) RETURNS boolean LANGUAGE sql STABLE \
             SET search_path = pg_catalog, pg_temp AS $$ SELECT {is_moved} \
             FROM (SELECT old_text::{name} AS old_row, new_text::{name} AS new_row OFFSET 0) AS found $$"
        )
    }

    /// Writes changes that follow each other, and says what was there before. A row that is not as its sender takes it to
    /// be is none of its business: the whole is refused.
    fn arrive_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        let written = self.written();
        let columns = list(&written);
        let insert = format!("INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE");
        let before_of = |from: &str| format!("{}::text", self.as_arriving(from));
        let hash_arrived = self.key_hash("(a.arrived)");
        let distinct = Self::of("(a.arrived)", &self.key_names());
        let arrived = format!(
            "SELECT u.at, u.arrived::pgtandem.arrival_{id} AS arrived \
             FROM pg_catalog.unnest($ROWS) WITH ORDINALITY AS u (arrived, at) OFFSET 0"
        );
        let arrived_of = |rows: &str| arrived.replace("$ROWS", rows);
        format!(
            "CREATE FUNCTION pgtandem.arrive_{id}(ops text, olds text[], news text[]) RETURNS text[] LANGUAGE plpgsql AS $$
DECLARE
    total   integer := pg_catalog.length(ops);
    letters text[];
    befores text[];
    old_row pgtandem.arrival_{id};
    new_row pgtandem.arrival_{id};
    before  text;
BEGIN
    IF total > 1 AND ops = pg_catalog.repeat('I', total) THEN
        {insert} SELECT {new_columns} FROM ({arrived_new}) AS a;
    ELSIF total > 1 AND (ops = pg_catalog.repeat('U', total) OR ops = pg_catalog.repeat('D', total))
        AND (SELECT pg_catalog.count(DISTINCT ROW({distinct})) = total FROM ({arrived_key}) AS a) THEN
        SELECT pg_catalog.array_agg(b.before ORDER BY b.at) INTO befores FROM (
            SELECT a.at, CASE pg_catalog.left(ops, 1) WHEN 'U' THEN {before_t} ELSE {whole_t} END AS before FROM ({arrived_key}) AS a JOIN {name} AS t ON {key_t_a}
            ORDER BY a.at FOR UPDATE OF t) AS b;
        IF coalesce(pg_catalog.cardinality(befores), 0) < total THEN
            PERFORM pgtandem.refuse('PT004', 'a row is not here');
        END IF;
        IF pg_catalog.left(ops, 1) = 'U' THEN
            UPDATE {name} AS t SET {set_a} FROM ({arrived_new}) AS a WHERE {key_t_a};
        ELSE
            DELETE FROM {name} AS t USING ({arrived_old}) AS a WHERE {key_t_a};
        END IF;
    ELSE
        -- A letter of a long text is found by counting.
        letters := pg_catalog.string_to_array(ops, NULL);
        befores := pg_catalog.array_fill(NULL::text, ARRAY[total]);
        FOR i IN 1 .. total LOOP
            new_row := news[i]::pgtandem.arrival_{id};
            IF letters[i] = 'I' THEN
                {insert} VALUES ({new_row_columns});
                CONTINUE;
            END IF;
            old_row := coalesce(olds[i], news[i])::pgtandem.arrival_{id};
            IF letters[i] = 'D' THEN
                DELETE FROM {name} AS t WHERE {key_t_old} RETURNING {whole_t} INTO before;
                IF NOT FOUND THEN
                    PERFORM pgtandem.refuse('PT004', 'a row is not here');
                END IF;
                befores[i] := before;
            ELSE
                SELECT {before_t} INTO before FROM {name} AS t WHERE {key_t_old} FOR UPDATE;
                IF NOT FOUND THEN
                    PERFORM pgtandem.refuse('PT004', 'a row is not here');
                END IF;
                befores[i] := before;
                UPDATE {name} AS t SET {set_new_row} WHERE {key_t_old};
            END IF;
        END LOOP;
    END IF;
    -- Its rows are locked now: whoever changed them before has committed, and is seen.
    IF EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = {id}) THEN
        IF EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = {id} AND q.key IS NULL)
            OR EXISTS (SELECT FROM ({arrived_all}) AS a, pgtandem.queued AS q
                       WHERE NOT a.arrived IS NULL AND q.table_id = {id} AND q.key = {hash_arrived}) THEN
            PERFORM pgtandem.refuse('PT004', 'changes of the key wait here');
        END IF;
    END IF;
    RETURN befores;
END
$$",
            new_columns = Self::of("(a.arrived)", &written),
            new_row_columns = Self::of("new_row", &written),
            arrived_new = arrived_of("news"),
            arrived_old = arrived_of("olds"),
            arrived_key = arrived_of("CASE pg_catalog.left(ops, 1) WHEN 'U' THEN news ELSE olds END"),
            arrived_all = arrived_of("olds || news"),
            before_t = before_of("t"),
            // Put back, a deleted row must be whole.
            whole_t = "(t.*)::pg_catalog.text",
            key_t_a = self.same_key("t", "(a.arrived)"),
            key_t_old = self.same_key("t", "old_row"),
            set_a = self.set("(a.arrived)"),
            set_new_row = self.set("new_row"),
        )
    }

    /// As `pgtandem.arrive`, for a transaction that changes rows of this table only: nothing has to be put together anew.
    fn land_function(&self) -> String {
        let id = self.id;
        format!(
            "CREATE FUNCTION pgtandem.land_{id}(token uuid, sender_xid xid8, acked uuid, ops text, olds text[], news text[]) \
             RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    befores text[];
    is_done boolean;
BEGIN
    BEGIN
        is_done := pgtandem.begin_arrival('{{{id}}}');
        befores := pgtandem.arrive_{id}(ops, olds, news);
        is_done := pgtandem.end_arrival(token, sender_xid, acked, '{{{id}}}',
            pg_catalog.array_fill({id}, ARRAY[pg_catalog.length(ops)]), ops, befores, olds, news);
    EXCEPTION WHEN OTHERS OR query_canceled THEN
        RETURN 'refused: ' || SQLERRM;
    END;
    RETURN 'landed';
END
$$"
        )
    }

    /// As `land_…`, for a transaction of a single change, in a session that is signed: `sql/direct_single.sql`. An error is the answer
    /// where it does not land; where anything is not ordinary, one that sends it the long way.
    fn land_single_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        let written = self.written();
        format!(
            "CREATE FUNCTION pgtandem.land_single_{id}(of_token uuid, of_xid xid8, acked uuid[], of_op \"char\", old_text text, new_text text) \
             RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    befores text[];
BEGIN
    IF of_op OPERATOR(pg_catalog.=) 'I' THEN
        INSERT INTO {name} ({columns}) OVERRIDING SYSTEM VALUE
            SELECT {values} FROM (SELECT new_text::pgtandem.arrival_{id} AS arrived OFFSET 0) AS a;
    ELSE
        befores := pgtandem.arrive_{id}(of_op::text, ARRAY[old_text], ARRAY[new_text]);
    END IF;
    IF acked IS NOT NULL THEN
        DELETE FROM pgtandem.receipt AS r WHERE r.token OPERATOR(pg_catalog.=) ANY (acked) AND NOT r.refused;
    END IF;
    -- Its row is locked now: whoever changed it before has committed, and is seen.
    INSERT INTO pgtandem.receipt (token, sender_xid, tables, ops, befores, olds, news)
        SELECT of_token, of_xid, '{{{id}}}', of_op, befores, ARRAY[old_text], ARRAY[new_text] FROM pgtandem.linked_table AS l
        WHERE l.id OPERATOR(pg_catalog.=) {id} AND l.state OPERATOR(pg_catalog.=) 'live' AND l.paused_by IS NULL
          AND NOT EXISTS (SELECT FROM pgtandem.queued) AND NOT EXISTS (SELECT FROM pgtandem.held)
          AND NOT EXISTS (SELECT FROM pgtandem.restore AS r WHERE r.kind OPERATOR(pg_catalog.=) 'rejoin')
          AND (SELECT n.secret::text FROM pgtandem.node AS n) OPERATOR(pg_catalog.=) pg_catalog.current_setting('pgtandem.delivery', true);
    IF NOT FOUND THEN
        PERFORM pgtandem.refuse('PT005', 'not by the short way');
    END IF;
    RETURN 'landed';
END
$$",
            columns = list(&written),
            values = Self::of("(a.arrived)", &written),
        )
    }

    /// Whether this node's row under the key of `keyed` is `expected`; none: whether there is none. Both are rows of this
    /// node's own.
    fn stands_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        let (same, found, wanted) = (self.same_key("t", "keyed_row"), self.texts("t"), self.texts("expected_row"));
        format!(
            "CREATE FUNCTION pgtandem.stands_{id}(keyed text, expected text) RETURNS boolean \
             LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keyed_row    {name} := keyed::{name};
    expected_row {name} := expected::{name};
BEGIN
    IF expected IS NULL THEN
        RETURN NOT EXISTS (SELECT FROM {name} AS t WHERE {same});
    END IF;
    RETURN EXISTS (SELECT FROM {name} AS t WHERE {same} AND {found} IS NOT DISTINCT FROM {wanted});
END
$$"
        )
    }

    /// Puts back what a change that arrived had found, if nobody has written over it; otherwise says why not. And says what
    /// was there before, as the sender would write it.
    fn revert_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        let own: Vec<&Ident> = self.own_columns.iter().collect();
        format!(
            "CREATE FUNCTION pgtandem.revert_{id}(op text, old_text text, new_text text, before_text text, \
                                                  OUT why text, OUT before text) \
             LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    old_row    pgtandem.arrival_{id} := coalesce(old_text, new_text)::pgtandem.arrival_{id};
    new_row    pgtandem.arrival_{id} := new_text::pgtandem.arrival_{id};
    before_row pgtandem.arrival_{id};
    whole_row  {name};
BEGIN
    IF op = 'T' THEN
        why := 'a TRUNCATE cannot be put back';
        RETURN;
    END IF;
    {read_before}
    before := before_row::text;
    IF EXISTS (SELECT FROM pgtandem.queued AS q WHERE q.table_id = {id}
               AND (q.key IS NULL OR q.key = {hash_old} OR new_text IS NOT NULL AND q.key = {hash_new})) THEN
        why := 'a later change of it waits here';
        RETURN;
    END IF;
    IF op = 'D' THEN
        INSERT INTO {name} ({own_columns}) OVERRIDING SYSTEM VALUE VALUES ({whole_columns}) ON CONFLICT DO NOTHING;
        IF NOT FOUND THEN
            why := 'its key, or another unique value, has been taken since';
            RETURN;
        END IF;
        PERFORM pgtandem.note_alone({id}, {key_old_json}, {before_json}, NULL, 'put back as it was');
        RETURN;
    END IF;
    PERFORM FROM {name} AS t WHERE {key_new} AND {found} IS NOT DISTINCT FROM {wanted} FOR UPDATE;
    IF NOT FOUND THEN
        why := 'somebody has written over it since';
        RETURN;
    END IF;
    IF op = 'I' THEN
        DELETE FROM {name} AS t WHERE {key_new};
    ELSE
        UPDATE {name} AS t SET {set_before} WHERE {key_new};
    END IF;
    PERFORM pgtandem.note_alone({id}, {key_old_json}, CASE WHEN op <> 'I' THEN {before_json} END, {new_json},
                                'put back as it was');
END
$$",
            read_before = self.read_before(),
            hash_old = self.key_hash("old_row"),
            hash_new = self.key_hash("new_row"),
            own_columns = list(&own),
            whole_columns = Self::of("whole_row", &own),
            key_new = self.same_key("t", "new_row"),
            found = self.texts("t"),
            wanted = self.texts("new_row"),
            set_before = self.set("before_row"),
            key_old_json = json("old_row", &self.key_names()),
            new_json = json("new_row", &self.written()),
            before_json = json("before_row", &self.written()),
        )
    }

    /// Keeps note of a change that is not put back: what stands, and what would have been put in its place.
    fn leave_function(&self) -> String {
        let (id, name) = (self.id, &self.name);
        format!(
            "CREATE FUNCTION pgtandem.leave_{id}(op text, old_text text, new_text text, before_text text, why text) \
             RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    keyed_row  pgtandem.arrival_{id} := coalesce(new_text, old_text)::pgtandem.arrival_{id};
    before_row pgtandem.arrival_{id};
    whole_row  {name};
    stands     jsonb;
BEGIN
    {read_before}
    SELECT {stands_json} INTO stands FROM {name} AS t WHERE {same_key};
    PERFORM pgtandem.note_alone({id}, {key_json}, stands, CASE WHEN op <> 'I' THEN {before_json} END,
                                'left as it is: ' || why);
END
$$",
            read_before = self.read_before(),
            stands_json = json("t", &self.written()),
            same_key = self.same_key("t", "keyed_row"),
            key_json = json("keyed_row", &self.key_names()),
            before_json = json("before_row", &self.written()),
        )
    }

    /// Of a row that was deleted more is kept than the sender knows.
    fn read_before(&self) -> String {
        format!(
            "IF op = 'D' THEN
        whole_row := before_text::{name};
        before_row := {as_arriving};
    ELSE
        before_row := before_text::pgtandem.arrival_{id};
    END IF;",
            id = self.id,
            name = self.name,
            as_arriving = self.as_arriving("whole_row"),
        )
    }
}

pub fn drop_direct_table(id: i32) -> String {
    format!(
        "DROP TYPE IF EXISTS pgtandem.arrival_{id} CASCADE; DROP FUNCTION IF EXISTS pgtandem.key_{id}(text); \
         DROP FUNCTION IF EXISTS pgtandem.is_moved_{id}(text, text); \
         DROP FUNCTION IF EXISTS pgtandem.arrive_{id}(text, text[], text[]); \
         DROP FUNCTION IF EXISTS pgtandem.land_{id}(uuid, xid8, uuid, text, text[], text[]); \
         DROP FUNCTION IF EXISTS pgtandem.land_single_{id}(uuid, xid8, uuid[], \"char\", text, text); \
         DROP FUNCTION IF EXISTS pgtandem.stands_{id}(text, text); \
         DROP FUNCTION IF EXISTS pgtandem.revert_{id}(text, text, text, text); \
         DROP FUNCTION IF EXISTS pgtandem.leave_{id}(text, text, text, text, text); \
         DELETE FROM pgtandem.direct_table WHERE table_id = {id}"
    )
}

/// Values as the decision record has them: texts.
fn json(from: &str, columns: &[&Ident]) -> String {
    let pairs = columns.iter().map(|column| format!("{}, {from}.{column}::text", Literal(column.as_str())));
    format!("pg_catalog.jsonb_object(ARRAY[{}])", pairs.collect::<Vec<_>>().join(", "))
}

/// An option of a foreign server or a user mapping.
pub type ServerOption = (&'static str, String);

fn options(of: &[ServerOption]) -> String {
    list(of.iter().map(|(name, value)| format!("{name} {}", Literal(value))))
}

pub fn create_server(server: &Ident, of: &[ServerOption]) -> String {
    format!("CREATE SERVER {server} FOREIGN DATA WRAPPER postgres_fdw OPTIONS ({})", options(of))
}

/// Options that are there already.
pub fn alter_server(server: &Ident, of: &[ServerOption]) -> String {
    let set = of.iter().map(|(name, value)| format!("SET {name} {}", Literal(value)));
    format!("ALTER SERVER {server} OPTIONS ({})", list(set))
}

pub fn create_user_mapping(server: &Ident, of: &[ServerOption]) -> String {
    format!("CREATE USER MAPPING FOR CURRENT_USER SERVER {server} OPTIONS ({})", options(of))
}

pub fn drop_server(server: &Ident) -> String {
    format!("DROP SERVER IF EXISTS {server} CASCADE")
}

/// The peer's table as one that can be read and written here.
pub fn create_foreign_table(
    name: &QualifiedName,
    server: &Ident,
    there: &QualifiedName,
    columns: &[(Ident, String)],
) -> String {
    let columns = list(columns.iter().map(|(column, type_text)| format!("{column} {type_text}")));
    format!(
        "CREATE FOREIGN TABLE {name} ({columns}) SERVER {server} OPTIONS (schema_name {}, table_name {})",
        Literal(there.schema.own_str()),
        Literal(there.name.own_str())
    )
}

pub fn drop_foreign_table(name: &QualifiedName) -> String {
    format!("DROP FOREIGN TABLE IF EXISTS {name}")
}
