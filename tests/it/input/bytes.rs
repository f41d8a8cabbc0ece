//! Bytes that are no message, or more of one than there may be.

use super::{World, good_requests};
use crate::harness::{dynamic, reason};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A field that no message has.
const UNKNOWN: u32 = 50_000;

fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::LengthDelimited, &mut bytes);
    encode_varint(u64::try_from(content.len()).unwrap(), &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn varint(number: u32, value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::Varint, &mut bytes);
    encode_varint(value, &mut bytes);
    bytes
}

fn fixed32(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(number, WireType::ThirtyTwoBit, &mut bytes);
    bytes.extend_from_slice(&[0; 4]);
    bytes
}

/// For each field of the message, and of the messages in it: bytes that it cannot be read from.
fn unreadable(descriptor: &MessageDescriptor, depth: usize) -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    for field in descriptor.fields() {
        let name = field.name().to_owned();
        // None of our fields is stored in four bytes.
        cases.push((format!("{name} of another type"), fixed32(field.number())));
        for (what, bytes) in bad_bytes(&field) {
            cases.push((format!("{name} {what}"), bytes));
        }
        if let (Kind::Message(inner), true) = (field.kind(), depth > 0) {
            for (what, bytes) in unreadable(&inner, depth - 1) {
                cases.push((format!("{name}.{what}"), delimited(field.number(), &bytes)));
            }
        }
    }
    cases
}

fn bad_bytes(field: &FieldDescriptor) -> Vec<(&'static str, Vec<u8>)> {
    let number = field.number();
    match field.kind() {
        Kind::String => vec![
            ("that is no UTF-8", delimited(number, &[b'a', 0xff])),
            ("that is half a character", delimited(number, &[0xe2, 0x82])),
            ("that is a surrogate", delimited(number, &[0xed, 0xa0, 0x80])),
        ],
        Kind::Message(_) => vec![("that breaks off", delimited(number, &[0x0a, 0x7f]))],
        Kind::Bool | Kind::Int32 | Kind::Enum(_) => {
            // Eleven bytes of a number that may have ten.
            let mut bytes = Vec::new();
            encode_key(number, WireType::Varint, &mut bytes);
            bytes.extend_from_slice(&[0xff; 11]);
            vec![("that has no end", bytes)]
        }
        _ => Vec::new(),
    }
}

#[track_caller]
fn assert_malformed(answer: Result<Vec<u8>, Status>, told: &str) {
    let status = answer.expect_err(told);
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MALFORMED_MESSAGE"), "{told}");
    assert!(status.message().len() < 200, "{told}: {status:?}");
}

#[tokio::test]
async fn no_field_is_read_from_bytes_that_are_not_one() {
    let mut world = World::new().await;
    let mut tried = 0;
    for (method, base) in good_requests(&world) {
        let base = base.encode_to_vec();
        let mut cases = unreadable(&method.input(), 3);
        cases.push(("a field without a number".to_owned(), vec![0, 1]));
        cases.push(("half a field".to_owned(), vec![0x0a]));
        cases.push(("a field longer than the message".to_owned(), vec![0x0a, 0xff, 0x7f]));
        cases.push(("the end of a group that never began".to_owned(), vec![0x0c]));
        cases.push(("noise".to_owned(), vec![0xff; 64]));
        for (what, bytes) in cases {
            let answer = world.call(&method, [base.as_slice(), &bytes].concat()).await;
            assert_malformed(answer, &format!("{}: {what}", method.full_name()));
            tried += 1;
        }
    }
    assert!(tried > 500, "only {tried} requests were tried");
    world.assert_unchanged().await;
}

/// The bytes of a `Struct` of this many levels: deeper than a decoder may follow.
fn nested(levels: usize) -> Vec<u8> {
    // Each level is the one inside as a `struct_value`, as the `value` of an entry, as an entry of `fields`.
    (0..levels).fold(Vec::new(), |inner, _| {
        let value = delimited(2, &delimited(5, &inner));
        delimited(1, &[delimited(1, b"a"), value].concat())
    })
}

