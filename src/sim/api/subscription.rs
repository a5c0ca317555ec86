//! Changes of one kind as objects, for simulators in the same process.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::Stream;
use tokio::sync::mpsc::UnboundedReceiver;

use super::delta::Delta;
use super::{Object, Status};

/// What a write changed of an object.
#[derive(Debug, Clone)]
pub struct Changes(pub(super) Arc<Delta>);

impl Changes {
    /// Whether nothing changed but at these paths, or below one of them.
    #[must_use]
    pub fn only_at(&self, paths: &[&[&str]]) -> bool {
        self.0.only_at(paths)
    }
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub enum Event {
    /// It is there, since now or since before.
    Added(Object),
    /// It changed since the last event about it; by what, where the write noted that.
    Modified(Object, Option<Changes>),
    /// It is gone; this was its last version.
    Deleted(Object),
}

impl Event {
    /// The object, whatever happened to it.
    #[must_use]
    pub fn object(&self) -> &Object {
        match self {
            Self::Added(object) | Self::Modified(object, _) | Self::Deleted(object) => object,
        }
    }

    /// What the write changed, where it noted that.
    #[must_use]
    pub fn changes(&self) -> Option<&Changes> {
        match self {
            Self::Modified(_, changes) => changes.as_ref(),
            Self::Added(_) | Self::Deleted(_) => None,
        }
    }
}

/// A stream of [`Event`]s in the order of the writes.
#[derive(Debug)]
pub struct Subscription {
    first: VecDeque<Event>,
    events: UnboundedReceiver<Event>,
    pub(super) refusal: Option<Status>,
}

impl Subscription {
    pub(super) fn new(events: UnboundedReceiver<Event>) -> Self {
        Self { first: VecDeque::new(), events, refusal: None }
    }

    /// An event that comes before those that are still to happen.
    pub(super) fn first(&mut self, event: Event) {
        self.first.push_back(event);
    }

    /// Nothing but this refusal is to come.
    pub(super) fn close_with(&mut self, refusal: Status) {
        self.refusal = Some(refusal);
    }

    /// The next event if it is already there.
    pub fn try_next(&mut self) -> Option<Event> {
        self.first.pop_front().or_else(|| self.events.try_recv().ok())
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        match self.first.pop_front() {
            Some(event) => Poll::Ready(Some(event)),
            None => self.events.poll_recv(context),
        }
    }
}
