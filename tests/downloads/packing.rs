//! Releases, images and bombs, made while the test runs.

use std::io::{Read, Write};

use sha2::{Digest, Sha256};
use tar::EntryType;
use upgrade_agent::host::fs::hex;
use upgrade_agent::host::release::arch;

pub(crate) fn sha256(content: &[u8]) -> String {
    hex(&Sha256::digest(content))
}

/// Bytes that no compression makes smaller, always the same ones.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content
}

/// What programs look like to a compressor: stretches that occurred before, between others that did not. Packs to about half.
pub(crate) fn likely(bytes: usize) -> Vec<u8> {
    let noise = noise(bytes / 2 + 4096);
    let mut content: Vec<u8> = noise[..4096].to_vec();
    let mut at = 4096;
    while content.len() < bytes {
        let (new, old) = (usize::from(noise[at]) % 16 + 4, usize::from(noise[at + 1]) % 32 + 4);
        let back = (usize::from(noise[at + 2]) << 4 | usize::from(noise[at + 3])) % 3900 + 64;
        content.extend_from_slice(&noise[at..at + new]);
        let from = content.len() - back;
        content.extend_from_within(from..from + old);
        at = (at + new) % (noise.len() - 64);
    }
    content.truncate(bytes);
    content
}

pub(crate) fn header(name: &str, kind: EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    // Past the crate's own care for names.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_cksum();
    header.as_bytes().to_vec()
}

pub(crate) fn tarball(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, content) in files {
        archive.extend(header(name, EntryType::Regular, content.len() as u64));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// A release whose binary is `bytes` of noise.
pub(crate) fn release(bytes: usize) -> Vec<u8> {
    gzip(&tarball(&[("bin/rke2", &noise(bytes)), ("share/rke2/LICENSE.txt", b"Apache-2.0\n")]))
}

/// A tar stream, packed piece by piece: zeros by the gigabyte are a few kilobytes, often repeated.
pub(crate) struct Bomb {
    pack: fn(&[u8]) -> Vec<u8>,
    pub(crate) packed: Vec<u8>,
    zeros: Vec<u8>,
}

/// Zeros that are packed at once.
const ZEROS: u64 = 64 << 20;

impl Bomb {
    pub(crate) fn new(pack: fn(&[u8]) -> Vec<u8>) -> Self {
        let mut zeros = Vec::new();
        std::io::repeat(0).take(ZEROS).read_to_end(&mut zeros).unwrap();
        Self { pack, packed: Vec::new(), zeros: pack(&zeros) }
    }

    /// An entry of so many zeros, in multiples of 64 MiB.
    pub(crate) fn entry(mut self, name: &str, kind: EntryType, size: u64) -> Self {
        self.packed.extend((self.pack)(&header(name, kind, size)));
        for _ in 0..size / ZEROS {
            self.packed.extend_from_slice(&self.zeros);
        }
        self
    }
}

fn digest(content: &[u8]) -> String {
    format!("sha256:{}", sha256(content))
}

fn config(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": arch(), "os": "linux", "rootfs": { "type": "layers", "diff_ids": ids }
    }))
    .unwrap()
}

/// Layers of an installer image, plain: its script, its sums, the tarball.
pub(crate) fn installer_layers(release: &[u8]) -> Vec<Vec<u8>> {
    let (name, sums) = (format!("rke2.linux-{}.tar.gz", arch()), format!("sha256sum-{}.txt", arch()));
    let text = format!("{}  {name}\n", sha256(release));
    vec![
        tarball(&[("installer.sh", b"#!/bin/sh\n"), (&name, b"of a lower layer, hidden")]),
        tarball(&[(&sums, text.as_bytes())]),
        tarball(&[(&name, release)]),
        tarball(&[("run.sh", b"#!/bin/sh\nexit 1\n")]),
    ]
}

/// As `docker save` writes it.
pub(crate) fn saved(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let config = config(layers);
    let config_name = format!("{}.json", sha256(&config));
    let names: Vec<String> = (0..layers.len()).map(|at| format!("{at}/layer.tar")).collect();
    let manifest = serde_json::to_vec(&serde_json::json!([
        { "Config": config_name, "RepoTags": [name], "Layers": names }
    ]))
    .unwrap();
    // Layers first, as Docker has them: what names them comes behind.
    let mut files: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(layers.iter().map(Vec::as_slice)).collect();
    files.extend([(config_name.as_str(), config.as_slice()), ("manifest.json", &manifest)]);
    tarball(&files)
}

/// The blobs of an image by their digests, and the digest of its index.
pub(crate) fn blobs(layers: &[Vec<u8>]) -> (Vec<(String, Vec<u8>)>, String) {
    let packed: Vec<Vec<u8>> = layers.iter().map(|layer| gzip(layer)).collect();
    let config = config(layers);
    let described: Vec<serde_json::Value> = packed
        .iter()
        .map(|layer| serde_json::json!({ "digest": digest(layer), "size": layer.len() }))
        .collect();
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "config": { "digest": digest(&config), "size": config.len() }, "layers": described
    }))
    .unwrap();
    let platform = |arch: &str, digest: &str| serde_json::json!({ "digest": digest, "size": 1, "platform": { "os": "linux", "architecture": arch } });
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "manifests": [platform("s390x", &digest(b"another")), platform(arch(), &digest(&manifest))]
    }))
    .unwrap();
    let top = digest(&index);
    let blobs = packed.into_iter().chain([config, manifest, index]).map(|blob| (digest(&blob), blob));
    (blobs.collect(), top)
}

/// An OCI layout in a tar file.
pub(crate) fn layout(name: &str, layers: &[Vec<u8>]) -> Vec<u8> {
    let (blobs, top) = blobs(layers);
    let index = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2,
        "manifests": [{ "digest": top, "size": 1, "annotations": { "org.opencontainers.image.ref.name": name } }]
    }))
    .unwrap();
    let names: Vec<String> =
        blobs.iter().map(|(digest, _)| format!("blobs/{}", digest.replace(':', "/"))).collect();
    let mut files: Vec<(&str, &[u8])> =
        names.iter().map(String::as_str).zip(blobs.iter().map(|(_, blob)| blob.as_slice())).collect();
    files.push(("index.json", &index));
    tarball(&files)
}
