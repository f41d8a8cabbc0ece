//! Violations and oddities of HTTP/2, as raw frames. The offender gets an answer or an end in bounded time; the checks of
//! another connection are answered all along; the memory of the server stays; nothing panics.

mod floods;
mod frames;
mod headers;
mod protocols;
mod windows;

use crate::harness::http2::{
    self, DATA, END_HEADERS, END_STREAM, Frame, GOAWAY, HEADERS, PING, RST_STREAM, RawConnection,
};
use crate::harness::program::Serve;
use crate::harness::{self, Database};
use roster::grpc::pb;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic_health::pb::health_check_response::ServingStatus;

/// The time in which the server answers an oddity, or ends the connection.
const BOUND: Duration = Duration::from_secs(10);
/// What the memory of the server may grow by in one test. A connection of the HTTP/2 library holds some 100 KiB.
const GROWTH: u64 = 32 * 1024 * 1024;
/// The payload of the PING that follows an oddity.
const MARK: &[u8; 8] = b"oddities";

/// Error codes of HTTP/2.
const NO_ERROR: u32 = 0;
const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const REFUSED_STREAM: u32 = 7;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// What the offender receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The connection ends, with the error code of its GOAWAY.
    End(Option<u32>),
    /// The stream is reset with this error code; the connection stays.
    Reset(u32),
    /// The call is answered with a message; the connection stays.
    Message,
    /// The call is answered without a message; the connection stays. The byte is the first of the header block: 0x88 is
    /// the status 200, 0x8c is 400.
    Refusal(u8),
    /// Nothing but the answer to a PING.
    Silence,
}

/// An oddity by name, its bytes after the handshake, and the outcomes that are right.
struct Oddity {
    name: &'static str,
    bytes: Vec<u8>,
    right: &'static [Outcome],
}

fn oddity(name: &'static str, bytes: impl Into<Vec<u8>>, right: &'static [Outcome]) -> Oddity {
    Oddity { name, bytes: bytes.into(), right }
}

/// A server in a separate process, with another caller whose checks go on.
struct Siege {
    serve: Serve,
    authorization: String,
    memory: u64,
    end: oneshot::Sender<()>,
    checks: JoinHandle<u32>,
}

