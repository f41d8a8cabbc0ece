//! Windows of a peer that wants its answer in odd portions: the answer waits, and arrives whole.

use super::{BOUND, MARK, Siege};
use crate::harness::http2::{
    DATA, END_STREAM, FrameReader, HEADERS, INITIAL_WINDOW_SIZE, PING, RST_STREAM, RawConnection, frame, settings,
    window_update,
};

/// A call in a connection with a small window.
struct Portions<'a> {
    siege: &'a Siege,
    connection: RawConnection,
    /// The bytes of the answer so far.
    received: usize,
    ended: bool,
}

impl<'a> Portions<'a> {
    /// Sends the call on stream 1, in a connection whose streams begin with this window.
    async fn start(siege: &'a Siege, window: u32) -> Self {
        let connection = RawConnection::open(siege.serve.address, &[(INITIAL_WINDOW_SIZE, window)]).await.unwrap();
        let mut portions = Self { siege, connection, received: 0, ended: false };
        portions.send(&siege.call(1)).await;
        // The response begins, whatever the window is.
        while portions.next().await != HEADERS {}
        portions
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.connection.send(bytes).await.unwrap();
    }

    /// Reads one frame, and returns its kind.
    async fn next(&mut self) -> u8 {
        let reading: &mut FrameReader = &mut self.connection.reading;
        let next = tokio::time::timeout(BOUND, reading.next()).await.expect("no frame arrived in time");
        let next = next.expect("the connection has ended");
        assert_ne!(next.kind, RST_STREAM, "the stream was reset: {next:?}");
        if next.kind == DATA {
            self.received += next.payload.len();
        }
        self.ended |= next.stream == 1 && next.has(END_STREAM) && next.kind != PING;
        next.kind
    }

    /// Sends bytes, and reads until the server has answered a PING behind them. Twice: the server may answer the first
    /// PING before it sends what the bytes allow.
    async fn settle(&mut self, bytes: &[u8]) {
        self.send(bytes).await;
        for _ in 0..2 {
            self.send(&frame(PING, 0, 0, MARK)).await;
            while self.next().await != PING {}
        }
    }

    /// Opens the window wide, and asserts that the rest of the answer arrives.
    async fn finish(mut self, whole: usize) {
        self.send(&window_update(1, 1 << 20)).await;
        while !self.ended {
            self.next().await;
        }
        assert_eq!(self.received, whole);
        // The connection serves further calls.
        self.ended = false;
        let again = self.siege.call(3);
        self.settle(&again).await;
    }
}

/// The length of the answer.
async fn whole(siege: &Siege) -> usize {
    let mut portions = Portions::start(siege, 65_535).await;
    while !portions.ended {
        portions.next().await;
    }
    assert!(portions.received > 10, "the answer is too short for these tests");
    portions.received
}

#[tokio::test]
async fn an_answer_waits_for_its_window() {
    let siege = Siege::start().await;
    let whole = whole(&siege).await;
    let mut closed = Portions::start(&siege, 0).await;
    closed.settle(&[]).await;
    assert_eq!((closed.received, closed.ended), (0, false));
    closed.finish(whole).await;

    let mut by_bytes = Portions::start(&siege, 1).await;
    for count in 1..10 {
        by_bytes.settle(&[]).await;
        assert_eq!((by_bytes.received, by_bytes.ended), (count, false));
        by_bytes.send(&window_update(1, 1)).await;
    }
    by_bytes.finish(whole).await;
    siege.end().await;
}

#[tokio::test]
async fn a_window_may_shrink_below_what_is_on_the_way() {
    let siege = Siege::start().await;
    let whole = whole(&siege).await;
    let mut portions = Portions::start(&siege, 8).await;
    portions.settle(&[]).await;
    assert_eq!(portions.received, 8);
    // The window is now 2 - 8 = -6.
    portions.settle(&settings(&[(INITIAL_WINDOW_SIZE, 2)])).await;
    portions.settle(&window_update(1, 6)).await;
    assert_eq!((portions.received, portions.ended), (8, false));
    portions.settle(&window_update(1, 1)).await;
    assert_eq!(portions.received, 9);
    // A larger initial window opens the streams that exist.
    portions.settle(&settings(&[(INITIAL_WINDOW_SIZE, 3)])).await;
    assert_eq!(portions.received, 10);
    portions.finish(whole).await;
    siege.end().await;
}
