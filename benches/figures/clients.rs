//! Checks from the replica with grpc-go as the client, in comparison with the echo under the same client, shape and headers.
//! Such a client writes smaller packets than the bench's generator, and costs more than the server: the figure is the CPU
//! time of the server for each call.

use crate::echo::{format_figures, medians};
use crate::tool::call_header::CallHeader;
use crate::tool::load::Load;
use crate::tool::print_line;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::{Figures, measure_with};
use crate::tool::stage::{Server, Stage, echo, rounds};
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/clients");
/// The shapes: connections, and concurrent calls on each.
const SHAPES: [(usize, usize); 3] = [(8, 16), (1, 128), (8, 1)];

/// Builds the generator. If that fails, prints the reason, and the bench skips the figure.
pub(crate) fn build() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("grpc-go");
    let mut command = Command::new("go");
    command.args(["build", "-mod=readonly", "-o"]).arg(&program).arg(".").current_dir(SOURCES);
    match command.status() {
        Ok(status) if status.success() => return Some(program),
        Ok(status) => print_line(&format!("skipping the figure clients: go build failed in {SOURCES}: {status}")),
        Err(error) => print_line(&format!("skipping the figure clients, which needs Go: {error}")),
    }
    None
}

pub(crate) fn rows(program: &Path, stage: &Stage, server: &Server) -> Vec<Row> {
    let echo = echo("echo-hyper");
    SHAPES.iter().flat_map(|shape| of_shape(program, stage, [&echo, server], *shape)).collect()
}

fn of_shape(
    program: &Path,
    stage: &Stage,
    [echo, server]: [&Server; 2],
    (connections, streams): (usize, usize),
) -> Vec<Row> {
    let token = stage.token("roster:check");
    let load = |credential: &str| Load {
        connections,
        streams,
        ..stage.load("", credential, Kind::Check { fully_consistent: false })
    };
    let measure = |server: &Server, load: &Load| {
        measure_with(program, &server.process, &Load { address: server.address.clone(), ..load.clone() })
    };
    let with_id = Load { call_header: CallHeader::RequestId, ..load(&token) };
    let loads = [
        ("by token", load(&token), "≥ 0.90"),
        ("by API key", load(stage.api_key()), "≥ 0.88"),
        ("by token, with x-request-id", with_id, "≥ 0.88"),
    ];
    let mut bare = Vec::new();
    let mut figures: [[Vec<Figures>; 2]; 3] = Default::default();
    for _ in 0..rounds() {
        bare.push(measure(echo, &load("")));
        for ((name, load, _), [echoes, checks]) in loads.iter().zip(&mut figures) {
            echoes.push(measure(echo, load));
            checks.push(measure(server, load));
            let cpu = [echoes, checks].map(|figures| figures[figures.len() - 1].cpu);
            print_line(&format!("{connections} × {streams} {name}: {cpu:.2?} µs"));
        }
    }
    let bare = medians(&bare);
    let rows = loads.iter().zip(figures).map(|((name, _, target), figures)| {
        let [echo, check] = figures.map(|figures| medians(&figures));
        row(
            &format!("grpc-go, {connections} × {streams}, CheckMembership {name}: CPU per call, echo's by check's"),
            format_figures(&check),
            format!("echo: {}; without headers {:.2} µs CPU", format_figures(&echo), bare.cpu),
            Some(echo.cpu / check.cpu),
            target,
        )
    });
    rows.collect()
}
