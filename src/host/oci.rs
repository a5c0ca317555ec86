//! Takes the release out of an installer image (`system-agent-installer-rke2`): from a registry, or from an archive of images
//! on the disk. Runs nothing of it, and knows of images only what it takes to find two files in them.

mod archive;
mod layer;
mod manifest;
mod registry;

use std::path::{Path, PathBuf};

use tokio::time::Instant;

use crate::flow::place::Reference;
use crate::host::fetch::FetchError;
use crate::host::fs::{Fs, FsError};

/// What one layer may hold. The largest of an installer image is the release's tarball, about 50 MB.
const LAYER_LIMIT: u64 = 1 << 30;

/// Why nothing was taken out of an image.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// It did not come.
    #[error("image {image} did not come")]
    Fetch {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// It is none, or not for this machine.
    #[error("image {image} {why}")]
    Unfit {
        /// Which image.
        image: String,
        /// What is wrong with it, and the cure.
        why: String,
    },
    /// What it holds has another digest than it says itself.
    #[error("image {image}: {part} has digest {found}; fetch the image again")]
    Damaged {
        /// Which image.
        image: String,
        /// A layer, or a configuration.
        part: String,
        /// What it is.
        found: String,
    },
    /// The disk.
    #[error("image {image} cannot be read")]
    Io {
        /// Which image.
        image: String,
        /// Why.
        #[source]
        source: FsError,
    },
}

/// What was found in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The release's tarball, beside nothing else of the image.
    pub tarball: PathBuf,
    /// The release's file of sums: its name and content.
    pub sums: Option<(String, String)>,
}

/// The files that are looked for, by their names in the image.
#[derive(Debug, Clone)]
struct Sought {
    tarball: String,
    sums: String,
    /// Where they go.
    folder: PathBuf,
}

/// Takes the release for `arch` (`amd64`, `arm64`) out of an image of a registry. `folder` gets what comes of it.
///
/// # Errors
/// See [`OciError`]; whoever made the folder removes it.
pub async fn pull(
    fs: &Fs,
    reference: &Reference,
    arch: &str,
    folder: &Path,
    deadline: Instant,
) -> Result<Found, OciError> {
    registry::Registry::new(fs, reference, folder, deadline).pull(&Sought::new(arch, folder), arch).await
}

/// Takes the release for `arch` out of an archive of images (as `docker save` writes it, or an OCI layout in a tar file; plain,
/// gzip or zstd): out of the one image in it, or the one that `image` names.
///
/// # Errors
/// See [`OciError`]; whoever made the folder removes it.
pub fn take_from_archive(
    fs: &Fs,
    file: &Path,
    image: Option<&str>,
    arch: &str,
    folder: &Path,
) -> Result<Found, OciError> {
    archive::take(fs, file, image, arch, &Sought::new(arch, folder))
}

impl Sought {
    fn new(arch: &str, folder: &Path) -> Self {
        Self {
            tarball: format!("rke2.linux-{arch}.tar.gz"),
            sums: format!("sha256sum-{arch}.txt"),
            folder: folder.to_path_buf(),
        }
    }
}
