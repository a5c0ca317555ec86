//! Servers that hang up, lie, overflow and lead astray.

#![expect(clippy::disallowed_methods, reason = "tests look past the door they test")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::sim::machine::SimMachine;
use crate::sim::machine::disk::CutMode;
use crate::sim::machine::image::{MachineImage, MachineSpec};
use crate::sim::machine::life::{Blow, LifePlan};

const FILE: usize = 5 << 20;

static DIGEST: LazyLock<String> = LazyLock::new(|| hex(&Sha256::digest(content())));

fn content() -> Vec<u8> {
    (0..FILE).map(|at| u8::try_from(at / 7 % 251).unwrap_or(0)).collect()
}

/// Answers each request by its number and the place that it asks for, with head and body; then hangs up.
async fn serve(
    answer: impl Fn(u32, Option<usize>) -> (String, Vec<u8>) + Send + Sync + 'static,
) -> (String, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/rke2.linux-amd64.tar.gz", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let got = stream.read(&mut request).await.unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..got]).to_lowercase();
            let from = request.split("range: bytes=").nth(1);
            let from = from.and_then(|range| range.split('-').next()?.parse().ok());
            let (head, body) = answer(counter.fetch_add(1, Ordering::SeqCst), from);
            stream.write_all(head.as_bytes()).await.ok();
            stream.write_all(&body).await.ok();
        }
    });
    (url, asked)
}

fn whole(length: usize, more: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"a\"\r\n{more}\r\n")
}

fn rest(from: usize) -> String {
    let (left, last) = (FILE - from, FILE - 1);
    format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {left}\r\nContent-Range: bytes {from}-{last}/{FILE}\r\n\r\n"
    )
}

async fn got(url: &str, limit: u64, seconds: u64) -> (Result<u64, FetchError>, Option<Vec<u8>>) {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("download/file");
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let wanted = Wanted::new(url, DIGEST.as_str(), limit);
    let fetched = fetch(&Fs::kernel(), &wanted, &dest, deadline).await;
    let left = Fs::kernel().list_dir(parent(&dest)).unwrap();
    assert_eq!(left.len(), usize::from(fetched.is_ok()), "nothing else is left: {left:?}");
    (fetched, std::fs::read(&dest).ok())
}

#[tokio::test]
async fn a_connection_that_breaks_every_mebibyte_is_taken_up_where_it_broke() {
    let (url, asked) = serve(|_, from| {
        let from = from.unwrap_or(0);
        let head = if from == 0 { whole(FILE, "") } else { rest(from) };
        (head, content()[from..FILE.min(from + (1 << 20))].to_vec())
    })
    .await;
    let (fetched, file) = got(&url, 1 << 30, 60).await;
    assert_eq!(fetched.unwrap(), FILE as u64);
    assert_eq!(file.unwrap(), content());
    assert!((5..=7).contains(&asked.load(Ordering::SeqCst)), "{asked:?}");
}

#[tokio::test]
async fn a_server_without_ranges_or_with_another_file_is_read_from_the_start() {
    let (url, _) = serve(|number, _| {
        let end = if number == 0 { 1000 } else { FILE };
        (whole(FILE, ""), content()[..end].to_vec())
    })
    .await;
    let (fetched, file) = got(&url, 1 << 30, 60).await;
    assert_eq!((fetched.unwrap(), file.unwrap()), (FILE as u64, content()));
}

