//! How fast a release is staged, beside what people do by hand.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ground::Ground;
use crate::packing::{gzip, likely, tarball};
use crate::server::Server;
use crate::{PATH, files, ordered};

/// Others use the same cores: the best of several says most.
const RUNS: usize = 5;

fn timed(work: impl FnOnce()) -> Duration {
    // What others have written is not to be waited for here.
    assert!(Command::new("sync").status().unwrap().success());
    let start = Instant::now();
    work();
    start.elapsed()
}

fn measured(what: &str, value: &str, target: &str) {
    println!("\nmeasured: {what:<64} {value:>12}   {target}");
}

/// A release like a real one: 100 MiB of program that pack to about 50.
fn real_release() -> Vec<u8> {
    gzip(&tarball(&[("bin/rke2", &likely(100 << 20)), ("share/rke2/LICENSE.txt", b"Apache-2.0\n")]))
}

#[test]
fn a_release_is_verified_and_unpacked_in_one_pass_faster_than_by_hand() {
    let release = real_release();
    let ground = Ground::new();
    ground.put("/release/rke2.linux-amd64.tar.gz", &release);
    let order = ordered("file:///release/rke2.linux-amd64.tar.gz", &release);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let by_hand = |script: &str| {
        let script = format!(
            "echo '{}  rke2.linux-amd64.tar.gz' | sha256sum --check --quiet && mkdir ../by-hand && tar xzf rke2.linux-amd64.tar.gz -C ../by-hand{script}",
            order.sha256
        );
        let took = timed(|| {
            let ran = Command::new("sh").args(["-c", &script]).current_dir(ground.at("/release")).status();
            assert!(ran.unwrap().success());
        });
        std::fs::remove_dir_all(ground.at("/by-hand")).unwrap();
        took
    };
    let (mut ours, mut theirs, mut synced) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(timed(|| drop(runtime.block_on(ground.stage(&order, 60)).unwrap())));
        std::fs::remove_dir_all(ground.at("/opt/rke2/.stage")).unwrap();
        theirs.push(by_hand(""));
        synced.push(by_hand(" && sync ../by-hand/bin/rke2 ../by-hand"));
    }
    let best = |all: &[Duration]| all.iter().min().unwrap().as_secs_f64();
    let (ours, theirs, synced) = (best(&ours), best(&theirs), best(&synced));
    let size = format!("{} MiB", release.len() >> 20);
    measured(&format!("stage a release of {size}, on disk when it ends"), &format!("{ours:.2} s"), "");
    measured("  sha256sum && tar xzf, in memory when it ends", &format!("{theirs:.2} s"), "");
    measured("  the same, on disk when it ends", &format!("{synced:.2} s"), "");
    measured("  faster than by hand, as it is done", &format!("{:.1} x", theirs / ours), ">= 1.5 x");
    measured("  faster than by hand, both on disk", &format!("{:.1} x", synced / ours), "");
    // Ours is on the disk when it ends: with a slow one only the same is comparable.
    assert!(synced / ours > 1.0, "one pass is faster than two: {ours:.2} s, {synced:.2} s");
}

#[test]
fn a_broken_download_goes_on_at_once() {
    let release = real_release();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let took = |piece: usize| {
        let server = Server::of_files(BTreeMap::clone(&files(&release)), piece);
        let ground = Ground::new();
        let took = timed(|| {
            drop(runtime.block_on(ground.stage(&ordered(&server.url(PATH), &release), 120)).unwrap());
        });
        let breaks = server.asked.lock().unwrap().len() - 1;
        (took, u32::try_from(breaks).unwrap())
    };
    let (whole, _) = took(usize::MAX);
    let (broken, breaks) = took(4 << 20);
    let each = broken.saturating_sub(whole) / breaks;
    measured("fetch and stage a release from a server nearby", &format!("{:.2} s", whole.as_secs_f64()), "");
    measured(
        &format!("  more for each of {breaks} broken connections"),
        &format!("{} ms", each.as_millis()),
        "<= 250 ms",
    );
    assert!(each < Duration::from_secs(10), "{each:?}");
}
