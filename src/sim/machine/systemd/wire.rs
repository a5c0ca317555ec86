//! The bus without a bus: a socket of zbus's whose other end is the machine itself. Real messages, byte for byte, and no
//! file descriptor, so that a paused clock and a runtime without I/O drive it.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zbus::Message;
use zbus::connection::AuthMechanism;
use zbus::connection::socket::{ReadHalf, Socket, Split, WriteHalf};
use zbus::export::async_trait::async_trait;

use super::calls::{Answer, answer};
use super::properties::unit_path;
use crate::sim::machine::life::Life;
use crate::sim::machine::state::State;

const GUID: &str = "00000000000000000000000000000001";

/// One connection, seen from the machine.
#[derive(Debug)]
pub(in crate::sim::machine) struct Subscriber {
    /// The life of the agent that it belongs to.
    pub(in crate::sim::machine) life: u64,
    sender: UnboundedSender<Message>,
}

/// Connects a life of the agent with its machine's service manager.
pub(in crate::sim::machine) async fn connect(life: Life) -> zbus::Result<zbus::Connection> {
    let (sender, receiver) = unbounded_channel();
    let socket = Line { life, sender, receiver };
    zbus::connection::Builder::authenticated_socket(socket, GUID).p2p().build().await
}

impl State {
    pub(super) fn subscribe(&mut self, life: u64, sender: UnboundedSender<Message>) {
        self.subscribers.push(Subscriber { life, sender });
    }

    /// Tells all who asked for it that the service has changed.
    pub(super) fn announce(&mut self) {
        if self.subscribers.is_empty() {
            return;
        }
        let (active, sub) = self.service.words();
        let changed = std::collections::BTreeMap::from([
            ("ActiveState", zbus::Variant::from(active)),
            ("SubState", zbus::Variant::from(sub)),
        ]);
        let none: [&str; 0] = [];
        let body = ("org.freedesktop.systemd1.Unit", changed, none);
        let path = unit_path(&self.service.name);
        let signal = Message::signal(path, "org.freedesktop.DBus.Properties", "PropertiesChanged");
        match signal.build(&body) {
            // Whoever has hung up is forgotten.
            Ok(message) => self.subscribers.retain(|to| to.sender.send(message.clone()).is_ok()),
            Err(error) => tracing::error!(%error, "a signal could not be built"),
        }
    }
}

#[derive(Debug)]
struct Line {
    life: Life,
    sender: UnboundedSender<Message>,
    receiver: UnboundedReceiver<Message>,
}

impl Socket for Line {
    type ReadHalf = Inbox;
    type WriteHalf = Outbox;

    fn split(self) -> Split<Inbox, Outbox> {
        let inbox = Inbox { receiver: self.receiver, message: None, at: 0 };
        Split::new(inbox, Outbox { life: self.life, sender: Some(self.sender) })
    }
}

#[derive(Debug)]
struct Inbox {
    receiver: UnboundedReceiver<Message>,
    message: Option<Message>,
    at: usize,
}

#[async_trait]
impl ReadHalf for Inbox {
    async fn recvmsg(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        if self.message.is_none() {
            self.message = self.receiver.recv().await;
            self.at = 0;
        }
        // No message and no sender any more: the end of the stream.
        let Some(message) = &self.message else { return Ok((0, Vec::new())) };
        let rest = message.data().bytes().get(self.at..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(rest) {
            *to = *from;
        }
        self.at += count;
        if count == rest.len() {
            self.message = None;
        }
        Ok((count, Vec::new()))
    }

    fn auth_mechanism(&self) -> AuthMechanism {
        AuthMechanism::Anonymous
    }
}

#[derive(Debug)]
struct Outbox {
    life: Life,
    sender: Option<UnboundedSender<Message>>,
}

#[async_trait]
impl WriteHalf for Outbox {
    async fn send_message(&mut self, message: &Message) -> zbus::Result<()> {
        let Some(sender) = &self.sender else { return Err(hung_up()) };
        match answer(&self.life, sender, message)? {
            Answer::Now(reply) => sender.send(reply).map_err(|_| hung_up()),
            Answer::After(time, reply) => {
                let (sender, life) = (sender.clone(), self.life.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(time).await;
                    if !life.is_dead() {
                        // Nobody may be left who waits for it.
                        sender.send(reply).ok();
                    }
                });
                Ok(())
            }
            Answer::Never => Err(hung_up()),
        }
    }

    async fn sendmsg(&mut self, buffer: &[u8], _fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        // Only a handshake would come this way, and there is none.
        Ok(buffer.len())
    }

    async fn close(&mut self) -> io::Result<()> {
        self.sender = None;
        Ok(())
    }
}

fn hung_up() -> zbus::Error {
    io::Error::from(io::ErrorKind::BrokenPipe).into()
}
