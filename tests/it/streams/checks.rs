//! `StreamChecks`: the same answers as `CheckMembership`, in the order of the questions.

use super::{Checks, question, soon};
use crate::harness::dynamic::status;
use crate::harness::raw::Call;
use crate::harness::{Database, Server, reason};
use h2::client::SendRequest;
use pb::consistency::Requirement;
use pb::stream_checks_request::Question;
use pb::stream_checks_response::Outcome;
use prost::Message;
use prost::bytes::Bytes;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::ServerSettings;
use tokio::net::TcpStream;
use tonic::Code;

/// Starts a server with an organization: `ada` is owner, `grace` admin, `alan` member.
async fn server() -> (Server, String) {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    let acme = ada.create("Acme").await;
    ada.add(&acme, "grace", "admin").await;
    ada.add(&acme, "alan", "member").await;
    (server, acme)
}

/// Different questions of every kind about this organization, valid and invalid.
fn questions(acme: &str) -> Vec<pb::StreamChecksRequest> {
    let mut all = Vec::new();
    for organization in [acme, "acme", "nowhere", "7b0c3a1e-5a39-4d0c-9a53-3a0f2c8f7a11", "?"] {
        for user in ["ada", "grace", "alan", "unknown", ""] {
            let variants = [
                None,
                Some(Question::Role("admin".to_owned())),
                Some(Question::Role("king".to_owned())),
                Some(Question::Permission("members.add".to_owned())),
                Some(Question::Permission("members.fly".to_owned())),
            ];
            all.extend(
                variants.map(|variant| pb::StreamChecksRequest { question: variant, ..question(organization, user) }),
            );
        }
    }
    for requirement in [Requirement::FullyConsistent(true), Requirement::AtLeastAsFresh("x".to_owned())] {
        let consistency = Some(pb::Consistency { requirement: Some(requirement) });
        all.push(pb::StreamChecksRequest { consistency, ..question(acme, "ada") });
    }
    all
}

/// The answer of `CheckMembership` to the same question, without the fields that differ between two calls.
async fn check_alone(
    server: &Server,
    request: &pb::StreamChecksRequest,
) -> Result<pb::CheckResult, (Code, String, Vec<u8>)> {
    // Both requests have the same fields.
    let request = pb::CheckMembershipRequest::decode(&*request.encode_to_vec()).unwrap();
    match server.service(&[Scope::Check]).checks.check_membership(request).await {
        Ok(answer) => Ok(comparable(answer.into_inner().result.unwrap())),
        Err(status) => Err((status.code(), status.message().to_owned(), status.details().to_vec())),
    }
}

fn comparable(result: pb::CheckResult) -> pb::CheckResult {
    assert!(!result.consistency_token.is_empty());
    pb::CheckResult { source: 0, consistency_token: String::new(), ..result }
}

fn outcome(answer: pb::StreamChecksResponse) -> Result<pb::CheckResult, (Code, String, Vec<u8>)> {
    match answer.outcome.unwrap() {
        Outcome::Result(result) => Ok(comparable(result)),
        Outcome::Error(error) => {
            let status = status(&error);
            assert!(!reason(&status).is_empty());
            Err((status.code(), status.message().to_owned(), status.details().to_vec()))
        }
    }
}

