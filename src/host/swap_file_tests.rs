//! The swap on real file systems: what readers see, what is kept, and what nobody gets past.

#![expect(clippy::disallowed_methods, reason = "tests look past the door they test")]

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::*;

struct Prefix {
    _dir: tempfile::TempDir,
    live: PathBuf,
    staged: PathBuf,
    previous: PathBuf,
}

fn prefix() -> Prefix {
    prefix_in(&std::env::temp_dir())
}

fn prefix_in(place: &Path) -> Prefix {
    let dir = tempfile::tempdir_in(place).unwrap();
    let bin = dir.path().join("bin");
    let stage = dir.path().join(".stage");
    fs::create_dir_all(&bin).unwrap();
    fs::create_dir_all(&stage).unwrap();
    let found = Prefix {
        live: bin.join("rke2"),
        staged: stage.join("rke2"),
        previous: bin.join("rke2.prev"),
        _dir: dir,
    };
    fs::write(&found.live, vec![b'o'; 3 << 20]).unwrap();
    fs::set_permissions(&found.live, Permissions::from_mode(0o750)).unwrap();
    fs::write(&found.staged, vec![b'n'; 3 << 20]).unwrap();
    found
}

fn keep_old(live: &Path, kept: &Path) -> Result<(), SwapError> {
    let fs = Fs::kernel();
    keep(&fs, live, live, &fs.sha256_file(live).unwrap(), kept)
}

#[test]
fn a_reader_sees_old_or_new_and_nothing_else() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let (old, new) = (Fs::kernel().sha256_file(&live).unwrap(), Fs::kernel().sha256_file(&staged).unwrap());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push(Fs::kernel().sha256_file(&live).unwrap());
            }
            seen
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(50));
        done.store(true, Ordering::Relaxed);
        let seen = reader.join().unwrap();
        assert!(seen.iter().all(|digest| *digest == old || *digest == new));
    });
    assert_eq!(Fs::kernel().sha256_file(&live).unwrap(), new);
    assert_eq!(Fs::kernel().sha256_file(&previous).unwrap(), old);
    assert_eq!(fs::metadata(&live).unwrap().permissions().mode() & 0o777, 0o750);
}

#[test]
fn a_second_swap_touches_nothing_and_an_interrupted_one_is_finished() {
    let Prefix { _dir, live, staged, previous } = prefix();
    // Crashed after the link, before the rename.
    keep_previous(&Fs::kernel(), &live, &previous).unwrap();
    swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
    assert_eq!(fs::read(&previous).unwrap()[0], b'o');
    assert!(matches!(swap(&Fs::kernel(), &live, &staged, &previous), Err(SwapError::NothingStaged { .. })));
    assert_eq!(fs::read(&previous).unwrap()[0], b'o');
    assert_eq!(Fs::kernel().list_dir(parent(&live)).unwrap(), [live, previous]);
}

/// Puts back what is kept, whatever it is.
fn back(live: &Path, previous: &Path, replaced: &Path) -> Result<(), SwapError> {
    let sha256 = Fs::kernel().sha256_opt(previous).unwrap().unwrap_or_default();
    put_back(&Fs::kernel(), By::Agent, live, (previous, &sha256), replaced)
}

#[test]
fn what_was_kept_is_put_back_also_where_nothing_is_live_and_twice() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let replaced = live.with_file_name("rke2.bad");
    keep_old(&live, &previous).unwrap();
    swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
    for _ in 0..2 {
        back(&live, &previous, &replaced).unwrap();
        assert_eq!((fs::read(&live).unwrap()[0], fs::read(&previous).unwrap()[0]), (b'o', b'o'));
    }
    fs::remove_file(&live).unwrap();
    back(&live, &previous, &replaced).unwrap();
    assert_eq!(fs::read(&live).unwrap()[0], b'o');
    fs::remove_file(&previous).unwrap();
    assert!(back(&live, &previous, &replaced).is_err());
    assert_eq!(fs::read(&live).unwrap()[0], b'o');
}

