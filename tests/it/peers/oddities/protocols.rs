//! Bytes that are no HTTP/2 at all: the connection ends.

use super::{BOUND, Siege};
use crate::harness::http2::{PREFACE, PRIORITY, RawConnection, frame, settings};
use tokio::io::AsyncWriteExt;

/// The start of a `ClientHello` of TLS 1.3.
const CLIENT_HELLO: &[u8] = &[
    0x16, 0x03, 0x01, 0x00, 0x40, 0x01, 0x00, 0x00, 0x3c, 0x03, 0x03, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff, 0, 1, 2, 3,
    4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 0, 0, 2, 0x13, 0x01, 1, 0, 0,
    0x11, 0, 0x2b, 0, 3, 2, 3, 4, 0, 0x0d, 0, 4, 0, 2, 4, 3, 0, 0,
];

#[tokio::test]
async fn other_protocols_end_the_connection() {
    let siege = Siege::start().await;
    let mut almost = PREFACE.to_vec();
    *almost.last_mut().unwrap() = b'!';
    let bytes: [(&str, Vec<u8>); 8] = [
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: roster.test\r\n\r\n".to_vec()),
        ("an upgrade", b"POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n".to_vec()),
        ("TLS", CLIENT_HELLO.to_vec()),
        ("SSH", b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n".to_vec()),
        ("zeros", vec![0; 100]),
        ("noise", (0..100_000_u32).map(|number| number.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect()),
        ("a preface with another end", almost),
        ("a preface and noise", [PREFACE, &[0xff; 100]].concat()),
    ];
    for (name, bytes) in bytes {
        assert_ends(&siege, name, &bytes, false).await;
    }
    let halves: [(&str, Vec<u8>); 6] = [
        ("nothing", Vec::new()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a preface", PREFACE.to_vec()),
        ("a preface and half of SETTINGS", [PREFACE, &settings(&[(4, 0)])[..12]].concat()),
        ("a preface and no SETTINGS", [PREFACE, &frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 16])].concat()),
        ("a preface and SETTINGS", [PREFACE, &settings(&[(4, 0)])].concat()),
    ];
    for (name, bytes) in halves {
        assert_ends(&siege, name, &bytes, true).await;
    }
    siege.end().await;
}

/// Sends bytes on a new connection, ends the sending direction if `shut`, and waits until the server closes.
async fn assert_ends(siege: &Siege, name: &str, bytes: &[u8], shut: bool) {
    let mut connection = RawConnection::connect(siege.serve.address).await.unwrap();
    // The server may close before it has read all.
    let _ = connection.send(bytes).await;
    if shut {
        connection.writing.shutdown().await.unwrap();
    }
    let end = async { while connection.reading.next().await.is_some() {} };
    assert!(tokio::time::timeout(BOUND, end).await.is_ok(), "{name}: the connection did not end");
}
