//! Builds the MIME message of a letter (RFC 5322).

use super::names::sanitize;
use super::templates::MailTexts;
use crate::domain::EmailAddress;
use crate::service::outbox::Letter;
use lettre::address::{AddressError, Envelope};
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use std::time::{Duration, UNIX_EPOCH};

/// Headers that mark the message as automatic, so that no vacation notice answers it: for RFC 3834, and for Exchange.
const AUTOMATIC: [(&str, &str); 2] = [("Auto-Submitted", "auto-generated"), ("X-Auto-Response-Suppress", "All")];

/// Maximum length of a line without its line break (RFC 5322 §2.1.1).
const LINE_BYTES: usize = 998;

/// The reader of the raw message, which decides how its parts are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageReader {
    /// An SMTP relay. Some still accept only seven-bit text, so the parts are encoded where necessary.
    Relay,
    /// A developer who opens the file and copies the link, so the parts stay readable.
    Developer,
}

/// Builds the message. The same letter at the same second gives the same bytes.
///
/// # Errors
/// A sentence, if lettre rejects an address that roster has accepted.
pub(super) fn build(
    letter: &Letter,
    texts: MailTexts,
    from: &Mailbox,
    unix_seconds: i64,
    reader: MessageReader,
) -> Result<Message, String> {
    let invalid = |_| "an address cannot be written into a message".to_owned();
    let to = address(&letter.to).map_err(invalid)?;
    // lettre would parse the headers for the envelope, and fail at a local part in quotation marks.
    let envelope = Envelope::new(Some(from.email.clone()), vec![to.clone()]);
    let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0));
    let mut message = Message::builder()
        .message_id(Some(format!("<{}@{}>", letter.id, from.email.domain())))
        .date(date)
        .from(from.clone())
        .to(to.into())
        .envelope(envelope.map_err(|error| format!("the message has no envelope: {error}"))?)
        .subject(texts.subject);
    if let Some(reply_to) = &letter.reply_to {
        let name = letter.sender.as_ref().map(|sender| sanitize(sender.as_str())).filter(|name| !name.is_empty());
        message = message.reply_to(Mailbox::new(name, address(reply_to).map_err(invalid)?));
    }
    let language = ("Content-Language", texts.locale.as_str());
    for (name, value) in AUTOMATIC.into_iter().chain([language]) {
        message = message.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned()));
    }
    // The boundary contains the random id of the letter, so it does not occur in the parts.
    let parts = MultiPart::alternative()
        .boundary(format!("roster_{}", letter.id.simple()))
        .singlepart(part(ContentType::TEXT_PLAIN, texts.text, reader))
        .singlepart(part(ContentType::TEXT_HTML, texts.html, reader));
    message.multipart(parts).map_err(|error| format!("the message cannot be built: {error}"))
}

fn part(kind: ContentType, text: String, reader: MessageReader) -> SinglePart {
    let fits = text.lines().all(|line| line.len() <= LINE_BYTES);
    let body = match reader {
        MessageReader::Developer if fits => {
            let lines: Vec<&str> = text.lines().collect();
            Body::dangerous_pre_encoded(lines.join("\r\n").into_bytes(), ContentTransferEncoding::EightBit)
        }
        MessageReader::Developer | MessageReader::Relay => Body::new(text),
    };
    SinglePart::builder().header(kind).body(body)
}

/// The local part for mail, and the domain in its ASCII form, which every relay can look up.
fn address(address: &EmailAddress) -> Result<Address, AddressError> {
    let (_, domain) = address.normal().rsplit_once('@').unwrap_or_default();
    Address::new(address.local_for_mail(), domain)
}
