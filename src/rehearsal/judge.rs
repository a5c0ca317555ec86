//! The judge of a rehearsal: the invariants I1–I7 of ARCHITECTURE.md as predicates over what the world shows and what the
//! journals on the machines' disks would still say after a power cut. Looks only; what is broken is collected, never
//! excused later.

mod marks;
mod vms;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use crate::flow::progress::Progress;
use crate::flow::report::NodeReport;
use crate::flow::vms::VmKey;
use crate::rehearsal::timeline::seconds_between;
use crate::sim::fate::{Labels, Will};
use crate::sim::machine::release::{binary, sha256};
use crate::sim::machine::strangers::OTHER_RELEASE;

pub use vms::Away;
use vms::Watched;

/// Longer than this nobody waits without saying for what.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);

/// The promises, as ARCHITECTURE.md numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub enum Invariant {
    /// No swap without pre-drain.
    I1,
    /// No VM forgotten.
    I2,
    /// No surprise power-off.
    I3,
    /// Crash anywhere, resume, nothing twice.
    I4,
    /// Nothing waits without a deadline and a reason.
    I5,
    /// Every change is owned and undone.
    I6,
    /// Old clients keep working.
    I7,
}

/// One broken promise.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Broken {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub what: String,
    /// Seconds since the rehearsal began.
    pub at: f64,
}

impl fmt::Display for Broken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} broken after {:.3} s: {}", self.invariant, self.at, self.what)
    }
}

/// What is true at the moment of a look, besides the objects.
#[derive(Debug, Default)]
pub struct Truth {
    /// What each node's journal would say after a power cut now.
    pub durable: BTreeMap<String, Progress>,
    /// Machines that have lost their power since the last look, or have none: their guests died with them.
    pub powerless: BTreeSet<String>,
}

/// A start of RKE2 on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The node.
    pub node: String,
    /// sha256 of what was started.
    pub sha256: String,
    /// Guests whose processes ran there at that moment.
    pub guests: Vec<String>,
    /// Would a fence stand there after a power cut at that moment?
    pub fenced: bool,
}

/// What an approved binary is, per node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// sha256 of the one before.
    pub old: String,
    /// sha256 of the one to come.
    pub new: String,
}

/// Is it the release that only somebody else unpacks?
fn is_foreign(digest: &str) -> bool {
    static DIGEST: LazyLock<String> = LazyLock::new(|| sha256(&binary(OTHER_RELEASE)));
    digest == DIGEST.as_str()
}

/// Watches one rehearsal.
#[derive(Debug)]
pub struct Judge {
    begun: Timestamp,
    vms: BTreeMap<VmKey, Watched>,
    /// VMs that began to run only during the rehearsal; nothing was promised about them.
    latecomers: BTreeSet<VmKey>,
    /// The VMs of each node, by where each ran last.
    vms_on: BTreeMap<String, BTreeSet<VmKey>>,
    /// Names and labels of the nodes.
    hosts: Vec<Value>,
    nodes: BTreeMap<String, marks::Before>,
    binaries: BTreeMap<String, Binaries>,
    live: BTreeMap<String, String>,
    swaps: BTreeMap<String, u32>,
    /// Machines that lost their power since their binary was last seen to change.
    was_cut: BTreeSet<String>,
    /// When each machine last lost its power.
    cut_at: BTreeMap<String, Timestamp>,
    /// Nodes at whose live path somebody else's release was seen last.
    foreign: BTreeSet<String>,
    upgrade: Value,
    /// VMs that do not run now.
    off: BTreeSet<VmKey>,
    /// Whether something about the VMs has changed since the last step.
    unsettled: bool,
    /// When a run last said what it waits for.
    explained: Option<Timestamp>,
    broken: Vec<Broken>,
}

