//! One layer of an image: a tar stream in which two files are looked for by their names. Folders, links and whiteouts say
//! nothing about these.

use std::io::{self, Read};
use std::path::Path;

use crate::host::effects::Opening;
use crate::host::fs::{Fs, FsError};
use crate::host::oci::{LAYER_LIMIT, Sought};
use crate::host::tar_stream::{Kind, WalkError, walk};
use crate::host::unpack::copy_all;

/// Read at once.
const PIECE: usize = 256 << 10;
/// No file of sums is longer.
const SUMS_LIMIT: u64 = 1 << 20;

/// What a layer has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// The tarball; it is in the folder then.
    pub has_tarball: bool,
    /// The content of the file of sums.
    pub sums: Option<String>,
}

/// Why a layer was not read to its end.
#[derive(Debug)]
pub(super) enum LayerError {
    /// It is torn, too big, or no layer.
    Unfit(String),
    /// The disk.
    Io(FsError),
}

/// A thread that died at work on the disk.
impl From<io::Error> for LayerError {
    fn from(error: io::Error) -> Self {
        Self::Io(FsError::on("read", Path::new("the layer"))(error))
    }
}

/// Takes the files out of the layer's plain tar stream. A tarball of another layer is replaced.
pub(super) fn take(fs: &Fs, plain: &mut dyn Read, sought: &Sought) -> Result<Taken, LayerError> {
    let mut taken = Taken::default();
    let dest = sought.folder.join(&sought.tarball);
    let walked = walk(plain, LAYER_LIMIT, PIECE, |entry, content| {
        let name = entry.name.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !matches!(entry.kind, Kind::File { .. }) {
            return Ok(());
        }
        if name == sought.tarball {
            copy(fs, content, &dest)?;
            taken.has_tarball = true;
        } else if name == sought.sums {
            if entry.size > SUMS_LIMIT {
                return Err(LayerError::Unfit(format!(
                    "has a {name} of {} bytes; use another image",
                    entry.size
                )));
            }
            let mut text = String::new();
            content.read_to_string(&mut text).map_err(|error| torn(&error))?;
            taken.sums = Some(text);
        }
        Ok(())
    });
    match walked {
        Ok(()) => Ok(taken),
        Err(WalkError::Ended(error)) => Err(error),
        Err(WalkError::TooBig) => Err(LayerError::Unfit(format!(
            "has a layer of more than {LAYER_LIMIT} bytes; use an installer image of RKE2"
        ))),
        Err(WalkError::Damaged(error)) => Err(torn(&error)),
    }
}

fn torn(error: &io::Error) -> LayerError {
    LayerError::Unfit(format!("has a layer that cannot be read ({error}); fetch the image again"))
}

fn copy(fs: &Fs, content: &mut dyn Read, dest: &Path) -> Result<(), LayerError> {
    let on = |action| move |error| LayerError::Io(FsError::on(action, dest)(error));
    fs.remove_if_there(dest).map_err(on("remove"))?;
    let mut file = fs.effects().create(dest, Opening::New, 0o600).map_err(on("create"))?;
    let mut broken = Watched { content, error: None };
    let copied = copy_all(&mut broken, &mut *file, PIECE);
    match (copied, broken.error) {
        (Ok(_), _) => Ok(()),
        (Err(_), Some(error)) => Err(torn(&error)),
        (Err(error), None) => Err(on("write")(error)),
    }
}

/// Tells a stream that breaks from a disk that is full.
struct Watched<'a> {
    content: &'a mut dyn Read,
    error: Option<io::Error>,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer).inspect_err(|error| {
            self.error = Some(io::Error::new(error.kind(), error.to_string()));
        })
    }
}
