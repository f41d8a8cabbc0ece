//! Checks over TLS, in comparison with the echo over TLS, and with the same checks without it; and new connections.
//!
//! The server with TLS trusts the address of the generator as a proxy (`--trusted-proxies`). Otherwise it would limit
//! the handshakes of this one address to 500 a second, and the figure for a core would describe that limit. The
//! generator asserts that its handshakes resume a session exactly where the row says so.

use crate::echo::{format_figures, medians};
use crate::tool::echo::FILES;
use crate::tool::load::Load;
use crate::tool::print_line;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::{Figures, SERVER_CORE, measure, measure_handshakes};
use crate::tool::socket::NAME;
use crate::tool::stage::{Server, Stage, echo_with, rounds};
use rcgen::{CertifiedKey, generate_simple_self_signed};

/// Measures the server without TLS, which runs already, and another one with TLS.
pub(crate) async fn rows(stage: &Stage, plain: &Server) -> Vec<Row> {
    // A key on P-256, which is what most certificates have.
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let path = |name: &str| stage.directory.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    std::fs::write(&certificate, cert.pem()).unwrap();
    std::fs::write(&key, signing_key.serialize_pem()).unwrap();
    let tls = ["--tls-certificate-file", &certificate, "--tls-key-file", &key, "--trusted-proxies", "127.0.0.1"];
    let server = stage.start_with(SERVER_CORE, &tls);
    server.until_loaded(stage.size).await;
    let echo = echo_with("echo-hyper", &[(FILES, &format!("{certificate}:{key}"))]);

    let load = stage.load("", &stage.token("roster:check"), Kind::Check { fully_consistent: false });
    let with_tls = Load { certificate: Some(cert.der().to_vec()), ..load.clone() };
    let at = |server: &Server, load: &Load| Load { address: server.address.clone(), ..load.clone() };
    let mut figures: [Vec<Figures>; 5] = Default::default();
    for _ in 0..rounds() {
        figures[0].push(measure(&echo.process, &at(&echo, &with_tls)));
        figures[1].push(measure(&server.process, &at(&server, &with_tls)));
        figures[2].push(measure(&plain.process, &at(plain, &load)));
        for (resumes, figures) in [false, true].into_iter().zip(&mut figures[3..]) {
            let load = Load { resumes, ..at(&server, &with_tls) };
            figures.push(measure_handshakes(&server.process, &load));
        }
        let cpu: Vec<f64> = figures.iter().map(|figures| figures[figures.len() - 1].cpu).collect();
        print_line(&format!("{cpu:.2?} µs"));
    }
    let [echo, check, plain, full, resumed] = figures.map(|figures| medians(&figures));
    let name = "CheckMembership over TLS: CPU per call";
    let mut rows = vec![
        row(
            &format!("{name}, echo's by check's"),
            format_figures(&check),
            format!("echo over TLS: {}", format_figures(&echo)),
            Some(echo.cpu / check.cpu),
            "≥ 0.90",
        ),
        row(
            &format!("{name}, without TLS by with it"),
            format_figures(&check),
            format!("without TLS: {}", format_figures(&plain)),
            Some(plain.cpu / check.cpu),
            "",
        ),
    ];
    for (name, figures) in [("TLS 1.3", &full), ("TLS 1.3, resumed", &resumed)] {
        rows.push(row(
            &format!("New connections with {name}"),
            format!("{:.0} a second and core, {:.0} µs CPU each", 1e6 / figures.cpu, figures.cpu),
            format!("server's core {:.0} %", figures.server_core * 100.0),
            None,
            "",
        ));
    }
    rows
}
