//! Whoever else is root on a machine, at each step of an upgrade, with a new RKE2 that serves or does not: nothing starts that nobody
//! approved, no VM is lost, no wait is silent, and each run ends as it should. Prints the table of how they ended.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::*;
use crate::rehearsal::check::threads;
use crate::sim::seed::Storage;

/// The new RKE2: it serves, or what is wrong with it.
const WRONG: [&str; 6] =
    ["", "rke2-crashes", "rke2-not-executable", "rke2-hangs", "rke2-wrong-version", "rke2-dies"];

/// What others do, each at the effect of this cell or the next one.
const ACTORS: [(&str, &[(&str, u64)]); 6] = [
    ("restart", &[("others-restart", 0)]),
    ("kill -9", &[("others-kill", 0)]),
    ("reboot", &[("others-reboot", 0)]),
    ("tar", &[("others-unpack", 0)]),
    ("tar, kill -9", &[("others-unpack-kill", 0)]),
    ("tar, reboot", &[("others-unpack", 0), ("others-reboot", 1)]),
];

/// A way back that is open, and one that is closed.
const CHANGES: [(&str, &str); 2] = [("patch", "v1.34.5+rke2r1"), ("minor", "v1.35.6+rke2r1")];

/// Before the swap the new RKE2 is a file like any other, and after the way back none: what is wrong with it matters between these, and
/// so does the kind of change. `scripts/crashes` does not pick.
const AROUND_THE_RESTART: [&str; 5] =
    ["swapped", "restartIntent", "restarted", "rollbackIntent", "rolledBack"];

/// Those of which it takes long until anybody can say that something is wrong: fewer of them.
const SLOW: [&str; 2] = ["rke2-hangs", "rke2-wrong-version"];
const OF_SLOW: [&[&str]; 2] = [&["restartIntent", "restarted"], &["restartIntent"]];

/// One VM that has to be shut down, and one that only would be.
fn world() -> Preset {
    Preset { storage: Storage::None, ..Preset::sized(1, 2, 1) }
}

fn order_of(to: &str, wrong: &str, others: Vec<Fault>) -> Order {
    let wrong = Some(format!("{wrong}=node1")).filter(|fault| fault.len() > "=node1".len());
    let faults: Vec<Fault> = wrong.iter().map(|fault| fault.parse().unwrap()).chain(others).collect();
    Order { to: to.parse().unwrap(), faults, ..order(world(), &[]) }
}

/// Where a run without others is hit: after each of its lines but the last one, the first time that it is there.
fn steps(places: &Places, change: usize, wrong: &str) -> Vec<(&'static str, u64)> {
    let is_wanted = |name: &&str| match (change, wrong) {
        (0, "") => true,
        _ if SLOW.contains(&wrong) => OF_SLOW[change].contains(name),
        _ => AROUND_THE_RESTART.contains(name),
    };
    let mut steps: Vec<(&'static str, u64)> = Vec::new();
    for line in places.lines.iter().filter(|line| line.effect < places.effects.len() as u64) {
        if is_wanted(&line.name) && steps.iter().all(|(known, _)| *known != line.name) {
            steps.push((line.name, line.effect));
        }
    }
    steps
}

/// One rehearsal of the table, by its row and column.
struct Cell {
    row: (usize, usize, usize),
    step: &'static str,
    order: Order,
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for (change, (_, to)) in CHANGES.iter().enumerate() {
        for (which, wrong) in WRONG.iter().enumerate() {
            let calm = rehearse(&order_of(to, wrong, Vec::new())).unwrap();
            assert_eq!(complaints(&calm), Vec::<String>::new(), "{to} {wrong}");
            let steps = steps(&calm.places, change, wrong);
            assert!(!steps.is_empty(), "{to} {wrong}: {steps:?}");
            for (step, effect) in steps {
                for (actor, (_, deeds)) in ACTORS.iter().enumerate() {
                    let faults = deeds.iter().map(|(word, later)| format!("{word}@{}", effect + later));
                    let order = order_of(to, wrong, faults.map(|fault| fault.parse().unwrap()).collect());
                    cells.push(Cell { row: (change, which, actor), step, order });
                }
            }
        }
    }
    cells
}

/// `+` it came through, `<` it went back, `?` people are asked; with a number of times that somebody said "go on" before that.
fn sign(rehearsed: &Rehearsed) -> String {
    let sign = match rehearsed.timeline.nodes[0].ended.as_str() {
        "Succeeded" => '+',
        "Rolled back" => '<',
        _ => '?',
    };
    if rehearsed.asked == 0 { sign.to_string() } else { format!("{sign}{}", rehearsed.asked) }
}

/// The signs that a cell may have, whoever said "go on" before that.
fn may_end(cell: &Cell) -> &'static str {
    const UNFENCED: [&str; 4] = ["opened", "preflighted", "staged", "fenceIntent"];
    let (change, wrong, actor) = cell.row;
    let (serves, unpacks) = (WRONG[wrong].is_empty(), ACTORS[actor].0.starts_with("tar"));
    match (serves, unpacks) {
        (true, false) => "+",
        // What lies there before there is a fence is the operators': only they know what it is.
        (true, true) if UNFENCED.contains(&cell.step) => "?",
        // The guard puts the old one back: so it ends where that ran before the agent saw it.
        (true, true) => "+<",
        // Never through with what does not serve.
        (false, _) if change == 0 => "<",
        (false, false) => "?",
        // The new one may not even have run.
        (false, true) => "?<",
    }
}

