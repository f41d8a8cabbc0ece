//! Credentials that are refused, and the metrics listener, which asks for none.

use super::client::Calls;
use super::{Tally, Target, framed, prefixed};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use roster::grpc::pb;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const CHECK: &str = "/roster.v1.CheckService/CheckMembership";
const CALLER: &str = "/roster.v1.UserService/GetCaller";

/// Tokens with the header and the claims of a valid one, each with another signature.
pub(super) fn bad_signatures(target: &Target, tally: &Arc<Tally>) {
    let signed = target.user_token.rsplit_once('.').unwrap().0.to_owned();
    let authorization = move |number: u64| {
        let signature = [number.to_be_bytes(); 8].concat();
        format!("Bearer {signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let calls = Calls::new(CALLER, "", prefixed(&[]));
    Calls { authorization: Arc::new(authorization), rate: 8400.0, ..calls }.start(target, tally);
}

/// Keys of the right form that no service has.
pub(super) fn bad_keys(target: &Target, tally: &Arc<Tally>) {
    let authorization = |number: u64| {
        let secret = [number.to_be_bytes(); 4].concat();
        format!("Bearer roster_{}", URL_SAFE_NO_PAD.encode(secret))
    };
    let (organization, user_id) = target.membership.clone();
    let check = pb::CheckMembershipRequest { organization, user_id, ..Default::default() };
    let calls = Calls::new(CHECK, "", framed(&check));
    Calls { authorization: Arc::new(authorization), streams: 64, ..calls }.start(target, tally);
}

/// 2 000 connections that say nothing, and 32 that scrape all the time.
pub(super) fn metrics(target: &Target, tally: &Arc<Tally>) {
    for number in 0..2032 {
        let (address, local, tally) = (target.metrics, target.local, tally.clone());
        tokio::spawn(async move {
            loop {
                if let Ok(mut socket) = connect(address, local).await {
                    tally.opened.fetch_add(1, Ordering::Relaxed);
                    if number < 32 {
                        while scrape(&mut socket, &tally).await.is_ok() {}
                    } else {
                        let _ = socket.read(&mut [0; 16]).await;
                    }
                    tally.closed.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
    }
}

async fn connect(address: SocketAddr, local: std::net::IpAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((local, 0).into())?;
    socket.connect(address).await
}

/// One scrape. The end of the response is not parsed: the next bytes that arrive stand for it.
async fn scrape(socket: &mut TcpStream, tally: &Tally) -> std::io::Result<()> {
    tally.calls.fetch_add(1, Ordering::Relaxed);
    socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: siege\r\n\r\n").await?;
    let mut chunk = vec![0; 65_536];
    let count = socket.read(&mut chunk).await?;
    tally.answers.fetch_add(1, Ordering::Relaxed);
    if count == 0 { Err(std::io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}
