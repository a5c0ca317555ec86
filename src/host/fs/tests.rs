//! Tables over the durable operations, on the real kernel.

#![expect(clippy::disallowed_methods, reason = "tests look past the door they test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn writes_whole_files_with_the_asked_mode_and_leaves_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("plan");
    assert_eq!(Fs::kernel().read_opt(&path).unwrap(), None);
    Fs::kernel().write_atomic(&path, b"one", 0o640).unwrap();
    Fs::kernel().write_atomic(&path, b"two", 0o644).unwrap();
    assert_eq!(Fs::kernel().read_opt(&path).unwrap().unwrap(), b"two");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(Fs::kernel().list_dir(dir.path()).unwrap(), std::slice::from_ref(&path));
    assert!(Fs::kernel().remove_opt(&path).unwrap());
    assert!(!Fs::kernel().remove_opt(&path).unwrap());
}

#[test]
fn a_failed_write_keeps_the_target_and_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("busy");
    fs::create_dir_all(path.join("child")).unwrap();
    let error = Fs::kernel().write_atomic(&path, b"x", 0o600).unwrap_err();
    assert!(error.to_string().contains("busy"), "{error}");
    assert_eq!(Fs::kernel().list_dir(dir.path()).unwrap(), [path]);
}

#[test]
fn appends_grow_the_file_and_a_full_disk_leaves_no_half_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    assert_eq!(Fs::kernel().append_sync(&path, b"one\n").unwrap(), 4);
    assert_eq!(Fs::kernel().append_sync(&path, b"two\n").unwrap(), 8);
    assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
    let error = Fs::kernel().append_sync(Path::new("/dev/full"), b"three\n").unwrap_err();
    assert!(error.to_string().contains("free space"), "{error}");
}

#[test]
fn makes_directories_all_the_way_and_refuses_a_file_in_the_way() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b/c");
    Fs::kernel().create_dir_sync(&deep).unwrap();
    Fs::kernel().create_dir_sync(&deep).unwrap();
    Fs::kernel().write_atomic(&deep.join("file"), b"", 0o600).unwrap();
    assert_eq!(
        Fs::kernel().create_dir_sync(&deep.join("file/d")).unwrap_err().source.kind(),
        io::ErrorKind::NotADirectory
    );
}

#[test]
fn a_masked_file_is_empty_and_what_never_ends_is_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (name, device) in [("masked.yaml", "/dev/null"), ("endless.yaml", "/dev/zero")] {
        std::os::unix::fs::symlink(device, at(name)).unwrap();
    }
    nix::unistd::mkfifo(&at("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(Fs::kernel().read_opt(&at("masked.yaml")).unwrap(), Some(Vec::new()));
    for name in ["endless.yaml", "pipe.yaml"] {
        let error = Fs::kernel().read_opt(&at(name)).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    assert_eq!(
        Fs::read_named(Path::new("/dev/zero"), 7).unwrap(),
        [0; 8],
        "no more than it takes to see that it is too long"
    );
}

#[test]
fn hashes_like_sha256sum() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("abc");
    Fs::kernel().write_atomic(&path, b"abc", 0o600).unwrap();
    assert_eq!(
        Fs::kernel().sha256_file(&path).unwrap(),
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
    assert!(Fs::kernel().free_bytes(dir.path()).unwrap() > 0);
    assert!(matches!(Fs::kernel().filesystem(Path::new("/proc")).unwrap(), FsKind::Other(_)));
    assert_eq!(Fs::kernel().filesystem(Path::new("/dev/shm")).unwrap(), FsKind::Tmpfs);
}

#[test]
fn a_file_that_somebody_named_need_not_be_roots() {
    let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
    let path = Path::new("cluster.yaml");
    assert_eq!(
        FsError::on("read", path)(denied()).to_string(),
        "cannot read cluster.yaml; run as root of the machine"
    );
    assert_eq!(
        FsError::on("read", path)(denied()).named().to_string(),
        "cannot read cluster.yaml; make it, and the folders above it, readable for this user"
    );
}
