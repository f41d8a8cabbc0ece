//! A small SMTP server on loopback. It stores the messages that it accepts, and injects the faults that a test
//! requests.

use super::tls::{Authority, Request};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub const USERNAME: &str = "roster";
pub const PASSWORD: &str = "open sesame";

/// A fault at one point of one connection.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    /// A command, or `CONNECT` for the greeting, or `BODY` for the message after DATA.
    pub at: &'static str,
    pub act: Act,
}

/// The faulty behaviour.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Sends this answer instead.
    Answer(&'static str),
    /// Sends nothing any more.
    Hang,
    /// Closes the connection.
    Close,
}

/// The options of a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct SmtpOptions {
    /// Uses TLS from the first byte.
    pub tls: bool,
    /// Whether the server offers STARTTLS.
    pub starttls: bool,
    /// The authentication mechanisms that the server offers. If set, it requires a login.
    pub auth: Option<&'static str>,
    /// Whether the server offers SMTPUTF8.
    pub utf8: bool,
}

/// A message that the server accepted.
#[derive(Debug, Clone)]
pub struct Received {
    pub from: String,
    pub to: String,
    pub data: Vec<u8>,
    pub encrypted: bool,
    /// The number of the connection that delivered the message, from 1.
    pub connection: usize,
}

#[derive(Default)]
struct State {
    mailbox: Vec<Received>,
    /// One entry for each of the next connections; later connections have no faults.
    faults: VecDeque<Option<Fault>>,
    /// The commands that clients sent.
    commands: Vec<String>,
    connections: usize,
}

/// A running server. Dropping it stops the server.
pub struct SmtpServer {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    directory: TempDir,
    running: tokio::task::JoinHandle<()>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}
type Wire = BufReader<Box<dyn Stream>>;

impl SmtpServer {
    /// Starts a server with a certificate for 127.0.0.1.
    pub async fn start(options: SmtpOptions) -> Self {
        Self::named(options, "127.0.0.1").await
    }