#[tokio::test]
async fn each_answer_equals_that_of_a_single_check() {
    let (server, acme) = server().await;
    let mut stream = Checks::open(&server.service(&[Scope::Check])).await;
    let (mut answered, mut refused) = (0, 0);
    // Each question waits for the answer before it, so nothing is batched.
    for request in questions(&acme) {
        stream.ask(request.clone()).await;
        let answer = outcome(stream.next().await.unwrap().unwrap());
        assert_eq!(answer, check_alone(&server, &request).await, "{request:?}");
        *(if answer.is_ok() { &mut answered } else { &mut refused }) += 1;
    }
    assert!(answered >= 40 && refused >= 40, "{answered} answered, {refused} refused");
    stream.questions = None;
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pipelined_questions_are_answered_in_order() {
    let (server, acme) = server().await;
    let questions = questions(&acme);
    let mut expected = Vec::new();
    for request in &questions {
        expected.push(check_alone(&server, request).await);
    }
    let mut stream = Checks::open(&server.service(&[Scope::Check])).await;
    let sender = stream.questions.take().unwrap();
    let rounds = 60;
    let requests = questions.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..rounds {
            for question in &requests {
                sender.send(question.clone()).await.unwrap();
            }
        }
    });
    for number in 0..rounds * questions.len() {
        let answer = outcome(stream.next().await.unwrap().unwrap());
        assert_eq!(answer, expected[number % expected.len()], "answer {number}");
    }
    // All questions are sent and the client's side has ended: the stream ends without an error.
    soon(sending).await.unwrap();
    assert!(stream.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_change_between_two_questions_changes_the_second_answer() {
    let (server, acme) = server().await;
    let mut stream = Checks::open(&server.service(&[Scope::Check])).await;
    let consistency = Some(pb::Consistency { requirement: Some(Requirement::FullyConsistent(true)) });
    let request = pb::StreamChecksRequest { consistency, ..question(&acme, "alan") };
    for (step, expected) in [("unchanged", true), ("removed", false), ("added", true)] {
        match step {
            "removed" => {
                let remove = crate::harness::remove(&acme, "alan");
                server.user("ada").organizations.remove_member(remove).await.unwrap();
            }
            "added" => {
                server.user("ada").add(&acme, "alan", "member").await;
            }
            _ => {}
        }
        stream.ask(request.clone()).await;
        let answer = outcome(stream.next().await.unwrap().unwrap()).unwrap();
        assert_eq!(answer.allowed, expected, "{step}");
    }
}

/// An h2 connection without tonic, which would read answers by itself.
async fn raw(server: &Server, window: u32) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(server.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_connection_window_size(1 << 20);
    let (send, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    send
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_reads_no_answers_is_not_read_either() {
    let (server, acme) = server().await;
    let token = server.service_token("backend", &[Scope::Check]);
    let call = Call::grpc("/roster.v1.CheckService/StreamChecks", &question(&acme, "ada").encode_to_vec());
    let call = call.bearer(&token);
    let mut request = http::Request::post(format!("http://roster.test{}", call.path)).body(()).unwrap();
    *request.headers_mut() = call.headers.clone();
    let (answer, mut sending) =
        raw(&server, 16 * 1024).await.ready().await.unwrap().send_request(request, false).unwrap();
    // The client sends as long as the server reads.
    let block = call.body.repeat(200);
    let (mut sent, mut blocked) = (0_usize, false);
    while !blocked {
        sending.reserve_capacity(block.len());
        let granted = std::future::poll_fn(|context| sending.poll_capacity(context));
        match tokio::time::timeout(std::time::Duration::from_millis(1500), granted).await {
            Ok(capacity) => {
                let size = capacity.unwrap().unwrap().min(block.len());
                let from = sent % block.len();
                let piece = &block[from..block.len().min(from + size)];
                sending.send_data(piece.to_vec().into(), false).unwrap();
                sent += piece.len();
            }
            Err(_) => blocked = true,
        }
        assert!(sent < 8 << 20, "the server reads questions without a limit");
    }
    // Then the client reads the answers: every whole question gets one, and the server reads the remaining questions.
    let mut incoming = answer.await.unwrap().into_body();
    let rest = block.len() - sent % block.len();
    let whole = (sent + rest) / call.body.len();
    let last = block[block.len() - rest..].to_vec();
    let mut last = Some(last);
    let (mut body, mut answers) = (Vec::new(), 0);
    loop {
        if let Some(left) = last.take() {
            sending.reserve_capacity(left.len());
            sending.send_data(left.into(), true).unwrap();
        }
        let Some(chunk) = soon(incoming.data()).await else { break };
        let chunk = chunk.unwrap();
        incoming.flow_control().release_capacity(chunk.len()).unwrap();
        body.extend_from_slice(&chunk);
        while body.len() >= 5 {
            let length = usize::try_from(u32::from_be_bytes(body[1..5].try_into().unwrap())).unwrap() + 5;
            if body.len() < length {
                break;
            }
            let answer = pb::StreamChecksResponse::decode(&body[5..length]).unwrap();
            assert_eq!(outcome(answer).unwrap().role, "owner");
            body.drain(..length);
            answers += 1;
        }
    }
    assert_eq!(answers, whole);
    let trailers = incoming.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

/// Sends the same question in separate frames until the server has read none for a while. Returns the number of
/// questions sent. The granted capacity may be less than a question.
async fn send_one_by_one(mut sending: h2::SendStream<Bytes>, question: Vec<u8>) -> usize {
    let mut sent = 0;
    sending.reserve_capacity(question.len());
    loop {
        if sending.capacity() >= question.len() {
            sending.send_data(question.clone().into(), false).unwrap();
            sent += 1;
            assert!(sent < 100_000, "the server reads questions without a limit");
            sending.reserve_capacity(question.len());
            // Lets the connection send the frame before the next one.
            tokio::task::yield_now().await;
            continue;
        }
        let granted = std::future::poll_fn(|context| sending.poll_capacity(context));
        match tokio::time::timeout(std::time::Duration::from_millis(1500), granted).await {
            Ok(capacity) => assert!(capacity.unwrap().is_ok()),
            Err(_) => break,
        }
    }
    assert!(sent > 1024, "{sent}");
    sending.send_data(Bytes::new(), true).unwrap();
    sent
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_in_separate_frames_wait_for_a_hanging_datastore() {
    let (server, acme) = server().await;
    let consistency = Some(pb::Consistency { requirement: Some(Requirement::FullyConsistent(true)) });
    let request = pb::StreamChecksRequest { consistency, ..question(&acme, "ada") };
    let token = server.service_token("backend", &[Scope::Check]);
    let call = Call::grpc("/roster.v1.CheckService/StreamChecks", &request.encode_to_vec()).bearer(&token);
    let mut holder = server.database.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE memberships IN ACCESS EXCLUSIVE MODE").execute(&mut *holder).await.unwrap();
    // Several streams of one connection send small frames for as long as the server reads them.
    let client = raw(&server, 1 << 20).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut request = http::Request::post(format!("http://roster.test{}", call.path)).body(()).unwrap();
        *request.headers_mut() = call.headers.clone();
        let (answer, sending) = client.clone().ready().await.unwrap().send_request(request, false).unwrap();
        streams.push((answer, tokio::spawn(send_one_by_one(sending, call.body.clone()))));
    }
    let mut started = Vec::new();
    for (answer, sending) in streams {
        started.push((answer, soon(sending).await.unwrap()));
    }
    holder.rollback().await.unwrap();
    for (answer, sent) in started {
        let mut incoming = soon(answer).await.unwrap().into_body();
        let (mut body, mut answers) = (Vec::new(), 0);
        while let Some(chunk) = soon(incoming.data()).await {
            let chunk = chunk.unwrap();
            incoming.flow_control().release_capacity(chunk.len()).unwrap();
            body.extend_from_slice(&chunk);
        }
        let mut rest = &body[..];
        while !rest.is_empty() {
            let length = usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
            // A question that has waited for two seconds ends: the datastore does not answer.
            match outcome(pb::StreamChecksResponse::decode(&rest[5..5 + length]).unwrap()) {
                Ok(result) => assert!(result.allowed),
                Err((code, message, _)) => assert_eq!(code, Code::Unavailable, "{message}"),
            }
            rest = &rest[5 + length..];
            answers += 1;
        }
        assert_eq!(answers, sent);
    }
}

#[tokio::test]
async fn a_malformed_question_ends_the_stream_after_the_earlier_answers() {
    let (server, acme) = server().await;
    let token = server.service_token("backend", &[Scope::Check]);
    let good = Call::grpc("/roster.v1.CheckService/StreamChecks", &question(&acme, "ada").encode_to_vec());
    let good = good.bearer(&token);
    for (bad, expected, code) in [
        (crate::harness::raw::frame(&[0x0f]), "MALFORMED_MESSAGE", 3),
        (vec![0, 0, 0, 0, 9, 1], "MALFORMED_MESSAGE", 3),
        (crate::harness::raw::frame(&vec![0; 256 * 1024 + 1]), "MESSAGE_TOO_LARGE", 8),
        (vec![0, 0xff, 0xff, 0xff, 0xff], "MESSAGE_TOO_LARGE", 8),
    ] {
        let body = [good.body.repeat(3), bad].concat();
        let answer = crate::harness::raw::send_whole(server.address, Call { body, ..good.clone() }).await;
        assert_eq!((answer.grpc_status, answer.reason.as_deref()), (Some(code), Some(expected)));
        let (mut rest, mut answers) = (&answer.body[..], 0);
        while !rest.is_empty() {
            let length = usize::try_from(u32::from_be_bytes(rest[1..5].try_into().unwrap())).unwrap();
            assert!(outcome(pb::StreamChecksResponse::decode(&rest[5..5 + length]).unwrap()).is_ok());
            rest = &rest[5 + length..];
            answers += 1;
        }
        assert_eq!(answers, 3, "{expected}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_streams_release_their_permit_and_transactions() {
    // A single stream permit: each stream needs the permit of the one before.
    let settings = ServerSettings { max_streams: 1, ..ServerSettings::default() };
    let server = Server::over(Database::new().await, settings).await;
    let acme = server.user("ada").create("Acme").await;
    for number in 0..40 {
        let clients = server.service(&[Scope::Check]);
        let mut stream = soon(async {
            loop {
                if let Ok(stream) = Checks::try_open(&clients).await {
                    return stream;
                }
            }
        })
        .await;
        for _ in 0..=number {
            stream.ask(question(&acme, "ada")).await;
        }
        if number % 2 == 0 {
            assert!(stream.next().await.unwrap().is_some());
        }
        drop(stream);
    }
    server.database.assert_no_open_transactions().await;
    assert!(server.service(&[Scope::Check]).is_member(&acme, "ada").await);
}

#[tokio::test]
async fn an_unavailable_datastore_is_an_error_for_each_question() {
    let (server, acme) = server().await;
    let mut stream = Checks::open(&server.service(&[Scope::Check])).await;
    stream.ask(question(&acme, "ada")).await;
    assert!(outcome(stream.next().await.unwrap().unwrap()).is_ok());
    let hidden = "ALTER TABLE log_heads RENAME TO hidden";
    sqlx::query(hidden).execute(&server.database.pool).await.unwrap();
    let consistency = Some(pb::Consistency { requirement: Some(Requirement::FullyConsistent(true)) });
    let request = pb::StreamChecksRequest { consistency, ..question(&acme, "ada") };
    for _ in 0..3 {
        stream.ask(request.clone()).await;
        let (code, _, _) = outcome(stream.next().await.unwrap().unwrap()).unwrap_err();
        assert_eq!(code, Code::Unavailable);
    }
    sqlx::query("ALTER TABLE hidden RENAME TO log_heads").execute(&server.database.pool).await.unwrap();
    stream.ask(request).await;
    assert!(outcome(stream.next().await.unwrap().unwrap()).is_ok());
}
