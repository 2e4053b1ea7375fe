//! The decoder against anything: what the server may send comes out as it went in, and what it may
//! not send is an error.

use bytes::Bytes;
use proptest::prelude::*;
use wire::frame::Frames;
use wire::{
    Column, Decoded, Decoder, Error, Lsn, Message, Old, ProtoVersion, Relation, RelationColumn, ReplicaIdentity, Tuple,
};

mod encode;

fn tuples() -> impl Strategy<Value = Tuple> {
    let column = prop_oneof![
        Just((b'n', Vec::new())),
        Just((b'u', Vec::new())),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|value| (b't', value)),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(|value| (b'b', value)),
    ];
    prop::collection::vec(column, 0..8).prop_map(|columns| {
        let bytes = encode::tuple(columns.iter().map(|(kind, value)| match kind {
            b'n' => Column::Null,
            b'u' => Column::UnchangedToast,
            b't' => Column::Text(value),
            _ => Column::Binary(value),
        }));
        Tuple::from_raw(bytes.into()).expect("a valid row")
    })
}

fn olds() -> impl Strategy<Value = Old> {
    (any::<bool>(), tuples()).prop_map(|(full, tuple)| match full {
        true => Old::Full(tuple),
        false => Old::Key(tuple),
    })
}

fn names() -> impl Strategy<Value = String> {
    "[^\\x00]{1,12}"
}

fn lsns() -> impl Strategy<Value = Lsn> {
    any::<u64>().prop_map(Lsn)
}

fn relations() -> impl Strategy<Value = Message> {
    let identity = prop_oneof![
        Just(ReplicaIdentity::Default),
        Just(ReplicaIdentity::Nothing),
        Just(ReplicaIdentity::Full),
        Just(ReplicaIdentity::Index),
    ];
    let column = (any::<bool>(), names(), any::<u32>(), any::<i32>())
        .prop_map(|(key, name, type_oid, type_modifier)| RelationColumn { key, name, type_oid, type_modifier });
    let columns = prop::collection::vec(column, 0..6);
    let namespace = prop_oneof![names(), Just("pg_catalog".to_owned())];
    (any::<u32>(), namespace, names(), identity, columns).prop_map(
        |(oid, namespace, name, replica_identity, columns)| {
            Message::Relation(Box::new(Relation { oid, namespace, name, replica_identity, columns }))
        },
    )
}

/// The messages that may stand in a streamed piece, where a transaction goes before them.
fn changes() -> impl Strategy<Value = Message> {
    prop_oneof![
        relations(),
        (any::<u32>(), names(), names()).prop_map(|(oid, namespace, name)| Message::Type { oid, namespace, name }),
        (any::<u32>(), tuples()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(olds()), tuples()).prop_map(|(relation, old, new)| Message::Update {
            relation,
            old,
            new
        }),
        (any::<u32>(), olds()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        (any::<bool>(), any::<bool>(), prop::collection::vec(any::<u32>(), 0..5)).prop_map(
            |(cascade, restart_identity, relations)| { Message::Truncate { cascade, restart_identity, relations } }
        ),
        (any::<bool>(), lsns(), names(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(
            |(transactional, lsn, prefix, content)| {
                Message::Message { transactional, lsn, prefix, content: content.into() }
            }
        ),
    ]
}

/// The messages that never carry a transaction in front.
fn frames_of_transactions() -> impl Strategy<Value = Message> {
    prop_oneof![
        (lsns(), any::<i64>(), any::<u32>())
            .prop_map(|(final_lsn, commit_time_micros, xid)| { Message::Begin { final_lsn, commit_time_micros, xid } }),
        (any::<u8>(), lsns(), lsns(), any::<i64>()).prop_map(|(flags, commit_lsn, end_lsn, commit_time_micros)| {
            Message::Commit { flags, commit_lsn, end_lsn, commit_time_micros }
        }),
        (lsns(), names()).prop_map(|(lsn, name)| Message::Origin { lsn, name }),
    ]
}

fn ends_of_streams() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u32>(), any::<u8>(), lsns(), lsns(), any::<i64>()).prop_map(
            |(xid, flags, commit_lsn, end_lsn, commit_time_micros)| {
                Message::StreamCommit { xid, flags, commit_lsn, end_lsn, commit_time_micros }
            }
        ),
        (any::<u32>(), any::<u32>()).prop_map(|(xid, subxid)| Message::StreamAbort { xid, subxid }),
    ]
}

/// A whole conversation of protocol 2: loose messages and streamed pieces.
fn conversations() -> impl Strategy<Value = Vec<Decoded>> {
    let loose = prop_oneof![changes(), frames_of_transactions(), ends_of_streams()]
        .prop_map(|message| vec![Decoded { xid: None, message }]);
    let piece = (any::<u32>(), any::<bool>(), prop::collection::vec((any::<u32>(), changes()), 0..4)).prop_map(
        |(xid, first_segment, changes)| {
            let outside = |message| Decoded { xid: None, message };
            let mut messages = vec![outside(Message::StreamStart { xid, first_segment })];
            messages.extend(changes.into_iter().map(|(xid, message)| Decoded { xid: Some(xid), message }));
            messages.push(outside(Message::StreamStop));
            messages
        },
    );
    prop::collection::vec(prop_oneof![loose, piece], 1..8).prop_map(|parts| parts.concat())
}

