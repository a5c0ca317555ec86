//! Who may use whom: the rooms of the crate, checked by reading the sources (design: "Layout").
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test that reads the sources it checks"
)]

#[path = "support/rust_paths.rs"]
mod rust_paths;

use std::path::{Path, PathBuf};

use rust_paths::{Mention, mentions};

const EVERYTHING: &[&str] = &["*"];
const ROLE: &[&str] =
    &["flow", "journal", "host", "cluster", "config", "mutation", "telemetry", "shutdown", "notify"];
/// Each room and what it may use besides itself; `a::b` opens only that part of `a`.
const ROOMS: &[(&str, &[&str])] = &[
    ("main", EVERYTHING),
    ("lib", EVERYTHING),
    ("cli", EVERYTHING),
    ("agent", ROLE),
    ("controller", ROLE),
    ("rehearsal", &["agent", "flow", "journal", "host", "cluster", "sim", "mutation"]),
    ("sim", &["flow", "cluster", "host", "config", "telemetry", "shutdown", "notify"]),
    ("journal", &["flow", "host::fs", "host::clock"]),
    ("cluster", &["flow", "config", "telemetry", "shutdown", "notify"]),
    ("host", &["flow", "config", "mutation", "telemetry", "shutdown", "notify"]),
    ("flow", &[]),
    ("config", &[]),
    ("telemetry", &[]),
    ("shutdown", &[]),
    ("notify", &[]),
    ("mutation", &[]),
];
/// What would make `flow` impure, as the beginning or any later part of a path.
const IMPURE: &[&str] = &[
    "tokio",
    "tokio_util",
    "futures",
    "kube",
    "k8s_openapi",
    "nix",
    "zbus",
    "sysinfo",
    "SystemTime",
    "async",
    "await",
    "std::fs",
    "std::env",
    "std::net",
    "std::process",
    "std::thread",
    "std::io",
    "Timestamp::now",
    "Zoned::now",
    "Instant::now",
];
const NAMELESS: &[&str] = &["util", "utils", "helper", "helpers", "common", "misc", "manager"];
const MOST_LINES: usize = 350;

/// What is wrong with one file; `path` is relative to `src`.
fn faults(path: &Path, text: &str) -> Vec<String> {
    let mut module: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let mut found = Vec::new();
    if text.lines().count() > MOST_LINES {
        found.push(format!("{} lines, {MOST_LINES} allowed; split it by noun", text.lines().count()));
    }
    if let Some(name) = module.iter().find(|part| NAMELESS.contains(&part.as_str())) {
        found.push(format!("`{name}` says nothing; name what it owns"));
    }
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    let room = module[0].clone();
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        found.push(format!("room `{room}` is unknown; add it to the matrix in tests/layers.rs"));
        return found;
    };
    if ["main", "lib"].contains(&room.as_str()) {
        module.clear();
    }
    for mention in mentions(&module, text) {
        let Mention { path, in_test } = &mention;
        let says = path.join("::");
        if path[0] == "crate" {
            let used = path.get(1).map_or("*", String::as_str);
            let open = allowed.contains(&"*") || used == room || (*in_test && used == "sim");
            let open = open
                || allowed.iter().any(|door| format!("{says}::").starts_with(&format!("crate::{door}::")));
            if !open {
                found.push(format!("`{room}` uses `{says}`"));
            }
        } else if room == "flow" && impure(path) {
            found.push(format!("`flow` is pure and must not use `{says}`"));
        }
    }
    found
}

fn impure(path: &[String]) -> bool {
    IMPURE.iter().any(|banned| {
        let banned: Vec<&str> = banned.split("::").collect();
        path.windows(banned.len()).any(|window| window.iter().zip(&banned).all(|(part, ban)| part == ban))
    })
}

fn rust_files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn every_room_uses_only_what_it_may() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    assert!(files.len() > 10, "the sources are somewhere else");
    let all: Vec<String> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap();
            let text = std::fs::read_to_string(file).unwrap();
            faults(path, &text).into_iter().map(move |fault| format!("src/{}: {fault}", path.display()))
        })
        .collect();
    assert!(all.is_empty(), "\n{}", all.join("\n"));
}

#[test]
fn test_files_keep_their_size_too() {
    let mut files = Vec::new();
    rust_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut files);
    files.retain(|file| std::fs::read_to_string(file).unwrap().lines().count() > MOST_LINES);
    assert!(files.is_empty(), "more than {MOST_LINES} lines: {files:?}");
}

