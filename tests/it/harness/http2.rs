//! HTTP/2 frames written by hand, for peers that send what no library sends. The tests and the siege use it.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The bytes that open every connection of a client.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// A flag of DATA and HEADERS.
pub const END_STREAM: u8 = 1;
/// A flag of SETTINGS and PING.
pub const ACK: u8 = 1;
/// A flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 4;
/// A flag of DATA and HEADERS.
pub const PADDED: u8 = 8;

/// The setting of the window that a new stream of the peer has.
pub const INITIAL_WINDOW_SIZE: u16 = 4;

/// A frame as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The error code of a `RST_STREAM`, or of a GOAWAY.
    pub fn code(&self) -> u32 {
        let start = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[start..start + 4].try_into().unwrap())
    }
}

/// The bytes of a frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A SETTINGS frame.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        values.iter().flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A `WINDOW_UPDATE` frame. Stream 0 is the connection.
pub fn window_update(stream: u32, more: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

/// A header block. Each header is a literal that the peer does not add to its table.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    headers.iter().flat_map(|(name, value)| literal(0, name.as_bytes(), value.as_bytes())).collect()
}

/// One header as a literal. `form` is 0 for a literal outside the table, 0x40 for one that the peer adds to its table.
pub fn literal(form: u8, name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[form], &integer(7, 0, name.len())[..], name, &integer(7, 0, value.len()), value].concat()
}

/// An integer of HPACK with a prefix of `bits` bits, whose first byte has the bits of `form` too.
pub fn integer(bits: u32, form: u8, value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    let byte = |value: usize| u8::try_from(value).unwrap();
    if value < most {
        return vec![form | byte(value)];
    }
    let mut bytes = vec![form | byte(most)];
    let mut rest = value - most;
    while rest >= 0x80 {
        bytes.push(byte(rest % 0x80) | 0x80);
        rest /= 0x80;
    }
    bytes.push(byte(rest));
    bytes
}

/// The headers of a gRPC call, with a bearer token unless it is empty.
pub fn call<'a>(path: &'a str, authorization: &'a str) -> Vec<(&'a str, &'a str)> {
    let mut headers = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "roster.test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    if !authorization.is_empty() {
        headers.push(("authorization", authorization));
    }
    headers
}

/// A connection whose frames are written by hand. It answers no PING and no SETTINGS after [`Self::open`].
#[derive(Debug)]
pub struct RawConnection {
    pub reading: FrameReader,
    pub writing: OwnedWriteHalf,
}

/// The frames that a connection receives.
#[derive(Debug)]
pub struct FrameReader {
    socket: OwnedReadHalf,
    bytes: Vec<u8>,
}

impl RawConnection {
    /// Connects, and sends nothing.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        Ok(Self::from(socket))
    }

    /// Connects, and exchanges the preface and SETTINGS.
    pub async fn open(address: SocketAddr, values: &[(u16, u32)]) -> io::Result<Self> {
        let mut connection = Self::connect(address).await?;
        connection.start(values).await?;
        Ok(connection)
    }

    /// Exchanges the preface and SETTINGS on a connection that has sent nothing.
    pub async fn start(&mut self, values: &[(u16, u32)]) -> io::Result<()> {
        self.writing.write_all(&[PREFACE, &settings(values)].concat()).await?;
        let (mut received, mut acknowledged) = (false, false);
        while !(received && acknowledged) {
            let frame = self.reading.next().await.ok_or(io::ErrorKind::UnexpectedEof)?;
            if frame.kind == SETTINGS && frame.has(ACK) {
                acknowledged = true;
            } else if frame.kind == SETTINGS {
                received = true;
                self.writing.write_all(&self::frame(SETTINGS, ACK, 0, &[])).await?;
            }
        }
        Ok(())
    }

    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writing.write_all(bytes).await
    }
}

impl From<TcpStream> for RawConnection {
    fn from(socket: TcpStream) -> Self {
        let (socket, writing) = socket.into_split();
        Self { reading: FrameReader { socket, bytes: Vec::new() }, writing }
    }
}

impl FrameReader {
    /// The next frame; `None` when the peer has closed or reset the connection. Bytes that are no frame of at most 16 MiB
    /// stay unread until then.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.split() {
                return Some(frame);
            }
            if !matches!(self.socket.read_buf(&mut self.bytes).await, Ok(1..)) {
                return None;
            }
        }
    }

    fn split(&mut self) -> Option<Frame> {
        let head = self.bytes.get(..9)?;
        let length = usize::try_from(u32::from_be_bytes([0, head[0], head[1], head[2]])).unwrap();
        let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let (kind, flags) = (head[3], head[4]);
        let payload = self.bytes.get(9..9 + length)?.to_vec();
        self.bytes.drain(..9 + length);
        Some(Frame { kind, flags, stream, payload })
    }
}