#[tokio::test]
async fn a_length_that_is_a_lie_is_no_file_and_spoils_none() {
    let (url, _) = serve(|_, _| (whole(FILE, ""), content()[..100].to_vec())).await;
    let (fetched, file) = got(&url, 1 << 30, 2).await;
    assert!(matches!(fetched, Err(FetchError::TooLate { .. })) && file.is_none(), "{fetched:?}");
    let (url, _) = serve(|_, _| (whole(FILE + 9, ""), content())).await;
    let (fetched, file) = got(&url, 1 << 30, 300).await;
    assert_eq!(
        (fetched.unwrap(), file.unwrap()),
        (FILE as u64, content()),
        "it has the digest, so it is whole"
    );
    let (url, asked) = serve(|_, _| (whole(FILE - 9, ""), content())).await;
    let (fetched, file) = got(&url, 1 << 30, 300).await;
    assert!(matches!(fetched, Err(FetchError::WrongDigest { .. })) && file.is_none(), "{fetched:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "known at the last byte");
    let other_total = |_, from: Option<usize>| match from {
        None => (whole(FILE, ""), content()[..1 << 20].to_vec()),
        Some(from) => (rest(from).replace(&format!("/{FILE}"), "/99999999"), content()[from..].to_vec()),
    };
    let (url, _) = serve(other_total).await;
    let (fetched, file) = got(&url, 1 << 30, 2).await;
    assert!(matches!(fetched, Err(FetchError::TooLate { .. })) && file.is_none(), "{fetched:?}");
}

/// A server that gives the first mebibyte and is busy until the download has ended, as it does when its process is killed; then
/// gives what is asked for. How often it has been asked by then.
async fn begun(dest: &Path) -> (String, Arc<AtomicU32>, u32) {
    let is_dead = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_dead);
    let (url, asked) = serve(move |number, from| match (number, seen.load(Ordering::SeqCst), from) {
        (0, ..) => (whole(FILE, ""), content()[..1 << 20].to_vec()),
        (_, false, _) => ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned(), vec![]),
        (_, true, None) => (whole(FILE, ""), content()),
        (_, true, Some(from)) => (rest(from), content()[from..].to_vec()),
    })
    .await;
    let wanted = Wanted::new(&url, DIGEST.as_str(), 1 << 30);
    let deadline = Instant::now() + Duration::from_mins(1);
    let fs = Fs::kernel();
    let first = fetch(&fs, &wanted, dest, deadline);
    tokio::select! {
        ended = first => panic!("{ended:?}"),
        () = async { while asked.load(Ordering::SeqCst) < 2 { tokio::time::sleep(Duration::from_millis(1)).await; } } => {}
    }
    is_dead.store(true, Ordering::SeqCst);
    assert_eq!(std::fs::metadata(dest).unwrap().len(), 1 << 20);
    // Whoever asked before is answered before: what the dead one had asked for last is counted by now.
    let mut ours = TcpStream::connect(url.split('/').nth(2).unwrap()).await.unwrap();
    ours.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    ours.read_to_end(&mut Vec::new()).await.unwrap();
    let before = asked.load(Ordering::SeqCst);
    (url, asked, before)
}

#[tokio::test]
async fn the_next_life_goes_on_where_the_last_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("download/file");
    let deadline = Instant::now() + Duration::from_mins(1);
    let (url, asked, before) = begun(&dest).await;
    let wanted = Wanted::new(&url, DIGEST.as_str(), 1 << 30);
    assert_eq!(fetch(&Fs::kernel(), &wanted, &dest, deadline).await.unwrap(), FILE as u64);
    assert!(std::fs::read(&dest).unwrap() == content());
    assert_eq!(asked.load(Ordering::SeqCst) - before, 1, "the rest in one answer");

    // What a power cut has damaged is fetched anew, once.
    std::fs::remove_file(&dest).unwrap();
    let (url, asked, before) = begun(&dest).await;
    std::fs::write(&dest, vec![0; 1 << 20]).unwrap();
    let wanted = Wanted::new(&url, DIGEST.as_str(), 1 << 30);
    assert_eq!(fetch(&Fs::kernel(), &wanted, &dest, deadline).await.unwrap(), FILE as u64);
    assert!(std::fs::read(&dest).unwrap() == content());
    assert_eq!(asked.load(Ordering::SeqCst) - before, 2, "the rest, and then all of it");

    // What was fetched from elsewhere is worth nothing.
    std::fs::remove_file(&dest).unwrap();
    begun(&dest).await;
    let (url, asked) = serve(|_, _| (whole(FILE, ""), content())).await;
    let wanted = Wanted::new(&url, DIGEST.as_str(), 1 << 30);
    assert_eq!(fetch(&Fs::kernel(), &wanted, &dest, deadline).await.unwrap(), FILE as u64);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(Fs::kernel().list_dir(parent(&dest)).unwrap(), [dest]);
}

#[tokio::test]
async fn what_would_fill_the_disk_is_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let (url, _) = serve(|_, _| (whole(FILE, ""), content())).await;
    let wanted = Wanted { spare: u64::MAX / 2, ..Wanted::new(&url, DIGEST.as_str(), 1 << 30) };
    let deadline = Instant::now() + Duration::from_mins(1);
    let fetched = fetch(&Fs::kernel(), &wanted, &dir.path().join("file"), deadline).await;
    assert!(matches!(fetched, Err(FetchError::NoRoom { .. })), "{fetched:?}");
    assert!(Fs::kernel().list_dir(dir.path()).unwrap().is_empty());
}