    /// Starts a server with a certificate for this name.
    pub async fn named(options: SmtpOptions, name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let acceptor = certificate(name, &directory.path().join("ca.pem"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::<Mutex<State>>::default();
        let running = tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let connection = Connection::new(options, acceptor.clone(), Arc::clone(&state));
                    // A client may disconnect at any time.
                    tokio::spawn(async move { connection.serve(Box::new(stream)).await.ok() });
                }
            }
        });
        Self { address, state, directory, running }
    }

    /// Injects faults: one entry for each of the next connections.
    pub fn misbehave(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    /// The messages that the server accepted.
    pub fn mailbox(&self) -> Vec<Received> {
        self.state.lock().unwrap().mailbox.clone()
    }

    /// The commands that clients sent.
    pub fn commands(&self) -> Vec<String> {
        self.state.lock().unwrap().commands.clone()
    }

    /// The certificate of the CA that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Writes the server's password to a file, and returns its path.
    pub fn password_file(&self) -> PathBuf {
        let path = self.directory.path().join("password");
        std::fs::write(&path, format!("{PASSWORD}\n")).unwrap();
        path
    }

    /// Waits up to 10 s until the server has accepted this many messages.
    pub async fn until_received(&self, count: usize) -> Vec<Received> {
        for _ in 0..400 {
            let mailbox = self.mailbox();
            if mailbox.len() >= count {
                return mailbox;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{} of {count} messages arrived", self.mailbox().len());
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Creates a certificate for this name, and writes the CA's certificate to the file.
fn certificate(name: &str, ca_file: &Path) -> TlsAcceptor {
    let authority = Authority::new();
    std::fs::write(ca_file, authority.pem()).unwrap();
    authority.acceptor(&Request::named(&[name]))
}

struct Connection {
    options: SmtpOptions,
    acceptor: TlsAcceptor,
    state: Arc<Mutex<State>>,
    fault: Option<Fault>,
    number: usize,
    encrypted: bool,
    logged_in: bool,
}

impl Connection {
    fn new(options: SmtpOptions, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) -> Self {
        let (fault, number) = {
            let mut state = state.lock().unwrap();
            state.connections += 1;
            (state.faults.pop_front().flatten(), state.connections)
        };
        Self { options, acceptor, state, fault, number, encrypted: false, logged_in: false }
    }

    async fn serve(mut self, stream: Box<dyn Stream>) -> std::io::Result<()> {
        let mut wire: Wire = BufReader::new(stream);
        if self.options.tls {
            wire = self.encrypt(wire).await?;
        }
        if self.answer("CONNECT", "220 relay.test ready", &mut wire).await? {
            return Ok(());
        }
        let (mut from, mut to) = (String::new(), String::new());
        loop {
            let line = read_line(&mut wire).await?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.is_empty() {
                return Ok(());
            }
            self.state.lock().unwrap().commands.push(line.clone());
            let verb = line.split(' ').next().unwrap_or_default().to_uppercase();
            let locked = self.options.auth.is_some() && !self.logged_in;
            let ended = match verb.as_str() {
                "EHLO" => {
                    let answer = self.extensions();
                    self.answer("EHLO", &answer, &mut wire).await?
                }
                "STARTTLS" if self.options.starttls && !self.encrypted => {
                    let ended = self.answer("STARTTLS", "220 go ahead", &mut wire).await?;
                    if !ended {
                        wire = self.encrypt(wire).await?;
                    }
                    ended
                }
                "AUTH" => {
                    let answer = self.log_in(&line, &mut wire).await?;
                    self.answer("AUTH", answer, &mut wire).await?
                }
                "MAIL" if !locked => {
                    from = path(&line);
                    self.answer("MAIL", "250 2.1.0 ok", &mut wire).await?
                }
                "RCPT" if !locked => {
                    to = path(&line);
                    self.answer("RCPT", "250 2.1.5 ok", &mut wire).await?
                }
                "DATA" if !locked => {
                    let ended = self.answer("DATA", "354 go ahead", &mut wire).await?;
                    let refused = matches!(self.fault, Some(Fault { at: "DATA", .. }));
                    ended || (!refused && self.receive(&from, &to, &mut wire).await?)
                }
                "NOOP" => self.answer("NOOP", "250 ok", &mut wire).await?,
                "QUIT" => {
                    self.answer("QUIT", "221 bye", &mut wire).await?;
                    true
                }
                "MAIL" | "RCPT" | "DATA" => self.answer(&verb, "530 5.7.0 log in first", &mut wire).await?,
                _ => self.answer(&verb, "500 5.5.1 unknown command", &mut wire).await?,
            };
            if ended {
                return Ok(());
            }
        }
    }

    /// Sends the answer, or injects the fault that is due at this point. Returns true if the connection must end.
    async fn answer(&self, at: &str, answer: &str, wire: &mut Wire) -> std::io::Result<bool> {
        let answer = match self.fault.filter(|fault| fault.at == at).map(|fault| fault.act) {
            None => answer,
            Some(Act::Answer(other)) => other,
            Some(Act::Close) => return Ok(true),
            Some(Act::Hang) => std::future::pending().await,
        };
        wire.write_all(format!("{answer}\r\n").as_bytes()).await?;
        wire.flush().await?;
        Ok(false)
    }

    fn extensions(&self) -> String {
        let mut lines = vec!["relay.test".to_owned(), "8BITMIME".to_owned()];
        if self.options.starttls && !self.encrypted {
            lines.push("STARTTLS".to_owned());
        }
        if self.options.utf8 {
            lines.push("SMTPUTF8".to_owned());
        }
        lines.extend(self.options.auth.map(|mechanisms| format!("AUTH {mechanisms}")));
        let last = lines.pop().unwrap();
        let before = lines.iter().fold(String::new(), |before, line| before + "250-" + line + "\r\n");
        format!("{before}250 {last}")
    }

    async fn encrypt(&mut self, wire: Wire) -> std::io::Result<Wire> {
        let stream = self.acceptor.accept(wire.into_inner()).await?;
        self.encrypted = true;
        Ok(BufReader::new(Box::new(stream)))
    }

    async fn log_in(&mut self, line: &str, wire: &mut Wire) -> std::io::Result<&'static str> {
        use base64::Engine;
        let base64 = &base64::engine::general_purpose::STANDARD;
        let decode = |text: &[u8]| String::from_utf8(base64.decode(text.trim_ascii()).unwrap()).unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let login = match words.as_slice() {
            [_, "PLAIN", response] => decode(response.as_bytes()),
            [_, "LOGIN", ..] => {
                let mut login = String::new();
                for question in ["Username:", "Password:"] {
                    wire.write_all(format!("334 {}\r\n", base64.encode(question)).as_bytes()).await?;
                    wire.flush().await?;
                    login = format!("{login}\0{}", decode(&read_line(wire).await?));
                }
                login
            }
            _ => return Ok("504 5.5.4 no such mechanism"),
        };
        self.logged_in = login == format!("\0{USERNAME}\0{PASSWORD}");
        Ok(if self.logged_in { "235 2.7.0 welcome" } else { "535 5.7.8 authentication failed" })
    }

    /// Reads the message after DATA. Returns true if the connection must end.
    async fn receive(&self, from: &str, to: &str, wire: &mut Wire) -> std::io::Result<bool> {
        let mut data = Vec::new();
        loop {
            let line = read_line(wire).await?;
            if line.is_empty() {
                return Ok(true);
            }
            // The connection breaks off within the message, at its first line.
            if matches!(self.fault, Some(Fault { at: "BODY", act: Act::Close })) {
                return Ok(true);
            }
            if line == b".\r\n" {
                break;
            }
            data.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        }
        let accepts = !matches!(self.fault, Some(Fault { at: "BODY", act: Act::Answer(_) }));
        if accepts {
            let (from, to, encrypted) = (from.to_owned(), to.to_owned(), self.encrypted);
            let received = Received { from, to, data, encrypted, connection: self.number };
            self.state.lock().unwrap().mailbox.push(received);
        }
        self.answer("BODY", "250 2.0.0 taken", wire).await
    }
}

async fn read_line(wire: &mut Wire) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    wire.read_until(b'\n', &mut line).await?;
    Ok(line)
}

/// The text between `<` and `>`.
fn path(line: &str) -> String {
    line.split_once('<')
        .and_then(|(_, rest)| rest.split_once('>'))
        .map_or_else(String::new, |(path, _)| path.to_owned())
}
