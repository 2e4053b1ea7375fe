//! Any bytes, as frames that hold messages. What decodes must survive being written and read again;
//! what does not must be an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wire::frame::Frames;
use wire::{Decoder, Error, ProtoVersion};

#[path = "../../tests/pgoutput/encode.rs"]
mod encode;

async fn read(data: &[u8], proto_version: ProtoVersion) {
    let mut frames = Frames::new(data);
    let mut decoder = Decoder::new(proto_version);
    loop {
        let frame = match frames.next().await {
            Ok(frame) => frame,
            Err(Error::Closed | Error::Malformed { .. }) => return,
            Err(other) => panic!("{other}"),
        };
        let mut before = decoder.clone();
        match decoder.decode(frame.body) {
            Ok(decoded) => {
                let again = encode::message(&decoded);
                let again = before
                    .decode(again.into())
                    .expect("what was written is valid");
                assert_eq!(again, decoded);
            }
            Err(Error::Malformed { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("runtime");
    for proto_version in [ProtoVersion::V1, ProtoVersion::V2] {
        runtime.block_on(read(data, proto_version));
    }
});
