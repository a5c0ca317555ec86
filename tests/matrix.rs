//! Whoever else is root on the machine, at whatever moment of an upgrade, with a new RKE2 that serves or does not: nothing but
//! the old or the new binary ever starts, and the new one only after pre-drain and the intent to swap are on disk. Prints the
//! table of who did what when, and what ran afterwards.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![expect(clippy::print_stdout, reason = "the table is for whoever runs the test to read")]
#![expect(clippy::disallowed_methods, reason = "tests look at the machine from outside")]

#[path = "support/asserts.rs"]
#[expect(dead_code, reason = "each test file uses its part")]
mod asserts;
#[path = "support/root_actors.rs"]
mod root_actors;
#[path = "support/sampler.rs"]
mod sampler;
#[expect(dead_code, reason = "each test file uses its part")]
mod support;
#[path = "support/witness.rs"]
mod witness;

use std::any::Any;
use std::ops::RangeInclusive;

use root_actors::{Actor, Bench, MINOR, PATCH, Row};
use support::TO;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use Actor::{Kill, OldTar, Power, Restart, Tar};

/// Machines at once: they mostly wait.
static MACHINES: Semaphore = Semaphore::const_new(8);

/// What is wrong with the new RKE2.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    Nothing,
    Told(&'static str),
    /// The machine cannot execute it: systemd says 203/EXEC.
    NoProgram,
}

/// How the run ends.
#[derive(Clone, Copy)]
enum End {
    Upgraded,
    /// By itself.
    Back,
    /// An operator does not wait for the deadline.
    BackByHand,
    /// The new one stays, and people are asked.
    Held,
    /// Only what starts is looked at.
    Open,
}

