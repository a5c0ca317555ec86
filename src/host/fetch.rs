//! Fetches one file over HTTP: goes on where a connection broke, as long as the server still has the same file, and ends at a
//! deadline. Holds one piece in memory. Checks no digest: whoever unpacks the file does, over all of its bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, LOCATION};
use tokio::time::Instant;

use crate::host::effects::Opening;
use crate::host::fs::{Fs, FsError, parent};
use crate::host::http::HttpAnswer;

/// A server that sends nothing for so long has hung up.
const SILENCE: Duration = Duration::from_secs(30);
/// First pause before it is asked again; doubles as long as nothing comes.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest pause.
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// From a release page to where the file is, and one or two more.
const REDIRECTS: u32 = 5;

/// Why there is no file. What came of it is removed in any case.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server will not.
    #[error("{url} is answered with {status}; correct artifacts.source, or put the release there")]
    Refused {
        /// Where it was asked for.
        url: String,
        /// The code.
        status: u16,
    },
    /// Larger than any artifact.
    #[error("{url} is larger than {limit} bytes; name an artifact of the release in artifacts.source")]
    TooBig {
        /// Where it was asked for.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// A redirect that leads nowhere, or out of HTTPS.
    #[error("{url} leads to {to}; name the file itself in artifacts.source")]
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

/// Fetches `url` to the file `dest`, which is on disk when this returns. Gives the number of bytes.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(
    fs: &Fs,
    url: &str,
    dest: &Path,
    limit: u64,
    deadline: Instant,
) -> Result<u64, FetchError> {
    fs.create_dir_sync(parent(dest))?;
    fs.remove_if_there(dest).map_err(FsError::on("remove", dest))?;
    let mut download = Download {
        fs,
        url: url.to_owned(),
        dest: dest.to_path_buf(),
        limit,
        got: 0,
        total: None,
        same: None,
    };
    let fetched = download.run(deadline).await;
    if fetched.is_err() {
        fs.remove_if_there(dest).map_err(FsError::on("remove", dest))?;
    }
    fetched
}

struct Download<'a> {
    fs: &'a Fs,
    url: String,
    dest: PathBuf,
    limit: u64,
    got: u64,
    /// As the server says.
    total: Option<u64>,
    /// What tells that it is still the same file: its entity tag, or when it was changed.
    same: Option<String>,
}

/// How one answer ended.
enum Piece {
    Whole,
    Broken(String),
}

impl Download<'_> {
    async fn run(&mut self, deadline: Instant) -> Result<u64, FetchError> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let before = self.got;
            let last = match tokio::time::timeout_at(deadline, self.attempt()).await {
                Ok(Ok(Piece::Whole)) => {
                    self.fs.settle(&self.dest)?;
                    return Ok(self.got);
                }
                Ok(Ok(Piece::Broken(why))) => why,
                Ok(Err(error)) => return Err(error),
                Err(_) => "the time was over".to_owned(),
            };
            if self.got > before {
                backoff = FIRST_BACKOFF;
            }
            if Instant::now() + backoff >= deadline {
                return Err(FetchError::TooLate { url: self.url.clone(), got: self.got, last });
            }
            tracing::debug!(url = self.url, got = self.got, last, "the download goes on after a pause");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    async fn attempt(&mut self) -> Result<Piece, FetchError> {
        let mut url = self.url.clone();
        for _ in 0..=REDIRECTS {
            let answer = match self.fs.effects().http_open(&url, &self.asks()).await {
                Ok(answer) => answer,
                Err(error) => return Ok(Piece::Broken(error.to_string())),
            };
            match answer.status {
                200 | 206 => return self.take(answer).await,
                301 | 302 | 303 | 307 | 308 => url = self.onward(&url, &answer.headers)?,
                // The file has changed, or never was so long: from the start.
                416 => {
                    self.forget();
                    return Ok(Piece::Broken("the server has no such range".to_owned()));
                }
                408 | 425 | 429 | 500..=599 => {
                    return Ok(Piece::Broken(format!("the server answers {}", answer.status)));
                }
                status => return Err(FetchError::Refused { url, status }),
            }
        }
        Err(FetchError::Redirect { url: self.url.clone(), to: url })
    }

    /// The headers that ask for the rest, if the file is still the same.
    fn asks(&self) -> Vec<(&'static str, String)> {
        let mut asks = vec![("accept-encoding", "identity".to_owned())];
        if let (Some(same), true) = (&self.same, self.got > 0) {
            asks.push(("range", format!("bytes={}-", self.got)));
            asks.push(("if-range", same.clone()));
        }
        asks
    }

    fn onward(&self, from: &str, headers: &HeaderMap) -> Result<String, FetchError> {
        let to = text(headers, LOCATION.as_str()).unwrap_or_default();
        let nowhere = || FetchError::Redirect { url: self.url.clone(), to: to.clone() };
        let here: http::Uri = from.parse().map_err(|_| nowhere())?;
        let onward = match (here.scheme_str(), here.authority()) {
            (Some(scheme), Some(authority)) if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
            _ => to.clone(),
        };
        let is_safe =
            onward.starts_with("https://") || (onward.starts_with("http://") && from.starts_with("http://"));
        if is_safe { Ok(onward) } else { Err(nowhere()) }
    }

    fn forget(&mut self) {
        (self.got, self.total, self.same) = (0, None, None);
    }

    async fn take(&mut self, answer: HttpAnswer) -> Result<Piece, FetchError> {
        let HttpAnswer { status, headers, mut body } = answer;
        if status == 206 {
            let range = text(&headers, CONTENT_RANGE.as_str()).unwrap_or_default();
            if !range.starts_with(&format!("bytes {}-", self.got)) {
                self.forget();
                return Ok(Piece::Broken(format!("the server sends another range: {range}")));
            }
        } else {
            self.forget();
            self.total = text(&headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
            // A weak tag says nothing about bytes.
            let tag = text(&headers, ETAG.as_str()).filter(|tag| !tag.starts_with("W/"));
            self.same = tag.or_else(|| text(&headers, LAST_MODIFIED.as_str()));
        }
        let too_big = || FetchError::TooBig { url: self.url.clone(), limit: self.limit };
        if self.total.is_some_and(|total| total > self.limit) {
            return Err(too_big());
        }
        let on = |action: &'static str| FsError::on(action, &self.dest);
        let mut file = self.fs.effects().create(&self.dest, Opening::Append, 0o600).map_err(on("create"))?;
        file.set_length(self.got).map_err(on("cut"))?;
        loop {
            let piece = match tokio::time::timeout(SILENCE, body.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Ok(Piece::Broken(error.to_string())),
                Ok(None) => break,
                Err(_) => return Ok(Piece::Broken(format!("nothing came for {} s", SILENCE.as_secs()))),
            };
            if self.got + piece.len() as u64 > self.limit {
                return Err(too_big());
            }
            // A piece is some kilobytes into the page cache; a whole disk is asked once, at the end.
            file.write_all(&piece).map_err(on("write"))?;
            self.got += piece.len() as u64;
        }
        Ok(match self.total {
            Some(total) if total != self.got => {
                Piece::Broken(format!("it ended after {} of {total} bytes", self.got))
            }
            Some(_) | None => Piece::Whole,
        })
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
#[path = "fetch_tests.rs"]
mod tests;
