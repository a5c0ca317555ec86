//! Where a release comes from and what may be wrong with it on the way: servers that hang up and lie, archives that explode or
//! climb out, images that are not what they say. The disk is as before, and the memory is bounded, whatever comes.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "downloads/from_images.rs"]
mod from_images;
#[path = "downloads/ground.rs"]
mod ground;
#[path = "downloads/packing.rs"]
mod packing;
#[path = "downloads/server.rs"]
mod server;
#[path = "downloads/speed.rs"]
mod speed;
#[path = "downloads/tls.rs"]
mod tls;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ground::{Ground, is_apart};
use packing::{Bomb, gzip, header, noise, release, sha256, tarball, zstd};
use server::{Server, part};
use tar::EntryType;
use testbed::pki::Authority;
use tokio::time::Instant;
use upgrade_agent::flow::artifacts::{Artifacts, ImageArchive};
use upgrade_agent::host::fs::Fs;
use upgrade_agent::host::images;
use upgrade_agent::host::release::arch;
use upgrade_agent::host::root::HostRoot;

/// What staging may need, in KiB, whatever is staged.
const MEMORY: u64 = 32 << 10;
const TEN_GIB: u64 = 10 << 30;
const PATH: &str = "/v1.35.6/rke2.linux-amd64.tar.gz";

fn ordered(source: &str, content: &[u8]) -> Artifacts {
    Artifacts { source: source.to_owned(), sha256: sha256(content), sums: None, images: Vec::new() }
}

fn files(content: &[u8]) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([(PATH.to_owned(), content.to_vec())])
}

fn measured_memory(what: &str, grown: u64) {
    let kib = format!("{grown} KiB");
    println!("\nmeasured: {:<64} {kib:>12}   < {MEMORY} KiB", format!("memory to stage: {what}"));
    assert!(grown < MEMORY, "{what}: {grown} KiB");
}

#[test]
fn a_release_from_a_server_that_hangs_up_every_mebibyte_comes_whole_in_little_memory() {
    if is_apart() {
        return;
    }
    let release = release(24 << 20);
    let server = Server::of_files(files(&release), 1 << 20);
    let ground = Ground::new();
    let name = "a_release_from_a_server_that_hangs_up_every_mebibyte_comes_whole_in_little_memory";
    let told = ground.stage_apart(name, &ordered(&server.url(PATH), &release));
    assert_eq!(told.refusal, "");
    assert!(ground.staged() == noise(24 << 20), "the binary is the release's");
    measured_memory("a release of 24 MiB over HTTP", told.grown);
    server.has_sent(release.len() as u64);
}

#[test]
fn a_killed_agents_successor_goes_on_with_what_is_there() {
    if is_apart() {
        return;
    }
    let release = release(24 << 20);
    // Half of it comes, then the server goes silent until the agent is dead.
    let half = release.len() / 2;
    let content = release.clone();
    let server = Server::start(move |request| {
        if request.from >= half
            && request.head.contains(&format!("bytes={}-", request.from))
            && request.from < half + 9
        {
            std::thread::sleep(Duration::from_secs(3));
        }
        let piece = if request.from == 0 { half } else { usize::MAX };
        part(&content, request.from, piece)
    });
    let ground = Ground::new();
    let before = ground.listing();
    let name = "a_killed_agents_successor_goes_on_with_what_is_there";
    let order = ordered(&server.url(PATH), &release);
    let mut child = ground.begin(name, &order, 300);
    while server.asked.lock().unwrap().len() < 2 {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ground.listing().len() > before.len(), "what came is kept");
    let sent = server.sent.load(Ordering::SeqCst);
    let told = ground.stage_apart(name, &order);
    assert_eq!(told.refusal, "");
    assert!(ground.staged() == noise(24 << 20));
    // What the dead agent had asked for last may count as well.
    let more = server.sent.load(Ordering::SeqCst) - sent;
    assert!(more <= (release.len() - half) as u64 * 2, "{more} bytes came after {sent}");
    let left: Vec<_> =
        ground.listing().into_keys().filter(|path| path.to_string_lossy().contains(".fetched")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_found_out_and_leaves_nothing() {
    let release = release(3 << 20);
    let length = |claimed: usize| {
        let content = release.clone();
        Server::start(move |request| {
            let (_, body) = part(&content, request.from, usize::MAX);
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {claimed}\r\nETag: \"x\"\r\n"), body)
        })
    };
    let content = release.clone();
    let other_total = Server::start(move |request| {
        let (head, body) = part(&content, request.from, 1 << 20);
        (if request.from > 0 { head.replace(&format!("/{}", content.len()), "/7") } else { head }, body)
    });
    let mut wrong = release.clone();
    wrong[1 << 20] ^= 1;
    for (lie, server, seconds, says) in [
        ("a length that is too short", length(release.len() - 7), 60, Some("sha256")),
        ("a length that is too long", length(release.len() + 7), 60, None),
        ("the total of another file", other_total, 3, Some("did not come in time")),
        ("another file", Server::of_files(files(&wrong), 1 << 20), 60, Some("sha256")),
        ("nothing", Server::of_files(BTreeMap::new(), 1), 60, Some("404")),
    ] {
        let ground = Ground::new();
        let before = ground.listing();
        let staged = ground.stage(&ordered(&server.url(PATH), &release), seconds).await;
        match says {
            // The bytes have the digest that the plan orders: what the server says about them does not matter.
            None => assert!(staged.is_ok(), "{lie}: {staged:?}"),
            Some(says) => {
                assert!(staged.as_ref().is_err_and(|error| error.contains(says)), "{lie}: {staged:?}");
                assert_eq!(ground.listing(), before, "{lie}");
            }
        }
    }
}

