//! What happens to the watched objects, in the order in which it is told: watches with back-off from a client,
//! subscriptions from an API server in memory.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker};

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll, select_all};
use kube::Api;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::{WatchStreamExt, watcher};

use super::{Backend, Wire, without_history};
use crate::sim::api::{self, ApiServer, Subscription};
use crate::sim::object::Object;
use crate::sim::view::Kind;

/// One thing that a watch tells.
#[derive(Debug)]
pub(in crate::sim) enum Heard {
    Listing,
    Listed(Object),
    ListedAll,
    Now(Object),
    Gone(Object),
    Broken(watcher::Error),
}

/// All watches together.
pub(in crate::sim) enum Events {
    Client(SelectAll<BoxStream<'static, (Kind, Heard)>>),
    /// In the order of the kinds, so that a replay hears everything in the same order.
    Memory(Vec<(Kind, Subscription)>),
}

impl Events {
    pub(in crate::sim) fn of(wire: &Wire, kinds: &[Kind]) -> Self {
        match &wire.0 {
            Backend::Client(client) => {
                let streams = kinds.iter().map(|kind| watch(client, *kind)).collect::<Vec<_>>();
                Self::Client(select_all(streams))
            }
            Backend::Memory(server) => {
                let subscribed =
                    kinds.iter().map(|kind| (*kind, server.subscribe(kind.names().0, kind.names().2)));
                Self::Memory(subscribed.collect())
            }
        }
    }

    /// Of a server in memory: what happens from now on, and nothing of what is there.
    pub(in crate::sim) fn from_now_on(server: &ApiServer) -> Self {
        let follow = |kind: Kind| (kind, server.follow(kind.names().0, kind.names().2));
        Self::Memory(Kind::ALL.into_iter().map(follow).collect())
    }

    /// What has been told already; `None` when there is nothing now.
    pub(in crate::sim) fn told(&mut self) -> Option<(Kind, Heard)> {
        match self {
            Self::Client(all) => match all.poll_next_unpin(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(news) => news,
                Poll::Pending => None,
            },
            // As `poll` does it, without leaving word where to wake anybody.
            Self::Memory(all) => {
                let mut told = all.iter_mut();
                told.find_map(|(kind, subscription)| Some((*kind, heard(subscription.try_next()?))))
            }
        }
    }

    /// The next thing told; `None` when every watch has ended. Loses nothing when it is dropped.
    pub(in crate::sim) async fn next(&mut self) -> Option<(Kind, Heard)> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<(Kind, Heard)>> {
        match self {
            Self::Client(all) => all.poll_next_unpin(context),
            Self::Memory(all) => {
                let mut ended = true;
                for (kind, subscription) in all {
                    match subscription.poll_next_unpin(context) {
                        Poll::Ready(Some(event)) => return Poll::Ready(Some((*kind, heard(event)))),
                        Poll::Ready(None) => {}
                        Poll::Pending => ended = false,
                    }
                }
                if ended { Poll::Ready(None) } else { Poll::Pending }
            }
        }
    }
}

fn heard(event: api::Event) -> Heard {
    match event {
        api::Event::Added(object) | api::Event::Modified(object, _) => Heard::Now(object.apart()),
        api::Event::Deleted(object) => Heard::Gone(object),
    }
}

/// Watches one kind for ever, with back-off.
fn watch(client: &kube::Client, kind: Kind) -> BoxStream<'static, (Kind, Heard)> {
    let (group, name, plural) = kind.names();
    let (_, version) = kind.api_version().rsplit_once('/').unwrap_or(("", kind.api_version()));
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: kind.api_version().to_owned(),
        kind: name.to_owned(),
        plural: plural.to_owned(),
    };
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let events = watcher(api, watcher::Config::default()).default_backoff();
    let heard = |event: watcher::Result<watcher::Event<DynamicObject>>| match event {
        Ok(watcher::Event::Apply(object)) => Heard::Now(plain(object)),
        Ok(watcher::Event::Delete(object)) => Heard::Gone(plain(object)),
        Ok(watcher::Event::Init) => Heard::Listing,
        Ok(watcher::Event::InitApply(object)) => Heard::Listed(plain(object)),
        Ok(watcher::Event::InitDone) => Heard::ListedAll,
        Err(error) => Heard::Broken(error),
    };
    events.map(move |event| (kind, heard(event))).boxed()
}

fn plain(object: DynamicObject) -> Object {
    without_history(serde_json::to_value(object).unwrap_or_default())
}
