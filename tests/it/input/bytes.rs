//! Bytes that are not a message, and messages that are too large.

use super::{Fixture, good_requests};
use crate::harness::{dynamic, reason};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// A field number that no message has.
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

/// Bytes that no field can be decoded from, for each field of the message and of the messages in it.
fn undecodable(descriptor: &MessageDescriptor, depth: usize) -> Vec<(String, Vec<u8>)> {
    let mut cases = Vec::new();
    for field in descriptor.fields() {
        let name = field.name().to_owned();
        // No field of roster has the wire type of four bytes.
        cases.push((format!("{name} of another type"), fixed32(field.number())));
        for (what, bytes) in bad_bytes(&field) {
            cases.push((format!("{name} {what}"), bytes));
        }
        if let (Kind::Message(inner), true) = (field.kind(), depth > 0) {
            for (what, bytes) in undecodable(&inner, depth - 1) {
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
            ("that is not UTF-8", delimited(number, &[b'a', 0xff])),
            ("that is half a character", delimited(number, &[0xe2, 0x82])),
            ("that is a surrogate", delimited(number, &[0xed, 0xa0, 0x80])),
        ],
        Kind::Message(_) => vec![("that ends early", delimited(number, &[0x0a, 0x7f]))],
        Kind::Bool | Kind::Int32 | Kind::Enum(_) => {
            // Eleven bytes of a varint, which has ten at most.
            let mut bytes = Vec::new();
            encode_key(number, WireType::Varint, &mut bytes);
            bytes.extend_from_slice(&[0xff; 11]);
            vec![("that has no end", bytes)]
        }
        _ => Vec::new(),
    }
}

#[track_caller]
fn assert_malformed(answer: Result<Vec<u8>, Status>, context: &str) {
    let status = answer.expect_err(context);
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "MALFORMED_MESSAGE"), "{context}");
    assert!(status.message().len() < 200, "{context}: {status:?}");
}

#[tokio::test]
async fn undecodable_messages_are_refused() {
    let mut fixture = Fixture::new().await;
    let mut tried = 0;
    for (method, base) in good_requests(&fixture) {
        let base = base.encode_to_vec();
        let mut cases = undecodable(&method.input(), 3);
        cases.push(("a field without a number".to_owned(), vec![0, 1]));
        cases.push(("half a field".to_owned(), vec![0x0a]));
        cases.push(("a field longer than the message".to_owned(), vec![0x0a, 0xff, 0x7f]));
        cases.push(("the end of a group without a start".to_owned(), vec![0x0c]));
        cases.push(("noise".to_owned(), vec![0xff; 64]));
        for (what, bytes) in cases {
            let answer = fixture.call(&method, [base.as_slice(), &bytes].concat()).await;
            assert_malformed(answer, &format!("{}: {what}", method.full_name()));
            tried += 1;
        }
    }
    assert!(tried > 500, "only {tried} requests were tried");
    fixture.assert_unchanged().await;
}

/// The bytes of a `Struct` with this many levels, which can exceed the decoder's recursion limit.
fn nested(levels: usize) -> Vec<u8> {
    // Each level wraps the inner one as a `struct_value`, as the `value` of an entry, as an entry of `fields`.
    (0..levels).fold(Vec::new(), |inner, _| {
        let value = delimited(2, &delimited(5, &inner));
        delimited(1, &[delimited(1, b"a"), value].concat())
    })
}

#[tokio::test]
async fn deeply_nested_structs_are_refused() {
    let mut fixture = Fixture::new().await;
    let mut tried = 0;
    for (method, base) in good_requests(&fixture) {
        for field in method.input().fields().filter(|field| field.name().ends_with("attributes")) {
            for levels in [100, 5000] {
                let bytes = [base.encode_to_vec(), delimited(field.number(), &nested(levels))].concat();
                let context = format!("{} {levels}", field.full_name());
                assert_malformed(fixture.call(&method, bytes).await, &context);
                tried += 1;
            }
        }
    }
    assert!(tried >= 10);
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn unknown_fields_are_ignored_and_the_last_of_repeated_fields_counts() {
    let mut fixture = Fixture::new().await;
    let outcome = |answer: Result<Vec<u8>, Status>| answer.map(drop).map_err(|status| reason(&status));
    for (method, base) in good_requests(&fixture) {
        let base = base.encode_to_vec();
        let alone = outcome(fixture.call(&method, base.clone()).await);
        let unknown = [delimited(UNKNOWN, b"\xff\0"), varint(UNKNOWN, u64::MAX), fixed32(UNKNOWN)].concat();
        let more = [unknown.as_slice(), &base, &unknown].concat();
        assert_eq!(outcome(fixture.call(&method, more).await), alone, "{}", method.full_name());
        // The last value of a repeated singular field counts. Lists grow, and a filter with a repeated state stays
        // valid.
        let twice = [base.as_slice(), &base].concat();
        let again = outcome(fixture.call(&method, twice).await);
        let grows = ["BatchAddMembers", "ApplyAccessModel"].contains(&method.name());
        assert!(again == alone || grows, "{}: {again:?}", method.full_name());
        for field in method.input().fields().filter(|field| field.kind() == Kind::Int32) {
            // Numbers that are larger than their field are truncated: these become 0, 1 and -1.
            for (number, good) in
                [(1 << 32, true), ((1 << 40) + 1, true), (u64::MAX, false), (u64::from(u32::MAX), false)]
            {
                let huge = [base.as_slice(), &varint(field.number(), number)].concat();
                let answer = outcome(fixture.call(&method, huge).await);
                let expected = if good { alone.clone() } else { Err("INVALID_REQUEST".to_owned()) };
                assert_eq!(answer, expected, "{} {number}", field.full_name());
            }
        }
    }
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn message_sizes_are_limited() {
    let mut fixture = Fixture::new().await;
    for (method, base) in good_requests(&fixture) {
        let has_items =
            method.input().fields().any(|field| field.is_list() && matches!(field.kind(), Kind::Message(_)));
        // A model has lists too.
        let limit = if has_items || method.name() == "ApplyAccessModel" { 1024 * 1024 } else { 256 * 1024 };
        let base = base.encode_to_vec();
        let alone = fixture.call(&method, base.clone()).await.map(drop).map_err(|status| reason(&status));
        // Padded with an unknown field: five bytes of key, at most four of length.
        let padded = |size: usize| {
            let bytes = [base.clone(), delimited(UNKNOWN, &vec![0; size - base.len() - 7])].concat();
            assert!(bytes.len().abs_diff(size) < 4);
            bytes
        };
        let within = fixture.call(&method, padded(limit - 4)).await.map(drop).map_err(|status| reason(&status));
        assert_eq!(within, alone, "{}", method.full_name());
        for size in [limit + 4, 1024 * 1024 + 4, 3 * 1024 * 1024] {
            let status = fixture.call(&method, padded(size)).await.expect_err(method.full_name());
            let context = format!("{} {size}: {status:?}", method.full_name());
            assert_eq!(status.code(), Code::ResourceExhausted, "{context}");
            let info = status.get_details_error_info().expect(&context);
            assert_eq!(
                (info.reason.as_str(), info.metadata["limit_bytes"].as_str()),
                ("MESSAGE_TOO_LARGE", &*limit.to_string()),
                "{context}"
            );
        }
    }
    assert!(dynamic::methods().iter().any(|method| method.name() == "BatchAddMembers"));
    fixture.assert_unchanged().await;
}
