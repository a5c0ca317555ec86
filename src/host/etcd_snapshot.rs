//! A snapshot of etcd on the machine's disk: where `RKE2` puts it, and whether it is whole. Takes none and restores none.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::host::fs::{self, Fs, FsError};
use crate::host::rke2_config::{Rke2Config, Rke2ConfigError};
use crate::host::root::HostRoot;

/// Where `RKE2` keeps snapshots of its etcd, below its data folder.
const SNAPSHOTS: &str = "server/db/snapshots";

/// etcd's database is pages of so many bytes, or a multiple; its snapshots have their sha256 after that.
const PAGE: u64 = 512;
const SUM: usize = 32;
const PIECE: u64 = 1 << 16;

/// A snapshot that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it is, seen from this process.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
}

/// Why there is none to rely on.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No file of that name.
    #[error("{} has no snapshot {name}", folder.display())]
    Missing {
        /// Where it should be.
        folder: PathBuf,
        /// What its name begins with.
        name: String,
    },
    /// It is cut off, or damaged.
    #[error("{} is no whole snapshot of etcd: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The disk.
    #[error("the snapshot cannot be read")]
    Io(#[from] FsError),
}

/// The folder of this machine's snapshots, its own view; none where it has no etcd: on a server with an external datastore.
///
/// # Errors
/// Nobody can tell: `RKE2`'s configuration or its folders cannot be read.
pub fn folder(root: &HostRoot) -> Result<Option<PathBuf>, Rke2ConfigError> {
    let config = Rke2Config::read(root)?;
    Ok(config.etcd(root)?.map(|_| config.data_dir.join(SNAPSHOTS)))
}

/// Finds the snapshot that `RKE2` saved under `name` (it appends node and time), sees that it is whole, and that it is on disk.
/// One that `RKE2` has compressed only has to be there.
///
/// # Errors
/// See [`SnapshotError`].
pub fn check(fs: &Fs, folder: &Path, name: &str) -> Result<Snapshot, SnapshotError> {
    let missing = || SnapshotError::Missing { folder: folder.to_path_buf(), name: name.to_owned() };
    if !fs.is_dir(folder) {
        return Err(missing());
    }
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
        let rest = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('-'));
        rest.is_some() && path.extension().is_none_or(|ending| ending != "part")
    };
    let path = fs.list_dir(folder)?.into_iter().filter(is_it).max().ok_or_else(missing)?;
    let bytes = fs.length(&path)?;
    let damaged = |why| SnapshotError::Damaged { path: path.clone(), why };
    if bytes == 0 {
        return Err(damaged("it is empty"));
    }
    if path.extension().is_none_or(|ending| ending != "zip") {
        if bytes % PAGE != SUM as u64 {
            return Err(damaged("its checksum is missing at its end"));
        }
        let file = fs.effects().open(&path).map_err(FsError::on("open", &path))?;
        if !sum_holds(file, bytes - SUM as u64).map_err(FsError::on("read", &path))? {
            return Err(damaged("its content has another checksum than its last 32 bytes say"));
        }
    }
    fs.settle(&path)?;
    Ok(Snapshot { path, bytes })
}

/// Are the bytes after the first `content` ones the sha256 of those?
fn sum_holds(mut file: impl Read, content: u64) -> io::Result<bool> {
    let found = fs::digest(file.by_ref().take(content), PIECE)?;
    // Of one that is cut off there is nothing left to read.
    let mut sum = Vec::with_capacity(SUM);
    file.read_to_end(&mut sum)?;
    Ok(sum == found)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests look past the door they test")]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    fn whole() -> Vec<u8> {
        let pages = vec![7; 4096];
        [pages.as_slice(), Sha256::digest(&pages).as_slice()].concat()
    }

    #[test]
    fn only_a_whole_snapshot_of_that_name_counts() {
        let mut flipped = whole();
        flipped[99] ^= 1;
        let table: [(&str, &str, Vec<u8>, Option<&str>); 8] = [
            ("whole", "pre-1-node1-1700000000", whole(), None),
            ("another's", "etcd-snapshot-node1-1700000000", whole(), Some("has no snapshot")),
            ("another one's", "pre-12-node1-1700000000", whole(), Some("has no snapshot")),
            ("still being written", "pre-1-node1-1700000000.part", whole(), Some("has no snapshot")),
            ("empty", "pre-1-node1-1700000000", Vec::new(), Some("empty")),
            ("cut off", "pre-1-node1-1700000000", whole()[..4000].to_vec(), Some("checksum is missing")),
            ("damaged", "pre-1-node1-1700000000", flipped, Some("another checksum")),
            ("compressed", "pre-1-node1-1700000000.zip", b"PK".to_vec(), None),
        ];
        for (what, file, content, complaint) in table {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(file), &content).unwrap();
            let found = check(&Fs::kernel(), dir.path(), "pre-1");
            match (found, complaint) {
                (Ok(found), None) => assert_eq!(found.bytes, content.len() as u64, "{what}"),
                (Err(error), Some(complaint)) => {
                    assert!(error.to_string().contains(complaint), "{what}: {error}");
                }
                (found, _) => panic!("{what}: {found:?}"),
            }
        }
        let nowhere = check(&Fs::kernel(), Path::new("/no/such/folder"), "pre-1");
        assert!(matches!(nowhere, Err(SnapshotError::Missing { .. })));
    }

    #[test]
    fn the_data_folder_that_rke2_was_told_decides_whether_there_is_an_etcd() {
        let dir = tempfile::tempdir().unwrap();
        let root = HostRoot::new(dir.path().to_path_buf());
        let usual = dir.path().join("var/lib/rancher/rke2/server/db/etcd");
        std::fs::create_dir_all(&usual).unwrap();
        let snapshots = |data: &str| PathBuf::from(format!("{data}/server/db/snapshots"));
        assert_eq!(folder(&root).unwrap(), Some(snapshots("/var/lib/rancher/rke2")));
        std::fs::create_dir_all(dir.path().join("etc/rancher/rke2")).unwrap();
        std::fs::write(dir.path().join("etc/rancher/rke2/config.yaml"), "data-dir: /data/rke2\n").unwrap();
        assert_eq!(folder(&root).unwrap(), None, "that one has no etcd");
        std::fs::create_dir_all(dir.path().join("data/rke2/server/db/etcd")).unwrap();
        assert_eq!(folder(&root).unwrap(), Some(snapshots("/data/rke2")));
        std::fs::write(dir.path().join("etc/rancher/rke2/config.yaml"), "data-dir: [\n").unwrap();
        assert!(folder(&root).is_err(), "what cannot be told is no answer");
    }
}
