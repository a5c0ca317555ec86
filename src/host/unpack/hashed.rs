//! One reading of a file for two uses: a thread of its own hashes every byte and passes the pieces on.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use crate::host::fs::hex;

const PIECE: usize = 1 << 20;

/// Reads `input` once, on a thread of its own that hashes every byte to the end, also when `consume` stops early.
pub(super) fn hashed<T>(
    mut input: Box<dyn Read + Send>,
    consume: impl FnOnce(&mut Pieces) -> T,
) -> (T, io::Result<String>) {
    let (sender, receiver) = sync_channel(4);
    std::thread::scope(|scope| {
        let reader = scope.spawn(move || hash_and_send(&mut *input, sender));
        let consumed = consume(&mut Pieces { receiver: &receiver, piece: Vec::new(), at: 0 });
        drop(receiver);
        let found = reader.join().unwrap_or_else(|_| Err(io::Error::other("the reading thread died")));
        (consumed, found)
    })
}

fn hash_and_send(
    mut input: &mut (dyn Read + Send),
    sender: SyncSender<io::Result<Vec<u8>>>,
) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut listener = Some(sender);
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        if let Err(error) = (&mut input).take(PIECE as u64).read_to_end(&mut piece) {
            // The consumer must not take the broken-off stream for its end.
            if let Some(sender) = listener {
                sender.send(Err(io::Error::from(error.kind()))).ok();
            }
            return Err(error);
        }
        if piece.is_empty() {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&piece);
        listener = listener.filter(|sender| sender.send(Ok(piece)).is_ok());
    }
}

/// The pieces that the reading thread sends, as a stream.
pub(super) struct Pieces<'a> {
    receiver: &'a Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() {
            match self.receiver.recv() {
                Ok(piece) => (self.piece, self.at) = (piece?, 0),
                Err(_all_sent) => return Ok(0),
            }
        }
        let count = self.piece.get(self.at..).unwrap_or_default().read(buffer)?;
        self.at += count;
        Ok(count)
    }
}
