//! Messages that do not arrive: they take no place among the calls, and a bounded number of bytes.

use super::rigs::{Session, soon};
use crate::harness::raw::{Call, frame, path};
use crate::harness::{Database, Server};
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::{ServerSettings, limits};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic_types::StatusExt;

fn few_places() -> ServerSettings {
    // Four places for reads, four for writes, one for anonymous calls. One address has two and two.
    ServerSettings { max_concurrent_requests: 4, ..ServerSettings::default() }
}

/// Calls of every class, without their messages.
fn unfinished(server: &Server) -> Vec<Call> {
    let user = server.mint(&Server::claims("mallory"));
    let service = server.service_token("slow", &[Scope::Check]);
    let empty = |name: &str| Call { body: Vec::new(), ..Call::grpc(&path(name), &[]) };
    vec![
        empty("InvitationService/PreviewInvitation"),
        empty("UserService/GetCaller").bearer(&user),
        empty("OrganizationService/CreateOrganization").bearer(&user),
        empty("CheckService/CheckMembership").bearer(&service),
        empty("CheckService/BatchCheckMembership").bearer(&service),
        Call { path: "/grpc.health.v1.Health/Check".to_owned(), ..empty("") },
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_takes_its_place_when_its_message_has_arrived() {
    let server = Server::over(Database::new().await, few_places()).await;
    let acme = server.user("ada").create("Acme").await;
    let slow = Session::open(server.address).await;
    let mut started = Vec::new();
    for call in unfinished(&server) {
        for begun in [&[][..], &[0], &[0, 0, 0, 0, 40], &[0, 0, 0, 0, 40, 10]] {
            for _ in 0..5 {
                started.push(slow.start(&Call { body: begun.to_vec(), ..call.clone() }, false).await);
            }
        }
    }
    for _ in 0..3 {
        assert!(server.service(&[Scope::Check]).is_member(&acme, "ada").await);
        server.user("ada").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        server.user("eve").create("Another").await;
        let preview = pb::PreviewInvitationRequest { token: "roi_unknown".to_owned() };
        let refused = server.anonymous().invitations.preview_invitation(preview).await.unwrap_err();
        assert_ne!(refused.code(), Code::Unavailable, "{refused}");
        server.until_serving().await;
    }
    drop(started);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_a_limit_of_time_of_its_own() {
    let server = Server::start().await;
    let token = server.mint(&Server::claims("ada"));
    let call = Call::grpc(&path("UserService/GetCaller"), &[]).bearer(&token).with("grpc-timeout", "30S");
    let slow = Session::open(server.address).await;
    let start = Instant::now();
    let headers_only = slow.start(&Call { body: Vec::new(), ..call.clone() }, false).await;
    // The message is announced, and one byte of it arrives each second.
    let mut dripping = slow.start(&Call { body: vec![0, 0, 0, 0, 200], ..call }, false).await;
    let mut body = std::mem::replace(&mut dripping.body, slow.start(&unfinished(&server)[0], false).await.body);
    let drip = tokio::spawn(async move {
        while body.send_data(vec![1].into(), false).is_ok() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    for call in [headers_only, dripping] {
        let answer = call.refusal().await;
        assert_eq!(answer.reason.as_deref(), Some("DEADLINE_EXCEEDED"));
        assert!(answer.status().unwrap().message().contains("too slowly"), "{answer:?}");
    }
    assert!(start.elapsed() >= limits::MESSAGE_PAUSE);
    drip.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_one_connection_hold_a_bounded_number_of_bytes() {
    let server = Server::start().await;
    let token = server.service_token("backend", &[Scope::Check]);
    // Announces a message of the largest size, and sends nearly all of it.
    let mut body = frame(&vec![0; 1024 * 1024]);
    body.truncate(body.len() - 10);
    let call = Call { body, ..Call::grpc(&path("CheckService/BatchCheckMembership"), &[]).bearer(&token) };
    let greedy = Session::open(server.address).await;
    let mut started = Vec::new();
    for _ in 0..8 {
        started.push(greedy.start(&call, false).await);
    }
    let (mut overloaded, mut slow) = (0, 0);
    for call in started {
        let answer = call.refusal().await;
        match answer.reason.as_deref() {
            Some("OVERLOADED") => {
                assert!(answer.status().unwrap().get_details_retry_info().is_some());
                overloaded += 1;
            }
            Some("DEADLINE_EXCEEDED") => slow += 1,
            other => panic!("{other:?}"),
        }
    }
    // The connection may hold four such messages, less what their headers take.
    assert_eq!(slow + overloaded, 8);
    assert!((1..=4).contains(&slow), "{slow}");
    // What a call held is returned with it.
    let good = pb::BatchCheckMembershipRequest::default();
    let good = Call::grpc(&path("CheckService/BatchCheckMembership"), &good.encode_to_vec()).bearer(&token);
    for _ in 0..20 {
        let answer = soon(server.send(good.clone())).await;
        assert_ne!(answer.reason.as_deref(), Some("OVERLOADED"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_one_class_leave_the_places_of_the_others() {
    let server = Server::over(Database::new().await, few_places()).await;
    let acme = server.user("ada").create("Acme").await;
    let mut lock = server.database.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM organizations FOR UPDATE").execute(&mut *lock).await.unwrap();
    let update = pb::UpdateOrganizationRequest { organization: acme.clone(), name: "New".into(), ..Default::default() };
    let token = server.mint(&Server::claims("ada"));
    let update = Call::grpc(&path("OrganizationService/UpdateOrganization"), &update.encode_to_vec()).bearer(&token);
    let update = update.with("grpc-timeout", "20S");
    let writer = Session::open(server.address).await;
    let mut waiting = Vec::new();
    // Writes that wait for the lock fill their pool.
    loop {
        let call = writer.start(&update, true).await;
        let refused = soon(server.send(update.clone().instead("grpc-timeout", "100m"))).await;
        waiting.push(call);
        if refused.reason.as_deref() == Some("OVERLOADED") {
            break;
        }
        assert_eq!(refused.reason.as_deref(), Some("DEADLINE_EXCEEDED"));
    }
    for _ in 0..3 {
        assert!(server.service(&[Scope::Check]).is_member(&acme, "ada").await);
        server.user("ada").users.get_caller(pb::GetCallerRequest {}).await.unwrap();
        server.until_serving().await;
    }
    lock.rollback().await.unwrap();
    // Those that had no place have a status in the head of the response.
    let mut held = 0;
    for call in waiting {
        let (headers, _) = soon(call.head()).await;
        held += u32::from(!headers.contains_key("grpc-status"));
    }
    assert!((1..=2).contains(&held), "{held}");
    server.user("ada").create("Another").await;
}
