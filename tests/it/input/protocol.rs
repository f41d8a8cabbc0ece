//! Requests that violate the gRPC protocol: no handler sees them, and the error has a reason.

use super::Fixture;
use crate::harness::raw::{self, Answer, Call, frame};
use http::Method;
use roster::domain::Scope;
use roster::grpc::pb;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A call that changes the database if a handler receives it: an operator adds a member.
fn add_member(fixture: &Fixture) -> Call {
    let (path, message) = raw::add(&fixture.organization, "intruder", "");
    let token = fixture.server.service_token("root", &[Scope::Operator]);
    Call::grpc(&path, &message).bearer(&token)
}

/// Sends each call, and asserts that its answer is right and that nothing changed.
async fn assert_each(
    calls: impl IntoIterator<Item = (&'static str, Call)>,
    fixture: &Fixture,
    is_right: impl Fn(&Answer) -> bool,
) {
    for (what, call) in calls {
        let answer = fixture.server.send(call).await;
        assert!(is_right(&answer), "{what}: {answer:?}");
        assert_eq!(fixture.server.database.dump().await, fixture.before, "{what} changed something");
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
async fn the_unmodified_call_succeeds_and_changes_something() {
    let fixture = Fixture::new().await;
    let answer = fixture.server.send(add_member(&fixture)).await;
    assert_eq!((answer.http_status, answer.grpc_status), (200, Some(0)), "{answer:?}");
    assert!(!answer.body.is_empty());
    assert_ne!(
        fixture.server.database.dump().await,
        fixture.before,
        "the call changes nothing, so the other tests prove nothing"
    );
}

#[tokio::test]
async fn methods_other_than_post_are_refused_in_one_line() {
    let fixture = Fixture::new().await;
    for verb in [Method::GET, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS, Method::PATCH] {
        let answer = fixture.server.send(Call { method: verb.clone(), ..add_member(&fixture) }).await;
        assert_eq!((answer.http_status, answer.grpc_status), (405, None), "{verb}: {answer:?}");
        assert_eq!(answer.headers["allow"], "POST");
        assert_eq!(is_one_line(&answer.body, "a call is a POST"), verb != Method::HEAD, "{verb}: {answer:?}");
    }
    // Connect sends methods without side effects as GET.
    let path = format!("{}?connect=v1&encoding=json&message=%7B%7D", add_member(&fixture).path);
    let answer =
        fixture.server.send(Call { method: Method::GET, path, ..add_member(&fixture).without("content-type") });
    let answer = answer.await;
    assert_eq!((answer.http_status, answer.headers["content-type"].as_bytes()), (405, &b"application/json"[..]));
    assert_is_connect_error(&answer.body, "not the Connect protocol");
    fixture.assert_unchanged().await;
}

/// Whether a body is one line of text that contains this.
fn is_one_line(body: &[u8], text: &str) -> bool {
    let body = std::str::from_utf8(body).unwrap();
    body.contains(text) && body.trim_end().lines().count() == 1
}

/// Asserts that a body is an error in the JSON of Connect, whose message contains this.
#[track_caller]
fn assert_is_connect_error(body: &[u8], text: &str) {
    let error: serde_json::Value = serde_json::from_slice(body).unwrap();
    assert_eq!(error["code"], "unimplemented");
    assert!(error["message"].as_str().unwrap().contains(text), "{error}");
    assert!(is_one_line(body, text));
}

#[tokio::test]
async fn content_types_other_than_grpc_are_refused_in_one_line() {
    let fixture = Fixture::new().await;
    let types = ["application/grpcfoo", "text/plain", "text/html; charset=utf-8", "application/x-protobuf", ""];
    let mut calls: Vec<_> = types.map(|kind| (kind, add_member(&fixture).instead("content-type", kind))).into();
    calls.push(("none", add_member(&fixture).without("content-type")));
    assert_each(calls, &fixture, |answer| {
        let is_readable = is_one_line(&answer.body, "a call is a POST with the content-type application/grpc");
        (answer.http_status, answer.grpc_status) == (415, None) && is_readable
    })
    .await;
}

#[tokio::test]
async fn other_protocols_are_refused_as_their_clients_read_it() {
    let fixture = Fixture::new().await;
    let send = async |kind: &str| fixture.server.send(add_member(&fixture).instead("content-type", kind)).await;
    // gRPC-Web: a status in the headers. Its client reports a second error for a status in the body.
    let types = ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text+proto"];
    for kind in types {
        let answer = send(kind).await;
        assert!(refused(UNIMPLEMENTED, "METHOD_UNKNOWN")(&answer), "{kind}: {answer:?}");
        assert!(answer.status().unwrap().message().contains("not gRPC-Web"), "{kind}: {answer:?}");
        assert_eq!(answer.headers["content-type"], kind);
        assert!(answer.is_head_only, "{kind}: {answer:?}");
    }
    // gRPC with other messages, or with parameters: a status.
    for kind in ["application/grpc+json", "application/grpc+thrift", "application/grpc; charset=utf-8"] {
        let answer = send(kind).await;
        assert!(refused(UNIMPLEMENTED, "METHOD_UNKNOWN")(&answer), "{kind}: {answer:?}");
        assert!(answer.status().unwrap().message().contains("messages of protobuf"), "{kind}: {answer:?}");
    }
    // Connect, and JSON as of a gateway: an error in JSON.
    for (kind, text) in [
        ("application/proto", "not the Connect protocol"),
        ("application/json", "not JSON"),
        ("Application/JSON; charset=utf-8", "not JSON"),
    ] {
        let answer = send(kind).await;
        assert_eq!((answer.http_status, answer.grpc_status), (415, None), "{kind}: {answer:?}");
        assert_eq!(answer.headers["content-type"], "application/json");
        assert_is_connect_error(&answer.body, text);
    }
    // Streams of Connect: an error in the last frame.
    for kind in ["application/connect+proto", "application/connect+json"] {
        let answer = send(kind).await;
        assert_eq!((answer.http_status, answer.headers["content-type"].to_str().unwrap()), (200, kind));
        let length = u32::try_from(answer.message().len()).unwrap().to_be_bytes();
        assert_eq!((answer.body[0], &answer.body[1..5]), (2, &length[..]), "{answer:?}");
        let end: serde_json::Value = serde_json::from_slice(answer.message()).unwrap();
        assert_is_connect_error(end["error"].to_string().as_bytes(), "not the Connect protocol");
    }
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn paths_outside_the_protos_are_refused() {
    let fixture = Fixture::new().await;
    let good = add_member(&fixture).path;
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
    let calls = paths.map(|(what, path)| (what, Call { path, ..add_member(&fixture) }));
    assert_each(calls, &fixture, refused(UNIMPLEMENTED, "METHOD_UNKNOWN")).await;
}

#[tokio::test]
async fn bodies_other_than_one_whole_message_are_refused() {
    let fixture = Fixture::new().await;
    let good = add_member(&fixture).body;
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
        ("a flag that is none", with_head(&[&[7], &good[1..5]].concat())),
        ("noise", vec![0xff; 100]),
        ("noise in a frame", frame(&[0xff; 100])),
        ("JSON", br#"{"organization":"acme","user_id":"intruder"}"#.to_vec()),
        ("JSON in a frame", frame(br#"{"organization":"acme"}"#)),
    ];
    for (what, body) in bodies {
        let answer = fixture.server.send(Call { body, ..add_member(&fixture) }).await;
        // Random bytes as a frame header encode a length, which may be too large.
        let (status, reason) = match what {
            "noise" | "JSON" => (None, None),
            _ => (Some(INVALID_ARGUMENT), Some("MALFORMED_MESSAGE")),
        };
        assert_eq!(answer.http_status, 200);
        if status.is_some() {
            assert_eq!((answer.grpc_status, answer.reason.as_deref()), (status, reason), "{what}: {answer:?}");
        } else {
            let reason = answer.reason.as_deref();
            assert!(matches!(reason, Some("MALFORMED_MESSAGE" | "MESSAGE_TOO_LARGE")), "{what}: {answer:?}");
        }
        assert_eq!(fixture.server.database.dump().await, fixture.before, "{what} changed something");
    }
    // A length above the limit, without a message.
    let huge = Call { body: vec![0, 0xff, 0xff, 0xff, 0xff], ..add_member(&fixture) };
    let answer = fixture.server.send(huge).await;
    assert_eq!((answer.grpc_status, answer.reason.as_deref()), (Some(8), Some("MESSAGE_TOO_LARGE")), "{answer:?}");
}

/// Whether an answer says that the request was compressed, with this encoding.
fn refuses_compression(answer: &Answer, encoding: &str) -> bool {
    let status = answer.status();
    let message = status.as_ref().map_or("", |status| status.message());
    let accepted = answer.headers.get("grpc-accept-encoding").or_else(|| answer.trailers.get("grpc-accept-encoding"));
    refused(UNIMPLEMENTED, "METHOD_UNKNOWN")(answer)
        && message.starts_with("the request is compressed")
        && message.contains(encoding)
        && accepted.is_some_and(|accepted| accepted == "identity")
}

#[tokio::test]
async fn compressed_messages_are_refused_with_the_name_of_the_encoding() {
    let fixture = Fixture::new().await;
    for encoding in ["gzip", "deflate", "snappy", "zstd", "br", "identity,gzip", "nonsense", "GZIP", "a b", ""] {
        let flagged = Call { body: [&[1], &add_member(&fixture).body[1..]].concat(), ..add_member(&fixture) };
        let calls = [
            (encoding, add_member(&fixture).with("grpc-encoding", encoding)),
            (encoding, flagged.with("grpc-encoding", encoding)),
            (encoding, add_member(&fixture).with("grpc-encoding", "identity").with("grpc-encoding", encoding)),
        ];
        assert_each(calls, &fixture, |answer| refuses_compression(answer, encoding)).await;
    }
    let noise = Call { path: raw::path("UserService/GetCaller"), ..add_member(&fixture) };
    let noise = noise.with("grpc-encoding", &"\u{e9}".repeat(2000));
    assert_each([("noise", noise)], &fixture, |answer| refuses_compression(answer, "\\u{")).await;
}

#[tokio::test]
async fn the_flag_of_compression_is_refused_without_an_encoding_too() {
    let fixture = Fixture::new().await;
    let flagged = Call { body: [&[1], &add_member(&fixture).body[1..]].concat(), ..add_member(&fixture) };
    let empty = Call { body: vec![1, 0, 0, 0, 0], ..add_member(&fixture) };
    let health = Call { path: "/grpc.health.v1.Health/Check".to_owned(), ..empty.clone() };
    let list = Call { path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo".to_owned(), ..empty.clone() };
    let calls = [
        ("identity", flagged.clone().with("grpc-encoding", "identity")),
        ("a check", Call { path: raw::path("CheckService/CheckMembership"), ..flagged.clone() }),
        ("a watch", Call { path: raw::path("CheckService/WatchMemberships"), ..flagged.clone() }),
        ("none", flagged),
        ("an empty message", empty),
        ("health", health),
    ];
    assert_each(calls, &fixture, |answer| refuses_compression(answer, "")).await;
    assert!(refuses_compression(&raw::send_whole(fixture.server.address, list).await, ""));

    // In a stream, the messages before it are answered.
    let token = fixture.server.service_token("root", &[Scope::Operator]);
    let question = prost::Message::encode_to_vec(&pb::StreamChecksRequest::default());
    let sound = frame(&question);
    let body = [&sound[..], &[1], &sound[1..]].concat();
    for cut in [0, sound.len(), sound.len() + 3] {
        let call = Call { body: body.clone(), ..Call::grpc(&raw::path("CheckService/StreamChecks"), &[]) };
        let answer = raw::send_in_pieces(fixture.server.address, call.bearer(&token), &[cut]).await;
        assert!(refuses_compression(&answer, "") && !answer.body.is_empty(), "{cut}: {answer:?}");
    }
}

#[tokio::test]
async fn invalid_deadlines_are_refused() {
    let fixture = Fixture::new().await;
    let values = ["", "5", "5s", "-1S", "999999999S", "1.5S", "S", "1 S", "0x1S", "1SS", "٣S"];
    let mut calls: Vec<_> = values.map(|value| (value, add_member(&fixture).with("grpc-timeout", "1S"))).into();
    for (value, call) in &mut calls {
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        call.headers.insert("grpc-timeout", value);
    }
    let mut twice = add_member(&fixture);
    twice.headers.append("grpc-timeout", "1S".parse().unwrap());
    twice.headers.append("grpc-timeout", "2S".parse().unwrap());
    calls.push(("two", twice));
    assert_each(calls, &fixture, refused(INVALID_ARGUMENT, "INVALID_REQUEST")).await;
    // Repeated, because a write that starts in spite of its deadline would complete only now and then.
    let now = (0..20).map(|_| ("no time at all", add_member(&fixture).with("grpc-timeout", "0S")));
    assert_each(now, &fixture, refused(4, "DEADLINE_EXCEEDED")).await;
    fixture.server.database.assert_no_open_transactions().await;
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn http_1_is_refused() {
    let fixture = Fixture::new().await;
    let token = fixture.server.service_token("root", &[Scope::Operator]);
    let Call { path, body, .. } = add_member(&fixture);
    let mut stream = TcpStream::connect(fixture.server.address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc\r\nauthorization: Bearer {token}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), &body].concat()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"), "{answer:?}");
    fixture.assert_unchanged().await;
}

#[tokio::test]
async fn a_call_reset_before_its_last_byte_changes_nothing() {
    let fixture = Fixture::new().await;
    let Call { path, headers, body, .. } = add_member(&fixture);
    let stream = TcpStream::connect(fixture.server.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let uri = format!("http://{}{path}", fixture.server.address);
    let mut request = http::Request::post(uri).body(()).unwrap();
    *request.headers_mut() = headers;
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    // The message without its last byte, which is the end of a text.
    sending.send_data(body[..body.len() - 1].to_vec().into(), false).unwrap();
    let mut client = client.ready().await.unwrap();
    sending.send_reset(h2::Reason::CANCEL);
    drop(answer);
    // An answered call on the same connection proves that the server has received the reset.
    let call = add_member(&fixture);
    let uri = format!("http://{}/roster.v1.UserService/GetCaller", fixture.server.address);
    let mut request = http::Request::post(uri).body(()).unwrap();
    *request.headers_mut() = call.headers;
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    sending.send_data(frame(b"").into(), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 200);
    connection.abort();
    fixture.assert_unchanged().await;
}
