//! Fetches one file over HTTP: goes on where a connection or a life of the agent ended, as long as the server still has the
//! same file, and ends at a deadline. Holds one piece in memory and hashes it as it comes: what is wrong is known at its
//! last byte.

mod error;
mod kept;

use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, LOCATION, WWW_AUTHENTICATE};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::host::effects::Opening;
use crate::host::fs::{Fs, FsError, hex, parent};
use crate::host::http::HttpAnswer;
pub use error::FetchError;
use kept::Origin;

/// A server that sends nothing for so long has hung up.
const SILENCE: Duration = Duration::from_secs(30);
/// First pause before it is asked again; doubles as long as nothing comes.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_BACKOFF: Duration = Duration::from_secs(20);
/// From a release page to where the file is, and one or two more.
const REDIRECTS: u32 = 5;

/// What is to be fetched.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where it is.
    pub url: &'a str,
    /// What is sent along, to this server only.
    pub headers: &'a [(&'static str, String)],
    /// Its digest in hex, where somebody knows it.
    pub sha256: Option<&'a str>,
    /// The most bytes that it may have.
    pub limit: u64,
    /// Bytes that must stay free on the disk.
    pub spare: u64,
}

impl<'a> Wanted<'a> {
    /// A file of a known digest.
    #[must_use]
    pub fn new(url: &'a str, sha256: &'a str, limit: u64) -> Self {
        Self { url, headers: &[], sha256: Some(sha256), limit, spare: 0 }
    }
}

/// Fetches to the file `dest`, which is on disk and has the digest when this returns; gives its length. What an earlier life
/// has fetched of it is not fetched again. After an error nothing of it is left, but for an answer of 401: whoever gets
/// leave goes on from there.
///
/// # Errors
/// See [`FetchError`].
pub async fn fetch(fs: &Fs, wanted: &Wanted<'_>, dest: &Path, deadline: Instant) -> Result<u64, FetchError> {
    fs.create_dir_sync(parent(dest))?;
    let (file, url) = (dest.to_path_buf(), wanted.url.to_owned());
    let kept = fs.blocking(move |fs| kept::kept(fs, &file, &url).map_err(FetchError::from)).await?;
    let mut download = Download::new(fs, *wanted, dest, kept);
    let fetched = download.run(deadline).await;
    match &fetched {
        Err(FetchError::Refused { status: 401, .. }) => return fetched,
        Err(_) => drop(fs.remove_opt(dest)?),
        Ok(_) => {}
    }
    fs.remove_opt(&kept::beside(dest))?;
    fetched
}

struct Download<'a> {
    fs: &'a Fs,
    wanted: Wanted<'a>,
    dest: &'a Path,
    hash: Sha256,
    got: u64,
    /// As the server says.
    total: Option<u64>,
    /// What tells that it is still the same file: its entity tag, or when it was changed.
    same: Option<String>,
    /// An earlier life has fetched some of it: what a power cut left of that is not known.
    is_inherited: bool,
    /// What the last answer that told no length came to.
    unmeasured: Option<String>,
}

/// How one answer ended.
enum Piece {
    Whole,
    Broken(String),
}

impl<'a> Download<'a> {
    fn new(fs: &'a Fs, wanted: Wanted<'a>, dest: &'a Path, kept: Option<(Origin, u64, Sha256)>) -> Self {
        let is_inherited = kept.is_some();
        let (hash, got, total, same) = match kept {
            Some((origin, got, hash)) => (hash, got, origin.total, Some(origin.same)),
            None => (Sha256::new(), 0, None, None),
        };
        Self { fs, wanted, dest, hash, got, total, same, is_inherited, unmeasured: None }
    }

