//! The power cut: what was not synced is lost, kept, or anything lawful in between.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Disk;
use super::inode::{Body, Table};
use super::pending::Pending;
use crate::sim::machine::random::Dice;

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CutMode {
    /// All of it is lost.
    LoseAll,
    /// All of it had been written back just before.
    KeepAll,
    /// Some of it is lost, in a lawful way that the seed decides.
    Seeded(u64),
}

impl Disk {
    /// Turns the power off and on again: what is read from now on is what the platter had.
    pub fn power_cut(&mut self, mode: CutMode) {
        match mode {
            CutMode::LoseAll => {}
            CutMode::KeepAll => self.settle(),
            CutMode::Seeded(seed) => self.write_back_some(&mut Dice::new(seed)),
        }
        self.pending = Pending::default();
        let roots: Vec<u64> =
            self.mounts.iter().filter(|mount| mount.spec.volatile).map(|mount| mount.root).collect();
        let points: BTreeSet<u64> = self.mounts.iter().filter_map(|mount| mount.point).collect();
        for root in roots {
            clear(Arc::make_mut(&mut self.platter), root, &points);
        }
        let named = self.reachable(&self.platter);
        Arc::make_mut(&mut self.platter).retain(|ino| named.contains(&ino));
        self.cache = Arc::clone(&self.platter);
        self.changes += 1;
        self.names_changes += 1;
    }

    /// Has everything that the running kernel shows reached the platter?
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pending.is_empty()
            && self.cache.iter().all(|(ino, shown)| {
                self.platter.get(ino).is_some_and(|kept| match (&shown.body, &kept.body) {
                    (Body::File(shown), Body::File(kept)) => shown == kept,
                    (Body::File(_) | Body::Dir(_) | Body::Symlink(_), _) => true,
                })
            })
    }

    fn write_back_some(&mut self, dice: &mut Dice) {
        let platter = Arc::make_mut(&mut self.platter);
        let mut from = 0;
        while let Some(id) = self.pending.next_free(from) {
            if dice.coin() {
                self.pending.write(id, platter);
            }
            from = id + 1;
        }
        for (ino, shown) in self.cache.iter() {
            let Some(kept) = platter.get_mut(ino) else { continue };
            if Arc::ptr_eq(shown, kept) {
                continue;
            }
            let kept = Arc::make_mut(kept);
            if (kept.mode, kept.uid, kept.gid) != (shown.mode, shown.uid, shown.gid) && dice.coin() {
                (kept.mode, kept.uid, kept.gid) = (shown.mode, shown.uid, shown.gid);
            }
            if let (Body::File(old), Body::File(new)) = (&kept.body, &shown.body)
                && old != new
            {
                kept.body = Body::File(torn(old, new, dice));
            }
        }
    }
}

/// Empties a directory but for the way to other mount points; true when there was one.
fn clear(table: &mut Table, dir: u64, points: &BTreeSet<u64>) -> bool {
    let Some(inode) = table.get(dir) else { return false };
    let Body::Dir(names) = &inode.body else { return false };
    let mut kept = names.clone();
    kept.retain(|_, ino| points.contains(ino) || clear(table, *ino, points));
    let any = !kept.is_empty();
    if let Some(inode) = table.get_mut(dir) {
        Arc::make_mut(inode).body = Body::Dir(kept);
    }
    any
}

/// A lawful state of a file whose platter has `old` and whose cache has `new`.
fn torn(old: &Arc<Vec<u8>>, new: &Arc<Vec<u8>>, dice: &mut Dice) -> Arc<Vec<u8>> {
    let grown = new.len().saturating_sub(old.len());
    let choices = if grown == 0 { 2 } else { 5 };
    match dice.below(choices) {
        0 => Arc::clone(old),
        1 => Arc::clone(new),
        // The first part of what was added.
        2 => Arc::new(new.iter().take(old.len() + dice.below(grown)).copied().collect()),
        // The length was journalled and the data was not (delayed allocation).
        3 => Arc::new(new.iter().take(old.len()).copied().chain(std::iter::repeat_n(0, grown)).collect()),
        _ => {
            let real = dice.below(grown);
            let data = new.iter().take(old.len() + real).copied();
            Arc::new(data.chain(std::iter::repeat_n(0, grown - real)).collect())
        }
    }
}
