//! One node's machine as the director sees it: what changed on its disks, what its journal durably says.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::flow::record::Entry;
use crate::journal::{codec, path_of};
use crate::rehearsal::judge::Truth;
use crate::rehearsal::world::Seat;
use crate::sim::machine::SimMachine;
use crate::sim::machine::image::STATE_DIR;
use crate::sim::machine::release::sha256;

/// The machine of the node whose turn it is.
pub(super) struct Watched {
    pub(super) machine: SimMachine,
    pub(super) stray: Arc<AtomicBool>,
    pub(super) journal: PathBuf,
    pub(super) live: String,
    pub(super) read: usize,
    pub(super) starts: usize,
    /// The disks when they were last looked at, and what of the fence was on them.
    pub(super) changes: Option<u64>,
    /// The same of their names, and the drop-ins that were there.
    names: Option<u64>,
    drop_ins: Vec<PathBuf>,
    pub(super) fence: bool,
    /// What was last seen at the live path, and its digest.
    seen: Option<Arc<Vec<u8>>>,
    digest: Option<String>,
}

impl Watched {
    pub(super) fn of(seat: &Seat) -> Self {
        Self {
            machine: seat.machine.clone(),
            stray: Arc::clone(&seat.stray),
            journal: path_of(Path::new(STATE_DIR), &seat.plan.upgrade_uid),
            live: seat.machine.live_path(),
            read: 0,
            starts: 0,
            changes: None,
            names: None,
            drop_ins: Vec::new(),
            fence: false,
            seen: None,
            digest: None,
        }
    }

    /// Have its disks changed since the last time that this was asked?
    pub(super) fn has_changed(&mut self) -> bool {
        let count = self.machine.disk_changes();
        self.changes.replace(count) != Some(count)
    }

    /// Looks whether a fence is on its disk. Units are only read again when a drop-in came or went.
    pub(super) fn look_for_fence(&mut self) {
        let names = self.machine.names_changes();
        if self.names.replace(names) == Some(names) {
            return;
        }
        let drop_ins = self.machine.drop_ins();
        if self.drop_ins != drop_ins {
            self.fence = self.machine.is_fenced_on_disk();
            self.drop_ins = drop_ins;
        }
    }

    /// sha256 of what is at the live path now; none when nothing is. The same bytes are digested once: a file's content is
    /// never changed in place, and as long as it is held here no other can take its place.
    pub(super) fn live_digest(&mut self) -> Option<&str> {
        let found = self.machine.read(Path::new(&self.live));
        let is_same = match (&found, &self.seen) {
            (Some(found), Some(seen)) => Arc::ptr_eq(found, seen),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            self.digest = found.as_ref().map(|content| sha256(content));
            self.seen = found;
        }
        self.digest.as_deref()
    }

    /// What a power cut now would leave of the journal, line by line as it grows. Tells whether it has grown.
    pub(super) fn read_journal(&mut self, truth: &mut Truth, lines: &mut Vec<Entry>, node: &str) -> bool {
        let bytes = self.machine.read_durable(&self.journal);
        let new = bytes.as_ref().and_then(|bytes| bytes.get(self.read..)).filter(|new| !new.is_empty());
        // A torn end is not a line yet; what a power cut made of it is the agent's to judge.
        let Some(Ok(decoded)) = new.map(codec::decode) else { return false };
        self.read += decoded.sound_bytes;
        let progress = truth.durable.entry(node.to_owned()).or_default();
        for entry in decoded.entries {
            if let Err(error) = progress.accept(&entry) {
                tracing::error!(%error, "the journal contradicts itself");
            }
            lines.push(entry);
        }
        true
    }
}