#[test]
fn who_writes_into_what_was_put_back_leaves_the_kept_one_as_it_is() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let replaced = live.with_file_name("rke2.barred");
    keep_old(&live, &previous).unwrap();
    swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
    back(&live, &previous, &replaced).unwrap();
    assert_eq!(fs::metadata(&live).unwrap().permissions().mode() & 0o777, 0o750);
    // `cp -f` over a binary that nobody runs.
    fs::write(&live, b"alien").unwrap();
    back(&live, &previous, &replaced).unwrap();
    assert_eq!(fs::read(&live).unwrap(), vec![b'o'; 3 << 20]);
    let wrong =
        put_back(&Fs::kernel(), By::Agent, &live, (&previous, "another digest"), &replaced).unwrap_err();
    assert!(matches!(wrong, SwapError::NotKept(_)), "{wrong}");
    let names = Fs::kernel().list_dir(parent(&live)).unwrap();
    assert_eq!(names, [live.clone(), replaced.clone(), previous.clone()], "nothing is left of a copy");
    // A folder is no reason either, nor is what was kept of others before.
    for free in ["rke2.barred.2", "rke2.barred.3"] {
        fs::remove_file(&live).unwrap();
        fs::create_dir_all(live.join("of/somebody")).unwrap();
        back(&live, &previous, &replaced).unwrap();
        assert_eq!(fs::read(&live).unwrap()[0], b'o');
        assert!(live.with_file_name(free).join("of/somebody").is_dir(), "{free}");
    }
}

#[test]
fn the_guard_and_the_agent_do_it_at_once_and_the_live_one_is_whole_at_every_moment() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let replaced = live.with_file_name("rke2.barred");
    keep_old(&live, &previous).unwrap();
    swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
    let [sha256, new] = [&previous, &live].map(|file| Fs::kernel().sha256_file(file).unwrap());
    let put = |by| put_back(&Fs::kernel(), by, &live, (&previous, &sha256), &replaced);
    std::thread::scope(|scope| {
        let both = [By::Agent, By::Guard].map(|by| {
            scope.spawn(move || {
                for _ in 0..30 {
                    put(by).unwrap();
                }
            })
        });
        while !both.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let found = Fs::kernel().sha256_file(&live).unwrap();
            assert!(found == sha256 || found == new, "half of a binary is live");
        }
    });
    assert_eq!(fs::metadata(&live).unwrap().nlink(), 1, "a file of its own");
    let left = Fs::kernel().list_dir(parent(&live)).unwrap();
    assert!(left.iter().all(|path| !path.display().to_string().contains("partial")), "{left:?}");
}

#[test]
fn what_is_in_the_way_of_the_kept_file_leaves_the_old_one_live() {
    let Prefix { _dir, live, staged, previous } = prefix();
    fs::create_dir_all(previous.join("in-the-way")).unwrap();
    assert!(matches!(swap(&Fs::kernel(), &live, &staged, &previous), Err(SwapError::NotAFile { .. })));
    assert_eq!(fs::read(&live).unwrap()[0], b'o');
    assert_eq!(fs::read(&staged).unwrap()[0], b'n');
}

#[test]
fn who_replaces_the_live_file_meanwhile_does_not_replace_the_kept_one() {
    let Prefix { _dir, live, staged, previous } = prefix();
    keep_old(&live, &previous).unwrap();
    // As `tar` does it, and as `cp` does it: into the file itself.
    fs::remove_file(&live).unwrap();
    fs::write(&live, b"alien").unwrap();
    swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
    fs::write(&live, b"alien").unwrap();
    assert_eq!(fs::read(&previous).unwrap(), vec![b'o'; 3 << 20]);
    assert_eq!(fs::metadata(&previous).unwrap().permissions().mode() & 0o777, 0o750);
}

#[test]
fn a_copy_that_cannot_be_kept_leaves_nothing_behind_and_is_discarded_whole() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let kernel = Fs::kernel();
    let error = keep(&kernel, &live, &staged, "another digest", &previous).unwrap_err();
    assert!(matches!(error, SwapError::NotKept(UnpackError::WrongDigest { .. })), "{error}");
    assert_eq!(kernel.list_dir(parent(&live)).unwrap(), std::slice::from_ref(&live));
    keep_old(&live, &previous).unwrap();
    fs::write(unpack::partial_of(&previous), b"half").unwrap();
    discard(&kernel, &previous).unwrap();
    discard(&kernel, &previous).unwrap();
    assert_eq!(kernel.list_dir(parent(&live)).unwrap(), [live]);
}

