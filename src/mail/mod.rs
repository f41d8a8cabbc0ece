//! Mail: renders a [`Letter`] of the outbox and delivers it to a relay, which is the SMTP server of the deployment.
//!
//! * [`settings`] are the table `[mail]` of the settings file.
//! * `names` sanitizes names, `templates` renders the texts from `template_files` in one of the `languages`, `message`
//!   builds the MIME message.
//! * `transport` delivers the message and classifies failures; `starttls` protects the upgrade to TLS.
//! * [`worker`] sends the letters that are due, as long as the server runs.
//!
//! No log line and no [`DeliveryOutcome`] contains an address, a name or an invitation token.

mod languages;
mod message;
mod names;
pub mod settings;
mod starttls;
mod template_files;
mod templates;
mod transport;
pub mod worker;

use crate::clock::Clock;
use crate::service::outbox::{DeliveryOutcome, Letter};
use lettre::Message;
use lettre::message::Mailbox;
use settings::{Link, MailKind, MailSettings};
use templates::Templates;
use transport::Transport;

/// Renders and sends letters. A process has one.
pub struct Mailer {
    from: Mailbox,
    link: Link,
    templates: Templates,
    transport: Transport,
    connections: usize,
    clock: Clock,
}

impl Mailer {
    /// Creates a mailer; `None` if mail is switched off. Reads every file that the settings name, and renders every
    /// template with sample data.
    ///
    /// # Errors
    /// All mistakes, one sentence each, which begins with the name of the setting.
    pub fn new(settings: &MailSettings, clock: Clock) -> Result<Option<Self>, Vec<String>> {
        if settings.kind == MailKind::Off {
            return Ok(None);
        }
        let mut mistakes = settings.check_numbers();
        let from = settings.sender().map_err(|mistake| mistakes.push(mistake)).ok();
        let link = settings.link().map_err(|mistake| mistakes.push(mistake)).ok();
        let hello = from.as_ref().map_or("", |from| from.email.domain());
        let transport = Transport::new(settings, hello).map_err(|found| mistakes.extend(found)).ok();
        let locale = settings.locale().unwrap_or_else(|(mistake, default)| {
            mistakes.push(mistake);
            default
        });
        let templates = Templates::load(settings.templates.as_deref(), locale);
        let templates = templates.map_err(|found| mistakes.extend(found)).ok();
        match (from, link, transport, templates) {
            (Some(from), Some(link), Some(transport), Some(templates)) if mistakes.is_empty() => {
                Ok(Some(Self { from, link, templates, transport, connections: settings.connections, clock }))
            }
            _ => Err(mistakes),
        }
    }

    /// Makes one attempt to send a letter. A failure to render it is final, because the next attempt would fail too.
    pub async fn deliver(&self, letter: &Letter) -> DeliveryOutcome {
        match self.compose(letter) {
            Ok(message) => self.transport.send(message.envelope(), &message.formatted()).await,
            Err(error) => DeliveryOutcome::Final(error),
        }
    }

    /// Closes the idle connections to the relay.
    pub async fn close_idle(&self) {
        self.transport.close_idle().await;
    }

    /// Maximum number of letters that are sent at the same time.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections
    }

    fn compose(&self, letter: &Letter) -> Result<Message, String> {
        let link = letter.token.as_ref().map(|token| self.link.with(token));
        let texts = self.templates.render(letter, link.as_deref())?;
        message::build(letter, texts, &self.from, self.clock.unix_seconds(), self.transport.reader())
    }
}
