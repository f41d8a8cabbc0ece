//! What is no gRPC call, or not quite one: it never reaches a handler, and is answered by name.

use super::World;
use crate::harness::raw::{self, Answer, Call, frame};
use http::Method;
use roster::domain::Scope;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A call that would change something if a handler saw it: a member added, by an operator.
fn adding(world: &World) -> Call {
    let (path, message) = raw::add(&world.organization, "intruder", "");
    let token = world.server.service_token("root", &[Scope::Operator]);
    Call::grpc(&path, &message).bearer(&token)
}

/// Sends each, and asserts that nothing was changed by it.
async fn assert_each(
    calls: impl IntoIterator<Item = (&'static str, Call)>,
    world: &World,
    right: impl Fn(&Answer) -> bool,
) {
    for (what, call) in calls {
        let answer = world.server.send(call).await;
        assert!(right(&answer), "{what}: {answer:?}");
        assert_eq!(world.server.database.dump().await, world.before, "{what} changed something");
    }
}

fn refused(status: i32, reason: &'static str) -> impl Fn(&Answer) -> bool {
    move |answer| {
        (answer.http_status, answer.grpc_status, answer.reason.as_deref()) == (200, Some(status), Some(reason))
    }
}

const INVALID_ARGUMENT: i32 = 3;
const UNIMPLEMENTED: i32 = 12;

#[tokio::test]
async fn the_call_itself_is_good() {
    let world = World::new().await;
    let answer = world.server.send(adding(&world)).await;
    assert_eq!((answer.http_status, answer.grpc_status), (200, Some(0)), "{answer:?}");
    assert!(!answer.body.is_empty());
    assert_ne!(world.server.database.dump().await, world.before, "nothing here could fail");
}

#[tokio::test]
async fn only_post_is_a_call() {
    let world = World::new().await;
    for verb in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS, Method::PATCH] {
        let answer = world.server.send(Call { method: verb.clone(), ..adding(&world) }).await;
        assert_eq!((answer.http_status, answer.grpc_status), (405, None), "{verb}: {answer:?}");
        assert_eq!(answer.headers["allow"], "POST");
    }
    world.assert_unchanged().await;
}

#[tokio::test]
async fn only_grpc_is_a_content_type() {
    let world = World::new().await;
    let types = [
        "application/json",
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpc+json",
        "application/grpcfoo",
        "application/proto",
        "text/plain",
        "",
    ];
    let mut calls: Vec<_> = types.map(|kind| (kind, adding(&world).instead("content-type", kind))).into();
    calls.push(("none", adding(&world).without("content-type")));
    assert_each(calls, &world, |answer| (answer.http_status, answer.grpc_status) == (415, None)).await;
}

#[tokio::test]
async fn only_the_paths_of_the_protos_are_paths() {
    let world = World::new().await;
    let good = adding(&world).path;
    let paths = [
        ("a query", format!("{good}?x=1")),
        ("an empty query", format!("{good}?")),
        ("a doubled slash", good.replacen('/', "//", 1)),
        ("a doubled slash within", good.replace("/Add", "//Add")),
        ("another case", good.to_lowercase()),
        ("a method in another case", good.replace("AddMember", "addMember")),
        ("a slash behind", format!("{good}/")),
        ("something behind", format!("{good}/x")),
        ("an escaped letter", good.replace("AddMember", "%41ddMember")),
        ("dots", good.replace("/Add", "/./Add")),
        ("no such method", good.replace("AddMember", "AddMembers")),
        ("no such service", good.replace("Organization", "Organisation")),
        ("another package", good.replace("roster.v1", "roster.v2")),
        ("no method", "/roster.v1.OrganizationService".to_owned()),
        ("no method, but a slash", "/roster.v1.OrganizationService/".to_owned()),
        ("nothing", "/".to_owned()),
        ("no such method of health", "/grpc.health.v1.Health/Checkk".to_owned()),
        ("no such method of reflection", "/grpc.reflection.v1.ServerReflection/x".to_owned()),
    ];
    let calls = paths.map(|(what, path)| (what, Call { path, ..adding(&world) }));
    assert_each(calls, &world, refused(UNIMPLEMENTED, "METHOD_UNKNOWN")).await;
}

