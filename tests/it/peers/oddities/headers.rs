//! Header blocks that a server must refuse, and the table of HPACK.

use super::{COMPRESSION_ERROR, ENHANCE_YOUR_CALM, Oddity, Outcome, PROTOCOL_ERROR, Siege, oddity};
use crate::harness::http2::{
    self, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, block, call, frame, integer, literal,
};

const MALFORMED: &[Outcome] = &[Outcome::Reset(PROTOCOL_ERROR), Outcome::End(Some(PROTOCOL_ERROR))];
/// A block that cannot be decoded leaves the table of the connection unknown, so the connection ends.
const UNDECODABLE: &[Outcome] = &[Outcome::End(Some(COMPRESSION_ERROR)), Outcome::End(Some(PROTOCOL_ERROR))];
const MESSAGE: &[Outcome] = &[Outcome::Message];
/// The index of the first entry behind the static table of HPACK.
const FIRST_DYNAMIC: u8 = 62;
const PATH: &str = "/roster.v1.UserService/GetCaller";

/// A call with this header block on stream 1.
fn with_block(block: &[u8]) -> Vec<u8> {
    [frame(HEADERS, END_HEADERS, 1, block), frame(DATA, END_STREAM, 1, &[0; 5])].concat()
}

/// The call with headers in front of, and behind, the usual ones.
fn with(siege: &Siege, front: &[(&str, &str)], behind: &[(&str, &str)]) -> Vec<u8> {
    let usual = call(PATH, &siege.authorization);
    with_block(&block(&[front, &usual, behind].concat()))
}

/// The call without a header.
fn without(siege: &Siege, name: &str) -> Vec<u8> {
    let usual = call(PATH, &siege.authorization);
    with_block(&block(&usual.into_iter().filter(|header| header.0 != name).collect::<Vec<_>>()))
}

/// The call with another value of a header.
fn instead(siege: &Siege, name: &str, value: &str) -> Vec<u8> {
    let usual = call(PATH, &siege.authorization);
    let changed: Vec<_> = usual.into_iter().map(|old| if old.0 == name { (old.0, value) } else { old }).collect();
    with_block(&block(&changed))
}

