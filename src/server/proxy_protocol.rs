//! The PROXY protocol, version 1 (text) and 2 (binary): a header before the first byte of a connection, in which a proxy
//! names the address of its client.
//!
//! The specification is `doc/proxy-protocol.txt` of haproxy. Only trusted proxies may send a header, and each of their
//! connections has to begin with one.

use super::limits;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The first bytes of a binary header. A header in text is longer than this too.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The first bytes of a header in text.
const TEXT_START: &[u8] = b"PROXY ";

/// The reason why a connection of a trusted proxy does not begin with a PROXY header.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyHeaderError {
    #[error("the connection does not begin with a PROXY header: switch the PROXY protocol on in the proxy")]
    NoHeader,
    #[error("the PROXY header is malformed")]
    Malformed,
    #[error(
        "the PROXY header is longer than {} bytes of text, or {} bytes in binary form",
        limits::PROXY_TEXT_BYTES,
        limits::PROXY_BINARY_BYTES
    )]
    TooLong,
    #[error("the connection ended within its PROXY header")]
    Io(#[from] std::io::Error),
}

/// Reads the header, and no byte behind it. Returns the address of the client; `None` if the header names no IP address
/// (`LOCAL`, as in a health check of the proxy; `UNKNOWN`; a unix socket): the address of the socket counts then.
///
/// It sets no time limit.
///
/// # Errors
/// See [`ProxyHeaderError`]. The connection cannot be used then.
pub(super) async fn read_header<R: AsyncRead + Unpin>(connection: &mut R) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let mut start = [0; SIGNATURE.len()];
    connection.read_exact(&mut start).await?;
    if start == SIGNATURE {
        read_binary(connection).await
    } else if start.starts_with(TEXT_START) {
        read_text(connection, &start).await
    } else {
        Err(ProxyHeaderError::NoHeader)
    }
}

async fn read_text<R: AsyncRead + Unpin>(connection: &mut R, start: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let mut line = start.to_vec();
    // One byte at a time: the bytes behind the line break are not part of the header.
    while !line.ends_with(b"\r\n") {
        if line.len() == limits::PROXY_TEXT_BYTES {
            return Err(ProxyHeaderError::TooLong);
        }
        line.push(connection.read_u8().await?);
    }
    let line = &line[TEXT_START.len()..line.len() - 2];
    parse_text(std::str::from_utf8(line).map_err(|_| ProxyHeaderError::Malformed)?)
}

/// Parses what stands between `PROXY ` and the line break.
fn parse_text(line: &str) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let words: Vec<&str> = line.split(' ').collect();
    // Whatever follows is to be ignored.
    if words[0] == "UNKNOWN" {
        return Ok(None);
    }
    let [family, source, target, source_port, target_port] = words[..] else { return Err(ProxyHeaderError::Malformed) };
    let parse = |text: &str| {
        let address: IpAddr = text.parse().ok()?;
        let fits = if address.is_ipv4() { family == "TCP4" } else { family == "TCP6" };
        fits.then_some(address)
    };
    // `from_str` also accepts a sign.
    let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok();
    match (parse(source), parse(target)) {
        (Some(client), Some(_)) if is_port(source_port) && is_port(target_port) => Ok(Some(client)),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

async fn read_binary<R: AsyncRead + Unpin>(connection: &mut R) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let [command, family] = [connection.read_u8().await?, connection.read_u8().await?];
    let length = usize::from(connection.read_u16().await?);
    if length > limits::PROXY_BINARY_BYTES {
        return Err(ProxyHeaderError::TooLong);
    }
    let mut rest = vec![0; length];
    connection.read_exact(&mut rest).await?;
    parse_binary(command, family, &rest)
}

