//! Lists of users.

use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused};
use roster::domain::{Scope, UserId};
use roster::grpc::pb;
use tonic::Code;

async fn page(caller: &mut Clients, request: &pb::ListUsersRequest) -> (Vec<String>, String) {
    let response = caller.users.list_users(request.clone()).await.unwrap().into_inner();
    (response.users.into_iter().map(|user| user.user_id).collect(), response.next_page_token)
}

async fn ids(caller: &mut Clients, states: &[pb::UserState], email: &str) -> Vec<String> {
    let states = states.iter().map(|state| i32::from(*state)).collect();
    let (ids, next) =
        page(caller, &pb::ListUsersRequest { states, email: email.to_owned(), ..Default::default() }).await;
    assert_eq!(next, "");
    ids
}

/// The ids in the order of the list: by bucket, then by id.
fn ordered<'a>(ids: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut ids: Vec<UserId> = ids.into_iter().map(|id| UserId::parse(id).unwrap()).collect();
    ids.sort_by_key(|id| (id.bucket(), id.to_string()));
    ids.iter().map(ToString::to_string).collect()
}

async fn put(backend: &mut Clients, user: &str, email: &str, verified: bool) {
    let request = pb::PutUserRequest {
        user_id: user.to_owned(),
        email: email.to_owned(),
        email_verified: verified,
        ..Default::default()
    };
    backend.users.put_user(request).await.unwrap();
}

#[tokio::test]
async fn users_are_listed_by_state_and_by_exact_address() {
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Manage]);
    put(&mut backend, "ada", "Shared@X.example", true).await;
    put(&mut backend, "grace", "shared@x.example", false).await;
    put(&mut backend, "alan", "alan@x.example", true).await;
    put(&mut backend, "joan", "", false).await;
    let deactivation = pb::DeactivateUserRequest { user_id: "grace".to_owned(), ..Default::default() };
    backend.users.deactivate_user(deactivation).await.unwrap();
    let deletion = pb::DeleteUserRequest { user_id: "joan".to_owned(), ..Default::default() };
    backend.users.delete_user(deletion).await.unwrap();

    let every_state = [pb::UserState::Active, pb::UserState::Inactive, pb::UserState::Deleted];
    for mut caller in [server.operator(), backend] {
        assert_eq!(ids(&mut caller, &[], "").await, ordered(["ada", "alan"]));
        assert_eq!(ids(&mut caller, &[pb::UserState::Inactive], "").await, ["grace"]);
        assert_eq!(ids(&mut caller, &[pb::UserState::Deleted], "").await, ["joan"]);
        assert_eq!(ids(&mut caller, &every_state, "").await, ordered(["ada", "alan", "grace", "joan"]));
        assert_eq!(ids(&mut caller, &[], "SHARED@x.example").await, ["ada"]);
        assert_eq!(ids(&mut caller, &every_state, "shared@x.example").await, ordered(["ada", "grace"]));
        assert!(ids(&mut caller, &every_state, "shared@x.exampl").await.is_empty());
    }
}

#[tokio::test]
async fn pages_list_every_user_once_and_refuse_the_page_token_of_another_request() {
    let server = Server::start().await;
    let mut backend = server.service(&[Scope::Manage]);
    let names: Vec<String> = (0..23).map(|number| format!("user-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        put(&mut backend, name, if number < 7 { "team@x.example" } else { "" }, false).await;
    }
    for (email, expected) in [("", &names[..]), ("team@x.example", &names[..7])] {
        let mut listed = Vec::new();
        let mut request = pb::ListUsersRequest { email: email.to_owned(), page_size: 4, ..Default::default() };
        loop {
            let (ids, next) = page(&mut backend, &request).await;
            assert!(ids.len() == 4 || next.is_empty());
            listed.extend(ids);
            if next.is_empty() {
                break;
            }
            request.page_token = next;
        }
        assert_eq!(listed, ordered(expected.iter().map(String::as_str)));
        let other = pb::ListUsersRequest { states: vec![pb::UserState::Inactive.into()], ..request };
        assert_refused(backend.users.list_users(other).await, Code::InvalidArgument, "INVALID_REQUEST");
    }
}
