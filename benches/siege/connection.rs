//! One connection of an honest caller: a minimal HTTP/2 client over a plain socket, which costs less than the server. A
//! refused call and a broken connection are results here, not errors.

use crate::tool::hpack::{Decoder, Headers};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::http2::{
    self, ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PREFACE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, literal,
};

/// The largest window, and the bytes after which the connection's window is refilled.
const WINDOW: u32 = 0x7fff_ffff;
const REFILL: u32 = 1 << 29;
/// The time for the kernel to connect: longer only if the queue of the listener is full.
const CONNECT: Duration = Duration::from_millis(500);

struct Call {
    stream: u32,
    begin: Instant,
    message: Vec<u8>,
}

/// The end of a call: its message with the prefix of five bytes, or the reason of the refusal.
pub(crate) struct Answer {
    pub(crate) begin: Instant,
    pub(crate) outcome: Result<Vec<u8>, String>,
}

/// A connection whose calls all go to one method.
pub(crate) struct Connection {
    pub(crate) socket: TcpStream,
    /// The header block of the next call. From the second call on, all headers are in the table of the peer, as they are
    /// for every client that calls more than once.
    block: Vec<u8>,
    indexed: Vec<u8>,
    calls: Vec<Call>,
    next: u32,
    out: Vec<u8>,
    incoming: Vec<u8>,
    decoder: Decoder,
    received: u32,
    is_going_away: bool,
    has_served: bool,
}

impl Connection {
    /// Connects, and prepares the headers of all its calls.
    pub(crate) fn open(address: SocketAddr, path: &str, token: &str) -> io::Result<Self> {
        let socket = TcpStream::connect_timeout(&address, CONNECT)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let authorization = if token.is_empty() { String::new() } else { format!("Bearer {token}") };
        let headers = http2::call(path, &authorization);
        let out = [
            PREFACE,
            &http2::settings(&[(2, 0), (INITIAL_WINDOW_SIZE, WINDOW)]),
            &http2::window_update(0, WINDOW - 65_535),
        ];
        Ok(Self {
            socket,
            block: headers.iter().flat_map(|(name, value)| literal(0x40, name.as_bytes(), value.as_bytes())).collect(),
            indexed: (0..headers.len()).rev().map(|place| 0x80 | (62 + u8::try_from(place).unwrap())).collect(),
            calls: Vec::new(),
            next: 1,
            out: out.concat(),
            incoming: Vec::new(),
            decoder: Decoder::default(),
            received: 0,
            is_going_away: false,
            has_served: false,
        })
    }

    pub(crate) fn running_calls(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.out.is_empty()
    }

    /// Whether a call has ended.
    pub(crate) fn has_served(&self) -> bool {
        self.has_served
    }

    /// The moment at which the oldest running call was due.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.calls.first().map(|call| call.begin)
    }

    /// Gives up every running call, and returns the moments at which they were due.
    pub(crate) fn abandon(&mut self) -> Vec<Instant> {
        self.calls.drain(..).map(|call| call.begin).collect()
    }

    /// Starts a call with this message, which is small enough for every window.
    pub(crate) fn call(&mut self, message: &[u8], begin: Instant) {
        let stream = self.next;
        self.next += 2;
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        self.out.extend_from_slice(&http2::frame(HEADERS, END_HEADERS, stream, &self.block));
        self.out.extend_from_slice(&http2::frame(DATA, END_STREAM, stream, &[&[0], &length[..], message].concat()));
        self.block.clone_from(&self.indexed);
        self.calls.push(Call { stream, begin, message: Vec::new() });
    }

    /// Writes as many bytes as the socket accepts. A broken socket is noticed by [`Self::read`].
    pub(crate) fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.socket.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(_) => break,
            }
        }
        self.out.drain(..sent);
    }

    /// Reads the available bytes and adds the calls that have ended. False when the connection has ended.
    pub(crate) fn read(&mut self, answers: &mut Vec<Answer>) -> bool {
        let mut chunk = vec![0; 65_536];
        loop {
            match self.socket.read(&mut chunk) {
                Ok(0) => return false,
                Ok(count) => self.incoming.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while rest.len() >= 9 {
            let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
            if rest.len() < 9 + length {
                break;
            }
            let stream = u32::from_be_bytes([rest[5] & 0x7f, rest[6], rest[7], rest[8]]);
            self.take(rest[3], rest[4], stream, &rest[9..9 + length], answers);
            rest = &rest[9 + length..];
        }
        self.incoming = rest.to_vec();
        !(self.is_going_away && self.calls.is_empty())
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], answers: &mut Vec<Answer>) {
        match kind {
            DATA => {
                self.received += u32::try_from(payload.len()).unwrap();
                if self.received > REFILL {
                    self.out.extend_from_slice(&http2::window_update(0, self.received));
                    self.received = 0;
                }
                if let Some(call) = self.calls.iter_mut().find(|call| call.stream == stream) {
                    call.message.extend_from_slice(payload);
                }
            }
            HEADERS => {
                let headers = self.decoder.decode(payload).clone();
                if flags & END_STREAM != 0 {
                    let reason = refusal(&headers);
                    self.end(stream, reason, answers);
                }
            }
            RST_STREAM => {
                let code = u32::from_be_bytes(payload.try_into().unwrap());
                self.end(stream, Some(format!("RST_STREAM {code}")), answers);
            }
            GOAWAY => self.is_going_away = true,
            SETTINGS if flags & ACK == 0 => self.out.extend_from_slice(&http2::frame(SETTINGS, ACK, 0, &[])),
            PING if flags & ACK == 0 => self.out.extend_from_slice(&http2::frame(PING, ACK, 0, payload)),
            SETTINGS | PING | WINDOW_UPDATE => {}
            other => panic!("the server sent a frame of kind {other}: {payload:?}"),
        }
    }

    fn end(&mut self, stream: u32, refusal: Option<String>, answers: &mut Vec<Answer>) {
        let Some(place) = self.calls.iter().position(|call| call.stream == stream) else { return };
        let Call { begin, message, .. } = self.calls.remove(place);
        self.has_served = true;
        answers.push(Answer { begin, outcome: refusal.map_or(Ok(message), Err) });
    }
}

/// The reason of a call that has failed; `None` if its status is OK.
fn refusal(headers: &Headers) -> Option<String> {
    let status = headers.grpc_status.as_deref()?;
    if status == "0" {
        return None;
    }
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&STANDARD, config);
    let details = headers.grpc_details.as_deref().and_then(|text| engine.decode(text).ok()).unwrap_or_default();
    let status = tonic::Status::with_details(
        tonic::Code::from_bytes(status.as_bytes()),
        headers.grpc_message.clone().unwrap_or_default(),
        details.into(),
    );
    let reason = tonic_types::StatusExt::get_details_error_info(&status).map(|info| info.reason);
    Some(reason.unwrap_or_else(|| format!("{:?}", status.code())))
}
