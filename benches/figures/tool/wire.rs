//! One connection of the generator: a minimal HTTP/2 client over a socket, so that a call costs the generator less than
//! it costs any server. The frames of one iteration leave in one write. The status of every answer is checked.

use super::call_header::CallHeader;
use super::hpack::Decoder;
use super::socket::Socket;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::time::Instant;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The largest frame that every peer must accept.
const FRAME: usize = 16_384;
/// The largest window, and the number of bytes after which it is refilled.
const WINDOW: u32 = 0x7fff_ffff;
const REFILL: u32 = 1 << 29;
/// The kinds of literal fields: one that the peer adds to its table, and one that it does not.
const INDEXED: u8 = 0x40;
const NOT_INDEXED: u8 = 0x00;

/// A running call.
struct Call {
    stream: u32,
    begin: Instant,
    /// The `x-request-id` that the answer has to return.
    request_id: Option<String>,
    answer: BytesMut,
    /// Bytes received since the last refill of the stream's window.
    received: u32,
    /// Bytes that may still be sent on the stream.
    window: i64,
}

/// Progress of a call.
pub(crate) struct Answer<'a> {
    pub(crate) begin: Instant,
    /// The received messages, each with its prefix of five bytes.
    pub(crate) frames: &'a mut BytesMut,
    /// Whether the call has ended. A call that ends with another status than OK ends the program.
    pub(crate) ended: bool,
}

pub(crate) struct Connection {
    pub(crate) socket: Socket,
    head: Vec<u8>,
    call_header: CallHeader,
    /// The number of the next call. Calls of all connections have different numbers.
    number: u64,
    calls: Vec<Call>,
    next: u32,
    out: Vec<u8>,
    incoming: Vec<u8>,
    filled: usize,
    decoder: Decoder,
    received: u32,
    window: i64,
    stream_window: i64,
    /// Messages that wait for a window: stream, bytes, and whether the message is the last one.
    waiting: VecDeque<(u32, Bytes, bool)>,
}

impl Connection {
    /// Begins HTTP/2. Every call of the connection has these headers, and this one with another value. `number` is the
    /// number of the connection.
    pub(crate) fn open(socket: Socket, headers: &[(&str, &str)], call_header: CallHeader, number: u32) -> Self {
        let mut out = PREFACE.to_vec();
        // SETTINGS: no push, the largest windows for streams; and the same for the connection.
        frame(&mut out, 4, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0x7f, 0xff, 0xff, 0xff]);
        frame(&mut out, 8, 0, 0, &(WINDOW - 65_535).to_be_bytes());
        Self {
            socket,
            head: head(headers),
            call_header,
            number: u64::from(number) << 32,
            calls: Vec::new(),
            next: 1,
            out,
            incoming: vec![0; 1 << 20],
            filled: 0,
            decoder: Decoder::default(),
            received: 0,
            window: 65_535,
            stream_window: 65_535,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn running_calls(&self) -> usize {
        self.calls.len()
    }

    /// Whether bytes wait for the socket.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.out.is_empty() || self.socket.has_unsent()
    }

    /// Starts a call with this message; with `more`, other messages follow on the same stream.
    pub(crate) fn call(&mut self, message: Bytes, begin: Instant, more: bool) -> u32 {
        let stream = self.next;
        self.next += 2;
        let mut head = std::mem::take(&mut self.head);
        let shared = head.len();
        let field = self.call_header.field(self.number);
        self.number += 1;
        if let Some((name, value)) = &field {
            literal(&mut head, NOT_INDEXED, name, value);
        }
        frame(&mut self.out, 1, 0x4, stream, &head);
        head.truncate(shared);
        // From the second call on, the peer's table contains every header that calls share.
        self.head = if stream == 1 { indexed(&head) } else { head };
        let request_id = field.filter(|(name, _)| *name == "x-request-id").map(|(_, value)| value);
        let (answer, window) = (BytesMut::new(), self.stream_window);
        self.calls.push(Call { stream, begin, request_id, answer, received: 0, window });
        self.send(stream, message, more);
        stream
    }

    /// Sends a message on a stream.
    pub(crate) fn send(&mut self, stream: u32, message: Bytes, more: bool) {
        self.waiting.push_back((stream, message, !more));
        self.pump();
    }

    fn pump(&mut self) {
        while let Some((stream, mut message, last)) = self.waiting.pop_front() {
            let Some(call) = self.calls.iter_mut().find(|call| call.stream == stream) else { continue };
            while !message.is_empty() {
                let room = usize::try_from(self.window.min(call.window).max(0)).unwrap();
                let size = message.len().min(FRAME).min(room);
                if size == 0 {
                    return self.waiting.push_front((stream, message, last));
                }
                let part = message.split_to(size);
                frame(&mut self.out, 0, u8::from(last && message.is_empty()), stream, &part);
                let size = i64::try_from(size).unwrap();
                (self.window, call.window) = (self.window - size, call.window - size);
            }
        }
    }

