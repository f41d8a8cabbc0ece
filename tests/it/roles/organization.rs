//! The functions of the store for roles of organizations, and for the members who hold them.

use super::{DANGLING, acme, beta, connect, database, lock_acme, name, run};
use roster::domain::{Organization, Role, RoleName, UserId};
use roster::store::memberships;
use roster::store::organization_roles::{self, MovedMember, RoleContent};
use sqlx::Connection;

fn content(permissions: &[&str]) -> RoleContent {
    RoleContent {
        title: "Writer".to_owned(),
        description: "Writes.".to_owned(),
        permissions: permissions.iter().map(|word| (*word).to_owned()).collect(),
        replaced_by: None,
    }
}

#[tokio::test]
async fn a_role_is_stored_listed_overwritten_and_deleted() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let organization = lock_acme(&mut connection).await;
    let writer = name("org:writer");
    let given = content(&["billing.read", "billing.pay"]);
    let stored = organization_roles::insert(&mut connection, &organization, &writer, &given).await.unwrap().unwrap();
    assert_eq!((&stored.name, &stored.content, stored.revision), (&writer, &given, 1));
    assert_eq!(stored.create_time, stored.update_time);
    let again = organization_roles::insert(&mut connection, &organization, &writer, &content(&[])).await.unwrap();
    assert_eq!(again, None);
    assert_eq!(organization_roles::get(&mut connection, acme(), &writer).await.unwrap(), Some(stored.clone()));
    assert_eq!(organization_roles::get(&mut connection, beta(), &writer).await.unwrap(), None);
    let names = organization_roles::list(&mut connection, acme(), 50).await.unwrap();
    let names: Vec<_> = names.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["org:editor", "org:unused", "org:writer"]);
    assert_eq!(organization_roles::list(&mut connection, acme(), 2).await.unwrap().len(), 2);

    let later = Organization { revision: 7, ..organization };
    let retired = RoleContent { replaced_by: Some(RoleName::MEMBER), ..content(&[]) };
    let updated = organization_roles::update(&mut connection, &later, &writer, &retired).await.unwrap();
    assert_eq!((&updated.content, updated.revision, updated.create_time), (&retired, 7, stored.create_time));
    assert!(updated.update_time > stored.update_time);
    assert!(organization_roles::update(&mut connection, &later, &name("org:ghost"), &retired).await.is_err());

    assert!(!organization_roles::delete(&mut connection, beta(), &writer).await.unwrap());
    assert!(organization_roles::delete(&mut connection, acme(), &writer).await.unwrap());
    assert!(!organization_roles::delete(&mut connection, acme(), &writer).await.unwrap());
    // A member holds it.
    assert!(organization_roles::delete(&mut connection, acme(), &name("org:editor")).await.is_err());
}

#[tokio::test]
async fn a_membership_is_written_with_the_column_of_its_role() {
    let database = database().await;
    let mut connection = connect(&database).await;
    let organization = lock_acme(&mut connection).await;
    let joan = UserId::parse("joan").unwrap();
    let columns = "SELECT role, deployment_role, organization_role FROM memberships WHERE user_id = 'joan'";
    for (role, deployment, own) in [
        ("admin", None, None),
        ("member", None, None),
        ("clerk", Some("clerk"), None),
        ("org:unused", None, Some("org:unused")),
    ] {
        let expected = (role.to_owned(), deployment.map(str::to_owned), own.map(str::to_owned));
        let role = Role { name: name(role), permissions: None };
        let mut transaction = connection.begin().await.unwrap();
        let attributes = roster::domain::Attributes::default();
        let added = memberships::insert(&mut transaction, &organization, &joan, &role, &attributes).await.unwrap();
        assert_eq!(added.unwrap().role.name, role.name);
        let stored: (String, Option<String>, Option<String>) =
            sqlx::query_as(columns).fetch_one(&mut *transaction).await.unwrap();
        assert_eq!(stored, expected);
        // From each role to each.
        for before in ["admin", "clerk", "org:unused"] {
            let before = Role { name: name(before), permissions: None };
            memberships::update(&mut transaction, &organization, &joan, &before, &attributes).await.unwrap();
            memberships::update(&mut transaction, &organization, &joan, &role, &attributes).await.unwrap();
            let stored: (String, Option<String>, Option<String>) =
                sqlx::query_as(columns).fetch_one(&mut *transaction).await.unwrap();
            assert_eq!(stored, expected);
        }
        transaction.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn members_move_in_pieces_each_with_a_revision_of_its_own() {
    let database = database().await;
    run(
        &database,
        "INSERT INTO memberships (bucket, organization_id, user_id, role, organization_role, attributes, revision,
                                  create_time, update_time)
         SELECT bucket, id, 'editor-' || n, 'org:editor', 'org:editor', '{}', 1, now(), now()
         FROM organizations, generate_series(1, 5) n WHERE bucket = 1",
    )
    .await;
    let mut connection = connect(&database).await;
    let mut organization = lock_acme(&mut connection).await;
    let counts = organization_roles::members(&mut connection, acme(), 50).await.unwrap();
    assert_eq!(counts, [(name("org:editor"), 6)]);
    let counts = organization_roles::members(&mut connection, acme(), 4).await.unwrap();
    assert_eq!(counts, [(name("org:editor"), 4)]);

    let moved = |users: &[&str], after: i64| -> Vec<MovedMember> {
        let user = |user: &&str| UserId::parse(user).unwrap();
        users.iter().zip(after + 1..).map(|(id, revision)| MovedMember { user: user(id), revision }).collect()
    };
    let (editor, unused) = (name("org:editor"), name("org:unused"));
    for (from, to, most, users) in [
        (&editor, &unused, 2, &["editor-1", "editor-2"][..]),
        (&editor, &name("clerk"), 10, &["editor-3", "editor-4", "editor-5", "eve"]),
        (&editor, &unused, 10, &[]),
        (&unused, &RoleName::ADMIN, 10, &["editor-1", "editor-2"]),
        (&name("clerk"), &RoleName::MEMBER, 3, &["editor-3", "editor-4", "editor-5"]),
        (&name("clerk"), &editor, 3, &["eve"]),
        (&name("auditor"), &name("clerk"), 3, &["bob"]),
    ] {
        let outcome =
            organization_roles::move_members(&mut connection, &organization, from, to, None, most).await.unwrap();
        assert_eq!(outcome, moved(users, organization.revision), "{from} to {to}");
        for user in users {
            let member =
                memberships::get(&mut connection, acme(), &UserId::parse(user).unwrap()).await.unwrap().unwrap();
            let revision = outcome.iter().find(|moved| moved.user == member.user).unwrap().revision;
            assert_eq!((&member.role.name, member.revision), (to, revision));
        }
        organization.revision += i64::try_from(users.len()).unwrap();
    }
    // A role that does not exist: no member moves.
    let ghost =
        organization_roles::move_members(&mut connection, &organization, &editor, &name("org:ghost"), None, 10).await;
    assert!(ghost.is_err());
    assert_eq!(database.count(DANGLING).await, 0);
    assert_eq!(database.count("SELECT count(*) FROM memberships WHERE bucket = 2 AND revision > 1").await, 0);
}
