//! What the judge keeps of each VM: was it ever off, may it have been, and who owed it a start.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

use super::{Invariant, Judge, Truth};
use crate::flow::progress::Progress;
use crate::flow::vms::{Fate, LedgerLine, VmKey};
use crate::rehearsal::timeline::{OffBy, seconds_between};
use crate::sim::fate::{self, Homes, Labels, Will};

/// What was on its way when the power went.
const AT_THAT_MOMENT: jiff::SignedDuration = jiff::SignedDuration::from_secs(2);

/// One VM of the world.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Debug, Clone)]
pub(super) struct Watched {
    node: String,
    homes: Homes,
    /// What its launcher asks of a node whatever its host.
    asked: Labels,
    runs: bool,
    /// Since when its guest runs; none of the one that ran from the beginning.
    ran_since: Option<Timestamp>,
    off_since: Option<Timestamp>,
    off: f64,
    was_off: bool,
    forced: bool,
    stops: u32,
    /// Something else than the agent ended it: a power cut, its user.
    excused: bool,
    /// Its guest ran when its machine lost its power, and has not run since.
    lost_power: bool,
    /// Its user has done something, before the upgrade or during it, that makes its fate the user's own business.
    taken_over: bool,
    /// `KubeVirt` starts it again when something else than its user ended it.
    comes_back: bool,
}

impl Watched {
    /// Where it ran last.
    pub(super) fn node(&self) -> &str {
        &self.node
    }
}

/// How a VM fared.
#[derive(Debug, Clone, PartialEq)]
pub struct Away {
    /// Seconds that its guest was off.
    pub off: f64,
    /// Its power was cut by the agent.
    pub forced: bool,
    /// It is off now.
    pub still_off: bool,
    /// It is off, and not by the upgrade.
    pub not_ours: Option<OffBy>,
}

/// `wills` says what the users of VMs want, `launchers` what their pods ask of a node.
pub(super) fn watched(
    vmi: &Value,
    nodes: &[Value],
    (wills, launchers): (&BTreeMap<VmKey, Will>, &BTreeMap<VmKey, Labels>),
) -> Option<(VmKey, Watched)> {
    let text = |pointer: &str| vmi.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let key = VmKey::new(text("/metadata/namespace"), text("/metadata/name"));
    let (will, asked) = (wills.get(&key), launchers.get(&key).cloned().unwrap_or_default());
    let watched = Watched {
        comes_back: will.is_some_and(Will::brings_back),
        node: text("/status/nodeName").to_owned(),
        homes: Homes::of(vmi, nodes, &asked),
        asked: fate::asked_anew(asked),
        runs: true,
        ran_since: None,
        off_since: None,
        off: 0.0,
        was_off: false,
        forced: false,
        stops: 0,
        excused: false,
        lost_power: false,
        taken_over: will.map_or_else(|| fate::is_ending(vmi), |will| will.ends(vmi)),
    };
    (text("/status/phase") == "Running").then_some((key, watched))
}

