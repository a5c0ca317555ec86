//! Releases in installer images: in archives of any form on the disk, and in a registry.

use std::collections::BTreeMap;

use upgrade_agent::host::release::arch;

use crate::ground::Ground;
use crate::ordered;
use crate::packing::{blobs, gzip, installer_layers, layout, noise, release, saved, sha256, tarball, zstd};
use crate::server::{Server, part};

const IMAGE: &str = "rancher/system-agent-installer-rke2:v1.35.6-rke2r1";

#[tokio::test(flavor = "multi_thread")]
async fn an_image_archive_of_any_form_gives_its_release() {
    let release = release(3 << 20);
    let layers = installer_layers(&release);
    let own: fn(&[u8]) -> Vec<u8> = <[u8]>::to_vec;
    for (form, archive) in [("saved", saved(IMAGE, &layers)), ("layout", layout(IMAGE, &layers))] {
        for pack in [own, gzip, zstd] {
            let ground = Ground::new();
            ground.put("/images/installer.tar", &pack(&archive));
            for source in
                ["oci:///images/installer.tar".to_owned(), format!("oci:///images/installer.tar#{IMAGE}")]
            {
                ground
                    .stage(&ordered(&source, &release), 60)
                    .await
                    .unwrap_or_else(|error| panic!("{form}: {error}"));
                assert!(ground.staged() == noise(3 << 20), "{form}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_not_what_it_says_is_refused() {
    let release = release(3 << 20);
    let layers = installer_layers(&release);
    let damaged = |mut archive: Vec<u8>, at: usize| {
        archive[at] ^= 1;
        archive
    };
    let (saved_image, oci_image) = (saved(IMAGE, &layers), layout(IMAGE, &layers));
    let without = tarball(&[("run.sh", b"")]);
    let mut sums = layers.clone();
    sums[1] = tarball(&[(&format!("sha256sum-{}.txt", arch()), format!("{}  x\n", sha256(b"x")).as_bytes())]);
    for (what, archive, fragment, says) in [
        ("a damaged layer", damaged(saved_image.clone(), 2 << 20), "", "has digest"),
        ("a damaged blob", damaged(oci_image, 2 << 20), "", "has digest"),
        ("no release", saved(IMAGE, &[without]), "", "has no rke2.linux-"),
        ("another image", saved_image.clone(), "#rancher/other:v1", IMAGE),
        ("no image", tarball(&[("x", b"x")]), "", "neither manifest.json nor index.json"),
        ("a torn archive", saved_image[..3 << 20].to_vec(), "", "cannot be read"),
        ("other sums", saved(IMAGE, &sums), "", "has no line for"),
        ("another release", saved(IMAGE, &installer_layers(b"another")), "", "the plan orders"),
    ] {
        let ground = Ground::new();
        ground.put("/images/installer.tar", &archive);
        let before = ground.listing();
        let source = format!("oci:///images/installer.tar{fragment}");
        let refusal = ground.stage(&ordered(&source, &release), 60).await.unwrap_err();
        assert!(refusal.contains(says), "{what}: {refusal}");
        assert_eq!(ground.listing(), before, "{what}");
    }
}

/// A registry that gives leave to anybody who asks for it, and keeps its blobs elsewhere.
fn registry(layers: &[Vec<u8>], spoiled: bool) -> Server {
    let (blobs, top) = blobs(layers);
    let mut blobs: BTreeMap<String, Vec<u8>> = blobs.into_iter().collect();
    if spoiled {
        let layer = blobs.values_mut().max_by_key(|blob| blob.len()).unwrap();
        layer[1 << 20] ^= 1;
    }
    let elsewhere = Server::of_files(
        blobs.iter().map(|(digest, blob)| (format!("/{digest}"), blob.clone())).collect(),
        1 << 20,
    );
    let store = elsewhere.address.clone();
    let empty =
        |status: &str, more: &str| (format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n{more}"), Vec::new());
    Server::start(move |request| {
        let host =
            request.head.split("host: ").nth(1).and_then(|host| host.lines().next()).unwrap_or_default();
        if request.path.starts_with("/token?service=reg&scope=repository:rancher/installer:pull") {
            return part(br#"{"token":"leave"}"#, 0, usize::MAX);
        }
        if !request.head.contains("authorization: bearer leave") {
            let realm = format!(
                "WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"reg\",scope=\"repository:rancher/installer:pull\"\r\n"
            );
            return empty("401 Unauthorized", &realm);
        }
        let last = request.path.rsplit('/').next().unwrap();
        let digest = if last == "v1.35.6-rke2r1" { top.as_str() } else { last };
        match blobs.get(digest) {
            Some(blob) if request.path.contains("/manifests/") => part(blob, 0, usize::MAX),
            Some(_) => empty("307 Temporary Redirect", &format!("Location: http://{store}/{digest}\r\n")),
            None => empty("404 Not Found", ""),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_gives_the_release_to_whoever_has_no_account() {
    let release = release(3 << 20);
    let layers = installer_layers(&release);
    let server = registry(&layers, false);
    let (_, top) = blobs(&layers);
    for version in [":v1.35.6-rke2r1".to_owned(), format!("@{top}")] {
        let ground = Ground::new();
        let order = ordered(&format!("oci://{}/rancher/installer{version}", server.address), &release);
        ground.stage(&order, 60).await.unwrap();
        assert!(ground.staged() == noise(3 << 20));
    }
    for (server, version, says) in [
        (registry(&layers, true), ":v1.35.6-rke2r1".to_owned(), "sha256"),
        (registry(&layers, false), ":v2".to_owned(), "404"),
        (registry(&layers, false), format!("@sha256:{}", sha256(b"x")), "404"),
        (registry(&[tarball(&[("run.sh", b"")])], false), ":v1.35.6-rke2r1".to_owned(), "has no rke2.linux-"),
    ] {
        let ground = Ground::new();
        let before = ground.listing();
        let order = ordered(&format!("oci://{}/rancher/installer{version}", server.address), &release);
        let refusal = ground.stage(&order, 60).await.unwrap_err();
        assert!(refusal.contains(says), "{refusal}, not {says}");
        assert_eq!(ground.listing(), before);
    }
}
