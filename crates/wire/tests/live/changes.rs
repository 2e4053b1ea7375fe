//! What is written comes out of the stream.

use wire::{Column, Event, Lsn, Message, Old, PgOutputOptions, ReplicaIdentity, Stream, Tuple};

use crate::cluster::{Cluster, PATIENCE, until};

/// The next message that is not a keepalive.
pub async fn message(stream: &mut Stream) -> Message {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await;
        if let Event::Message { message, .. } = event.expect("in time").expect("event") {
            return message;
        }
    }
}

/// The messages of the next transaction, without its begin and commit.
async fn transaction(stream: &mut Stream) -> Vec<Message> {
    assert!(matches!(message(stream).await, Message::Begin { .. }));
    let mut messages = Vec::new();
    loop {
        match message(stream).await {
            Message::Commit { .. } => return messages,
            other => messages.push(other),
        }
    }
}

pub fn texts(tuple: &Tuple) -> Vec<String> {
    let text = |column| match column {
        Column::Null => "NULL".to_owned(),
        Column::UnchangedToast => "TOAST".to_owned(),
        Column::Text(value) => String::from_utf8(value.to_vec()).expect("UTF-8"),
        Column::Binary(value) => format!("{value:02x?}"),
    };
    tuple.columns().map(text).collect()
}

const SCHEMA: &str = "
CREATE TYPE mood AS ENUM ('sad', 'glad');
CREATE TABLE items (id int PRIMARY KEY, name text, m mood);
ALTER TABLE items ALTER name SET STORAGE EXTERNAL;
CREATE TABLE whole (id int PRIMARY KEY, name text);
ALTER TABLE whole REPLICA IDENTITY FULL;
INSERT INTO items VALUES (0, 'before the slot');
CREATE PUBLICATION pub FOR TABLE items, whole;
";

/// One transaction each.
const WRITES: [&str; 8] = [
    "INSERT INTO items VALUES (1, 'after the slot', 'glad')",
    "UPDATE items SET name = repeat('x', 5000) WHERE id = 1",
    "UPDATE items SET m = NULL WHERE id = 1",
    "UPDATE items SET id = 2 WHERE id = 1",
    "DELETE FROM items WHERE id = 2",
    "INSERT INTO whole VALUES (7, 'a'); UPDATE whole SET name = 'b'; DELETE FROM whole",
    "TRUNCATE items, whole RESTART IDENTITY CASCADE",
    "SELECT pg_logical_emit_message(true, 'pre', 'content')",
];

#[tokio::test]
async fn every_kind_of_change_arrives() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(SCHEMA).await.expect("schema");
    let mut client = cluster.replication().await;
    client.create_slot("s", false, false).await.expect("slot");
    for write in WRITES {
        sql.batch_execute(write).await.expect(write);
    }
    let mut options = PgOutputOptions::new(["pub"]);
    options.messages = true;
    let started = client.start("s", Lsn::NONE, &options).await;
    let (mut stream, _feedback) = started.expect("stream");

    check_descriptions_and_insert(&transaction(&mut stream).await);
    check_updates_and_delete(&mut stream).await;
    check_whole_old_rows(&transaction(&mut stream).await);
    let truncate = transaction(&mut stream).await;
    let Some(Message::Truncate { cascade: true, restart_identity: true, relations }) = truncate.last() else {
        panic!("{truncate:?}")
    };
    assert_eq!(relations.len(), 2);
    let emitted = transaction(&mut stream).await;
    let [Message::Message { transactional: true, prefix, content, .. }] = &emitted[..] else { panic!("{emitted:?}") };
    assert_eq!((prefix.as_str(), &content[..]), ("pre", &b"content"[..]));

    stream.stop(PATIENCE).await.expect("good end");
    let mut client = cluster.replication().await;
    client.drop_slot("s", true).await.expect("drop");
    let missing = client.drop_slot("s", false).await.expect_err("no such slot");
    assert_eq!(missing.code(), Some("42704"));
}

fn check_descriptions_and_insert(messages: &[Message]) {
    let [Message::Type { namespace, name, .. }, Message::Relation(items), Message::Insert { relation, new }] = messages
    else {
        panic!("{messages:?}")
    };
    assert_eq!((namespace.as_str(), name.as_str()), ("public", "mood"));
    assert_eq!((items.namespace.as_str(), items.name.as_str()), ("public", "items"));
    assert_eq!(items.replica_identity, ReplicaIdentity::Default);
    let columns = items.columns.iter();
    let columns: Vec<_> = columns.map(|c| (c.name.as_str(), c.key, c.type_modifier)).collect();
    assert_eq!(columns, [("id", true, -1), ("name", false, -1), ("m", false, -1)]);
    assert_eq!(*relation, items.oid);
    assert_eq!(texts(new), ["1", "after the slot", "glad"]);
}

async fn check_updates_and_delete(stream: &mut Stream) {
    let update = transaction(stream).await;
    let [Message::Update { old: None, new, .. }] = &update[..] else { panic!("{update:?}") };
    assert_eq!(texts(new), ["1", &"x".repeat(5000), "glad"]);

    let toast = transaction(stream).await;
    let [Message::Update { old: None, new, .. }] = &toast[..] else { panic!("{toast:?}") };
    assert_eq!(texts(new), ["1", "TOAST", "NULL"]);
    assert!(new.has_unchanged_toast());

    let key = transaction(stream).await;
    let [Message::Update { old: Some(Old::Key(old)), new, .. }] = &key[..] else { panic!("{key:?}") };
    assert_eq!(texts(old), ["1", "NULL", "NULL"]);
    assert_eq!(texts(new), ["2", "TOAST", "NULL"]);

    let delete = transaction(stream).await;
    let [Message::Delete { old: Old::Key(old), .. }] = &delete[..] else { panic!("{delete:?}") };
    assert_eq!(texts(old), ["2", "NULL", "NULL"]);
}

fn check_whole_old_rows(messages: &[Message]) {
    let [
        Message::Relation(relation),
        Message::Insert { .. },
        Message::Update { old: Some(Old::Full(before)), new: after, .. },
        Message::Delete { old: Old::Full(last), .. },
    ] = messages
    else {
        panic!("{messages:?}")
    };
    assert_eq!(relation.replica_identity, ReplicaIdentity::Full);
    assert_eq!(texts(before), ["7", "a"]);
    assert_eq!(texts(after), ["7", "b"]);
    assert_eq!(texts(last), ["7", "b"]);
}

#[tokio::test]
async fn the_exported_snapshot_ends_where_the_slot_begins() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(SCHEMA).await.expect("schema");
    let mut client = cluster.replication().await;
    let identity = client.identify_system().await.expect("identity");
    assert_eq!((identity.database.as_str(), identity.timeline), ("postgres", 1));
    let same = format!("SELECT system_identifier::text = '{}' FROM pg_control_system()", identity.system_identifier);
    until(&sql, &same).await;

    let slot = client.create_slot("s", false, true).await.expect("slot");
    assert!(slot.consistent_point >= identity.wal_position);
    sql.batch_execute(WRITES[0]).await.expect("row");
    let snapshot = slot.snapshot.expect("exported snapshot");
    let reader = cluster.sql().await;
    reader
        .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"))
        .await
        .expect("snapshot");
    let count = reader.query_one("SELECT count(*) FROM items", &[]).await.expect("count");
    assert_eq!(count.get::<_, i64>(0), 1);

    let options = PgOutputOptions::new(["pub"]);
    let started = client.start("s", slot.consistent_point, &options).await;
    let (mut stream, _feedback) = started.expect("stream");
    check_descriptions_and_insert(&transaction(&mut stream).await);
}
