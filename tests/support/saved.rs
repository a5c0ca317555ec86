//! An archive of images as `docker save` writes it, with nothing but its list.

#![expect(clippy::unwrap_used, reason = "tests")]

pub(crate) fn archive(images: &[&str]) -> Vec<u8> {
    let manifest = serde_json::to_vec(&serde_json::json!([{ "RepoTags": images }])).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(manifest.len() as u64);
    header.set_cksum();
    builder.append_data(&mut header, "manifest.json", manifest.as_slice()).unwrap();
    builder.into_inner().unwrap()
}
