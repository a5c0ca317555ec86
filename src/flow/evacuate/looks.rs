//! How often the other nodes are looked at, and how long what was seen is good for: few requests, however long it lasts.

use jiff::{SignedDuration, Timestamp};

use super::of_vm::OfVm;
use super::{Look, Target};

/// Between two looks at the other nodes, at first; the longer the wait, the longer the pauses.
const LOOK: SignedDuration = SignedDuration::from_secs(12);
/// The longest of these pauses.
const LONGEST_LOOK: SignedDuration = SignedDuration::from_mins(2);
/// What was seen of the other nodes is good enough for a first attempt so long; longer, the longer it takes altogether.
const FRESH: SignedDuration = SignedDuration::from_mins(1);
/// The longest time for that.
const LONGEST_FRESH: SignedDuration = SignedDuration::from_mins(5);

/// What is known about a VM's target, and how new that is.
pub(super) enum Known<'a> {
    Target(&'a Target),
    Look,
    NotBefore(Timestamp),
}

impl Look<'_> {
    /// What the last look says, if that is new enough to act on.
    pub(super) fn known(&self, of_vm: OfVm<'_>, last: Option<Timestamp>) -> Known<'_> {
        let Some(looked) = self.seen.looked else { return Known::Look };
        let target = self.seen.targets.get(of_vm.vm);
        let waited = of_vm.awaited().map(|awaited| self.now.duration_since(awaited.since));
        let (floor, pace) = (self.between_looks(None), self.between_looks(waited));
        let fresh = (self.now.duration_since(self.begun) / 4).clamp(FRESH, LONGEST_FRESH);
        // What was seen before the last attempt does not say why that one failed.
        let is_old = last.is_some_and(|last| looked <= last);
        let good_for = match target {
            Some(Target::None { .. }) if !is_old => pace,
            Some(Target::Open { .. } | Target::Unknown) if !is_old => fresh,
            Some(_) | None => SignedDuration::ZERO,
        };
        match target {
            Some(target) if self.now < looked + good_for => Known::Target(target),
            _ if self.now >= looked + floor => Known::Look,
            Some(target) if !is_old => Known::Target(target),
            _ => Known::NotBefore(looked + floor),
        }
    }

    /// The pause between two looks for one that has waited so long: the API server is there for others, too.
    pub(super) fn between_looks(&self, waited: Option<SignedDuration>) -> SignedDuration {
        let read = SignedDuration::from_secs(i64::from(self.seen.nodes_read));
        (waited.unwrap_or_default() / 4).max(read).clamp(LOOK, LONGEST_LOOK)
    }
}