#[tokio::test]
async fn malformed_headers_reset_their_stream() {
    let siege = Siege::start().await;
    let odd =
        |name, front: &[(&str, &str)], behind: &[(&str, &str)]| oddity(name, with(&siege, front, behind), MALFORMED);
    let oddities = vec![
        odd("an upper-case name", &[], &[("X-Upper", "1")]),
        odd("an unknown pseudo-header", &[(":protocol-of-mine", "1")], &[]),
        odd("a pseudo-header of answers", &[(":status", "200")], &[]),
        odd("a pseudo-header behind a header", &[], &[(":path", PATH)]),
        odd("two methods", &[(":method", "POST")], &[]),
        odd("two schemes", &[(":scheme", "http")], &[]),
        odd("two paths", &[(":path", PATH)], &[]),
        odd("connection", &[], &[("connection", "close")]),
        odd("keep-alive", &[], &[("keep-alive", "1")]),
        odd("transfer-encoding", &[], &[("transfer-encoding", "chunked")]),
        odd("upgrade", &[], &[("upgrade", "h2c")]),
        odd("proxy-connection", &[], &[("proxy-connection", "close")]),
        odd("a content length above the body", &[], &[("content-length", "6")]),
        odd("a content length below the body", &[], &[("content-length", "4")]),
        odd("a content length that is no number", &[], &[("content-length", "five")]),
        odd("two content lengths", &[], &[("content-length", "5"), ("content-length", "6")]),
        odd("a line break in a value", &[], &[("x-broken", "a\r\nb")]),
        odd("a NUL in a value", &[], &[("x-broken", "a\0b")]),
        odd("a space in a name", &[], &[("x broken", "1")]),
        odd("an empty name", &[], &[("", "1")]),
        oddity("te other than trailers", instead(&siege, "te", "gzip"), MALFORMED),
        oddity("no method", without(&siege, ":method"), MALFORMED),
        oddity("no scheme", without(&siege, ":scheme"), MALFORMED),
        oddity("no path", without(&siege, ":path"), MALFORMED),
        oddity("an empty path", instead(&siege, ":path", ""), MALFORMED),
        oddity("a path with a space", instead(&siege, ":path", "/a b"), MALFORMED),
        oddity("an authority that is none", instead(&siege, ":authority", "a b"), MALFORMED),
        oddity("no headers at all", with_block(&[]), MALFORMED),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn unusual_headers_are_answered() {
    let siege = Siege::start().await;
    let answered = |name, behind: &[(&str, &str)]| oddity(name, with(&siege, &[], behind), MESSAGE);
    let refused = |name, bytes| oddity(name, bytes, &[Outcome::Refusal(0x88), Outcome::Refusal(0x8d)]);
    let oddities: Vec<Oddity> = vec![
        answered("nothing unusual", &[]),
        answered("the content length of the body", &[("content-length", "5")]),
        answered("a cookie in two parts", &[("cookie", "a=1"), ("cookie", "b=2")]),
        answered("an empty value", &[("x-empty", "")]),
        oddity("no authority", without(&siege, ":authority"), MESSAGE),
        oddity("another scheme", instead(&siege, ":scheme", "ftp"), MESSAGE),
        refused("the path of every server", instead(&siege, ":path", "*")),
        refused("a path of one slash", instead(&siege, ":path", "/")),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

/// A header list beyond the limit is answered with the status 431, or its stream is reset.
#[tokio::test]
async fn large_header_lists_are_refused() {
    let siege = Siege::start().await;
    let large = "x".repeat(15 * 1024);
    let usual = siege.block();
    let too_large = &[
        // The name of the status is an entry of the table, and its value a literal.
        Outcome::Refusal(0x48),
        Outcome::Refusal(0x08),
        Outcome::Reset(PROTOCOL_ERROR),
        Outcome::End(Some(PROTOCOL_ERROR)),
        Outcome::End(Some(COMPRESSION_ERROR)),
        Outcome::End(Some(ENHANCE_YOUR_CALM)),
    ];
    let first = frame(HEADERS, 0, 1, &[&usual[..], &literal(0, b"x-large", large.as_bytes())].concat());
    let more = |flags| frame(CONTINUATION, flags, 1, &literal(0, b"x-larger", large.as_bytes()));
    // One entry of 4 KiB in the table, and 12 000 references to it: 48 MB of headers.
    let entry = literal(0x40, b"x-bomb", "x".repeat(4000).as_bytes());
    let bomb = [&usual[..], &entry, &[0x80 | FIRST_DYNAMIC; 12_000]].concat();
    // 5 000 empty headers: the list counts 32 bytes for each.
    let many = [&usual[..], &literal(0, b"a", b"").repeat(5000)[..15_000]].concat();
    let oddities = vec![
        oddity(
            "a list in three frames",
            [first, more(0), more(END_HEADERS), frame(DATA, END_STREAM, 1, &[0; 5])].concat(),
            too_large,
        ),
        oddity("a bomb of references", with_block(&bomb), too_large),
        oddity("many empty headers", with_block(&many), too_large),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

#[tokio::test]
async fn the_table_of_hpack_is_guarded() {
    let siege = Siege::start().await;
    let usual = siege.block();
    let odd = |name, more: &[u8]| oddity(name, with_block(&[&usual[..], more].concat()), UNDECODABLE);
    let oddities = vec![
        odd("the index 0", &[0x80]),
        odd("an index behind the table", &[0x80 | FIRST_DYNAMIC]),
        odd("an index far behind the table", &integer(7, 0x80, 1_000_000)),
        odd("an integer without an end", &[&[0xff][..], &[0xff; 20]].concat()),
        odd("a name from behind the table", &[0x40 | FIRST_DYNAMIC, 1, b'a']),
        odd("a text longer than the block", &[0, 5, b'a', b'b']),
        odd("a text of 2 GiB", &[&[0, 1, b'a'][..], &integer(7, 0, 1 << 31)].concat()),
        odd("a Huffman code that ends nowhere", &[0, 1, b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
        odd("half a header", &[0]),
        oddity("a table of 1 MiB", with_block(&[&integer(5, 0x20, 1 << 20)[..], &usual].concat()), UNDECODABLE),
        odd("another size of the table behind a header", &[0x20]),
        oddity("a table of no size", with_block(&[&[0x20][..], &usual].concat()), MESSAGE),
        oddity(
            "a table of no size and of the old one",
            with_block(&[&[0x20, 0x3f, 0xe1, 0x1f], &usual[..]].concat()),
            MESSAGE,
        ),
        // Each entry displaces the one before.
        oddity(
            "a table that is filled again and again",
            {
                let entry = literal(0x40, b"x-entry", "x".repeat(100).as_bytes());
                with_block(&[&usual[..], &entry.repeat(60)].concat())
            },
            MESSAGE,
        ),
        oddity(
            "an entry larger than the table",
            with_block(&[&usual[..], &literal(0x40, b"x-entry", "x".repeat(5000).as_bytes())].concat()),
            MESSAGE,
        ),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}

/// A block in many frames is one block.
#[tokio::test]
async fn a_header_block_may_come_in_pieces() {
    const ENDS: &[Outcome] = &[Outcome::End(Some(PROTOCOL_ERROR))];

    let siege = Siege::start().await;
    let usual = siege.block();
    let mut pieces: Vec<Vec<u8>> = usual.chunks(40).map(<[u8]>::to_vec).collect();
    let last = pieces.pop().unwrap();
    let mut bytes = frame(HEADERS, 0, 1, &pieces[0]);
    pieces[1..].iter().for_each(|piece| bytes.extend(frame(CONTINUATION, 0, 1, piece)));
    bytes.extend(frame(CONTINUATION, END_HEADERS, 1, &last));
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    let between =
        [frame(HEADERS, 0, 1, &usual), frame(http2::PING, 0, 0, b"12345678"), frame(CONTINUATION, END_HEADERS, 1, &[])];
    let other = [frame(HEADERS, 0, 1, &usual), frame(CONTINUATION, END_HEADERS, 3, &[])];
    let oddities = vec![
        oddity("in pieces", bytes, MESSAGE),
        oddity("another frame in between", between.concat(), ENDS),
        oddity("a continuation of another stream", other.concat(), ENDS),
        oddity("a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, &usual), ENDS),
        oddity(
            "a continuation of a whole block",
            [frame(HEADERS, END_HEADERS, 1, &usual), frame(CONTINUATION, END_HEADERS, 1, &[])].concat(),
            ENDS,
        ),
    ];
    siege.assert_each(oddities).await;
    siege.end().await;
}
