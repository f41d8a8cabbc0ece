//! The way to the server, and whether a credential may take it.

use http::Uri;
use http::uri::Scheme;
use hyper_util::rt::TokioIo;
use std::future::ready;
use std::io::{Cursor, Error, ErrorKind};
use std::net::IpAddr;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

/// What the client says about `https://` in a build without TLS.
pub(super) const NO_TLS: &str = "https:// needs TLS, and this build of the client has none: enable the feature \
                                 client-tls of the crate roster";

/// What the client says about a credential that others could read.
pub(super) const PLAINTEXT: &str = "the credential would cross the network in plain text: write https:// in the address \
                                    of the server, or call allow_plaintext_credentials if something else encrypts the way";

/// The way to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    /// TLS, which hides the credential and proves the name of the server.
    Encrypted,
    /// Plain text that does not leave this machine: a unix socket, `localhost`, or a loopback address.
    Local,
    /// Plain text over a network.
    Plaintext,
}

impl Route {
    /// The route to this address. Names are not looked up: a name that leads to this machine today is a network name.
    /// Only `localhost` always leads to this machine (RFC 6761 §6.3).
    pub(super) fn of(uri: &Uri) -> Self {
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Self::Encrypted;
        }
        let host = uri.host().unwrap_or_default();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let is_loopback = address.is_ok_and(|address| address.to_canonical().is_loopback());
        if is_loopback || host.eq_ignore_ascii_case("localhost") { Self::Local } else { Self::Plaintext }
    }
}

/// A channel that opens no connection. Its calls fail with this sentence.
pub(super) fn refusing(sentence: &str) -> Channel {
    let sentence = sentence.to_owned();
    let connector = service_fn(move |_: Uri| {
        ready(Err::<TokioIo<Cursor<Vec<u8>>>, _>(Error::new(ErrorKind::InvalidInput, sentence.clone())))
    });
    Endpoint::from_static("http://refused.invalid").connect_with_connector_lazy(connector)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        let route = |address: &str| Route::of(&address.parse().unwrap());
        for local in [
            "http://127.0.0.1:50051",
            "http://127.255.255.254:50051",
            "http://[::1]:50051",
            "http://[::ffff:127.0.0.1]:50051",
            "http://localhost:50051",
            "http://LOCALHOST",
        ] {
            assert_eq!(route(local), Route::Local, "{local}");
        }
        for network in [
            "http://10.0.0.1:50051",
            "http://192.168.1.1",
            "http://0.0.0.0:50051",
            "http://[::]:50051",
            "http://[fe80::1]:50051",
            "http://[::ffff:10.0.0.1]:50051",
            "http://128.0.0.1:50051",
            "http://roster.internal:50051",
            "http://roster",
            // Names and numbers that lead to this machine on some systems.
            "http://localhost.example.com",
            "http://localhost.localdomain",
            "http://roster.localhost",
            "http://localhost.",
            "http://127.0.0.1.example.com",
            "http://127.1",
            "http://2130706433",
            "http://localhost@roster.internal",
            "http://127.0.0.1:80@roster.internal",
        ] {
            assert_eq!(route(network), Route::Plaintext, "{network}");
        }
        for encrypted in ["https://roster.internal", "HTTPS://127.0.0.1:50051", "https://localhost"] {
            assert_eq!(route(encrypted), Route::Encrypted, "{encrypted}");
        }
    }
}
