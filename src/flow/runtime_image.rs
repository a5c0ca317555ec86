//! Where RKE2 will find its runtime image (containerd, kubelet, the charts) when it starts: unpacked already, in an archive on the
//! disk, or at a registry. It looks nowhere else, and without it does not start (reference `rke2-and-rancher.md` §2.4). Pure;
//! who looks is `host::runtime`.

use std::fmt;

use crate::flow::skew::Objection;
use crate::flow::version::Rke2Version;

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
    let since = |text: &str| text.parse::<Rke2Version>().is_ok_and(|first| *version >= first);
    match version.minor() {
        (1, ..=31) => false,
        (1, 32) => since("v1.32.10-rc1+rke2r1"),
        (1, 33) => since("v1.33.6-rc1+rke2r1"),
        (1, 34) => since("v1.34.2-rc1+rke2r1"),
        _ => true,
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
            Self::Archive(name) => write!(f, "in {name}"),
            Self::Staged(name) => write!(f, "in {name}, which the upgrade puts there"),
            Self::Fetched(name) => write!(f, "expected in {name}, which the upgrade fetches and nobody has looked into"),
            Self::Registry => f.write_str(
                "no image archives on this machine: RKE2 will pull it from its registry, and does not start while it cannot",
            ),
        }
    }
}

/// Where RKE2 of `version` will find its runtime. `folders` are its data folders by name, `archives` what lies in `agent/images`,
/// `staged` the archives that this upgrade will put there.
///
/// # Errors
/// There are archives, as on a node that reaches no registry, and the runtime is in none of them.
pub fn source(
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
    let mut why = format!("{image} is neither unpacked nor in any of the {} image archives", archives.len());
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
mod tests {
    use super::*;

    const WHOLE: Folder = Folder { has_bin: true, has_charts: true, has_mark: true };
    const TORN: Folder = Folder { has_mark: false, ..WHOLE };

    fn version(text: &str) -> Rke2Version {
        text.parse().unwrap()
    }

    fn folder(folder: Folder) -> Vec<(String, Folder)> {
        vec![("v1.35.6-rke2r1-7a33eeffe5c4".to_owned(), folder)]
    }

    fn with(name: &str, images: &[&str]) -> Archive {
        let contents = Contents::Images(images.iter().map(|&image| image.to_owned()).collect());
        Archive { name: name.to_owned(), contents }
    }

    fn closed(name: &str) -> Archive {
        Archive { name: name.to_owned(), contents: Contents::Closed("lz4".to_owned()) }
    }

    #[test]
    fn the_image_of_a_release_at_any_registry() {
        let to = version("v1.35.6+rke2r1");
        for (reference, is_it) in [
            ("rancher/rke2-runtime:v1.35.6-rke2r1", true),
            ("docker.io/rancher/rke2-runtime:v1.35.6-rke2r1", true),
            ("registry.example:5000/mirror/rancher/rke2-runtime:v1.35.6-rke2r1", true),
            ("rancher/rke2-runtime:v1.35.6-rke2r10", false),
            ("rancher/rke2-runtime:v1.34.2-rke2r1", false),
            ("rancher/not-rke2-runtime:v1.35.6-rke2r1", false),
            ("rancher/rke2-runtime", false),
        ] {
            assert_eq!(is_runtime(reference, &to), is_it, "{reference}");
        }
    }

    #[test]
    fn which_releases_mark_what_they_unpacked() {
        for (release, marked) in [
            ("v1.31.14+rke2r1", false),
            ("v1.32.9+rke2r1", false),
            ("v1.32.10+rke2r1", true),
            ("v1.33.5+rke2r2", false),
            ("v1.33.6+rke2r1", true),
            ("v1.34.1+rke2r1", false),
            ("v1.34.2+rke2r1", true),
            ("v1.35.0+rke2r1", true),
            ("v1.36.0+rke2r1", true),
        ] {
            assert_eq!(marks(&version(release)), marked, "{release}");
        }
    }

    fn unseen(name: &str) -> Archive {
        Archive { name: name.to_owned(), contents: Contents::Unseen }
    }

    type Case = (Vec<(String, Folder)>, Vec<Archive>, Vec<Archive>, Result<Source, &'static str>);

    #[test]
    fn where_the_runtime_comes_from() {
        let to = version("v1.35.6+rke2r1");
        let name = "v1.35.6-rke2r1-7a33eeffe5c4".to_owned();
        let image = "rancher/rke2-runtime:v1.35.6-rke2r1";
        let new = || with("new.tar.zst", &["rancher/rke2-runtime:v1.34.2-rke2r1", image]);
        let old = || with("old.tar.zst", &["rancher/rke2-runtime:v1.34.2-rke2r1"]);
        let nothing = Vec::new;
        let table: Vec<Case> = vec![
            (folder(WHOLE), nothing(), nothing(), Ok(Source::Unpacked(name.clone()))),
            (folder(WHOLE), vec![old()], nothing(), Ok(Source::Unpacked(name))),
            (folder(TORN), vec![old(), new()], nothing(), Ok(Source::Archive("new.tar.zst".to_owned()))),
            (folder(TORN), nothing(), nothing(), Ok(Source::Registry)),
            (folder(TORN), vec![old()], nothing(), Err("v1.35.6-rke2r1-7a33eeffe5c4 is not whole")),
            (vec![], vec![new()], nothing(), Ok(Source::Archive("new.tar.zst".to_owned()))),
            (vec![], vec![old()], vec![new()], Ok(Source::Staged("new.tar.zst".to_owned()))),
            (vec![], nothing(), vec![new()], Ok(Source::Staged("new.tar.zst".to_owned()))),
            (vec![], nothing(), vec![old()], Err(image)),
            (vec![], vec![old()], vec![unseen("far.tar.zst")], Ok(Source::Fetched("far.tar.zst".to_owned()))),
            (vec![], nothing(), nothing(), Ok(Source::Registry)),
            (vec![], vec![old()], nothing(), Err(image)),
            (vec![], vec![old(), closed("x.tar.lz4")], nothing(), Err("cannot look into x.tar.lz4 (lz4)")),
        ];
        for (folders, archives, staged, expected) in table {
            let found = source(&to, &folders, &archives, &staged);
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(*found, expected),
                (Err(objection), Err(words)) => {
                    assert!(
                        objection.why.contains(words) && objection.fix.contains("agent/images"),
                        "{objection:?}"
                    );
                }
                other => panic!("{folders:?} {archives:?}: {other:?}"),
            }
        }
        // Before the mark was invented, RKE2 takes what looks whole.
        let from = version("v1.34.1+rke2r1");
        let folders = vec![("v1.34.1-rke2r1-0123456789ab".to_owned(), TORN)];
        assert!(matches!(source(&from, &folders, &[], &[]), Ok(Source::Unpacked(_))));
        let empty = Folder { has_charts: false, ..TORN };
        assert_eq!(source(&from, &[(String::new(), empty)], &[], &[]), Ok(Source::Registry));
    }
}
