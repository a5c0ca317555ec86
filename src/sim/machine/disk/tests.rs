use std::path::{Path, PathBuf};

use super::*;
use crate::host::effects::{FileKind, Opening};

fn disk() -> Disk {
    let mut disk = Disk::new(MountSpec::ext4(1));
    disk.install("/var/old", "old", 0o600).unwrap();
    disk.install_dir(Path::new("/var/a")).unwrap();
    disk.install_dir(Path::new("/var/b")).unwrap();
    disk.mount("/opt", MountSpec::ext4(1)).unwrap();
    disk.mount("/run", MountSpec::tmpfs(2)).unwrap();
    disk
}

fn p(path: &str) -> &Path {
    Path::new(path)
}

fn text(disk: &Disk, path: &str) -> Option<String> {
    disk.read(p(path)).ok().map(|content| String::from_utf8_lossy(&content).into_owned())
}

fn write(disk: &mut Disk, path: &str, content: &str, sync: bool) {
    let file = disk.create(p(path), Opening::Append, 0o644).unwrap();
    disk.append(file.ino, content.as_bytes()).unwrap();
    if sync {
        disk.sync_ino(file.ino).unwrap();
    }
}

fn cut(disk: &Disk, mode: CutMode) -> Disk {
    let mut after = disk.clone();
    after.power_cut(mode);
    assert!(after.is_settled());
    after
}

/// Everything that `look` says about the disk after many different cuts.
fn outcomes<T: Ord>(disk: &Disk, look: impl Fn(&Disk) -> T) -> Vec<T> {
    let mut seen: Vec<T> = (0..200).map(|seed| look(&cut(disk, CutMode::Seeded(seed)))).collect();
    seen.sort();
    seen.dedup();
    seen
}

#[test]
fn answers_as_the_kernel_does() {
    let mut disk = disk();
    disk.install("/opt/bin/rke2", "x", 0o755).unwrap();
    disk.symlink(p("/opt/bin"), p("/var/bin")).unwrap();
    disk.symlink(p("loop"), p("/var/loop")).unwrap();
    let mode = 0o644;
    let table: Vec<(&str, Result<(), Errno>, Errno)> = vec![
        ("read missing", disk.read(p("/no")).map(|_| ()), Errno::ENOENT),
        ("read dir", disk.read(p("/var")).map(|_| ()), Errno::EISDIR),
        ("through file", disk.read(p("/var/old/x")).map(|_| ()), Errno::ENOTDIR),
        ("loop", disk.read(p("/var/loop")).map(|_| ()), Errno::ELOOP),
        ("link of file", disk.read_link(p("/var/old")).map(|_| ()), Errno::EINVAL),
        ("new over old", disk.create(p("/var/old"), Opening::New, mode).map(|_| ()), Errno::EEXIST),
        ("write a dir", disk.create(p("/var"), Opening::Append, mode).map(|_| ()), Errno::EISDIR),
        ("in no dir", disk.create(p("/no/x"), Opening::New, mode).map(|_| ()), Errno::ENOENT),
        ("mkdir again", disk.make_dir(p("/var")).map(|_| ()), Errno::EEXIST),
        ("link over", disk.hard_link(p("/opt/bin/rke2"), p("/var/old")), Errno::EEXIST),
        ("link across", disk.hard_link(p("/var/old"), p("/opt/old")), Errno::EXDEV),
        ("link a dir", disk.hard_link(p("/var/a"), p("/var/c")), Errno::EPERM),
        ("rename across", disk.rename(p("/var/old"), p("/opt/old")), Errno::EXDEV),
        ("rename missing", disk.rename(p("/var/no"), p("/var/c")), Errno::ENOENT),
        ("file over dir", disk.rename(p("/var/old"), p("/var/a")), Errno::EISDIR),
        ("dir over file", disk.rename(p("/var/a"), p("/var/old")), Errno::ENOTDIR),
        ("dir over full", disk.rename(p("/var/a"), p("/opt")), Errno::EBUSY),
        ("dir into itself", disk.rename(p("/var"), p("/var/a/var")), Errno::EINVAL),
        ("unlink a dir", disk.unlink(p("/var/a")), Errno::EISDIR),
        ("rmdir full", disk.remove_dir(p("/var")), Errno::ENOTEMPTY),
        ("rmdir a file", disk.remove_dir(p("/var/old")), Errno::ENOTDIR),
        ("rmdir a mount", disk.remove_dir(p("/run")), Errno::EBUSY),
    ];
    for (what, result, expected) in table {
        assert_eq!(result, Err(expected), "{what}");
    }
    assert_eq!(text(&disk, "/var/bin/rke2").as_deref(), Some("x"));
    assert_eq!(disk.read_link(p("/var/bin")), Ok(PathBuf::from("/opt/bin")));
    assert_eq!(disk.read_dir(p("/opt")).unwrap(), [p("/opt/bin")]);
    let stat = disk.stat(p("/opt/bin/rke2"), false).unwrap();
    assert_eq!((stat.kind, stat.len, stat.mode, stat.device), (FileKind::File, 1, 0o755, 1));
    assert_eq!(disk.stat(p("/var/bin"), false).unwrap().kind, FileKind::Symlink);
    assert_eq!(disk.file_system(p("/run")), Ok(FsKind::Tmpfs));
}