#[tokio::test]
async fn structs_nested_without_end_are_refused() {
    let mut world = World::new().await;
    let mut tried = 0;
    for (method, base) in good_requests(&world) {
        for field in method.input().fields().filter(|field| field.name().ends_with("attributes")) {
            for levels in [100, 5000] {
                let bytes = [base.encode_to_vec(), delimited(field.number(), &nested(levels))].concat();
                let told = format!("{} {levels}", field.full_name());
                assert_malformed(world.call(&method, bytes).await, &told);
                tried += 1;
            }
        }
    }
    assert!(tried >= 10);
    world.assert_unchanged().await;
}

#[tokio::test]
async fn what_is_not_known_is_passed_over_and_what_comes_twice_counts_once() {
    let mut world = World::new().await;
    let told = |answer: Result<Vec<u8>, Status>| answer.map(drop).map_err(|status| reason(&status));
    for (method, base) in good_requests(&world) {
        let base = base.encode_to_vec();
        let alone = told(world.call(&method, base.clone()).await);
        let unknown = [delimited(UNKNOWN, b"\xff\0"), varint(UNKNOWN, u64::MAX), fixed32(UNKNOWN)].concat();
        let more = [unknown.as_slice(), &base, &unknown].concat();
        assert_eq!(told(world.call(&method, more).await), alone, "{}", method.full_name());
        // Of a field that comes twice the last counts; lists grow, and one of two states is still a good filter.
        let twice = [base.as_slice(), &base].concat();
        let again = told(world.call(&method, twice).await);
        assert!(again == alone || method.name() == "BatchAddMembers", "{}: {again:?}", method.full_name());
        for field in method.input().fields().filter(|field| field.kind() == Kind::Int32) {
            // Numbers that are larger than their field are cut to size: these become 0, 1 and -1.
            for (number, good) in
                [(1 << 32, true), ((1 << 40) + 1, true), (u64::MAX, false), (u64::from(u32::MAX), false)]
            {
                let huge = [base.as_slice(), &varint(field.number(), number)].concat();
                let answer = told(world.call(&method, huge).await);
                let expected = if good { alone.clone() } else { Err("INVALID_REQUEST".to_owned()) };
                assert_eq!(answer, expected, "{} {number}", field.full_name());
            }
        }
    }
    world.assert_unchanged().await;
}

#[tokio::test]
async fn messages_have_their_size() {
    let mut world = World::new().await;
    for (method, base) in good_requests(&world) {
        let list = method.input().fields().any(|field| field.is_list() && matches!(field.kind(), Kind::Message(_)));
        let limit = if list { 1024 * 1024 } else { 256 * 1024 };
        let base = base.encode_to_vec();
        let alone = world.call(&method, base.clone()).await.map(drop).map_err(|status| reason(&status));
        // Filled up with a field that nobody knows: five bytes of key, four of length at most.
        let padded = |size: usize| {
            let bytes = [base.clone(), delimited(UNKNOWN, &vec![0; size - base.len() - 7])].concat();
            assert!(bytes.len().abs_diff(size) < 4);
            bytes
        };
        let within = world.call(&method, padded(limit - 4)).await.map(drop).map_err(|status| reason(&status));
        assert_eq!(within, alone, "{}", method.full_name());
        for size in [limit + 4, 1024 * 1024 + 4, 3 * 1024 * 1024] {
            let status = world.call(&method, padded(size)).await.expect_err(method.full_name());
            let told = format!("{} {size}: {status:?}", method.full_name());
            assert_eq!(status.code(), Code::ResourceExhausted, "{told}");
            let info = status.get_details_error_info().expect(&told);
            assert_eq!(
                (info.reason.as_str(), info.metadata["limit_bytes"].as_str()),
                ("MESSAGE_TOO_LARGE", &*limit.to_string()),
                "{told}"
            );
        }
    }
    assert!(dynamic::methods().iter().any(|method| method.name() == "BatchAddMembers"));
    world.assert_unchanged().await;
}
