//! What an annotation of a VM or of its VMI lets go wrong with that one VM, in memory as on a real API server: migrations
//! that fail, an instance that hangs Terminating, a start that is refused. Only reads; the players act on it.

use std::time::Duration;

use serde_json::Value;

use super::fields::text;
use super::turns::Now;
use super::view::{Entry, Key, Kind, View};

/// Annotation: how many of the VM's next migrations fail, or `always`.
pub(super) const MIGRATION_FAILURES: &str = "sim.upgrade-agent/migration-failures";
/// Annotation: seconds for which the VMI stays Terminating after its guest has ended, or `forever`.
pub(super) const TERMINATING: &str = "sim.upgrade-agent/terminating-seconds";
/// Annotation: how often a webhook refuses a new VMI of the VM, or `always`.
pub(super) const START_REFUSALS: &str = "sim.upgrade-agent/start-refusals";

/// Annotation: how often a new guest of the VM dies before it has booted, or `always`.
pub(super) const BOOT_FAILURES: &str = "sim.upgrade-agent/boot-failures";
/// Annotation: how many of the VM's next migrations find no node for their target, or `always`.
pub(super) const NO_TARGET: &str = "sim.upgrade-agent/unschedulable-targets";

/// What is counted of a VM: guests that died by its script.
pub(super) const DIED: &str = "scripted boot failure";
/// What is counted of a VM: migrations that failed by its script.
pub(super) const FAILED: &str = "scripted migration failure";
/// What is counted of a VM: VMIs that were refused by its script.
pub(super) const REFUSED: &str = "scripted start refusal";

/// So many times or seconds; `u32::MAX` for ever.
pub(super) type Amount = u32;

/// The script of one VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Script {
    migration_failures: Option<Amount>,
    terminating: Option<Amount>,
    start_refusals: Option<Amount>,
    boot_failures: Option<Amount>,
    no_target: Option<Amount>,
}

impl Script {
    /// What these annotations say; most say nothing. A value that is no amount lets nothing go wrong.
    pub(super) fn of<'a>(annotation: impl Fn(&str) -> Option<&'a str>) -> Option<Self> {
        let amount = |key: &str| match annotation(key)? {
            "always" | "forever" => Some(Amount::MAX),
            number => number.parse().ok(),
        };
        let script = Self {
            migration_failures: amount(MIGRATION_FAILURES),
            terminating: amount(TERMINATING),
            start_refusals: amount(START_REFUSALS),
            boot_failures: amount(BOOT_FAILURES),
            no_target: amount(NO_TARGET),
        };
        (script != Self::default()).then_some(script)
    }
}

/// The uid that a VM's counts are kept under: its own, as long as it has one, so that they outlive its instances.
pub(super) fn counted(view: &View, key: &Key, vmi: &Entry) -> String {
    view.entry(Kind::Vm, key).map_or_else(|| vmi.uid.to_string(), |vm| vm.uid.to_string())
}

/// What the VMI says, or else its VM.
fn said(view: &View, key: &Key, vmi: &Entry, of: fn(&Script) -> Option<Amount>) -> Option<Amount> {
    let own = vmi.facts.script.as_deref().and_then(of);
    own.or_else(|| view.entry(Kind::Vm, key)?.facts.script.as_deref().and_then(of))
}

/// Whether the migration of this VMI that is under way is one of those that fail.
pub(super) fn migration_fails(view: &View, key: &Key, vmi: &Entry) -> bool {
    said(view, key, vmi, |script| script.migration_failures)
        .is_some_and(|most| view.count(&counted(view, key, vmi), FAILED) < most)
}

/// Whether the guest of this VMI dies before it has booted.
pub(super) fn boot_fails(view: &View, key: &Key, vmi: &Entry) -> bool {
    said(view, key, vmi, |script| script.boot_failures)
        .is_some_and(|most| view.count(&counted(view, key, vmi), DIED) < most)
}

/// Whether the target pod of this VMI's migration finds no node, whatever there is.
pub(super) fn finds_no_target(view: &View, key: &Key, vmi: &Entry) -> bool {
    let scripted = said(view, key, vmi, |script| script.no_target);
    scripted.is_some_and(|most| {
        let ended = view.vmims_of(key).filter(|vmim| vmim.filed.ended).count();
        u32::try_from(ended).is_ok_and(|ended| ended < most)
    })
}

/// How long a VMI stays Terminating after its guest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Until its pods are gone, as always.
    No,
    /// At least so long.
    For(Duration),
    /// Nothing ever lets go of it.
    ForEver,
}

/// The same of this VMI.
pub(super) fn terminating(view: &View, key: &Key, vmi: &Entry, now: &Now<'_>) -> Held {
    match said(view, key, vmi, |script| script.terminating) {
        None => Held::No,
        Some(Amount::MAX) => Held::ForEver,
        Some(seconds) => Held::For(now.timing.seconds(u64::from(seconds))),
    }
}

/// Whether the next VMI of this VM is refused.
pub(super) fn start_refused(view: &View, vm: &Entry) -> bool {
    let most = vm.facts.script.as_ref().and_then(|script| script.start_refusals);
    most.is_some_and(|most| view.count(&vm.uid, REFUSED) < most)
}

/// What API servers say where a webhook that must be asked does not answer.
pub(super) fn refusal(vm: &Value) -> String {
    format!(
        "Internal error occurred: failed calling webhook \
         \"virtualmachineinstances-create-validator.kubevirt.io\": refused by the script of {}",
        text(vm, "/metadata/name")
    )
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod amounts {
    use super::*;

    #[test]
    fn a_script_is_what_its_annotations_say() {
        let read =
            |key: &'static str, value: &'static str| Script::of(|asked| (asked == key).then_some(value));
        assert_eq!(read("other", "1"), None);
        assert_eq!(read(MIGRATION_FAILURES, "soon"), None);
        assert_eq!(read(MIGRATION_FAILURES, "2").unwrap().migration_failures, Some(2));
        assert_eq!(read(TERMINATING, "forever").unwrap().terminating, Some(Amount::MAX));
        assert_eq!(read(START_REFUSALS, "3").unwrap().start_refusals, Some(3));
    }
}