impl Judge {
    /// A judge of a world that looks like this before anything is done.
    #[must_use]
    pub fn new(
        begun: Timestamp,
        vmis: impl Iterator<Item = Value>,
        guests: (&BTreeMap<VmKey, Will>, &BTreeMap<VmKey, Labels>),
        nodes: impl Iterator<Item = Value>,
        upgrade: Value,
        binaries: BTreeMap<String, Binaries>,
    ) -> Self {
        let mut hosts: Vec<Value> = nodes.collect();
        let nodes: BTreeMap<_, _> = hosts.iter().map(marks::before).collect();
        for host in &mut hosts {
            let of_host = |pointer: &str| host.pointer(pointer).cloned().unwrap_or_default();
            *host = json!({"metadata": {"name": of_host("/metadata/name"), "labels": of_host("/metadata/labels")}});
        }
        let known: BTreeMap<_, _> = vmis.filter_map(|vmi| vms::watched(&vmi, &hosts, guests)).collect();
        let mut vms_on: BTreeMap<String, BTreeSet<VmKey>> = BTreeMap::new();
        for (key, vm) in &known {
            vms_on.entry(vm.node().to_owned()).or_default().insert(key.clone());
        }
        Self {
            begun,
            vms: known,
            latecomers: BTreeSet::new(),
            vms_on,
            hosts,
            nodes,
            live: binaries.iter().map(|(node, both)| (node.clone(), both.old.clone())).collect(),
            binaries,
            swaps: BTreeMap::new(),
            was_cut: BTreeSet::new(),
            cut_at: BTreeMap::new(),
            foreign: BTreeSet::new(),
            upgrade,
            off: BTreeSet::new(),
            unsettled: true,
            explained: None,
            broken: Vec::new(),
        }
    }

    /// Everything that was seen broken so far.
    #[must_use]
    pub fn broken(&self) -> &[Broken] {
        &self.broken
    }

    /// Something that only its finder can tell.
    pub fn accuse(&mut self, now: Timestamp, invariant: Invariant, what: String) {
        self.note(now, invariant, what);
    }

    fn note(&mut self, now: Timestamp, invariant: Invariant, what: String) {
        // The first sight of a thing says all; the same again would only hide the others.
        if self.broken.iter().all(|known| known.invariant != invariant || known.what != what) {
            self.broken.push(Broken { invariant, what, at: seconds_between(self.begun, now) });
        }
    }

    /// RKE2 was started on a machine: only an approved binary, the new one only with pre-drain on disk and nobody there.
    pub fn rke2_started(&mut self, now: Timestamp, start: &Start, truth: &Truth) {
        let Some(both) = self.binaries.get(&start.node).cloned() else { return };
        let node = &start.node;
        if start.sha256 == both.old {
            return;
        }
        if is_foreign(&start.sha256) && !Self::keeps_others_out(node, start.fenced, truth) {
            return;
        }
        if start.sha256 != both.new {
            return self.note(now, Invariant::I1, format!("{node} started a binary that nobody approved"));
        }
        if !truth.durable.get(node).is_some_and(Progress::swap_begun) {
            let what = format!("{node} started the new RKE2 with no swap after a pre-drain in its journal");
            self.note(now, Invariant::I1, what);
        }
        // It has run, and served, with nobody on the node; that it ends and is started again changes nothing.
        let is_verified = truth.durable.get(node).is_some_and(|told| told.verified() && !told.goes_back());
        if !start.guests.is_empty() && !is_verified {
            let what =
                format!("{node} started the new RKE2 under running guests: {}", start.guests.join(", "));
            self.note(now, Invariant::I1, what);
        }
    }

