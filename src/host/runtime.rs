//! Looks for RKE2's runtime image on this machine: the data folders that it was unpacked to, and the image archives in
//! `agent/images`. Reads only; whether that is enough is `flow::runtime_image`'s.

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::flow::runtime_image::{Archive, Contents, Folder, is_any_runtime, tag};
use crate::flow::version::Rke2Version;
use crate::host::effects::FileKind;
use crate::host::fs::{Fs, FsError};
use crate::host::rke2_config::Rke2Config;
use crate::host::root::HostRoot;
use crate::host::tar_stream::{WINDOW_LOG, WalkError, walk};

/// Read at once from what an archive unpacks to.
const BUFFER: usize = 64 << 10;
/// No archive of images is larger; a bomb is.
const MOST_UNPACKED: u64 = 32 << 30;
/// A list of images is some kilobytes.
const MOST_LISTED: u64 = 8 << 20;
/// Folders below `agent/images` that are looked into.
const DEEPEST: usize = 4;

/// The data folders of a release by name; RKE2 names them after the image's tag and 12 hex digits of the whole reference, which
/// differ with the registry.
///
/// # Errors
/// The data folder cannot be read.
pub fn folders(
    root: &HostRoot,
    config: &Rke2Config,
    version: &Rke2Version,
) -> Result<Vec<(String, Folder)>, FsError> {
    let fs = root.fs();
    let data = config.unpacked(root)?;
    let prefix = format!("{}-", tag(version));
    let mut found = Vec::new();
    for path in fs.list_dir(&data)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let digits = name.strip_prefix(&prefix).unwrap_or_default();
        if digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            found.push((name, look(fs, &path)));
        }
    }
    Ok(found)
}

/// What a data folder has; of one that is not there nothing.
pub(in crate::host) fn look(fs: &Fs, folder: &Path) -> Folder {
    let mark = fs.effects().stat(&folder.join(".extracted"));
    Folder {
        has_bin: fs.is_dir(&folder.join("bin")),
        has_charts: fs.is_dir(&folder.join("charts")),
        has_mark: mark.is_ok_and(|mark| mark.kind == FileKind::File),
    }
}

/// The image archives of this machine with the runtime images in them. Reads every one to its list, which may take some seconds.
///
/// # Errors
/// The folder of images cannot be read.
pub fn archives(root: &HostRoot, config: &Rke2Config) -> Result<Vec<Archive>, FsError> {
    let images = config.images(root)?;
    let mut paths = Vec::new();
    gather(root.fs(), &images, DEEPEST, &mut paths)?;
    let archive = |path: PathBuf| {
        let name = path.strip_prefix(&images).unwrap_or(&path).display().to_string();
        Archive { name, contents: contents(root.fs(), &path) }
    };
    Ok(paths.into_iter().map(archive).collect())
}

/// One image archive of the machine, wherever it lies.
///
/// # Errors
/// The way to it cannot be followed.
pub fn archive_at(root: &HostRoot, path: &str) -> Result<Archive, FsError> {
    let found = root.resolve(path).map_err(FsError::on("find", Path::new(path)))?;
    Ok(Archive { name: path.to_owned(), contents: contents(root.fs(), &found) })
}

/// One that is still on a server: nobody knows what it holds, and of some it is known that nobody will.
#[must_use]
pub fn archive_from(url: &str) -> Archive {
    let contents = match Packing::of(url) {
        Some(Packing::Foreign(why)) => Contents::Closed(why.to_owned()),
        Some(_) | None => Contents::Unseen,
    };
    Archive { name: url.to_owned(), contents }
}

