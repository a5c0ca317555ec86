//! The beginning of a watch: from which version, with what first, and how it is to end.

use tokio::sync::mpsc::unbounded_channel;

use super::route::{Answer, Request};
use super::selector::Selector;
use super::status::Status;
use super::store::{Place, Store};
use super::subscription::{Event, Subscription};
use super::watchers::Interest;

/// How a watch begins and ends.
#[derive(Debug)]
pub(super) struct WatchEnd {
    pub(super) seconds: Option<u64>,
    pub(super) bookmarks: bool,
    /// Events before the bookmark that ends the initial ones, with that bookmark's version.
    pub(super) initial: Option<(usize, u64)>,
    pub(super) kind: String,
    pub(super) api_version: String,
    /// Version of the last thing that was sent.
    pub(super) version: u64,
}

impl Store {
    /// Begins a watch of a kind, of one object when `name` is given.
    pub(super) fn watch(
        &mut self,
        request: &Request<'_>,
        place: Place,
        namespace: &str,
        name: Option<&str>,
    ) -> Result<Answer, Status> {
        let (kind, query) = (self.kind(place)?, &request.query);
        let selector = Selector::parse(&kind, query.get("labelSelector"), query.get("fieldSelector"))?;
        let selector = name.map_or(selector.clone(), |name| selector.with_name(name));
        let interest = Interest { namespace: namespace.to_owned(), selector };
        let initial = query.is_set("sendInitialEvents");
        if initial && query.get("resourceVersionMatch") != "NotOlderThan" {
            let message = "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Status::new(422, "Invalid", message));
        }
        let from = self.version_of(query.get("resourceVersion"))?;
        let (sink, events) = unbounded_channel();
        let mut end = WatchEnd {
            seconds: query.number("timeoutSeconds")?.filter(|seconds| *seconds > 0),
            bookmarks: query.is_set("allowWatchBookmarks"),
            initial: None,
            kind: kind.kind.to_string(),
            api_version: kind.api_version().to_owned(),
            version: self.version,
        };
        let mut subscription = Subscription::new(events);
        if from == 0 || initial {
            let all = self.select(place, &interest);
            let count = all.len();
            for (_, entry) in all {
                subscription.first(Event::Added(entry.object.clone()));
            }
            if initial {
                end.initial = Some((count, self.version));
            }
        } else {
            let Some(collection) = self.collection(place) else {
                return Err(Status::no_such_path());
            };
            let forgotten = self.history.forgotten(place);
            if from < forgotten {
                let message = format!("too old resource version: {from} ({forgotten})");
                subscription.close_with(Status::expired(message));
                return Ok(Answer::Watch(subscription, end));
            }
            for change in self.history.since(place, from, collection) {
                interest.view(&change, None).into_iter().for_each(|event| subscription.first(event));
            }
        }
        self.watchers.entry(place).or_default().add(interest, sink);
        Ok(Answer::Watch(subscription, end))
    }
}