    /// Writes as many bytes as the socket accepts.
    pub(crate) fn flush(&mut self) {
        let mut sent = 0;
        while sent < self.out.len() {
            match self.socket.write(&self.out[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the connection broke: {error}"),
            }
        }
        self.out.drain(..sent);
        match self.socket.flush() {
            Err(error) if error.kind() != ErrorKind::WouldBlock => panic!("the connection broke: {error}"),
            Ok(()) | Err(_) => {}
        }
    }

    /// Reads the available bytes, and reports every answer with progress. False if no bytes were available.
    pub(crate) fn read(&mut self, mut answered: impl FnMut(Answer)) -> bool {
        match self.socket.read(&mut self.incoming[self.filled..]) {
            Ok(0) => panic!("the server has closed the connection"),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("the connection broke: {error}"),
        }
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..self.filled];
        while rest.len() >= 9 {
            let length = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
            if rest.len() < 9 + length {
                break;
            }
            let (kind, flags) = (rest[3], rest[4]);
            let stream = u32::from_be_bytes([rest[5], rest[6], rest[7], rest[8]]);
            self.take(kind, flags, stream, &rest[9..9 + length], &mut answered);
            rest = &rest[9 + length..];
        }
        let (begin, left) = (self.filled - rest.len(), rest.len());
        self.incoming = incoming;
        self.incoming.copy_within(begin..self.filled, 0);
        self.filled = left;
        true
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], answered: &mut impl FnMut(Answer)) {
        match kind {
            0 => self.data(flags, stream, payload, answered),
            1 => self.headers(flags, stream, payload, answered),
            4 if flags & 1 == 0 => {
                for setting in payload.chunks(6) {
                    let value = u32::from_be_bytes(setting[2..].try_into().unwrap());
                    if setting[..2] == [0, 4] {
                        let more = i64::from(value) - self.stream_window;
                        self.stream_window += more;
                        self.calls.iter_mut().for_each(|call| call.window += more);
                    }
                }
                frame(&mut self.out, 4, 1, 0, &[]);
                self.pump();
            }
            6 if flags & 1 == 0 => frame(&mut self.out, 6, 1, 0, payload),
            8 => {
                let more = i64::from(u32::from_be_bytes(payload.try_into().unwrap()));
                if stream == 0 {
                    self.window += more;
                } else if let Some(call) = self.calls.iter_mut().find(|call| call.stream == stream) {
                    call.window += more;
                }
                self.pump();
            }
            4 | 6 => {}
            other => panic!("the server sent a frame of kind {other}: {payload:?}"),
        }
    }

    fn data(&mut self, flags: u8, stream: u32, payload: &[u8], answered: &mut impl FnMut(Answer)) {
        assert_eq!(flags, 0, "an answer ends without trailers");
        let length = u32::try_from(payload.len()).unwrap();
        let call = self.calls.iter_mut().find(|call| call.stream == stream).unwrap();
        call.answer.extend_from_slice(payload);
        call.received += length;
        if call.received > REFILL {
            frame(&mut self.out, 8, 0, stream, &call.received.to_be_bytes());
            call.received = 0;
        }
        self.received += length;
        if self.received > REFILL {
            frame(&mut self.out, 8, 0, 0, &self.received.to_be_bytes());
            self.received = 0;
        }
        answered(Answer { begin: call.begin, frames: &mut call.answer, ended: false });
    }

    fn headers(&mut self, flags: u8, stream: u32, payload: &[u8], answered: &mut impl FnMut(Answer)) {
        assert_eq!(flags & !1, 4, "headers in several frames, or padded");
        let headers = self.decoder.decode(payload);
        let place = self.calls.iter().position(|call| call.stream == stream).unwrap();
        if flags & 1 == 0 {
            assert!(headers.ok && headers.grpc_status.is_none(), "refused: {headers:?}");
            if let Some(request_id) = &self.calls[place].request_id {
                assert_eq!(headers.request_id.as_ref(), Some(request_id), "the answer has another name");
            }
            return;
        }
        assert_eq!(headers.grpc_status.as_deref(), Some("0"), "refused: {headers:?}");
        let mut call = self.calls.swap_remove(place);
        answered(Answer { begin: call.begin, frames: &mut call.answer, ended: true });
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The headers of the first call: `:method: POST` and `:scheme: http` from the static table, the others as literals that the
/// peer adds to its table.
fn head(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in headers {
        literal(&mut block, INDEXED, name, value);
    }
    block
}

/// Appends a literal field with a literal name (RFC 7541 §6.2).
fn literal(block: &mut Vec<u8>, kind: u8, name: &str, value: &str) {
    block.push(kind);
    for text in [name, value] {
        length(block, text.len());
        block.extend_from_slice(text.as_bytes());
    }
}

fn length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(0x7f) else { return block.push(u8::try_from(length).unwrap()) };
    block.push(0x7f);
    while rest >= 0x80 {
        block.push(u8::try_from(rest % 0x80).unwrap() | 0x80);
        rest /= 0x80;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// The same headers, once they are in the peer's table: the last one is the table's first entry.
fn indexed(first: &[u8]) -> Vec<u8> {
    let mut rest = &first[2..];
    let mut count = 0;
    while !rest.is_empty() {
        rest = &rest[1..];
        for _ in 0..2 {
            let (mut size, mut shift) = (usize::from(rest[0]), 0);
            rest = &rest[1..];
            if size == 0x7f {
                loop {
                    let byte = rest[0];
                    rest = &rest[1..];
                    size += usize::from(byte & 0x7f) << shift;
                    shift += 7;
                    if byte & 0x80 == 0 {
                        break;
                    }
                }
            }
            rest = &rest[size..];
        }
        count += 1;
    }
    let newest = 62_u8;
    [0x83, 0x86].into_iter().chain((0..count).rev().map(|place| 0x80 | (newest + place))).collect()
}
