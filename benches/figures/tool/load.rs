//! The load generator: one thread with several connections. A closed loop keeps a number of calls running on each
//! connection; an open loop starts calls at a fixed rate, independent of the answers. Every answer is checked: a tool that
//! counts any answer as a success measures errors as speed. A tonic client costs more than the server and could not saturate
//! it.

use super::call_header::CallHeader;
use super::questions::{self, Kind, Questions};
use super::socket::{self, Socket};
use super::table::Size;
use super::wire::Connection;
use super::{float, print_line};
use bytes::BytesMut;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const WARM_UP: Duration = Duration::from_secs(1);
/// The limit of concurrent calls on one connection in an open loop, beyond which calls wait: tonic's servers accept 200.
const FULL: usize = 200;
/// The delay of a call in an open loop at which the server does not keep up.
const HOPELESS: Duration = Duration::from_secs(2);

/// The parameters of a generator.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) address: String,
    /// The bearer token; no header where it is empty.
    pub(crate) token: String,
    /// The header that each call has in addition.
    pub(crate) call_header: CallHeader,
    pub(crate) kind: Kind,
    pub(crate) table: Size,
    pub(crate) connections: usize,
    /// Concurrent calls on each connection in a closed loop; for `Kind::Stream`, concurrent checks on its one stream.
    pub(crate) streams: usize,
    /// Calls a second in an open loop; 0 for a closed loop.
    pub(crate) rate: f64,
    pub(crate) seconds: u32,
    /// The certificate of the server, for connections with TLS.
    pub(crate) certificate: Option<Vec<u8>>,
    /// Whether further connections resume the session of an earlier one.
    pub(crate) resumes: bool,
}

/// The results of a generator. Latencies are in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) calls: f64,
    pub(crate) seconds: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

/// The parameters of this process.
pub(crate) fn parameters() -> Load {
    serde_json::from_str(&std::env::var(super::server::LOAD).unwrap()).unwrap()
}

