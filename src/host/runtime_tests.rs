//! Data folders and archives as RKE2 and Docker leave them.

#![expect(clippy::disallowed_methods, reason = "a test makes the files that are looked at")]

use std::fs;
use std::io::Write;

use super::*;

const NEW: &str = "rancher/rke2-runtime:v1.35.6-rke2r1";

fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        builder.append_data(&mut header, name, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn saved(images: &[&str]) -> Vec<u8> {
    let list: Vec<_> =
        images.iter().map(|tag| serde_json::json!({ "Config": "x", "RepoTags": [tag] })).collect();
    let manifest = serde_json::to_vec(&list).unwrap();
    // Layers first, as Docker has it.
    tar_of(&[
        ("blobs/sha256/aa", &[7; 7_000]),
        ("index.json", b"{\"manifests\":[]}"),
        ("manifest.json", &manifest),
    ])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd_long(bytes: &[u8], window: u32) -> Vec<u8> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.long_distance_matching(true).unwrap();
    encoder.window_log(window).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A few kilobytes when packed, and a name of 64 MiB when not.
fn endless_name() -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::GNULongName);
    header.set_size(64 << 20);
    header.set_cksum();
    [header.as_bytes().to_vec(), vec![b'a'; 64 << 20]].concat()
}

fn config(data_dir: &str) -> Rke2Config {
    Rke2Config { data_dir: data_dir.into() }
}

fn images(contents: &Contents) -> Vec<&str> {
    match contents {
        Contents::Images(images) => images.iter().map(String::as_str).collect(),
        Contents::Unseen => panic!("it was not looked into"),
        Contents::Closed(why) => vec![why],
    }
}

#[test]
fn looks_into_every_packing_that_it_can_and_names_what_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path().to_path_buf());
    let config = config("/var/lib/rancher/rke2");
    assert_eq!(archives(&root, &config).unwrap(), [], "no folder, no archives");
    let folder = config.images(&root).unwrap();
    fs::create_dir_all(folder.join("more")).unwrap();
    let both = saved(&["rancher/hardened-etcd:v3.6", NEW]);
    let index = serde_json::json!({ "manifests": [
        { "annotations": { "io.containerd.image.name": "docker.io/rancher/rke2-runtime:v1.35.6-rke2r1",
            "org.opencontainers.image.ref.name": "v1.35.6-rke2r1" } },
        { "digest": "sha256:aa" } ] });
    let oci = tar_of(&[("oci-layout", b"{}"), ("index.json", &serde_json::to_vec(&index).unwrap())]);
    let half = both.get(..both.len() / 2).unwrap();
    for (name, content) in [
        ("a.tar", both.clone()),
        ("b.tar.gz", gzip(&both)),
        ("c.tar.zst", zstd_long(&both, 25)),
        ("d.tar", oci),
        ("e.tar.lz4", b"x".to_vec()),
        ("f.tar.bz2", b"x".to_vec()),
        ("g.tar", half.to_vec()),
        ("h.tar.zst", both.clone()),
        ("i.tar", tar_of(&[("readme", b"x")])),
        ("more/j.tgz", gzip(&saved(&["rancher/rke2-runtime:v1.34.2-rke2r1"]))),
        (".k.tar", both.clone()),
        ("l.txt", NEW.as_bytes().to_vec()),
        ("more/m.tar.zst", zstd_long(&endless_name(), 21)),
    ] {
        fs::write(folder.join(name), content).unwrap();
    }
    nix::unistd::mkfifo(&folder.join("more/n.tar"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let found = archives(&root, &config).unwrap();
    let expected = [
        ("a.tar", NEW),
        ("b.tar.gz", NEW),
        ("c.tar.zst", NEW),
        ("d.tar", "docker.io/rancher/rke2-runtime:v1.35.6-rke2r1"),
        ("e.tar.lz4", "lz4"),
        ("f.tar.bz2", "bzip2"),
        ("g.tar", "cannot be read"),
        ("h.tar.zst", "cannot be read"),
        ("i.tar", "neither manifest.json nor index.json"),
        ("more/j.tgz", "rancher/rke2-runtime:v1.34.2-rke2r1"),
        ("more/m.tar.zst", "a name or header is longer than"),
        ("more/n.tar", "no plain file"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:?}");
    for (archive, (name, words)) in found.iter().zip(expected) {
        assert_eq!(archive.name, name);
        let said = images(&archive.contents);
        assert!(said.len() == 1 && said[0].contains(words), "{name}: {said:?} should say {words}");
    }
}

#[test]
fn sees_what_is_whole_of_a_data_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = HostRoot::new(dir.path().to_path_buf());
    let (config, version) = (config("/data"), "v1.35.6+rke2r1".parse().unwrap());
    let data = config.unpacked(&root).unwrap();
    assert_eq!(folders(&root, &config, &version).unwrap(), []);
    for name in
        ["v1.35.6-rke2r1-7a33eeffe5c4", "v1.35.6-rke2r1-7a33eeffe5c4.tmp", "v1.34.2-rke2r1-0123456789ab"]
    {
        fs::create_dir_all(data.join(name).join("bin")).unwrap();
    }
    let whole = data.join("v1.35.6-rke2r1-7a33eeffe5c4");
    let seen = || folders(&root, &config, &version).unwrap();
    let folder = |has_charts, has_mark| Folder { has_bin: true, has_charts, has_mark };
    let name = "v1.35.6-rke2r1-7a33eeffe5c4".to_owned();
    assert_eq!(seen(), [(name.clone(), folder(false, false))]);
    fs::create_dir_all(whole.join("charts")).unwrap();
    fs::create_dir_all(whole.join(".extracted")).unwrap();
    assert_eq!(seen(), [(name.clone(), folder(true, false))], "the mark is a file");
    fs::remove_dir(whole.join(".extracted")).unwrap();
    fs::write(whole.join(".extracted"), NEW).unwrap();
    assert_eq!(seen(), [(name, folder(true, true))]);
}

#[test]
fn of_an_archive_on_a_server_only_a_packing_that_nobody_opens_is_known() {
    for (url, closed) in [
        ("https://mirror/rke2-images.linux-amd64.tar.zst", false),
        ("https://mirror/rke2-images.linux-amd64.tar.lz4", true),
    ] {
        let archive = archive_from(url);
        assert_eq!(matches!(archive.contents, Contents::Closed(_)), closed, "{archive:?}");
    }
}