/// As root on a file system that has the flag, which is what a node is.
#[test]
fn nobody_replaces_a_locked_file_but_the_swap() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let kernel = Fs::kernel();
    keep_old(&live, &previous).unwrap();
    lock(&kernel, &live).unwrap();
    for refused in [fs::remove_file(&live), fs::write(&live, b"alien"), fs::rename(&staged, &live)] {
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
    keep_old(&live, &previous).unwrap();
    lock(&kernel, &live).unwrap();
    swap(&kernel, &live, &staged, &previous).unwrap();
    lock(&kernel, &live).unwrap();
    back(&live, &previous, &live.with_file_name("rke2.bad")).unwrap();
    assert_eq!(fs::read(&live).unwrap()[0], b'o');
    lock(&kernel, &live).unwrap();
    unlock(&kernel, &live).unwrap();
    unlock(&kernel, &live).unwrap();
    fs::remove_file(&live).unwrap();
}

#[test]
fn another_mount_and_a_symlink_are_refused_before_anything_changes() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let shm = tempfile::tempdir_in("/dev/shm").unwrap();
    let far = shm.path().join("rke2");
    fs::copy(&staged, &far).unwrap();
    let error = swap(&Fs::kernel(), &live, &far, &previous).unwrap_err();
    assert!(error.to_string().contains("different mounts"), "{error}");
    let link = live.with_file_name("link");
    std::os::unix::fs::symlink(&live, &link).unwrap();
    assert!(matches!(swap(&Fs::kernel(), &link, &staged, &previous), Err(SwapError::NotAFile { .. })));
    assert!(!previous.exists());
}

#[test]
fn what_lies_in_the_way_of_going_back_is_no_reason_to_leave_it_there() {
    let Prefix { _dir, live, staged, previous } = prefix();
    let fs = Fs::kernel();
    swap(&fs, &live, &staged, &previous).unwrap();
    let (barred, theirs) = (live.with_file_name("rke2.barred"), live.with_file_name("theirs"));
    fs::create_dir(&barred).unwrap();
    back(&live, &previous, &barred).unwrap();
    assert_eq!(fs::read(&live).unwrap()[0], b'o', "the name for what was live is taken by a folder");
    fs::write(&theirs, "theirs").unwrap();
    fs::remove_file(&live).unwrap();
    std::os::unix::fs::symlink(&theirs, &live).unwrap();
    back(&live, &previous, &live.with_file_name("rke2.bad")).unwrap();
    assert!(fs::symlink_metadata(&live).unwrap().is_file());
    assert_eq!(fs::read(&live).unwrap()[0], b'o');
    assert_eq!(fs::read(&theirs).unwrap(), b"theirs", "what the link led to is theirs");
}

/// The kernel lets root label files where `SELinux` is off as well.
#[test]
fn the_new_file_wears_the_label_of_the_old_one() {
    const LABEL: &[u8] = b"system_u:object_r:container_runtime_exec_t:s0\0";
    let Prefix { _dir, live, staged, previous } = prefix();
    let fs = Fs::kernel();
    assert_eq!(fs.effects().label(&live).unwrap(), None, "a file system without labels is swapped as before");
    fs.effects().set_label(&live, LABEL).unwrap();
    fs.effects().set_label(&staged, b"system_u:object_r:usr_t:s0\0").unwrap();
    swap(&fs, &live, &staged, &previous).unwrap();
    assert_eq!(fs::read(&live).unwrap()[0], b'n');
    for path in [&live, &previous] {
        assert_eq!(fs.effects().label(path).unwrap().as_deref(), Some(LABEL), "{}", path.display());
    }
    back(&live, &previous, &live.with_file_name("rke2.bad")).unwrap();
    assert_eq!(fs.effects().label(&live).unwrap().as_deref(), Some(LABEL), "and so on the way back");
}

/// In memory, because a busy disk's sync time says nothing about this code.
#[test]
fn takes_no_more_than_five_milliseconds_beside_the_disks_own_time() {
    let best = (0..5)
        .map(|_| {
            let Prefix { _dir, live, staged, previous } = prefix_in(Path::new("/dev/shm"));
            let start = Instant::now();
            swap(&Fs::kernel(), &live, &staged, &previous).unwrap();
            start.elapsed()
        })
        .min()
        .unwrap();
    let milliseconds = format!("{:.2} ms", best.as_secs_f64() * 1e3);
    println!("\nmeasured: {:<64} {milliseconds:>12}   <= 5 ms", "the swap: old name -> new name, in memory");
    assert!(best.as_millis() <= 5, "{best:?}");
}
