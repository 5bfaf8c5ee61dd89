//! Messages of the link, made up at random: whatever comes is read or refused, and what was read is what was sent.

#![allow(clippy::expect_used, reason = "tests")]

use podless_link::v1::{self, FromShim, ToShim, from_shim, to_shim};
use proptest::{collection::vec, prelude::*};
use prost::Message;

/// Bytes are read as a message, or not; one that was read can be sent, and is read again as the same.
fn check<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(bytes) {
        let again = M::decode(message.encode_to_vec().as_slice()).expect("it was read before");
        assert!(again == message, "{message:?} is read as {again:?}");
    }
}

fn check_all(bytes: &[u8]) {
    check::<FromShim>(bytes);
    check::<ToShim>(bytes);
    check::<v1::Assignment>(bytes);
    check::<v1::FetchRequest>(bytes);
    check::<v1::Chunk>(bytes);
}

/// Bytes that once were worth a look, in hexadecimal.
const CORPUS: [&str; 7] = [
    "",
    // A length of 2^64 - 1, and one that is longer than what follows.
    "0affffffffffffffffff01",
    "0a7f00",
    // A number that does not end.
    "08ffffffffffffffffffffffff",
    // A group in a group, and one that nobody opened.
    "0b0b0b0b0b0b",
    "0c",
    // Text that is no UTF-8.
    "0a030a01ff",
];

#[test]
fn fuzz_of_the_corpus() {
    for text in CORPUS {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
        check_all(&(0..text.len()).step_by(2).map(byte).collect::<Vec<u8>>());
    }
}

/// A message within a message within a message: it is not followed until the stack ends.
#[test]
fn fuzz_of_depth() {
    let mut bytes = vec![];
    for _ in 0..10_000 {
        bytes.splice(0..0, [0x0b]);
    }
    check_all(&bytes);
}

fn from_shim() -> impl Strategy<Value = FromShim> {
    let known = (any::<String>(), any::<u64>());
    let known = known.prop_map(|(service_uid, generation)| v1::Known { service_uid, generation });
    let hello = (any::<String>(), any::<String>(), vec(known, 0..5)).prop_map(|(fingerprint, target, known)| {
        from_shim::Body::Hello(v1::Hello { fingerprint, target, known, ..Default::default() })
    });
    let ack = (any::<String>(), any::<u64>(), any::<String>()).prop_map(|(service_uid, generation, message)| {
        let outcome = Some(v1::ack::Outcome::Failed(v1::Failed { reason: message.clone(), message }));
        from_shim::Body::Ack(v1::Ack { service_uid, generation, outcome })
    });
    let load = (any::<String>(), any::<u64>(), any::<u32>()).prop_map(|(service_uid, requests, in_flight)| {
        let service = v1::ServiceLoad { service_uid, requests, in_flight, ..Default::default() };
        from_shim::Body::Load(v1::Load { services: vec![service] })
    });
    prop_oneof![hello, ack, load].prop_map(|body| FromShim { body: Some(body) })
}

fn to_shim() -> impl Strategy<Value = ToShim> {
    let assign = (vec(any::<u8>(), 0..200), vec(any::<u8>(), 0..70))
        .prop_map(|(assignment, signature)| to_shim::Body::Assign(v1::Assign { assignment, signature }));
    let withdraw =
        (any::<String>(), any::<u64>(), any::<u64>()).prop_map(|(service_uid, generation, linger_millis)| {
            to_shim::Body::Withdraw(v1::Withdraw { service_uid, generation, linger_millis })
        });
    prop_oneof![assign, withdraw].prop_map(|body| ToShim { body: Some(body) })
}

proptest! {
    #[test]
    fn fuzz_of_any_bytes(bytes in vec(any::<u8>(), 0..300)) {
        check_all(&bytes);
    }

    #[test]
    fn fuzz_of_messages_that_were_changed(
        up in from_shim(), down in to_shim(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()
    ) {
        for mut bytes in [up.encode_to_vec(), down.encode_to_vec()] {
            check_all(&bytes);
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] = with }
            check_all(&bytes);
        }
    }
}