    async fn run(&mut self, deadline: Instant) -> Result<u64, FetchError> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let before = self.got;
            let last = match self.piece(deadline).await? {
                Piece::Whole if self.is_right() => {
                    self.fs.settle(self.dest)?;
                    return Ok(self.got);
                }
                Piece::Whole if self.is_inherited => {
                    self.forget();
                    "what an earlier start had fetched was damaged".to_owned()
                }
                Piece::Whole if self.may_be_cut() => {
                    let got = self.got;
                    self.forget();
                    format!("it ended after {got} bytes, and the server does not say how many there are")
                }
                Piece::Whole => return Err(self.wrong()),
                Piece::Broken(why) => why,
            };
            if self.got > before {
                backoff = FIRST_BACKOFF;
            }
            let url = self.wanted.url;
            if Instant::now() + backoff >= deadline {
                return Err(FetchError::TooLate { url: url.to_owned(), got: self.got, last });
            }
            tracing::debug!(url, got = self.got, last, "the download goes on after a pause");
            tokio::time::sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    /// Bytes that have the digest are the file, whatever the server says about their number.
    async fn piece(&mut self, deadline: Instant) -> Result<Piece, FetchError> {
        if self.got > 0 && self.wanted.sha256.is_some() && self.is_right() {
            return Ok(Piece::Whole);
        }
        let piece = match tokio::time::timeout_at(deadline, self.attempt()).await {
            Ok(piece) => piece?,
            Err(_) => Piece::Broken("the time was over".to_owned()),
        };
        let is_whole = self.wanted.sha256.is_some() && self.is_right();
        Ok(if is_whole { Piece::Whole } else { piece })
    }

    fn found(&self) -> String {
        hex(&self.hash.clone().finalize())
    }

    fn is_right(&self) -> bool {
        self.wanted.sha256.is_none_or(|wanted| wanted.eq_ignore_ascii_case(&self.found()))
    }

    /// An answer without a length ends like one whose connection broke. One that ends the same way twice is what the server has.
    fn may_be_cut(&mut self) -> bool {
        let found = self.found();
        self.total.is_none() && self.unmeasured.replace(found.clone()) != Some(found)
    }

    fn wrong(&self) -> FetchError {
        let expected = self.wanted.sha256.unwrap_or_default().to_owned();
        FetchError::WrongDigest {
            url: self.wanted.url.to_owned(),
            found: self.found(),
            expected,
            bytes: self.got,
        }
    }

    async fn attempt(&mut self) -> Result<Piece, FetchError> {
        let mut url = self.wanted.url.to_owned();
        for _ in 0..=REDIRECTS {
            let answer = match self.fs.effects().http_open(&url, &self.asks(&url)).await {
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
                status => {
                    let challenge = text(&answer.headers, WWW_AUTHENTICATE.as_str()).unwrap_or_default();
                    return Err(FetchError::Refused { url, status, challenge });
                }
            }
        }
        Err(FetchError::Redirect { url: self.wanted.url.to_owned(), to: url })
    }

    /// The headers that ask for the rest, if the file is still the same. What opens one server is shown to no other.
    fn asks(&self, url: &str) -> Vec<(&'static str, String)> {
        let mut asks = vec![("accept-encoding", "identity".to_owned())];
        if server_of(url).is_some() && server_of(url) == server_of(self.wanted.url) {
            asks.extend_from_slice(self.wanted.headers);
        }
        if let (Some(same), true) = (&self.same, self.got > 0) {
            asks.push(("range", format!("bytes={}-", self.got)));
            asks.push(("if-range", same.clone()));
        }
        asks
    }

    fn onward(&self, from: &str, headers: &HeaderMap) -> Result<String, FetchError> {
        let to = text(headers, LOCATION.as_str()).unwrap_or_default();
        let onward = match server_of(from) {
            Some((scheme, _)) if to.starts_with("//") => format!("{scheme}:{to}"),
            Some((scheme, authority)) if to.starts_with('/') => format!("{scheme}://{authority}{to}"),
            Some(_) | None => to.clone(),
        };
        let is_safe =
            onward.starts_with("https://") || (onward.starts_with("http://") && from.starts_with("http://"));
        if is_safe { Ok(onward) } else { Err(FetchError::Redirect { url: self.wanted.url.to_owned(), to }) }
    }