#[tokio::test]
async fn only_one_whole_message_is_a_body() {
    let world = World::new().await;
    let good = adding(&world).body;
    let message = &good[5..];
    let with_head = |head: &[u8]| [head, message].concat();
    let bodies = [
        ("none", Vec::new()),
        ("half a head", good[..3].to_vec()),
        ("a head and no message", good[..5].to_vec()),
        ("half a message", good[..good.len() - 1].to_vec()),
        ("two messages", [good.as_slice(), &good].concat()),
        ("a message and an empty one", [good.as_slice(), &frame(b"")].concat()),
        ("a message and half a head", [good.as_slice(), &[0, 0]].concat()),
        ("a message without a head", message.to_vec()),
        ("the flag of compression", with_head(&[&[1], &good[1..5]].concat())),
        ("a flag that is none", with_head(&[&[7], &good[1..5]].concat())),
        ("noise", vec![0xff; 100]),
        ("noise in a frame", frame(&[0xff; 100])),
        ("JSON", br#"{"organization":"acme","user_id":"intruder"}"#.to_vec()),
        ("JSON in a frame", frame(br#"{"organization":"acme"}"#)),
    ];
    for (what, body) in bodies {
        let answer = world.server.send(Call { body, ..adding(&world) }).await;
        // Noise as a head names a length, and that one is too large.
        let (status, reason) = match what {
            "noise" | "JSON" => (None, None),
            _ => (Some(INVALID_ARGUMENT), Some("MALFORMED_MESSAGE")),
        };
        assert_eq!(answer.http_status, 200);
        if status.is_some() {
            assert_eq!((answer.grpc_status, answer.reason.as_deref()), (status, reason), "{what}: {answer:?}");
        } else {
            let named = answer.reason.as_deref();
            assert!(matches!(named, Some("MALFORMED_MESSAGE" | "MESSAGE_TOO_LARGE")), "{what}: {answer:?}");
        }
        assert_eq!(world.server.database.dump().await, world.before, "{what} changed something");
    }
    // A length that is larger than any message may be, with nothing behind it.
    let huge = Call { body: vec![0, 0xff, 0xff, 0xff, 0xff], ..adding(&world) };
    let answer = world.server.send(huge).await;
    assert_eq!((answer.grpc_status, answer.reason.as_deref()), (Some(8), Some("MESSAGE_TOO_LARGE")), "{answer:?}");
}

#[tokio::test]
async fn only_plain_bytes_are_an_encoding() {
    let world = World::new().await;
    let encodings = ["gzip", "br", "identity,gzip", "nonsense", "GZIP"];
    let calls = encodings.map(|encoding| (encoding, adding(&world).with("grpc-encoding", encoding)));
    assert_each(calls, &world, refused(UNIMPLEMENTED, "METHOD_UNKNOWN")).await;
    let flagged = Call { body: [&[1], &adding(&world).body[1..]].concat(), ..adding(&world) };
    let flagged = [("gzip, and the flag", flagged.with("grpc-encoding", "gzip"))];
    assert_each(flagged, &world, refused(UNIMPLEMENTED, "METHOD_UNKNOWN")).await;
}

#[tokio::test]
async fn only_a_number_with_a_unit_is_a_deadline() {
    let world = World::new().await;
    let values = ["", "5", "5s", "-1S", "999999999S", "1.5S", "S", "1 S", "0x1S", "1SS", "٣S"];
    let mut calls: Vec<_> = values.map(|value| (value, adding(&world).with("grpc-timeout", "1S"))).into();
    for (value, call) in &mut calls {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        call.headers.insert("grpc-timeout", value);
    }
    let mut twice = adding(&world);
    twice.headers.append("grpc-timeout", "1S".parse().unwrap());
    twice.headers.append("grpc-timeout", "2S".parse().unwrap());
    calls.push(("two", twice));
    assert_each(calls, &world, refused(INVALID_ARGUMENT, "INVALID_REQUEST")).await;
    // Often, because a write that was begun all the same would be lucky now and then only.
    let now = (0..20).map(|_| ("no time at all", adding(&world).with("grpc-timeout", "0S")));
    assert_each(now, &world, refused(4, "DEADLINE_EXCEEDED")).await;
    world.server.database.assert_no_open_transactions().await;
    world.assert_unchanged().await;
}

#[tokio::test]
async fn http_1_is_not_spoken() {
    let world = World::new().await;
    let token = world.server.service_token("root", &[Scope::Operator]);
    let Call { path, body, .. } = adding(&world);
    let mut stream = TcpStream::connect(world.server.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let mut answer = Vec::new();
    // The connection is closed; whether by an end or by a reset is the system's choice.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 2"), "{answer:?}");
    world.assert_unchanged().await;
}

#[tokio::test]
async fn a_call_that_breaks_off_changes_nothing() {
    let world = World::new().await;
    let Call { path, headers, body, .. } = adding(&world);
    let stream = TcpStream::connect(world.server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let uri = format!("http://{}{path}", world.server.address);
    let mut request = http::Request::post(uri).body(()).unwrap();
    *request.headers_mut() = headers;
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    // All of the message but its last byte, which is only the end of a text.
    sending.send_data(body[..body.len() - 1].to_vec().into(), false).unwrap();
    let mut client = client.ready().await.unwrap();
    sending.send_reset(h2::Reason::CANCEL);
    drop(answer);
    // Another call on the same connection, answered: the server has seen the reset before it.
    let call = adding(&world);
    let uri = format!("http://{}/roster.v1.UserService/GetCaller", world.server.address);
    let mut request = http::Request::post(uri).body(()).unwrap();
    *request.headers_mut() = call.headers;
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(frame(b"").into(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    connection.abort();
    world.assert_unchanged().await;
}
