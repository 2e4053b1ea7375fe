//! What is written comes out of the stream.

use wire::{Column, Event, Lsn, Message, Old, PgOutputOptions, ReplicaIdentity, Stream, Tuple};

use crate::cluster::{Cluster, PATIENCE};

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

fn texts(tuple: &Tuple) -> Vec<String> {
    let text = |column| match column {
        Column::Null => "NULL".to_owned(),
        Column::UnchangedToast => "TOAST".to_owned(),
        Column::Text(value) => String::from_utf8(value.to_vec()).expect("UTF-8"),
        Column::Binary(value) => format!("{value:02x?}"),
    };
    tuple.columns().map(text).collect()
}

#[tokio::test]
async fn every_kind_of_change_arrives() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(
        "CREATE TYPE mood AS ENUM ('sad', 'glad');
         CREATE TABLE items (id int PRIMARY KEY, name text, m mood);
         ALTER TABLE items ALTER name SET STORAGE EXTERNAL;
         CREATE TABLE whole (id int PRIMARY KEY, name text);
         ALTER TABLE whole REPLICA IDENTITY FULL;
         INSERT INTO items VALUES (0, 'before the slot');
         CREATE PUBLICATION pub FOR TABLE items, whole;",
    )
    .await
    .expect("schema");

    let mut client = cluster.replication().await;
    let identity = client.identify_system().await.expect("identity");
    assert_eq!(identity.database, "postgres");
    assert_eq!(identity.timeline, 1);
    let slot = client.create_slot("s", false, true).await.expect("slot");
    assert!(slot.consistent_point >= Lsn(1));

    // The snapshot shows what was there before the slot, and not what comes after.
    sql.batch_execute("INSERT INTO items VALUES (1, 'after the slot', 'glad')").await.expect("row");
    let snapshot = slot.snapshot.expect("exported snapshot");
    let other = cluster.sql().await;
    other
        .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SET TRANSACTION SNAPSHOT '{snapshot}'"))
        .await
        .expect("snapshot");
    let count: i64 = other.query_one("SELECT count(*) FROM items", &[]).await.expect("count").get(0);
    assert_eq!(count, 1);
    other.batch_execute("ROLLBACK").await.expect("rollback");

    sql.batch_execute("UPDATE items SET name = repeat('x', 5000) WHERE id = 1").await.expect("update");
    sql.batch_execute("UPDATE items SET m = NULL WHERE id = 1").await.expect("update");
    sql.batch_execute("UPDATE items SET id = 2 WHERE id = 1").await.expect("update");
    sql.batch_execute("DELETE FROM items WHERE id = 2").await.expect("delete");
    sql.batch_execute("INSERT INTO whole VALUES (7, 'a'); UPDATE whole SET name = 'b'; DELETE FROM whole")
        .await
        .expect("whole");
    sql.batch_execute("TRUNCATE items, whole RESTART IDENTITY CASCADE").await.expect("truncate");
    sql.batch_execute("SELECT pg_logical_emit_message(true, 'pre', 'content')").await.expect("message");

    let mut options = PgOutputOptions::new(["pub"]);
    options.messages = true;
    let (mut stream, _feedback) = client.start("s", Lsn::NONE, &options).await.expect("stream");

    let insert = transaction(&mut stream).await;
    assert!(matches!(&insert[0], Message::Type { namespace, name, .. } if namespace == "public" && name == "mood"));
    let Message::Relation(items) = &insert[1] else { panic!("{insert:?}") };
    assert_eq!((items.namespace.as_str(), items.name.as_str()), ("public", "items"));
    assert_eq!(items.replica_identity, ReplicaIdentity::Default);
    let columns: Vec<_> = items.columns.iter().map(|c| (c.name.as_str(), c.key, c.type_modifier)).collect();
    assert_eq!(columns, [("id", true, -1), ("name", false, -1), ("m", false, -1)]);
    let Message::Insert { relation, new } = &insert[2] else { panic!("{insert:?}") };
    assert_eq!(*relation, items.oid);
    assert_eq!(texts(new), ["1", "after the slot", "glad"]);

    let long = "x".repeat(5000);
    let update = transaction(&mut stream).await;
    let [Message::Update { old: None, new, .. }] = &update[..] else { panic!("{update:?}") };
    assert_eq!(texts(new), ["1", &long, "glad"]);
    let toast = transaction(&mut stream).await;
    let [Message::Update { old: None, new, .. }] = &toast[..] else { panic!("{toast:?}") };
    assert_eq!(texts(new), ["1", "TOAST", "NULL"]);
    assert!(new.has_unchanged_toast());
    let key = transaction(&mut stream).await;
    let [Message::Update { old: Some(Old::Key(old)), new, .. }] = &key[..] else { panic!("{key:?}") };
    assert_eq!(texts(old), ["1", "NULL", "NULL"]);
    assert_eq!(texts(new), ["2", "TOAST", "NULL"]);
    let delete = transaction(&mut stream).await;
    let [Message::Delete { old: Old::Key(old), .. }] = &delete[..] else { panic!("{delete:?}") };
    assert_eq!(texts(old), ["2", "NULL", "NULL"]);

    let whole = transaction(&mut stream).await;
    let [
        Message::Relation(relation),
        Message::Insert { .. },
        Message::Update { old: Some(Old::Full(before)), new: after, .. },
        Message::Delete { old: Old::Full(last), .. },
    ] = &whole[..]
    else {
        panic!("{whole:?}")
    };
    assert_eq!(relation.replica_identity, ReplicaIdentity::Full);
    assert_eq!(
        (texts(before), texts(after), texts(last)),
        (vec!["7".into(), "a".into()], vec!["7".into(), "b".into()], vec!["7".into(), "b".into()])
    );

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
