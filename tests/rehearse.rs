//! `upgrade-agent rehearse` as an operator types it: what is printed, what is refused, and that it repeats to the byte.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "a test that runs the program and writes the files it reads"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn rehearse(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_upgrade-agent"))
        .arg("rehearse")
        .args(arguments)
        .env_remove("RUST_LOG")
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cluster.yaml")
}

#[test]
fn a_small_world_ends_with_a_timeline_and_the_same_bytes_each_time() {
    let first = rehearse(&["--world", "small"]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    for said in ["node1", "Succeeded", "VM SHUT DOWN", "Nothing would block", "Seed 1"] {
        assert!(stdout(&first).contains(said), "{said} is missing:\n{}", stdout(&first));
    }
    assert!(stderr(&first).contains("rehearsed in"), "{}", stderr(&first));
    assert_eq!(stdout(&first), stdout(&rehearse(&["--world", "small"])));
    let faults = ["--world", "small", "--seed", "5", "--faults", "power-torn@60,kill@200", "-o", "json"];
    assert_eq!(stdout(&rehearse(&faults)), stdout(&rehearse(&faults)));
}

#[test]
fn json_carries_what_the_chart_shows() {
    let output = rehearse(&["--world", "pair", "-o", "json"]);
    let timeline: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(timeline["succeeded"], true);
    assert_eq!(timeline["nodes"][0]["node"], "node1");
    assert_eq!(timeline["vmCount"], 8);
    let off = timeline["vms"].as_array().unwrap().iter().filter(|vm| vm["off"].is_number()).count();
    assert_eq!(off, 3, "{timeline:#}");
}

#[test]
fn what_blocks_is_told_with_the_smallest_change_that_helps() {
    let output = rehearse(&["--world", "pair", "--faults", "cordoned=node2"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let text = stdout(&output);
    assert!(text.contains("BLOCKED node1") && text.contains("uncordon node2"), "{text}");
    assert!(text.contains("NOT go through"), "{text}");
}

#[test]
fn crash_schedules_are_counted_and_pass() {
    let output = rehearse(&["--world", "small", "--crashes", "sample=20"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    let text = stdout(&output);
    assert!(text.contains("crash schedules over") && text.contains(" 0 failed"), "{text}");
}

#[test]
fn an_exported_cluster_is_rehearsed() {
    let file = fixture();
    let output = rehearse(&["--cluster", file.to_str().unwrap()]);
    let (text, said) = (stdout(&output), stderr(&output));
    assert_eq!(output.status.code(), Some(0), "{text}\n{said}");
    assert!(
        text.contains("3 of 3 nodes upgraded in") && text.contains("Nothing would block"),
        "{text}\n{said}"
    );
    assert_eq!(text, stdout(&rehearse(&["--cluster", file.to_str().unwrap()])));
}

#[test]
fn files_that_are_no_cluster_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture()).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let huge = dir.path().join("huge.yaml");
    std::fs::File::create(&huge).unwrap().set_len(100 << 20).unwrap();
    let cases = [
        (write("cut.yaml", &whole[..whole.len() / 2]), vec!["cut.yaml"]),
        (write("empty.yaml", b""), vec!["empty.yaml"]),
        (write("page.html", b"<!DOCTYPE html><html><body>sign in</body></html>"), vec!["page.html"]),
        (write("values.yaml", b"replicas: 3\nimage:\n  tag: v1\n"), vec!["values.yaml"]),
        (write("binary", &[0x7f, b'E', b'L', b'F', 0, 1, 2, 0xff]), vec!["binary"]),
        (
            write(
                "wrong.yaml",
                &String::from_utf8_lossy(&whole)
                    .replacen("kind: Node\n", "kind: Node\nstatus: 7\n", 1)
                    .into_bytes(),
            ),
            vec!["wrong.yaml"],
        ),
        (huge, vec!["huge.yaml", "100 MiB", "64 MiB"]),
        (dir.path().join("absent.yaml"), vec!["absent.yaml"]),
    ];
    for (file, words) in cases {
        let output = rehearse(&["--cluster", file.to_str().unwrap()]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{}: {said}", file.display());
        assert_eq!(said.matches("upgrade-agent:").count(), 1, "one line, one error: {said}");
        for word in words {
            assert!(said.contains(word), "{word} is missing: {said}");
        }
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn a_cluster_comes_through_a_pipe_as_well() {
    let whole = std::fs::File::open(fixture()).unwrap();
    let mut through =
        std::process::Command::new("cat").stdin(whole).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_upgrade-agent"));
    let command = command.args(["rehearse", "--cluster", "/dev/stdin"]).stdin(through.stdout.take().unwrap());
    let piped = command.output().unwrap();
    through.wait().unwrap();
    let named = rehearse(&["--cluster", fixture().to_str().unwrap()]);
    assert_eq!(piped.status.code(), named.status.code(), "{}", stderr(&piped));
    assert_eq!(piped.stdout, named.stdout);
}

#[test]
fn words_that_mean_nothing_are_refused_with_a_way_on() {
    for (arguments, word) in [
        (vec!["--faults", "kil@5"], "--faults help"),
        (vec!["--faults", "cordoned=nodex", "--world", "small"], "nodex"),
        (vec!["--world", "gigantic"], "NODESxVMS"),
        (vec!["--crashes", "some"], "sample=N"),
        (vec!["--to", "v1.20.1+rke2r1"], "not newer"),
        (vec!["--to", "v1.40.0+rke2r1"], "minor"),
    ] {
        let output = rehearse(&arguments);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(word), "{word} is missing: {said}");
    }
    let help = rehearse(&["--faults", "help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("power-torn@N"), "{}", stdout(&help));
}
