//! The journal's lines: one JSON object each, with a checksum. A torn last line is dropped, a damaged middle refused.

use serde::Deserialize;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::flow::record::Entry;
use crate::host::fs::hex;

/// The form of the lines; another number is refused, never guessed at.
const VERSION: u32 = 1;
/// Letters of a checksum.
const SUM_LENGTH: usize = 16;

/// How a line is damaged.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum CodecError {
    /// No JSON object of this form.
    #[error("line {line} cannot be read: {why}")]
    Unreadable {
        /// Counts from 1.
        line: usize,
        /// The parser's word.
        why: String,
    },
    /// The checksum does not fit.
    #[error("line {line} does not match its checksum")]
    Checksum {
        /// Counts from 1.
        line: usize,
    },
    /// Written by a newer agent.
    #[error("line {line} has form {found}; this agent reads form {VERSION}, use the agent that wrote it")]
    Version {
        /// Counts from 1.
        line: usize,
        /// The form found.
        found: u32,
    },
}

/// What a line says about itself.
#[derive(Deserialize)]
struct Form {
    v: Option<u64>,
    sum: Option<String>,
}

/// What a file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Its entries.
    pub entries: Vec<Entry>,
    /// Bytes up to the end of the last sound line.
    pub sound_bytes: usize,
    /// Something follows that never became a whole line.
    pub torn: bool,
}

/// What stands before the entry's own fields.
fn front(sum: &str) -> String {
    format!("{{\"v\":{VERSION},\"sum\":\"{sum}\",")
}

/// Over the entry's own JSON object, given without its opening brace.
fn checksum(rest: &[u8]) -> String {
    let digest = Sha256::new().chain_update(b"{").chain_update(rest).finalize();
    hex(digest.get(..8).unwrap_or_default())
}

/// One line, with its newline.
#[must_use]
pub fn encode(entry: &Entry) -> String {
    // Strings, numbers and enums only: this always becomes JSON.
    let entry = serde_json::to_string(entry).unwrap_or_default();
    let rest = entry.get(1..).unwrap_or_default();
    let mut line = front(&checksum(rest.as_bytes()));
    line.push_str(rest);
    line.push('\n');
    line
}

/// Reads a whole file.
///
/// # Errors
/// [`CodecError`] for the first damaged line that is not the torn end of the file.
pub fn decode(bytes: &[u8]) -> Result<Decoded, CodecError> {
    let mut entries = Vec::new();
    let mut sound_bytes = 0;
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, raw)) = lines.next() {
        let whole = raw.ends_with(b"\n");
        match decode_line(index + 1, raw) {
            Ok(entry) if whole => {
                entries.push(entry);
                sound_bytes += raw.len();
            }
            // No newline: the write was cut short, and append never reported it as done.
            Ok(_) | Err(_) if !whole => {
                return Ok(Decoded { entries, sound_bytes, torn: true });
            }
            // A power cut can leave a last line of the right length filled with zeros.
            Err(_) if lines.peek().is_none() && raw.contains(&0) => {
                return Ok(Decoded { entries, sound_bytes, torn: true });
            }
            Ok(_) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Decoded { entries, sound_bytes, torn: false })
}

fn decode_line(line: usize, raw: &[u8]) -> Result<Entry, CodecError> {
    let unreadable = |error: serde_json::Error| CodecError::Unreadable { line, why: error.to_string() };
    let form = form(raw).map_err(unreadable)?;
    let version = form.v.unwrap_or(0);
    if version != u64::from(VERSION) {
        return Err(CodecError::Version { line, found: u32::try_from(version).unwrap_or(u32::MAX) });
    }
    let entry: Entry = serde_json::from_slice(raw).map_err(unreadable)?;
    if !is_sound(raw, &form.sum.unwrap_or_default()) {
        return Err(CodecError::Checksum { line });
    }
    Ok(entry)
}

/// What a line says about itself. A line of this form begins with it, and is not read a second time for that.
fn form(raw: &[u8]) -> serde_json::Result<Form> {
    let begins = front("");
    let sum = raw.strip_prefix(begins.strip_suffix("\",").unwrap_or(&begins).as_bytes());
    let sum = sum.and_then(|rest| std::str::from_utf8(rest.get(..SUM_LENGTH)?).ok());
    match sum {
        Some(sum) if sum.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
            Ok(Form { v: Some(VERSION.into()), sum: Some(sum.to_owned()) })
        }
        Some(_) | None => serde_json::from_slice(raw),
    }
}

/// Is the checksum that of the bytes behind it? They are summed as they stand, not as they would be written today.
fn is_sound(raw: &[u8], sum: &str) -> bool {
    let rest = raw.strip_prefix(front(sum).as_bytes());
    let rest = rest.map(|rest| rest.strip_suffix(b"\n").unwrap_or(rest));
    rest.is_some_and(|rest| checksum(rest) == sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::progress::tests::whole_run;
    use crate::flow::record::Record;

    fn file() -> String {
        whole_run().iter().map(encode).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let text = file();
        let decoded = decode(text.as_bytes()).unwrap();
        assert_eq!(decoded.entries, whole_run());
        assert_eq!((decoded.sound_bytes, decoded.torn), (text.len(), false));
    }

    /// Journals outlive the agent that wrote them: the line below is as the first one wrote it.
    #[test]
    fn lines_of_the_first_agent_are_read() {
        let line = concat!(
            r#"{"v":1,"sum":"95109c0cc99e5f6a","seq":5,"boot":"boot-1","at":"1970-01-01T00:00:05Z","record":"fenced"}"#,
            "\n"
        );
        let fenced = Entry { record: Record::Fenced, ..whole_run()[4].clone() };
        assert_eq!(decode(line.as_bytes()).unwrap().entries, std::slice::from_ref(&fenced));
        assert_eq!(encode(&fenced), line);
    }

    #[test]
    fn a_file_cut_anywhere_loses_at_most_its_last_line() {
        let text = file();
        for cut in 0..text.len() {
            let decoded = decode(&text.as_bytes()[..cut]).unwrap();
            let whole = text[..cut].matches('\n').count();
            assert_eq!(decoded.entries.len(), whole, "cut at {cut}");
            assert_eq!(decoded.torn, cut > 0 && !text[..cut].ends_with('\n'), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_middle_is_refused() {
        let lines: Vec<String> = whole_run().iter().map(encode).collect();
        let mut changed = lines.clone();
        changed[4] = changed[4].replace("boot-1", "boot-2");
        assert_eq!(decode(changed.concat().as_bytes()), Err(CodecError::Checksum { line: 5 }));
        let mut broken = lines.clone();
        broken[2] = "{\"v\":1}\n".into();
        assert!(matches!(decode(broken.concat().as_bytes()), Err(CodecError::Unreadable { line: 3, .. })));
        let mut newer = lines;
        newer[0] = newer[0].replace("\"v\":1", "\"v\":2");
        assert_eq!(decode(newer.concat().as_bytes()), Err(CodecError::Version { line: 1, found: 2 }));
    }
}
