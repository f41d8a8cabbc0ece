//! Frames in states, on streams and with lengths that they must not have.

use super::{
    ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, Oddity, Outcome, PROTOCOL_ERROR, REFUSED_STREAM,
    STREAM_CLOSED, Siege, oddity,
};
use crate::harness::http2::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PADDED, PING, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, settings, window_update,
};

const PROTOCOL: &[Outcome] = &[Outcome::End(Some(PROTOCOL_ERROR))];
/// The HTTP/2 library names a wrong length a protocol error.
const SIZE: &[Outcome] = &[Outcome::End(Some(FRAME_SIZE_ERROR)), Outcome::End(Some(PROTOCOL_ERROR))];
const SILENCE: &[Outcome] = &[Outcome::Silence];
/// A stream that has ended: RFC 9113 allows an error of the stream and one of the connection.
const CLOSED: &[Outcome] = &[
    Outcome::Reset(STREAM_CLOSED),
    Outcome::End(Some(STREAM_CLOSED)),
    Outcome::End(Some(PROTOCOL_ERROR)),
    Outcome::Message,
];

#[tokio::test]
async fn frames_on_a_wrong_stream_end_the_connection() {
    let siege = Siege::start().await;
    let block = siege.block();
    let oddities = vec![
        oddity("DATA on stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
        oddity("HEADERS on stream 0", frame(HEADERS, END_HEADERS, 0, &block), PROTOCOL),
        oddity("PRIORITY on stream 0", frame(PRIORITY, 0, 0, &[0, 0, 0, 1, 1]), PROTOCOL),
        oddity("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, &[0; 4]), PROTOCOL),
        oddity("CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, &block), PROTOCOL),
        oddity("SETTINGS on stream 1", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        oddity("PING on stream 1", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        oddity("GOAWAY on stream 1", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        oddity(
            "PUSH_PROMISE of a client",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &block[..]].concat()),
            PROTOCOL,
        ),
        oddity("an even stream", siege.call(2), PROTOCOL),
        oddity("DATA on an idle stream", frame(DATA, END_STREAM, 1, b"x"), PROTOCOL),
        oddity("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 1, &[0; 4]), PROTOCOL),
        oddity("WINDOW_UPDATE on an idle stream", window_update(1, 1), PROTOCOL),
        oddity("a stream below the last one", [siege.call(5), siege.call(3)].concat(), PROTOCOL),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn frames_of_a_wrong_length_end_the_connection() {
    const EITHER: &[Outcome] =
        &[Outcome::End(Some(FRAME_SIZE_ERROR)), Outcome::End(Some(PROTOCOL_ERROR)), Outcome::Reset(FRAME_SIZE_ERROR)];

    let siege = Siege::start().await;
    let open = frame(HEADERS, END_HEADERS, 1, &siege.block());
    let on_open = |more: Vec<u8>| [&open[..], &more].concat();
    let mut short = siege.block();
    short.insert(0, 255);
    let oddities = vec![
        oddity("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
        oddity("an acknowledgement with a payload", frame(SETTINGS, ACK, 0, &[0; 6]), SIZE),
        oddity("PING of 7 bytes", frame(PING, 0, 0, &[0; 7]), SIZE),
        oddity("WINDOW_UPDATE of 3 bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3]), SIZE),
        oddity("RST_STREAM of 3 bytes", on_open(frame(RST_STREAM, 0, 1, &[0; 3])), SIZE),
        oddity("PRIORITY of 4 bytes", on_open(frame(PRIORITY, 0, 1, &[0; 4])), EITHER),
        oddity("GOAWAY of 7 bytes", frame(GOAWAY, 0, 0, &[0; 7]), EITHER),
        oddity("DATA of 16 385 bytes", on_open(frame(DATA, 0, 1, &[0; 16_385])), SIZE),
        oddity("HEADERS of 16 385 bytes", frame(HEADERS, END_HEADERS, 1, &[0; 16_385]), SIZE),
        oddity("a frame of 16 MiB", frame(200, 0, 0, &[0; 0xff_ffff])[..100_000].to_vec(), SIZE),
        oddity("padding longer than DATA", on_open(frame(DATA, PADDED, 1, &[6, 0, 0, 0, 0, 0])), PROTOCOL),
        oddity("DATA with nothing but a flag of padding", on_open(frame(DATA, PADDED, 1, &[])), EITHER),
        oddity("padding longer than HEADERS", frame(HEADERS, END_HEADERS | PADDED, 1, &short), EITHER),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn frames_on_a_stream_that_has_ended_are_refused() {
    const MALFORMED: &[Outcome] = &[
        Outcome::Reset(PROTOCOL_ERROR),
        Outcome::End(Some(PROTOCOL_ERROR)),
        Outcome::Reset(STREAM_CLOSED),
        Outcome::End(Some(STREAM_CLOSED)),
        Outcome::Message,
    ];

    let siege = Siege::start().await;
    let call = siege.call(1);
    let open = frame(HEADERS, END_HEADERS, 1, &siege.block());
    let whole = frame(HEADERS, END_HEADERS | END_STREAM, 1, &siege.block());
    let trailers = |flags| frame(HEADERS, END_HEADERS | flags, 1, &crate::harness::http2::block(&[("x-trailer", "1")]));
    let after = |bytes: &[u8], more: Vec<u8>| [bytes, &more].concat();
    let oddities: Vec<Oddity> = vec![
        oddity("DATA after the end", after(&call, frame(DATA, 0, 1, b"x")), CLOSED),
        oddity("the end twice", after(&call, frame(DATA, END_STREAM, 1, &[])), CLOSED),
        oddity("trailers after the end", after(&call, trailers(END_STREAM)), CLOSED),
        oddity("trailers twice", [&open[..], &trailers(END_STREAM), &trailers(END_STREAM)].concat(), MALFORMED),
        oddity("trailers without an end", after(&open, trailers(0)), MALFORMED),
        oddity("headers twice", after(&whole, whole.clone()), CLOSED),
        oddity(
            "DATA after a reset",
            [&open[..], &frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), &frame(DATA, 0, 1, b"x")].concat(),
            &[Outcome::Reset(STREAM_CLOSED), Outcome::End(Some(STREAM_CLOSED)), Outcome::Silence],
        ),
        oddity("PRIORITY after the end", after(&call, frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1])), &[Outcome::Message]),
        oddity(
            "a reset after the end",
            after(&call, frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])),
            &[Outcome::Message, Outcome::Silence],
        ),
        oddity("a window after the end", after(&call, window_update(1, 100)), &[Outcome::Message]),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn odd_values_are_refused_or_ignored() {
    const FLOW: &[Outcome] = &[Outcome::End(Some(FLOW_CONTROL_ERROR)), Outcome::End(Some(PROTOCOL_ERROR))];
    const SELF: &[Outcome] = &[Outcome::Reset(PROTOCOL_ERROR), Outcome::End(Some(PROTOCOL_ERROR))];

    let siege = Siege::start().await;
    let open = frame(HEADERS, END_HEADERS, 1, &siege.block());
    let on_open = |more: Vec<u8>| [&open[..], &more].concat();
    let on_itself = [&[0, 0, 0, 1, 16][..], &siege.block()].concat();
    let oddities = vec![
        oddity("WINDOW_UPDATE of 0", window_update(0, 0), PROTOCOL),
        oddity("WINDOW_UPDATE of 0 on a stream", on_open(window_update(1, 0)), SELF),
        oddity("a window beyond 2 GiB", window_update(0, 0x7fff_ffff), FLOW),
        oddity(
            "a stream's window beyond 2 GiB",
            on_open(window_update(1, 0x7fff_ffff)),
            &[Outcome::Reset(FLOW_CONTROL_ERROR), Outcome::End(Some(FLOW_CONTROL_ERROR))],
        ),
        oddity("an initial window beyond 2 GiB", settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)]), FLOW),
        oddity("a frame size below the least", settings(&[(5, 1)]), PROTOCOL),
        oddity("a frame size above the most", settings(&[(5, 1 << 24)]), PROTOCOL),
        oddity("a push that is neither on nor off", settings(&[(2, 2)]), PROTOCOL),
        oddity("an unknown setting", [settings(&[(0xabc, 5)]), siege.call(1)].concat(), &[Outcome::Message]),
        oddity("a header table of 4 GiB", [settings(&[(1, u32::MAX)]), siege.call(1)].concat(), &[Outcome::Message]),
        oddity(
            "an acknowledgement too many",
            frame(SETTINGS, ACK, 0, &[]),
            &[Outcome::Silence, Outcome::End(Some(PROTOCOL_ERROR))],
        ),
        oddity("PRIORITY on itself", on_open(frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 16])), SELF),
        oddity("HEADERS that depend on themselves", frame(HEADERS, END_HEADERS | 0x20, 1, &on_itself), SELF),
        oddity("an unknown frame", frame(200, 0xff, 0, b"whatever"), SILENCE),
        oddity("an unknown frame on a stream", frame(200, 0xff, 7, b"whatever"), SILENCE),
        oddity("a PING that was answered", frame(PING, ACK, 0, &[7; 8]), SILENCE),
        oddity("PRIORITY on an idle stream", frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 16]), SILENCE),
        oddity("the highest stream", siege.call(0x7fff_ffff), &[Outcome::Message]),
        oddity(
            "padding",
            {
                let padded = frame(DATA, END_STREAM | PADDED, 1, &[3, 0, 0, 0, 0, 0, 0, 0, 0]);
                on_open(padded)
            },
            &[Outcome::Message],
        ),
        oddity("GOAWAY of the client", frame(GOAWAY, 0, 0, &[0; 8]), &[Outcome::End(None), Outcome::End(Some(0))]),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

/// A client may open 256 streams; the next one is refused, and may be opened later.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let siege = Siege::start().await;
    let block = siege.block();
    let open: Vec<u8> = (0..257).flat_map(|number| frame(HEADERS, END_HEADERS, number * 2 + 1, &block)).collect();
    let refused =
        &[Outcome::Reset(REFUSED_STREAM), Outcome::End(Some(PROTOCOL_ERROR)), Outcome::End(Some(ENHANCE_YOUR_CALM))];
    siege.assert_each(vec![oddity("257 streams", open, refused)]).await;
    siege.end().await;
}
