//! What `make` says of a machine that lacks something, before it downloads or builds anything.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// Runs make with no programs but its own shell's and those in `bin`.
fn make(bin: &Path, arguments: &[&str]) -> Output {
    let path = std::env::var_os("PATH").expect("a path");
    let make = std::env::split_paths(&path).map(|folder| folder.join("make"));
    let make = make.into_iter().find(|make| make.is_file()).expect("make");
    Command::new(make)
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .env_clear()
        .env("PATH", bin)
        .env("LIBTORCH", "/nonexistent")
        .output()
        .expect("make runs")
}

fn check(output: &Output, said: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains(said), "{text}");
}

#[test]
fn missing_tools_are_named_all_at_once() {
    let bin = tempfile::tempdir().expect("a folder");
    let missing = make(bin.path(), &["setup"]);
    check(&missing, "not found: cargo rustc c++ python3\n");
    check(&missing, "sudo apt-get install g++ python3 python3-pip\n");
    for tool in ["cargo", "rustc", "c++"] {
        symlink("/bin/true", bin.path().join(tool)).expect("linked");
    }
    check(&make(bin.path(), &["setup"]), "not found: python3\n");
}

#[test]
fn tests_need_pip() {
    let bin = tempfile::tempdir().expect("a folder");
    for tool in ["cargo", "rustc", "c++"] {
        symlink("/bin/true", bin.path().join(tool)).expect("linked");
    }
    let python = bin.path().join("python3");
    fs::write(&python, "#!/bin/sh\nexit 1\n").expect("written");
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("made executable");
    check(
        &make(bin.path(), &["test"]),
        "sudo apt-get install python3-pip\n",
    );
}

#[test]
fn a_budget_is_looked_at_first() {
    let bin = tempfile::tempdir().expect("a folder");
    for bad in ["5", "0m", "much", "5m 3s", ""] {
        let budget = format!("BUDGET={bad}");
        check(&make(bin.path(), &["demo", &budget]), "is not a duration");
    }
    // A good one goes on to what is missing next.
    for good in ["60s", "5m", "1h30m", "1d"] {
        let budget = format!("BUDGET={good}");
        check(&make(bin.path(), &["demo", &budget]), "not found: cargo");
    }
}
