//! The count is compared with the memory that the decoder takes, for every request type.

use super::*;
use crate::authz::rules::METHODS;
use crate::grpc::FILE_DESCRIPTOR_SET;
use crate::grpc::pb;
use proptest::prelude::*;
use prost::Message;
use prost_reflect::{DescriptorPool, Kind, MessageDescriptor};
use std::sync::LazyLock;

/// Memory that the decoder takes for an error, in bytes at most.
const ERROR_BYTES: usize = 1024;
/// The size of the messages that are to take the most memory, in bytes: large enough that [`limits::DECODED_BYTES`] does not
/// matter.
const SIZE: usize = 160 * 1024;
/// The limit of the items of a batch in these tests.
const ITEMS: usize = 10_000;

/// A request type: its descriptor, its shape and its decoder.
struct RequestType {
    descriptor: MessageDescriptor,
    shape: &'static MessageShape,
    /// Returns the largest memory during the decoding, in bytes, and whether the message was decoded.
    decode: fn(&[u8]) -> (usize, bool),
}

fn decode<M: Message + Default>(bytes: &[u8]) -> (usize, bool) {
    let mut is_decoded = false;
    let memory = allocation_counter::measure(|| is_decoded = std::hint::black_box(M::decode(bytes)).is_ok());
    (usize::try_from(memory.bytes_max).unwrap(), is_decoded)
}

macro_rules! request_types {
    ($($name:ident),+ $(,)?) => {{
        let pool = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
        [$(RequestType {
            descriptor: pool.get_message_by_name(concat!("roster.v1.", stringify!($name))).unwrap(),
            shape: <pb::$name as RequestShape>::SHAPE,
            decode: decode::<pb::$name>,
        }),+]
    }};
}

static REQUEST_TYPES: LazyLock<Vec<RequestType>> = LazyLock::new(|| {
    let types = request_types![
        AcceptInvitationRequest,
        ActivateOrganizationRequest,
        AddMemberRequest,
        ApplyAccessModelRequest,
        BatchAddMembersRequest,
        BatchCheckMembershipRequest,
        BatchCreateInvitationsRequest,
        BatchGetEffectivePermissionsRequest,
        CheckMembershipRequest,
        CreateInvitationRequest,
        CreateOrganizationRequest,
        CreateRoleRequest,
        DeactivateOrganizationRequest,
        DeactivateUserRequest,
        DeclineInvitationRequest,
        DeleteOrganizationRequest,
        DeleteRoleRequest,
        DeleteUserRequest,
        EnableRolesRequest,
        EnsureMemberRequest,
        ExplainCheckRequest,
        ExportMembershipsRequest,
        GetAccessModelRequest,
        GetCallerRequest,
        GetEffectivePermissionsRequest,
        GetInvitationRequest,
        GetMemberRequest,
        GetOrganizationRequest,
        GetRoleRequest,
        GetUserRequest,
        LeaveOrganizationRequest,
        ListEventsRequest,
        ListInvitationsRequest,
        ListMembersRequest,
        ListMembersWithPermissionRequest,
        ListModelEventsRequest,
        ListOrganizationsRequest,
        ListReceivedInvitationsRequest,
        ListRolesRequest,
        ListUserEventsRequest,
        ListUserOrganizationsRequest,
        ListUsersRequest,
        PreviewInvitationRequest,
        PutUserRequest,
        ReactivateUserRequest,
        ReinstateUserRequest,
        RemindInvitationRequest,
        RemoveMemberRequest,
        RevokeInvitationRequest,
        StreamChecksRequest,
        TransferOwnershipRequest,
        UndeleteOrganizationRequest,
        UpdateMemberRequest,
        UpdateOrganizationRequest,
        UpdateRoleRequest,
        WatchEventsRequest,
        WatchMembershipsRequest,
    ];
    assert_eq!(types.len(), METHODS.len(), "a request type is missing here");
    types.into()
});

fn request_types() -> std::slice::Iter<'static, RequestType> {
    REQUEST_TYPES.iter()
}

fn varint(mut number: usize, bytes: &mut Vec<u8>) {
    while number >= 0x80 {
        bytes.push(u8::try_from(number & 0x7f).unwrap() | 0x80);
        number >>= 7;
    }
    bytes.push(u8::try_from(number).unwrap());
}

