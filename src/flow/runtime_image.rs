//! Where RKE2 will find its runtime image (containerd, kubelet, the charts) when it starts: unpacked already, in an archive on the
//! disk, or at a registry. It looks nowhere else, and without it does not start (reference `rke2-and-rancher.md` §2.4). Pure;
//! who looks is `host::runtime`, who keeps the old one is `host::kept_runtime`.

use std::fmt;

use crate::flow::plan::VersionChange;
use crate::flow::skew::Objection;
use crate::flow::version::Rke2Version;
use crate::flow::way_back::WayBack;

/// The name of the image in every registry.
const IMAGE: &str = "rke2-runtime";

/// The image's tag of a release: `v1.35.6-rke2r1`.
#[must_use]
pub fn tag(version: &Rke2Version) -> String {
    version.to_string().replace('+', "-")
}

/// Is `reference` the runtime image of this release, at whatever registry?
#[must_use]
pub fn is_runtime(reference: &str, version: &Rke2Version) -> bool {
    let name = reference.rsplit_once('/').map_or(reference, |(_, name)| name);
    name.split_once(':').is_some_and(|(name, found)| name == IMAGE && found == tag(version))
}

/// Could an image of that name be the runtime of any release?
#[must_use]
pub fn is_any_runtime(reference: &str) -> bool {
    reference.contains("rke2-runtime:")
}

/// Does this release mark a folder that it has unpacked to its end? Older ones take whatever has `bin` and `charts`.
#[must_use]
pub fn marks(version: &Rke2Version) -> bool {
    has_change(version, &["v1.32.10-rc1+rke2r1", "v1.33.6-rc1+rke2r1", "v1.34.2-rc1+rke2r1"])
}

/// Does this release remove other versions' data folders when it starts? It spares those that a process or a container still runs
/// from, so the old one goes with the last container that the old RKE2 started, or with a reboot.
#[must_use]
pub fn cleans(version: &Rke2Version) -> bool {
    has_change(version, &["v1.33.11-rc1+rke2r1", "v1.34.7-rc1+rke2r1", "v1.35.4-rc1+rke2r1"])
}

/// Does this release have a change that came to each of these minors with that version, to no older minor, and is in all younger ones?
fn has_change(version: &Rke2Version, firsts: &[&str]) -> bool {
    let firsts: Vec<Rke2Version> = firsts.iter().filter_map(|first| first.parse().ok()).collect();
    match firsts.iter().find(|first| first.minor() == version.minor()) {
        Some(first) => version >= first,
        None => firsts.iter().all(|first| version > first),
    }
}

/// Has the upgrade itself to keep the old version's data folder, because the way back may lead there and `to` removes it?
#[must_use]
pub fn must_keep(way: &WayBack, to: &Rke2Version) -> bool {
    match way {
        WayBack::Open | WayBack::WhileOthersAreOld => cleans(to),
        WayBack::Closed { .. } => false,
    }
}

/// What a data folder of the release has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Folder {
    /// The programs.
    pub has_bin: bool,
    /// The charts.
    pub has_charts: bool,
    /// The mark that it was unpacked to its end.
    pub has_mark: bool,
}

impl Folder {
    /// Will RKE2 of this version use it as it is?
    #[must_use]
    pub fn is_whole(self, version: &Rke2Version) -> bool {
        self.has_bin && self.has_charts && (self.has_mark || !marks(version))
    }

    /// Will it use it as it is, though nothing says that it was unpacked to its end? It never looks into it again then, and an
    /// archive with the same image does not help.
    #[must_use]
    pub fn is_doubtful(self, version: &Rke2Version) -> bool {
        self.is_whole(version) && !self.has_mark
    }
}

/// What an image archive holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// These images; only runtime images are told.
    Images(Vec<String>),
    /// Nobody can look into it here; why.
    Closed(String),
    /// It is still on a server.
    Unseen,
}

/// An archive in `agent/images`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub contents: Contents,
}

/// Where RKE2 of a version will take its runtime from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From this data folder.
    Unpacked(String),
    /// From this data folder, which the new version removes and the upgrade keeps.
    Kept(String),
    /// From this archive.
    Archive(String),
    /// From this archive, which the upgrade puts there.
    Staged(String),
    /// Perhaps from this archive, which the upgrade fetches; nobody has looked into it.
    Fetched(String),
    /// There are no archives: from its registry.
    Registry,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unpacked(folder) => write!(f, "unpacked in {folder}"),
            Self::Kept(folder) => {
                write!(f, "unpacked in {folder}, which the new version removes and the upgrade keeps until its end")
            }
            Self::Archive(name) => write!(f, "in {name}"),
            Self::Staged(name) => write!(f, "in {name}, which the upgrade puts there"),
            Self::Fetched(name) => write!(f, "expected in {name}, which the upgrade fetches and looks into first of all"),
            Self::Registry => f.write_str(
                "no image archives on this machine: RKE2 will pull it from its registry, and does not start while it cannot",
            ),
        }
    }
}

