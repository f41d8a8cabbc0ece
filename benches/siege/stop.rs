//! The time of a stop with peers that do not go away.

use super::http2::{self, HEADERS, PREFACE};
use super::stage::Stage;
use crate::tool::print_line;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longer than the drain time by default.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stops a server while a peer of each kind is connected, and prints the times.
pub(crate) fn measure(stage: &Stage) {
    let watch = {
        let block = http2::block(&http2::call("/grpc.health.v1.Health/Watch", ""));
        let headers = http2::frame(HEADERS, http2::END_HEADERS, 1, &block);
        let body = http2::frame(http2::DATA, http2::END_STREAM, 1, &[0; 5]);
        [PREFACE, &http2::settings(&[]), &headers, &body].concat()
    };
    let greeting = [PREFACE, &http2::settings(&[])].concat();
    print_line("");
    print_line("| time of a stop with | seconds |");
    print_line("|---|---|");
    let peers: [(&str, &[u8]); 5] = [
        ("no peer", &[]),
        ("a silent connection", &[]),
        ("half a preface", &PREFACE[..12]),
        ("a connection without calls", &greeting),
        ("an open health watch", &watch),
    ];
    for (number, (name, bytes)) in peers.into_iter().enumerate() {
        let mut server = stage.start(&format!("stop-{number}"));
        let mut peer = (number > 0).then(|| TcpStream::connect(server.address).unwrap());
        if let Some(peer) = &mut peer {
            peer.write_all(bytes).unwrap();
        }
        // The server accepts connections in order: an answer to another one shows that it has accepted this one.
        std::thread::sleep(Duration::from_millis(300));
        let pid = Pid::from_raw(i32::try_from(server.process.child.id()).unwrap());
        let begin = Instant::now();
        kill(pid, Signal::SIGTERM).unwrap();
        while server.process.child.try_wait().unwrap().is_none() && begin.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
        print_line(&format!("| {name} | {:.2} |", begin.elapsed().as_secs_f64()));
        drop(peer);
    }
}