fn delimited(number: u32, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    varint(usize::try_from(number).unwrap() << 3 | 2, &mut bytes);
    varint(content.len(), &mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

/// The shortest elements of each list and each map that a message type can contain, each with the fields around it.
fn bombs(descriptor: &MessageDescriptor, depth: usize) -> Vec<(String, Vec<u8>, Vec<u32>)> {
    let mut found = Vec::new();
    for field in descriptor.fields() {
        let name = field.full_name().to_owned();
        let number = field.number();
        if field.is_list() && !matches!(field.kind(), Kind::Message(_)) {
            let content: &[u8] = if matches!(field.kind(), Kind::String) { &[] } else { &[1; 64] };
            found.push((name.clone(), delimited(number, content), Vec::new()));
        }
        let Kind::Message(inner) = field.kind() else { continue };
        if field.is_list() || field.is_map() {
            found.push((name.clone(), delimited(number, &[]), Vec::new()));
        }
        if depth > 0 {
            for (inner_name, element, mut around) in bombs(&inner, depth - 1) {
                around.push(number);
                found.push((format!("{name} > {inner_name}"), element.clone(), around.clone()));
                // A list of messages with one element each.
                let nested = around.iter().fold(element, |content, number| delimited(*number, &content));
                found.push((format!("{name} * {inner_name}"), nested, Vec::new()));
            }
        }
    }
    found
}

/// Copies of an element that fill a message of about this size, inside the fields around them.
fn filled(element: &[u8], around: &[u32], size: usize) -> Vec<u8> {
    let content = element.repeat((size / element.len()).max(1));
    around.iter().fold(content, |content, number| delimited(*number, &content))
}

/// Asserts that a message takes no more memory than the count says. Returns how many times its size it takes at most, if
/// the count accepts it.
fn check(request: &RequestType, context: &str, message: &[u8]) -> Option<usize> {
    match count(request.shape, message, ITEMS) {
        Ok(counted) => {
            let (memory, is_decoded) = (request.decode)(message);
            let counted = if is_decoded { counted } else { counted + ERROR_BYTES };
            assert!(memory <= counted, "{context}: {memory} bytes, counted as {counted}");
            assert!(memory <= memory_limit(message.len()), "{context}: {memory} bytes");
            Some(memory / message.len().max(1))
        }
        Err(_) => None,
    }
}

#[test]
fn no_accepted_message_takes_more_memory_than_is_counted() {
    let (mut tried, mut refused, mut worst) = (0, 0, 0);
    for request in request_types() {
        let name = request.descriptor.name();
        for (path, element, around) in bombs(&request.descriptor, 5) {
            for size in [0, 300, limits::UNCOUNTED_BYTES / 2] {
                let message = filled(&element, &around, size);
                check(request, &format!("{name}: {path}, {size}"), &message);
                let (memory, _) = (request.decode)(&message);
                assert!(memory <= limits::DECODED_BYTES, "{name}: {path}: {memory} bytes of {}", message.len());
                tried += 1;
            }
            // With the shortest padding that the count accepts: that message takes the most.
            for padding in [0, 2, 4, 6, 9, 12, 16, 24] {
                let element = [element.as_slice(), &delimited(100, &vec![0; padding])].concat();
                let message = filled(&element[..element.len() - if padding == 0 { 3 } else { 0 }], &around, SIZE);
                tried += 1;
                if let Some(factor) = check(request, &format!("{name}: {path}, padded by {padding}"), &message) {
                    worst = worst.max(factor);
                    break;
                }
                refused += 1;
            }
        }
    }
    assert!(tried > 500 && refused > 50, "{tried} messages, {refused} refused");
    // The worst message that is accepted takes this many times its size. Without the count it is over 100.
    assert!((15..=limits::DECODED_FACTOR).contains(&worst), "{worst}");
}

#[test]
fn a_list_with_too_many_items_is_refused_by_its_number() {
    let shape = <pb::BatchAddMembersRequest as RequestShape>::SHAPE;
    let items = |count: usize| delimited(2, &[]).repeat(count);
    assert_eq!(count(shape, &items(101), 100), Err(Excess::Items { field: "items" }));
    assert!(count(shape, &items(100), 100).is_ok());
    let shape = <pb::BatchCheckMembershipRequest as RequestShape>::SHAPE;
    assert_eq!(count(shape, &delimited(1, &[]).repeat(10_001), 10_000), Err(Excess::Items { field: "items" }));
    assert!(count(shape, &delimited(1, &[]).repeat(10_000), 10_000).is_ok());
}

#[test]
fn unknown_fields_and_groups_cost_nothing_and_hide_nothing() {
    let request = request_types().find(|request| request.descriptor.name() == "AddMemberRequest").unwrap();
    let attributes = request.descriptor.get_field_by_name("attributes").unwrap().number();
    let object = delimited(1, &delimited(5, &delimited(1, &[])));
    let list = delimited(6, &object.repeat(30_000));
    let bomb = delimited(attributes, &delimited(1, &delimited(2, &list)));
    let group = |content: &[u8]| [&[0xf3, 0x06], content, &[0xf4, 0x06]].concat();
    for prefix in [
        Vec::new(),
        delimited(100, &[0; 1000]),
        group(&[]),
        group(&group(&[0x08, 0x01])),
        vec![0xf8, 0x06, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0xfd, 0x06, 1, 2, 3, 4],
        vec![0xf9, 0x06, 1, 2, 3, 4, 5, 6, 7, 8],
    ] {
        let message = [prefix.as_slice(), &bomb].concat();
        assert_eq!(count(request.shape, &message, ITEMS), Err(Excess::Memory), "{prefix:?}");
        assert!((request.decode)(&prefix).1, "{prefix:?}");
        assert!(check(request, "a prefix", &prefix).is_some());
    }
    // A key of more bytes than it needs is the same key.
    let long_key = [&[0x8a, 0x80, 0x00][..], &delimited(1, b"acme")[1..]].concat();
    assert!((request.decode)(&long_key).1);
    // Deeper than the decoder follows: the decoder refuses the message, and the count does not exhaust the stack.
    let deep = (0..2_000).fold(Vec::new(), |inner, _| delimited(1, &delimited(2, &delimited(5, &inner))));
    let deep = delimited(attributes, &deep);
    assert!(check(request, "a deep message", &deep).is_some());
    assert!(!(request.decode)(&deep).1);
}

proptest! {
    #[test]
    fn any_bytes_take_no_more_memory_than_is_counted(
        number in 0..METHODS.len(),
        parts in prop::collection::vec((prop::sample::select(vec![0x0a_u8, 0x12, 0x1a, 0x22, 0x2a, 0x32, 0x08, 0x52]),
                                        prop::collection::vec(any::<u8>(), 0..40)), 0..40),
        noise in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut bytes = Vec::new();
        for (key, content) in parts {
            bytes.push(key);
            varint(content.len(), &mut bytes);
            bytes.extend(content);
        }
        bytes.extend(noise);
        let request = &REQUEST_TYPES[number];
        check(request, "random bytes", &bytes);
    }
}
