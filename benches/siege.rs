//! One peer against the others: a table of attacks with the latencies of the honest callers before, during and after.
//!
//! `make siege` runs every attack; names in `ARGS` select some (`make siege ARGS="slow-bodies silent"`). The server and
//! Postgres have core 0, the honest callers (at a raised priority, which needs root) and the attacker (at the lowest) core
//! one. The honest callers have a fixed load of a fifth of what the server answers alone. An idle echo on core 0 shows what
//! the scheduler adds. The attacker connects from 127.0.0.2; with `--same-address` from the address of the honest callers.
//!
//! `ROSTER_SIEGE_SERVER` names another program than `target/release/roster`; `ROSTER_SIEGE_SECONDS` is the length of an
//! attack, which is 8 by default; the phases before and after have half of it.
//!
//! The program runs in several roles, each pinned: without a role it starts Postgres, the server and the others.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot measure fails")]

#[path = "siege/attacks/mod.rs"]
mod attacks;
#[path = "siege/callers.rs"]
mod callers;
#[path = "siege/connection.rs"]
mod connection;
#[path = "../tests/it/harness/http2.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests use the rest")]
mod http2;
#[path = "siege/process.rs"]
mod process;
#[path = "siege/questions.rs"]
mod questions;
#[path = "siege/report.rs"]
mod report;
#[path = "siege/run.rs"]
mod run;
#[path = "siege/stage.rs"]
mod stage;
#[path = "siege/stop.rs"]
mod stop;
#[path = "figures/tool/mod.rs"]
#[allow(dead_code, reason = "the other benchmark uses the rest")]
mod tool;

use attacks::ATTACKS;
use process::{CALLER_CORE, Process, SERVER_CORE};
use run::Phases;
use stage::Stage;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The allocator of the program `roster`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match std::env::var("ROSTER_SIEGE_ROLE").unwrap_or_default().as_str() {
        "echo" => runtime.block_on(tool::echo::serve_by_hyper()),
        "callers" => callers::run(),
        "" => runtime.block_on(siege()),
        role => runtime.block_on(attacks::run(role.strip_prefix("attack:").unwrap())),
    }
}

async fn siege() {
    // `cargo bench` passes flags on, which are ignored. `cargo test --benches` only checks that the program starts.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return;
    }
    let same_address = arguments.iter().any(|argument| argument == "--same-address");
    let selected: Vec<&str> = arguments.iter().map(String::as_str).filter(|name| !name.starts_with("--")).collect();
    let is_selected = |name: &str| selected.is_empty() || selected.contains(&name);
    let known = |name: &&&str| **name == "stop" || ATTACKS.iter().any(|attack| attack.name == **name);
    assert!(selected.iter().all(|name| known(&name)), "no such attack in {selected:?}");
    let local = IpAddr::V4(if same_address { Ipv4Addr::LOCALHOST } else { Ipv4Addr::new(127, 0, 0, 2) });
    let during = Duration::from_secs(tool::number("ROSTER_SIEGE_SECONDS", 8).into());
    let phases = Phases { before: during / 2, during, after: during / 2 };
    let stage = Stage::new().await;
    let echo = Process::again("echo", (SERVER_CORE, 0), &[]);
    let address = echo.line().parse().unwrap();
    stage::pin(CALLER_CORE);
    let load = run::measure(&stage, phases);
    report::head();
    for attack in ATTACKS.iter().filter(|attack| is_selected(attack.name)) {
        report::row(&run::run(&stage, attack, (load, phases), address, local));
    }
    if is_selected("stop") {
        stop::measure(&stage);
    }
}