    fn forget(&mut self) {
        (self.got, self.total, self.same, self.is_inherited) = (0, None, None, false);
        self.hash.reset();
    }

    async fn take(&mut self, answer: HttpAnswer) -> Result<Piece, FetchError> {
        let HttpAnswer { status, headers, mut body } = answer;
        if status == 206 {
            let range = text(&headers, CONTENT_RANGE.as_str()).unwrap_or_default();
            let total = range.rsplit('/').next().and_then(|total| total.parse().ok());
            let is_same_file = self.total.is_none() || total.is_none() || self.total == total;
            if !range.starts_with(&format!("bytes {}-", self.got)) || !is_same_file {
                self.forget();
                return Ok(Piece::Broken(format!("the server sends another range: {range}")));
            }
            self.total = self.total.or(total);
        } else {
            self.forget();
            self.total = text(&headers, CONTENT_LENGTH.as_str()).and_then(|length| length.parse().ok());
            // A weak tag says nothing about bytes.
            let tag = text(&headers, ETAG.as_str()).filter(|tag| !tag.starts_with("W/"));
            self.same = tag.or_else(|| text(&headers, LAST_MODIFIED.as_str()));
        }
        self.check_room()?;
        let on = |action: &'static str| FsError::on(action, self.dest);
        let mut file = self.fs.effects().create(self.dest, Opening::Append, 0o600).map_err(on("create"))?;
        file.set_length(self.got).map_err(on("cut"))?;
        self.write_down()?;
        loop {
            let piece = match tokio::time::timeout(SILENCE, body.next()).await {
                Ok(Some(Ok(piece))) => piece,
                Ok(Some(Err(error))) => return Ok(Piece::Broken(error.to_string())),
                Ok(None) => break,
                Err(_) => return Ok(Piece::Broken(format!("nothing came for {} s", SILENCE.as_secs()))),
            };
            if self.got + piece.len() as u64 > self.wanted.limit {
                return Err(self.too_big());
            }
            // A piece is some kilobytes into the page cache; a whole disk is asked once, at the end.
            file.write_all(&piece).map_err(on("write"))?;
            self.hash.update(&piece);
            self.got += piece.len() as u64;
        }
        Ok(match self.total {
            Some(total) if total != self.got => {
                Piece::Broken(format!("it ended after {} of {total} bytes", self.got))
            }
            Some(_) | None => Piece::Whole,
        })
    }

    fn too_big(&self) -> FetchError {
        FetchError::TooBig { url: self.wanted.url.to_owned(), limit: self.wanted.limit }
    }

    fn check_room(&self) -> Result<(), FetchError> {
        let Some(total) = self.total else { return Ok(()) };
        if total > self.wanted.limit {
            return Err(self.too_big());
        }
        let (free, spare) = (self.fs.free_bytes(parent(self.dest))?, self.wanted.spare);
        let bytes = total.saturating_sub(self.got);
        if bytes.saturating_add(spare) > free {
            return Err(FetchError::NoRoom { url: self.wanted.url.to_owned(), bytes, free, spare });
        }
        Ok(())
    }

    /// For the next life: whose bytes are about to come.
    fn write_down(&self) -> Result<(), FsError> {
        let side = kept::beside(self.dest);
        let Some(same) = self.same.clone() else {
            return self.fs.remove_if_there(&side).map(drop).map_err(FsError::on("remove", &side));
        };
        if self.got > 0 {
            return Ok(());
        }
        kept::keep(self.fs, self.dest, &Origin { url: self.wanted.url.to_owned(), same, total: self.total })
    }
}

fn server_of(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme, rest.split(['/', '?', '#']).next()?))
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests;