impl Judge {
    /// A VM's instance as it is now; none when there is none.
    pub fn instance(&mut self, now: Timestamp, key: &VmKey, vmi: Option<&Value>, truth: &Truth) {
        let phase =
            vmi.and_then(|vmi| vmi.pointer("/status/phase")).and_then(Value::as_str).unwrap_or_default();
        let runs = phase == "Running";
        let Some(known) = self.vms.get_mut(key) else {
            if runs && !self.latecomers.contains(key) {
                self.latecomers.insert(key.clone());
            }
            return;
        };
        if let Some(node) = vmi.and_then(|vmi| vmi.pointer("/status/nodeName")).and_then(Value::as_str)
            && runs
            && node != known.node
        {
            let left = std::mem::replace(&mut known.node, node.to_owned());
            if let Some(left) = self.vms_on.get_mut(&left) {
                left.remove(key);
            }
            self.vms_on.entry(node.to_owned()).or_default().insert(key.clone());
        }
        if runs == known.runs {
            return;
        }
        known.runs = runs;
        self.unsettled = true;
        if runs {
            self.off.remove(key);
            if let Some(since) = known.off_since.take() {
                known.off += seconds_between(since, now);
            }
            (known.excused, known.lost_power, known.ran_since) = (false, false, Some(now));
            // Started anew, a guest may have the CPU of another host.
            if let Some(vmi) = vmi.filter(|vmi| fate::is_migratable(vmi)) {
                known.homes = Homes::of(vmi, &self.hosts, &known.asked);
            }
            // Started again on another node, it may have to go once more when that one has its turn.
            known.stops = 0;
            return;
        }
        self.off.insert(key.clone());
        (known.off_since, known.was_off) = (Some(now), true);
        // Whatever ran on a machine that lost its power does not, also when it was seen to start at that very moment, or only
        // when virt-handler was back to tell both.
        let cut = self.cut_at.get(&known.node);
        let before = |cut: &Timestamp| {
            known.ran_since.is_none_or(|ran| ran <= *cut + AT_THAT_MOMENT || now <= ran + AT_THAT_MOMENT)
        };
        if cut.is_some_and(before) {
            (known.excused, known.lost_power) = (true, true);
        }
        let (node, movable) = (known.node.clone(), known.homes.beside(&known.node));
        if known.excused || known.taken_over {
            return;
        }
        let durable = truth.durable.get(&node);
        let line = durable.and_then(|durable| durable.ledger().line(key));
        let policy = durable.and_then(Progress::plan).map(|plan| plan.evacuation.clone()).unwrap_or_default();
        if movable && policy.on_migration_failure == crate::flow::plan::MigrationFailure::Hold {
            let what = format!("{key} could have moved and was shut down on {node}");
            self.note(now, Invariant::I3, what);
        }
        match line.map(|line| &line.fate) {
            Some(Fate::Stopping { forced, .. }) => {
                let forced = *forced;
                if let Some(known) = self.vms.get_mut(key) {
                    known.forced |= forced;
                }
                if forced && policy.on_shutdown_timeout == crate::flow::plan::ShutdownTimeout::Hold {
                    self.note(
                        now,
                        Invariant::I3,
                        format!("the power of {key} was cut against the plan's policy"),
                    );
                }
            }
            Some(fate) if fate.is_owed() => {}
            Some(_) | None => {
                let what = format!("{key} went off on {node} and no line on the disk owes it a start");
                self.note(now, Invariant::I2, what);
            }
        }
    }

    /// The API accepted a request to stop a VM. That its power is cut afterwards, by policy, is no second one.
    pub fn stop_accepted(&mut self, now: Timestamp, key: &VmKey, truth: &Truth) {
        let Some(known) = self.vms.get_mut(key) else { return };
        let line = truth.durable.get(&known.node).and_then(|durable| durable.ledger().line(key));
        if line.is_some_and(|line| matches!(line.fate, Fate::Stopping { forced: true, .. })) {
            return;
        }
        known.stops += 1;
        if known.stops > 1 && !known.excused && !known.taken_over {
            self.note(now, Invariant::I4, format!("{key} was told to shut down twice"));
        }
    }

    /// A VM's user does something with it: whether it runs is no longer the agent's business, what was promised before is.
    pub fn taken_over(&mut self, key: &VmKey) {
        if let Some(known) = self.vms.get_mut(key) {
            known.taken_over = true;
            self.unsettled = true;
        }
    }

    /// After every step: a VM that is off is owed by a line on the disk, until it runs or was struck off with a reason.
    /// `changed` says whether a journal says something else than at the last step; what is known of the VMs is the judge's
    /// own, and where neither changed the answer is the last one.
    pub fn every_step(&mut self, now: Timestamp, truth: &Truth, changed: bool) {
        let unsettled = std::mem::take(&mut self.unsettled);
        if self.off.is_empty() || !(changed || unsettled) {
            return;
        }
        let known = self.off.iter().filter_map(|key| Some((key, self.vms.get(key)?)));
        let forgotten: Vec<(VmKey, String)> = known
            .filter(|(_, known)| !known.excused && !known.taken_over)
            .filter(|(key, known)| {
                let durable = truth.durable.get(&known.node);
                durable.is_some_and(|durable| {
                    let line = durable.ledger().line(key);
                    !line.is_some_and(is_accounted_for)
                })
            })
            .map(|(key, known)| (key.clone(), known.node.clone()))
            .collect();
        for (key, node) in forgotten {
            let what = format!("{key} is off, and the journal of {node} owes it nothing any more");
            self.note(now, Invariant::I2, what);
        }
    }