/// How each ended, and what nobody may see of it.
fn rehearse_all(cells: &[Cell]) -> Vec<(String, Vec<String>)> {
    let (next, ended) = (Mutex::new(0..cells.len()), Mutex::new(BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                let stand = Stand::build(&order(world(), &[])).unwrap();
                loop {
                    let index = next.lock().unwrap().next();
                    let Some(index) = index else { return };
                    let rehearsed = stand.rehearse(&cells[index].order).unwrap();
                    let end = (sign(&rehearsed), complaints(&rehearsed));
                    ended.lock().unwrap().insert(index, end);
                }
            });
        }
    });
    ended.into_inner().unwrap().into_values().collect()
}

#[test]
fn whoever_is_root_at_any_step_starts_only_what_is_approved_and_costs_no_vm() {
    let cells = cells();
    let ended = rehearse_all(&cells);
    assert_eq!(ended.len(), cells.len());
    let mut rows: BTreeMap<_, BTreeMap<&str, &str>> = BTreeMap::new();
    for (cell, (sign, _)) in cells.iter().zip(&ended) {
        rows.entry(cell.row).or_default().insert(cell.step, sign);
    }
    for (change, (name, to)) in CHANGES.iter().enumerate() {
        print_table(&format!("{name}, to {to}"), change, &cells, &rows);
    }
    let failed: Vec<String> = cells
        .iter()
        .zip(&ended)
        .filter(|(cell, (sign, why))| !why.is_empty() || !sign.starts_with(|one| may_end(cell).contains(one)))
        .map(|(cell, (sign, why))| {
            let faults: Vec<String> = cell.order.faults.iter().map(ToString::to_string).collect();
            let (at, faults, why) = (cell.step, faults.join(","), why.join("; "));
            format!("to {} at {at}: {faults}: {sign}, may be {}; {why}", cell.order.to, may_end(cell))
        })
        .collect();
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cells.len(), failed.join("\n"));
    assert_eq!(rows.len(), CHANGES.len() * WRONG.len() * ACTORS.len(), "a row is missing");
}

fn print_table(
    title: &str,
    change: usize,
    cells: &[Cell],
    rows: &BTreeMap<(usize, usize, usize), BTreeMap<&str, &str>>,
) {
    let mut columns: Vec<&str> = Vec::new();
    for cell in cells.iter().filter(|cell| cell.row.0 == change) {
        if !columns.contains(&cell.step) {
            columns.push(cell.step);
        }
    }
    println!(
        "\n{title}: + came through, < went back, ? asks people; 1 to 4: so often somebody had said \"go on\""
    );
    println!("{:<20} {:<13}{}", "new RKE2", "others", columns.join(" "));
    for ((_, wrong, actor), row) in rows.iter().filter(|((of, ..), _)| *of == change) {
        let wrong = Some(WRONG[*wrong]).filter(|word| !word.is_empty()).unwrap_or("serves");
        let line: Vec<String> = columns
            .iter()
            .map(|column| format!("{:<width$}", row.get(column).unwrap_or(&"."), width = column.len()))
            .collect();
        println!("{wrong:<20} {:<13}{}", ACTORS[*actor].0, line.join(" ").trim_end());
    }
}
