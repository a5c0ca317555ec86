//! From a stream to the entries of a tar archive, plain or in gzip or zstd, in bounded memory whatever the archive says.
//! Writes nothing and judges no name.

use std::cell::Cell;
use std::io::{self, BufReader, Cursor, Read};
use std::path::PathBuf;

/// The window that RKE2's own archives need, and the largest that RKE2 takes: 32 MiB (reference `rke2-and-rancher.md` §1.1).
pub(in crate::host) const WINDOW_LOG: u32 = 25;
/// An entry costs at least this much of the limit: a file without content takes an inode, time, and memory for its name as well. A
/// release has some dozens.
const ENTRY_COST: u64 = 32 << 10;
/// Long names and extended headers before an entry, which are read into memory.
const HEADERS: u64 = 1 << 20;

/// One entry.
#[derive(Debug)]
pub(in crate::host) struct Entry {
    /// Its name, as it stands there.
    pub name: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Bytes of its content.
    pub size: u64,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) enum Kind {
    /// A plain file.
    File {
        /// May anybody run it?
        executable: bool,
    },
    /// A directory.
    Directory,
    /// A link, a device, or something else.
    Other,
}

/// Why an archive was not read to its end.
#[derive(Debug)]
pub(in crate::host) enum WalkError<E> {
    /// It holds more than the limit.
    TooBig,
    /// It is torn, or no archive.
    Damaged(io::Error),
    /// Whoever looked at its entries ended it.
    Ended(E),
}

/// What `packed` is inside: gunzipped or decompressed when its first bytes say so.
pub(in crate::host) fn plain<'a>(packed: &'a mut (dyn Read + 'a)) -> io::Result<Box<dyn Read + 'a>> {
    let mut head = Vec::new();
    packed.take(4).read_to_end(&mut head)?;
    let whole = Cursor::new(head.clone()).chain(packed);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let mut decoder = zstd::stream::read::Decoder::new(whole)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

/// Shows each entry of a plain tar stream to `look`, until that fails. `limit` is for the content of all entries together;
/// `buffer` bytes are read at once.
pub(in crate::host) fn walk<E>(
    plain: &mut dyn Read,
    limit: u64,
    buffer: usize,
    mut look: impl FnMut(&Entry, &mut dyn Read) -> Result<(), E>,
) -> Result<(), WalkError<E>> {
    let left = Cell::new(HEADERS);
    let leash = Leash { inner: BufReader::with_capacity(buffer, plain), left: &left };
    let mut archive = tar::Archive::new(leash);
    let mut cost = 0_u64;
    for entry in archive.entries().map_err(WalkError::Damaged)? {
        let mut entry = entry.map_err(WalkError::Damaged)?;
        let size = entry.size();
        cost = cost.saturating_add(size).saturating_add(ENTRY_COST);
        if cost > limit {
            return Err(WalkError::TooBig);
        }
        left.set(size.saturating_add(HEADERS));
        let kind = entry.header().entry_type();
        if kind == tar::EntryType::XGlobalHeader {
            continue;
        }
        // An empty field is none; what then cannot be executed is found out when it is.
        let mode = entry.header().mode().unwrap_or(0);
        let kind = if kind == tar::EntryType::Directory {
            Kind::Directory
        } else if kind == tar::EntryType::Regular {
            Kind::File { executable: mode & 0o111 != 0 }
        } else {
            Kind::Other
        };
        let name = entry.path().map_err(WalkError::Damaged)?.into_owned();
        look(&Entry { name, kind, size }, &mut entry).map_err(WalkError::Ended)?;
    }
    Ok(())
}

/// Gives no more than is left: the tar reader takes names of any length into memory.
struct Leash<'a, R> {
    inner: R,
    left: &'a Cell<u64>,
}

impl<R: Read> Read for Leash<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !buffer.is_empty() {
            return Err(io::Error::other(format!("a name or header is longer than {HEADERS} bytes")));
        }
        let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.inner.read(buffer.get_mut(..most).unwrap_or_default())?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn packed(window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.long_distance_matching(true).unwrap();
        // More than fits a single segment, whose window is its content.
        encoder.write_all(&vec![7; 40 << 20]).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_window_of_32_mib_is_taken_and_no_larger_one() {
        for (log, fits) in [(25, true), (26, false)] {
            let bytes = packed(log);
            let mut source = bytes.as_slice();
            let read = io::copy(&mut plain(&mut source).unwrap(), &mut io::sink());
            assert_eq!(read.is_ok_and(|count| count == 40 << 20), fits, "{log}");
        }
    }

    #[test]
    fn a_name_without_an_end_is_not_read_into_memory() {
        for kind in [tar::EntryType::GNULongName, tar::EntryType::GNULongLink, tar::EntryType::XHeader] {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(10 << 30);
            header.set_cksum();
            let mut endless = Cursor::new(header.as_bytes().to_vec()).chain(io::repeat(b'a'));
            let walked = walk::<()>(&mut endless, 16 << 30, 4096, |_, _| Ok(()));
            assert!(matches!(walked, Err(WalkError::Damaged(_))), "{kind:?}: {walked:?}");
        }
    }
}
