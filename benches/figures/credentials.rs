//! Checks from the replica with the credentials and headers of real backends, each in comparison with the echo under the
//! same headers: an API key; an `x-request-id`, a `traceparent` or a `grpc-timeout` with another value in each call; and the
//! tokens of many services in turn on one connection, as behind a proxy.

use crate::echo::{format_figures, medians};
use crate::tool::call_header::CallHeader;
use crate::tool::load::Load;
use crate::tool::print_line;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Server, Stage, echo, rounds};

/// The number of tokens on one connection: more than a server remembers for each, and than its HPACK table holds.
const TOKENS: u32 = 100;

pub(crate) fn rows(stage: &Stage, server: &Server) -> Vec<Row> {
    let echo = echo("echo-hyper");
    let loads = loads(stage);
    let mut figures: Vec<[Vec<_>; 2]> = loads.iter().map(|_| [Vec::new(), Vec::new()]).collect();
    for _ in 0..rounds() {
        for ((name, load), figures) in loads.iter().zip(&mut figures) {
            for (server, figures) in [&echo, server].into_iter().zip(&mut *figures) {
                let load = Load { address: server.address.clone(), ..load.clone() };
                figures.push(measure(&server.process, &load));
            }
            let cpu = [0, 1].map(|index: usize| figures[index][figures[index].len() - 1].cpu);
            print_line(&format!("{name}: {cpu:.2?} µs"));
        }
    }
    let rows = loads.iter().zip(figures).map(|((name, _), figures)| {
        let [echo, check] = figures.map(|figures| medians(&figures));
        row(
            &format!("CheckMembership {name}: CPU per call, echo's by check's"),
            format!("{}; generator's core {:.0} %", format_figures(&check), check.load_core * 100.0),
            format!("echo: {}; generator's core {:.0} %", format_figures(&echo), echo.load_core * 100.0),
            Some(echo.cpu / check.cpu),
            "≥ 0.85",
        )
    });
    rows.collect()
}

fn loads(stage: &Stage) -> Vec<(String, Load)> {
    let token = stage.token("roster:check");
    let load = |credential: &str| stage.load("", credential, Kind::Check { fully_consistent: false });
    let with = |call_header| Load { call_header, ..load(&token) };
    let tokens = (0..TOKENS).map(|number| stage.token_of(&format!("bench-{number}"), "roster:check")).collect();
    let proxy = Load { connections: 1, streams: 128, call_header: CallHeader::Authorization(tokens), ..load("") };
    vec![
        ("by token".to_owned(), load(&token)),
        ("by API key".to_owned(), load(stage.api_key())),
        ("by token, with x-request-id".to_owned(), with(CallHeader::RequestId)),
        ("by token, with traceparent".to_owned(), with(CallHeader::Traceparent)),
        ("by token, with grpc-timeout".to_owned(), with(CallHeader::Timeout)),
        (format!("by {TOKENS} tokens on one connection"), proxy),
    ]
}
