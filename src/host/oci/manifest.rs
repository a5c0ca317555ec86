//! What registries and archives say about images, as far as it is needed to find their layers. Pure.

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The forms of a manifest that are understood, for `Accept`.
pub(super) const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.docker.distribution.manifest.v2+json";

/// A manifest of any form: an index has `manifests`, the manifest of one image has `layers`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// A blob by its digest.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    pub digest: String,
    #[serde(default)]
    pub size: u64,
    #[serde(default)]
    pub platform: Option<Platform>,
    #[serde(default)]
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// What an image runs on.
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Platform {
    #[serde(default)]
    pub os: String,
    #[serde(default)]
    pub architecture: String,
}

/// One image of an archive as `docker save` writes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct SavedImage {
    pub config: String,
    #[serde(default)]
    pub repo_tags: Option<Vec<String>>,
    pub layers: Vec<String>,
}

/// The configuration of an image.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ImageConfig {
    #[serde(default)]
    pub architecture: String,
    #[serde(default)]
    pub rootfs: RootFs,
}

/// Its layers, by the digests of their content.
#[derive(Debug, Default, Deserialize)]
pub(super) struct RootFs {
    #[serde(default)]
    pub diff_ids: Vec<String>,
}

/// Reads JSON; what is wrong with it otherwise.
pub(super) fn read<T: DeserializeOwned>(what: &str, text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text)
        .map_err(|error| format!("has a {what} that cannot be read ({error}); use another image"))
}

/// The hexadecimal digits of a sha256 digest.
pub(super) fn sha256_of(digest: &str) -> Result<&str, String> {
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        Ok(hex)
    } else {
        Err(format!("has a part with digest {digest:?}, which is no sha256; use another image"))
    }
}

/// The image for Linux on `arch` among those of an index.
pub(super) fn for_platform<'a>(index: &'a Manifest, arch: &str) -> Result<&'a Descriptor, String> {
    let fits = |one: &&Descriptor| match &one.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == arch,
        // Who lists one image need not say for what.
        None => index.manifests.len() == 1,
    };
    index.manifests.iter().find(fits).ok_or_else(|| {
        let named = index.manifests.iter().filter_map(|one| one.platform.as_ref());
        let all: Vec<String> = named.map(|one| format!("{}/{}", one.os, one.architecture)).collect();
        format!("is not for linux/{arch}, only for {}; use the image of this platform", all.join(", "))
    })
}

/// Does the name of an image, as an archive has it, stand for the one that is wanted? Archives may leave the registry out, and
/// so may plans.
pub(super) fn is_named(name: &str, wanted: &str) -> bool {
    name == wanted || name.ends_with(&format!("/{wanted}")) || wanted.ends_with(&format!("/{name}"))
}

/// The one candidate that is wanted, each given with its names.
pub(super) fn choose<T>(candidates: Vec<(Vec<String>, T)>, wanted: Option<&str>) -> Result<T, String> {
    let shown: Vec<String> = candidates.iter().flat_map(|(names, _)| names.clone()).take(20).collect();
    let count = candidates.len();
    let fits = |names: &[String]| wanted.is_none_or(|wanted| names.iter().any(|name| is_named(name, wanted)));
    let mut fitting: Vec<T> =
        candidates.into_iter().filter(|(names, _)| fits(names)).map(|(_, found)| found).collect();
    match (fitting.len(), fitting.pop()) {
        (1, Some(found)) => Ok(found),
        (0, _) if count == 0 => {
            Err("is in an archive without images; give one that `docker save` has written".to_owned())
        }
        (0, _) => {
            Err(format!("is not in the archive, which has {}; name one of them after #", shown.join(", ")))
        }
        (fitting, _) => Err(format!(
            "could be any of {fitting} in the archive; name one of them after #: {}",
            shown.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_of_the_machines_own_platform_is_taken() {
        let text = br#"{"manifests":[
            {"digest":"sha256:a","size":1,"platform":{"os":"linux","architecture":"arm64"}},
            {"digest":"sha256:b","size":1,"platform":{"os":"linux","architecture":"amd64"}},
            {"digest":"sha256:c","size":1,"platform":{"os":"unknown","architecture":"unknown"}}]}"#;
        let index: Manifest = read("index", text).unwrap();
        assert_eq!(for_platform(&index, "amd64").unwrap().digest, "sha256:b");
        let why = for_platform(&index, "s390x").unwrap_err();
        assert!(why.contains("linux/arm64, linux/amd64"), "{why}");
        let one: Manifest = read("index", br#"{"manifests":[{"digest":"sha256:a"}]}"#).unwrap();
        assert_eq!(for_platform(&one, "amd64").unwrap().digest, "sha256:a");
    }

    #[test]
    fn one_of_several_images_has_to_be_named() {
        let names = |name: &str| vec![name.to_owned()];
        let two = || vec![(names("reg/rancher/a:v1"), 1), (names("rancher/b:v1"), 2)];
        for (wanted, expected) in [
            (Some("rancher/a:v1"), Ok(1)),
            (Some("reg/rancher/b:v1"), Ok(2)),
            (Some("b:v1"), Ok(2)),
            (Some("b"), Err("is not in the archive")),
            (None, Err("could be any of 2")),
        ] {
            let chosen = choose(two(), wanted);
            match expected {
                Ok(expected) => assert_eq!(chosen, Ok(expected)),
                Err(says) => assert!(chosen.unwrap_err().contains(says), "{wanted:?}"),
            }
        }
        assert_eq!(choose(vec![(vec![], 1)], None), Ok(1));
        assert!(choose::<u8>(vec![], None).unwrap_err().contains("without images"));
    }

    #[test]
    fn only_a_sha256_is_a_digest() {
        let hex = "0".repeat(64);
        assert_eq!(sha256_of(&format!("sha256:{hex}")), Ok(hex.as_str()));
        for bad in ["", "sha256:", "sha512:00", &hex, "sha256:../../x"] {
            sha256_of(bad).unwrap_err();
        }
    }
}
