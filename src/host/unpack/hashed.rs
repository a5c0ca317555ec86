//! One reading of a file for two uses: every byte is hashed, and the pieces are passed on. Where reading waits for a disk a
//! thread of its own does it.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest, Sha256};

use crate::host::fs::hex;

const PIECE: usize = 1 << 20;

/// Reads `input` once and hashes every byte to the end, also when `consume` stops early.
pub(super) fn hashed<T>(
    input: Box<dyn Read + Send>,
    may_block: bool,
    consume: impl FnOnce(&mut dyn Read) -> T,
) -> (T, io::Result<String>) {
    if may_block { on_a_thread(input, consume) } else { in_passing(input, consume) }
}

/// The same on the caller's own thread.
pub(in crate::host) fn in_passing<T>(
    input: impl Read,
    consume: impl FnOnce(&mut dyn Read) -> T,
) -> (T, io::Result<String>) {
    let mut passing = Passing { input, hash: Sha256::new(), broken: None };
    let consumed = consume(&mut passing);
    let found = match io::copy(&mut passing, &mut io::sink()) {
        Ok(_rest) => Ok(hex(&passing.hash.finalize())),
        Err(error) => Err(error),
    };
    (consumed, found)
}

/// Hashes what is read through it. Once broken it stays so: nobody may take what was read so far for all of it.
struct Passing<R> {
    input: R,
    hash: Sha256,
    broken: Option<io::ErrorKind>,
}

impl<R: Read> Read for Passing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(kind) = self.broken {
            return Err(kind.into());
        }
        let count = self.input.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.broken = Some(error.kind());
            }
        })?;
        self.hash.update(buffer.get(..count).unwrap_or_default());
        Ok(count)
    }
}

fn on_a_thread<T>(
    mut input: Box<dyn Read + Send>,
    consume: impl FnOnce(&mut dyn Read) -> T,
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
struct Pieces<'a> {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Half of it, then an error, then what looks like its end.
    struct Breaks(u8);

    impl Read for Breaks {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => (&b"half"[..]).read(buffer),
                2 => Err(io::ErrorKind::ConnectionReset.into()),
                _ => Ok(0),
            }
        }
    }

    #[test]
    fn both_ways_hash_all_of_it_and_never_take_a_break_for_the_end() {
        for may_block in [true, false] {
            let read_one = |reader: &mut dyn Read| reader.read(&mut [0]).unwrap();
            let (count, found) = hashed(Box::new(&b"whole"[..]), may_block, read_one);
            assert_eq!((count, found.unwrap()), (1, hex(&Sha256::digest(b"whole"))));
            let read_all = |reader: &mut dyn Read| reader.read_to_end(&mut Vec::new());
            let (read, found) = hashed(Box::new(Breaks(0)), may_block, read_all);
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            found.unwrap_err();
        }
    }
}
