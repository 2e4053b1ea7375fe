//! How many row changes one core decodes per second: from a byte stream as the socket gives it,
//! through frames and messages, to every column looked at.
//!
//! `cargo run --release -p wire --example decode_rate [SECONDS]`

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Buf;
use wire::frame::Frames;
use wire::{Column, Decoded, Decoder, Lsn, Message, Old, ProtoVersion, Tuple};

#[path = "../tests/pgoutput/encode.rs"]
mod encode;

/// Rows in one pass over the stream, in transactions of ten.
const ROWS: usize = 200_000;

fn frame(out: &mut Vec<u8>, message: Message) {
    let body = encode::message(&Decoded { xid: None, message });
    let length = u32::try_from(4 + 25 + body.len()).expect("short message");
    out.push(b'd');
    out.extend_from_slice(&length.to_be_bytes());
    out.push(b'w');
    out.extend_from_slice(&[0; 24]);
    out.extend_from_slice(&body);
}

/// A row of six columns of about 70 bytes, like a small `products`.
fn row(id: usize) -> Tuple {
    let id = (1_000_000 + id).to_string();
    let bytes = encode::tuple([
        Column::Text(id.as_bytes()),
        Column::Text(b"a product's name"),
        Column::Null,
        Column::Text(b"1999"),
        Column::Text(b"2024-05-06 07:08:09.123456"),
        Column::Text(b"2024-05-06 07:08:09.123456"),
    ]);
    Tuple::from_raw(bytes.into()).expect("valid row")
}

fn stream(change: impl Fn(usize) -> Message) -> Vec<u8> {
    let mut out = Vec::new();
    for id in 0..ROWS {
        if id % 10 == 0 {
            frame(&mut out, Message::Begin { final_lsn: Lsn(1), commit_time_micros: 0, xid: 1 });
        }
        frame(&mut out, change(id));
        if id % 10 == 9 {
            frame(&mut out, Message::Commit { flags: 0, commit_lsn: Lsn(1), end_lsn: Lsn(2), commit_time_micros: 0 });
        }
    }
    out
}

/// Takes in the whole stream; returns how many values it saw.
async fn read(bytes: &[u8], keep: bool) -> usize {
    let mut frames = Frames::new(bytes);
    let mut decoder = Decoder::new(ProtoVersion::V1);
    let mut values = 0;
    let mut look = |tuple: &Tuple| {
        values += tuple.columns().filter(|column| !matches!(column, Column::Null)).count();
        if keep {
            black_box(tuple.compact());
        }
    };
    while let Ok(frame) = frames.next().await {
        let mut body = frame.body;
        body.advance(25);
        let decoded = decoder.decode(body).expect("valid message");
        match &decoded.message {
            Message::Insert { new, .. } => look(new),
            Message::Update { old, new, .. } => {
                if let Some(old) = old {
                    look(old.tuple());
                }
                look(new);
            }
            _ => {}
        }
        black_box(&decoded);
    }
    values
}

fn main() {
    let seconds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    let inserts = stream(|id| Message::Insert { relation: 1, new: row(id) });
    let updates = stream(|id| Message::Update { relation: 1, old: Some(Old::Full(row(id))), new: row(id) });
    for (name, bytes, keep) in [
        ("inserts", &inserts, false),
        ("inserts, each row copied", &inserts, true),
        ("updates with whole old rows", &updates, false),
    ] {
        let since = Instant::now();
        let mut rows = 0;
        while since.elapsed() < Duration::from_secs_f64(seconds) {
            black_box(runtime.block_on(read(bytes, keep)));
            rows += ROWS;
        }
        let took = since.elapsed().as_secs_f64();
        let megabytes = rows as f64 / ROWS as f64 * bytes.len() as f64 / 1e6;
        println!("{name:30} {:6.2} M rows/s  {:6.0} MB/s", rows as f64 / took / 1e6, megabytes / took);
    }
}
