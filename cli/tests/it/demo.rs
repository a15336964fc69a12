//! The demo, from end to end, and ended by force.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::farm::{Process, alone, is_free, wait_for, wattfarm};

fn demo(folder: &Path, budget: &str) -> Process {
    let dir = folder.join("demo");
    let command = wattfarm(&[
        "demo",
        "--budget",
        budget,
        "--networks",
        "squeezenet1_1",
        "--dir",
        dir.to_str().expect("UTF-8"),
    ]);
    Process::start(command, &folder.join(format!("{budget}.log")))
}

/// Starts one that would take an hour, and returns when it measures.
fn measuring_demo(folder: &Path) -> Process {
    let demo = demo(folder, "1h");
    let before = demo.said().len();
    let measures = || {
        let said = demo.said()[before..].to_owned();
        said.contains(" jobs, ").then_some(())
    };
    wait_for("the demo to measure", measures);
    demo
}

#[test]
fn a_short_demo_ends_with_a_report_and_spends_no_more_than_it_may() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let mut demo = demo(folder.path(), "2s");
    assert!(demo.wait().success(), "{}", demo.said());
    let text = fs::read(folder.path().join("demo/report.json")).expect("a report");
    let report: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(report["networks"][0]["name"], "squeezenet1_1");
    assert!(
        report["networks"][0]["measured_ms"]
            .as_f64()
            .expect("a number")
            > 0.0
    );
    assert!(report["measurements"].as_u64().expect("a number") > 0);
    assert!(folder.path().join("demo/report.html").exists());
    let printed = demo.printed();
    assert!(
        printed.contains("root mean square error over 1 network:"),
        "{printed}"
    );
    assert!(is_free(&folder.path().join("demo")));

    // What was measured is what the report counts, and beyond the budget is what an agent had begun: two jobs, each of a
    // second or a little more.
    let books = fs::read_dir(folder.path().join("demo/store")).expect("a store");
    assert!(books.count() > 0);
    let said = demo.said();
    let measured = said.lines().rfind(|line| line.contains(" s measured, "));
    let measured = measured.expect("a last line of progress");
    let seconds: f64 = measured
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .expect("seconds come first");
    assert!((2.0..6.0).contains(&seconds), "{measured}");
}

#[test]
fn a_demo_ends_at_ctrl_c_and_goes_on_when_it_was_killed() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("demo");
    let mut interrupted = measuring_demo(folder.path());
    interrupted.signal("INT");
    assert_eq!(
        interrupted.wait().code(),
        Some(130),
        "{}",
        interrupted.said()
    );
    assert!(is_free(&dir), "everything has ended when the demo has");

    // Killed, it can end nobody; everybody ends all the same, and nothing stands in the next one's way.
    let mut killed = measuring_demo(folder.path());
    killed.signal("KILL");
    killed.wait();
    let again = measuring_demo(folder.path());
    assert!(!again.said().contains("in use"), "{}", again.said());
    again.signal("KILL");
    drop(again);
    let deadline = Instant::now() + Duration::from_secs(20);
    wait_for("the processes to end", || is_free(&dir).then_some(()));
    assert!(Instant::now() < deadline);
}

#[test]
fn a_second_demo_leaves_the_first_alone() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("demo");
    let mut first = measuring_demo(folder.path());
    let log = fs::metadata(dir.join("coordinator.log"))
        .expect("a log")
        .len();
    let mut second = demo(folder.path(), "1s");
    assert_eq!(second.wait().code(), Some(1));
    let said = second.said();
    assert!(said.contains("another demo runs in"), "{said}");
    let after = fs::metadata(dir.join("coordinator.log"))
        .expect("a log")
        .len();
    assert!(after >= log && dir.join("coordinator.ready").exists());
    first.signal("INT");
    assert_eq!(first.wait().code(), Some(130), "{}", first.said());
}
