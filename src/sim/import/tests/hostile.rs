//! Files that want to do harm, and files at random: never a panic, never a long wait, always the file's name.

use std::path::Path;

use proptest::prelude::*;

use super::super::read;
use super::{EXAMPLE, NODE, read_text, refuses, stream};

#[test]
fn a_bomb_of_aliases_does_not_go_off() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        bomb = format!("{bomb}a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
    }
    refuses(
        &format!("apiVersion: v1\nkind: Node\n{bomb}"),
        &["document 1", "no anchors, aliases and merge keys"],
    );
    refuses("apiVersion: v1\nkind: &a Node\nmetadata: *a\n", &["no anchors, aliases and merge keys"]);
}

#[test]
fn depth_has_an_end() {
    let deep =
        |open: &str, close: &str, levels: usize| format!("{}1{}", open.repeat(levels), close.repeat(levels));
    let flow = format!("apiVersion: v1\nkind: Node\nspec: {}\n", deep("[", "]", 100_000));
    let json = format!("{{\"apiVersion\":\"v1\",\"kind\":\"Node\",\"spec\":{}}}", deep("[", "]", 100_000));
    let maps = format!("{{\"apiVersion\":\"v1\",\"data\":{}}}", deep("{\"a\":", "}", 100_000));
    let block = (0..2_000).map(|level| format!("{}a:\n", " ".repeat(level))).collect::<Vec<_>>().concat();
    let dashes = format!("apiVersion: v1\nspec:\n {}1\n", "- ".repeat(5_000));
    let keys = format!("apiVersion: v1\n{}a\n", "? ".repeat(5_000));
    for text in [flow, json, maps, format!("apiVersion:\n{block}"), dashes, keys] {
        refuses(&text, &["document 1"]);
    }
    let bearable = format!("apiVersion: v1\nkind: Other\nspec: {}\n", deep("[", "]", 60));
    assert!(read_text(&stream(&[NODE, &bearable])).is_ok());
}

#[test]
fn many_documents_and_many_keys_take_no_time() {
    let marks = "---\n".repeat(20_000);
    assert!(read_text(&format!("{marks}{NODE}...\n")).is_ok());
    let keys = (0..20_000).map(|key| format!("    k{key}: v\n")).collect::<Vec<_>>().concat();
    let node = NODE.replace("  name: node1\n", &format!("  name: node1\n  labels:\n{keys}"));
    assert!(read_text(&stream(&[&node])).is_ok());
}

#[test]
fn messages_stay_short_and_on_one_line() {
    let long = "x".repeat(100_000);
    for text in [
        long.clone(),
        format!("apiVersion: v1\nkind: {long}\nitems: []\n"),
        NODE.replace("64Gi", &long),
        NODE.replace("name: node1", &format!("name: \"{long}\"")),
        NODE.replace("name: node1", "name: \"a\\nb\\e[31m\""),
        format!("{{\"apiVersion\":\"{long}\",\"kind\":\"Node\"}}"),
        format!("{{\"apiVersion\":{long}"),
    ] {
        let message = read_text(&text).unwrap_err().to_string();
        assert!(message.len() < 700 && !message.contains(['\n', '\u{1b}']), "{message}");
    }
}

fn named(bytes: &[u8]) {
    if let Err(error) = read(Path::new("cluster.yaml"), bytes) {
        assert!(error.to_string().contains("cluster.yaml"), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        named(&bytes);
    }

    #[test]
    fn any_yaml_like_text(text in "([a-z{}\\[\\]:&*!|>'\"%@`#,? \\-\t]{0,6}[\n ]){0,40}") {
        named(text.as_bytes());
    }

    #[test]
    fn any_change_of_a_sound_file(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = EXAMPLE.as_bytes().to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        named(&bytes);
    }

    #[test]
    fn any_line_lost_or_doubled(at in any::<prop::sample::Index>(), twice in any::<bool>()) {
        let mut lines: Vec<&str> = EXAMPLE.split_inclusive('\n').collect();
        let at = at.index(lines.len());
        if twice { lines.insert(at, lines[at]) } else { lines.remove(at); }
        named(lines.concat().as_bytes());
    }
}
