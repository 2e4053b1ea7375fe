//! What was missed, read in one go, is what would have been streamed.

use std::time::Duration;

use tokio_postgres::Client;
use wire::{Backlog, Error, Lsn, Message, Missed, PgOutputOptions, ReplicationClient, Stream};

use crate::changes::{message, texts};
use crate::cluster::{Cluster, PATIENCE, until};

/// Without large values, which would not be in the WAL again with every change.
const SCHEMA: &str = "
CREATE TABLE items (id int PRIMARY KEY, name text, pad text);
ALTER TABLE items ALTER pad SET STORAGE PLAIN;
CREATE PUBLICATION pub FOR TABLE items;
";

/// Some seven megabytes of WAL in some eighty transactions.
async fn write(sql: &Client, from: usize) {
    let rows = "SELECT i, 'row ' || i, repeat('x', 6000) FROM generate_series($1::int, $1 + 19) AS i";
    let insert = sql.prepare(&format!("INSERT INTO items {rows}")).await.expect("statement");
    for at in 0..60 {
        let first = i32::try_from(from + at * 100).expect("a number");
        sql.execute(&insert, &[&first]).await.expect("insert");
        if at % 7 == 0 {
            sql.execute("DELETE FROM items WHERE id = $1", &[&first]).await.expect("delete");
            sql.execute("UPDATE items SET name = 'changed' WHERE id = $1 + 1", &[&first]).await.expect("update");
        }
    }
}

/// Whole transactions, until the one that writes `last`.
struct Story {
    told: Vec<Message>,
    last: &'static str,
    ends: bool,
}

impl Story {
    fn until(last: &'static str) -> Self {
        Story { told: Vec::new(), last, ends: false }
    }

    /// A relation is described whenever decoding begins anew, which says nothing of what was written.
    fn take(&mut self, message: Message) -> bool {
        match &message {
            Message::Relation(_) => return false,
            Message::Insert { new, .. } if texts(new).iter().any(|text| text == self.last) => self.ends = true,
            _ => {}
        }
        let done = self.ends && matches!(message, Message::Commit { .. });
        self.told.push(message);
        done
    }

    async fn of_stream(stream: &mut Stream, last: &'static str) -> Vec<Message> {
        let mut story = Self::until(last);
        while !story.take(message(stream).await) {}
        story.told
    }
}

/// All that is read in one go, and how many times it was said how far.
async fn read(backlog: &mut Backlog) -> (Vec<Message>, Vec<Lsn>) {
    let (mut story, mut read_up_to) = (Story::until("never"), Vec::new());
    loop {
        let missed = tokio::time::timeout(PATIENCE, backlog.next()).await.expect("in time").expect("what was missed");
        match missed {
            Some(Missed::Message(message)) => drop(story.take(message)),
            Some(Missed::ReadUpTo(end)) => read_up_to.push(end),
            None => return (story.told, read_up_to),
        }
    }
}

async fn server(settings: &[(&str, &str)]) -> (Cluster, Client) {
    let cluster = Cluster::start(settings).await;
    let sql = cluster.sql().await;
    sql.batch_execute(SCHEMA).await.expect("schema");
    (cluster, sql)
}

async fn open(client: ReplicationClient) -> Backlog {
    let opened = client.read_missed("missed", "a_copy", &PgOutputOptions::new(["pub"])).await.expect("connection");
    opened.map_err(|(_, error)| error).expect("a copy of the slot")
}

