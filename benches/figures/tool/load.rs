//! The generator: one thread, some connections, so many calls under way on each (closed loop) or so many a second
//! whatever comes back (open loop). Every answer is checked. A tonic client costs more than the server and could not
//! measure it; tools that count any answer as a success measure errors as speed.

use super::questions::{self, Kind, Questions};
use super::table::Size;
use super::wire::Connection;
use super::{float, say};
use bytes::BytesMut;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const WARM_UP: Duration = Duration::from_secs(1);
/// Calls under way on one connection, in an open loop, beyond which the next ones wait: tonic's servers take 200.
const FULL: usize = 200;
/// How late a call of an open loop may be before the server counts as one that does not keep up.
const HOPELESS: Duration = Duration::from_secs(2);

/// What a generator is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) address: String,
    /// No header where it is empty.
    pub(crate) token: String,
    pub(crate) kind: Kind,
    pub(crate) table: Size,
    pub(crate) connections: usize,
    /// Calls under way on each, in a closed loop; or questions, where each has one stream of them.
    pub(crate) streams: usize,
    /// Calls a second, in an open loop; 0 for a closed one.
    pub(crate) rate: f64,
    pub(crate) seconds: u32,
}

/// What a generator has seen. Latencies in microseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) calls: f64,
    pub(crate) seconds: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) most: f64,
}

/// The role of a generator: says `warm` when the clock starts, and what it has seen at the end.
pub(crate) fn run() {
    let load: Load = serde_json::from_str(&std::env::var("ROSTER_BENCH_LOAD").unwrap()).unwrap();
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
    let mut connections: Vec<_> = (0..load.connections).map(|_| Connection::open(&load.address, &headers)).collect();
    let mut turn = |connections: &mut _, time| {
        if matches!(load.kind, Kind::Stream) {
            stream(connections, &mut questions, load.streams, time)
        } else if load.rate > 0.0 {
            open(connections, &mut questions, load.rate, time)
        } else {
            closed(connections, &mut questions, load.streams, time)
        }
    };
    turn(&mut connections, WARM_UP);
    say("warm");
    let begin = Instant::now();
    let mut latencies = turn(&mut connections, Duration::from_secs(load.seconds.into()));
    let seconds = begin.elapsed().as_secs_f64();
    latencies.sort_unstable();
    let at = |part: usize| f64::from(latencies[(latencies.len() - 1) * part / 1000]) / 100.0;
    let seen = Seen { calls: float(latencies.len()), seconds, p50: at(500), p99: at(990), most: at(1000) };
    say(&serde_json::to_string(&seen).unwrap());
}

/// A latency, in hundredths of a microsecond.
fn since(begin: Instant, now: Instant) -> u32 {
    u32::try_from(now.saturating_duration_since(begin).as_nanos() / 10).unwrap_or(u32::MAX)
}

/// Keeps all streams busy for a while.
fn closed(connections: &mut [Connection], questions: &mut Questions, streams: usize, time: Duration) -> Vec<u32> {
    let mut latencies = Vec::new();
    let until = Instant::now() + time;
    loop {
        let now = Instant::now();
        for connection in connections.iter_mut() {
            while now < until && connection.under_way() < streams {
                connection.call(questions.next(), now, false);
            }
            connection.flush();
        }
        if now >= until && connections.iter().all(|connection| connection.under_way() == 0) {
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
            let flags = if connection.unsent() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
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

/// What is under way on the one stream of a connection.
#[derive(Default)]
struct Asked {
    stream: Option<u32>,
    begins: VecDeque<Instant>,
    /// Whether the last question has been asked.
    last: bool,
}

impl Asked {
    /// Asks until so many questions are under way; what is asked in one turn leaves as one piece.
    fn fill(&mut self, connection: &mut Connection, questions: &mut Questions, room: usize, now: Instant, more: bool) {
        let count = if more { room.saturating_sub(self.begins.len()) } else { 1 };
        if count == 0 || self.last {
            return;
        }
        let mut message = BytesMut::new();
        for _ in 0..count {
            message.extend_from_slice(&questions.next());
            self.begins.push_back(now);
        }
        self.last = !more;
        match self.stream {
            Some(stream) => connection.send(stream, message.freeze(), more),
            None => self.stream = Some(connection.call(message.freeze(), now, more)),
        }
    }
}

/// Keeps so many questions under way on one stream of each connection, for a while. Every question is answered, in order.
fn stream(connections: &mut [Connection], questions: &mut Questions, room: usize, time: Duration) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut asked: Vec<Asked> = connections.iter().map(|_| Asked::default()).collect();
    let until = Instant::now() + time;
    loop {
        let now = Instant::now();
        for (connection, asked) in connections.iter_mut().zip(&mut asked) {
            asked.fill(connection, questions, room, now, now < until);
            connection.flush();
        }
        if now >= until && connections.iter().all(|connection| connection.under_way() == 0) {
            assert!(asked.iter().all(|asked| asked.begins.is_empty()), "a question was not answered");
            return latencies;
        }
        let ready = wait(connections);
        let now = Instant::now();
        for ((connection, asked), _) in connections.iter_mut().zip(&mut asked).zip(ready).filter(|(_, ready)| *ready) {
            connection.read(|answer| {
                while let Some(mut frame) = questions::split_frame(answer.frames) {
                    questions.verify(&mut frame);
                    latencies.push(since(asked.begins.pop_front().unwrap(), now));
                }
            });
        }
    }
}

/// Calls as often as this for a while, at random moments, and counts the latency of each from the moment at which it was
/// due. Never sleeps: a timer is coarser than what is measured.
fn open(connections: &mut [Connection], questions: &mut Questions, rate: f64, time: Duration) -> Vec<u32> {
    let mut latencies = Vec::new();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut due = Instant::now();
    let until = due + time;
    let mut turn = 0;
    loop {
        let now = Instant::now();
        assert!(now - due < HOPELESS, "the server does not keep up with {rate} calls a second");
        // Who is full lets it wait, and the wait counts.
        while due <= now && due < until && connections[turn].under_way() < FULL {
            connections[turn].call(questions.next(), due, false);
            turn = (turn + 1) % connections.len();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let between_0_and_1 = (f64::from(u32::try_from(random >> 32).unwrap()) + 1.0) / 4_294_967_297.0;
            due += Duration::from_secs_f64(-between_0_and_1.ln() / rate);
        }
        let mut open = 0;
        for connection in connections.iter_mut() {
            connection.flush();
            if connection.under_way() > 0 {
                read(connection, questions, Instant::now(), &mut latencies);
            }
            open += connection.under_way();
        }
        if due >= until && open == 0 {
            return latencies;
        }
    }
}
