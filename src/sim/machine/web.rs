//! The web servers that a machine reaches: files by their addresses, with ranges and tags. They answer in small pieces, and to
//! the living only.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG};
use http::{HeaderMap, HeaderValue};

use super::SimMachine;
use super::life::Life;
use super::release::sha256;
use crate::host::http::HttpAnswer;

/// Bytes that come at once.
const PIECE: usize = 1 << 10;

impl SimMachine {
    /// Lets a server have `content` at `url`.
    pub fn serve(&self, url: &str, content: impl Into<Vec<u8>>) {
        let content: Vec<u8> = content.into();
        self.with(|state| drop(state.web.insert(url.to_owned(), Arc::new(content))));
    }
}

/// What the servers answer to a life of the agent.
pub(super) fn answer(life: &Life, url: &str, asked: &[(&'static str, String)]) -> io::Result<HttpAnswer> {
    let Some(content) = life.machine().look(|state| state.web.get(url).cloned()) else {
        return Err(io::Error::other(format!("no server that this machine reaches has {url}")));
    };
    let all = content.len();
    let tag = format!("\"{}\"", sha256(&content));
    let value = |name: &str| asked.iter().find(|(asked, _)| *asked == name).map(|(_, value)| value.as_str());
    let range = value("range").filter(|_| value("if-range").is_none_or(|known| known == tag));
    let from = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let mut headers = HeaderMap::new();
    let mut say = |name, text: String| {
        let text = HeaderValue::try_from(text).map_err(io::Error::other)?;
        headers.insert(name, text);
        Ok::<_, io::Error>(())
    };
    let status = match from {
        Some(from) if from >= all => 416,
        Some(from) => {
            say(CONTENT_RANGE, format!("bytes {from}-{}/{all}", all.saturating_sub(1)))?;
            206
        }
        None => 200,
    };
    let from = from.unwrap_or(0).min(all);
    say(CONTENT_LENGTH, (all - from).to_string())?;
    say(ETAG, tag)?;
    let life = life.clone();
    let pieces = (from..all).step_by(PIECE).map(move |at| {
        if life.is_dead() {
            return Err(super::effects::dead());
        }
        Ok(Bytes::copy_from_slice(content.get(at..all.min(at + PIECE)).unwrap_or_default()))
    });
    Ok(HttpAnswer { status, headers, body: stream::iter(pieces).boxed() })
}
