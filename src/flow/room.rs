//! How much room an upgrade needs on a machine, and where: computed from what is known before anything is written, so that no disk
//! is found full half-way. Pure; who measures is `host::fs`.

use std::collections::BTreeMap;
use std::fmt;

/// RKE2's runtime image unpacked: containerd, kubelet, the charts (reference `rke2-and-rancher.md` §2.1).
const RUNTIME: u64 = 450 << 20;
/// What the disk keeps for everybody else: logs, the journal, other writers.
const KEPT_FREE: u64 = 128 << 20;
/// What systemd writes at a daemon-reload, and our own drop-ins.
const RELOAD: u64 = 16 << 20;
/// Files of a release beside its binary, of a runtime image, and of a reload.
const RELEASE_FILES: u64 = 64;
const RUNTIME_FILES: u64 = 512;
const RELOAD_FILES: u64 = 64;

/// Where something is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    /// RKE2's install prefix, where the release is staged.
    Prefix,
    /// RKE2's data folder.
    Data,
    /// systemd's own.
    Run,
}

/// What the needs follow from; bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// The release's tarball: its length, or what it may be at most.
    pub artifact: u64,
    /// It comes from a server and is written to the disk first.
    pub is_fetched: bool,
    /// The binary that is live: the new one is about as large. A copy of each is kept.
    pub live: u64,
    /// RKE2 will not have to unpack the new version's runtime image.
    pub has_runtime: bool,
    /// Image archives that are brought.
    pub archives: u64,
    /// etcd's database: its snapshot is as large. Nothing where there is none.
    pub etcd: u64,
    /// What an earlier attempt has brought to the prefix: it is gone on with, or removed first.
    pub staged: u64,
}

/// One need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Where.
    pub spot: Spot,
    /// How much.
    pub bytes: u64,
    /// How many files and folders.
    pub files: u64,
    /// What for.
    pub what: &'static str,
}

/// A file system, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The folder that it was asked for.
    pub path: String,
    /// Its number; several folders may be on one.
    pub device: u64,
    /// Bytes that root may still write.
    pub free: u64,
    /// Files that may still be made; none where the file system does not count them.
    pub free_files: Option<u64>,
}

/// Stays free beside image archives, in bytes: a kubelet whose disk is full evicts pods.
pub const BESIDE_ARCHIVES: u64 = 1 << 30;

/// What an upgrade will write, piece by piece.
#[must_use]
pub fn needs(facts: &Facts) -> Vec<Need> {
    let need = |spot, bytes, files, what| Need { spot, bytes, files, what };
    let release = facts.live * 2 + facts.artifact + if facts.is_fetched { facts.artifact } else { 0 };
    let what = if facts.is_fetched { "the release, fetched and unpacked" } else { "the unpacked release" };
    let mut needs = vec![
        need(Spot::Prefix, release.saturating_sub(facts.staged), RELEASE_FILES, what),
        need(Spot::Prefix, facts.live * 2, 2, "the kept binaries"),
        need(Spot::Prefix, KEPT_FREE, 0, "what stays free"),
        need(Spot::Run, RELOAD, RELOAD_FILES, "systemd's reload"),
    ];
    if !facts.has_runtime {
        needs.push(need(Spot::Data, RUNTIME, RUNTIME_FILES, "the new runtime image"));
    }
    if facts.etcd > 0 {
        needs.push(need(Spot::Data, facts.etcd, 1, "the snapshot of etcd"));
    }
    if facts.archives > 0 {
        needs.push(need(Spot::Data, facts.archives, 1, "image archives"));
        needs.push(need(Spot::Data, BESIDE_ARCHIVES, 0, "what stays free beside them"));
    }
    needs
}

/// A file system on which it does not fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    paths: Vec<String>,
    needed: u64,
    free: u64,
    unit: &'static str,
    what: Vec<&'static str>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { paths, needed, free, unit, what } = self;
        let verb = if paths.len() == 1 { "needs" } else { "are one file system that needs" };
        write!(f, "{} {verb} {needed} {unit}, {free} are free (for {})", paths.join(" and "), what.join(", "))
    }
}

