//! A generator that opens connections one after the other: TCP, TLS, and the SETTINGS of HTTP/2 from the server.
//!
//! The first connection has no session to resume. Each one after it must resume a session if `resumes` is set, and must
//! make a full handshake if not: the generator fails otherwise, because its figures would describe the other handshake.
//! The server has to trust its address as a proxy, or the limit of handshakes of one address would be measured.

use super::load::{self, Load, Measurement};
use super::socket::{self, Socket};
use super::wire::PREFACE;
use super::{float, print_line};
use rustls::ClientConfig;
use rustls::client::Resumption;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs the generator: prints `warm` when the measurement starts, and its results at the end.
pub(crate) fn run() {
    let load: Load = load::parameters();
    let mut tls = socket::client(load.certificate.as_deref().unwrap());
    if !load.resumes {
        Arc::get_mut(&mut tls).unwrap().resumption = Resumption::disabled();
    }
    // Its session is the first that can be resumed.
    drop(connect(&load.address, &tls));
    open(&load, &tls, Duration::from_secs(1));
    print_line("warm");
    let begin = Instant::now();
    let mut latencies = open(&load, &tls, Duration::from_secs(load.seconds.into()));
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_by(f64::total_cmp);
    let percentile = |part: usize| latencies[(latencies.len() - 1) * part / 1000];
    let (p50, p99, most) = (percentile(500), percentile(990), percentile(1000));
    let measurement = Measurement { calls: float(latencies.len()), seconds, p50, p99, most };
    print_line(&serde_json::to_string(&measurement).unwrap());
}

/// Opens connections for this time, and returns the time of each in microseconds.
fn open(load: &Load, tls: &Arc<ClientConfig>, time: Duration) -> Vec<f64> {
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < time {
        let begin = Instant::now();
        let socket = connect(&load.address, tls);
        latencies.push(begin.elapsed().as_secs_f64() * 1e6);
        assert_eq!(socket.is_resumed(), load.resumes, "whether the handshake resumed a session");
    }
    latencies
}

/// Opens a connection, and waits for the SETTINGS of the server. They come behind the ticket of the session.
fn connect(address: &str, tls: &Arc<ClientConfig>) -> Socket {
    let mut socket = Socket::open(address, Some(tls));
    socket.set_blocking();
    socket.write_all(PREFACE).unwrap();
    // SETTINGS, empty.
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    let mut frame = [0; 9];
    socket.read_exact(&mut frame).unwrap();
    assert_eq!(frame[3], 4, "the server does not begin with SETTINGS");
    socket
}
