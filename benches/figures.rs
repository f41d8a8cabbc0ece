//! What roster costs: every figure beside a bare tonic echo, or beside pgbench on the same tables, in one run and one
//! table.
//!
//! `make bench` runs all of it; names after `--` run some (`cargo bench --bench figures -- check batch`). The server is
//! pinned to core 0, the generator to core 1; Postgres goes where it likes. Absolute figures depend on the machine and
//! the minute: believe the ratios.
//!
//! `ROSTER_BENCH_MEMBERSHIPS` says how many memberships there are, `ROSTER_BENCH_SECONDS` how long one measurement takes,
//! `ROSTER_BENCH_ROUNDS` how often each is made.
//!
//! The program is several: the bench itself (no role) starts Postgres, loads the memberships, and starts the program
//! `roster`, and itself again as an echo and as the generator, each pinned.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot measure fails")]

#[path = "figures/batch.rs"]
mod batch;
#[path = "figures/echo.rs"]
mod echo;
#[path = "figures/lag.rs"]
mod lag;
#[path = "figures/open_loop.rs"]
mod open_loop;
#[path = "figures/pages.rs"]
mod pages;
#[path = "figures/primary.rs"]
mod primary;
#[path = "figures/scale.rs"]
mod scale;
#[path = "figures/tool/mod.rs"]
mod tool;
#[path = "figures/writes.rs"]
mod writes;

use tool::report::Row;
use tool::stage::Stage;

/// The one of the program: an echo that allocates otherwise would be another echo.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // The fastest shape for the echoes, and as good as any for the rest.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match std::env::var("ROSTER_BENCH_ROLE").unwrap_or_default().as_str() {
        "echo-tonic" => runtime.block_on(tool::echo::serve_by_tonic()),
        "echo-hyper" => runtime.block_on(tool::echo::serve_by_hyper()),
        "load" => tool::load::run(),
        _ => runtime.block_on(bench()),
    }
}

async fn bench() {
    // `cargo bench` hands its own flags on; and `cargo test --benches` only wants to know that it builds and starts.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let wanted = |name: &str| named.is_empty() || named.iter().any(|wanted| wanted == name);
    let mut rows: Vec<Row> = Vec::new();
    let stage = Stage::set(tool::number("ROSTER_BENCH_MEMBERSHIPS", 1_000_000)).await;
    if wanted("scale") {
        rows.extend(scale::rows(&stage).await);
    }
    {
        let server = stage.start();
        server.until_loaded(stage.size).await;
        if wanted("check") {
            rows.extend(echo::rows("CheckMembership from memory", &echo::beside(&stage, &server)));
        }
        if wanted("open-loop") {
            rows.extend(open_loop::rows(&stage, &server));
        }
        if wanted("batch") {
            rows.extend(batch::rows(&stage, &server));
        }
        if wanted("stream") {
            rows.extend(batch::streams(&stage, &server));
        }
        if wanted("lag") {
            rows.extend(lag::rows(&stage, &server).await);
        }
        if wanted("pages") {
            rows.extend(pages::rows(&stage, &server).await);
        }
    }
    if wanted("primary") {
        rows.extend(primary::rows(&stage));
    }
    if wanted("writes") {
        rows.extend(writes::rows(&stage));
    }
    tool::report::tell(&rows);
}