#[test]
fn offenders_are_caught() {
    let cases = [
        ("agent/gate.rs", "use crate::controller::order;", "`agent` uses `crate::controller::order`"),
        ("controller/mod.rs", "fn f() { crate::agent::driver::run(); }", "uses `crate::agent::driver::run`"),
        ("agent/mod.rs", "use crate::{flow::plan, sim::World};", "uses `crate::sim::World`"),
        ("agent/mod.rs", "pub(crate) use crate::cli as c;", "uses `crate::cli`"),
        ("journal/mod.rs", "use crate::host::{fs, lock};", "`journal` uses `crate::host::lock`"),
        ("journal/mod.rs", "use crate::host;", "`journal` uses `crate::host`"),
        ("journal/mod.rs", "use crate::host::fs_extra;", "`journal` uses `crate::host::fs_extra`"),
        ("host/fs.rs", "use crate::cluster::{self};", "`host` uses `crate::cluster`"),
        ("host/fs.rs", "use super::super::agent::gate;", "uses `crate::agent::gate`"),
        (
            "cluster/mod.rs",
            "mod a { mod b { use super::super::super::host; } }",
            "`cluster` uses `crate::host`",
        ),
        ("cluster/mod.rs", "use crate::*;", "`cluster` uses `crate::*`"),
        ("cluster/mod.rs", "use upgrade_agent::agent;", "`cluster` uses `crate::agent`"),
        ("config.rs", "type A = crate::flow::plan::NodePlan;", "`config` uses `crate::flow::plan::NodePlan`"),
        ("flow/next.rs", "use crate::config::Config;", "`flow` uses `crate::config::Config`"),
        ("flow/next.rs", "use std::{collections::BTreeMap, fs};", "must not use `std::fs`"),
        ("flow/next.rs", "use tokio::time::sleep;", "must not use `tokio::time::sleep`"),
        ("flow/next.rs", "use ::kube::Client;", "must not use `kube::Client`"),
        ("flow/next.rs", "let t = jiff::Timestamp::now();", "must not use `jiff::Timestamp::now`"),
        ("flow/next.rs", "let t = Instant::now();", "must not use `Instant::now`"),
        ("flow/next.rs", "use std::time::SystemTime;", "must not use `std::time::SystemTime`"),
        ("flow/next.rs", "pub async fn f() {}", "must not use `async`"),
        ("flow/next.rs", "let a = 'x'; let b: &'static str = \"\\\"\"; nix::x();", "must not use `nix::x`"),
        ("flow/next.rs", "let a = r#\"a \" b\"#; zbus::x();", "must not use `zbus::x`"),
        // A capture list is no import, and what follows it is read as ever.
        (
            "flow/next.rs",
            "fn f<'a>() -> impl Iterator + use<'a> { g(); {} } fn h() { nix::x(); }",
            "must not use `nix::x`",
        ),
        ("flow/next.rs", "use a::{b; fn h() { nix::x(); }", "must not use `nix::x`"),
        ("agent/util.rs", "", "`util` says nothing"),
        ("agent/manager/mod.rs", "", "`manager` says nothing"),
        ("metrics/mod.rs", "", "room `metrics` is unknown"),
        ("agent/mod.rs", &"\n".repeat(351), "351 lines, 350 allowed"),
    ];
    for (path, text, expected) in cases {
        let found = faults(Path::new(path), text);
        assert!(found.len() == 1 && found[0].contains(expected), "{path}: {text:?}\ngives {found:?}");
    }
}

#[test]
fn the_allowed_is_left_alone() {
    let cases = [
        ("main.rs", "use upgrade_agent::{cli, sim};"),
        ("cli/rehearse.rs", "use crate::sim::World; use super::run; use crate::agent::driver;"),
        ("agent/mod.rs", "use crate::{flow::{plan, next::{self, Step}}, host::Host, journal, cluster::crd};"),
        ("agent/driver.rs", "#[cfg(test)] mod tests { use super::*; use crate::sim::World; }"),
        ("agent/driver/tests.rs", "use crate::sim::World;"),
        ("journal/mod.rs", "use crate::host::fs::{append_sync, read_opt}; use crate::flow::record::Record;"),
        ("host/mod.rs", "mod fs; pub use self::fs::read_opt; use crate::flow::plan::NodeName;"),
        (
            "flow/vms.rs",
            "//! Like `tokio::fs`, crate::agent.\n/* crate::cli /* std::fs */ */ const A: &str = \"std::fs\";",
        ),
        ("flow/vms.rs", "use super::plan::Role; use std::time::Duration; fn f(t: jiff::Timestamp) {}"),
        ("flow/vms.rs", "struct Permit { kube_version: u8 } impl Permit { const NOW: char = '\\''; }"),
    ];
    for (path, text) in cases {
        assert_eq!(faults(Path::new(path), text), Vec::<String>::new(), "{path}: {text}");
    }
}