/// The file systems that are too small, and the sum of what is needed where nothing is.
///
/// # Errors
/// Every shortage.
pub fn fits(needs: &[Need], volumes: &BTreeMap<Spot, Volume>) -> Result<String, Vec<Shortage>> {
    let mut devices: BTreeMap<u64, (Vec<&Volume>, Vec<&Need>)> = BTreeMap::new();
    for (spot, volume) in volumes {
        let (here, wanted) = devices.entry(volume.device).or_default();
        here.push(volume);
        wanted.extend(needs.iter().filter(|need| need.spot == *spot));
    }
    let (mut shortages, mut enough) = (Vec::new(), Vec::new());
    for (here, wanted) in devices.values().filter(|(_, wanted)| !wanted.is_empty()) {
        let paths: Vec<String> = here.iter().map(|volume| volume.path.clone()).collect();
        let what: Vec<&str> = wanted.iter().map(|need| need.what).collect();
        let bytes: u64 = wanted.iter().map(|need| need.bytes).sum();
        let files: u64 = wanted.iter().map(|need| need.files).sum();
        // Two looks at one file system may differ by what was written between them.
        let free = here.iter().map(|volume| volume.free).min().unwrap_or(0);
        let free_files = here.iter().filter_map(|volume| volume.free_files).min();
        let short =
            |needed, free, unit| Shortage { paths: paths.clone(), needed, free, unit, what: what.clone() };
        if free < bytes {
            shortages.push(short(mebibytes(bytes), free >> 20, "MiB"));
        }
        if let Some(free_files) = free_files.filter(|free| *free < files) {
            shortages.push(short(files, free_files, "files"));
        }
        enough.push(format!("{}: {} of {} MiB", paths.join(" and "), mebibytes(bytes), free >> 20));
    }
    if shortages.is_empty() { Ok(enough.join("; ")) } else { Err(shortages) }
}

/// Rounded up: what is needed is never told smaller than it is.
fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn volume(path: &str, device: u64, free: u64) -> Volume {
        Volume { path: path.to_owned(), device, free: free * MIB, free_files: Some(10_000) }
    }

    fn volumes(prefix: u64, data: u64, run: u64) -> BTreeMap<Spot, Volume> {
        BTreeMap::from([
            (Spot::Prefix, volume("/opt/rke2", 1, prefix)),
            (Spot::Data, volume("/var/lib/rancher/rke2", 2, data)),
            (Spot::Run, volume("/run", 3, run)),
        ])
    }

    fn facts() -> Facts {
        Facts { artifact: 50 * MIB, live: 140 * MIB, ..Facts::default() }
    }

    #[test]
    fn each_file_system_has_its_own_need() {
        // 4 x 140 + 50 + 128 on the prefix, 450 on the data, 16 on /run.
        let table: [(Facts, [u64; 3], &[&str]); 8] = [
            (facts(), [738, 450, 16], &[]),
            (facts(), [737, 450, 16], &["/opt/rke2 needs 738 MiB, 737 are free"]),
            (
                facts(),
                [738, 449, 16],
                &["/var/lib/rancher/rke2 needs 450 MiB, 449 are free (for the new runtime image)"],
            ),
            (facts(), [738, 450, 15], &["/run needs 16 MiB, 15 are free (for systemd's reload)"]),
            (facts(), [0, 0, 0], &["/opt/rke2 needs", "/var/lib/rancher/rke2 needs", "/run needs"]),
            (Facts { is_fetched: true, ..facts() }, [787, 450, 16], &["/opt/rke2 needs 788 MiB"]),
            (
                Facts { has_runtime: true, etcd: 300 * MIB, ..facts() },
                [738, 299, 16],
                &["needs 300 MiB, 299 are free (for the snapshot of etcd)"],
            ),
            (
                Facts { has_runtime: true, archives: 900 * MIB, ..facts() },
                [738, 1923, 16],
                &["needs 1924 MiB, 1923 are free"],
            ),
        ];
        for (facts, [prefix, data, run], expected) in table {
            let found = fits(&needs(&facts), &volumes(prefix, data, run));
            let said: Vec<String> = found.err().unwrap_or_default().iter().map(Shortage::to_string).collect();
            assert_eq!(said.len(), expected.len(), "{said:?}");
            for (said, words) in said.iter().zip(expected) {
                assert!(said.contains(words), "{said} should say {words}");
            }
        }
        let resumed = Facts { staged: 200 * MIB, ..facts() };
        assert!(fits(&needs(&resumed), &volumes(538, 450, 16)).is_ok(), "what is there needs no room again");
        let nothing = Facts { has_runtime: true, ..facts() };
        assert!(fits(&needs(&nothing), &volumes(738, 0, 16)).is_ok(), "nothing is written there");
    }

    #[test]
    fn folders_on_one_file_system_share_its_room() {
        let mut shared = volumes(1187, 1187, 16);
        shared.get_mut(&Spot::Data).unwrap().device = 1;
        let said = fits(&needs(&facts()), &shared).unwrap_err();
        let words =
            "/opt/rke2 and /var/lib/rancher/rke2 are one file system that needs 1188 MiB, 1187 are free";
        assert!(said.len() == 1 && said[0].to_string().starts_with(words), "{said:?}");
    }

    #[test]
    fn files_run_out_before_bytes_do() {
        let mut full = volumes(9999, 9999, 9999);
        full.get_mut(&Spot::Data).unwrap().free_files = Some(511);
        let said = fits(&needs(&facts()), &full).unwrap_err();
        assert!(
            said[0].to_string().contains("/var/lib/rancher/rke2 needs 512 files, 511 are free"),
            "{said:?}"
        );
        full.get_mut(&Spot::Data).unwrap().free_files = None;
        let said = fits(&needs(&facts()), &full).unwrap();
        assert!(said.contains("/run: 16 of 9999 MiB"), "{said}");
    }
}
