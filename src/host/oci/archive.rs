//! An archive of images on the disk: found in one reading after the other, each in bounded memory, since what names the layers
//! may lie behind them.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::host::fs::{Fs, FsError, hex};
use crate::host::oci::layer::{self, LayerError, Taken};
use crate::host::oci::manifest::{self, Descriptor, ImageConfig, Manifest, SavedImage};
use crate::host::oci::{Found, OciError, Sought};
use crate::host::tar_stream::{Entry, Kind, WalkError, plain, walk};
use crate::host::unpack::in_passing;

use sha2::{Digest, Sha256};

/// The images of a whole Harvester release unpack to less.
const ARCHIVE_LIMIT: u64 = 16 << 30;
/// No manifest, index or configuration is longer.
const JSON_LIMIT: u64 = 4 << 20;
/// Read at once.
const PIECE: usize = 256 << 10;
/// How the names of images are written in an OCI layout.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// A layer as an archive has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layer {
    /// The file in the archive.
    name: String,
    /// Its digest in hex.
    sha256: String,
    /// Is that the digest of the layer's content, or of the file as it lies there?
    is_of_content: bool,
}

struct Archive<'a> {
    fs: &'a Fs,
    file: &'a Path,
    image: String,
}

/// See [`super::take_from_archive`].
pub(super) fn take(
    fs: &Fs,
    file: &Path,
    image: Option<&str>,
    arch: &str,
    sought: &Sought,
) -> Result<Found, OciError> {
    let shown = match image {
        Some(image) => format!("{image} of {}", file.display()),
        None => file.display().to_string(),
    };
    let archive = Archive { fs, file, image: shown };
    let layers = match archive.json("manifest.json")? {
        Some(text) => archive.saved_layers(&text, image, arch)?,
        None => archive.oci_layers(image, arch)?,
    };
    archive.take_from(&layers, sought)
}

