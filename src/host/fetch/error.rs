//! `FetchError`: why a file did not come.

use std::io;
use std::path::Path;

use crate::host::fs::FsError;

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server will not.
    #[error("{url} is answered with {status}; correct the plan's artifacts, or put the file there")]
    Refused {
        /// Where it was asked for.
        url: String,
        /// The code.
        status: u16,
        /// How it wants to be asked (`WWW-Authenticate`).
        challenge: String,
    },
    /// It is not what the plan orders.
    #[error(
        "{url} has sha256 {found} ({bytes} bytes), {expected} was expected; correct the digest, or put the right file there"
    )]
    WrongDigest {
        /// Where it was asked for.
        url: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
        /// Its length.
        bytes: u64,
    },
    /// The disk would be full.
    #[error(
        "{url} has {bytes} bytes to come, {free} are free on its disk, {spare} must stay free; make room"
    )]
    NoRoom {
        /// Where it was asked for.
        url: String,
        /// What is still to come.
        bytes: u64,
        /// What there is.
        free: u64,
        /// What must stay.
        spare: u64,
    },
    /// Larger than any artifact.
    #[error("{url} is larger than {limit} bytes; name an artifact of the release in the plan")]
    TooBig {
        /// Where it was asked for.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// A redirect that leads nowhere, or out of HTTPS.
    #[error("{url} leads to {to}; name the file itself in the plan")]
    Redirect {
        /// Where it was asked for.
        url: String,
        /// Where it leads.
        to: String,
    },
    /// It did not come in time.
    #[error("{url} did not come in time: {got} bytes, then {last}; see whether the server is well")]
    TooLate {
        /// Where it was asked for.
        url: String,
        /// What came.
        got: u64,
        /// The last trouble.
        last: String,
    },
    /// The disk.
    #[error("the artifact cannot be written")]
    Io(#[from] FsError),
}

/// A thread that died at work on the disk.
impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        Self::Io(FsError::on("read", Path::new("what was fetched"))(error))
    }
}
