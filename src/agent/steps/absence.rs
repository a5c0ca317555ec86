//! How long no API server has answered while something was waited for. That time says nothing about this node: within reason it
//! does not count against it. Asks and adds up; whose fault anything is, is `rollback`'s.

use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::run::Run;
use crate::agent::steps::rollback::api_answers;

/// How much longer than a restart may take the cluster is waited for while its API server does not answer.
pub(super) const API_AWAY: Duration = Duration::from_mins(30);
/// RKE2 itself waits so long for an API server and etcd's quorum, then ends and is started again (reference
/// `rke2-and-rancher.md` §2.4, §9.2).
pub(super) const RKE2_BEARS: Duration = Duration::from_mins(15);
/// The only server of a cluster waits for its own API server, and has most of its time for that already.
const OWN_API_AWAY: Duration = Duration::from_mins(5);
/// The API server is asked this often.
const LOOK_AGAIN: Duration = Duration::from_mins(1);

/// The time without an API server, added up.
pub(super) struct Absence {
    most: Duration,
    away: Duration,
    last: Instant,
}

impl Absence {
    /// None so far, on the machine of this run.
    pub(super) fn none_yet(run: &Run) -> Self {
        Self::up_to(if run.journal.progress().is_only_server() { OWN_API_AWAY } else { API_AWAY })
    }

    fn up_to(most: Duration) -> Self {
        Self { most, away: Duration::ZERO, last: Instant::now() }
    }

    /// It is, or is not, away now; the time since the last look counts as this one.
    pub(super) fn saw(&mut self, is_away: bool) {
        let since = self.last.elapsed();
        self.last += since;
        if is_away {
            self.away += since;
        }
    }

    /// So much longer may be waited.
    pub(super) fn allowed(&self) -> Duration {
        self.away.min(self.most)
    }

    /// It was away for longer than anybody waits: whoever needs it has not had its time.
    pub(super) fn is_too_long(&self) -> bool {
        self.away > self.most
    }

    /// Does this, and looks meanwhile.
    pub(super) async fn during<T>(&mut self, run: &Run, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            let look = async {
                tokio::time::sleep(LOOK_AGAIN).await;
                api_answers(run).await.is_err()
            };
            tokio::select! {
                biased;
                done = &mut work => return done,
                // Cancel-safe: it only looks.
                is_away = look => self.saw(is_away),
            }
        }
    }

    /// Asks now.
    pub(super) async fn look(&mut self, run: &Run) {
        let is_away = api_answers(run).await.is_err();
        self.saw(is_away);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_time_without_an_api_server_is_allowed_and_not_for_ever() {
        let mut absence = Absence::up_to(API_AWAY);
        for (minutes, is_away, allowed, is_too_long) in [
            (5, false, 0, false),
            (10, true, 10, false),
            (10, false, 10, false),
            (20, true, 30, false),
            (1, true, 30, true),
        ] {
            tokio::time::sleep(Duration::from_mins(minutes)).await;
            absence.saw(is_away);
            assert_eq!(
                (absence.allowed(), absence.is_too_long()),
                (Duration::from_mins(allowed), is_too_long)
            );
        }
    }
}
