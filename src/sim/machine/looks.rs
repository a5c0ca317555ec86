//! What a judge of rehearsals sees of a machine without being on it: files as they are shown and as a power cut would leave
//! them, starts of RKE2, its fence, its guests. Changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::SimMachine;
use super::disk::CutMode;
use super::rke2::StartRecord;

impl SimMachine {
    /// The binary that RKE2's unit starts.
    #[must_use]
    pub fn live_path(&self) -> String {
        self.look(|state| state.spec.layout.live())
    }

    /// A file as the running kernel shows it.
    #[must_use]
    pub fn read(&self, path: &Path) -> Option<Arc<Vec<u8>>> {
        self.look(|state| state.disk.read(path).ok())
    }

    /// A file as it would be after a power cut now that loses all it can.
    #[must_use]
    pub fn read_durable(&self, path: &Path) -> Option<Arc<Vec<u8>>> {
        self.look(|state| state.disk.read_durable(path).ok())
    }

    /// The starts of RKE2 after the first so many.
    #[must_use]
    pub fn starts_since(&self, count: usize) -> Vec<StartRecord> {
        self.look(|state| state.starts.get(count..).map(<[StartRecord]>::to_vec).unwrap_or_default())
    }

    /// Does a drop-in on disk refuse orders to RKE2's unit?
    #[must_use]
    pub fn is_fenced_on_disk(&self) -> bool {
        self.look(super::State::is_fenced_on_disk)
    }

    /// Would one do so after a power cut now that loses all it can?
    #[must_use]
    pub fn is_durably_fenced(&self) -> bool {
        self.look(|state| {
            let mut disk = state.disk.clone();
            disk.power_cut(CutMode::LoseAll);
            state.is_fenced_on(&disk)
        })
    }

    /// Drop-ins of RKE2's unit on disk.
    #[must_use]
    pub fn drop_ins(&self) -> Vec<PathBuf> {
        self.look(super::State::drop_ins)
    }

    /// Does systemd refuse orders to RKE2's unit?
    #[must_use]
    pub fn is_fenced(&self) -> bool {
        self.look(|state| state.service.is_fenced())
    }

    /// A number that is another one after every change of the disks.
    #[must_use]
    pub fn disk_changes(&self) -> u64 {
        self.look(|state| state.disk.changes())
    }

    /// A number that is another one after every change of a name on the disks.
    #[must_use]
    pub fn names_changes(&self) -> u64 {
        self.look(|state| state.disk.names_changes())
    }

    /// The guests that run here now.
    #[must_use]
    pub fn guests_now(&self) -> Vec<String> {
        self.guests()
    }
}
