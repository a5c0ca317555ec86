//! Where RKE2 of each version finds its runtime, as tables.

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

#[test]
fn which_releases_remove_the_data_folders_of_others() {
    for (release, removes) in [
        ("v1.32.13+rke2r1", false),
        ("v1.33.10+rke2r1", false),
        ("v1.33.11+rke2r1", true),
        ("v1.34.6+rke2r1", false),
        ("v1.34.7+rke2r1", true),
        ("v1.35.3+rke2r1", false),
        ("v1.35.4+rke2r1", true),
        ("v1.36.0+rke2r1", true),
    ] {
        assert_eq!(cleans(&version(release)), removes, "{release}");
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
        let found = new_source(&to, &folders, &archives, &staged);
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
}

/// Before the mark was invented, RKE2 takes what looks whole, and never looks for the image again.
#[test]
fn a_folder_that_may_be_half_unpacked_is_not_started_from() {
    let to = version("v1.34.1+rke2r1");
    let name = "v1.34.1-rke2r1-0123456789ab";
    let folders = |folder: Folder| vec![(name.to_owned(), folder)];
    let holds = || with("new.tar.zst", &["rancher/rke2-runtime:v1.34.1-rke2r1"]);
    let other = || with("other.tar.zst", &["rancher/rke2-runtime:v1.33.1-rke2r1"]);
    for (archives, cure) in [
        (vec![], "unpacks it again (no image archives"),
        (vec![holds()], "unpacks it again (in new.tar.zst)"),
        (vec![other()], "remove that folder, and put an archive"),
    ] {
        let objection = new_source(&to, &folders(TORN), &archives, &[]).unwrap_err();
        assert!(objection.why.contains(name) && objection.fix.contains(cure), "{objection:?}");
    }
    // One that it will not use as it is it unpacks anew.
    let empty = Folder { has_charts: false, ..TORN };
    assert_eq!(new_source(&to, &folders(empty), &[], &[]), Ok(Source::Registry));
    assert!(new_source(&to, &folders(empty), &[other()], &[]).is_err());
    assert_eq!(
        new_source(&to, &folders(empty), &[holds()], &[]),
        Ok(Source::Archive("new.tar.zst".to_owned()))
    );
}

#[test]
fn the_old_runtime_outlives_a_new_version_that_removes_it() {
    let (kept, stays) = (Source::Kept("f".to_owned()), Source::Unpacked("f".to_owned()));
    let archive = Source::Archive("old.tar.zst".to_owned());
    let closed = || WayBack::Closed { why: String::new() };
    let unpacked = || vec![("f".to_owned(), TORN)];
    let old = || with("old.tar.zst", &["rancher/rke2-runtime:v1.34.1-rke2r1"]);
    let new = || with("new.tar.zst", &["rancher/rke2-runtime:v1.35.6-rke2r1"]);
    let lost = || Err("rke2-runtime:v1.34.1-rke2r1 is neither unpacked");
    for (to, way, folders, archives, expected) in [
        ("v1.35.6+rke2r1", WayBack::Open, unpacked(), vec![new()], Ok(kept.clone())),
        ("v1.35.6+rke2r1", WayBack::WhileOthersAreOld, unpacked(), vec![], Ok(kept)),
        // That version leaves it there.
        ("v1.35.3+rke2r1", WayBack::Open, unpacked(), vec![new()], Ok(stays.clone())),
        // Nobody goes back; until the swap it is there.
        ("v1.35.6+rke2r1", closed(), unpacked(), vec![new()], Ok(stays)),
        ("v1.35.6+rke2r1", WayBack::Open, vec![], vec![new(), old()], Ok(archive)),
        ("v1.35.6+rke2r1", WayBack::Open, vec![], vec![], Ok(Source::Registry)),
        ("v1.35.6+rke2r1", WayBack::Open, vec![], vec![new()], lost()),
        ("v1.35.6+rke2r1", closed(), vec![], vec![new()], lost()),
    ] {
        let change = VersionChange { from: version("v1.34.1+rke2r1"), to: version(to) };
        let found = old_source(&change, &way, &folders, &archives);
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(*found, expected, "{to} {way}"),
            (Err(objection), Err(words)) => assert!(objection.why.contains(words), "{objection:?}"),
            other => panic!("{to} {way}: {other:?}"),
        }
    }
}
