//! Large transactions sent in pieces before they commit (protocol 2), the same ones sent whole
//! (protocol 1), and values in binary.

use std::collections::BTreeMap;

use wire::{Column, Event, Lsn, Message, PgOutputOptions, ProtoVersion, Stream};

use crate::changes::message;
use crate::cluster::{Cluster, PATIENCE};

const ROWS: usize = 4000;

async fn event(stream: &mut Stream) -> (Option<u32>, Message) {
    loop {
        let event = tokio::time::timeout(PATIENCE, stream.next()).await;
        if let Event::Message { xid, message, .. } = event.expect("in time").expect("event") {
            return (xid, message);
        }
    }
}

/// What a reader of pieces has of one transaction so far.
#[derive(Default)]
struct Pieces {
    /// Inserts per subtransaction.
    inserts: BTreeMap<u32, usize>,
    starts: usize,
}

#[tokio::test]
async fn a_large_transaction_comes_in_pieces_or_whole() {
    let cluster = Cluster::start(&[("logical_decoding_work_mem", "64kB")]).await;
    let sql = cluster.sql().await;
    sql.batch_execute(
        "CREATE TABLE t (id int PRIMARY KEY, pad text);
         CREATE PUBLICATION pub FOR TABLE t;",
    )
    .await
    .expect("schema");
    let mut client = cluster.replication().await;
    client.create_slot("pieces", false, false).await.expect("slot");
    client.create_slot("whole", false, false).await.expect("slot");

    // A subtransaction that stays, one that is rolled back, and a whole transaction rolled back.
    let insert = |from: usize| {
        format!("INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series({from}, {from} + {ROWS} - 1) i;")
    };
    sql.batch_execute(&format!(
        "BEGIN; {} SAVEPOINT a; {} RELEASE a; SAVEPOINT b; {} ROLLBACK TO b; COMMIT;
         BEGIN; {} ROLLBACK;
         INSERT INTO t VALUES (0, 'last');",
        insert(10_000),
        insert(20_000),
        insert(30_000),
        insert(40_000)
    ))
    .await
    .expect("large transactions");

    let mut options = PgOutputOptions::new(["pub"]);
    options.proto_version = ProtoVersion::V2;
    options.streaming = true;
    let (mut stream, _feedback) = client.start("pieces", Lsn::NONE, &options).await.expect("stream");
    read_pieces(&mut stream).await;
    drop(stream);

    let options = PgOutputOptions::new(["pub"]);
    let client = cluster.replication().await;
    let (mut stream, _feedback) = client.start("whole", Lsn::NONE, &options).await.expect("stream");
    let mut inserts = 0;
    loop {
        match message(&mut stream).await {
            Message::Insert { .. } => inserts += 1,
            Message::Commit { .. } if inserts > ROWS => break,
            _ => {}
        }
    }
    assert_eq!(inserts, 2 * ROWS);
}

async fn read_pieces(stream: &mut Stream) {
    let mut open = None;
    let mut transactions: BTreeMap<u32, Pieces> = BTreeMap::new();
    let mut committed = Vec::new();
    let mut rolled_back = Vec::new();
    loop {
        let (subxid, message) = event(stream).await;
        match message {
            Message::StreamStart { xid, first_segment } => {
                let pieces = transactions.entry(xid).or_default();
                assert_eq!(first_segment, pieces.starts == 0);
                pieces.starts += 1;
                open = Some(xid);
            }
            Message::StreamStop => open = None,
            Message::StreamAbort { xid, subxid } if xid == subxid => {
                transactions.remove(&xid);
                rolled_back.push(xid);
            }
            Message::StreamAbort { xid, subxid } => {
                transactions.get_mut(&xid).expect("begun").inserts.remove(&subxid);
            }
            Message::StreamCommit { xid, end_lsn, commit_lsn, .. } => {
                assert!(end_lsn > commit_lsn);
                committed.push(transactions.remove(&xid).expect("begun"));
            }
            Message::Insert { new, .. } => match open {
                Some(xid) => {
                    let subxid = subxid.expect("a change in a piece names its transaction");
                    *transactions.get_mut(&xid).expect("begun").inserts.entry(subxid).or_default() += 1;
                }
                None => {
                    assert_eq!(subxid, None);
                    assert_eq!(new.column(0), Some(Column::Text(b"0")));
                    break;
                }
            },
            _ => {}
        }
    }
    let [pieces] = &committed[..] else { panic!("one large transaction committed") };
    assert!(pieces.starts > 1);
    assert_eq!(pieces.inserts.values().copied().collect::<Vec<_>>(), [ROWS, ROWS]);
    // Whether the one rolled back was begun is up to the server: it may know in time.
    assert!(rolled_back.len() <= 1 && transactions.is_empty());
}

#[tokio::test]
async fn values_come_in_binary_when_asked() {
    let cluster = Cluster::start(&[]).await;
    let sql = cluster.sql().await;
    sql.batch_execute("CREATE TABLE t (id int PRIMARY KEY, b bytea); CREATE PUBLICATION pub FOR TABLE t;")
        .await
        .expect("schema");
    let mut client = cluster.replication().await;
    client.create_slot("s", true, false).await.expect("slot");
    sql.batch_execute(r"INSERT INTO t VALUES (258, '\x00ff')").await.expect("row");
    let mut options = PgOutputOptions::new(["pub"]);
    options.binary = true;
    let (mut stream, _feedback) = client.start("s", Lsn::NONE, &options).await.expect("stream");
    loop {
        if let Message::Insert { new, .. } = message(&mut stream).await {
            let columns: Vec<_> = new.columns().collect();
            assert_eq!(columns, [Column::Binary(&[0, 0, 1, 2]), Column::Binary(&[0, 255])]);
            break;
        }
    }
}