    /// A run that ends with a hold names everybody whom it owes a start.
    pub(super) fn owed_are_named(&mut self, now: Timestamp, node: &str, owed: &[VmKey], sentence: &str) {
        for vm in owed {
            let taken_over = self.vms.get(vm).is_some_and(|known| known.taken_over);
            let named = sentence.contains(&vm.to_string());
            if !named && !taken_over {
                let what = format!("{node} holds, owes {vm} a start, and does not name it: {sentence}");
                self.note(now, Invariant::I2, what);
            }
        }
    }

    /// The power of a machine is gone, and with it its guests: that is not held against the agent.
    pub fn power_lost(&mut self, now: Timestamp, node: &str) {
        self.was_cut.insert(node.to_owned());
        self.cut_at.insert(node.to_owned(), now);
        self.unsettled = true;
        for key in self.vms_on.get(node).into_iter().flatten() {
            if let Some(known) = self.vms.get_mut(key).filter(|known| known.runs) {
                (known.excused, known.lost_power) = (true, true);
            }
        }
    }

    /// The first ledger is on disk: is everybody in it who is on the node?
    pub fn ledger_written(&mut self, now: Timestamp, node: &str, truth: &Truth) {
        let Some(durable) = truth.durable.get(node) else { return };
        let here = self.vms_on.get(node).into_iter().flatten();
        let runs = |key: &&VmKey| self.vms.get(*key).is_some_and(|known| known.runs);
        let missing = here.filter(runs).filter(|key| durable.ledger().line(key).is_none());
        let missing: Vec<String> = missing.map(ToString::to_string).collect();
        if !missing.is_empty() {
            let what = format!("{} on {node} when it was closed, and not in the ledger", missing.join(", "));
            self.note(now, Invariant::I2, what);
        }
    }

    /// At the end of a run: a VM that is off is owed by a line, and the operator hears of it, or nobody took it away.
    pub(super) fn nobody_is_lost(
        &mut self,
        now: Timestamp,
        node: &str,
        durable: &Progress,
        asks: Option<&str>,
    ) {
        let ours = |key: &&VmKey| {
            let known = self.vms.get(*key);
            known.is_some_and(|known| known.node == node && !known.excused && !known.taken_over)
        };
        let off: Vec<VmKey> = self.off.iter().filter(ours).cloned().collect();
        for key in off {
            let line = durable.ledger().line(&key);
            let struck =
                line.is_some_and(|line| matches!(line.fate, Fate::Struck { .. } | Fate::Left { .. }));
            let owed = line.is_some_and(|line| line.fate.is_owed());
            if !(struck || owed && asks.is_some()) {
                self.note(
                    now,
                    Invariant::I2,
                    format!("the run on {node} ended and {key} is off, owed by nobody"),
                );
            }
        }
    }

    /// VMs that do not run now and that somebody has to start; a power cut ends others for good, by their own strategy.
    #[must_use]
    pub fn off_now(&self) -> Vec<VmKey> {
        let owed = |known: &Watched| !known.taken_over && (known.comes_back || !known.excused);
        self.off.iter().filter(|key| self.vms.get(key).is_some_and(owed)).cloned().collect()
    }

    /// How many VMs ran at any time: those that run from the beginning, and those that came later.
    #[must_use]
    pub fn vm_count(&self) -> usize {
        self.vms.len() + self.latecomers.len()
    }

    /// How every VM fared that was off at some time.
    pub fn away(&self, now: Timestamp) -> impl Iterator<Item = (&VmKey, Away)> {
        self.vms.iter().filter(|(_, known)| known.was_off).map(move |(key, known)| {
            let open = known.off_since.map_or(0.0, |since| seconds_between(since, now));
            let (off, still_off) = (known.off + open, !known.runs);
            let by =
                if known.taken_over { Some(OffBy::User) } else { known.lost_power.then_some(OffBy::Power) };
            (key, Away { off, forced: known.forced, still_off, not_ours: by.filter(|_| still_off) })
        })
    }
}

/// Says this that somebody brings the VM back? A run may strike one off only when its user took it over, or it runs.
fn is_accounted_for(line: &LedgerLine) -> bool {
    match line.fate {
        // The line of its end comes after its end.
        Fate::Here
        | Fate::Migrating { .. }
        | Fate::Stopping { .. }
        | Fate::ShutDown { .. }
        | Fate::Restoring { .. }
        | Fate::Left { .. } => true,
        Fate::Struck { .. } => line.entry.left_off,
        Fate::Migrated { .. } | Fate::Restored { .. } => false,
    }
}
