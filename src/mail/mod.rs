//! Mail: from a [`Letter`] in the outbox to a message at a relay.
//!
//! * [`settings`] says how mail leaves.
//! * `names` makes names harmless, `templates` makes texts of them, `message` a message of those.
//! * `transport` hands it over, and knows what a failure means; `starttls` guards how a connection is encrypted.
//! * [`worker`] does all this for what is due, as long as the server runs.
//!
//! No log line and no [`DeliveryOutcome`] holds an address, a name or a token.

mod message;
mod names;
pub mod settings;
mod starttls;
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

/// Renders and sends letters. One for the whole process.
pub struct Mailer {
    from: Mailbox,
    link: Link,
    templates: Templates,
    transport: Transport,
    connections: usize,
    clock: Clock,
}

impl Mailer {
    /// A mailer, or none if mail is switched off. Reads every file that the settings name, and tries every template.
    ///
    /// # Errors
    /// Everything that is wrong, one sentence each, which begins with the setting's name.
    pub fn new(settings: &MailSettings, clock: Clock) -> Result<Option<Self>, Vec<String>> {
        if settings.kind == MailKind::Off {
            return Ok(None);
        }
        let mut mistakes = settings.numbers();
        let from = settings.sender().map_err(|mistake| mistakes.push(mistake)).ok();
        let link = settings.link().map_err(|mistake| mistakes.push(mistake)).ok();
        let hello = from.as_ref().map_or("", |from| from.email.domain());
        let transport = Transport::new(settings, hello).map_err(|several| mistakes.extend(several)).ok();
        let templates = Templates::load(settings.templates.as_deref());
        let templates = templates.map_err(|several| mistakes.extend(several)).ok();
        match (from, link, transport, templates) {
            (Some(from), Some(link), Some(transport), Some(templates)) if mistakes.is_empty() => {
                Ok(Some(Self { from, link, templates, transport, connections: settings.connections, clock }))
            }
            _ => Err(mistakes),
        }
    }

    /// Sends a letter once. Rendering it can only fail finally: the next try would fail the same way.
    pub async fn deliver(&self, letter: &Letter) -> DeliveryOutcome {
        match self.compose(letter) {
            Ok(message) => self.transport.send(message.envelope(), &message.formatted()).await,
            Err(why) => DeliveryOutcome::Final(why),
        }
    }

    /// Ends the conversations that nobody needs for now.
    pub async fn hang_up(&self) {
        self.transport.hang_up().await;
    }

    /// How many letters may be under way at once.
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