impl Siege {
    async fn start() -> Self {
        let serve = Serve::start(&Database::new().await.url, "").await;
        serve.until(ServingStatus::Serving).await;
        let mut other = serve.clients.clone();
        let owned =
            pb::CreateOrganizationRequest { owner_user_id: "owner".to_owned(), ..harness::organization("Acme") };
        let created = other.organizations.create_organization(owned).await.unwrap();
        let organization = created.into_inner().organization.unwrap().id;
        let authorization = format!("Bearer {}", serve.key);
        let memory = serve.resident();
        let (end, mut ended) = oneshot::channel();
        let checks = tokio::spawn(async move {
            let mut answered = 0;
            while ended.try_recv().is_err() {
                let check = other.is_member(&organization, "owner");
                assert!(tokio::time::timeout(BOUND, check).await.expect("a check was not answered"));
                answered += 1;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            answered
        });
        Self { serve, authorization, memory, end, checks }
    }

    async fn open(&self) -> RawConnection {
        RawConnection::open(self.serve.address, &[]).await.unwrap()
    }

    /// The header block of a call that is answered with a message.
    fn block(&self) -> Vec<u8> {
        http2::block(&http2::call("/roster.v1.UserService/GetCaller", &self.authorization))
    }

    /// The frames of a call that is answered with a message.
    fn call(&self, stream: u32) -> Vec<u8> {
        let headers = http2::frame(HEADERS, END_HEADERS, stream, &self.block());
        [headers, http2::frame(DATA, END_STREAM, stream, &[0; 5])].concat()
    }

    /// Sends each oddity on a new connection, and compares the outcomes.
    async fn assert_each(&self, oddities: Vec<Oddity>) {
        let mut wrong = Vec::new();
        for Oddity { name, bytes, right } in oddities {
            let outcome = outcome(self.open().await, bytes, right).await;
            if !outcome.is_some_and(|outcome| right.contains(&outcome)) {
                wrong.push(format!("{name}: {outcome:?}, not {right:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Asserts that the other caller was answered all along, that the memory stayed, and that nothing panicked.
    async fn end(self) {
        self.end.send(()).unwrap();
        assert!(self.checks.await.unwrap() > 0);
        let grown = self.serve.resident().saturating_sub(self.memory);
        assert!(grown < GROWTH, "the server has grown by {grown} bytes");
        let log = self.serve.log();
        assert!(!log.contains("panicked"), "{log}");
    }
}

/// Sends bytes and a PING, and returns the outcome of the first stream that has one. `None`: not even the PING was
/// answered in time.
async fn outcome(connection: RawConnection, bytes: Vec<u8>, right: &[Outcome]) -> Option<Outcome> {
    let RawConnection { mut reading, mut writing } = connection;
    let sending = tokio::spawn(async move {
        // The server may close the connection before it has read all.
        let _ = writing.write_all(&bytes).await;
        let _ = writing.write_all(&http2::frame(PING, 0, 0, MARK)).await;
        writing
    });
    let is_end = |outcome: &Outcome| matches!(outcome, Outcome::End(_));
    let (only_ends, has_silence) = (right.iter().all(is_end), right.contains(&Outcome::Silence));
    let mut observed = Observation::default();
    let observe = async {
        while let Some(frame) = reading.next().await {
            observed.note(&frame);
            if !only_ends && observed.alive && (has_silence || observed.stream.is_some()) {
                return;
            }
        }
        observed.ended = true;
    };
    // The outcome so far counts when the time is over.
    let _ = tokio::time::timeout(BOUND, observe).await;
    drop(sending);
    match observed {
        Observation { ended: true, goaway, .. } => Some(Outcome::End(goaway)),
        Observation { stream: Some(outcome), .. } => Some(outcome),
        Observation { alive, .. } => alive.then_some(Outcome::Silence),
    }
}

/// Sends bytes and a PING. Returns whether the PING is answered in time, and the connection has not ended before. What the
/// streams receive does not matter.
async fn stays_alive(connection: RawConnection, bytes: Vec<u8>) -> bool {
    let RawConnection { mut reading, mut writing } = connection;
    let sending = tokio::spawn(async move {
        let _ = writing.write_all(&bytes).await;
        let _ = writing.write_all(&http2::frame(PING, 0, 0, MARK)).await;
        writing
    });
    let mut observed = Observation::default();
    let observe = async {
        while !observed.alive
            && observed.goaway.is_none()
            && let Some(frame) = reading.next().await
        {
            observed.note(&frame);
        }
    };
    let in_time = tokio::time::timeout(BOUND, observe).await.is_ok();
    drop(sending);
    in_time && observed.alive && observed.goaway.is_none()
}

/// What a connection has received so far.
#[derive(Debug, Default)]
struct Observation {
    alive: bool,
    ended: bool,
    goaway: Option<u32>,
    stream: Option<Outcome>,
    has_message: bool,
    status: Option<u8>,
}

impl Observation {
    fn note(&mut self, frame: &Frame) {
        match frame.kind {
            PING if frame.payload == MARK => self.alive = true,
            GOAWAY => self.goaway = Some(frame.code()),
            RST_STREAM if self.stream.is_none() => self.stream = Some(Outcome::Reset(frame.code())),
            DATA => self.has_message = true,
            HEADERS => {
                let status = *self.status.get_or_insert(frame.payload[0]);
                if frame.has(END_STREAM) && self.stream.is_none() {
                    self.stream = Some(if self.has_message { Outcome::Message } else { Outcome::Refusal(status) });
                }
            }
            _ => {}
        }
    }
}
