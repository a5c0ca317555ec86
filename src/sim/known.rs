//! What the simulators know of a cluster at rest before they begin in it: where every object was just made, reading all of
//! them again and finding that nothing is to be done would take longer than much of what follows.

use tokio::time::Instant;

use super::api::ApiServer;
use super::kind::Kind;
use super::object::Object;
use super::turns::WARM;
use super::view::{Key, View};
use super::wire::Events;

/// A cluster at rest, as it is known.
#[derive(Debug, Clone, Default)]
pub struct Known {
    view: View,
    noted: usize,
}

/// The same with everything that happens from a moment on.
pub struct Begun {
    pub(super) view: View,
    pub(super) events: Events,
}

impl Known {
    /// Takes in an object that is there, and at rest.
    pub(super) fn note(&mut self, kind: Kind, object: &Object) {
        // Nobody is woken: there is nothing to do at rest.
        drop(self.view.store(kind, object.clone(), Instant::now()));
        self.noted += 1;
        if self.noted > WARM {
            self.view.cool(&(kind, Key::of(object)));
        }
    }

    /// Begins where the server's objects are still those that are known: whatever is written from now on is heard.
    #[must_use]
    pub fn begin(self, server: &ApiServer) -> Begun {
        Begun { view: self.view, events: Events::from_now_on(server) }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::host::clock::Clock;
    use crate::sim::seed::{Preset, seed};

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_what_would_be_read() {
        // The last one is so large that what is known of it does not stay parsed.
        for preset in [Preset::default(), Preset::small(), Preset::sized(40, 300, 30)] {
            let now = Timestamp::UNIX_EPOCH;
            let server = ApiServer::new(Clock::from(now, Instant::now()), 1);
            let (seeded, known) = seed(&server, &preset, now).unwrap();
            let mut read = View::default();
            for kind in Kind::ALL {
                let mut told = server.subscribe(kind.names().0, kind.names().2);
                while let Some(event) = told.try_next() {
                    drop(read.store(kind, event.object().clone(), Instant::now()));
                }
                let said = |view: &View| {
                    let entries = view.all(kind).map(|(key, one)| {
                        let is = format!("{:?} {:?} {:?} {:?}", one.facts, one.filed, one.uid, one.object);
                        (key.clone(), is)
                    });
                    entries.collect::<std::collections::BTreeSet<_>>()
                };
                assert_eq!(said(&known.view), said(&read), "{kind:?}");
            }
            let loads = |view: &View| {
                view.nodes_by_load()
                    .map(|(name, _)| (name.to_owned(), format!("{:?}", view.room(name))))
                    .collect::<Vec<_>>()
            };
            assert_eq!(loads(&known.view), loads(&read));
            assert_eq!(known.view.all(Kind::Vmi).count(), seeded.vms.len());
        }
    }
}
