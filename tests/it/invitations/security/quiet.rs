//! Where a token is not: in no log, event, table, listing or error.

use crate::harness::log::Log;
use crate::invitations::{Scene, accept, decline, hex, invite, invite_by_mail, preview, remind, revoke};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster::grpc::pb;
use sha2::{Digest, Sha256};

/// A whole life of invitations, with failures on the way; gives every token, and every error.
async fn live(scene: &Scene) -> (Vec<String>, Vec<String>) {
    let (mut tokens, mut errors) = (Vec::new(), Vec::new());
    let (mut backend, acme) = (scene.backend.clone(), &scene.acme);
    let request_id = roster::random::uuid().to_string();
    let request = pb::CreateInvitationRequest { request_id, ..invite(acme, "grace@private.example") };
    let made = backend.invitations.create_invitation(request.clone()).await.unwrap().into_inner();
    let id = made.invitation.unwrap().invitation_id;
    tokens.push(made.token);
    backend.invitations.create_invitation(request).await.unwrap();
    errors.push(backend.invitations.create_invitation(invite(acme, "grace@private.example")).await.unwrap_err());
    tokens.push(scene.remind(&id, false).await);
    tokens.push(scene.remind(&id, true).await);
    let mailed = scene.make(invite_by_mail(acme, "alan@private.example")).await;
    let letter = scene.server.roster.claim_letter().await.unwrap().unwrap();
    tokens.push(letter.token.unwrap().expose().to_owned());
    let mut mallory = scene.server.person("mallory", "mallory@private.example", true);
    for token in &tokens {
        errors.push(mallory.invitations.accept_invitation(accept(token)).await.unwrap_err());
        errors.push(mallory.invitations.decline_invitation(decline(token)).await.unwrap_err());
    }
    errors.push(mallory.invitations.preview_invitation(preview(&tokens[0])).await.unwrap_err());
    mallory.invitations.preview_invitation(preview(&tokens[2])).await.unwrap();
    let mut grace = scene.server.person("grace", "grace@private.example", true);
    let request_id = roster::random::uuid().to_string();
    let request = pb::AcceptInvitationRequest { request_id, ..accept(&tokens[2]) };
    grace.invitations.accept_invitation(request).await.unwrap();
    let mut alan = scene.server.person("alan", "alan@private.example", true);
    let request_id = roster::random::uuid().to_string();
    let request = pb::DeclineInvitationRequest { request_id, ..decline(&tokens[3]) };
    alan.invitations.decline_invitation(request.clone()).await.unwrap();
    alan.invitations.decline_invitation(request).await.unwrap();
    errors.push(backend.invitations.revoke_invitation(revoke(acme, &mailed.id)).await.unwrap_err());
    errors.push(backend.invitations.remind_invitation(remind(acme, &id, false)).await.unwrap_err());
    let told = |status: tonic::Status| format!("{status:?} {}", String::from_utf8_lossy(status.details()));
    (tokens, errors.into_iter().map(told).collect())
}

#[tokio::test]
async fn nothing_secret_is_in_logs_events_tables_or_errors() {
    // Before the server: its threads log where the one logs who starts it.
    let log = Log::watch();
    let scene = Scene::new().await;
    let (tokens, errors) = live(&scene).await;
    assert_eq!(tokens.len(), 4);

    let log = log.end();
    assert!(log.contains("AcceptInvitation") && log.contains(" h2::") && log.contains(" sqlx::"));
    let dump = scene.server.database.dump().await;
    let tables = format!("{dump:?}");
    assert!(!dump["events"].is_empty() && !dump["requests"].is_empty() && tables.contains("grace@private.example"));
    for token in &tokens {
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
        let hash = hex(Sha256::digest(token));
        for (what, text) in [("log", &log), ("table", &tables), ("error", &errors.concat())] {
            // As it is, its first half, its bytes, and the bytes of its text.
            for secret in [token.as_str(), &token[..20], &hex(&bytes), &hex(token)] {
                assert!(!text.contains(secret), "a {what} holds a token");
            }
        }
        // The hash opens nothing, and is where tokens are and nowhere else.
        assert!(!log.contains(&hash));
        for (table, rows) in &dump {
            let there = rows.iter().any(|row| row.contains(&hash));
            assert!(!there || table == "invitation_tokens", "{table}");
        }
    }
    // Those that are alive are there, by their hashes.
    let alive = |token: &str| dump["invitation_tokens"].iter().any(|row| row.contains(&hex(Sha256::digest(token))));
    assert_eq!(tokens.iter().map(|token| alive(token)).collect::<Vec<_>>(), [false, false, true, true]);
    // Addresses are in the rows that need them, and neither in the history nor in the log.
    let history = format!("{:?} {:?} {:?}", dump["events"], dump["log"], dump["outbox"]);
    for text in [&log, &history] {
        assert!(!text.contains("private.example"), "an address is where it should not be");
    }
}
