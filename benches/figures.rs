//! The cost of roster: one table of figures, each measured in the same run as a reference, which is a bare tonic echo or
//! pgbench on the same tables.
//!
//! `make bench` measures everything; names after `--` select figures (`cargo bench --bench figures -- check batch`). The
//! server is pinned to core 0, the load generator to core 1; Postgres is not pinned. Absolute figures depend on the machine
//! and its load at the time: compare the ratios.
//!
//! Two figures show checks as backends send them. `credentials` is by token, by API key, by token with `x-request-id`, with
//! `traceparent` or with `grpc-timeout`, and by the tokens of many services on one connection. `clients` is by token, by API
//! key and by token with `x-request-id`, with grpc-go as the client and three shapes of connections and calls. Its client is
//! the program in `benches/clients`, which the bench builds with Go; without Go the bench skips this figure. Each row is the
//! CPU time of the server for each call in comparison with the echo on hyper, which gets the same headers and returns
//! `x-request-id`.
//!
//! `tls` compares checks over TLS with the echo over TLS, and counts new connections.
//!
//! `permission` asks for permissions that members hold by built-in roles, roles of the deployment and roles of
//! organizations.
//!
//! `ROSTER_BENCH_MEMBERSHIPS` sets the number of memberships, `ROSTER_BENCH_ROLES` the number of organizations with a role of
//! their own (0 for built-in roles only), `ROSTER_BENCH_SECONDS` the duration of one measurement, `ROSTER_BENCH_ROUNDS` the
//! number of rounds.
//!
//! The program runs in several roles. Without a role it starts Postgres and loads the memberships. Then it starts the program
//! `roster`, and itself as an echo server and as the load generator, each pinned.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot measure fails")]

#[path = "figures/batch.rs"]
mod batch;
#[path = "figures/clients.rs"]
mod clients;
#[path = "figures/credentials.rs"]
mod credentials;
#[path = "figures/echo.rs"]
mod echo;
#[path = "figures/fresh.rs"]
mod fresh;
#[path = "figures/lag.rs"]
mod lag;
#[path = "figures/open_loop.rs"]
mod open_loop;
#[path = "figures/pages.rs"]
mod pages;
#[path = "figures/permission.rs"]
mod permission;
#[path = "figures/primary.rs"]
mod primary;
#[path = "figures/scale.rs"]
mod scale;
#[path = "figures/tls.rs"]
mod tls;
#[path = "figures/tool/mod.rs"]
mod tool;
#[path = "figures/writes.rs"]
mod writes;

use tool::report::Row;
use tool::stage::Stage;

/// The allocator of the program `roster`: with another one, the echo would not be comparable.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // The fastest runtime for the echo servers. The other roles do not depend on it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match std::env::var("ROSTER_BENCH_ROLE").unwrap_or_default().as_str() {
        "echo-tonic" => runtime.block_on(tool::echo::serve_by_tonic()),
        "echo-hyper" => runtime.block_on(tool::echo::serve_by_hyper()),
        "load" => tool::load::run(),
        "handshakes" => tool::handshakes::run(),
        _ => runtime.block_on(bench()),
    }
}

async fn bench() {
    // `cargo bench` passes flags on, which are ignored. `cargo test --benches` only checks that the program starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let selected: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_selected = |name: &str| selected.is_empty() || selected.iter().any(|selected| selected == name);
    let mut rows: Vec<Row> = Vec::new();
    let grpc_go = if is_selected("clients") { clients::build() } else { None };
    let stage =
        Stage::new(tool::number("ROSTER_BENCH_MEMBERSHIPS", 1_000_000), tool::number("ROSTER_BENCH_ROLES", 0)).await;
    if is_selected("scale") {
        rows.extend(scale::rows(&stage).await);
    }
    {
        let server = stage.start();
        server.until_loaded(stage.size).await;
        if is_selected("check") {
            rows.extend(echo::rows("CheckMembership from the replica", &echo::compare(&stage, &server)));
        }
        if is_selected("credentials") {
            rows.extend(credentials::rows(&stage, &server));
        }
        if is_selected("tls") {
            rows.extend(tls::rows(&stage, &server).await);
        }
        if let Some(program) = grpc_go {
            rows.extend(clients::rows(&program, &stage, &server));
        }
        if is_selected("fresh") {
            rows.extend(fresh::rows(&stage, &server).await);
        }
        if is_selected("open-loop") {
            rows.extend(open_loop::rows(&stage, &server));
        }
        if is_selected("batch") {
            rows.extend(batch::rows(&stage, &server));
        }
        if is_selected("stream") {
            rows.extend(batch::streams(&stage, &server));
        }
        if is_selected("lag") {
            rows.extend(lag::rows(&stage, &server).await);
        }
        if is_selected("pages") {
            rows.extend(pages::rows(&stage, &server).await);
        }
    }
    if is_selected("permission") {
        rows.extend(permission::rows().await);
    }
    if is_selected("primary") {
        rows.extend(primary::rows(&stage));
    }
    if is_selected("writes") {
        rows.extend(writes::rows(&stage));
    }
    tool::report::print(&rows);
}
