//! Tokens appear in no log, event, table, listing or error.

use crate::harness::log::Log;
use crate::invitations::{Fixture, accept, decline, hex, invite, invite_by_mail, preview, remind, revoke};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster::grpc::pb;
use sha2::{Digest, Sha256};

/// Creates, sends, accepts and declines invitations, with failures. Returns every token and every error.
async fn exercise(fixture: &Fixture) -> (Vec<String>, Vec<String>) {
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    let (mut backend, acme) = (fixture.backend.clone(), &fixture.acme);
    let request_id = roster::random::uuid().to_string();
    let request = pb::CreateInvitationRequest { request_id, ..invite(acme, "grace@private.example") };
    let created = backend.invitations.create_invitation(request.clone()).await.unwrap().into_inner();
    let id = created.invitation.unwrap().invitation_id;
    tokens.push(created.token);
    backend.invitations.create_invitation(request).await.unwrap();
    errors.push(backend.invitations.create_invitation(invite(acme, "grace@private.example")).await.unwrap_err());
    tokens.push(fixture.remind(&id, false).await);
    tokens.push(fixture.remind(&id, true).await);
    let mailed = fixture.create(invite_by_mail(acme, "alan@private.example")).await;
    let mail = fixture.server.roster.claim_letter().await.unwrap().unwrap();
    tokens.push(mail.token.unwrap().expose().to_owned());
    let mut mallory = fixture.server.person("mallory", "mallory@private.example", true);
    for token in &tokens {
        errors.push(mallory.invitations.accept_invitation(accept(token)).await.unwrap_err());
        errors.push(mallory.invitations.decline_invitation(decline(token)).await.unwrap_err());
    }
    errors.push(mallory.invitations.preview_invitation(preview(&tokens[0])).await.unwrap_err());
    mallory.invitations.preview_invitation(preview(&tokens[2])).await.unwrap();
    let mut grace = fixture.server.person("grace", "grace@private.example", true);
    let request_id = roster::random::uuid().to_string();
    let request = pb::AcceptInvitationRequest { request_id, ..accept(&tokens[2]) };
    grace.invitations.accept_invitation(request).await.unwrap();
    let mut alan = fixture.server.person("alan", "alan@private.example", true);
    let request_id = roster::random::uuid().to_string();
    let request = pb::DeclineInvitationRequest { request_id, ..decline(&tokens[3]) };
    alan.invitations.decline_invitation(request.clone()).await.unwrap();
    alan.invitations.decline_invitation(request).await.unwrap();
    errors.push(backend.invitations.revoke_invitation(revoke(acme, &mailed.id)).await.unwrap_err());
    errors.push(backend.invitations.remind_invitation(remind(acme, &id, false)).await.unwrap_err());
    let text = |status: tonic::Status| format!("{status:?} {}", String::from_utf8_lossy(status.details()));
    (tokens, errors.into_iter().map(text).collect())
}

#[tokio::test]
async fn tokens_and_addresses_are_not_in_logs_events_or_errors() {
    // Before the server starts: its tasks log to the subscriber of the thread that starts it.
    let log = Log::watch();
    let fixture = Fixture::new().await;
    let (tokens, errors) = exercise(&fixture).await;
    assert_eq!(tokens.len(), 4);

    let log = log.end();
    assert!(log.contains("AcceptInvitation") && log.contains(" h2::") && log.contains(" sqlx::"));
    let dump = fixture.server.database.dump().await;
    let tables = format!("{dump:?}");
    assert!(!dump["events"].is_empty() && !dump["requests"].is_empty() && tables.contains("grace@private.example"));
    for token in &tokens {
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        let hash = hex(Sha256::digest(token));
        for (what, text) in [("log", &log), ("table", &tables), ("error", &errors.concat())] {
            // The token, its first half, its bytes, and the bytes of its text in hexadecimal.
            for secret in [token.as_str(), &token[..20], &hex(&bytes), &hex(token)] {
                assert!(!text.contains(secret), "a {what} contains a token");
            }
        }
        // The hash authorizes nothing, and is in the table of tokens only.
        assert!(!log.contains(&hash));
        for (table, rows) in &dump {
            let present = rows.iter().any(|row| row.contains(&hash));
            assert!(!present || table == "invitation_tokens", "{table}");
        }
    }
    // The hashes of the valid tokens are in that table.
    let valid = |token: &str| dump["invitation_tokens"].iter().any(|row| row.contains(&hex(Sha256::digest(token))));
    assert_eq!(tokens.iter().map(|token| valid(token)).collect::<Vec<_>>(), [false, false, true, true]);
    // Addresses are in the rows that need them, and neither in the events, the change log, the outbox nor in the log
    // lines.
    let history = format!("{:?} {:?} {:?}", dump["events"], dump["log"], dump["outbox"]);
    for text in [&log, &history] {
        assert!(
            !text.contains("private.example"),
            "an address is in the log lines, the events, the change log or the outbox"
        );
    }
}
