//! How the agent ends when it cannot begin.

use std::process::{Command, Output};

/// Starts the agent with nothing from the surrounding environment, and waits for its end.
fn agent(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wattfarm-agent"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WATTFARM_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().expect("the agent runs")
}

fn check(output: &Output, message: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    // A signal, such as that of a fault in libtorch's destructors, would leave no code.
    assert_eq!(output.status.code(), Some(1), "{}: {text}", output.status);
    assert!(text.contains(message), "{text}");
}

/// Again and again, because a fault at the end is a matter of chance.
#[test]
fn without_a_token_it_ends_with_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().to_str().expect("UTF-8");
    for _ in 0..12 {
        check(&agent(&["--state", state]), "this agent is not enrolled");
    }
}

#[test]
fn without_a_coordinator_it_ends_with_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().to_str().expect("UTF-8");
    // A port that was free a moment ago.
    let address =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let address = address.expect("a port").to_string();
    let arguments = ["--state", state, "--token", "t", "--coordinator", &address];
    check(&agent(&arguments), "connect to the coordinator");
    let secret = [
        "--state",
        state,
        "--token",
        "t",
        "--coordinator",
        "https://localhost",
    ];
    check(&agent(&secret), "an address with `https://` needs `--ca`");
}

#[test]
fn what_it_cannot_use_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("a file");
    std::fs::write(&state, "").expect("written");
    let state = state.to_str().expect("UTF-8");
    check(&agent(&["--state", state]), "make the state folder");
    check(&agent(&["--core", "100000"]), "core 100000 is not among");
}
