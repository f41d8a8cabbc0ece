//! Peers that open something and do not finish it.

use super::client::{Calls, connect};
use super::{Tally, Target};
use crate::http2::{self, CONTINUATION, HEADERS, PREFACE, RawConnection};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

const PREVIEW: &str = "/roster.v1.InvitationService/PreviewInvitation";
/// The prefix of a message of 4 000 bytes, none of which is there.
const PROMISE: [u8; 5] = [0, 0, 0, 0x0f, 0xa0];
/// More than the default of `max_connections`.
const SOCKETS: usize = 4100;

pub(super) fn slow_bodies(target: &Target, tally: &Arc<Tally>) {
    Calls { ends: false, drips: true, ..Calls::new(PREVIEW, "", PROMISE.to_vec()) }.start(target, tally);
}

pub(super) fn slow_bodies_with_key(target: &Target, tally: &Arc<Tally>) {
    let path = "/roster.v1.OrganizationService/ListMembers";
    Calls { ends: false, drips: true, ..Calls::new(path, &target.manage_key, PROMISE.to_vec()) }.start(target, tally);
}

pub(super) fn slow_headers(target: &Target, tally: &Arc<Tally>) {
    Calls { ends: false, ..Calls::new(PREVIEW, "", Vec::new()) }.start(target, tally);
}

pub(super) fn sockets(target: &Target, tally: &Arc<Tally>) {
    hold(target, tally, SOCKETS, Vec::new(), Vec::new());
}

pub(super) fn half_prefaces(target: &Target, tally: &Arc<Tally>) {
    hold(target, tally, SOCKETS, PREFACE[..12].to_vec(), Vec::new());
}

/// The start of a connection whose first header block has begun.
fn open_block() -> Vec<u8> {
    let block = http2::block(&http2::call(PREVIEW, ""));
    [PREFACE, &http2::settings(&[]), &http2::frame(HEADERS, 0, 1, &block)].concat()
}

pub(super) fn open_blocks(target: &Target, tally: &Arc<Tally>) {
    hold(target, tally, SOCKETS, open_block(), Vec::new());
}

/// Header blocks that hold nearly as much as a list of headers may.
pub(super) fn large_blocks(target: &Target, tally: &Arc<Tally>) {
    let block = [http2::block(&http2::call(PREVIEW, "")), http2::literal(0, b"x-large", &[b'x'; 15_000])].concat();
    let first = [PREFACE, &http2::settings(&[]), &http2::frame(HEADERS, 0, 1, &block)].concat();
    hold(target, tally, 400, first, Vec::new());
}

pub(super) fn continuation_drip(target: &Target, tally: &Arc<Tally>) {
    hold(target, tally, 1000, open_block(), http2::frame(CONTINUATION, 0, 1, b"x"));
}

/// Keeps this many connections open. Each sends the first bytes at once and the others every second, and answers no
/// PING. The connections are opened within two seconds, and opened again a second after the server has closed them.
fn hold(target: &Target, tally: &Arc<Tally>, count: usize, first: Vec<u8>, every_second: Vec<u8>) {
    let bytes = Arc::new((first, every_second));
    for number in 0..count {
        let (target, tally, bytes) = (target.clone(), tally.clone(), bytes.clone());
        let delay = Duration::from_secs(2) * u32::try_from(number).unwrap() / u32::try_from(count).unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            loop {
                if let Ok(socket) = connect(&target, false).await {
                    tally.opened.fetch_add(1, Ordering::Relaxed);
                    until_closed(RawConnection::from(socket), &bytes.0, &bytes.1).await;
                    tally.closed.fetch_add(1, Ordering::Relaxed);
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
    }
}

async fn until_closed(mut connection: RawConnection, first: &[u8], every_second: &[u8]) {
    if connection.send(first).await.is_err() {
        return;
    }
    let mut second = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            frame = connection.reading.next() => if frame.is_none() { return },
            _ = second.tick(), if !every_second.is_empty() => {
                if connection.send(every_second).await.is_err() {
                    return;
                }
            }
        }
    }
}