    /// What is at the live path now, by its sha256; none when nothing is.
    pub fn live_binary(
        &mut self,
        now: Timestamp,
        node: &str,
        sha256: Option<&str>,
        guests: impl FnOnce() -> Vec<String>,
        truth: &Truth,
    ) {
        let Some(both) = self.binaries.get(node).cloned() else { return };
        let found = sha256.unwrap_or_default();
        // That it lies there is somebody else's deed, also where a power cut has torn it; it must not be started.
        let is_known = found == both.old || found == both.new;
        let is_torn = !is_known && self.foreign.contains(node) && self.was_cut.contains(node);
        if is_foreign(found) || is_torn {
            self.foreign.insert(node.to_owned());
            return;
        }
        let was_foreign = self.foreign.remove(node);
        if !is_known {
            let what = format!("the live path of {node} holds neither the old nor the new binary, whole");
            return self.note(now, Invariant::I1, what);
        }
        if self.live.insert(node.to_owned(), found.to_owned()).as_deref() == Some(found) {
            return;
        }
        if found == both.old {
            // A rename that was not durable yet: the swap has not happened.
            let goes_back = truth.durable.get(node).is_some_and(Progress::goes_back);
            // Before anything starts under a guest, the boot guard puts the old one back.
            if goes_back || was_foreign || !guests().is_empty() {
                self.was_cut.remove(node);
                self.swaps.remove(node);
            } else if self.was_cut.remove(node) {
                self.swaps.remove(node);
            } else {
                self.note(
                    now,
                    Invariant::I4,
                    format!("the old binary of {node} is back, put there by nobody"),
                );
            }
            return;
        }
        if !truth.durable.get(node).is_some_and(|durable| durable.pre_drained() && durable.swap_begun()) {
            let what = format!("{node} got its new binary with no pre-drain and no intent in its journal");
            self.note(now, Invariant::I1, what);
        }
        let guests = guests();
        if !guests.is_empty() {
            let what = format!("{node} got its new binary while guests ran: {}", guests.join(", "));
            self.note(now, Invariant::I1, what);
        }
        let swaps = self.swaps.entry(node.to_owned()).or_insert(0);
        *swaps += 1;
        if *swaps > 1 {
            self.note(now, Invariant::I4, format!("the binary of {node} was swapped twice"));
        }
    }

    /// What the run tells, and when it last wrote a line: a wait has to have a reason that people can read.
    pub fn report(&mut self, now: Timestamp, node: &str, report: &NodeReport, last_line: Timestamp) {
        let step = report.step.map(|step| step.to_string()).unwrap_or_default();
        if !report.blockers.is_empty() || report.step.is_none() {
            self.explained = Some(now);
        }
        let since = self.explained.map_or(last_line, |explained| explained.max(last_line));
        if now.duration_since(since) >= SILENCE {
            let what = format!("{node} waits in step {step} and says neither for what nor until when");
            self.note(now, Invariant::I5, what);
        }
        if let Some(blocker) = report.blockers.iter().find(|one| one.what.is_empty() || one.owner.is_empty())
        {
            let what = format!("{node} waits in step {step} with half a reason: {blocker:?}");
            self.note(now, Invariant::I5, what);
        }
    }

    /// A run ended; `wanted` names the sentence that asked for an operator, none after success.
    pub fn run_ended(&mut self, now: Timestamp, node: &str, asks: Option<&str>, truth: &Truth) {
        let Some(durable) = truth.durable.get(node).cloned() else {
            return self.note(
                now,
                Invariant::I4,
                format!("the run on {node} ended without a journal on its disk"),
            );
        };
        let owed: Vec<VmKey> = durable.ledger().owed().map(|line| line.entry.vm.clone()).collect();
        match asks {
            None => {
                if durable.outcome().is_none() {
                    self.note(
                        now,
                        Invariant::I4,
                        format!("{node} was called done without a last line on disk"),
                    );
                }
                for vm in owed {
                    self.note(now, Invariant::I2, format!("{node} was called done and {vm} is owed a start"));
                }
                self.all_is_back(now, node);
                if self.binaries.get(node).map(|both| &both.new) != self.live.get(node) {
                    self.note(
                        now,
                        Invariant::I4,
                        format!("{node} was called done and its binary is the old one"),
                    );
                }
            }
            Some(sentence) if sentence.trim().is_empty() => {
                self.note(now, Invariant::I5, format!("{node} asks for an operator and does not say why"));
            }
            Some(sentence) => self.owed_are_named(now, node, &owed, sentence),
        }
        self.nobody_is_lost(now, node, &durable, asks);
    }
}
