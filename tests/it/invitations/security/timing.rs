//! Callers cannot distinguish invalid tokens of different kinds, neither by the answer nor by its time.

use crate::harness::server::Clients;
use crate::harness::{Server, assert_refused};
use crate::invitations::{Fixture, accept, decline, high_limits, invite, preview};
use roster::domain::Scope;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

/// The number of calls for each kind of token; `ROSTER_TEST_TIMING_CALLS` overrides it.
fn calls() -> usize {
    std::env::var("ROSTER_TEST_TIMING_CALLS").ok().map_or(300, |calls| calls.parse().unwrap())
}

/// The maximum deviation of a kind's median from the median of all calls. The documented limit is 5 %, which ten
/// thousand calls can distinguish from noise. On a machine that runs other tests at the same time, medians of 300 equal
/// calls differed by up to 10 %, so fewer calls have a limit of 25 %, which is still less than one further query takes.
fn tolerance() -> f64 {
    if calls() >= 10_000 { 0.05 } else { 0.25 }
}

/// Tokens that are invalid for `mallory`, each for another reason.
async fn bad_tokens(fixture: &Fixture) -> Vec<(&'static str, String)> {
    // A token of another deployment.
    let other = Server::with_invitations(high_limits()).await;
    let organization = other.user("ada").create("Acme").await;
    let backend = other.service(&[Scope::Manage]);
    let foreign = crate::invitations::create(&backend, invite(&organization, "mallory@example.com")).await.token;
    let used = fixture.invite("grace@example.com").await;
    fixture.server.user_with_email("grace").invitations.accept_invitation(accept(&used.token)).await.unwrap();
    // Revoked invitations, to `mallory` and to another user.
    let revoked = fixture.invite("mallory@example.com").await;
    fixture.revoke(&revoked.id).await;
    let for_another = fixture.invite("alan@example.com").await;
    fixture.revoke(&for_another.id).await;
    let expired = fixture.invite("mallory@example.com").await;
    fixture.expire(&expired.id).await;
    let declined = fixture.invite("hopper@example.com").await;
    let mut hopper = fixture.server.user_with_email("hopper");
    hopper.invitations.decline_invitation(decline(&declined.token)).await.unwrap();
    vec![
        ("unknown", "A".repeat(43)),
        ("foreign", foreign),
        ("another's", for_another.token),
        ("used", used.token),
        ("revoked", revoked.token),
        ("expired", expired.token),
        ("declined", declined.token),
    ]
}

/// An error as a caller sees it, without the request id and the date.
fn visible(status: &Status) -> String {
    let (code, message, details) = (status.code(), status.message().to_owned(), status.details().to_vec());
    let mut headers = status.metadata().clone().into_headers();
    headers.remove("x-request-id");
    headers.remove("date");
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    headers.sort();
    format!("{code:?} {message} {details:?} {headers:?}")
}

#[tokio::test]
async fn invalid_tokens_get_the_same_answer() {
    let fixture = Fixture::new().await;
    let tokens = bad_tokens(&fixture).await;
    let mut mallory = fixture.server.user_with_email("mallory");
    let (mut previewed, mut accepted, mut declined) = (Vec::new(), Vec::new(), Vec::new());
    for (_, token) in &tokens {
        let bad = mallory.invitations.preview_invitation(preview(token)).await;
        assert_refused(bad, Code::NotFound, "INVITATION_NOT_FOUND");
        previewed.push(visible(&mallory.invitations.preview_invitation(preview(token)).await.unwrap_err()));
        previewed.push(visible(
            &fixture.server.anonymous().invitations.preview_invitation(preview(token)).await.unwrap_err(),
        ));
        accepted.push(visible(&mallory.invitations.accept_invitation(accept(token)).await.unwrap_err()));
        declined.push(visible(&mallory.invitations.decline_invitation(decline(token)).await.unwrap_err()));
    }
    for answers in [&previewed, &accepted, &declined] {
        for answer in answers {
            assert_eq!(*answer, previewed[0]);
        }
    }
}

async fn time(caller: &mut Clients, accepting: bool, token: &str) -> Duration {
    let (preview, accept) = (preview(token), accept(token));
    let start = Instant::now();
    let refused = if accepting {
        caller.invitations.accept_invitation(accept).await.is_err()
    } else {
        caller.invitations.preview_invitation(preview).await.is_err()
    };
    let elapsed = start.elapsed();
    assert!(refused);
    elapsed
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

#[tokio::test]
async fn invalid_tokens_take_the_same_time() {
    let fixture = Fixture::new().await;
    let tokens = bad_tokens(&fixture).await;
    let mut mallory = fixture.server.user_with_email("mallory");
    sqlx::raw_sql("ANALYZE").execute(&fixture.server.database.pool).await.unwrap();
    for accepting in [false, true] {
        let mut times = vec![Vec::new(); tokens.len()];
        // The first calls, which prepare statements on the connections, are not measured.
        for (_, token) in tokens.iter().cycle().take(100) {
            time(&mut mallory, accepting, token).await;
        }
        // Interleaved, so that each kind has each position in a round equally often.
        for round in 0..calls() {
            for position in 0..tokens.len() {
                let kind = (position + round) % tokens.len();
                times[kind].push(time(&mut mallory, accepting, &tokens[kind].1).await);
            }
        }
        let mut all = times.concat();
        let all = median(&mut all);
        for ((name, _), times) in tokens.iter().zip(&mut times) {
            let deviation = median(times) / all - 1.0;
            crate::invitations::figure(&format!(
                "accepting {accepting}, {name}: {:+.2} % of {:.3} ms",
                deviation * 1e2,
                all * 1e3
            ));
            assert!(deviation.abs() <= tolerance(), "{name}: {:+.1} % of {:.3} ms", deviation * 1e2, all * 1e3);
        }
    }
}