/// One machine: at each record the agent is killed, and then everybody named acts.
struct Case {
    name: String,
    from: &'static str,
    fault: Fault,
    acts: Vec<(&'static str, Vec<Actor>)>,
    end: End,
}

/// Where the agent dies, and what its journal must not hold by then.
const STEPS: [(&str, &str); 11] = [
    ("fenced", "cordoned"),
    ("cordoned", "preDrained"),
    ("preDrained", "swapIntent"),
    ("noSnapshot", "swapIntent"),
    ("swapIntent", "restartIntent"),
    ("swapped", "restartIntent"),
    ("restartIntent", "restarted"),
    ("restarted", "verified"),
    ("verified", "postDrained"),
    // Only of a run that goes back.
    ("rollbackIntent", "rolledBack"),
    ("rolledBack", "verified"),
];

async fn play(case: Case) -> Vec<Row> {
    let _machine = MACHINES.acquire().await.unwrap();
    let fault = match case.fault {
        Fault::Nothing => "",
        Fault::Told(word) => word,
        Fault::NoProgram => "203/EXEC",
    };
    let mut bench = Bench::set(&case.name, fault, case.from).await;
    match case.fault {
        Fault::Nothing => {}
        Fault::Told(word) => bench.stage.machine.set_rke2_fault(&format!("{TO} {word}\n")).unwrap(),
        Fault::NoProgram => bench.release_without_interpreter(),
    }
    bench.order().await;
    for (step, actors) in case.acts {
        let later = STEPS.iter().find(|(record, _)| *record == step).unwrap().1;
        bench.kill_agent_at(step, later).await;
        for actor in actors {
            bench.act(actor, step).await;
        }
    }
    match case.end {
        End::Upgraded => bench.ends(&["node", "--once"], 0, "new, live new").await,
        End::Back => bench.ends(&["node", "--once"], 1, "old, live old").await,
        End::BackByHand => bench.ends(&["rollback", "--yes"], 1, "old, live old").await,
        End::Held => bench.ends(&["node", "--once"], 4, ", live new").await,
        End::Open => {}
    }
    bench.over()
}

/// Plays them side by side, prints the table, and fails with the rows that broke the rule.
fn matrix(cases: Vec<Case>) {
    // A thread for each: nobody who hashes keeps another one from killing its agent in time.
    let all: Vec<_> = cases
        .into_iter()
        .map(|case| {
            let name = case.name.clone();
            (name, std::thread::spawn(move || Runtime::new().unwrap().block_on(play(case))))
        })
        .collect();
    let (mut rows, mut failures) = (Vec::new(), Vec::new());
    for (name, machine) in all {
        match machine.join() {
            Ok(part) => rows.extend(part),
            Err(panic) => failures.push(format!("{name}: {}", words_of(&*panic))),
        }
    }
    let table: Vec<String> = rows.iter().map(Row::line).collect();
    println!("{}\n{}", Row::head(), table.join("\n"));
    let broken: Vec<String> = rows.iter().filter(|row| row.is_broken()).map(Row::line).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let failures = failures.join("\n");
    assert!(failures.is_empty(), "machines that did not come to their end:\n{failures}");
}

/// What a panic said, without the backtrace that an error may carry: that alone is longer than what is shown of a test.
fn words_of(panic: &(dyn Any + Send)) -> &str {
    let words = panic.downcast_ref::<String>().map_or("no words", String::as_str);
    words.split("\n\nStack backtrace:").next().unwrap_or(words)
}

fn case(name: &str, fault: Fault, acts: Vec<(&'static str, Vec<Actor>)>, end: End) -> Case {
    Case { name: format!("m-{name}"), from: PATCH, fault, acts, end }
}

#[test]
fn whoever_is_root_at_any_step_starts_only_what_is_approved() {
    let at = |steps: RangeInclusive<usize>, actor: Actor| -> Vec<(&'static str, Vec<Actor>)> {
        STEPS[steps].iter().map(|(step, _)| (*step, vec![actor])).collect()
    };
    matrix(vec![
        case("restart", Fault::Nothing, at(0..=8, Restart), End::Upgraded),
        case("power", Fault::Nothing, at(0..=8, Power), End::Upgraded),
        case("kill", Fault::Nothing, at(0..=8, Kill), End::Upgraded),
        case("tar-before", Fault::Nothing, at(0..=3, Tar), End::Upgraded),
        // The agent dies before the rename or after it: either is right, and the run ends differently.
        case("tar-intent", Fault::Nothing, at(4..=4, Tar), End::Open),
        // From here on the guard puts the old one back, and the run ends with it.
        case("tar-swapped", Fault::Nothing, at(5..=5, Tar), End::Back),
        case("tar-restart", Fault::Nothing, at(6..=6, Tar), End::Back),
        case("tar-restarted", Fault::Nothing, at(7..=7, Tar), End::Back),
        case("tar-verified", Fault::Nothing, at(8..=8, Tar), End::Back),
    ]);
}

#[test]
fn a_new_version_that_does_not_serve_makes_nobody_start_another_one() {
    let mut cases = Vec::new();
    for (name, fault, after, end, tar) in [
        ("crash", Fault::Told("crash"), "restartIntent", End::Back, End::Back),
        ("exec", Fault::NoProgram, "restartIntent", End::Back, End::Back),
        ("hang", Fault::Told("hang"), "restartIntent", End::BackByHand, End::Back),
        ("wrong", Fault::Told("wrong-version:v1.35.2+rke2r1"), "restarted", End::BackByHand, End::Back),
        ("dies", Fault::Told("die-after:3"), "restarted", End::Back, End::Back),
    ] {
        cases.push(case(name, fault, vec![("swapped", vec![Restart, Kill, Power])], end));
        cases.push(case(&format!("{name}-after"), fault, vec![(after, vec![Restart, Kill, Power])], end));
        cases.push(case(&format!("{name}-tar"), fault, vec![("swapped", vec![Tar])], End::Back));
        cases.push(case(&format!("{name}-after-tar"), fault, vec![(after, vec![Tar])], tar));
    }
    // The way back itself is hit.
    let back = |name: &str, acts| case(&format!("back-{name}"), Fault::Told("crash"), acts, End::Back);
    cases.push(back(
        "both",
        vec![("rollbackIntent", vec![Restart, Kill, Power]), ("rolledBack", vec![Restart, Power])],
    ));
    cases.push(back("tar", vec![("rollbackIntent", vec![Tar])]));
    cases.push(back("half", vec![("rolledBack", vec![Kill, Restart])]));
    matrix(cases);
}

#[test]
fn over_a_minor_nobody_makes_the_old_one_start_after_the_new_one() {
    let over_a_minor = |name: &str, fault, step, actor, end| Case {
        from: MINOR,
        ..case(&format!("minor-{name}"), fault, vec![(step, vec![actor])], end)
    };
    matrix(vec![
        // The new one has not run yet: the old one goes back, as over a patch.
        over_a_minor("tar-swapped", Fault::Nothing, "swapped", Tar, End::Back),
        over_a_minor("old-swapped", Fault::Nothing, "swapped", OldTar, End::Back),
        over_a_minor("power-swapped", Fault::Nothing, "swapped", Power, End::Upgraded),
        // The agent dies before its restart has begun or after it: either is right, and the run ends differently.
        over_a_minor("tar-restart", Fault::Nothing, "restartIntent", Tar, End::Open),
        over_a_minor("old-restart", Fault::Nothing, "restartIntent", OldTar, End::Open),
        // From here on the guard puts the new one back.
        over_a_minor("tar-restarted", Fault::Nothing, "restarted", Tar, End::Upgraded),
        over_a_minor("old-restarted", Fault::Nothing, "restarted", OldTar, End::Upgraded),
        over_a_minor("tar-verified", Fault::Nothing, "verified", Tar, End::Upgraded),
        over_a_minor("old-verified", Fault::Nothing, "verified", OldTar, End::Upgraded),
        over_a_minor("dies-old", Fault::Told("die-after:3"), "restarted", OldTar, End::Held),
    ]);
}