#[test]
fn a_full_disk_takes_what_fits_and_a_read_only_one_nothing() {
    let mut disk = disk();
    disk.set_free("/var", 3).unwrap();
    let file = disk.create(p("/var/new"), Opening::New, 0o644).unwrap();
    assert_eq!(disk.append(file.ino, b"12345"), Ok(3));
    assert_eq!(disk.append(file.ino, b"45"), Err(Errno::ENOSPC));
    assert_eq!((text(&disk, "/var/new").unwrap(), disk.free_bytes(p("/var"))), ("123".to_owned(), Ok(0)));
    disk.unlink(p("/var/new")).unwrap();
    assert_eq!(disk.free_bytes(p("/var")), Ok(3));
    disk.set_read_only(1, true);
    assert_eq!(disk.unlink(p("/var/old")), Err(Errno::EROFS));
    assert_eq!(disk.append(file.ino, b"x"), Err(Errno::EROFS));
    disk.make_dir(p("/run/x")).unwrap();
}

#[test]
fn without_its_own_sync_a_replaced_file_is_empty_zeros_or_whole() {
    let mut disk = disk();
    write(&mut disk, "/var/.new", "new", false);
    disk.rename(p("/var/.new"), p("/var/old")).unwrap();
    disk.sync(p("/var")).unwrap();
    assert_eq!(text(&cut(&disk, CutMode::LoseAll), "/var/old").as_deref(), Some(""));
    assert_eq!(text(&cut(&disk, CutMode::KeepAll), "/var/old").as_deref(), Some("new"));
    let seen = outcomes(&disk, |disk| text(disk, "/var/old").unwrap());
    for expected in ["", "\0\0\0", "n", "ne", "n\0\0", "ne\0", "new"] {
        assert!(seen.contains(&expected.to_owned()), "{expected:?} is missing in {seen:?}");
    }
    assert!(!seen.contains(&"old".to_owned()));
}

#[test]
fn without_the_directorys_sync_the_old_name_may_be_back() {
    let mut disk = disk();
    write(&mut disk, "/var/.new", "new", true);
    disk.rename(p("/var/.new"), p("/var/old")).unwrap();
    let look = |disk: &Disk| (text(disk, "/var/old"), text(disk, "/var/.new"));
    assert_eq!(look(&cut(&disk, CutMode::LoseAll)), (Some("old".to_owned()), None));
    let (old, new) = (Some("old".to_owned()), Some("new".to_owned()));
    assert_eq!(outcomes(&disk, look), [(new.clone(), None), (old.clone(), None), (old, new.clone())]);
    disk.sync(p("/var")).unwrap();
    assert_eq!(outcomes(&disk, look), [(new, None)]);
    assert_eq!(look(&cut(&disk, CutMode::LoseAll)).0.as_deref(), Some("new"));
}

#[test]
fn a_rename_across_directories_never_loses_the_file() {
    let mut disk = disk();
    write(&mut disk, "/var/a/x", "x", true);
    disk.sync(p("/var/a")).unwrap();
    disk.rename(p("/var/a/x"), p("/var/b/x")).unwrap();
    let look = |disk: &Disk| (disk.read(p("/var/a/x")).is_ok(), disk.read(p("/var/b/x")).is_ok());
    assert_eq!(outcomes(&disk, look), [(false, true), (true, false), (true, true)]);
    let mut source = disk.clone();
    source.sync(p("/var/a")).unwrap();
    assert_eq!(look(&cut(&source, CutMode::LoseAll)), (false, true));
    let mut target = disk.clone();
    target.sync(p("/var/b")).unwrap();
    assert_eq!(outcomes(&target, look), [(false, true), (true, true)]);
    // Not even when the old directory is removed afterwards, and that is synced.
    disk.remove_dir(p("/var/a")).unwrap();
    disk.sync(p("/var")).unwrap();
    assert_eq!(look(&cut(&disk, CutMode::LoseAll)), (false, true));
}