/// Runs the generator: prints `warm` when the measurement starts, and its results at the end.
pub(crate) fn run() {
    let load = parameters();
    let mut questions = Questions::new(load.kind.clone(), load.table);
    let authorization = format!("Bearer {}", load.token);
    let mut headers = vec![
        (":path", questions.path()),
        (":authority", "bench"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    if !load.token.is_empty() {
        headers.push(("authorization", &authorization));
    }
    let tls = load.certificate.as_deref().map(socket::client);
    let connect = |number| {
        let socket = Socket::open(&load.address, tls.as_ref());
        Connection::open(socket, &headers, load.call_header.clone(), number)
    };
    let mut connections: Vec<_> = (0..u32::try_from(load.connections).unwrap()).map(connect).collect();
    let mut run = |connections: &mut _, time| {
        if matches!(load.kind, Kind::Stream) {
            stream(connections, &mut questions, load.streams, time)
        } else if load.rate > 0.0 {
            open(connections, &mut questions, load.rate, time)
        } else {
            closed(connections, &mut questions, load.streams, time)
        }
    };
    run(&mut connections, WARM_UP);
    print_line("warm");
    let begin = Instant::now();
    let mut latencies = run(&mut connections, Duration::from_secs(load.seconds.into()));
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let percentile = |part: usize| f64::from(latencies[(latencies.len() - 1) * part / 1000]) / 100.0;
    let measurement = Measurement {
        calls: float(latencies.len()),
        seconds,
        p50: percentile(500),
        p99: percentile(990),
        most: percentile(1000),
    };
    print_line(&serde_json::to_string(&measurement).unwrap());
}

/// The latency of a call, in hundredths of a microsecond.
fn since(begin: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(begin).as_nanos() / 10).unwrap_or(u32::MAX)
}

/// Keeps the given number of calls running on each connection for a time.
fn closed(connections: &mut [Connection], questions: &mut Questions, streams: usize, time: Duration) -> Vec<u32> {
    let mut latencies = Vec::new();
    let until = Instant::now() + time;
    loop {
        let now = Instant::now();
        for connection in connections.iter_mut() {
            while now < until && connection.running_calls() < streams {
                connection.call(questions.next(), now, false);
            }
            connection.flush();
        }
        if now >= until && connections.iter().all(|connection| connection.running_calls() == 0) {
            return latencies;
        }
        let ready = wait(connections);
        let now = Instant::now();
        for (connection, _) in connections.iter_mut().zip(ready).filter(|(_, ready)| *ready) {
            read(connection, questions, now, &mut latencies);
        }
    }
}

fn wait(connections: &[Connection]) -> Vec<bool> {
    let mut sockets: Vec<_> = connections
        .iter()
        .map(|connection| {
            let flags =
                if connection.has_unsent() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            PollFd::new(connection.socket.as_fd(), flags)
        })
        .collect();
    poll(&mut sockets, PollTimeout::from(5_000_u16)).unwrap();
    sockets.iter().map(|socket| socket.any().unwrap_or_default()).collect()
}

fn read(connection: &mut Connection, questions: &Questions, now: Instant, latencies: &mut Vec<u32>) -> bool {
    connection.read(|answer| {
        if answer.ended {
            questions.verify(answer.frames);
            latencies.push(since(answer.begin, now));
        }
    })
}

/// The pending checks on the one stream of a connection.
#[derive(Default)]
struct StreamChecks {
    stream: Option<u32>,
    begins: VecDeque<Instant>,
    /// Whether the last question has been sent.
    is_closed: bool,
}

impl StreamChecks {
    /// Sends questions until `limit` are pending, all of them in one write.
    fn fill(&mut self, connection: &mut Connection, questions: &mut Questions, limit: usize, now: Instant, more: bool) {
        let count = if more { limit.saturating_sub(self.begins.len()) } else { 1 };
        if count == 0 || self.is_closed {
            return;
        }
        let mut message = BytesMut::new();
        for _ in 0..count {
            message.extend_from_slice(&questions.next());
            self.begins.push_back(now);
        }
        self.is_closed = !more;
        match self.stream {
            Some(stream) => connection.send(stream, message.freeze(), more),
            None => self.stream = Some(connection.call(message.freeze(), now, more)),
        }
    }
}

/// Keeps `limit` questions pending on one stream of each connection for a time. Every question is answered, in order.
fn stream(connections: &mut [Connection], questions: &mut Questions, limit: usize, time: Duration) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut pending: Vec<StreamChecks> = connections.iter().map(|_| StreamChecks::default()).collect();
    let until = Instant::now() + time;
    loop {
        let now = Instant::now();
        for (connection, pending) in connections.iter_mut().zip(&mut pending) {
            pending.fill(connection, questions, limit, now, now < until);
            connection.flush();
        }
        if now >= until && connections.iter().all(|connection| connection.running_calls() == 0) {
            assert!(pending.iter().all(|pending| pending.begins.is_empty()), "a question was not answered");
            return latencies;
        }
        let ready = wait(connections);
        let now = Instant::now();
        for ((connection, pending), _) in
            connections.iter_mut().zip(&mut pending).zip(ready).filter(|(_, ready)| *ready)
        {
            connection.read(|answer| {
                while let Some(mut frame) = questions::split_frame(answer.frames) {
                    questions.verify(&mut frame);
                    latencies.push(since(pending.begins.pop_front().unwrap(), now));
                }
            });
        }
    }
}

/// Calls at this rate for a time, at random moments, and counts each latency from the moment at which the call was due. Never
/// sleeps: a timer is coarser than the latencies.
fn open(connections: &mut [Connection], questions: &mut Questions, rate: f64, time: Duration) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut due = Instant::now();
    let until = due + time;
    let mut turn = 0;
    loop {
        let now = Instant::now();
        assert!(now - due < HOPELESS, "the server does not keep up with {rate} calls a second");
        // A call waits while its connection is at the limit, and the wait counts.
        while due <= now && due < until && connections[turn].running_calls() < FULL {
            connections[turn].call(questions.next(), due, false);
            turn = (turn + 1) % connections.len();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let between_0_and_1 = (f64::from(u32::try_from(random >> 32).unwrap()) + 1.0) / 4_294_967_297.0;
            due += Duration::from_secs_f64(-between_0_and_1.ln() / rate);
        }
        let mut open = 0;
        for connection in connections.iter_mut() {
            connection.flush();
            if connection.running_calls() > 0 {
                read(connection, questions, Instant::now(), &mut latencies);
            }
            open += connection.running_calls();
        }
        if due >= until && open == 0 {
            return latencies;
        }
    }
}