impl Archive<'_> {
    /// Layers from the bottom up, as `docker save` tells them.
    fn saved_layers(&self, text: &[u8], image: Option<&str>, arch: &str) -> Result<Vec<Layer>, OciError> {
        let unfit = |why| self.unfit(why);
        let images: Vec<SavedImage> = manifest::read("manifest.json", text).map_err(unfit)?;
        let named = images.into_iter().map(|image| (image.repo_tags.clone().unwrap_or_default(), image));
        let chosen = manifest::choose(named.collect(), image).map_err(unfit)?;
        let Some(text) = self.json(&chosen.config)? else { return Err(self.absent(&chosen.config)) };
        // The configuration is named by its digest, and it names the layers by theirs.
        let digits = Path::new(&chosen.config).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        self.check("its configuration", digits, &text)?;
        let config: ImageConfig = manifest::read("configuration", &text).map_err(unfit)?;
        if config.architecture != arch {
            let why = format!(
                "is for {}, this machine is {arch}; use the image of this platform",
                config.architecture
            );
            return Err(self.unfit(why));
        }
        if config.rootfs.diff_ids.len() != chosen.layers.len() {
            return Err(self.unfit("names other layers in its configuration; use another image".to_owned()));
        }
        let pairs = chosen.layers.iter().zip(&config.rootfs.diff_ids);
        pairs
            .map(|(name, id)| {
                let sha256 = manifest::sha256_of(id).map_err(unfit)?.to_owned();
                Ok(Layer { name: name.clone(), sha256, is_of_content: true })
            })
            .collect()
    }

    /// Layers from the bottom up, as an OCI layout tells them.
    fn oci_layers(&self, image: Option<&str>, arch: &str) -> Result<Vec<Layer>, OciError> {
        let unfit = |why| self.unfit(why);
        let Some(text) = self.json("index.json")? else {
            let why = "has neither manifest.json nor index.json; give an archive of images, as `docker save` writes it";
            return Err(self.unfit(why.to_owned()));
        };
        let index: Manifest = manifest::read("index.json", &text).map_err(unfit)?;
        // Several manifests of one name are one image for several platforms.
        let is_for_platforms = image.is_none() && index.manifests.iter().all(|one| one.platform.is_some());
        let chosen = if is_for_platforms && !index.manifests.is_empty() {
            manifest::for_platform(&index, arch).map_err(unfit)?.clone()
        } else {
            let called = |one: &Descriptor| {
                NAMES.iter().filter_map(|key| one.annotations.get(*key).cloned()).collect()
            };
            let named = index.manifests.iter().map(|one| (called(one), one.clone()));
            manifest::choose(named.collect(), image).map_err(unfit)?
        };
        let mut manifest = self.manifest(&chosen)?;
        if !manifest.manifests.is_empty() {
            let chosen = manifest::for_platform(&manifest, arch).map_err(unfit)?.clone();
            manifest = self.manifest(&chosen)?;
        }
        let layers = manifest.layers.iter().map(|layer| {
            let sha256 = manifest::sha256_of(&layer.digest).map_err(unfit)?.to_owned();
            Ok(Layer { name: format!("blobs/sha256/{sha256}"), sha256, is_of_content: false })
        });
        layers.collect()
    }

    fn manifest(&self, descriptor: &Descriptor) -> Result<Manifest, OciError> {
        let digits = manifest::sha256_of(&descriptor.digest).map_err(|why| self.unfit(why))?;
        let name = format!("blobs/sha256/{digits}");
        let Some(text) = self.json(&name)? else { return Err(self.absent(&name)) };
        self.check("its manifest", digits, &text)?;
        manifest::read("manifest", &text).map_err(|why| self.unfit(why))
    }

    /// Takes the files out of the layers, in whatever order these lie in the archive: the highest layer that has one wins.
    fn take_from(&self, layers: &[Layer], sought: &Sought) -> Result<Found, OciError> {
        let heights: BTreeMap<&str, (usize, &Layer)> =
            layers.iter().enumerate().map(|(height, layer)| (layer.name.as_str(), (height, layer))).collect();
        let (mut tarball, mut sums) = (None, None::<(usize, String)>);
        let mut seen = std::collections::BTreeSet::new();
        self.each(|entry, content| {
            let Some((height, layer)) = heights.get(name_of(entry)).copied() else { return Ok(()) };
            if !matches!(entry.kind, Kind::File { .. }) {
                return Err(self.absent(&layer.name));
            }
            seen.insert(height);
            // A lower layer is read all the same: what is damaged in an image makes all of it suspect.
            let is_covered = tarball.is_some_and(|above| above > height);
            let name = if is_covered { String::new() } else { sought.tarball.clone() };
            let taken = self.take_layer(layer, content, &Sought { tarball: name, ..sought.clone() })?;
            if taken.has_tarball {
                tarball = Some(height);
            }
            if let Some(text) = taken.sums
                && sums.as_ref().is_none_or(|(above, _)| *above < height)
            {
                sums = Some((height, text));
            }
            Ok(())
        })?;
        if let Some((name, _)) = heights.iter().find(|(_, (height, _))| !seen.contains(height)) {
            return Err(self.absent(name));
        }
        if tarball.is_none() {
            return Err(
                self.unfit(format!("has no {} in it; use system-agent-installer-rke2", sought.tarball))
            );
        }
        let sums = sums.map(|(_, text)| (sought.sums.clone(), text));
        Ok(Found { tarball: sought.folder.join(&sought.tarball), sums })
    }

    fn take_layer(&self, layer: &Layer, content: &mut dyn Read, sought: &Sought) -> Result<Taken, OciError> {
        let torn = |error: std::io::Error| self.unfit(format!("cannot be read ({error}); fetch it again"));
        let (taken, found) = if layer.is_of_content {
            let content = plain(content).map_err(torn)?;
            in_passing(content, |content| layer::take(self.fs, content, sought))
        } else {
            in_passing(content, |mut packed| {
                let mut content = plain(&mut packed).map_err(|error| LayerError::Unfit(error.to_string()))?;
                layer::take(self.fs, &mut *content, sought)
            })
        };
        let found = found.map_err(torn)?;
        // The digest first: damage explains whatever else went wrong with it.
        if found != layer.sha256 {
            return Err(OciError::Damaged { image: self.image.clone(), part: layer.name.clone(), found });
        }
        taken.map_err(|error| match error {
            LayerError::Unfit(why) => self.unfit(why),
            LayerError::Io(source) => OciError::Io { image: self.image.clone(), source },
        })
    }

    /// A short file of the archive; none when it has none of this name.
    fn json(&self, wanted: &str) -> Result<Option<Vec<u8>>, OciError> {
        let mut found = None;
        let read = self.each(|entry, content| {
            if name_of(entry) != wanted || !matches!(entry.kind, Kind::File { .. }) {
                return Ok(());
            }
            if entry.size > JSON_LIMIT {
                return Err(self.unfit(format!("has a {wanted} of {} bytes; use another image", entry.size)));
            }
            let mut text = Vec::new();
            let read = content.read_to_end(&mut text).map_err(FsError::on("read", self.file));
            read.map_err(|source| OciError::Io { image: self.image.clone(), source })?;
            found = Some(text);
            // Enough is read: the rest may be gigabytes.
            Err(self.absent(wanted))
        });
        match (found, read) {
            (Some(text), _) => Ok(Some(text)),
            (None, Ok(())) => Ok(None),
            (None, Err(error)) => Err(error),
        }
    }

    fn each(&self, look: impl FnMut(&Entry, &mut dyn Read) -> Result<(), OciError>) -> Result<(), OciError> {
        let io = |source| OciError::Io { image: self.image.clone(), source };
        let torn = |error| io(FsError::on("read", self.file)(error));
        let mut input =
            self.fs.effects().open(self.file).map_err(FsError::on("open", self.file)).map_err(io)?;
        let mut stream = plain(&mut *input).map_err(torn)?;
        match walk(&mut *stream, ARCHIVE_LIMIT, PIECE, look) {
            Ok(()) => Ok(()),
            Err(WalkError::Ended(error)) => Err(error),
            Err(WalkError::Damaged(error)) => Err(torn(error)),
            Err(WalkError::TooBig) => {
                Err(self.unfit(format!("is in an archive of more than {ARCHIVE_LIMIT} bytes; save it alone")))
            }
        }
    }

    fn check(&self, part: &str, expected: &str, content: &[u8]) -> Result<(), OciError> {
        let found = hex(&Sha256::digest(content));
        if found == expected {
            return Ok(());
        }
        Err(OciError::Damaged { image: self.image.clone(), part: part.to_owned(), found })
    }

    fn unfit(&self, why: String) -> OciError {
        OciError::Unfit { image: self.image.clone(), why }
    }

    fn absent(&self, name: &str) -> OciError {
        self.unfit(format!("has no file {name}, which it names; save the image again"))
    }
}

fn name_of(entry: &Entry) -> &str {
    let name = entry.name.to_str().unwrap_or_default();
    name.strip_prefix("./").unwrap_or(name)
}