#[test]
fn a_name_needs_every_directory_above_it() {
    let mut disk = disk();
    disk.make_dir(p("/var/deep")).unwrap();
    write(&mut disk, "/var/deep/x", "x", true);
    disk.sync(p("/var/deep")).unwrap();
    assert_eq!(text(&cut(&disk, CutMode::LoseAll), "/var/deep/x"), None);
    disk.sync(p("/var")).unwrap();
    assert_eq!(text(&cut(&disk, CutMode::LoseAll), "/var/deep/x").as_deref(), Some("x"));
}

#[test]
fn mode_owner_and_length_need_the_files_sync() {
    let mut disk = disk();
    let file = disk.create(p("/var/old"), Opening::Append, 0).unwrap();
    disk.set_length(file.ino, 1).unwrap();
    disk.set_mode(p("/var/old"), 0o755).unwrap();
    disk.set_owner(p("/var/old"), 7, 8).unwrap();
    let look = |disk: &Disk| {
        let stat = disk.stat(p("/var/old"), true).unwrap();
        (stat.len, stat.mode, stat.uid)
    };
    assert_eq!(look(&disk), (1, 0o755, 7));
    assert_eq!(look(&cut(&disk, CutMode::LoseAll)), (3, 0o600, 0));
    assert_eq!(outcomes(&disk, look), [(1, 0o600, 0), (1, 0o755, 7), (3, 0o600, 0), (3, 0o755, 7)]);
    disk.sync(p("/var/old")).unwrap();
    assert_eq!(look(&cut(&disk, CutMode::LoseAll)), (1, 0o755, 7));
}

#[test]
fn a_second_name_shares_the_content_and_renaming_onto_itself_does_nothing() {
    let mut disk = disk();
    disk.hard_link(p("/var/old"), p("/var/.link")).unwrap();
    disk.hard_link(p("/var/old"), p("/var/.again")).unwrap();
    disk.rename(p("/var/.link"), p("/var/prev")).unwrap();
    disk.rename(p("/var/.again"), p("/var/prev")).unwrap();
    assert_eq!(text(&disk, "/var/.again").as_deref(), Some("old"));
    write(&mut disk, "/var/staged", "new", true);
    disk.rename(p("/var/staged"), p("/var/old")).unwrap();
    assert_eq!(
        (text(&disk, "/var/old").as_deref(), text(&disk, "/var/prev").as_deref()),
        (Some("new"), Some("old"))
    );
    // Without a sync in between, the swap may be on the platter and the second name not.
    let seen = outcomes(&disk, |disk| (text(disk, "/var/old"), text(disk, "/var/prev")));
    assert!(seen.contains(&(Some("new".to_owned()), None)), "{seen:?}");
    assert!(seen.iter().all(|(live, _)| live.is_some()));
}

#[test]
fn an_open_file_outlives_its_name_and_memory_outlives_nothing() {
    let mut disk = disk();
    let file = disk.create(p("/var/x"), Opening::New, 0o644).unwrap();
    disk.unlink(p("/var/x")).unwrap();
    disk.append(file.ino, b"still here").unwrap();
    assert_eq!(disk.length(file.ino), Ok(10));
    write(&mut disk, "/run/x", "x", true);
    disk.sync(p("/run")).unwrap();
    assert_eq!(disk.read_dir(p("/run")).unwrap().len(), 1);
    let after = cut(&disk, CutMode::KeepAll);
    assert_eq!((after.read_dir(p("/run")).unwrap().len(), after.length(file.ino)), (0, Err(Errno::ENOENT)));
}

#[test]
fn clones_part_ways_and_a_seed_decides_all() {
    let mut disk = disk();
    let before = disk.clone();
    write(&mut disk, "/var/old", "er and longer", false);
    assert_eq!(text(&before, "/var/old").as_deref(), Some("old"));
    for seed in 0..50 {
        let look = || text(&cut(&disk, CutMode::Seeded(seed)), "/var/old");
        assert_eq!(look(), look());
    }
}