/// Takes whatever comes, and looks at all of it.
fn survive(decoder: &mut Decoder, bytes: Vec<u8>) {
    let length = bytes.len();
    match decoder.decode(Bytes::from(bytes)) {
        Ok(decoded) => drop(format!("{decoded:?}")),
        Err(Error::Malformed { at, .. }) => assert!(at <= length),
        Err(other) => panic!("{other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_goes_in_comes_out(conversation in conversations()) {
        let mut decoder = Decoder::new(ProtoVersion::V2);
        for decoded in conversation {
            let bytes = encode::message(&decoded);
            prop_assert_eq!(decoder.decode(bytes.into()).expect("valid"), decoded);
        }
    }

    #[test]
    fn protocol_1_knows_no_pieces(decoded in ends_of_streams()) {
        let bytes = encode::message(&Decoded { xid: None, message: decoded });
        let malformed = Decoder::new(ProtoVersion::V1).decode(bytes.into());
        prop_assert!(matches!(malformed, Err(Error::Malformed { at: 0, .. })), "{:?}", malformed);
    }

    #[test]
    fn a_message_cut_short_or_with_more_behind_is_malformed(
        message in prop_oneof![changes(), frames_of_transactions()],
        cut in any::<prop::sample::Index>(),
        more in any::<u8>(),
    ) {
        let mut bytes = encode::message(&Decoded { xid: None, message });
        let mut decoder = Decoder::new(ProtoVersion::V1);
        let short = bytes[..cut.index(bytes.len())].to_vec();
        prop_assert!(decoder.decode(short.into()).is_err());
        bytes.push(more);
        prop_assert!(decoder.decode(bytes.into()).is_err());
    }

    #[test]
    fn changed_bytes_never_panic(
        conversation in conversations(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for proto_version in [ProtoVersion::V1, ProtoVersion::V2] {
            let mut decoder = Decoder::new(proto_version);
            for decoded in &conversation {
                let mut bytes = encode::message(decoded);
                for (index, value) in &changes {
                    let index = index.index(bytes.len());
                    bytes[index] = *value;
                }
                survive(&mut decoder, bytes);
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(
        tag in prop::sample::select(&b"BCORYIUDTMSEcA"[..]),
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..4),
    ) {
        let mut decoder = Decoder::new(ProtoVersion::V2);
        for mut bytes in messages {
            bytes.insert(0, tag);
            survive(&mut decoder, bytes.clone());
            survive(&mut decoder, bytes.split_off(1));
        }
    }

    #[test]
    fn rows_survive_storage(tuple in tuples()) {
        let stored = Tuple::from_raw(tuple.raw().clone()).expect("valid");
        prop_assert_eq!(&stored, &tuple);
        prop_assert_eq!(&tuple.compact(), &tuple);
        prop_assert_eq!(tuple.columns().len(), tuple.columns().count());
    }

    #[test]
    fn frames_come_out_however_they_arrive(
        bodies in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
        step in 1usize..200,
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        for (tag, body) in &bodies {
            bytes.push(*tag);
            bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
            bytes.extend_from_slice(body);
        }
        let whole = read_all(&bytes, step);
        let sent: Vec<_> = bodies.iter().map(|(tag, body)| (*tag, Bytes::from(body.clone()))).collect();
        prop_assert_eq!(&whole, &sent);
        // Cut anywhere, the frames before the cut still come.
        let some = read_all(&bytes[..cut.index(bytes.len() + 1)], step);
        prop_assert_eq!(&some[..], &sent[..some.len()]);
    }
}

/// All frames of `bytes`, which arrive `step` at a time.
fn read_all(bytes: &[u8], step: usize) -> Vec<(u8, Bytes)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(async {
        let (mut server, client) = tokio::io::duplex(step);
        let mut frames = Frames::new(client);
        let send = async move {
            tokio::io::AsyncWriteExt::write_all(&mut server, bytes).await.expect("sent");
        };
        let receive = async {
            let mut received = Vec::new();
            loop {
                match frames.next().await {
                    Ok(frame) => received.push((frame.tag, frame.body)),
                    Err(Error::Closed) => return received,
                    Err(error) => panic!("{error}"),
                }
            }
        };
        tokio::join!(send, receive).1
    })
}

#[test]
fn frames_larger_than_the_buffer_come_whole() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    runtime.block_on(async {
        let sizes = [0, 200_000, 5_000_000, 100, 262_139, 262_140, 700_000, 1];
        let mut bytes = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            bytes.push(b'a' + index as u8);
            bytes.extend_from_slice(&(size as u32 + 4).to_be_bytes());
            bytes.extend(std::iter::repeat_n(index as u8, size));
        }
        let mut frames = Frames::new(&bytes[..]);
        // Some are kept, so that the buffer is shared when it is to be reused.
        let mut kept = Vec::new();
        for (index, size) in sizes.into_iter().enumerate() {
            let frame = frames.next().await.expect("frame");
            assert_eq!((frame.tag, frame.body.len()), (b'a' + index as u8, size));
            assert!(frame.body.iter().all(|byte| *byte == index as u8));
            if index % 2 == 0 {
                kept.push(frame);
            }
        }
        assert!(matches!(frames.next().await, Err(Error::Closed)));
    });
}

#[test]
fn a_length_that_cannot_be_is_malformed() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
    for length in [0u32, 3, (1 << 30) + 1, u32::MAX] {
        let mut bytes = vec![b'd'];
        bytes.extend_from_slice(&length.to_be_bytes());
        let outcome = runtime.block_on(Frames::new(&bytes[..]).next());
        assert!(matches!(outcome, Err(Error::Malformed { .. })), "{length}: {outcome:?}");
    }
}
