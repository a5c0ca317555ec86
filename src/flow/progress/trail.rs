//! What the records about one VM add to its trail in the ledger; its fate is `law`'s.

use jiff::Timestamp;

use crate::flow::record::{Entry, Record};
use crate::flow::vms::{Abort, Awaited, Cut, Fate, VmKey, VmLedger};

/// One lawful record about a VM; its fate is still the one before it.
pub(super) fn follow(ledger: &mut VmLedger, vm: &VmKey, entry: &Entry) {
    if let Record::TargetAwaited { why, .. } = &entry.record {
        ledger.trail_mut(vm).awaited = Some(Awaited { since: entry.at, why: why.clone() });
    } else if let Record::MigrationIntent { .. } = &entry.record {
        let trail = ledger.trail_mut(vm);
        (trail.awaited, trail.abort) = (None, None);
    } else if let Record::AbortIntent { migration, uid, ours, why, .. } = &entry.record {
        let trail = ledger.trail_mut(vm);
        trail.foreign_abort |= !ours;
        let before = trail.abort.take().filter(|abort| abort.migration == *migration && abort.uid == *uid);
        trail.abort = Some(Abort {
            migration: migration.clone(),
            uid: uid.clone(),
            ours: *ours,
            why: why.clone(),
            since: before.map_or(entry.at, |abort| abort.since),
            asked: entry.at,
        });
    } else if let Record::VmStopped { graceful: Some(false), .. } = &entry.record {
        let Some(line) = ledger.line(vm) else { return };
        let Fate::Stopping { since, forced, .. } = line.fate else { return };
        let cut = Cut::of(forced, since, entry.at, line.entry.grace_seconds);
        ledger.trail_mut(vm).cut = Some(cut);
    }
}

/// An operator has done something: whoever has not left yet gets all of its time and tries again.
pub(super) fn begin_anew(ledger: &mut VmLedger, at: Timestamp) {
    let here: Vec<VmKey> = ledger.on_node().map(|line| line.entry.vm.clone()).collect();
    for vm in here {
        let trail = ledger.trail_mut(&vm);
        (trail.since, trail.awaited) = (Some(at), None);
        let Some(line) = ledger.line_mut(&vm) else { continue };
        match &mut line.fate {
            // No migration of ours outlives a hold; one that did all the same is followed like anybody's.
            Fate::Migrating { .. } => line.fate = Fate::Here,
            Fate::Stopping { since, asks, .. } => (*since, *asks) = (at, 1),
            Fate::Here
            | Fate::Migrated { .. }
            | Fate::ShutDown { .. }
            | Fate::Left { .. }
            | Fate::Restoring { .. }
            | Fate::Restored { .. }
            | Fate::Struck { .. } => {}
        }
    }
}
