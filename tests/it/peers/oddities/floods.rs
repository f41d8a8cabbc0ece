//! Many frames that cost the sender little.

use super::{BOUND, ENHANCE_YOUR_CALM, NO_ERROR, Oddity, Outcome, Siege, oddity, stays_alive};
use crate::harness::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PRIORITY, RST_STREAM, RawConnection, SETTINGS, frame,
    literal, settings, window_update,
};
use roster::server::limits;
use std::time::{Duration, Instant};

const COUNT: u32 = 20_000;
/// A connection that is ended because it costs too much.
const CALM: &[Outcome] = &[Outcome::End(Some(ENHANCE_YOUR_CALM))];
/// A connection that is ended by the first error.
const BROKEN: &[Outcome] = &[Outcome::End(Some(ENHANCE_YOUR_CALM)), Outcome::End(Some(super::PROTOCOL_ERROR))];
const SILENCE: &[Outcome] = &[Outcome::Silence];

/// The frames that `make` returns for the streams 1, 3, 5 …
fn streams(make: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..COUNT).flat_map(|number| make(number * 2 + 1)).collect()
}

#[tokio::test]
async fn calls_that_are_reset_in_large_numbers_are_read_slowly() {
    const CALLS: u32 = 5000;
    // Behind the calls that may be wasted in a row. A part of a flood may be answered before its reset arrives.
    const LEAST: Duration = limits::WASTED_CALL_REFILL.saturating_mul((CALLS - limits::WASTED_CALLS_BURST) / 2);

    let siege = Siege::start().await;
    let block = siege.block();
    let head = |stream| frame(HEADERS, END_HEADERS, stream, &block);
    let whole = |stream| frame(HEADERS, END_HEADERS | END_STREAM, stream, &block);
    let many = |make: &dyn Fn(u32) -> Vec<u8>| (0..CALLS).flat_map(|number| make(number * 2 + 1)).collect::<Vec<_>>();
    let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
    let message = |stream| frame(DATA, END_STREAM, stream, &[0; 5]);
    let floods = [
        ("calls without an end", many(&|stream| [head(stream), reset(stream)].concat())),
        ("calls without a message", many(&|stream| [whole(stream), reset(stream)].concat())),
        ("whole calls", many(&|stream| [head(stream), message(stream), reset(stream)].concat())),
    ];
    for (name, bytes) in floods {
        let start = Instant::now();
        // A call may be answered before its reset has arrived.
        assert!(stays_alive(siege.open().await, bytes).await, "{name}");
        assert!(start.elapsed() >= LEAST, "{name}: read within {:?}", start.elapsed());
    }
    siege.end().await;
}

#[tokio::test]
async fn streams_that_the_server_has_to_reset_in_large_numbers_end_the_connection() {
    let siege = Siege::start().await;
    let block = siege.block();
    let head = |stream| frame(HEADERS, END_HEADERS, stream, &block);
    let oddities = vec![
        // The server resets the streams, because the client makes an error on each.
        oddity("resets by the server", streams(|stream| [head(stream), window_update(stream, 0)].concat()), BROKEN),
        oddity(
            "malformed calls",
            streams(|stream| frame(HEADERS, END_HEADERS, stream, &literal(0, b"te", b"x"))),
            CALM,
        ),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn header_blocks_without_an_end_end_the_connection() {
    const ENDS: &[Outcome] = &[
        Outcome::End(Some(ENHANCE_YOUR_CALM)),
        Outcome::End(Some(super::COMPRESSION_ERROR)),
        Outcome::End(Some(super::PROTOCOL_ERROR)),
    ];

    let siege = Siege::start().await;
    let first = frame(HEADERS, 0, 1, &siege.block());
    let flood = |payload: &[u8], count| [&first[..], &frame(CONTINUATION, 0, 1, payload).repeat(count)].concat();
    let text = [&literal(0, b"x-endless", &[b'x'; 16_000])[..15_900], &[]].concat();
    let oddities: Vec<Oddity> = vec![
        oddity("empty pieces", flood(&[], 20_000), ENDS),
        oddity("pieces of a byte", flood(b"x", 20_000), ENDS),
        oddity("large pieces", flood(&text, 1000), ENDS),
        oddity("small headers", flood(&literal(0, b"a", b"b"), 20_000), ENDS),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn cheap_frames_cost_the_others_nothing() {
    const EITHER: &[Outcome] = &[Outcome::Silence, Outcome::End(Some(ENHANCE_YOUR_CALM))];

    let siege = Siege::start().await;
    let open = frame(HEADERS, END_HEADERS, 1, &siege.block());
    let times = |one: &[u8]| one.repeat(usize::try_from(COUNT).unwrap());
    let empty_data = [&open[..], &times(&frame(DATA, 0, 1, &[])), &frame(DATA, END_STREAM, 1, &[0; 5])].concat();
    let oddities = vec![
        oddity("SETTINGS", times(&settings(&[(4, 65_535)])), EITHER),
        oddity("empty SETTINGS", times(&frame(SETTINGS, 0, 0, &[])), EITHER),
        oddity("PING", times(&frame(PING, 0, 0, &[7; 8])), EITHER),
        oddity("PRIORITY", streams(|stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16])), SILENCE),
        oddity("WINDOW_UPDATE", times(&window_update(0, 1)), SILENCE),
        oddity("unknown frames", times(&frame(99, 0, 0, b"whatever")), SILENCE),
        oddity("empty DATA", empty_data, &[Outcome::Message, Outcome::End(Some(ENHANCE_YOUR_CALM))]),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

/// A peer that floods and reads nothing is no longer read: what the server would have to answer stays in the socket.
#[tokio::test]
async fn answers_to_a_flood_do_not_pile_up() {
    let siege = Siege::start().await;
    let call = frame(HEADERS, END_HEADERS | END_STREAM, 1, &siege.block());
    let floods = [frame(PING, 0, 0, &[7; 8]), settings(&[(4, 65_535)]), settings(&[(1, 0), (1, 4096)])];
    for one in floods {
        let mut connection = siege.open().await;
        connection.send(&call).await.unwrap();
        let many = one.repeat(4096);
        for _ in 0..400 {
            // The socket takes no more when the server reads no more.
            let sent = tokio::time::timeout(Duration::from_millis(500), connection.send(&many)).await;
            if !matches!(sent, Ok(Ok(()))) {
                break;
            }
        }
    }
    siege.end().await;
}

/// The calls under way are answered, and then the connection ends.
#[tokio::test]
async fn a_client_may_announce_its_end_in_the_middle_of_calls() {
    let siege = Siege::start().await;
    let mut connection: RawConnection = siege.open().await;
    let calls: Vec<u8> = (0..50).flat_map(|number| siege.call(number * 2 + 1)).collect();
    let goaway = frame(crate::harness::http2::GOAWAY, 0, 0, &[0; 8]);
    connection.send(&[calls, goaway].concat()).await.unwrap();
    let mut messages = 0;
    let all = async {
        while let Some(frame) = connection.reading.next().await {
            messages += u32::from(frame.kind == DATA);
            assert!(frame.kind != crate::harness::http2::GOAWAY || frame.code() == NO_ERROR, "{frame:?}");
        }
    };
    tokio::time::timeout(BOUND, all).await.expect("the connection did not end");
    assert_eq!(messages, 50, "the calls under way are answered");
    siege.end().await;
}
