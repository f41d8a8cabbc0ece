//! Names of organizations and of users: what is taken, in which form it is stored, and that stored names stay readable.

use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused, organization};
use roster::authn::mint::ClaimSet;
use roster::grpc::pb;
use tonic::{Code, Status};

/// Names that people have, and the form in which they are stored if it is another one.
const TAKEN: [(&str, &str); 16] = [
    ("خانه\u{200c}های ایران", ""),
    ("प्रिया शर्मा", ""),
    ("ผู้หญิง น้ำ", ""),
    ("தமிழ்", ""),
    ("ශ්\u{200d}රී ලංකා", ""),
    ("അവന\u{d4d}\u{200d}", ""),
    ("র\u{200d}\u{9cd}যাব", ""),
    ("בְּרֵאשִׁית", ""),
    ("شركة مُحَمَّد", ""),
    ("👩🏽\u{200d}🚀 🏳\u{fe0f}\u{200d}🌈", ""),
    ("🇮🇷", ""),
    ("🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}", ""),
    ("葛\u{e0100}城", ""),
    (" Rene\u{301}e ", "Renée"),
    ("\u{1112}\u{1161}\u{11ab}", "한"),
    ("\u{212b}ngström", "Ångström"),
];

const REFUSED: [&str; 14] = [
    "\u{200d}",
    "\u{2800}",
    "\u{fe0f}",
    "\u{1d159}",
    "\u{301}",
    "\u{3164}",
    "\u{fffc}",
    "Ac\u{200c}me",
    "Ac\u{200d}me",
    "Acme\u{fe0f}",
    "Acme\u{e0100}",
    "Acme\u{1d173}",
    "Acme\u{e0067}\u{e007f}",
    "دارو\u{200c}خانه",
];

/// Writes a name in every way, and returns the stored forms.
async fn write(server: &Server, ada: &mut Clients, name: &str) -> [Result<String, Status>; 3] {
    let created = ada.organizations.create_organization(organization(name)).await;
    let created = created.map(|created| created.into_inner().organization.unwrap().name);
    let other = ada.create("Other").await;
    let rename = pb::UpdateOrganizationRequest { organization: other, name: name.to_owned(), ..Default::default() };
    let renamed = ada.organizations.update_organization(rename).await;
    let renamed = renamed.map(|renamed| renamed.into_inner().organization.unwrap().name);
    let put = pb::PutUserRequest { user_id: "grace".to_owned(), display_name: name.to_owned(), ..Default::default() };
    let put = server.operator().users.put_user(put).await.map(|put| put.into_inner().user.unwrap().display_name);
    [created, renamed, put]
}

#[tokio::test]
async fn names_follow_one_rule() {
    let server = Server::start_generous().await;
    let mut ada = server.user("ada");
    for (name, stored) in TAKEN {
        let stored = if stored.is_empty() { name } else { stored };
        for written in write(&server, &mut ada, name).await {
            assert_eq!(written.unwrap(), stored);
        }
        let claims = ClaimSet { name: Some(name.to_owned()), ..Server::claims("alan") };
        let mut alan = server.with_token(&server.mint(&claims));
        alan.create("Of Alan").await;
        let get = pb::GetUserRequest { user_id: "alan".to_owned() };
        assert_eq!(alan.users.get_user(get).await.unwrap().into_inner().user.unwrap().display_name, stored);
    }
    for name in REFUSED {
        for written in write(&server, &mut ada, name).await {
            assert_refused(written, Code::InvalidArgument, "INVALID_REQUEST");
        }
    }
}

#[tokio::test]
async fn names_of_former_releases_stay_readable() {
    let server = Server::start().await;
    let mut ada = server.user("ada");
    for name in ["Ac\u{200d}me", "\u{2800}", "Rene\u{301}e", "a\u{fe0f}", "\u{e0100}"] {
        let id = ada.create("Acme").await;
        for statement in
            ["UPDATE organizations SET name = $1 WHERE id::text = $2", "UPDATE users SET display_name = $1"]
        {
            let query = sqlx::query(statement).bind(name);
            let query = if statement.contains("$2") { query.bind(&id) } else { query };
            query.execute(&server.database.pool).await.unwrap();
        }
        let get = pb::GetOrganizationRequest { organization: id.clone() };
        let read = ada.organizations.get_organization(get).await.unwrap().into_inner().organization.unwrap();
        assert_eq!(read.name, name);
        let get = pb::GetMemberRequest { organization: id.clone(), user_id: String::new() };
        let member = ada.organizations.get_member(get).await.unwrap().into_inner().member.unwrap();
        assert_eq!(member.display_name, name);
        // Another change keeps the name.
        let slug = format!("slug-{}", &id[..8]);
        let update = pb::UpdateOrganizationRequest { organization: id, slug, ..Default::default() };
        let changed = ada.organizations.update_organization(update).await.unwrap().into_inner().organization.unwrap();
        assert_eq!(changed.name, name);
    }
}
