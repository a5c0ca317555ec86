//! Servers that hang up, lie, overflow and lead astray.

#![expect(clippy::disallowed_methods, reason = "tests look past the door they test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const FILE: usize = 5 << 20;

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
    let fetched = fetch(&Fs::kernel(), url, &dest, limit, deadline).await;
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
async fn a_length_that_is_a_lie_is_no_file() {
    let (url, _) = serve(|_, _| (whole(FILE, ""), content()[..100].to_vec())).await;
    let (fetched, file) = got(&url, 1 << 30, 2).await;
    assert!(matches!(fetched, Err(FetchError::TooLate { .. })), "{fetched:?}");
    assert_eq!(file, None, "nothing of it is left");
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
    let moved = format!("HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n");
    let (url, _) = serve(move |_, _| (moved.clone(), vec![])).await;
    let (fetched, file) = got(&url, 1 << 30, 60).await;
    assert_eq!((fetched.unwrap(), file.unwrap()), (FILE as u64, content()));
}
