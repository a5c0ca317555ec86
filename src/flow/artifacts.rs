//! What a node is to be brought and from where: the release, its file of sums, archives of images. Only what the plan says;
//! whether it is there, and is that, is found out on the machine.

use std::collections::BTreeSet;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::flow::place::Place;
use crate::flow::plan_error::PlanError;
use crate::flow::version::Rke2Version;

/// The endings that RKE2 imports, longest first (reference `rke2-and-rancher.md` §1.5).
const IMAGE_ENDINGS: [&str; 8] =
    [".tar.lz4", ".tar.bz2", ".tar.zst", ".tar.gz", ".tzst", ".tbz", ".tgz", ".tar"];
/// For the release, and for each archive of images.
const STAGING: Duration = Duration::from_mins(15);
/// More than RKE2 publishes.
const MOST_IMAGES: usize = 16;

/// Where the new binary comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Artifacts {
    /// `file:///folder` with a release tarball in it, or `file:///…tar.gz`; the path is the machine's own. Or one at
    /// `http(s)://…`. Or an installer image: `oci://registry/name:tag`, or `oci:///archive.tar`.
    #[schemars(length(min = 1, max = 2048))]
    pub source: String,
    /// sha256 of the tarball, 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256: String,
    /// The release's file of sums, at `file:///…` or `http(s)://…`; it must say the same digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub sums: Option<String>,
    /// Archives of images that `RKE2` is to import when it starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub images: Vec<ImageArchive>,
}

/// An archive of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageArchive {
    /// `file:///…/rke2-images.linux-amd64.tar.zst`, or the same at `http(s)://…`.
    #[schemars(length(min = 1, max = 2048))]
    pub source: String,
    /// Its sha256, 64 hexadecimal digits.
    #[schemars(regex(pattern = r"^[0-9a-fA-F]{64}$"))]
    pub sha256: String,
}

impl Artifacts {
    /// Checks everything that can be known from the plan alone.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self) -> Result<(), PlanError> {
        check_digest("artifacts.sha256", &self.sha256)?;
        self.place()?;
        self.sums_place()?;
        if self.images.len() > MOST_IMAGES {
            let why = "names more than 16 archives; leave out what the node has";
            return Err(bad("artifacts.images", &self.images.len().to_string(), why));
        }
        let mut names = BTreeSet::new();
        for (number, archive) in self.images.iter().enumerate() {
            check_digest(&format!("artifacts.images[{number}].sha256"), &archive.sha256)?;
            archive.place(number)?;
            if !names.insert(archive.file_name()) {
                let why = "has the file name of another archive of the plan; rename one of them";
                return Err(bad(&format!("artifacts.images[{number}].source"), &archive.source, why));
            }
        }
        Ok(())
    }

    /// How long all of it may take to come: a quarter of an hour for the release, and for each archive of images.
    #[must_use]
    pub fn time_to_stage(&self) -> Duration {
        (1..=self.images.len()).fold(STAGING, |time, _| time + STAGING)
    }

    /// Where the release is.
    ///
    /// # Errors
    /// It is nothing that this version can read.
    pub fn place(&self) -> Result<Place, PlanError> {
        Place::parse(&self.source).map_err(|why| bad("artifacts.source", &self.source, why))
    }

    /// Where its file of sums is, if the plan names one.
    ///
    /// # Errors
    /// It is no file on the disk or on a server.
    pub fn sums_place(&self) -> Result<Option<Place>, PlanError> {
        let Some(sums) = &self.sums else { return Ok(None) };
        file_place(sums).map(Some).map_err(|why| bad("artifacts.sums", sums, why))
    }
}

