//! From a letter to a message, as RFC 5322 wants it.

use super::names::clean;
use super::templates::MailTexts;
use crate::domain::EmailAddress;
use crate::service::outbox::Letter;
use lettre::address::AddressError;
use lettre::message::header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use lettre::{Address, Message};
use std::time::{Duration, UNIX_EPOCH};

/// Says that no person wrote this, so that no vacation notice answers (RFC 3834); and the same to Exchange.
const AUTOMATIC: [(&str, &str); 2] = [("Auto-Submitted", "auto-generated"), ("X-Auto-Response-Suppress", "All")];

/// A line without its end: RFC 5322 §2.1.1.
const LINE_BYTES: usize = 998;

/// Who will read the bytes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageReader {
    /// Relays, of which some still take seven bits only.
    Relay,
    /// A person, who opens the file and copies the link.
    Person,
}

/// Builds the message. The same letter at the same second gives the same bytes.
///
/// # Errors
/// A sentence, if lettre refuses an address that roster has taken.
pub(super) fn build(
    letter: &Letter,
    texts: MailTexts,
    from: &Mailbox,
    unix_seconds: i64,
    reader: MessageReader,
) -> Result<Message, String> {
    let refused = |_| "an address cannot be written into a message".to_owned();
    let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0));
    let mut message = Message::builder()
        .message_id(Some(format!("<{}@{}>", letter.id, from.email.domain())))
        .date(date)
        .from(from.clone())
        .to(address(&letter.to).map_err(refused)?.into())
        .subject(texts.subject);
    if let Some(reply_to) = &letter.reply_to {
        let name = letter.sender.as_ref().map(|sender| clean(sender.as_str())).filter(|name| !name.is_empty());
        message = message.reply_to(Mailbox::new(name, address(reply_to).map_err(refused)?));
    }
    for (name, value) in AUTOMATIC {
        message = message.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned()));
    }
    // The boundary holds the letter's random id, so it does not occur in the parts.
    let parts = MultiPart::alternative()
        .boundary(format!("roster_{}", letter.id.simple()))
        .singlepart(part(ContentType::TEXT_PLAIN, texts.text, reader))
        .singlepart(part(ContentType::TEXT_HTML, texts.html, reader));
    message.multipart(parts).map_err(|error| format!("the message cannot be built: {error}"))
}

fn part(kind: ContentType, text: String, reader: MessageReader) -> SinglePart {
    let fits = text.lines().all(|line| line.len() <= LINE_BYTES);
    let body = match reader {
        MessageReader::Person if fits => {
            let lines: Vec<&str> = text.lines().collect();
            Body::dangerous_pre_encoded(lines.join("\r\n").into_bytes(), ContentTransferEncoding::EightBit)
        }
        MessageReader::Person | MessageReader::Relay => Body::new(text),
    };
    SinglePart::builder().header(kind).body(body)
}

/// The mailbox as its owner spells it, at the domain in its ASCII form: that one every relay can look up.
fn address(address: &EmailAddress) -> Result<Address, AddressError> {
    let (local, _) = address.given().rsplit_once('@').unwrap_or_default();
    let (_, domain) = address.normal().rsplit_once('@').unwrap_or_default();
    Address::new(local, domain)
}