/// Where the new RKE2 will find its runtime. `folders` are its data folders by name, `archives` what lies in `agent/images`,
/// `staged` the archives that this upgrade will put there. A folder counts only when it is known to be whole.
///
/// # Errors
/// There are archives, as on a node that reaches no registry, and the runtime is in none of them; or RKE2 would start from a folder
/// that may be half unpacked.
pub fn new_source(
    version: &Rke2Version,
    folders: &[(String, Folder)],
    archives: &[Archive],
    staged: &[Archive],
) -> Result<Source, Objection> {
    let (doubtful, sound): (Vec<_>, Vec<_>) =
        folders.iter().cloned().partition(|(_, folder)| folder.is_doubtful(version));
    let found = source(version, &sound, archives, staged);
    let Some((name, _)) = doubtful.first() else { return found };
    let why = format!(
        "{version} would take data folder {name} as it is, and nothing tells whether it was unpacked to its end"
    );
    let fix = match found {
        Ok(source) => format!("remove that folder, RKE2 unpacks it again ({source})"),
        Err(objection) => format!("remove that folder, and {}", objection.fix),
    };
    Err(Objection { why, fix })
}

/// Where the old RKE2 will find its runtime when the way back leads there, and until the swap. It runs from its folder, so that one
/// is whole. What the upgrade brings is of its new version.
///
/// # Errors
/// There are archives, and the runtime is neither in one of them nor unpacked.
pub fn old_source(
    change: &VersionChange,
    way: &WayBack,
    folders: &[(String, Folder)],
    archives: &[Archive],
) -> Result<Source, Objection> {
    let found = source(&change.from, folders, archives, &[])?;
    match &found {
        Source::Unpacked(folder) if must_keep(way, &change.to) => Ok(Source::Kept(folder.clone())),
        Source::Unpacked(_)
        | Source::Kept(_)
        | Source::Archive(_)
        | Source::Staged(_)
        | Source::Fetched(_)
        | Source::Registry => Ok(found),
    }
}

fn source(
    version: &Rke2Version,
    folders: &[(String, Folder)],
    archives: &[Archive],
    staged: &[Archive],
) -> Result<Source, Objection> {
    if let Some((name, _)) = folders.iter().find(|(_, folder)| folder.is_whole(version)) {
        return Ok(Source::Unpacked(name.clone()));
    }
    let holds = |archive: &&Archive| match &archive.contents {
        Contents::Images(images) => images.iter().any(|image| is_runtime(image, version)),
        Contents::Closed(_) | Contents::Unseen => false,
    };
    if let Some(archive) = archives.iter().find(holds) {
        return Ok(Source::Archive(archive.name.clone()));
    }
    if let Some(archive) = staged.iter().find(holds) {
        return Ok(Source::Staged(archive.name.clone()));
    }
    if let Some(archive) = staged.iter().find(|archive| archive.contents == Contents::Unseen) {
        return Ok(Source::Fetched(archive.name.clone()));
    }
    if archives.is_empty() && staged.is_empty() {
        return Ok(Source::Registry);
    }
    let image = format!("rancher/{IMAGE}:{}", tag(version));
    let names: Vec<&str> = archives.iter().chain(staged).map(|archive| archive.name.as_str()).collect();
    let mut why =
        format!("{image} is neither unpacked nor in any of these image archives: {}", names.join(", "));
    why.extend(folders.iter().map(|(name, _)| format!("; {name} is not whole")));
    let closed: Vec<String> = archives
        .iter()
        .chain(staged)
        .filter_map(|archive| match &archive.contents {
            Contents::Closed(reason) => Some(format!("{} ({reason})", archive.name)),
            Contents::Images(_) | Contents::Unseen => None,
        })
        .collect();
    let mut fix = format!(
        "put an archive with it into agent/images, such as rke2-images.linux-amd64.tar.zst of {version}"
    );
    if !closed.is_empty() {
        why += &["; cannot look into ", &closed.join(", ")].concat();
        fix.push_str(", or pack what cannot be looked into as .tar.zst");
    }
    Err(Objection { why, fix })
}

#[cfg(test)]
#[path = "runtime_image_tests.rs"]
mod tests;