impl ImageArchive {
    /// Where it is; `number` is its place in the plan's list.
    ///
    /// # Errors
    /// It is no file on the disk or on a server, or RKE2 would not import it.
    pub fn place(&self, number: usize) -> Result<Place, PlanError> {
        let wrong = |why| bad(&format!("artifacts.images[{number}].source"), &self.source, why);
        let place = file_place(&self.source).map_err(wrong)?;
        let name = self.file_name();
        if name.starts_with('.') || ending_of(name).is_none_or(|ending| ending == name) {
            return Err(wrong(
                "is no archive that RKE2 imports; give a .tar, or one ending in .tar.zst or .tar.gz",
            ));
        }
        Ok(place)
    }

    /// The name it gets on the node: its own, with the version before the ending, so that the archives of two versions
    /// lie side by side.
    #[must_use]
    pub fn staged_name(&self, version: &Rke2Version) -> String {
        let name = self.file_name();
        let ending = ending_of(name).unwrap_or_default();
        let stem = name.strip_suffix(ending).unwrap_or(name);
        let version = version.to_string();
        if stem.ends_with(&version) { name.to_owned() } else { format!("{stem}-{version}{ending}") }
    }

    fn file_name(&self) -> &str {
        let path = self.source.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

fn ending_of(name: &str) -> Option<&'static str> {
    IMAGE_ENDINGS.into_iter().find(|ending| name.ends_with(ending))
}

fn bad(field: &str, source: &str, why: &'static str) -> PlanError {
    PlanError::BadSource { field: field.to_owned(), source_text: source.to_owned(), why }
}

fn check_digest(field: &str, digest: &str) -> Result<(), PlanError> {
    let is_digest = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest {
        return Ok(());
    }
    Err(PlanError::BadDigest { field: field.to_owned(), digest: digest.to_owned() })
}

fn file_place(source: &str) -> Result<Place, &'static str> {
    match Place::parse(source)? {
        place @ (Place::Disk(_) | Place::Server { .. }) => Ok(place),
        Place::Registry(_) | Place::Archive { .. } => {
            Err("is an image; give file:///absolute/path or http(s)://server/path of the file")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_of_two_versions_lie_side_by_side() {
        let version: Rke2Version = "v1.35.6+rke2r1".parse().unwrap();
        for (source, expected) in [
            ("file:///x/rke2-images.linux-amd64.tar.zst", "rke2-images.linux-amd64-v1.35.6+rke2r1.tar.zst"),
            (
                "http://m/rke2-images-core.linux-arm64.tar.gz?a=b/c",
                "rke2-images-core.linux-arm64-v1.35.6+rke2r1.tar.gz",
            ),
            ("file:///x/own-v1.35.6+rke2r1.tgz", "own-v1.35.6+rke2r1.tgz"),
        ] {
            let archive = ImageArchive { source: source.into(), sha256: "a".repeat(64) };
            archive.place(0).unwrap();
            assert_eq!(archive.staged_name(&version), expected);
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let archive = |source: &str| ImageArchive { source: source.into(), sha256: "b".repeat(64) };
        let sound = Artifacts { source: "/r".into(), sha256: "a".repeat(64), sums: None, images: vec![] };
        let with = |images: Vec<ImageArchive>| Artifacts { images, ..sound.clone() };
        let short = ImageArchive { sha256: "b".into(), ..archive("/x.tar") };
        let twice = vec![archive("/a/x.tar"), archive("http://m/x.tar")];
        for (artifacts, says) in [
            (Artifacts { sums: Some("oci://reg/a:v1".into()), ..sound.clone() }, "`artifacts.sums`"),
            (with(vec![archive("/a.tar"), archive("/images.txt")]), "`artifacts.images[1].source`"),
            (with(vec![archive("/a/.tar")]), "imports"),
            (with(vec![archive("oci:///a.tar")]), "is an image"),
            (with(vec![short]), "`artifacts.images[0].sha256`"),
            (with(twice), "rename one"),
            (with((0..17).map(|at| archive(&format!("/{at}.tar"))).collect()), "16"),
        ] {
            let error = artifacts.check().unwrap_err().to_string();
            assert!(error.contains(says), "{error} should say {says}");
        }
    }
}