fn gather(fs: &Fs, folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), FsError> {
    for path in fs.list_dir(folder)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // As RKE2 has it: dot files are not looked at, and the ending alone decides.
        if name.starts_with('.') {
            continue;
        }
        if fs.is_dir(&path) {
            if depth > 0 {
                gather(fs, &path, depth - 1, found)?;
            }
        } else if Packing::of(&name).is_some() {
            found.push(path);
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
    /// RKE2 reads it, this program does not.
    Foreign(&'static str),
}

impl Packing {
    fn of(name: &str) -> Option<Self> {
        let endings = [
            (".tar", Self::Plain),
            (".tar.gz", Self::Gzip),
            (".tgz", Self::Gzip),
            (".tar.zst", Self::Zstd),
            (".tzst", Self::Zstd),
            (".tar.lz4", Self::Foreign("packed with lz4")),
            (".tar.bz2", Self::Foreign("packed with bzip2")),
            (".tbz", Self::Foreign("packed with bzip2")),
        ];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, packing)| packing)
    }
}

fn contents(fs: &Fs, path: &Path) -> Contents {
    let name = path.to_string_lossy();
    let packing = match Packing::of(&name) {
        Some(Packing::Foreign(why)) => return Contents::Closed(why.to_owned()),
        Some(packing) => packing,
        None => return Contents::Closed("packed in an unknown way".to_owned()),
    };
    match open(fs, path, packing).and_then(listed) {
        Ok(images) => Contents::Images(images.into_iter().filter(|image| is_any_runtime(image)).collect()),
        Err(error) => Contents::Closed(format!("it cannot be read: {error}")),
    }
}

fn open(fs: &Fs, path: &Path, packing: Packing) -> io::Result<Box<dyn Read>> {
    let file = BufReader::with_capacity(1 << 20, fs.effects().open(path)?);
    Ok(match packing {
        Packing::Gzip => Box::new(flate2::read::MultiGzDecoder::new(file)),
        Packing::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
            decoder.window_log_max(WINDOW_LOG)?;
            Box::new(decoder)
        }
        Packing::Plain | Packing::Foreign(_) => Box::new(file),
    })
}

/// The names of the images: of `manifest.json` where there is one, or else of `index.json`. Docker writes both at the end.
fn listed(mut archive: impl Read) -> io::Result<Vec<String>> {
    let mut index = None;
    let walked = walk(&mut archive, MOST_UNPACKED, BUFFER, |entry, content| {
        let is = |wanted: &str| entry.name.strip_prefix("./").unwrap_or(&entry.name) == Path::new(wanted);
        if is("manifest.json") {
            return Err(json::<Vec<Saved>>(content).map(|all| of_manifest(&all)));
        }
        if is("index.json") {
            index = Some(of_index(&json(content).map_err(Err)?));
        }
        Ok(())
    });
    match walked {
        Ok(()) => index.ok_or_else(|| io::Error::other("it has neither manifest.json nor index.json")),
        Err(WalkError::Ended(found)) => found,
        Err(WalkError::Damaged(error)) => Err(error),
        Err(WalkError::TooBig) => {
            Err(io::Error::other(format!("it holds more than {} GiB", MOST_UNPACKED >> 30)))
        }
    }
}

fn json<T: serde::de::DeserializeOwned>(entry: &mut dyn Read) -> io::Result<T> {
    let mut text = Vec::new();
    entry.take(MOST_LISTED).read_to_end(&mut text)?;
    serde_json::from_slice(&text).map_err(io::Error::other)
}

/// `docker save`'s list.
#[derive(Deserialize)]
struct Saved {
    #[serde(rename = "RepoTags")]
    tags: Option<Vec<String>>,
}

fn of_manifest(all: &[Saved]) -> Vec<String> {
    all.iter().flat_map(|one| one.tags.iter().flatten().cloned()).collect()
}

/// The OCI image layout's list.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Manifest>,
}

#[derive(Deserialize)]
struct Manifest {
    #[serde(default)]
    annotations: std::collections::BTreeMap<String, String>,
}

fn of_index(index: &Index) -> Vec<String> {
    let names = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
    let name_of = |manifest: &Manifest| names.iter().find_map(|key| manifest.annotations.get(*key).cloned());
    index.manifests.iter().filter_map(name_of).collect()
}

#[cfg(test)]
#[path = "runtime_tests.rs"]
mod tests;
