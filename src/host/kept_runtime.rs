//! The old RKE2's runtime, kept for the way back. A new RKE2 removes the data folders of other versions when it starts (reference
//! `rke2-and-rancher.md` §2.4), and on a machine that was upgraded before the old runtime is nowhere else. Each file gets a second name
//! in a folder that RKE2 does not look at, which costs no room. When it is needed is `flow::runtime_image`'s.

use std::path::{Path, PathBuf};

use crate::flow::runtime_image::tag;
use crate::flow::version::Rke2Version;
use crate::host::effects::FileKind;
use crate::host::fs::{Fs, FsError};
use crate::host::rke2_config::Rke2Config;
use crate::host::root::HostRoot;
use crate::host::runtime::{folders, look};

/// RKE2 removes what begins with `v` and a digit.
const KEPT: &str = ".upgrade-agent-keeps-";
/// What is not kept to its end yet.
const PARTIAL: &str = ".upgrade-agent-keeping";

/// Keeps the whole data folders of `version` durably; gives their names. One that is kept already is left as it is.
///
/// # Errors
/// They cannot be read, or not be linked.
pub fn keep(root: &HostRoot, config: &Rke2Config, version: &Rke2Version) -> Result<Vec<String>, FsError> {
    let (fs, data) = (root.fs(), config.unpacked(root)?);
    let mut names = Vec::new();
    for (name, folder) in folders(root, config, version)? {
        if !folder.is_whole(version) {
            continue;
        }
        let (kept, partial) = (data.join(format!("{KEPT}{name}")), data.join(PARTIAL));
        if !fs.is_dir(&kept) {
            fs.remove_tree(&partial)?;
            link_tree(fs, &data.join(&name), &partial)?;
            fs.effects().rename(&partial, &kept).map_err(FsError::on("rename to", &kept))?;
        }
        fs.sync_dir(&data)?;
        names.push(name);
    }
    Ok(names)
}

/// The kept folders of `version` whose place is empty, or holds one that is not whole: RKE2 could not start from it. By the name
/// of the place.
///
/// # Errors
/// The folders cannot be read.
pub fn missing(root: &HostRoot, config: &Rke2Config, version: &Rke2Version) -> Result<Vec<PathBuf>, FsError> {
    Ok(lost(root, config, version)?.into_iter().map(|(_, place)| place).collect())
}

/// Puts those back into their place, under RKE2's own name; gives these. RKE2 must not run.
///
/// # Errors
/// The folders cannot be read or renamed; may be called again then.
pub fn put_back(
    root: &HostRoot,
    config: &Rke2Config,
    version: &Rke2Version,
) -> Result<Vec<PathBuf>, FsError> {
    let fs = root.fs();
    let lost = lost(root, config, version)?;
    for (kept, place) in &lost {
        fs.remove_tree(place)?;
        fs.effects().rename(kept, place).map_err(FsError::on("rename to", place))?;
    }
    // Also where nothing is lost: an earlier call may have been cut off before this.
    let data = config.unpacked(root)?;
    if fs.is_dir(&data) {
        fs.sync_dir(&data)?;
    }
    Ok(lost.into_iter().map(|(_, place)| place).collect())
}

/// Keeps nothing of `version` any more; its data folder, if it is there, stays.
///
/// # Errors
/// It cannot be removed.
pub fn let_go(root: &HostRoot, config: &Rke2Config, version: &Rke2Version) -> Result<(), FsError> {
    for (kept, _) in kept(root, config, version)? {
        root.fs().remove_tree(&kept)?;
    }
    root.fs().remove_tree(&config.unpacked(root)?.join(PARTIAL))
}

/// What is kept and missing at its place.
fn lost(root: &HostRoot, config: &Rke2Config, version: &Rke2Version) -> Result<Kept, FsError> {
    let mut found = kept(root, config, version)?;
    found.retain(|(_, place)| !look(root.fs(), place).is_whole(version));
    Ok(found)
}

/// What is kept, and its place.
type Kept = Vec<(PathBuf, PathBuf)>;

fn kept(root: &HostRoot, config: &Rke2Config, version: &Rke2Version) -> Result<Kept, FsError> {
    let data = config.unpacked(root)?;
    let prefix = format!("{}-", tag(version));
    let mut found = Vec::new();
    for path in root.fs().list_dir(&data)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(name) = name.strip_prefix(KEPT).filter(|name| name.starts_with(&prefix)) {
            let place = data.join(name);
            found.push((path, place));
        }
    }
    Ok(found)
}

fn link_tree(fs: &Fs, from: &Path, to: &Path) -> Result<(), FsError> {
    let stat = |path: &Path| fs.effects().stat_link(path).map_err(FsError::on("look at", path));
    fs.effects().create_dir(to).map_err(FsError::on("create directory", to))?;
    fs.effects().set_mode(to, stat(from)?.mode).map_err(FsError::on("set mode of", to))?;
    for path in fs.list_dir(from)? {
        let name = to.join(path.file_name().unwrap_or_default());
        if stat(&path)?.kind == FileKind::Dir {
            link_tree(fs, &path, &name)?;
        } else {
            fs.effects().hard_link(&path, &name).map_err(FsError::on("link to", &name))?;
        }
    }
    fs.sync_dir(to)
}

#[cfg(test)]
mod tests;
