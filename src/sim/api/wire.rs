//! A watch as HTTP carries it: one JSON line per event, pieced together from the objects' own texts.

use std::sync::Weak;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tower::BoxError;

use super::Shared;
use super::subscription::{Event, Subscription};
use super::watch::WatchEnd;

/// How much is sent at once.
const PIECE: usize = 64 * 1024;

struct Lines {
    events: Subscription,
    end: WatchEnd,
    server: Weak<Shared>,
    deadline: Option<Instant>,
    sent: usize,
    over: bool,
}

/// The pieces of a watch's answer.
pub(super) fn lines(
    events: Subscription,
    end: WatchEnd,
    server: Weak<Shared>,
) -> BoxStream<'static, Result<Bytes, BoxError>> {
    let deadline = end.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let lines = Lines { events, end, server, deadline, sent: 0, over: false };
    stream::unfold(lines, async |mut lines| lines.next().await.map(|piece| (Ok(piece), lines))).boxed()
}

impl Lines {
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if let Some(refusal) = self.events.refusal.take() {
            self.over = true;
            return Some(Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", refusal.json())));
        }
        let mut piece = BytesMut::new();
        self.end_initial(&mut piece);
        while piece.len() < PIECE
            && let Some(event) = self.events.try_next()
        {
            self.write(&mut piece, &event);
        }
        if !piece.is_empty() {
            return Some(piece.freeze());
        }
        let deadline = self.deadline;
        let timeout = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // `next` of a stream loses nothing when it is dropped.
            event = self.events.next() => {
                let event = event?;
                self.write(&mut piece, &event);
                while piece.len() < PIECE
                    && let Some(event) = self.events.try_next()
                {
                    self.write(&mut piece, &event);
                }
                Some(piece.freeze())
            }
            () = timeout => {
                self.over = true;
                if !self.end.bookmarks {
                    return None;
                }
                // Everything up to the newest version has been sent.
                let newest = self.server.upgrade().map(|server| server.version());
                self.bookmark(&mut piece, newest.unwrap_or(self.end.version), false);
                Some(piece.freeze())
            }
        }
    }

    fn write(&mut self, piece: &mut BytesMut, event: &Event) {
        let (kind, object) = match event {
            Event::Added(object) => ("ADDED", object),
            Event::Modified(object, _) => ("MODIFIED", object),
            Event::Deleted(object) => ("DELETED", object),
        };
        let text = object.text();
        piece.reserve(text.len() + 40);
        for part in [&b"{\"type\":\""[..], kind.as_bytes(), b"\",\"object\":", text, b"}\n"] {
            piece.put_slice(part);
        }
        self.sent += 1;
        self.end_initial(piece);
    }

    /// Says that the initial events are over, once they are.
    fn end_initial(&mut self, piece: &mut BytesMut) {
        if let Some((count, version)) = self.end.initial
            && self.sent >= count
        {
            self.end.initial = None;
            self.bookmark(piece, version, true);
        }
    }

    fn bookmark(&self, piece: &mut BytesMut, version: u64, initial: bool) {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial {
            super::json::map(&mut metadata)
                .insert("annotations".to_owned(), json!({"k8s.io/initial-events-end": "true"}));
        }
        let object = json!({"apiVersion": self.end.api_version, "kind": self.end.kind, "metadata": metadata});
        piece.put_slice(format!("{{\"type\":\"BOOKMARK\",\"object\":{object}}}\n").as_bytes());
    }
}