/// Parses a binary header: its version with its command, its family with its transport, and the bytes behind its length:
/// the addresses, and extensions, which are ignored.
fn parse_binary(command: u8, family: u8, rest: &[u8]) -> Result<Option<IpAddr>, ProxyHeaderError> {
    const LOCAL: u8 = 0x20;
    const PROXY: u8 = 0x21;
    const UNSPECIFIED: u8 = 0x00;
    const TCP4: u8 = 0x11;
    const TCP6: u8 = 0x21;
    const UNIX_STREAM: u8 = 0x31;
    /// Two paths of a unix socket.
    const UNIX_BYTES: usize = 216;

    match (command, family) {
        (LOCAL, _) | (PROXY, UNSPECIFIED) => Ok(None),
        // Source, target, and both ports.
        (PROXY, TCP4) => match rest.first_chunk::<12>() {
            Some([a, b, c, d, ..]) => Ok(Some(Ipv4Addr::new(*a, *b, *c, *d).into())),
            None => Err(ProxyHeaderError::Malformed),
        },
        (PROXY, TCP6) => match rest.first_chunk::<36>().and_then(|addresses| addresses.first_chunk::<16>()) {
            Some(source) => Ok(Some(Ipv6Addr::from(*source).into())),
            None => Err(ProxyHeaderError::Malformed),
        },
        (PROXY, UNIX_STREAM) if rest.len() >= UNIX_BYTES => Ok(None),
        _ => Err(ProxyHeaderError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    /// What follows a header in every test: the start of HTTP/2.
    const AFTER: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    fn tcp4(extensions: &[u8]) -> Vec<u8> {
        binary(0x21, 0x11, &[&[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0xc3, 0x83], extensions].concat())
    }

    fn tcp6() -> Vec<u8> {
        let source: Ipv6Addr = "2001:db8::7".parse().unwrap();
        binary(0x21, 0x21, &[&source.octets()[..], &[0; 16], &[0x30, 0x39, 0xc3, 0x83]].concat())
    }

    /// Valid headers, each with the address in it.
    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(107 - 16));
        vec![
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 12345 50051\r\n".to_vec(), Some("192.0.2.7")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 0 65535\r\n".to_vec(), Some("2001:db8::7")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 2\r\n".to_vec(), Some("::ffff:192.0.2.7")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(), None),
            (longest.into_bytes(), None),
            (tcp4(&[]), Some("192.0.2.7")),
            // Extensions: a checksum, padding, one of an unknown type.
            (tcp4(&[3, 0, 4, 1, 2, 3, 4, 4, 0, 1, 0, 0xea, 0, 2, 1, 2]), Some("192.0.2.7")),
            (tcp4(&[0; limits::PROXY_BINARY_BYTES - 12]), Some("192.0.2.7")),
            (tcp6(), Some("2001:db8::7")),
            (binary(0x20, 0, &[]), None),
            (binary(0x20, 0x11, &[192, 0, 2, 7]), None),
            (binary(0x21, 0, &[1; 9]), None),
            (binary(0x21, 0x31, &[b'/'; 216]), None),
        ]
    }

    async fn read(mut connection: DuplexStream) -> (Result<Option<IpAddr>, ProxyHeaderError>, Vec<u8>) {
        let result = read_header(&mut connection).await;
        let mut rest = Vec::new();
        connection.read_to_end(&mut rest).await.unwrap();
        (result, rest)
    }

    /// Reads a connection that consists of these bytes.
    async fn read_all(bytes: &[u8]) -> (Result<Option<IpAddr>, ProxyHeaderError>, Vec<u8>) {
        let (mut client, server) = duplex(128 * 1024);
        client.write_all(bytes).await.unwrap();
        drop(client);
        read(server).await
    }

    #[tokio::test]
    async fn a_header_is_read_at_every_split_and_nothing_behind_it() {
        for (header, address) in headers() {
            let expected: Option<IpAddr> = address.map(|address| address.parse().unwrap());
            for split in 0..=header.len() {
                let (mut client, server) = duplex(128 * 1024);
                let mut reading = Box::pin(read(server));
                client.write_all(&header[..split]).await.unwrap();
                assert!((&mut reading).now_or_never().is_none());
                client.write_all(&header[split..]).await.unwrap();
                client.write_all(AFTER).await.unwrap();
                drop(client);
                let (result, rest) = reading.await;
                assert_eq!((result.unwrap(), &rest[..]), (expected, AFTER), "{split} {}", header.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn every_truncation_of_a_header_is_an_error() {
        for (header, _) in headers() {
            for length in 0..header.len() {
                let (result, _) = read_all(&header[..length]).await;
                assert!(matches!(result, Err(ProxyHeaderError::Io(_))), "{length} {}", header.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn a_wrong_header_is_an_error() {
        use ProxyHeaderError::{Malformed, NoHeader, TooLong};
        let text = |line: &str| format!("PROXY {line}\r\n").into_bytes();
        let mut other_version = tcp4(&[]);
        other_version[12] = 0x11;
        let cases: Vec<(Vec<u8>, ProxyHeaderError)> = vec![
            (Vec::new(), NoHeader),
            (b"proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n".to_vec(), NoHeader),
            (b"\r\n\r\n\0\r\nQUIT\r".to_vec(), NoHeader),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), NoHeader),
            (text("TCP4 192.0.2.7 10.0.0.1 1"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 1 2 3"), Malformed),
            (text("TCP4  192.0.2.7 10.0.0.1 1 2"), Malformed),
            (text(" TCP4 192.0.2.7 10.0.0.1 1 2"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 1 2 "), Malformed),
            (text("TCP4\t192.0.2.7 10.0.0.1 1 2"), Malformed),
            (text("TCP4 2001:db8::7 2001:db8::1 1 2"), Malformed),
            (text("TCP6 192.0.2.7 10.0.0.1 1 2"), Malformed),
            (text("TCP4 192.0.2.7 localhost 1 2"), Malformed),
            (text("TCP4 192.0.2 10.0.0.1 1 2"), Malformed),
            (text("TCP4 192.0.2.256 10.0.0.1 1 2"), Malformed),
            (text("TCP4 192.0.2.007 10.0.0.1 1 2"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 65536 2"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 +1 2"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 1 -2"), Malformed),
            (text("UDP4 192.0.2.7 10.0.0.1 1 2"), Malformed),
            (text("unknown"), Malformed),
            (text("UNKNOWNS"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 1\r 2"), Malformed),
            (text("TCP4 192.0.2.7 10.0.0.1 1 2\n"), Malformed),
            ([&b"PROXY TCP4 192.0.2.7 10.0.0.1 1 "[..], b"\xff\r\n"].concat(), Malformed),
            (text(&format!("UNKNOWN {}", "x".repeat(92))), TooLong),
            (b"PROXY ".repeat(100), TooLong),
            (other_version, Malformed),
            (binary(0x22, 0x11, &[0; 12]), Malformed),
            (binary(0x21, 0x11, &[0; 11]), Malformed),
            (binary(0x21, 0x21, &[0; 35]), Malformed),
            (binary(0x21, 0x31, &[0; 215]), Malformed),
            // UDP, and a family that does not exist.
            (binary(0x21, 0x12, &[0; 12]), Malformed),
            (binary(0x21, 0x41, &[0; 12]), Malformed),
            (binary(0x21, 0x10, &[0; 12]), Malformed),
            (binary(0x21, 0x11, &[0; limits::PROXY_BINARY_BYTES + 1]), TooLong),
            (binary(0x20, 0x00, &[0; 65535]), TooLong),
        ];
        for (header, expected) in cases {
            let (result, _) = read_all(&[&header[..], AFTER].concat()).await;
            let found = result.expect_err(&header.escape_ascii().to_string());
            assert_eq!(found.to_string(), expected.to_string(), "{}", header.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_header_or_an_error(kind in 0..3_usize, bytes: Vec<u8>) {
            let start = [&[][..], TEXT_START, &SIGNATURE][kind];
            // The header ends before the end of the bytes, or the connection does.
            let _ = read_all(&[start, &bytes].concat()).now_or_never().unwrap();
        }

        #[test]
        fn the_address_of_any_client_is_read(bits: u128, v4: u32, ports: (u16, u16)) {
            let (v6, v4) = (Ipv6Addr::from(bits), Ipv4Addr::from(v4));
            let (from, to) = ports;
            let text = format!("PROXY TCP6 {v6} ::1 {from} {to}\r\n").into_bytes();
            prop_assert_eq!(read_all(&text).now_or_never().unwrap().0.unwrap(), Some(IpAddr::V6(v6)));
            let text = format!("PROXY TCP4 {v4} 127.0.0.1 {from} {to}\r\n").into_bytes();
            prop_assert_eq!(read_all(&text).now_or_never().unwrap().0.unwrap(), Some(IpAddr::V4(v4)));
            let header = binary(0x21, 0x21, &[&v6.octets()[..], &[0; 20]].concat());
            prop_assert_eq!(read_all(&header).now_or_never().unwrap().0.unwrap(), Some(IpAddr::V6(v6)));
        }
    }
}
