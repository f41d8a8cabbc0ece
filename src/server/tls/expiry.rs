//! The expiry of the server's certificate.

use super::ServerTls;
use crate::server::limits;
use std::path::Path;
use tokio_util::sync::CancellationToken;

const DAY: i64 = 24 * 3600;

/// The warning about a certificate with this number of seconds left; `None` for one with enough.
pub(super) fn warning(left: i64, file: &Path) -> Option<String> {
    let file = file.display();
    let longest = i64::try_from(limits::EXPIRY_WARNING.as_secs()).unwrap_or(i64::MAX);
    match left {
        ..0 => Some(format!(
            "the certificate in {file} has expired, and clients refuse it: replace it and its key, then send SIGHUP"
        )),
        left if left < longest => Some(format!(
            "the certificate in {file} expires in {} days: replace it and its key, then send SIGHUP",
            left / DAY
        )),
        _ => None,
    }
}

/// Logs the warning about the certificate once a day, until the server stops. The first one is part of the start.
pub(in crate::server) async fn watch_expiry(tls: Option<ServerTls>, stop: CancellationToken) {
    let Some(tls) = tls else { return };
    let rounds = async {
        loop {
            tokio::time::sleep(limits::EXPIRY_EVERY).await;
            if let Some(warning) = tls.warning() {
                tracing::warn!("{warning}");
            }
        }
    };
    stop.run_until_cancelled(rounds).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_certificate_with_little_time_left_is_a_warning() {
        for (left, part) in [
            (-1, Some("has expired")),
            (0, Some("expires in 0 days")),
            (14 * DAY - 1, Some("expires in 13 days")),
            (14 * DAY, None),
            (i64::MAX, None),
            (i64::MIN, Some("has expired")),
        ] {
            let warning = warning(left, Path::new("/etc/roster/tls.pem"));
            assert_eq!(warning.is_some(), part.is_some(), "{left}");
            assert!(warning.is_none_or(|text| text.contains(part.unwrap_or_default())), "{left}");
        }
    }
}