#[test]
fn what_would_fill_disk_or_memory_is_refused_in_little_memory() {
    if is_apart() {
        return;
    }
    let whole = |pack| Bomb::new(pack).entry("bin/rke2", EntryType::Regular, TEN_GIB).packed;
    let many = |pack| {
        let names: Vec<String> = (0..TEN_GIB >> 27).map(|at| format!("bin/{at}")).collect();
        let bomb =
            names.iter().fold(Bomb::new(pack), |bomb, name| bomb.entry(name, EntryType::Regular, 128 << 20));
        bomb.packed
    };
    let name = |pack| Bomb::new(pack).entry("././@LongLink", EntryType::GNULongName, TEN_GIB).packed;
    let test = "what_would_fill_disk_or_memory_is_refused_in_little_memory";
    for (bomb, content) in [
        ("one file of 10 GiB, gzip", whole(gzip)),
        ("one file of 10 GiB, zstd", whole(zstd)),
        ("many files of 10 GiB, gzip", many(gzip)),
        ("many files of 10 GiB, zstd", many(zstd)),
        ("a name of 10 GiB, gzip", name(gzip)),
        ("a name of 10 GiB, zstd", name(zstd)),
    ] {
        let ground = Ground::new();
        ground.put("/release/rke2.linux-amd64.tar.gz", &content);
        let before = ground.listing();
        let told = ground.stage_apart(test, &ordered("file:///release/rke2.linux-amd64.tar.gz", &content));
        assert!(told.refusal.contains("unpack"), "{bomb}: {told:?}");
        measured_memory(bomb, told.grown);
        assert_eq!(ground.listing(), before, "{bomb}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_climbs_out_links_or_makes_devices_changes_nothing() {
    for (name, kind) in [
        ("../../etc/passwd", EntryType::Regular),
        ("bin/../../../../../etc/passwd", EntryType::Regular),
        ("/etc/passwd", EntryType::Regular),
        ("bin/link", EntryType::Symlink),
        ("bin/hard", EntryType::Link),
        ("bin/null", EntryType::Char),
    ] {
        let mut archive = header("bin/rke2", EntryType::Regular, 0);
        archive.extend(header(name, kind, 0));
        archive.resize(archive.len() + 1024, 0);
        let content = gzip(&archive);
        let ground = Ground::new();
        let server = Server::of_files(files(&content), usize::MAX);
        let before = ground.listing();
        let refusal = ground.stage(&ordered(&server.url(PATH), &content), 60).await.unwrap_err();
        assert!(refusal.contains("use an artifact of the release"), "{name}: {refusal}");
        assert_eq!(ground.listing(), before, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_ends_or_has_no_end_of_names_is_refused() {
    let mut names: Vec<u8> =
        (0..40_000).flat_map(|number| header(&format!("f{number}"), EntryType::Regular, 0)).collect();
    names.extend(tarball(&[("bin/rke2", b"new")]));
    let names = gzip(&names);
    let ground = Ground::new();
    ground.put("/release/names.tar.gz", &names);
    nix::unistd::mkfifo(&ground.at("/release/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let before = ground.listing();
    for (name, says) in [("names.tar.gz", "more files than"), ("pipe", "no plain file")] {
        let order = ordered(&format!("file:///release/{name}"), &names);
        let refusal = ground.stage(&order, 60).await.unwrap_err();
        assert!(refusal.contains(says), "{name}: {refusal}");
    }
    assert_eq!(ground.listing(), before);
}

#[test]
fn a_server_is_trusted_by_what_the_machine_trusts_and_else_refused_with_the_reason() {
    if is_apart() {
        return;
    }
    let name = "a_server_is_trusted_by_what_the_machine_trusts_and_else_refused_with_the_reason";
    let authority = Authority::new("the operator's own").unwrap();
    let release = release(1 << 20);
    let server = Server::of_files(files(&release), 300_000);
    let order =
        ordered(&format!("https://{}{PATH}", tls::in_front_of(&server.address, &authority)), &release);
    let ground = Ground::new();
    ground.put("/etc/ssl/cert.pem", Authority::new("a stranger").unwrap().certificate().as_bytes());
    let before = ground.listing();
    let refusal = ground.stage_apart_within(name, &order, 25).refusal;
    assert!(refusal.contains("invalid peer certificate"), "{refusal}");
    assert_eq!(ground.listing(), before);
    // As SUSE has it: an absolute link, which leads elsewhere from outside.
    let bundle = "/var/lib/ca-certificates/ca-bundle.pem";
    ground.put(bundle, authority.certificate().as_bytes());
    std::os::unix::fs::symlink(bundle, ground.at("/etc/ssl/ca-bundle.pem")).unwrap();
    assert_eq!(ground.stage_apart(name, &order).refusal, "");
    assert!(ground.staged() == noise(1 << 20), "the binary is the release's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_sums_has_to_agree_and_never_stands_in_for_the_plan() {
    let release = release(1 << 20);
    let name = "rke2.linux-amd64.tar.gz";
    let (right, wrong) = (format!("{}  {name}\n", sha256(&release)), format!("{}  {name}\n", sha256(b"x")));
    let other = format!("{}  rke2.linux-s390x.tar.gz\n", sha256(&release));
    let beside = format!("/release/sha256sum-{}.txt", arch());
    for (sums, says) in [(&right, None), (&wrong, Some("the plan orders")), (&other, Some("has no line for"))]
    {
        for (source, named) in [
            ("file:///release", None),
            ("file:///release/rke2.linux-amd64.tar.gz", None),
            ("file:///release", Some("file:///sums")),
            (PATH, Some("/sums")),
        ] {
            let ground = Ground::new();
            ground.put(&format!("/release/{name}"), &release);
            ground.put(if named.is_some() { "/sums" } else { &beside }, sums.as_bytes());
            let mut shop = files(&release);
            shop.insert("/sums".to_owned(), sums.clone().into_bytes());
            let server = Server::of_files(shop, usize::MAX);
            let url = |at: &str| if at.starts_with('/') { server.url(at) } else { at.to_owned() };
            let order = Artifacts { sums: named.map(url), ..ordered(&url(source), &release) };
            let before = ground.listing();
            let staged = ground.stage(&order, 60).await;
            match says {
                None => assert!(staged.is_ok(), "{source}: {staged:?}"),
                Some(says) => {
                    assert!(staged.as_ref().is_err_and(|error| error.contains(says)), "{source}: {staged:?}");
                    assert_eq!(ground.listing(), before);
                    let asked = server.asked.lock().unwrap().clone();
                    assert!(
                        !asked.contains(&PATH.to_owned()),
                        "what cannot be right is not fetched: {asked:?}"
                    );
                }
            }
            // What lies beside a forged release agrees with it, and not with the plan.
            let forged = Artifacts { sha256: sha256(b"what the plan orders"), ..order };
            assert!(ground.stage(&forged, 60).await.is_err());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_of_images_come_from_a_server_that_hangs_up_and_a_forged_one_leaves_nothing() {
    let archive = gzip(&tarball(&[("manifest.json", b"[]"), ("layer", &noise(3 << 20))]));
    let server = Server::of_files(
        BTreeMap::from([("/rke2-images.linux-amd64.tar.gz".to_owned(), archive.clone())]),
        1 << 20,
    );
    let ground = Ground::new();
    ground.put("/var/lib/rancher/rke2/agent/images/old.tar.zst", b"of the version before");
    let root = HostRoot::new(ground.at("/"));
    let version = "v1.35.6+rke2r1".parse().unwrap();
    let order =
        |sha256: String| vec![ImageArchive { source: server.url("/rke2-images.linux-amd64.tar.gz"), sha256 }];
    let deadline = || Instant::now() + Duration::from_mins(1);
    let before = ground.listing();
    let forged = images::stage(&root, &order(sha256(b"forged")), &version, deadline()).await;
    assert!(forged.unwrap_err().to_string().contains("was expected"));
    assert_eq!(ground.listing(), before);
    // Nor does the one before it stay.
    ground.put("/release/first.tar.gz", &archive);
    let before = ground.listing();
    let first = ImageArchive { source: "file:///release/first.tar.gz".to_owned(), sha256: sha256(&archive) };
    let both = [vec![first], order(sha256(b"forged"))].concat();
    images::stage(&root, &both, &version, deadline()).await.unwrap_err();
    assert_eq!(ground.listing(), before);
    // What had its name before is not taken away.
    let own = "/var/lib/rancher/rke2/agent/images/first-v1.35.6+rke2r1.tar.gz";
    ground.put(own, b"another");
    images::stage(&root, &both, &version, deadline()).await.unwrap_err();
    assert!(ground.at(own).exists());
    std::fs::remove_file(ground.at(own)).unwrap();
    for _ in 0..2 {
        images::stage(&root, &order(sha256(&archive)), &version, deadline()).await.unwrap();
        let folder = ground.at("/var/lib/rancher/rke2/agent");
        let names = Fs::kernel().list_dir(&folder.join("images")).unwrap();
        let staged = folder.join("images/rke2-images.linux-amd64-v1.35.6+rke2r1.tar.gz");
        assert_eq!(names, [folder.join("images/old.tar.zst"), staged.clone()]);
        assert!(std::fs::read(staged).unwrap() == archive);
        assert_eq!(Fs::kernel().list_dir(&folder).unwrap(), [folder.join("images")]);
    }
    // The forged one three times and the right one, and nothing the second time.
    server.has_sent(4 * archive.len() as u64);
}