#[tokio::test]
async fn what_is_too_big_refused_or_leads_out_of_https_ends_at_once() {
    let (url, _) = serve(|_, _| (whole(FILE, ""), content())).await;
    let (fetched, file) = got(&url, 1 << 20, 60).await;
    assert!(matches!(fetched, Err(FetchError::TooBig { .. })) && file.is_none(), "{fetched:?}");
    let endless = |_, _| ("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_owned(), content());
    let (url, _) = serve(endless).await;
    let (fetched, file) = got(&url, 1 << 20, 60).await;
    assert!(matches!(fetched, Err(FetchError::TooBig { .. })) && file.is_none(), "{fetched:?}");
    let (url, asked) =
        serve(|_, _| ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), vec![])).await;
    let (fetched, _) = got(&url, 1 << 30, 60).await;
    assert!(matches!(&fetched, Err(FetchError::Refused { status: 404, .. })), "{fetched:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: file:///etc/shadow\r\nContent-Length: 0\r\n\r\n";
    let (url, _) = serve(move |_, _| (elsewhere.to_owned(), vec![])).await;
    let (fetched, _) = got(&url, 1 << 30, 60).await;
    assert!(matches!(fetched, Err(FetchError::Redirect { .. })), "{fetched:?}");
}

#[tokio::test]
async fn a_redirect_and_an_overloaded_server_are_waited_for() {
    let (target, _) = serve(|number, _| match number {
        0 => ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_owned(), vec![]),
        _ => (whole(FILE, ""), content()),
    })
    .await;
    for to in [target.as_str(), target.trim_start_matches("http:")] {
        let moved = format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
        let (url, _) = serve(move |_, _| (moved.clone(), vec![])).await;
        let (fetched, file) = got(&url, 1 << 30, 60).await;
        assert_eq!((fetched.unwrap(), file.unwrap()), (FILE as u64, content()), "{to}");
    }
}

#[tokio::test]
async fn an_answer_without_a_length_may_have_been_cut_and_is_asked_for_again() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let cut = move |number, _| {
        (head.to_owned(), content()[..if number < 2 { FILE >> (number + 1) } else { FILE }].to_vec())
    };
    let (url, asked) = serve(cut).await;
    let (fetched, file) = got(&url, 1 << 30, 60).await;
    assert_eq!((fetched.unwrap(), file.unwrap()), (FILE as u64, content()));
    assert_eq!(asked.load(Ordering::SeqCst), 3);

    let (url, asked) = serve(move |_, _| (head.to_owned(), b"another file".to_vec())).await;
    let (fetched, file) = got(&url, 1 << 30, 60).await;
    assert!(matches!(fetched, Err(FetchError::WrongDigest { .. })) && file.is_none(), "{fetched:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 2, "the same twice is what the server has");
}

/// A life in which a file of some pieces is fetched; says how many effects that had.
async fn life(machine: &SimMachine, plan: LifePlan, content: &[u8]) -> (Result<u64, FetchError>, u64) {
    let life = machine.life(plan);
    let fs = Fs::new(life.effects());
    let digest = hex(&Sha256::digest(content));
    let wanted = Wanted::new("https://mirror/file", &digest, 1 << 30);
    let dest = Path::new("/var/lib/fetched/file");
    let fetched = fetch(&fs, &wanted, dest, Instant::now() + Duration::from_mins(5)).await;
    (fetched, life.trace().len() as u64)
}

#[tokio::test(start_paused = true)]
async fn killed_or_powerless_anywhere_the_next_life_has_the_right_file() {
    let content: Vec<u8> = content()[..5000].to_vec();
    let machine = || {
        let machine = SimMachine::start(&MachineImage::new(MachineSpec::default()).unwrap());
        machine.serve("https://mirror/file", content.clone());
        machine
    };
    let effects = life(&machine(), LifePlan::quiet(), &content).await.1;
    assert!(effects > 8, "{effects}");
    let mut blows = vec![Blow::KillBefore, Blow::KillAfter];
    let cuts =
        [CutMode::LoseAll, CutMode::KeepAll, CutMode::Seeded(1), CutMode::Seeded(2), CutMode::Seeded(3)];
    blows.extend(cuts.into_iter().flat_map(|mode| [Blow::PowerBefore(mode), Blow::PowerAfter(mode)]));
    for effect in 1..=effects {
        for blow in &blows {
            let machine = machine();
            life(&machine, LifePlan::at(effect, *blow), &content).await.0.unwrap_err();
            machine.wait_up().await;
            let fetched = life(&machine, LifePlan::quiet(), &content).await.0;
            assert_eq!(fetched.unwrap(), content.len() as u64, "{blow:?} at {effect}");
            machine.power_cut(CutMode::LoseAll);
            let disk = machine.disk();
            assert_eq!(
                *disk.read(Path::new("/var/lib/fetched/file")).unwrap(),
                content,
                "{blow:?} at {effect}"
            );
            assert_eq!(
                disk.read_dir(Path::new("/var/lib/fetched")).unwrap().len(),
                1,
                "{blow:?} at {effect}"
            );
        }
    }
}
