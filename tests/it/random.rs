//! Random requests to every method, by every kind of caller. Half of the values are plausible, the others are not. Every
//! answer is a success or one of the reasons that the comment of the method or of its service names: the comments are the
//! contract.
//!
//! `ROSTER_TEST_REQUESTS` sets the number of requests, `ROSTER_TEST_SEED` the seed.

mod answers;
mod contract;
pub mod words;

use crate::harness::Server;
use crate::harness::dynamic::{self, Caller};
use crate::harness::server::Credential;
use contract::Contract;
use prost::Message;
use prost_reflect::{DynamicMessage, MethodDescriptor};
use roster::authn::mint::ClaimSet;
use roster::domain::Scope;
use roster::service::InvitationSettings;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;
use tonic_types::StatusExt;
use words::{Random, Words};

const REQUESTS: u64 = 1500;
const CALLERS_AT_ONCE: u64 = 4;

/// Reasons that no request can cause: an answer with one of them is a failure of the server.
const NEVER: [&str; 6] =
    ["INTERNAL", "DATASTORE_UNAVAILABLE", "VALUE_UNKNOWN", "OVERLOADED", "KEYS_UNAVAILABLE", "DEADLINE_EXCEEDED"];

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Every kind of caller, with a name for messages.
fn callers(server: &Server) -> Vec<(String, Caller)> {
    let channel = server.channel();
    let mut callers: Vec<(String, Option<String>, Option<String>)> = Vec::new();
    // Users twice, and several operators: most of the requests that only they may make should succeed.
    for user in words::USERS.into_iter().chain(words::USERS) {
        let claims = ClaimSet {
            email: Some(format!("{user}@example.com")),
            email_verified: Some(user != "eve"),
            ..Server::claims(user)
        };
        callers.push((user.to_owned(), Some(server.mint(&claims)), None));
    }
    for scope in Scope::ALL {
        callers.push((format!("{scope:?}"), Some(server.service_token("backend", &[scope])), None));
    }
    for name in ["root", "toor", "admin", "super"] {
        callers.push((name.to_owned(), Some(server.service_token(name, &[Scope::Operator])), None));
    }
    let all = server.service_token("all", &Scope::ALL);
    let acting = server.service_token("backend", &[Scope::ActAs]);
    callers.push(("no scopes".to_owned(), Some(server.service_token("none", &[])), None));
    callers.push(("all scopes".to_owned(), Some(all), None));
    callers.push(("ada, through a service".to_owned(), Some(acting.clone()), Some("ada".to_owned())));
    callers.push(("an unknown user, through a service".to_owned(), Some(acting.clone()), Some("unknown".to_owned())));
    callers.push(("a user id that is too long, through a service".to_owned(), Some(acting), Some("x".repeat(300))));
    callers.push(("ada, through ada".to_owned(), Some(server.mint(&Server::claims("ada"))), Some("ada".to_owned())));
    callers.push(("anonymous".to_owned(), None, None));
    callers.push(("a malformed token".to_owned(), Some("not.a.token".to_owned()), None));
    let expired = ClaimSet { exp: 1_000_000_000, iat: 999_999_000, ..Server::claims("ada") };
    callers.push(("ada, expired".to_owned(), Some(server.mint(&expired)), None));
    let caller = |(name, token, on_behalf_of)| (name, Caller::new(&channel, Credential { token, on_behalf_of }));
    callers.into_iter().map(caller).collect()
}

/// The answers, counted by method and by reason.
#[derive(Debug, Default)]
struct Tally {
    good: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
}

struct Run {
    methods: Vec<MethodDescriptor>,
    contract: Contract,
    words: Mutex<Words>,
    tally: Mutex<Tally>,
}

impl Run {
    /// Makes one request and checks the answer.
    async fn once(&self, random: &mut Random, callers: &mut [(String, Caller)]) {
        let method = random.one_of(&self.methods).clone();
        let index = random.below(callers.len());
        let (name, caller) = &mut callers[index];
        let message = self.words.lock().unwrap().message(random, &method.input());
        let mut bytes = message.encode_to_vec();
        let spoiled = random.one_in(50);
        if spoiled {
            random.spoil(&mut bytes);
        }
        let description =
            format!("{name}: {} {message:.1000}{}", method.full_name(), if spoiled { " (spoiled)" } else { "" });
        match caller.call(&method, bytes).await {
            Ok(answer) => {
                let answer = DynamicMessage::decode(method.output(), answer.as_slice()).unwrap();
                if let Err(fault) = self.contract.check_items(&method, &answer) {
                    panic!("{description}: {fault}");
                }
                let faults = answers::faults(&answer);
                assert!(faults.is_empty(), "{description}: not as the comments say: {faults:?}: {answer:.2000}");
                self.words.lock().unwrap().learn(&answer);
                *self.tally.lock().unwrap().good.entry(method.name().to_owned()).or_default() += 1;
            }
            Err(status) => {
                if let Err(fault) = self.contract.check(&method, &status) {
                    panic!("{description}: {fault}: {status:?}");
                }
                let reason = status.get_details_error_info().unwrap().reason;
                assert!(!NEVER.contains(&reason.as_str()), "{description}: {status:?}");
                *self.tally.lock().unwrap().reasons.entry(reason).or_default() += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_get_documented_answers() {
    let (requests, seed) = (setting("ROSTER_TEST_REQUESTS", REQUESTS), setting("ROSTER_TEST_SEED", 1));
    // The limits of invitations are low enough for some requests to reach them.
    let server = Server::with_invitations(InvitationSettings { mail: true, ..InvitationSettings::default() }).await;
    let run = Arc::new(Run {
        methods: dynamic::methods(),
        contract: Contract::read(),
        words: Mutex::default(),
        tally: Mutex::default(),
    });
    let mut ada = server.user_with_email("ada");
    for name in ["Acme", "Beta"] {
        let organization = ada.create(name).await;
        ada.add(&organization, "alan", "admin").await;
        ada.add(&organization, "grace", "member").await;
        run.words.lock().unwrap().learn_organization(organization);
    }
    let mut tasks = JoinSet::new();
    for number in 0..CALLERS_AT_ONCE {
        let (run, mut callers) = (run.clone(), callers(&server));
        tasks.spawn(async move {
            let mut random = Random::new(seed * 1000 + number);
            for _ in 0..requests / CALLERS_AT_ONCE {
                run.once(&mut random, &mut callers).await;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    }
    server.database.assert_invariants().await;
    server.database.assert_no_open_transactions().await;

    // Enough requests succeeded, and failed for enough reasons, for the test to mean something.
    let tally = run.tally.lock().unwrap();
    let good: u64 = tally.good.values().sum();
    assert!(good * 20 > requests, "only {good} of {requests} were answered: {tally:?}");
    assert!(tally.good.len() * 2 > run.methods.len(), "{tally:?}");
    assert!(tally.reasons.len() >= 12, "{tally:?}");
}

#[test]
fn every_reason_is_documented_by_a_method_or_service() {
    let contract = Contract::read();
    let documented: BTreeSet<_> = contract.documented().collect();
    // One is never sent, the other is the answer to calls of unknown methods.
    let exceptions = ["UNSPECIFIED", "METHOD_UNKNOWN"];
    let missing: Vec<_> =
        contract.reasons().filter(|reason| !documented.contains(reason) && !exceptions.contains(reason)).collect();
    assert!(missing.is_empty(), "no comment names {missing:?}");
}
