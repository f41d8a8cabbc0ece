//! Databases with an encoding other than UTF8.

use crate::harness::program::output;
use crate::harness::{Database, Server, is_member};
use roster::server::ServerSettings;
use roster::store::migrations::MIGRATIONS;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

const ENCODINGS: [&str; 4] = ["LATIN1", "SQL_ASCII", "WIN1252", "EUC_JP"];

async fn with_encoding(encoding: &str) -> Database {
    let options = format!("ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    Database::with_options(&options).await.unwrap()
}

#[tokio::test]
async fn a_database_with_another_encoding_is_not_migrated() {
    for encoding in ENCODINGS {
        let database = with_encoding(encoding).await;
        let (code, stdout, stderr) = output(&["migrate", "--database-url", &database.url]).await;
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        let sentence =
            format!("the encoding of the database is {encoding}: roster needs a database with the encoding UTF8");
        assert!(stderr.contains(&sentence), "{stderr}");
        assert_eq!(database.count("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'").await, 0);
    }
}

#[tokio::test]
async fn a_server_does_not_serve_a_database_with_another_encoding() {
    for encoding in ENCODINGS {
        let database = with_encoding(encoding).await;
        // As an older release migrated it.
        MIGRATIONS.run(&database.pool).await.unwrap();
        let server = Server::launch(database, ServerSettings::default()).await;
        server.until(ServingStatus::NotServing).await;
        let check = server.operator().checks.check_membership(is_member("acme", "ada")).await;
        assert_eq!(check.unwrap_err().code(), Code::Unavailable, "{encoding}");
        let created = server.user("ada").organizations.create_organization(crate::harness::organization("Acme")).await;
        assert_eq!(created.unwrap_err().code(), Code::Unavailable, "{encoding}");
    }
}
