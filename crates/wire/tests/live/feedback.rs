//! What the server hears from us, and what we make of its silence.

use std::time::{Duration, Instant};

use wire::{Error, Event, Feedback, Lsn, Message, PgOutputOptions, ReplicationClient, Stream};

use crate::changes::message;
use crate::cluster::{Cluster, PATIENCE, signal, until};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, pad text); CREATE PUBLICATION pub FOR TABLE t;";

async fn start(client: ReplicationClient) -> (Stream, Feedback) {
    let options = PgOutputOptions::new(["pub"]);
    client.start("s", Lsn::NONE, &options).await.expect("stream")
}

#[tokio::test]
async fn the_slot_advances_when_told_and_not_before() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(TABLE).await.expect("schema");
    let mut client = cluster.replication().await;
    let slot = client.create_slot("s", false, false).await.expect("slot");
    sql.batch_execute("INSERT INTO t VALUES (1)").await.expect("row");
    let (mut stream, feedback) = start(client).await;
    let end = loop {
        if let Message::Commit { end_lsn, .. } = message(&mut stream).await {
            break end_lsn;
        }
    };

    // A position that is only written is reported, and confirms nothing.
    feedback.set(Lsn::NONE, end);
    feedback.flush_now();
    until(&sql, &format!("SELECT write_lsn = '{end}' FROM pg_stat_replication")).await;
    let confirmed = "SELECT confirmed_flush_lsn = '{}' FROM pg_replication_slots";
    until(&sql, &confirmed.replace("{}", &slot.consistent_point.to_string())).await;

    feedback.set(end, end);
    feedback.flush_now();
    until(&sql, &confirmed.replace("{}", &end.to_string())).await;
    // Never back, and told without being asked to as well.
    feedback.set(Lsn(1), Lsn(1));
    assert_eq!(feedback.flushed(), end);
    sql.batch_execute("INSERT INTO t VALUES (2)").await.expect("row");
    let end = loop {
        if let Message::Commit { end_lsn, .. } = message(&mut stream).await {
            break end_lsn;
        }
    };
    feedback.set(end, end);
    until(&sql, &confirmed.replace("{}", &end.to_string())).await;

    // The last word is heard too, and the slot is free when `stop` returns.
    let last = Lsn(end.0 + 8);
    feedback.set(last, last);
    stream.stop(PATIENCE).await.expect("good end");
    until(&sql, &confirmed.replace("{}", &last.to_string())).await;
    until(&sql, "SELECT NOT active FROM pg_replication_slots").await;
}

#[tokio::test]
async fn a_reader_that_stalls_is_neither_dropped_nor_fooled() {
    const ROWS: usize = 60_000;
    let cluster = Cluster::start(&[("wal_sender_timeout", "2s")]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(TABLE).await.expect("schema");
    let mut options = cluster.options();
    // Longer than the server's patience: must be shortened. Silence is shorter than the stall.
    options.status_interval = Duration::from_secs(3600);
    options.silence_timeout = Some(Duration::from_secs(3));
    let mut client = ReplicationClient::connect(&options).await.expect("connection");
    client.create_slot("s", true, false).await.expect("slot");
    sql.batch_execute(&format!("INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, {ROWS}) i"))
        .await
        .expect("rows");
    let (mut stream, _feedback) = start(client).await;
    assert!(matches!(message(&mut stream).await, Message::Begin { .. }));

    // Nobody reads: the server's sends are stuck, yet for several times its patience it hears from us.
    let replies = "SELECT extract(epoch FROM reply_time)::float8 FROM pg_stat_replication";
    let heard = || async { sql.query_one(replies, &[]).await.expect("walsender").get::<_, Option<f64>>(0) };
    let since = Instant::now();
    let mut first = None;
    loop {
        let now = heard().await;
        first = first.or(now);
        if first.zip(now).is_some_and(|(first, now)| now - first > 7.0) {
            break;
        }
        assert!(since.elapsed() < PATIENCE, "no replies arrive");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let mut inserts = 0;
    while !matches!(message(&mut stream).await, Message::Commit { .. }) {
        inserts += 1;
    }
    assert_eq!(inserts, ROWS + 1, "the rows and one description of the table");
}

#[tokio::test]
async fn an_idle_server_is_asked_and_a_stopped_one_is_silent() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(TABLE).await.expect("schema");
    let mut options = cluster.options();
    let patience = Duration::from_secs(2);
    options.silence_timeout = Some(patience);
    let mut client = ReplicationClient::connect(&options).await.expect("connection");
    let walsender = client.process_id();
    client.create_slot("s", true, false).await.expect("slot");
    let (mut stream, _feedback) = start(client).await;

    // An idle server answers what it is asked, each time.
    let since = Instant::now();
    while since.elapsed() < patience * 3 {
        let event = stream.next().await.expect("an answer");
        assert!(matches!(event, Event::Keepalive { .. }), "{event:?}");
    }

    signal("STOP", walsender);
    // Waiting in small pieces counts all the same.
    let since = Instant::now();
    let error = loop {
        match tokio::time::timeout(patience / 10, stream.next()).await {
            Ok(Err(error)) => break error,
            Ok(Ok(_)) | Err(_) => assert!(since.elapsed() < PATIENCE, "not noticed"),
        }
    };
    signal("CONT", walsender);
    assert!(matches!(error, Error::Silent { after } if after == patience), "{error}");
}

#[tokio::test]
async fn nothing_is_lost_when_next_is_dropped() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(TABLE).await.expect("schema");
    let mut client = cluster.replication().await;
    client.create_slot("s", true, false).await.expect("slot");
    let (mut stream, _feedback) = start(client).await;
    let writer = tokio::spawn(async move {
        for id in 0..300 {
            let row = format!("INSERT INTO t VALUES ({id})");
            sql.batch_execute(&row).await.expect("row");
        }
    });
    let since = Instant::now();
    let mut next = 0;
    while next < 300 {
        assert!(since.elapsed() < PATIENCE, "only {next} rows came");
        let event = tokio::time::timeout(Duration::from_micros(50), stream.next()).await;
        if let Ok(event) = event {
            let Event::Message { message: Message::Insert { new, .. }, .. } = event.expect("event") else {
                continue;
            };
            let expected = next.to_string();
            assert_eq!(new.column(0), Some(wire::Column::Text(expected.as_bytes())));
            next += 1;
        }
    }
    writer.await.expect("writer");
}

#[tokio::test]
async fn a_server_that_shuts_down_says_so() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(TABLE).await.expect("schema");
    let mut client = cluster.replication().await;
    client.create_slot("s", true, false).await.expect("slot");
    let (mut stream, feedback) = start(client).await;
    drop(sql);
    signal("INT", cluster.postmaster());
    let error = loop {
        match tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time") {
            Ok(Event::Keepalive { wal_end, .. }) => {
                feedback.set(wal_end, wal_end);
                feedback.flush_now();
            }
            Ok(Event::Message { .. }) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Ended), "{error}");
}