#[tokio::test]
async fn what_was_missed_is_what_is_streamed_and_then_comes_the_rest() {
    let (cluster, sql) = server(&[]).await;
    let mut client = cluster.replication().await;
    client.create_slot("missed", false, false).await.expect("slot");
    client.create_slot("streamed", false, false).await.expect("slot");
    for from in [1_000, 11_000, 21_000, 31_000, 41_000] {
        write(&sql, from).await;
    }
    sql.batch_execute("INSERT INTO items VALUES (1, 'the middle')").await.expect("insert");

    let mut backlog = open(cluster.replication().await).await;
    let before = slot(&sql).await;
    let (mut told, read_up_to) = read(&mut backlog).await;
    assert!(read_up_to.len() >= 2 && read_up_to.is_sorted(), "{read_up_to:?}");
    assert_eq!(slot(&sql).await, before, "nothing is confirmed by reading");

    write(&sql, 51_000).await;
    sql.batch_execute("INSERT INTO items VALUES (2, 'the end')").await.expect("insert");
    let feedback = backlog.feedback();
    let mut stream = backlog.start().await.expect("stream");
    told.extend(Story::of_stream(&mut stream, "the end").await);
    let copies = sql.query("SELECT FROM pg_replication_slots WHERE slot_name = 'a_copy'", &[]).await.expect("slots");
    assert!(copies.is_empty(), "the copy would keep WAL");

    let options = PgOutputOptions::new(["pub"]);
    let (mut other, _feedback) = client.start("streamed", Lsn::NONE, &options).await.expect("stream");
    let streamed = Story::of_stream(&mut other, "the end").await;
    assert_eq!(told.len(), streamed.len());
    assert!(told == streamed);

    // Confirmations reach the slot through the stream.
    let Some(Message::Commit { end_lsn, .. }) = streamed.last() else { panic!("ends with a commit") };
    feedback.set(*end_lsn, *end_lsn);
    feedback.flush_now();
    let confirmed =
        format!("SELECT confirmed_flush_lsn = '{end_lsn}' FROM pg_replication_slots WHERE slot_name = 'missed'");
    until(&sql, &confirmed).await;
}

#[tokio::test]
async fn what_is_confirmed_amid_it_moves_the_slot_itself() {
    let (cluster, sql) = server(&[]).await;
    cluster.replication().await.create_slot("missed", false, false).await.expect("slot");
    // So that calls need not begin at the beginning again.
    let logs_running_transactions = "CHECKPOINT";
    for from in (0..14).map(|portion| portion * 10_000) {
        write(&sql, from).await;
        sql.batch_execute(logs_running_transactions).await.expect("checkpoint");
    }
    let mut backlog = open(cluster.replication().await).await;
    let (before, feedback) = (slot(&sql).await, backlog.feedback());
    let mut last = Lsn::NONE;
    while let Some(missed) = tokio::time::timeout(PATIENCE, backlog.next()).await.expect("in time").expect("missed") {
        match missed {
            Missed::Message(Message::Commit { end_lsn, .. }) => {
                last = end_lsn;
                feedback.set(last, last);
            }
            Missed::Message(_) | Missed::ReadUpTo(_) => {}
        }
    }
    let amid: Lsn = slot(&sql).await.parse().expect("a position");
    assert!(amid > before.parse().expect("a position") && amid < last, "{before} {amid} {last}");
}

#[tokio::test]
async fn a_server_without_a_free_slot_streams_instead() {
    let (cluster, sql) = server(&[("max_replication_slots", "1")]).await;
    let mut client = cluster.replication().await;
    client.create_slot("missed", false, false).await.expect("slot");
    sql.batch_execute("INSERT INTO items VALUES (2, 'the end')").await.expect("insert");
    let options = PgOutputOptions::new(["pub"]);
    let opened = client.read_missed("missed", "a_copy", &options).await.expect("connection");
    let Err((client, Error::Server(error))) = opened else { panic!("no place for a copy") };
    assert_eq!(error.code, "53400");
    let (mut stream, _feedback) = client.start("missed", Lsn::NONE, &options).await.expect("stream");
    Story::of_stream(&mut stream, "the end").await;
}

#[tokio::test]
async fn a_server_that_says_nothing_for_too_long_is_given_up() {
    let (cluster, sql) = server(&[]).await;
    let mut options = cluster.options();
    options.silence_timeout = Some(Duration::from_millis(300));
    let mut client = ReplicationClient::connect(&options).await.expect("connection");
    client.create_slot("missed", false, false).await.expect("slot");
    let mut backlog = open(client).await;
    write(&sql, 1_000).await;
    // Who decodes must look at the table, and cannot.
    sql.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_publication_rel IN ACCESS EXCLUSIVE MODE").await.expect("lock");
    let error = loop {
        match tokio::time::timeout(PATIENCE, backlog.next()).await.expect("in time") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the table is locked"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Silent { .. }), "{error}");
}

/// What the slot itself has confirmed.
async fn slot(sql: &Client) -> String {
    let query = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'missed'";
    sql.query_one(query, &[]).await.expect("slot").get(0)
}
