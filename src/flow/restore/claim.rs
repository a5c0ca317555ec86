//! Whose an owed VM is by now: still ours to start, or has its user started, stopped, changed or deleted it meanwhile? Then
//! it is left alone. A stop by us and one by a user look alike, so ours are marked (reference `kubevirt.md` §7).

use crate::flow::vms::LedgerLine;

/// A VM as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmNow {
    /// Its uid.
    pub uid: Option<String>,
    /// It is being deleted.
    pub deleting: bool,
    /// It carries the mark of this upgrade.
    pub marked: bool,
    /// `metadata.generation`.
    pub generation: i64,
    /// The effective run strategy.
    pub run_strategy: Option<String>,
    /// Digest of what only people change in its spec.
    pub spec: String,
    /// Harvester has halted it because its namespace has no quota left for it.
    pub short_of_quota: bool,
}

/// Its instance as it is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InstanceNow {
    /// Its uid.
    pub uid: String,
    /// None while it lives, else how its guest has ended: `true` by itself, `false` with a failure.
    pub ended: Option<bool>,
    /// It is being deleted.
    pub deleting: bool,
}

/// Whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whose {
    /// Ours to start.
    Ours,
    /// Somebody has it started, we ourselves perhaps: it only has to come up.
    Comes,
    /// The instance that was shut down is not quite gone.
    StillEnding,
    /// Ours, and it cannot be started before somebody has acted.
    Barred {
        /// What has to be done.
        why: String,
    },
    /// Its user's: nothing is owed any more.
    Taken {
        /// What its user did.
        why: String,
    },
}

/// Whose this owed VM is by now; `asked` when its start was asked for by us already.
#[must_use]
pub fn whose(line: &LedgerLine, vm: Option<&VmNow>, instance: Option<&InstanceNow>, asked: bool) -> Whose {
    let Some(vm) = vm else { return taken("it was deleted meanwhile") };
    if vm.uid != line.entry.vm_uid || vm.deleting {
        return taken("it was deleted, or deleted and made anew, meanwhile");
    }
    match instance {
        Some(old) if old.uid == line.entry.vmi_uid && (old.deleting || old.ended.is_none()) => {
            return Whose::StillEnding;
        }
        // KubeVirt keeps what has ended until the next start.
        Some(old) if old.uid == line.entry.vmi_uid => {}
        Some(new) if new.deleting || new.ended.is_none_or(|well| starts_again(vm, well)) => {
            return Whose::Comes;
        }
        Some(_) if !asked => return taken("it was started meanwhile, and has ended again"),
        Some(new) if new.ended == Some(true) => {
            return taken("it was started, and its guest has shut down by itself since");
        }
        // Started by us and ended before it was seen to run, by a power cut perhaps; KubeVirt leaves it so.
        Some(_) | None => {}
    }
    let failed_start = instance.is_some_and(|new| new.uid != line.entry.vmi_uid);
    let left = as_we_left_it(line);
    let present = vm.run_strategy.as_deref();
    if let Some(as_left) = &line.as_left {
        if as_left.marked && !vm.marked {
            return taken("our mark was taken off it meanwhile");
        }
        if as_left.spec != vm.spec {
            return taken("its spec was changed meanwhile");
        }
        // Harvester's doing after our own start, and no choice of its user.
        if vm.short_of_quota && present == Some("Halted") {
            let why =
                "Harvester has halted it because the resource quota of its namespace is used up; raise that";
            return Whose::Barred { why: why.to_owned() };
        }
        // One start writes Always, one stop Halted; whatever else writes a spec does not write it twice for nothing.
        if present == Some("Halted")
            && left == present
            && vm.generation >= as_left.generation.saturating_add(2)
        {
            return taken("it was started meanwhile, and stopped again");
        }
    }
    // Its power was cut before our stop reached it: it has run once, and KubeVirt leaves it so.
    let spent = present == Some("Once") && instance.is_some_and(|old| old.ended.is_some());
    if present == left || ((failed_start || spent) && present == line.entry.run_strategy.as_deref()) {
        return Whose::Ours;
    }
    match present {
        Some("Halted") => taken("its user halted it meanwhile"),
        // KubeVirt starts it because of the change; after a crash the change may be our own.
        strategy if runs_by_itself(strategy) => Whose::Comes,
        other => {
            let (now, was) = (other.unwrap_or("none"), left.unwrap_or("none"));
            taken(&format!("its run strategy is {now} now, and was left at {was}"))
        }
    }
}

/// The strategy that our stop has left: `KubeVirt` turns Always and Once into Halted, and leaves the others.
fn as_we_left_it(line: &LedgerLine) -> Option<&str> {
    match (&line.as_left, line.entry.run_strategy.as_deref()) {
        (Some(as_left), _) => as_left.run_strategy.as_deref(),
        (None, Some("Always" | "Once")) => Some("Halted"),
        (None, other) => other,
    }
}

/// Does `KubeVirt` start it again when its guest has ended so? (Reference `kubevirt.md` §3 and §8.)
fn starts_again(vm: &VmNow, well: bool) -> bool {
    match vm.run_strategy.as_deref() {
        Some("Always") => true,
        Some("RerunOnFailure") => !well,
        _ => false,
    }
}

fn runs_by_itself(strategy: Option<&str>) -> bool {
    matches!(strategy, Some("Always" | "RerunOnFailure" | "Once"))
}

fn taken(why: &str) -> Whose {
    Whose::Taken { why: why.to_owned() }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
