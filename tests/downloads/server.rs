//! A web server that serves files and misbehaves as told: on threads of its own, one answer a connection.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// One request.
pub(crate) struct Request {
    pub(crate) path: String,
    /// The first byte that is asked for.
    pub(crate) from: usize,
    /// All of its head, in lower case.
    pub(crate) head: String,
}

/// What is answered: a head without its last empty line, and a body.
pub(crate) type Reply = (String, Vec<u8>);

pub(crate) struct Server {
    pub(crate) address: String,
    /// Bytes of all bodies so far.
    pub(crate) sent: Arc<AtomicU64>,
    /// What was asked for, in order.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sent, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Vec::new())));
        let (counter, list, answer) = (Arc::clone(&sent), Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, list, answer) = (Arc::clone(&counter), Arc::clone(&list), Arc::clone(&answer));
                std::thread::spawn(move || talk(stream, &*answer, &counter, &list));
            }
        });
        Self { address, sent, asked }
    }

    /// Serves files by their paths, with ranges; hangs up after `piece` bytes of each answer.
    pub(crate) fn of_files(files: BTreeMap<String, Vec<u8>>, piece: usize) -> Self {
        Self::start(move |request| match files.get(&request.path) {
            Some(content) => part(content, request.from, piece),
            None => ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n".to_owned(), Vec::new()),
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

/// The rest of `content`, of which only `piece` bytes come.
pub(crate) fn part(content: &[u8], from: usize, piece: usize) -> Reply {
    let (all, left) = (content.len(), content.len() - from);
    let status = if from == 0 { "200 OK" } else { "206 Partial Content" };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Length: {left}\r\nETag: \"x\"\r\nContent-Range: bytes {from}-{}/{all}\r\n",
        all.saturating_sub(1)
    );
    (head, content[from..all.min(from.saturating_add(piece))].to_vec())
}

impl Server {
    /// So many bytes have gone out, and no more come: what the last piece was is counted after it was read.
    pub(crate) fn has_sent(&self, bytes: u64) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_mins(1);
        while self.sent.load(Ordering::SeqCst) < bytes && std::time::Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(self.sent.load(Ordering::SeqCst), bytes, "bytes sent");
    }
}

fn talk(
    mut stream: TcpStream,
    answer: &dyn Fn(&Request) -> Reply,
    sent: &AtomicU64,
    asked: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let head = head.to_lowercase();
    let from = head.split("range: bytes=").nth(1).and_then(|range| range.split('-').next()?.parse().ok());
    asked.lock().unwrap().push(path.clone());
    let (reply, body) = answer(&Request { path, from: from.unwrap_or(0), head });
    // Who hangs up on us has what it wanted.
    let told = stream.write_all(format!("{reply}Connection: close\r\n\r\n").as_bytes());
    for piece in body.chunks(64 << 10) {
        if told.is_err() || stream.write_all(piece).is_err() {
            return;
        }
        sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
    }
}
