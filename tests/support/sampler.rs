//! Looks at the live path all the time, from outside, also while the machine is off: whole, known, and the new binary not before
//! pre-drain and the intent to swap are in the journal.

#![expect(unreachable_pub, reason = "one module for several programs")]

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use testbed::rke2::hex_sha256;

/// The witness that never sleeps for long.
pub struct Sampler {
    over: Arc<AtomicBool>,
    rests: Arc<AtomicBool>,
    seen: Arc<Mutex<Vec<Sample>>>,
    thread: Option<JoinHandle<()>>,
}

/// Another file at the live path.
struct Sample {
    sha256: String,
    is_old: bool,
    approved: bool,
}

impl Sampler {
    /// Looks until it is dropped.
    pub fn watch(live: PathBuf, journal: PathBuf, old: String) -> Self {
        let (over, rests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let seen = Arc::<Mutex<Vec<Sample>>>::default();
        let (end, pause, out) = (over.clone(), rests.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            let mut last = None;
            while !end.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(2));
                let now =
                    std::fs::metadata(&live).ok().map(|file| (file.ino(), file.size(), file.mtime_nsec()));
                if pause.load(Ordering::SeqCst) || (now.is_some() && now == last) {
                    continue;
                }
                let sha256 = std::fs::read(&live).map(|bytes| hex_sha256(&bytes)).unwrap_or_default();
                let held = std::fs::read_to_string(&journal).unwrap_or_default();
                let approved = ["preDrained", "swapIntent"]
                    .iter()
                    .all(|record| held.contains(&format!("\"record\":\"{record}\"")));
                if pause.load(Ordering::SeqCst) {
                    continue;
                }
                last = now;
                let is_old = sha256 == old;
                out.lock().unwrap().push(Sample { sha256, is_old, approved });
                if now.is_none() {
                    return;
                }
            }
        });
        Self { over, rests, seen, thread: Some(thread) }
    }

    /// While somebody unpacks over the live path it is not the agent's affair.
    pub fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::SeqCst);
    }

    /// What was there and should not have been.
    pub fn breach(&self, new: &str) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let of = |sample: &&Sample| !(sample.is_old || sample.sha256 == new && sample.approved);
        let found = seen.iter().find(of)?;
        Some(format!("BROKEN: live was {:?}, approved: {}", found.sha256, found.approved))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
