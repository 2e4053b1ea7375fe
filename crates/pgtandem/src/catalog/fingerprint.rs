//! A node's catalog as a list of objects and what each is like, to prove that nothing was left behind.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tokio_postgres::{Error, GenericClient};

/// Object, such as `sequence public.products_id_seq`, to what it is like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint(pub BTreeMap<String, String>);

/// An object that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub object: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

impl Fingerprint {
    pub fn differences(&self, after: &Self) -> Vec<Difference> {
        let objects: std::collections::BTreeSet<&String> = self.0.keys().chain(after.0.keys()).collect();
        objects
            .into_iter()
            .filter(|object| self.0.get(*object) != after.0.get(*object))
            .map(|object| Difference {
                object: object.clone(),
                before: self.0.get(object).cloned(),
                after: after.0.get(object).cloned(),
            })
            .collect()
    }
}

/// Long definitions are kept as their MD5. Sequence values are left out: applications move them all the time.
const QUERY: &str = "
    SELECT 'schema ' || quote_ident(nspname), concat_ws(' ', pg_get_userbyid(nspowner), nspacl::text)
    FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast_temp)_'
  UNION ALL
    SELECT CASE c.relkind WHEN 'i' THEN 'index ' WHEN 'I' THEN 'index ' WHEN 'S' THEN 'sequence ' WHEN 'v' THEN 'view '
                          ELSE 'table ' END || c.oid::regclass::text,
           concat_ws(' ', c.relkind::text, pg_get_userbyid(c.relowner), c.relacl::text, c.relpersistence::text,  c.reloptions::text,
                     CASE WHEN c.relrowsecurity THEN 'row security' END,
                     (SELECT md5(string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid::regtype, a.atttypmod, a.attnotnull,
                                                      a.attidentity, a.attgenerated, pg_get_expr(d.adbin, d.adrelid)), ','
                                            ORDER BY a.attnum))
                      FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S'),
                     CASE WHEN c.relkind IN ('i', 'I') THEN md5(pg_get_indexdef(c.oid)) END,
                     (SELECT concat_ws(' ', s.seqtypid::regtype, 'increment', s.seqincrement, 'start', s.seqstart,
                                       'min', s.seqmin, 'max', s.seqmax, 'cache', s.seqcache, s.seqcycle)
                      FROM pg_sequence s WHERE s.seqrelid = c.oid))
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'i', 'I', 'S', 'v', 'm', 'f', 'c') AND c.relpersistence <> 't'
      AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  UNION ALL
    SELECT concat('replica identity of ', oid::regclass), relreplident::text
    FROM pg_class WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND oid >= 16384
  UNION ALL
    SELECT concat('trigger ', quote_ident(t.tgname), ' on ', t.tgrelid::regclass), concat_ws(' ', t.tgenabled::text, md5(pg_get_triggerdef(t.oid)))
    FROM pg_trigger t WHERE NOT t.tgisinternal
  UNION ALL
    SELECT concat('constraint ', quote_ident(conname), ' on ', CASE WHEN conrelid <> 0 THEN conrelid::regclass::text ELSE contypid::regtype::text END),
           md5(pg_get_constraintdef(c.oid))
    FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  UNION ALL
    SELECT concat('function ', p.oid::regprocedure), concat_ws(' ', pg_get_userbyid(p.proowner), p.proacl::text, md5(p.prosrc))
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
  UNION ALL
    SELECT concat('type ', t.oid::regtype), concat_ws(' ', t.typtype::text, pg_get_userbyid(t.typowner))
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND n.nspname !~ '^pg_(temp|toast_temp)_'
  UNION ALL
    SELECT 'publication ' || quote_ident(pubname),
           concat_ws(' ', pg_get_userbyid(pubowner), puballtables, pubviaroot,
                     (SELECT string_agg(r.prrelid::regclass::text, ',' ORDER BY r.prrelid::regclass::text)
                      FROM pg_publication_rel r WHERE r.prpubid = p.oid))
    FROM pg_publication p
  UNION ALL
    SELECT 'event trigger ' || quote_ident(evtname), concat_ws(' ', evtevent, evtfoid::regproc, evtenabled::text) FROM pg_event_trigger
  UNION ALL
    SELECT 'extension ' || quote_ident(extname), extversion FROM pg_extension
  UNION ALL
    SELECT 'foreign server ' || quote_ident(srvname), concat_ws(' ', srvoptions::text, srvacl::text) FROM pg_foreign_server
  UNION ALL
    SELECT concat('policy ', quote_ident(polname), ' on ', polrelid::regclass), md5(concat(polcmd::text, polpermissive, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)))
    FROM pg_policy
  UNION ALL
    SELECT concat('settings of ', coalesce(quote_ident(r.rolname), 'everyone'), ' in ',
                  CASE WHEN s.setdatabase = 0 THEN 'every database' ELSE 'this database' END), array_to_string(s.setconfig, ', ')
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
  UNION ALL
    SELECT 'replication slot ' || slot_name, concat_ws(' ', slot_type, plugin)
    FROM pg_replication_slots WHERE NOT temporary AND (database = current_database() OR database IS NULL)
  UNION ALL
    SELECT 'replication origin ' || roname, '' FROM pg_replication_origin";

/// With an empty `search_path`, so that names come out qualified.
pub async fn read_fingerprint(client: &impl GenericClient) -> Result<Fingerprint, Error> {
    let rows = client.query(QUERY, &[]).await?;
    Ok(Fingerprint(rows.iter().map(|row| (row.get(0), row.get::<_, Option<String>>(1).unwrap_or_default())).collect()))
}
