//! Bytes to text: says what a file is when it is none, and recognises from its first words what was never an export.

use std::path::Path;
use std::sync::Arc;

use super::error::{EXPORT, ImportError, Place, excerpt};

/// First bytes of files that are no text, with the cure.
const BINARY: [(&[u8], &str, &str); 7] = [
    (b"\x1f\x8b", "is compressed with gzip", "unpack it with gunzip first"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd", "unpack it with zstd -d first"),
    (b"BZh9", "is compressed with bzip2", "unpack it with bunzip2 first"),
    (b"\xfd7zXZ", "is compressed with xz", "unpack it with unxz first"),
    (b"PK\x03\x04", "is a zip archive", "unpack it first and give the files in it"),
    (b"\xff\xfe", "is UTF-16", UTF_16),
    (b"\xfe\xff", "is UTF-16", UTF_16),
];
const UTF_16: &str =
    "PowerShell's > writes that: export with | Out-File -Encoding utf8, or from another shell";

/// Begins of a first line that tell what the text is.
const FIRST_WORDS: [(&str, &str, &str); 12] = [
    ("<", "this is a web page or XML", EXPORT),
    ("error:", "this is a message of kubectl", MESSAGE),
    ("Error:", "this is a message of kubectl", MESSAGE),
    ("Error from server", "this is a message of kubectl", MESSAGE),
    ("The connection to the server", "this is a message of kubectl", MESSAGE),
    ("Unable to connect to the server", "this is a message of kubectl", MESSAGE),
    ("No resources found", "this is a message of kubectl", MESSAGE),
    ("Warning:", "a warning of kubectl stands before the objects", MIXED),
    ("NAME ", "this is kubectl's table", TABLE),
    ("NAMESPACE ", "this is kubectl's table", TABLE),
    ("-----BEGIN", "this is a key or a certificate", EXPORT),
    ("#!", "this is a script", EXPORT),
];
pub(super) const MESSAGE: &str = "cure what it says and export again, with > and without 2>&1";
const MIXED: &str = "export again with > and without 2>&1";
const TABLE: &str = "export again with -o yaml";

/// The text of a file.
pub(super) fn of<'a>(file: &Path, bytes: &'a [u8]) -> Result<&'a str, ImportError> {
    let not_text = |line, what, cure| ImportError::NotText { file: file.to_owned(), line, what, cure };
    if let Some((_, what, cure)) = BINARY.iter().find(|(magic, _, _)| bytes.starts_with(magic)) {
        return Err(not_text(None, what, cure));
    }
    // A parser may take NUL for the end of its input and lose the rest without a word.
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(not_text(Some(line_of(bytes, at)), "a NUL byte, this is no text", super::error::AGAIN));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = line_of(bytes, error.valid_up_to());
        not_text(Some(line), "this is not UTF-8", "export the file again with kubectl, or save it as UTF-8")
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some((line, first)) = text.lines().zip(1..).find(|(line, _)| !line.trim().is_empty()).map(swap)
    else {
        return Err(ImportError::Empty { file: file.to_owned() });
    };
    let place =
        || Place { file: Arc::new(file.to_owned()), document: 1, item: None, line: Some(line), object: None };
    let first = first.trim_start();
    if let Some((_, what, cure)) = FIRST_WORDS.iter().find(|(begin, _, _)| first.starts_with(begin)) {
        let what = format!("{what} (\"{}\")", excerpt(first));
        return Err(ImportError::Foreign { at: place(), what, cure });
    }
    if is_klog(first) {
        let what = format!("this is a log (\"{}\")", excerpt(first));
        return Err(ImportError::Foreign { at: place(), what, cure: MIXED });
    }
    Ok(text)
}

/// What kubectl tells beside its output, in a line of its own.
pub(super) fn is_message(line: &str) -> bool {
    let mut told = FIRST_WORDS.iter().filter(|(_, _, cure)| [MESSAGE, MIXED].contains(cure));
    told.any(|(begin, _, _)| line.starts_with(begin)) || is_klog(line)
}

fn swap<A, B>((a, b): (A, B)) -> (B, A) {
    (b, a)
}

fn line_of(bytes: &[u8], at: usize) -> u32 {
    let ends = bytes.iter().take(at).filter(|byte| **byte == b'\n').count();
    u32::try_from(ends).unwrap_or(u32::MAX).saturating_add(1)
}

/// `E1121 06:22:47.123456    4711 memcache.go:265] couldn't get …`, which kubectl writes beside its output.
fn is_klog(line: &str) -> bool {
    let mut bytes = line.bytes();
    matches!(bytes.next(), Some(b'E' | b'W' | b'I' | b'F'))
        && bytes.by_ref().take(4).filter(u8::is_ascii_digit).count() == 4
        && bytes.next() == Some(b' ')
}
