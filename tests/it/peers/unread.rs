//! Answers that are not read.

use super::rigs::{Session, soon};
use crate::harness::Server;
use crate::harness::raw::{Call, path};
use crate::harness::server::Clients;
use prost::Message;
use roster::domain::Scope;
use roster::grpc::pb;
use roster::server::limits;
use sqlx::AssertSqlSafe;
use std::time::Instant;
use tonic_types::StatusExt;

/// A server with an organization of 400 members whose attributes take 8 KB each, and the call of a page of them.
async fn large_pages() -> (Server, Call) {
    let server = Server::start().await;
    let acme = server.user("ada").create("Acme").await;
    let statements = format!(
        "INSERT INTO users (user_bucket, id, state, deactivated_by_operator, email_verified, profile_issued_at, revision,
                            create_time, update_time)
         SELECT user_bucket_of(id), id, 'ACTIVE', false, false, 0, 1, now(), now()
         FROM (SELECT 'member-' || n AS id FROM generate_series(1, 400) n) made;
         INSERT INTO memberships
         SELECT m.bucket, m.organization_id, u.id, 'member', jsonb_build_object('a', repeat('x', 8000)), 1, now(), now()
         FROM memberships m, users u WHERE m.organization_id = '{acme}'::uuid AND u.id LIKE 'member-%'"
    );
    sqlx::raw_sql(AssertSqlSafe(statements)).execute(&server.database.pool).await.unwrap();
    let list = pb::ListMembersRequest { organization: acme, page_size: 1000, ..Default::default() };
    let token = server.service_token("backend", &[Scope::Check]);
    let call = Call::grpc(&path("OrganizationService/ListMembers"), &list.encode_to_vec()).bearer(&token);
    (server, call)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_pages_hold_a_bounded_number_of_bytes_and_end() {
    let (server, list) = large_pages().await;
    for window in [0, 1] {
        let greedy = Session::with_window(server.address, window).await;
        let mut started = Vec::new();
        for _ in 0..40 {
            started.push(greedy.start(&list, true).await);
        }
        let (mut refused, mut unread) = (0, Vec::new());
        for call in started {
            let (headers, body) = call.head().await;
            match tonic::Status::from_header_map(&headers) {
                Some(status) => {
                    assert_eq!(status.get_details_error_info().unwrap().reason, "OVERLOADED");
                    assert!(status.get_details_retry_info().is_some());
                    refused += 1;
                }
                None => unread.push(body),
            }
        }
        // A page takes about 3 MiB of the 16 MiB that a connection may hold.
        assert!(
            unread.len() <= limits::RESPONSE_BYTES / limits::CONNECTIONS_FOR_ALL_BYTES / (2 * 1024 * 1024),
            "{}",
            unread.len()
        );
        assert_eq!(refused + unread.len(), 40);
        // Others are served.
        let others = Session::open(server.address).await;
        let (headers, mut body) = soon(others.start(&list, true).await.head()).await;
        assert!(tonic::Status::from_header_map(&headers).is_none());
        assert!(soon(body.data()).await.unwrap().is_ok());
        // The server gives up the pages that are not read.
        for mut body in unread {
            while let Some(data) = soon(body.data()).await {
                if data.is_err() {
                    break;
                }
            }
        }
        // What they held is there again.
        let (headers, _) = soon(greedy.start(&list, true).await.head()).await;
        assert!(tonic::Status::from_header_map(&headers).is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_its_whole_page() {
    let (server, list) = large_pages().await;
    let session = Session::with_window(server.address, 1024).await;
    let (headers, mut body) = soon(session.start(&list, true).await.head()).await;
    assert!(tonic::Status::from_header_map(&headers).is_none());
    let mut size = 0;
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        size += data.len();
        body.flow_control().release_capacity(data.len()).unwrap();
    }
    assert!(size > 2 * 1024 * 1024, "{size}");
    let trailers = soon(body.trailers()).await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_whose_socket_is_not_read_is_closed() {
    let (server, list) = large_pages().await;
    // The library reads the socket only while its driver runs.
    let stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
    let builder = &mut h2::client::Builder::new();
    let (send, mut connection) = builder
        .initial_window_size(1 << 30)
        .initial_connection_window_size(1 << 30)
        .handshake::<_, prost::bytes::Bytes>(stream)
        .await
        .unwrap();
    let start = Instant::now();
    let mut ready = send.ready();
    let mut send = {
        let driven = async {
            tokio::select! { ready = &mut ready => ready.unwrap(), _ = &mut connection => panic!() }
        };
        soon(driven).await
    };
    let mut responses = Vec::new();
    for _ in 0..5 {
        let mut request = http::Request::post(format!("http://roster.test{}", list.path)).body(()).unwrap();
        *request.headers_mut() = list.headers.clone();
        let (response, mut body) = send.send_request(request, false).unwrap();
        body.send_data(list.body.clone().into(), true).unwrap();
        responses.push(response);
    }
    // Sends the requests, and reads the head of the first response only.
    let first = responses.remove(0);
    tokio::select! { _ = first => {}, _ = &mut connection => panic!("closed early") }
    // Nothing is read until the server must have closed the connection.
    tokio::time::sleep_until(tokio::time::Instant::from_std(start) + limits::PEER_PAUSE + limits::PEER_PAUSE / 5).await;
    assert!(soon(connection).await.is_err());
    let mut others = Clients::new(&server.connect().await, server.credential(&[Scope::Operator]));
    soon(others.users.get_caller(pb::GetCallerRequest {})).await.unwrap();
}
